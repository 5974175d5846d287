/* The state of the differentials of a solution: workspace, and what both modes read. */
#ifndef MPCGEN_SENSITIVITY_STATE_H
#define MPCGEN_SENSITIVITY_STATE_H

#include "mpcgen_problem.h"
#include "mpcgen_workspace.h"

#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))

/* Multipliers of the controls' bounds in a stage's duals: only where these are an output; and what gives a change of one. */
enum { BOUND_DUALS = CONSTRAINED ? NU : 0, BOUND_MODEL = NX + NU + 1 };
enum { REFINED = CONSTRAINED ? 1 : 0 }; /* see mpcgen_refinement.h */
enum { REMEMBERED_POINT = NREMEMBERED ? 2 * NX + NREMEMBERED : 0 }; /* x, f(x, u) and what has been remembered of that */

/* The workspace of the sweeps, for LANES problems. */
#define SENSITIVITY_ARRAYS(ARRAY)                                                                         \
  ARRAY(theta, THETA_REALS(n))                                                                            \
  ARRAY(theta_stage, rows * NTHETA_STAGE)                                                                 \
  ARRAY(x, (n + 1) * NX)         /* the solution, as u is */                                              \
  ARRAY(linear_x, (n + 1) * NX)  /* linear terms of the LQ problem, as linear_u is */                     \
  ARRAY(costate, (n + 1) * NX)                                                                            \
  ARRAY(offset, (n + 1) * NX)    /* value function of the differentials, as hessian is */                 \
  ARRAY(hessian, (n + 1) * NXX)                                                                           \
  ARRAY(affine, n * NX)          /* d_{t+1} = F d_t + affine; zero in reverse mode */                     \
  ARRAY(u, n * NU)                                                                                        \
  ARRAY(linear_u, n * NU)                                                                                 \
  ARRAY(held, n * NU)            /* value of d_u where a bound holds it; zero in reverse mode */          \
  ARRAY(multiplier, n * NU)      /* dL/du, nonzero where a bound is active */                             \
  ARRAY(rest, n * NU)            /* its part that vanishes at the exact solution */                       \
  ARRAY(slope, n * NX)           /* dL/dx that costates under a policy leave: -gain' rest */              \
  ARRAY(step, n * NU)            /* policy of the differentials, as gain is */                            \
  ARRAY(at_lower, n * NU)        /* one where the bound is active, else zero; smoothed: its stiffness */  \
  ARRAY(at_upper, n * NU)                                                                                 \
  ARRAY(dual, n * NPATH + NEND)      /* multipliers of the rows of constraints */                         \
  ARRAY(d_dual, n * NPATH + NEND)    /* their differentials */                                            \
  ARRAY(row_lower, n * NPATH + NEND) /* stiffness of each side */                                         \
  ARRAY(row_upper, n * NPATH + NEND)                                                                      \
  ARRAY(row_delta, n * NPATH + NEND)                                                                      \
  ARRAY(row_equal, n * NPATH + NEND) /* one where the bounds meet */                                      \
  ARRAY(d_row, MAX_OF(NPATH, NEND))  /* forward mode: how the rows of a stage move */                      \
  ARRAY(next_state, CONSTRAINED ? NX : 0)                                                                 \
  ARRAY(point, n * REMEMBERED_POINT)                                                                      \
  ARRAY(kept, n * NKEPT)         /* of F = df/d(x, u) */                                                  \
  ARRAY(row_low_excess, SOFT_REALS)  /* of soft rows: by how much they are exceeded */                     \
  ARRAY(row_high_excess, SOFT_REALS)                                                                      \
  ARRAY(row_low_share, SOFT_REALS)   /* how much of a move of the row its excess goes along with */        \
  ARRAY(row_high_share, SOFT_REALS)                                                                       \
  ARRAY(row_moved, n * NPATH + NEND) /* the rows' moves with the differentials of the trajectory */        \
  ARRAY(row_force, n * NPATH + NEND) /* what their multipliers would be with no further moves; see take_rows */ \
  ARRAY(row_push, n * NPATH + NEND)  /* the stiffness times what moves the row, in reverse mode a cotangent */ \
  ARRAY(row_cotangent, n * NPATH + NEND) /* reverse mode: cotangent of the rows' multipliers */            \
  ARRAY(bound_push, BOUND_DUALS * n) /* reverse mode: cotangent of the multipliers of the controls' bounds */ \
  ARRAY(bound_model, BOUND_DUALS * n * BOUND_MODEL) /* forward mode: Qux and Quu of each control, its linear term */ \
  ARRAY(bound_change, BOUND_DUALS * n) /* forward mode: change of dL/du, bounds aside */                   \
  ARRAY(d_x, REFINED * (n + 1) * NX) /* the differentials of the trajectory, as d_u is */                  \
  ARRAY(d_u, REFINED * n * NU)                                                                            \
  ARRAY(correction, REFINED * n * NU) /* of the policy's step */                                          \
  ARRAY(asked, REFINED * n * NU)     /* reverse mode: linear_u before the first sweep */                   \
  ARRAY(first_change, REFINED * (NX + NU))  /* of the components of x and u by the first refinement, */   \
  ARRAY(change_before, REFINED * (NX + NU)) /* and by the one before */                                   \
  ARRAY(factor, REFINED * n * NUU)   /* of Quu, with its inverse pivots on the diagonal, zero where a control is held */ \
  ARRAY(gain, n * NU * NX)

enum { COST_ALONE = -2 }; /* in place of a sweep: models are of the cost, without rows */

typedef struct {
  int horizon;
  scalar smoothing;
  int barrier;                /* the solution is that of the problem with the barrier */
  int rows;                   /* of theta_stage: N+1, or 1 */
  SENSITIVITY_ARRAYS(DECLARE_ARRAY)
  real cost_unit;             /* of problems with constraints: see find_cost_unit */
  real loss_cost;             /* reverse mode: cotangent of the cost */
  real looseness;             /* a factor of the rows' delta */
  mask usable, regular;       /* the caller wants this problem; every pivot was accepted */
  mask envelope, given;       /* only the cost's gradient is wanted; that, at least, exists */
  int shared_loaded;          /* parameters that the batch shares are in all lanes */
  mask refines;               /* what a sweep has left is to be swept for: where that is no more than rounding, not */
  mask tightened;             /* no smaller delta has helped */
  mask slow;                  /* refinements have not found the multipliers of rows */
  real largest;               /* of the differentials of x and u */
  int keeps;                  /* whether the sweep leaves F in `kept` */
  int sweep;                  /* zero; more where what it has left is swept for (mpcgen_refinement.h); or COST_ALONE */
  value_model value;          /* of the sweep's present stage: too large for the stack if there are many states */
  stage_model model;
} sensitivity_state;

#define CHANGE_ARRAYS(ARRAY)  \
  ARRAY(theta, NTHETA)        \
  ARRAY(theta_stage, rows * NTHETA_STAGE)

/* Forward mode: a change of the parameters, and what it does to the optimal cost. */
typedef struct {
  CHANGE_ARRAYS(DECLARE_ARRAY)
  real cost;
} parameter_change;

/* A batch of solutions as both modes read it. */
typedef struct {
  int64_t batch;
  const void *states, *controls;
  const int32_t *usable;
  const void *const *parameters;
  const int64_t *parameter_strides;
  const void *duals; /* of problems with constraints */
} solution_batch;

#if CONSTRAINED
#define DUALS_OF(a) (a)->duals
#else
#define DUALS_OF(a) NULL
#endif

COUNT size_t sensitivity_reals(int horizon, int constant_parameters) {
  const size_t n = (size_t)horizon, rows = (size_t)parameter_rows(horizon, constant_parameters);
  return SENSITIVITY_ARRAYS(COUNT_ARRAY);
}

/* Lays out a workspace of sensitivity_reals() from `at` on, where all is zero; returns what follows. */
FUNCTION reals lay_out_sensitivity(sensitivity_state *s, int horizon, int constant_parameters, reals at) {
  const size_t n = (size_t)horizon, rows = (size_t)parameter_rows(horizon, constant_parameters);
  s->horizon = horizon;
  s->rows = (int)rows;
  s->shared_loaded = 0;
  SENSITIVITY_ARRAYS(PLACE_ARRAY)
  return at;
}

/* Stiffness z / s of a bound at distance `slack` with multiplier `pressure` (one of them zero), moved along
 * s - z = slack - pressure to s z = mu. Zero for an infinite bound. */
INLINE real stiffness(real slack, real pressure, scalar mu) {
  const real gap = slack - pressure, larger = R(0.5) * (lane_abs(gap) + lane_sqrt(gap * gap + R(4) * mu));
  const real smaller = mu / larger, away = lane_select(lane_lt(ALL(0), gap), ALL(1), ALL(0));
  const real s = lane_select(lane_lt(ALL(0), away), larger, smaller);
  const real z = lane_select(lane_lt(ALL(0), away), smaller, larger);
  return lane_select(lane_finite(slack), z / s, ALL(0));
}

#endif

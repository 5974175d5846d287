/* The solver's state over a vector of problems: how far each lane has come, and its workspace. */
#ifndef MPCGEN_STATE_H
#define MPCGEN_STATE_H

#include "mpcgen_problem.h"
#include "mpcgen_workspace.h"
#if CLOSED_LOOPS
#include "mpcgen_closed_loop.h"
#endif

#ifndef LINEAR_QUADRATIC
#define LINEAR_QUADRATIC 0
#endif
/* Whether sweeps keep their matrices; a device, and an exported controller, have no memory for that. */
#ifndef KEEPS_MATRICES
#define KEEPS_MATRICES 0
#endif

/* How far the lanes have come with their problems. */
typedef struct {
  mask busy;            /* has a problem; the other masks mean nothing where it has none */
  mask begins;          /* first pass: the controls as given, there is no policy yet */
  mask unguided;        /* linear-quadratic, begins from no controls: its first sweep looks past the bounds */
  mask certifying;      /* solved: sweeps once more, with the exact Hessian */
  mask overflowed;      /* the last sweep's model overflowed, and its policy is not to be rolled out */
  mask refused;         /* the last step was refused */
  mask fresh;           /* in its first run, none of its steps has been judged yet */
  mask centring;        /* its candidate has controls half way to the middle of their range: see begin_half_way */
  mask unmoved;         /* begins at a solution of the interior point's, and has made no step from it yet */
  mask cautious;        /* since the last accepted step, one with second derivatives was refused, or overflowed */
  mask doubts, weighed; /* constants may be most of its cost; and its last sweep was to find that out: see size_of_cost */
  mask sceptical;       /* certifying found a step of worth: from then on the exact model alone ends it */
  counts iterations;
  counts last;          /* iterations after which the lane gives up */
  counts troubles;      /* by what they count, less accepted steps: see note_troubles; not below zero */
  counts unproductive;  /* passes with a step below rounding since the residual last halved */
  real quu;             /* what regularisation is relative to */
  counts waits;         /* passes since the cost has fallen by more than rounding; */
  real lowest_cost;     /* and what it was then */
  real cost;            /* of the accepted trajectory, its barrier included */
  real barrier_cost;
  real cost_scale;      /* sum of the stages' absolute costs: what rounding is relative to */
  real first_scale;     /* the same of the first trajectory */
  real best_residual;   /* while certifying: the residual that was small enough */
} lane_progress;

/* What a backward sweep finds of the accepted trajectories. */
typedef struct {
  real residual;               /* of the first-order conditions */
  real slope, bend;            /* expected change of the cost for a full step, linear part and quadratic part */
  real bend_of_points;         /* sum of |Quu| u u and |V| x x: what rounding costs, over its square; see weighs_points */
  real bend_of_end;            /* the most of |V| x x at one of the last two stages, where that is found */
  mask finite, convex;         /* all derivatives finite; every Quu positive definite as it came */
} sweep_summary;

/* A solver's workspace: LANES problems, however large the batch. First what a solution has of arrays, which may lie
 * where its caller wants it, then the rest. */
#define SOLUTION_ARRAYS(ARRAY)                                           \
  ARRAY(x, (n + 1) * NX)      /* of the accepted trajectory, as u is */  \
  ARRAY(u, n * NU)                                                       \
  ARRAY(costate, (n + 1) * NX)                                           \
  ARRAY(gain, n * NU * NX)    /* the policy, with the step */
#define SCRATCH_ARRAYS(ARRAY)                                            \
  ARRAY(theta, THETA_REALS(n))                                           \
  ARRAY(theta_stage, rows * NTHETA_STAGE)                                \
  ARRAY(new_x, (n + 1) * NX)  /* of the candidate, as new_u is */        \
  ARRAY(new_u, n * NU)                                                   \
  ARRAY(gradient, n * NU)     /* dL/du along the accepted trajectory */  \
  ARRAY(step, n * NU)
/* What sweeps of linear-quadratic problems keep (mpcgen_kept_matrices.h): each stage's model, which controls are free, and
 * the factor of their block of Quu. */
#if KEEPS_MATRICES
enum { KEPT_MODEL = sizeof(stage_model) / sizeof(real) };
#define KEPT_ARRAYS(ARRAY)                  \
  ARRAY(kept_models, n * KEPT_MODEL)        \
  ARRAY(kept_free, n * NU)                  \
  ARRAY(kept_unit_lower, n * NUU)           \
  ARRAY(kept_inverse_pivot, n * NU)
#else
#define KEPT_ARRAYS(ARRAY)
#endif
/* What a step of a closed loop started from. */
#if CLOSED_LOOPS
#define LOOP_ARRAYS(ARRAY) ARRAY(plan, n * NU)
#else
#define LOOP_ARRAYS(ARRAY)
#endif
#define SOLVER_ARRAYS(ARRAY) SOLUTION_ARRAYS(ARRAY) SCRATCH_ARRAYS(ARRAY) KEPT_ARRAYS(ARRAY) LOOP_ARRAYS(ARRAY)

/* Trajectories, policy and parameters of LANES problems, and how far they have come. */
typedef struct {
  int horizon;
  int exact_hessian;           /* this solve uses second derivatives of the dynamics */
  int hands_over;              /* what does not get on is left to the interior point */
  scalar barrier;              /* mu of the log-barrier in place of the bounds, or 0 */
  int shared_loaded, shared_finite; /* parameters that the batch shares: loaded into all lanes; all finite */
  int rows;                    /* of theta_stage: N+1, or 1 */
  SOLVER_ARRAYS(DECLARE_ARRAY)
  real length, regularisation;
  real second_order;           /* weight of lambda'(d2f) in the Hessian: 0 Gauss-Newton, 1 exact */
  real cost, cost_scale;       /* of the candidate, its barrier included */
  real barrier_cost;
  int weighs_points;           /* whether the next sweep finds bend_of_points, for some lane */
  real promise;                /* dL/du (new_u - u): its change of the cost to first order, bounds included */
  real share;                  /* linear-quadratic: how far to go to it */
  sweep_summary summary;
  lane_progress lanes;
  int64_t problem[LANES];
#if CLOSED_LOOPS
  loop_lanes loop;
#endif
#if KEEPS_MATRICES
  int has_kept;                /* matrices of the parameters that all lanes have */
  int all_shared;              /* every parameter is shared by the batch */
  mask kept_is_finite;         /* the value function's Hessian at x_1 */
#endif
#if !MODEL_IN_REGISTERS
  value_model value;           /* of the sweep's present stage: too large for the stack if there are many states */
  stage_model model;
#endif
#if LANES > 1
  stage_model gauss_newton;
#endif
} solver_state;

/* Which lanes' first rollout is of controls as given, and not of a policy. */
INLINE mask begins_afresh(const solver_state *s) {
#if CLOSED_LOOPS
  return lane_and(s->lanes.begins, lane_not(s->loop.follows));
#else
  return s->lanes.begins;
#endif
}

COUNT size_t solver_reals(const solve_arguments *a) {
  const size_t n = (size_t)a->horizon, rows = (size_t)parameter_rows(a->horizon, a->constant_parameters);
  return SOLVER_ARRAYS(COUNT_ARRAY);
}

/* Lays out a solver's workspace of solver_reals() from `at` on. */
FUNCTION void lay_out_solver(solver_state *s, const solve_arguments *a, reals at) {
  const size_t n = (size_t)a->horizon, rows = (size_t)parameter_rows(a->horizon, a->constant_parameters);
  s->horizon = a->horizon;
  s->rows = (int)rows;
  s->shared_loaded = 0;
#if KEEPS_MATRICES
  s->has_kept = 0;
#endif
  SOLVER_ARRAYS(PLACE_ARRAY)
}

#endif

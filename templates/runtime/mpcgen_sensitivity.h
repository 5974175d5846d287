/* Differentials of the solution of the control problem: the Riccati sweep that reverse and forward mode share.
 *
 * At a KKT point the differentials of the solution solve a linear-quadratic problem with the Lagrangian's Hessian
 * and the controls at a bound held (paper, equations (9) and (18), with the curvature of the dynamics that the
 * paper leaves out). Its linear terms are the loss's cotangents in reverse mode (mpcgen_gradient.h), and the change
 * of the KKT conditions along a change of the parameters in forward mode (mpcgen_tangent.h).
 *
 * With smoothing mu > 0 the bounds act through a log-barrier instead: each bound with slack s and multiplier z,
 * moved to s z = mu, adds its stiffness z / s to Quu, and no control is held. */
#ifndef MPCGEN_SENSITIVITY_H
#define MPCGEN_SENSITIVITY_H

#include "mpcgen_problem.h"
#include "mpcgen_workspace.h"

/* The workspace of the sweeps, for LANES problems. */
#define SENSITIVITY_ARRAYS(ARRAY)                                                                         \
  ARRAY(theta, NTHETA + NPREPARED)                                                                        \
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
  ARRAY(step, n * NU)            /* policy of the differentials, as gain is */                            \
  ARRAY(at_lower, n * NU)        /* one where the bound is active, else zero; smoothed: its stiffness */  \
  ARRAY(at_upper, n * NU)                                                                                 \
  ARRAY(gain, n * NU * NX)

typedef struct {
  int horizon;
  scalar smoothing;
  int barrier;                /* the solution is that of the problem with the barrier */
  int rows;                   /* of theta_stage: N+1, or 1 */
  SENSITIVITY_ARRAYS(DECLARE_ARRAY)
  real loss_cost;             /* reverse mode: cotangent of the cost */
  mask usable, regular;       /* the caller wants this problem; every pivot was accepted */
  mask envelope, given;       /* only the cost's gradient is wanted; that, at least, exists */
  int shared_loaded;          /* parameters that the batch shares are in all lanes */
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
} solution_batch;

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

/* Finds which bounds are active at stage t, or how stiff they are; `is_free` are the controls that may move. A
 * bound is active where u - dL/du does not lie strictly inside it. */
FUNCTION void examine_bounds(sensitivity_state *s, int t, const real *gradient_u, mask *is_free) {
  real lower[NU], upper[NU];
  stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
  for (int i = 0; i < NU; i++) {
    const real u = s->u[t * NU + i], g = gradient_u[i], target = u - g;
    const mask low = lane_and(lane_le(target, lower[i]), lane_le(ALL(0), g));
    const mask high = lane_and(lane_le(upper[i], target), lane_not(low));
    s->multiplier[t * NU + i] = g;
    if (s->barrier) {
      const real below = u - lower[i], above = upper[i] - u;
      s->at_lower[t * NU + i] = s->smoothing / below / below;
      s->at_upper[t * NU + i] = s->smoothing / above / above;
      is_free[i] = lane_all();
    } else if (s->smoothing > 0) {
      const real below = lane_max(u - lower[i], ALL(0)), above = lane_max(upper[i] - u, ALL(0));
      s->at_lower[t * NU + i] = stiffness(below, lane_max(g, ALL(0)), s->smoothing);
      s->at_upper[t * NU + i] = stiffness(above, lane_max(-g, ALL(0)), s->smoothing);
      is_free[i] = lane_all();
    } else {
      s->at_lower[t * NU + i] = lane_select(low, ALL(1), ALL(0));
      s->at_upper[t * NU + i] = lane_select(high, ALL(1), ALL(0));
      is_free[i] = lane_not(lane_or(low, high));
    }
  }
}

/* dcost/dbound: the multiplier of an active bound. The cost does not contain the barrier: beside one, bounds act on
 * it through u only. */
INLINE real lower_pressure(const sensitivity_state *s, int i) {
  if (s->barrier) return ALL(0);
  return lane_select(lane_lt(ALL(0), s->at_lower[i]), lane_max(s->multiplier[i], ALL(0)), ALL(0));
}
INLINE real upper_pressure(const sensitivity_state *s, int i) {
  if (s->barrier) return ALL(0);
  return lane_select(lane_lt(ALL(0), s->at_upper[i]), lane_min(s->multiplier[i], ALL(0)), ALL(0));
}

/* value offset += V affine: an affine term of the dynamics moves the point that the value function is read at. */
FUNCTION void shift_value(in_reals affine, value_model *value) {
  for (int i = 0; i < NX; i++)
    for (int j = 0; j < NX; j++) value->offset[i] += value->hessian[SYMMETRIC(i, j)] * affine[j];
}

/* Forward mode: the stage's linear and affine terms along the change of the parameters. */
FUNCTION void change_stage(sensitivity_state *s, int t, value_model *value, parameter_change *change) {
  const reals d_theta_t = stage_row(change->theta_stage, s->rows, t);
  real cost;
  stage_forward(s->x + t * NX, s->u + t * NU, s->theta, stage_row(s->theta_stage, s->rows, t), value->costate,
                change->theta, d_theta_t, s->linear_x + t * NX, s->linear_u + t * NU, s->affine + t * NX, &cost);
  change->cost += cost;
  shift_value(s->affine + t * NX, value);
}

/* Forward mode: bounds that move carry the controls they hold with them, or push if they are smoothed. */
FUNCTION void change_bounds(sensitivity_state *s, int t, parameter_change *change) {
  real d_lower[NU], d_upper[NU];
  bounds_forward(s->theta, stage_row(s->theta_stage, s->rows, t), change->theta, stage_row(change->theta_stage, s->rows, t),
                 d_lower, d_upper);
  for (int i = t * NU; i < (t + 1) * NU; i++) {
    const real low = s->at_lower[i] * d_lower[i - t * NU], high = s->at_upper[i] * d_upper[i - t * NU];
    change->cost += lower_pressure(s, i) * d_lower[i - t * NU] + upper_pressure(s, i) * d_upper[i - t * NU];
    if (s->smoothing > 0)
      s->linear_u[i] -= low + high;
    else
      s->held[i] = low + high;
  }
}

/* The policy of a stage for the differentials under the model q: fixes what holds a control, solves for the rest. */
FUNCTION void stage_differential(sensitivity_state *s, int k, parameter_change *change, stage_model *q,
                                 control_problem *p) {
  real pushed[NU];
  const reals step = s->step + k * NU;
  examine_bounds(s, k, q->gradient_u, p->is_free);
  copy_uu(q, p->quu);
  if (s->smoothing > 0)
    for (int i = 0; i < NU; i++) p->quu[TRIANGLE(i, i)] += s->at_lower[k * NU + i] + s->at_upper[k * NU + i];
  if (change) change_bounds(s, k, change);
  symmetric_times(p->quu, s->held + k * NU, pushed);
  for (int i = 0; i < NU; i++) {
    /* dL/du of a free control is zero but for the residual: with it the cost's gradient is that of the solution
     * sought, to second order, and not that of the one found. Beside a barrier it is the barrier's force. */
    const real rest = lane_select(p->is_free[i], s->loss_cost * q->gradient_u[i], ALL(0));
    if (s->barrier || !(s->smoothing > 0)) s->linear_u[k * NU + i] += rest;
    p->qu[i] = s->linear_u[k * NU + i] + q->offset_u[i];
    pushed[i] += p->qu[i];
  }
  for (int i = 0; i < NX; i++) q->offset_x[i] += s->linear_x[k * NX + i];
  s->regular = lane_and(s->regular, factor_free(p->quu, p->is_free, p->unit_lower, p->inverse_pivot));
  solve_free(p->unit_lower, p->inverse_pivot, p->is_free, pushed, step);
  for (int i = 0; i < NU; i++) step[i] += s->held[k * NU + i];
}

/* After the sweep. A derivative that is not finite, at whatever stage, has reached a pivot or the value function of x_0.
 * The cost has a gradient without any factor, the envelope theorem's: costates, dL/dtheta, the multipliers of bounds.
 * Beside a barrier it has none, since the cost alone is not stationary there. */
INLINE void note_singular(sensitivity_state *s, const value_model *value) {
  mask finite = lane_all();
  for (int i = 0; i < NX; i++) finite = lane_and(finite, lane_finite(value->costate[i]));
  s->regular = lane_and(s->regular, lane_and(finite, lane_not(s->envelope)));
  for (int i = 0; i < NXX; i++) s->regular = lane_and(s->regular, lane_finite(value->hessian[i]));
  s->given = lane_and(s->usable, s->barrier ? s->regular : lane_or(s->regular, finite));
}

/* Makes the differentials of singular problems zero: what follows from them is then the envelope gradient alone. */
FUNCTION void drop_singular(sensitivity_state *s) {
  const size_t n = (size_t)s->horizon;
  if (!lane_any(lane_and(s->given, lane_not(s->regular)))) return;
  TEAM_FOR(i, n * NU) {
    s->step[i] = lane_select(s->regular, s->step[i], ALL(0));
    s->linear_u[i] = lane_select(s->regular, s->linear_u[i], ALL(0));
  }
  TEAM_FOR(i, n * NU * NX) s->gain[i] = lane_select(s->regular, s->gain[i], ALL(0));
  TEAM_FOR(i, (n + 1) * NX) s->offset[i] = lane_select(s->regular, s->offset[i], ALL(0));
  TEAM_FOR(i, (n + 1) * NXX) s->hessian[i] = lane_select(s->regular, s->hessian[i], ALL(0));
}

/* Notes that a singular problem has no gradient at all where what was found for it is not finite. */
INLINE void note_not_finite(sensitivity_state *s, in_reals found, size_t count) {
  if (!lane_any(lane_and(s->given, lane_not(s->regular)))) return;
  for (size_t i = 0; i < count; i++) s->given = lane_and(s->given, lane_or(s->regular, lane_finite(found[i])));
}

/* What a problem has lost: nothing that was asked for (0), all but the gradient of its cost (1), or all (2). */
INLINE int what_is_lost(const sensitivity_state *s, int k) {
  if (!lane_test(&s->usable, k) || lane_test(&s->regular, k)) return 0;
  return lane_test(&s->given, k) ? !lane_test(&s->envelope, k) : 2;
}

typedef struct {
  sensitivity_state *s;
  parameter_change *change; /* NULL in reverse mode */
  int exact_hessian;
} differential_state;

INLINE void differential_keep(differential_state *d, int t, const value_model *value) {
  sensitivity_state *s = d->s;
  copy_reals(s->hessian + t * NXX, value->hessian, NXX);
  copy_reals(s->costate + t * NX, value->costate, NX);
  copy_reals(s->offset + t * NX, value->offset, NX);
}

INLINE void differential_model(differential_state *d, int t, value_model *value, stage_model *q) {
  sensitivity_state *s = d->s;
  const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  const real whole = ALL(1); /* weight of the dynamics' second derivatives */
  if (d->change) change_stage(s, t, value, d->change);
  if (d->exact_hessian)
    stage_expand_exact(x, u, s->theta, theta_t, &whole, value, q);
  else
    stage_expand_gauss_newton(x, u, s->theta, theta_t, value, q);
}

INLINE void differential_policy(differential_state *d, int t, stage_model *q, control_problem *p) {
  stage_differential(d->s, t, d->change, q, p);
}

INLINE void differential_value(differential_state *d, int t, const stage_model *q, const control_problem *p,
                               value_model *value) {
  follow_policy(q, p, d->s->gain + t * NU * NX, d->s->step + t * NU, value);
}

#define SWEEP(part) differential_##part
#include "mpcgen_riccati.h"

/* Riccati sweep over the differentials; leaves policy, value functions, costates and active set per stage.
 * `change` is NULL in reverse mode. */
FUNCTION void sensitivity_backward(sensitivity_state *s, int exact_hessian, parameter_change *change) {
  const int last = s->horizon;
  differential_state d = {s, change, exact_hessian};
  value_model *value = &s->value;
  control_problem p;
  terminal_expand(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last), value->hessian, value->costate);
  for (int i = 0; i < NX; i++) value->offset[i] = s->linear_x[last * NX + i];
  s->regular = lane_all();
  differential_sweep(&d, last, value, &s->model, &p);
  note_singular(s, value);
  drop_singular(s);
}

/* d_u of the optimal policy at a stage. */
INLINE void policy_differential(const sensitivity_state *s, int t, in_reals d_x, out_reals d_u) {
  TEAM_FOR(a, NU) {
    d_u[a] = s->step[t * NU + a];
    for (int j = 0; j < NX; j++) d_u[a] += s->gain[(t * NU + a) * NX + j] * d_x[j];
  }
}

OUTLINED void load_array(out_reals destination, int lane, const void *source, int64_t problem, size_t count) {
  const scalar *from = source ? (const scalar *)source + (size_t)problem * count : NULL;
  TEAM_FOR(i, count) lane_set(destination + i, lane, from ? from[i] : 0);
}

/* Loads a solution into a lane. Of a problem that is not wanted only that is noted: the lane goes on with the
 * numbers it has, and what comes of them is dropped. */
FUNCTION int load_solution(sensitivity_state *s, const solution_batch *p, int k, int64_t problem) {
  const size_t n = (size_t)s->horizon;
  const int usable = problem < p->batch && p->usable[problem];
  TEAM_LEADER {
    lane_mark(&s->usable, k, usable);
    lane_mark(&s->envelope, k, usable && p->usable[problem] == 2);
  }
  if (!usable) return 0;
  load_array(s->x, k, p->states, problem, (n + 1) * NX);
  load_array(s->u, k, p->controls, problem, n * NU);
  if (!s->shared_loaded)
    load_shared_parameters(s->theta, s->theta_stage, s->rows, p->parameters, p->parameter_strides);
  team_meet();
  TEAM_LEADER s->shared_loaded = 1;
  load_parameters(s->theta, s->theta_stage, k, problem, s->rows, p->parameters, p->parameter_strides);
  return 1;
}

#endif

/* Differentials of the solution of the control problem: the Riccati sweep that reverse and forward mode share.
 *
 * At a KKT point the differentials of the solution solve a linear-quadratic problem with the Lagrangian's Hessian
 * and the controls at a bound held (paper, equations (9) and (18), with the curvature of the dynamics that the
 * paper leaves out). Its linear terms are the loss's cotangents in reverse mode (mpcgen_gradient.h), and the change
 * of the KKT conditions along a change of the parameters in forward mode (mpcgen_tangent.h).
 *
 * The costates are those under the sweep's policy, lambda_t = dL/dx + K' dL/du with dL/du of the controls that are free.
 * At the solution that is zero, but found without the policy, the costates of an unstable system magnify rounding as its
 * states do, by any factor over many stages, until free controls seem to push. What the policy's part leaves of dL/dx is
 * a linear term, so that at any point the differentials are those without it.
 *
 * With smoothing mu > 0 the bounds act through a log-barrier instead: each bound with slack s and multiplier z,
 * moved to s z = mu, adds its stiffness z / s to Quu, and no control is held. */
#ifndef MPCGEN_SENSITIVITY_H
#define MPCGEN_SENSITIVITY_H

#include "mpcgen_dual_differentials.h"
#include "mpcgen_loading.h"
#include "mpcgen_stage_alone.h"

/* Whether a bound holds a control that is at a distance from it and pushes on it with a force: where it lies on the bound,
 * or a Newton step leads there, which depends on no unit. */
INLINE mask holds(real distance, real force, real curvature) {
  const mask reached = lane_and(lane_lt(ALL(0), curvature), lane_le(curvature * distance, force));
  return lane_and(lane_le(ALL(0), force), lane_or(lane_le(distance, ALL(0)), reached));
}

/* The curvature by which a force on a control is weighed against its distance from a bound. With other constraints Quu
 * has their weights, which are larger than a multiplier by any factor: then it is that of a cost of this size over the
 * control's range, and one where a side is open. */
INLINE real curvature_of(const sensitivity_state *s, real own, real range) {
#if CONSTRAINED
  const real half = range / R(2);
  (void)own;
  return lane_select(lane_and(lane_lt(ALL(0), half), lane_finite(half)), s->cost_unit / (half * half), ALL(1));
#else
  (void)s, (void)range;
  return own;
#endif
}

/* A sweep whose model is in registers waits for the numbers that it writes to memory: what only forward mode or problems of
 * some kinds read afterwards is written for these alone. In reverse mode `change` is NULL. */
INLINE int keeps_slopes(const parameter_change *change) { return !MODEL_IN_REGISTERS || CONSTRAINED || change; }
INLINE int keeps_bounds(const sensitivity_state *s, const parameter_change *change) {
  return keeps_slopes(change) || BOUNDS_VARY || s->smoothing > 0;
}

/* Finds which bounds are active at stage t, or how stiff they are; `is_free` are the controls that may move. Leaves what of
 * dL/du no bound answers for, and with `keeps` what bounds do. */
FUNCTION void examine_bounds(sensitivity_state *s, int t, int keeps, const real *gradient_u, const real *quu, mask *is_free) {
  real lower[NU], upper[NU];
  stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
  for (int i = 0; i < NU; i++) {
    const real u = s->u[t * NU + i], g = gradient_u[i];
    const real curvature = curvature_of(s, quu[TRIANGLE(i, i)], upper[i] - lower[i]);
    const mask low = holds(u - lower[i], g, curvature);
    const mask high = lane_and(holds(upper[i] - u, -g, curvature), lane_not(low));
    s->multiplier[t * NU + i] = g;
    s->rest[t * NU + i] = lane_select(lane_or(low, high), ALL(0), g);
    if (s->barrier) {
      const real below = u - lower[i], above = upper[i] - u;
      s->rest[t * NU + i] = g - s->smoothing / below + s->smoothing / above;
      s->at_lower[t * NU + i] = s->smoothing / below / below;
      s->at_upper[t * NU + i] = s->smoothing / above / above;
      is_free[i] = lane_all();
    } else if (s->smoothing > 0) {
      const real below = lane_max(u - lower[i], ALL(0)), above = lane_max(upper[i] - u, ALL(0));
      s->at_lower[t * NU + i] = stiffness(below, lane_max(g, ALL(0)), s->smoothing);
      s->at_upper[t * NU + i] = stiffness(above, lane_max(-g, ALL(0)), s->smoothing);
      is_free[i] = lane_all();
    } else {
      if (keeps) s->at_lower[t * NU + i] = lane_select(low, ALL(1), ALL(0));
      if (keeps) s->at_upper[t * NU + i] = lane_select(high, ALL(1), ALL(0));
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

/* What only some sweeps do at a stage; not inside of a sweep that keeps its model in registers. */
#if MODEL_IN_REGISTERS
#define DIFFERENTIAL_PART OUTLINED
#else
#define DIFFERENTIAL_PART FUNCTION
#endif

/* value offset += V affine: an affine term of the dynamics moves the point that the value function is read at. */
FUNCTION void shift_value(in_reals affine, value_model *value) {
  for (int i = 0; i < NX; i++)
    for (int j = 0; j < NX; j++) value->offset[i] += value->hessian[SYMMETRIC(i, j)] * affine[j];
}

/* Forward mode: the stage's linear and affine terms along the change of the parameters. */
DIFFERENTIAL_PART void change_stage(sensitivity_state *s, int t, const real *costate, parameter_change *change) {
  const reals d_theta_t = stage_row(change->theta_stage, s->rows, t);
  real cost;
  stage_forward(s->x + t * NX, s->u + t * NU, s->theta, stage_row(s->theta_stage, s->rows, t), costate,
                ROWS_OF(s->dual + t * NPATH) change->theta, d_theta_t, s->linear_x + t * NX, s->linear_u + t * NU,
                s->affine + t * NX, ROWS_OF(s->d_row) &cost);
  change->cost += cost;
#if CONSTRAINED
  change->cost += change_rows(s, t, s->d_row, change);
#endif
}

/* Forward mode: the last stage's linear terms. */
FUNCTION void change_last(sensitivity_state *s, parameter_change *change) {
  const int last = s->horizon;
  real cost;
  terminal_forward(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last), ROWS_OF(s->dual + last * NPATH)
                   change->theta, stage_row(change->theta_stage, s->rows, last), s->linear_x + last * NX,
                   ROWS_OF(s->d_row) &cost);
  change->cost += cost;
#if CONSTRAINED
  change->cost += change_rows(s, last, s->d_row, change);
#endif
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

/* Whether dL/du of free controls counts: as a linear term in reverse mode, in the change of the cost in forward mode. */
INLINE int rest_counts(const sensitivity_state *s) { return s->barrier || !(s->smoothing > 0); }

#if CONSTRAINED
/* Keeps the factor of a stage's Quu for refinements. */
INLINE void keep_factor(sensitivity_state *s, int t, const control_problem *p) {
  const reals kept = s->factor + t * NUU;
  for (int i = 0; i < NU; i++) {
    for (int j = 0; j < i; j++) kept[TRIANGLE(i, j)] = p->unit_lower[TRIANGLE(i, j)];
    kept[TRIANGLE(i, i)] = lane_select(p->is_free[i], p->inverse_pivot[i], ALL(0));
  }
}
#endif

/* The policy of a stage for the differentials under the model q: fixes what holds a control, solves for the rest. */
FUNCTION void stage_differential(sensitivity_state *s, int k, parameter_change *change, stage_model *q,
                                 control_problem *p) {
  real pushed[NU];
  const reals step = s->step + k * NU;
  copy_uu(q, p->quu);
  examine_bounds(s, k, keeps_bounds(s, change), q->gradient_u, p->quu, p->is_free);
#if CONSTRAINED
  if (change)
    keep_controls(s, k, q);
  else
    push_controls(s, k, p->is_free);
#endif
  if (s->smoothing > 0)
    for (int i = 0; i < NU; i++) p->quu[TRIANGLE(i, i)] += s->at_lower[k * NU + i] + s->at_upper[k * NU + i];
  if (change) change_bounds(s, k, change);
  symmetric_times(p->quu, s->held + k * NU, pushed);
  for (int i = 0; i < NU; i++) {
    /* dL/du of a free control is zero but for the residual: with it the cost's gradient is that of the solution
     * sought, to second order, and not that of the one found. Beside a barrier it is the barrier's force. */
    const real rest = lane_select(p->is_free[i], s->loss_cost * q->gradient_u[i], ALL(0));
    if (rest_counts(s) && s->sweep == 0) s->linear_u[k * NU + i] += rest;
    p->qu[i] = s->linear_u[k * NU + i] + q->offset_u[i];
    pushed[i] += p->qu[i];
  }
  for (int i = 0; i < NX; i++) q->offset_x[i] += s->linear_x[k * NX + i];
  s->regular = lane_and(s->regular, factor_free(p->quu, p->is_free, p->unit_lower, p->inverse_pivot));
  solve_free(p->unit_lower, p->inverse_pivot, p->is_free, pushed, step);
#if CONSTRAINED
  keep_factor(s, k, p);
#endif
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
  TEAM_FOR(i, n * NX) s->slope[i] = lane_select(s->regular, s->slope[i], ALL(0));
  TEAM_FOR(i, n * NPATH + NEND) s->d_dual[i] = lane_select(s->regular, s->d_dual[i], ALL(0));
  TEAM_FOR(i, n * NPATH + NEND) s->row_moved[i] = lane_select(s->regular, s->row_moved[i], ALL(0));
  TEAM_FOR(i, BOUND_DUALS * n) s->bound_change[i] = lane_select(s->regular, s->bound_change[i], ALL(0));
  TEAM_FOR(i, BOUND_DUALS * n) s->bound_push[i] = lane_select(s->regular, s->bound_push[i], ALL(0));
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

/* By how much what a policy leaves of dL/dx counts as a linear term. */
INLINE real slope_weight(const sensitivity_state *s) { return rest_counts(s) ? s->loss_cost : ALL(0); }

/* Takes that off entry i of the costate, and makes it a linear term of this weight. */
INLINE void take_off_slope(real slope, int i, real weight, value_model *value) {
  value->costate[i] -= slope;
  value->offset[i] += weight * slope;
}

/* Adds to entry i of the costate at stage t what the policy adds. That of a singular sweep is none, and of a problem of
 * which the cost's gradient alone is wanted, that at these controls. */
INLINE void follow_costate(sensitivity_state *s, int t, int i, int keeps, value_model *value) {
  real sum = ALL(0);
  for (int a = 0; a < NU; a++) sum += s->gain[(t * NU + a) * NX + i] * s->rest[t * NU + a];
  const mask follows = lane_and(lane_and(s->regular, lane_not(s->envelope)), lane_finite(sum));
  const real slope = lane_select(follows, -sum, ALL(0));
  if (keeps) s->slope[t * NX + i] = slope;
  take_off_slope(slope, i, slope_weight(s), value);
}

/* What of the curvature along a state, `before`, a policy leaves in the value function. Where its controls undo what the state does
 * at no cost, that is what rounding leaves of zero. It counts as less than nothing, so that no control at an earlier stage which
 * has only that to go by is called determined. Weights of rows are no costs, and large enough to leave the like of costs. */
INLINE real left_of_curvature(real before, real left) {
  const real rounding = ALL(4 * SCALAR_EPSILON) * lane_abs(before);
  return CONSTRAINED ? left : lane_select(lane_le(left, rounding), left - rounding, left);
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

/* Where the exact model of a stage finds what has been remembered. */
INLINE reals exact_point(const sensitivity_state *s, int t) {
  return NREMEMBERED ? s->point + t * REMEMBERED_POINT : s->x + t * NX;
}

#if NREMEMBERED
#define EXPAND_SOLUTION stage_expand_remembered
#else
#define EXPAND_SOLUTION stage_expand_exact
#endif

/* The model of a stage with or without the dynamics' second derivatives. */
INLINE void expand_differential(const sensitivity_state *s, int t, int exact_hessian, const value_model *value, stage_model *q) {
  const reals u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  const real whole = ALL(1); /* weight of the second derivatives */
#if CONSTRAINED
  real dual[MOST_DIFFERENTIAL_ROWS], weight[MOST_DIFFERENTIAL_ROWS], force[MOST_DIFFERENTIAL_ROWS];
  model_rows(s, t, dual, weight, force);
#endif
  if (exact_hessian) {
    EXPAND_SOLUTION(exact_point(s, t), u, s->theta, theta_t, &whole, value, ROWS_OF(dual) ROWS_OF(weight) ROWS_OF(force) q);
    if (s->sweep == 0) keep_slopes(q, s->kept + t * NKEPT);
  } else {
    stage_expand_gauss_newton(s->x + t * NX, u, s->theta, theta_t, value, ROWS_OF(dual) ROWS_OF(weight) ROWS_OF(force) q);
  }
}

#if NKEPT
/* F (dx, du) at a stage, where the sweep has kept nothing of F. */
RARE void change_anew(const sensitivity_state *s, int t, const real *d_x, const real *d_u, real *d_next) {
  tangent_alone(s->x + t * NX, s->u + t * NU, s->theta, stage_row(s->theta_stage, s->rows, t), d_x, d_u, d_next);
}
#endif

/* How the next state changes along the differentials of a stage, F (dx, du). Where the sweep has kept nothing of F, which is rare,
 * by copies: a function that is called with the places of the differentials would keep them in memory. */
INLINE void change_next_state(const sensitivity_state *s, int t, in_reals d_x, in_reals d_u, out_reals d_next) {
#if NKEPT
  if (s->keeps) {
    stage_step(s->kept + t * NKEPT, d_x, d_u, d_next);
  } else {
    real along_x[NX], along_u[NU], found[NX];
    EACH(i, NX) along_x[i] = d_x[i];
    EACH(i, NU) along_u[i] = d_u[i];
    change_anew(s, t, along_x, along_u, found);
    EACH(i, NX) d_next[i] = found[i];
  }
#else
  stage_tangent(s->x + t * NX, s->u + t * NU, s->theta, stage_row(s->theta_stage, s->rows, t), d_x, d_u, d_next);
#endif
}

#if MODEL_IN_REGISTERS
/* What a sweep seldom asks for goes by way of memory, so that the rest may stay in registers. */
OUTLINED void expand_in_memory(sensitivity_state *s, int t) { expand_differential(s, t, 0, &s->value, &s->model); }
#endif

INLINE void differential_model(differential_state *d, int t, value_model *value, stage_model *q) {
  sensitivity_state *s = d->s;
  if (d->change) {
    real costate[NX];
    copy_reals(costate, value->costate, NX);
    change_stage(s, t, costate, d->change);
    shift_value(s->affine + t * NX, value);
  }
#if MODEL_IN_REGISTERS
  if (!d->exact_hessian) {
    s->value = *value;
    expand_in_memory(s, t);
    *q = s->model;
    return;
  }
#endif
  expand_differential(s, t, d->exact_hessian, value, q);
}

INLINE void differential_policy(differential_state *d, int t, stage_model *q, control_problem *p) {
  stage_differential(d->s, t, d->change, q, p);
}

INLINE void differential_value(differential_state *d, int t, const stage_model *q, const control_problem *p,
                               value_model *value) {
  follow_policy(q, p, d->s->gain + t * NU * NX, d->s->step + t * NU, value);
  EACH(i, NX) {
    const int at = TRIANGLE(i, i);
    value->hessian[at] = left_of_curvature(q->hessian[at], value->hessian[at]);
  }
  for (int i = 0; i < NX; i++) follow_costate(d->s, t, i, keeps_slopes(d->change), value);
}

#define SWEEP(part) differential_##part
#include "mpcgen_riccati.h"

/* d_u at a stage of a policy with the sweep's gains, and of the optimal one. */
INLINE void follow_gains(const sensitivity_state *s, stored_reals steps, int t, in_reals d_x, out_reals d_u) {
  TEAM_FOR(a, NU) {
    d_u[a] = steps[t * NU + a];
    for (int j = 0; j < NX; j++) d_u[a] += s->gain[(t * NU + a) * NX + j] * d_x[j];
  }
}
INLINE void policy_differential(const sensitivity_state *s, int t, in_reals d_x, out_reals d_u) {
  follow_gains(s, s->step, t, d_x, d_u);
}

/* The value function of the differentials at the last stage. */
INLINE void last_differential(sensitivity_state *s, int exact_hessian, value_model *value) {
  const int last = s->horizon;
  const reals x = s->x + last * NX, theta_t = stage_row(s->theta_stage, s->rows, last);
#if CONSTRAINED
  const real curvature = ALL(exact_hessian ? 1 : 0);
  real dual[MOST_DIFFERENTIAL_ROWS], weight[MOST_DIFFERENTIAL_ROWS], force[MOST_DIFFERENTIAL_ROWS];
  model_rows(s, last, dual, weight, force);
  terminal_expand(x, s->theta, theta_t, &curvature, dual, weight, force, value->hessian, value->costate, value->offset);
#else
  (void)exact_hessian;
  terminal_expand(x, s->theta, theta_t, value->hessian, value->costate);
  for (int i = 0; i < NX; i++) value->offset[i] = ALL(0);
#endif
  for (int i = 0; i < NX; i++) value->offset[i] += s->linear_x[last * NX + i];
}

/* Loads the solutions of the problems from `first` on into the lanes of `asked`, and returns those that are wanted. Of a
 * problem that is not wanted only that is noted: its lane goes on with whatever it has, and what comes of it is dropped. */
FUNCTION mask load_solutions(sensitivity_state *s, const solution_batch *p, int64_t first, mask asked) {
  const size_t n = (size_t)s->horizon;
  mask wanted = lane_none();
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    const int64_t problem = first + k;
    const int usable = lane_test(&asked, k) && problem < p->batch && p->usable[problem];
    lane_mark(&wanted, k, usable);
    if (lane_test(&asked, k)) TEAM_LEADER lane_mark(&s->envelope, k, usable && p->usable[problem] == 2);
  }
  TEAM_LEADER s->usable = lane_or(lane_and(s->usable, lane_not(asked)), wanted);
  if (!lane_any(wanted)) return wanted;
  load_arrays(s->x, wanted, p->states, first, (n + 1) * NX);
  load_arrays(s->u, wanted, p->controls, first, n * NU);
  if (!s->shared_loaded)
    load_shared_parameters(s->theta, s->theta_stage, s->horizon, s->rows, p->parameters, p->parameter_strides);
  team_meet();
  TEAM_LEADER s->shared_loaded = 1;
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    const int64_t problem = first + k;
    if (!lane_test(&wanted, k)) continue;
#if CONSTRAINED
    TEAM_LEADER load_duals(s, k, (const scalar *)p->duals + (size_t)problem * (n + 1) * NDUAL);
#endif
    load_parameters(s->theta, s->theta_stage, k, problem, s->rows, p->parameters, p->parameter_strides);
  }
  return wanted;
}

#endif

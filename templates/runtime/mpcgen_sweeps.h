/* The two sweeps of box-DDP (Tassa, Mansard and Todorov 2014) over a vector of problems: the rollout of a policy
 * through the dynamics, and the backward sweep that makes the next one. */
#ifndef MPCGEN_SWEEPS_H
#define MPCGEN_SWEEPS_H

#include "mpcgen_barrier.h"

/* How far the lanes have come with their problems. */
typedef struct {
  mask busy;            /* has a problem; the other masks mean nothing where it has none */
  mask begins;          /* first pass: the controls as given, there is no policy yet */
  mask certifying;      /* solved: sweeps once more, with the exact Hessian */
  mask overflowed;      /* the last sweep's model did, and its policy is not to be rolled out */
  mask refused;         /* the last step was */
  mask cautious;        /* a step with second derivatives of the dynamics was, since the last that was accepted */
  counts iterations;
  counts unproductive;  /* passes with a step below rounding since the residual last halved */
  real cost;            /* of the accepted trajectory, its barrier included */
  real barrier_cost;
  real cost_scale;      /* sum of the stages' absolute costs: what rounding is relative to */
  real best_residual;
} lane_progress;

/* Trajectories, gains and parameters of LANES problems; the size does not depend on the batch. */
typedef struct {
  int horizon;
  int exact_hessian;           /* this solve uses second derivatives of the dynamics */
  scalar barrier;              /* mu of the log-barrier in place of the bounds, or 0 */
  int shared_loaded, shared_finite; /* parameters that the batch shares: loaded into all lanes; all finite */
  int rows;                    /* of theta_stage: N+1, or 1 */
  reals theta, theta_stage;
  reals x, u, new_x, new_u;    /* (N+1, NX), (N, NU): accepted and candidate */
  reals costate;               /* (N+1, NX) */
  reals gain, step;            /* (N, NU, NX), (N, NU) */
  reals gradient;              /* (N, NU): dL/du along the accepted trajectory */
  real length, regularisation;
  real second_order;           /* weight of lambda'(d2f) in the Hessian: 0 Gauss-Newton, 1 exact */
  real cost, cost_scale;       /* of the candidate, its barrier included */
  real barrier_cost;
  real promise;                /* dL/du (new_u - u): its change of the cost to first order, bounds included */
  real residual, slope, bend;  /* of the accepted trajectory */
  mask finite, convex;         /* all derivatives finite; every Quu positive definite as it came */
  lane_progress lanes;
  int64_t problem[LANES];
  value_model value;           /* of the sweep's present stage: too large for the stack if there are many states */
  stage_model model;
#if LANES > 1
  stage_model gauss_newton;
#endif
} solver_state;

COUNT size_t solver_reals(const solve_arguments *a) {
  const size_t n = (size_t)a->horizon, rows = (size_t)parameter_rows(a->horizon, a->constant_parameters);
  return NTHETA + NPREPARED + rows * NTHETA_STAGE + 3 * (n + 1) * NX + 4 * n * NU + n * NU * NX;
}

/* Lays out a solver's workspace of solver_reals() from `at` on. */
FUNCTION void lay_out_solver(solver_state *s, const solve_arguments *a, reals at) {
  const size_t n = (size_t)a->horizon;
  s->horizon = a->horizon;
  s->rows = parameter_rows(a->horizon, a->constant_parameters);
  s->shared_loaded = 0;
  s->theta = at, at += NTHETA + NPREPARED;
  s->theta_stage = at, at += (size_t)s->rows * NTHETA_STAGE;
  s->x = at, at += (n + 1) * NX;
  s->new_x = at, at += (n + 1) * NX;
  s->costate = at, at += (n + 1) * NX;
  s->u = at, at += n * NU;
  s->new_u = at, at += n * NU;
  s->gradient = at, at += n * NU;
  s->gain = at, at += n * NU * NX;
  s->step = at;
}

/* Clips, and puts what lies within rounding of a bound exactly on it: u + (bound - u) need not be the bound. An
 * infinite bound makes its comparison one with NaN, hence false. */
INLINE real snap_to_bounds(real target, real lower, real upper) {
  const real slack = ALL(4 * SCALAR_EPSILON);
  const real above = lane_select(lane_le(target, lower + slack * lane_abs(lower)), lower, target);
  return lane_select(lane_le(upper - slack * lane_abs(upper), above), upper, above);
}

/* Rolls the policy u + length * step + gain (x_new - x), clipped to the bounds, through the true dynamics. */
FUNCTION void rollout(solver_state *s) {
  real total = ALL(0), scale = ALL(0), barrier = ALL(0), cost;
  s->promise = ALL(0);
  for (int t = 0; t < s->horizon; t++) {
    const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
    const reals new_x = s->new_x + t * NX;
    const reals new_u = s->new_u + t * NU;
    real lower[NU], upper[NU];
    stage_bounds(s->theta, theta_t, lower, upper);
    for (int i = 0; i < NU; i++) {
      real target = u[i] + s->length * s->step[t * NU + i];
      for (int j = 0; j < NX; j++) target += s->gain[(t * NU + i) * NX + j] * (new_x[j] - x[j]);
      target = lane_select(s->lanes.begins, u[i], target);
      if (s->barrier > 0) {
        new_u[i] = stay_inside(target, u[i], lower[i], upper[i]);
        barrier += barrier_value(new_u[i], lower[i], upper[i], s->barrier);
      } else {
        new_u[i] = snap_to_bounds(target, lower[i], upper[i]);
      }
      s->promise += s->gradient[t * NU + i] * (new_u[i] - u[i]);
    }
    stage_dynamics(new_x, new_u, s->theta, theta_t, s->new_x + (t + 1) * NX, &cost);
    total += cost;
    scale += lane_abs(cost);
  }
  terminal_cost(s->new_x + s->horizon * NX, s->theta, stage_row(s->theta_stage, s->rows, s->horizon), &cost);
  s->cost = total + cost;
  s->cost_scale = scale + lane_abs(cost);
  if (s->barrier > 0) {
    s->barrier_cost = barrier;
    s->cost += barrier;
    s->cost_scale += lane_abs(barrier);
  }
}

/* Makes the diagonal so large that Quu is certainly positive definite (Gershgorin), in the lanes of `where`:
 * what replaces a model that curves downward. For one control this is |Quu|. */
INLINE void convexify(real *quu, mask where) {
  real lowest = ALL(INFINITY), largest = ALL(0);
  for (int i = 0; i < NU; i++) {
    real radius = ALL(0);
    for (int j = 0; j < NU; j++)
      if (j != i) radius += lane_abs(quu[SYMMETRIC(i, j)]);
    lowest = lane_min(lowest, quu[TRIANGLE(i, i)] - radius);
    largest = lane_max(largest, lane_abs(quu[TRIANGLE(i, i)]) + radius);
  }
  const real shift = lane_max(ALL(-2) * lowest, ALL(0)) + ALL(1e-3) * largest + ALL(SCALAR_EPSILON);
  for (int i = 0; i < NU; i++) quu[TRIANGLE(i, i)] += lane_select(where, shift, ALL(0));
}

/* Where the Hessian of a model is infinite or NaN: there, and only there, zero times an entry is not zero. */
INLINE mask overflowed(const stage_model *q) {
  real sums[4] = {ALL(0), ALL(0), ALL(0), ALL(0)};
  enum { ENTRIES = TRIANGLE(NTAU, 0), WHOLE = ENTRIES - ENTRIES % 4 };
  for (int i = 0; i < WHOLE; i += 4) EACH(k, 4) sums[k] += ALL(0) * q->hessian[i + k];
  for (int i = WHOLE; i < ENTRIES; i++) sums[i % 4] += ALL(0) * q->hessian[i];
  return lane_not(lane_eq((sums[0] + sums[1]) + (sums[2] + sums[3]), ALL(0)));
}

/* A stage's quadratic model: with second derivatives of the dynamics where a lane's weight is positive.
 *
 * What a lane gets must not depend on its neighbours, not even in the last digit, and two functions that agree but for
 * rounding are two results. So in a vector a solve with the exact Hessian takes the exact model for every lane, of
 * weight zero where it wants none; except where zero meets an infinite second derivative. A Gauss-Newton solve takes
 * the exact one where a lane certifies its solution, and there only. With linear dynamics both are one. */
INLINE void expand(solver_state *s, int t, real weight, const value_model *value, stage_model *q) {
  const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  mask plain = lane_le(weight, ALL(0));
  if (LINEAR_DYNAMICS || (!lane_any(lane_not(plain)) && (LANES == 1 || !s->exact_hessian))) {
    stage_expand_gauss_newton(x, u, s->theta, theta_t, value, q);
    return;
  }
  stage_expand_exact(x, u, s->theta, theta_t, &weight, value, q);
#if LANES > 1
  if (!lane_any(plain)) return;
  if (s->exact_hessian) plain = lane_and(plain, overflowed(q));
  if (!lane_any(plain)) return;
  stage_expand_gauss_newton(x, u, s->theta, theta_t, value, &s->gauss_newton);
  real *to = (real *)q;
  const real *from = (const real *)&s->gauss_newton;
  for (size_t i = 0; i < sizeof(stage_model) / sizeof(real); i++) to[i] = lane_select(plain, from[i], to[i]);
#endif
}

/* Adds the barrier to the model of control i, whose dL/du without it is `gradient`: returns dL/du with it, adds its
 * stiffness to Quu, and makes of the bounds those of a step that stays inside. The residual is dL/du, relative to the
 * barrier's forces where these are larger than one, since rounding of u near a bound makes them that uncertain. */
INLINE real add_barrier(solver_state *s, int i, real u, real *lower, real *upper, real gradient, real *quu) {
  real slope, stiffness, force;
  barrier_derivatives(u, *lower, *upper, s->barrier, &slope, &stiffness, &force);
  const real sum = gradient + slope;
  quu[TRIANGLE(i, i)] += stiffness;
  *lower = TO_THE_BOUND * (*lower - u);
  *upper = TO_THE_BOUND * (*upper - u);
  s->residual = lane_max(lane_abs(sum) / (ALL(1) + force), s->residual);
  return sum;
}

/* Solves the box QP of a stage; its free set and factor are left for the gains. Where Quu is not positive definite on
 * its free controls, a lane's model is not convex, and it gets a shifted Quu, and a descent direction from it. */
INLINE void stage_policy(solver_state *s, int t, const stage_model *q, real *quu, real *qu, mask *is_free,
                         real *unit_lower, real *inverse_pivot) {
  const reals u = s->u + t * NU;
  const reals step = s->step + t * NU;
  real lower[NU], upper[NU], image[NU];
  stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
  copy_uu(q, quu);
  for (int i = 0; i < NU; i++) {
    real gradient = q->gradient_u[i];
    if (s->barrier > 0) {
      gradient = add_barrier(s, i, u[i], &lower[i], &upper[i], gradient, quu);
    } else {
      lower[i] -= u[i];
      upper[i] -= u[i];
      /* |u - clip(u - dL/du, lower, upper)|, written so that a large u does not absorb the gradient */
      s->residual = lane_max(lane_abs(lane_clip(-gradient, lower[i], upper[i])), s->residual);
    }
    s->finite = lane_and(s->finite, lane_finite(gradient));
    qu[i] = gradient + q->offset_u[i];
    s->gradient[t * NU + i] = gradient;
  }
  for (int i = 0; i < NU; i++) quu[TRIANGLE(i, i)] += s->regularisation;
  mask accepted = box_qp(quu, qu, lower, upper, is_free, unit_lower, inverse_pivot, step);
  s->convex = lane_and(s->convex, accepted);
  const mask shifted = lane_not(accepted);
  if (lane_any(shifted)) {
    convexify(quu, shifted);
    accepted = box_qp(quu, qu, lower, upper, is_free, unit_lower, inverse_pivot, step);
    s->finite = lane_and(s->finite, lane_or(accepted, lane_not(shifted))); /* refused only if it holds a NaN */
  }
  symmetric_times(quu, step, image);
  for (int i = 0; i < NU; i++) {
    s->slope += step[i] * qu[i];
    s->bend += R(0.5) * step[i] * image[i];
  }
}

/* What a backward sweep sums up over the stages. */
INLINE void clear_summary(solver_state *s) {
  s->residual = s->slope = s->bend = ALL(0);
  s->finite = s->convex = lane_all();
}

/* One backward sweep over the accepted trajectories: costates, residual, steps, gains, expected change. */
FUNCTION void backward_sweep(solver_state *s) {
  const int last = s->horizon;
  value_model *value = &s->value;
  stage_model *q = &s->model;
  clear_summary(s);
  terminal_expand(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last), value->hessian, value->costate);
  for (int i = 0; i < NX; i++) value->offset[i] = ALL(0);
  for (int t = last; t >= 0; t--) {
    for (int i = 0; i < NX; i++) s->costate[t * NX + i] = value->costate[i];
    if (t == 0) break;
    real quu[NUU], qu[NU], unit_lower[NUU], inverse_pivot[NU];
    mask is_free[NU];
    const reals gain = s->gain + (t - 1) * NU * NX;
    expand(s, t - 1, s->second_order, value, q);
    stage_policy(s, t - 1, q, quu, qu, is_free, unit_lower, inverse_pivot);
    feedback_gain(q, is_free, unit_lower, inverse_pivot, gain);
    update_value(q, quu, qu, gain, s->step + (t - 1) * NU, value);
  }
  /* What has no derivative at x_0 only has not reached a control. */
  for (int i = 0; i < NX; i++) s->finite = lane_and(s->finite, lane_finite(value->costate[i]));
  for (int i = 0; i < NXX; i++) s->finite = lane_and(s->finite, lane_finite(value->hessian[i]));
}

#endif

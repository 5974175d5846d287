/* The two sweeps of box-DDP (Tassa, Mansard and Todorov 2014) over a vector of problems: the rollout of a policy
 * through the dynamics, and the backward sweep that makes the next one. */
#ifndef MPCGEN_SWEEPS_H
#define MPCGEN_SWEEPS_H

#include "mpcgen_barrier.h"
#include "mpcgen_box_qp.h"
#include "mpcgen_state.h"

#ifndef POLICY_FUNCTION
#define POLICY_FUNCTION INLINE
#define BACKWARD_FUNCTION SWEEP_FUNCTION
#endif

/* Clips, and puts what lies within rounding of a bound exactly on it: u + (bound - u) need not be the bound. An
 * infinite bound makes its comparison one with NaN, hence false. */
INLINE real snap_to_bounds(real target, real lower, real upper) {
  const real slack = ALL(4 * SCALAR_EPSILON);
  const mask low = lane_le(target, lower + slack * lane_abs(lower));
  const mask high = lane_le(upper - slack * lane_abs(upper), target);
  return lane_select(high, upper, lane_select(low, lower, target));
}

/* Rolls the policy u + length * step + gain (x_new - x), clipped to the bounds, through the true dynamics. */
FUNCTION void rollout(solver_state *s) {
  real total = ALL(0), scale = ALL(0), barrier = ALL(0), promise = ALL(0), cost;
  const mask afresh = begins_afresh(s);
  const mask moved = lane_and(s->lanes.begins, lane_not(afresh)); /* elsewhere a gain at x_0, which need not exist, acts on
                                                                     nothing */
  for (int t = 0; t < s->horizon; t++) {
    const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
    const reals new_x = s->new_x + t * NX;
    const reals new_u = s->new_u + t * NU;
    real lower[NU], upper[NU];
    stage_bounds(s->theta, theta_t, lower, upper);
    EACH(i, NU) {
      const real start = u[i] + s->length * s->step[t * NU + i];
      real sums[2] = {start, ALL(0)}; /* two, to wait half as long for them */
      EACH(j, NX) sums[j % 2] += s->gain[(t * NU + i) * NX + j] * (new_x[j] - x[j]);
      const real target = lane_select(afresh, u[i], t > 0 ? sums[0] + sums[1] : lane_select(moved, sums[0] + sums[1], start));
      if (s->barrier > 0) {
        new_u[i] = stay_inside(target, u[i], lower[i], upper[i]);
        barrier += barrier_value(new_u[i], lower[i], upper[i], s->barrier);
      } else {
        new_u[i] = snap_to_bounds(target, lower[i], upper[i]);
      }
      promise += s->gradient[t * NU + i] * (new_u[i] - u[i]);
    }
    stage_dynamics(new_x, new_u, s->theta, theta_t, s->new_x + (t + 1) * NX, &cost);
    total += cost;
    scale += lane_abs(cost);
  }
  terminal_cost(s->new_x + s->horizon * NX, s->theta, stage_row(s->theta_stage, s->rows, s->horizon), &cost);
  s->promise = promise;
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
  EACH(i, NU) {
    real radius = ALL(0);
    EACH(j, NU)
      if (j != i) radius += lane_abs(quu[SYMMETRIC(i, j)]);
    lowest = lane_min(lowest, quu[TRIANGLE(i, i)] - radius);
    largest = lane_max(largest, lane_abs(quu[TRIANGLE(i, i)]) + radius);
  }
  const real least = lane_select(lane_lt(ALL(0), largest), ALL(1e-3) * largest, ALL(SCALAR_EPSILON));
  const real shift = lane_max(ALL(-2) * lowest, ALL(0)) + least;
  EACH(i, NU) quu[TRIANGLE(i, i)] += lane_select(where, shift, ALL(0));
}

/* Where the Hessian of a model is infinite or NaN: there, and only there, zero times an entry is not zero. */
INLINE mask overflowed(const stage_model *q) {
  real sums[4] = {ALL(0), ALL(0), ALL(0), ALL(0)};
  enum { ENTRIES = TRIANGLE(NTAU, 0), WHOLE = ENTRIES - ENTRIES % 4 };
  for (int i = 0; i < WHOLE; i += 4) EACH(k, 4) sums[k] += ALL(0) * q->hessian[i + k];
  for (int i = WHOLE; i < ENTRIES; i++) sums[i % 4] += ALL(0) * q->hessian[i];
  return lane_not(lane_eq((sums[0] + sums[1]) + (sums[2] + sums[3]), ALL(0)));
}

/* The one place that calls it in a vector: of two, gcc could make two that round differently. */
OUTLINED void expand_gauss_newton(solver_state *s, int t, const value_model *value, stage_model *q) {
  const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  stage_expand_gauss_newton(x, u, s->theta, theta_t, value, q);
}

#if LANES > 1
INLINE void take_over(real *to, const real *from, int count, mask where) {
  EACH(i, count) to[i] = lane_select(where, from[i], to[i]);
}

/* Puts the Gauss-Newton model in the place of another, by way of memory; `value` and `q` may stay in registers. */
INLINE void put_gauss_newton(solver_state *s, int t, const value_model *value, stage_model *q, mask where) {
#if MODEL_IN_REGISTERS
  const value_model stored = *value;
  expand_gauss_newton(s, t, &stored, &s->gauss_newton);
#else
  expand_gauss_newton(s, t, value, &s->gauss_newton);
#endif
  const stage_model *from = &s->gauss_newton;
  take_over(q->hessian, from->hessian, TRIANGLE(NTAU, 0), where);
  take_over(q->costate, from->costate, NX, where);
  take_over(q->gradient_u, from->gradient_u, NU, where);
  take_over(q->offset_x, from->offset_x, NX, where);
  take_over(q->offset_u, from->offset_u, NU, where);
}
#endif

/* A stage's quadratic model: with second derivatives of the dynamics where a lane's weight is positive.
 *
 * What a lane gets must not depend on its neighbours, not even in the last digit, and two functions that agree but for
 * rounding are two results. So in a vector a solve with the exact Hessian takes the exact model for every lane, of
 * weight zero where it wants none; except where zero meets an infinite second derivative. A Gauss-Newton solve takes
 * the exact one where a lane certifies its solution, and there only. With linear dynamics both are one. */
INLINE void expand(solver_state *s, int t, real weight, const value_model *value, stage_model *q) {
  const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  mask plain = lane_le(weight, ALL(0));
  if (LINEAR_DYNAMICS || GAUSS_NEWTON_ALONE || (!lane_any(lane_not(plain)) && (LANES == 1 || !s->exact_hessian))) {
#if MODEL_IN_REGISTERS
    put_gauss_newton(s, t, value, q, lane_all());
#else
    expand_gauss_newton(s, t, value, q);
#endif
    return;
  }
  stage_expand_exact(x, u, s->theta, theta_t, &weight, value, q);
#if LANES > 1
  if (!lane_any(plain)) return;
  if (s->exact_hessian) plain = lane_and(plain, overflowed(q));
  if (!lane_any(plain)) return;
  put_gauss_newton(s, t, value, q, plain);
#endif
}

/* Adds the barrier to a control's model, whose dL/du without it is `gradient`: returns dL/du with it, adds its
 * stiffness to the control's entry of Quu, and makes of the bounds those of a step that stays inside. The residual is
 * dL/du, relative to the barrier's forces where these are larger than one, since rounding of u near a bound makes them
 * that uncertain. */
INLINE real add_barrier(scalar weight, real u, real *lower, real *upper, real gradient, real *curvature,
                        real *residual) {
  real slope, stiffness, force;
  barrier_derivatives(u, *lower, *upper, weight, &slope, &stiffness, &force);
  const real sum = gradient + slope;
  *curvature += stiffness;
  *lower = TO_THE_BOUND * (*lower - u);
  *upper = TO_THE_BOUND * (*upper - u);
  *residual = lane_max(lane_abs(sum) / (ALL(1) + force), *residual);
  return sum;
}

/* Adds what the rounding of a control costs, over its square. */
RARE void weigh_control(const real *quu, in_reals u, sweep_summary *summary) {
  for (int i = 0; i < NU; i++) summary->bend_of_points += lane_abs(quu[TRIANGLE(i, i)]) * (u[i] * u[i]);
}

/* Solves the box QP of a stage; its free set and factor are left for the gains. Where Quu is not positive definite on
 * its free controls, a lane's model is not convex, and it gets a shifted Quu, and a descent direction from it. `known`: a
 * factor of that Quu, or NULL. */
POLICY_FUNCTION void stage_policy(solver_state *s, int t, const stage_model *q, const known_factor *known,
                                  control_problem *p, sweep_summary *summary) {
  const reals u = s->u + t * NU;
  const reals step = s->step + t * NU;
  real lower[NU], upper[NU], image[NU];
  stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
  copy_uu(q, p->quu);
  EACH(i, NU) {
    real gradient = q->gradient_u[i];
    if (s->barrier > 0) {
      gradient = add_barrier(s->barrier, u[i], &lower[i], &upper[i], gradient, &p->quu[TRIANGLE(i, i)],
                             &summary->residual);
    } else {
      lower[i] -= u[i];
      upper[i] -= u[i];
      /* |u - clip(u - dL/du, lower, upper)|, written so that a large u does not absorb the gradient */
      summary->residual = lane_max(lane_abs(lane_clip(-gradient, lower[i], upper[i])), summary->residual);
      if (LINEAR_QUADRATIC) {
        lower[i] = lane_select(s->lanes.unguided, ALL(-INFINITY), lower[i]);
        upper[i] = lane_select(s->lanes.unguided, ALL(INFINITY), upper[i]);
      }
    }
    summary->finite = lane_and(summary->finite, lane_finite(gradient));
    p->qu[i] = gradient + q->offset_u[i];
    s->gradient[t * NU + i] = gradient;
  }
  if (__builtin_expect(s->weighs_points, 0)) weigh_control(p->quu, u, summary);
  EACH(i, NU) p->quu[TRIANGLE(i, i)] += s->regularisation;
  /* A loop and not two calls: a lane that needs no second attempt must not see whether another does. */
  KEEP_LOOP for (int attempt = 0; attempt < 2; attempt++) {
    const mask accepted = box_qp(p->quu, p->qu, lower, upper, attempt == 0 ? known : NULL, p->is_free, p->unit_lower,
                                 p->inverse_pivot, step);
    if (attempt == 1) { /* refused again: it is not finite */
      summary->finite = lane_and(summary->finite, accepted);
      break;
    }
    summary->convex = lane_and(summary->convex, accepted);
    if (!lane_any(lane_not(accepted))) break;
    convexify(p->quu, lane_not(accepted));
  }
  symmetric_times(p->quu, step, image);
  EACH(i, NU) {
    summary->slope += step[i] * p->qu[i];
    summary->bend += R(0.5) * step[i] * image[i];
  }
}

/* Notes where the value function of x_1 is not finite: what is not finite at a later stage has reached it, or a
 * control. Of x_0 no control needs one, so that a model may be singular there. A Gauss-Newton model that was shifted may
 * overflow where no control follows. */
INLINE void note_value(const solver_state *s, const value_model *value, sweep_summary *summary) {
  const mask shifted = lane_and(lane_not(summary->convex), lane_le(s->second_order, ALL(0)));
  for (int i = 0; i < NX; i++) summary->finite = lane_and(summary->finite, lane_finite(value->costate[i]));
  for (int i = 0; i < NXX; i++)
    summary->finite = lane_and(summary->finite, lane_or(lane_finite(value->hessian[i]), shifted));
}

/* Adds what the rounding of a state costs, over its square. x_0 is given. */
RARE void weigh_state(const solver_state *s, int t, const value_model *value, sweep_summary *summary) {
  const reals x = s->x + t * NX;
  real bend = ALL(0);
  for (int i = 0; i < (t > 0 ? NX : 0); i++) bend += lane_abs(value->hessian[TRIANGLE(i, i)]) * (x[i] * x[i]);
  summary->bend_of_points += bend;
  if (t >= s->horizon - 1) summary->bend_of_end = lane_max(bend, summary->bend_of_end);
}

INLINE void clear_summary(sweep_summary *summary) {
  summary->residual = summary->slope = summary->bend = summary->bend_of_points = summary->bend_of_end = ALL(0);
  summary->finite = summary->convex = lane_all();
}

typedef struct {
  solver_state *s;
  sweep_summary summary;
} ddp_state;

INLINE void ddp_keep(ddp_state *d, int t, const value_model *value) {
  EACH(i, NX) d->s->costate[t * NX + i] = value->costate[i];
  if (__builtin_expect(d->s->weighs_points, 0)) weigh_state(d->s, t, value, &d->summary);
}

INLINE void ddp_model(ddp_state *d, int t, const value_model *value, stage_model *q) {
  expand(d->s, t, d->s->second_order, value, q);
}

INLINE void ddp_policy(ddp_state *d, int t, const stage_model *q, control_problem *p) {
  stage_policy(d->s, t, q, NULL, p, &d->summary);
}

INLINE void ddp_value(ddp_state *d, int t, const stage_model *q, const control_problem *p, value_model *value) {
  if (__builtin_expect(t == 0, 0)) note_value(d->s, value, &d->summary); /* as a rare case: 3 % of pendulum's time */
  follow_policy(q, p, d->s->gain + t * NU * NX, d->s->step + t * NU, value);
}

#if KEEPS_MATRICES
#include "mpcgen_kept_matrices.h"

FUNCTION void backward_sweep(solver_state *s) { sweep_with_kept_matrices(s); }
#else
#define SWEEP(part) ddp_##part
#include "mpcgen_riccati.h"

/* One backward sweep over the accepted trajectories: costates, residual, steps, gains, expected change. */
BACKWARD_FUNCTION void backward_sweep(solver_state *s) {
  const int last = s->horizon;
  ddp_state d;
  control_problem p;
  SWEEP_MODELS(s)
  d.s = s;
  clear_summary(&d.summary);
  terminal_expand(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last), value->hessian, value->costate);
  EACH(i, NX) value->offset[i] = ALL(0);
  ddp_sweep(&d, last, value, q, &p);
  s->summary = d.summary;
}
#endif

#endif

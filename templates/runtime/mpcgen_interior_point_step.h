/* The interior point's step: the sweep's policy forward through the linear model, how far it may go, and the multipliers
 * after it. */
#ifndef MPCGEN_INTERIOR_POINT_STEP_H
#define MPCGEN_INTERIOR_POINT_STEP_H

#include "mpcgen_interior_point_sweep.h"

#define LEAST_LEFT R(1000 * SCALAR_EPSILON) /* share of a slack or multiplier that a step leaves: rounding makes none of less */
#define MULTIPLIER_RANGE R(1e10) /* a multiplier stays within this factor of mu over its slack */

/* The part of a stage's controls in the step: how far the slacks and multipliers let it go, and its slope. */
INLINE void control_step(barrier_state *s, int t, step_reach *reach) {
  const real mu = reach->mu;
  const int predicts = QUADRATIC_PROGRAM && s->predicts, corrects = QUADRATIC_PROGRAM && !s->predicts;
  const reals to_lower = predicts ? s->lower_aim : s->d_lower, to_upper = predicts ? s->upper_aim : s->d_upper;
  control_room room[NU];
  find_room(s, t, room);
  EACH(i, NU) {
    const control_room *r = &room[i];
    const int at = t * NU + i;
    const real du = s->d_u[at], low = s->lower_multiplier[at], high = s->upper_multiplier[at];
    const real over_low = where_on(r->has_lower, s->d_lower[at]), over_high = where_on(r->has_upper, s->d_upper[at]);
    const real aim_low = corrects ? s->lower_aim[at] : mu, aim_high = corrects ? s->upper_aim[at] : mu;
    const real d_low = where_on(r->has_lower, (aim_low - low * du) * over_low - low);
    const real d_high = where_on(r->has_upper, (aim_high + high * du) * over_high - high);
    reach->slope += s->gradient[at] * du - mu * (push_of(du * over_low) + push_of(-du * over_high));
    reach->slack_share = lane_max(-du * over_low, lane_max(du * over_high, reach->slack_share));
    reach->dual_share = lane_min(d_low / low, lane_min(d_high / high, reach->dual_share)); /* of sides that are off no number */
    reach->size = lane_max(lane_abs(du) * r->over_unit, reach->size);
    to_lower[at] = d_low;
    to_upper[at] = d_high;
  }
}

/* What a stage's states add to the slope of the cost: the gradient of the cost along the step is that of L, less
 * lambda'(F dw) at each stage. */
INLINE real state_slope(const barrier_state *s, int t) {
  real sums[2] = {ALL(0), ALL(0)};
  EACH(i, NX) {
    sums[0] += s->dual_residual[t * NX + i] * s->d_x[t * NX + i];
    sums[1] += s->costate[t * NX + i] * gap_at(s->path, t - 1, i);
  }
  return sums[0] + sums[1];
}

/* How the next state changes along the step of a stage, F (dx, du). */
INLINE void change_next(const barrier_state *s, int t, const real *d_x, const real *d_u, real *next) {
#if NKEPT
  stage_step(s->kept + t * NKEPT, d_x, d_u, next);
#else
  stage_tangent(path_at(s, t), s->u + t * NU, s->theta, stage_row(s->theta_stage, s->rows, t), d_x, d_u, next);
#endif
}

/* The step: the policy through the linear model of the dynamics, which closes the gaps; how long it may be. One function, since
 * of two gcc could make two that round differently. */
OUTLINED void barrier_step(barrier_state *s) {
  const real none = ALL(-SCALAR_LEAST);
  const real least = lane_max(ALL(LEAST_LEFT), lane_min(ALL(0.01), s->lanes.barrier));
  step_reach reach = {s->mu, least, ALL(0), none, ALL(1), ALL(0), ALL(0)};
  s->violation_slope = ALL(0);
  real d_x[NX], d_u[NU], next[NX]; /* not through memory: each stage waits for the one before */
  EACH(i, NX) s->d_x[i] = d_x[i] = ALL(0);
  for (int t = 0; t < s->horizon; t++) {
    EACH(i, NU) {
      real sums[2] = {s->step[t * NU + i], ALL(0)};
      EACH(j, NX) sums[j % 2] += s->gain[(t * NU + i) * NX + j] * d_x[j];
      s->d_u[t * NU + i] = d_u[i] = sums[0] + sums[1];
    }
    change_next(s, t, d_x, d_u, next);
    EACH(i, NX) s->d_x[(t + 1) * NX + i] = d_x[i] = next[i] + gap_at(s->path, t, i);
    control_step(s, t, &reach);
    reach.slope += state_slope(s, t + 1);
  }
  reach.dual_length = lane_min(ALL(1), (reach.least_share - ALL(1)) / reach.dual_share);
#if CONSTRAINED
  step_rows(s, &reach);
#endif
  s->longest = lane_min(ALL(1), (ALL(1) - reach.least_share) / reach.slack_share);
  if (CONSTRAINED) s->longest = lane_select(s->lanes.restoring, ALL(1), s->longest);
  s->dual_length = reach.dual_length;
  s->step_size = reach.size;
  s->slope = reach.slope / s->lanes.cost_unit;
}

/* Keeps multipliers of controls' bounds near mu over their slacks in the lanes where some are not. */
RARE product_range keep_bounds_near(barrier_state *s, mask where, real range) {
  product_range products = no_products();
  for (int t = 0; t < s->horizon; t++) {
    control_room room[NU];
    find_room(s, t, room);
    EACH(i, NU) {
      const control_room *r = &room[i];
      const int at = t * NU + i;
      const real near_low = below(r, s->u[at]), near_high = above(r, s->u[at]);
      const real low = keep_near(lane_and(where, r->has_lower), s->lower_multiplier[at], near_low, s->mu, range);
      const real high = keep_near(lane_and(where, r->has_upper), s->upper_multiplier[at], near_high, s->mu, range);
      s->lower_multiplier[at] = low;
      s->upper_multiplier[at] = high;
      note_products(&products, r, near_low * low, near_high * high);
    }
  }
  return products;
}

/* The multipliers of the lanes that took a step, kept near mu over their slacks, and their products with the slacks. */
OUTLINED product_range step_multipliers(barrier_state *s, mask where) {
  const real length = lane_select(where, s->dual_length, ALL(0)), mu = s->mu;
  const real range = ALL(MULTIPLIER_RANGE);
  product_range products = no_products();
  for (int t = 0; t < s->horizon; t++) {
    control_room room[NU];
    find_room(s, t, room);
    EACH(i, NU) {
      const control_room *r = &room[i];
      const int at = t * NU + i;
      const real d_low = where_on(lane_and(where, r->has_lower), s->d_lower[at]);
      const real d_high = where_on(lane_and(where, r->has_upper), s->d_upper[at]);
      const real low = s->lower_multiplier[at] + length * d_low, high = s->upper_multiplier[at] + length * d_high;
      s->lower_multiplier[at] = low;
      s->upper_multiplier[at] = high;
      note_products(&products, r, below(r, s->u[at]) * low, above(r, s->u[at]) * high);
    }
  }
  const mask near = lane_and(lane_le(mu / range, products.least), lane_le(products.largest, mu * range));
  const mask beyond = lane_and(where, lane_not(near)); /* and no others: they do not depend on their neighbours */
  if (lane_any(beyond)) products = keep_bounds_near(s, beyond, range);
#if CONSTRAINED
  step_row_multipliers(s, where, range, &products);
#endif
  return products;
}

#endif

/* The log-barrier -mu sum(log(u - lower) + log(upper - u)) over the finite bounds, in place of the bounds.
 *
 * An infinite bound has an infinite slack, so its force mu / slack and stiffness mu / slack^2 come out as zero. */
#ifndef MPCGEN_BARRIER_H
#define MPCGEN_BARRIER_H

#include "mpcgen_problem.h"

/* How much of the way to a bound one step may go (Waechter and Biegler 2006, equation (8)). */
#define TO_THE_BOUND R(0.995)
/* How near to a bound a problem may start, as a share of the range and of mu: at its solution the slack of a bound
 * with multiplier z is mu / z. */
#define START_INSIDE R(0.01)

INLINE real minus_log(real slack, scalar mu) {
  const mask finite = lane_finite(slack);
  return lane_select(finite, -mu * lane_log(lane_select(finite, slack, ALL(1))), ALL(0));
}

INLINE real barrier_value(real u, real lower, real upper, scalar mu) {
  return minus_log(u - lower, mu) + minus_log(upper - u, mu);
}

/* First and second derivative of a control's barrier, and the sum of its forces' sizes. */
INLINE void barrier_derivatives(real u, real lower, real upper, scalar mu, real *gradient, real *stiffness,
                                       real *force) {
  const real below = u - lower, above = upper - u, up = mu / below, down = mu / above;
  *gradient = down - up;
  *stiffness = up / below + down / above;
  *force = up + down;
}

/* The target, or what lies TO_THE_BOUND from u in its direction. */
INLINE real stay_inside(real target, real u, real lower, real upper) {
  return lane_clip(target, u - TO_THE_BOUND * (u - lower), u + TO_THE_BOUND * (upper - u));
}

/* How far inside a bound a problem may start: at least some units in the last place, or there would be no slack. */
INLINE scalar start_margin(scalar wanted, scalar bound) {
  const scalar least = isinf(bound) ? R(0) : R(4) * SCALAR_EPSILON * LIBM(fabs)(bound);
  return wanted > least ? wanted : least;
}

/* Moves a lane's controls u (N, NU) inside the bounds; returns 0 if a pair of bounds leaves no room. */
FUNCTION int move_inside(out_reals u, reals theta, reals theta_stage, int rows, int horizon, int lane, scalar mu) {
  int has_room = 1;
  for (int t = 0; t < horizon; t++) {
    real lower[NU], upper[NU];
    stage_bounds(theta, stage_row(theta_stage, rows, t), lower, upper);
    for (int i = 0; i < NU; i++) {
      const scalar low = lane_get(&lower[i], lane), high = lane_get(&upper[i], lane), width = high - low;
      const scalar margin = START_INSIDE * (width < mu ? width : mu), now = lane_get(&u[t * NU + i], lane);
      const scalar least = low + start_margin(margin, low), most = high - start_margin(margin, high);
      if (!(low < least && least <= most && most < high)) has_room &= isinf(low) || isinf(high);
      lane_set(&u[t * NU + i], lane, now < least ? least : now > most ? most : now);
    }
  }
  return has_room;
}

#endif

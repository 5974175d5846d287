/* Attempts of the interior point that begin at a solution: of a problem before, whose x_0 or parameters were others. */
#ifndef MPCGEN_INTERIOR_POINT_WARM_H
#define MPCGEN_INTERIOR_POINT_WARM_H

#include "mpcgen_interior_point_search.h"

enum { WARM_ATTEMPT = 20 }; /* iterations after which the solution was no help: most take fewer than ten */

/* Loads controls, costates and multipliers of rows of a solution into a lane; says whether all were finite, of a team
 * those that it loaded itself. Of rows the upper side has the multiplier of both until start_near. */
RARE int load_multipliers(barrier_state *s, const solve_arguments *a, int k, int64_t problem) {
  const int n = s->horizon;
  const scalar *u = (const scalar *)a->initial_controls + problem * a->initial_controls_stride;
  const scalar *costates = (const scalar *)a->initial_costates + problem * a->initial_costates_stride;
  int good = load_row(s->u, k, u, n * NU, 0) & load_row(s->costate, k, costates, (n + 1) * NX, 0);
#if CONSTRAINED
  const scalar *duals = (const scalar *)a->initial_duals + problem * a->initial_duals_stride;
  for (int t = 0; t <= n; t++) {
    reals row = first_row(s, t);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS) {
      good &= load_row(row + HIGH_MULTIPLIER, k, duals + t * NDUAL + row_column(t == n) + i, 1, 0);
      lane_set(row + LOW_MULTIPLIER, k, 0);
    }
  }
#endif
  return good;
}

/* The slack s of a side at distance `room` with multiplier `pressure`, moved along s - z = room - pressure to s z = mu. */
INLINE real slack_near(real room, real pressure, real mu) {
  const real gap = room - pressure, far = R(0.5) * (lane_abs(gap) + lane_sqrt(gap * gap + R(4) * mu));
  return lane_select(lane_lt(ALL(0), gap), far, mu / far);
}

/* Controls of a solution, moved inside their bounds by what their multipliers, which are dL/du, leave them. */
INLINE void controls_near(barrier_state *s, mask where, int t) {
  const real mu = s->lanes.barrier, cost_unit = s->lanes.cost_unit;
  control_room room[NU];
  find_room(s, t, room);
  EACH(i, NU) {
    const control_room *r = &room[i];
    const int at = t * NU + i;
    const real u = s->u[at], pressure = s->gradient[at] * r->unit / cost_unit;
    const real low = slack_near(below(r, u) / r->unit, lane_max(pressure, ALL(0)), mu) * r->unit;
    const real high = slack_near(above(r, u) / r->unit, lane_max(-pressure, ALL(0)), mu) * r->unit;
    real moved = lane_select(r->has_lower, lane_max(u, r->lower + low), u);
    moved = keep_inside(r, lane_select(r->has_upper, lane_min(moved, r->upper - high), moved));
    s->u[at] = lane_select(where, moved, u);
    const real over_low = where_on(r->has_lower, mu * cost_unit / below(r, moved));
    const real over_high = where_on(r->has_upper, mu * cost_unit / above(r, moved));
    s->lower_multiplier[at] = lane_select(where, over_low, s->lower_multiplier[at]);
    s->upper_multiplier[at] = lane_select(where, over_high, s->upper_multiplier[at]);
  }
}

#if SOFT_ROWS
/* Excess and hold of a soft side that has `room`, or exceeds its bound where that is negative. */
INLINE void excess_near(const row_price *price, mask where, real room, real multiplier, real mu, real cost_unit,
                        reals excess, reals hold) {
  const mask soft = lane_and(where, price->soft);
  const real out = lane_max(-room, ALL(0)), left = price->linear + price->quadratic * out - multiplier;
  const real found = slack_near(out, lane_max(left, ALL(0)) / cost_unit, mu);
  excess[0] = lane_select(soft, found, excess[0]);
  hold[0] = lane_select(soft, mu * cost_unit / found, hold[0]);
}
#endif

#if CONSTRAINED
/* Slacks and multipliers of the rows of a solution at a stage. */
FUNCTION void rows_near(barrier_state *s, mask where, int t) {
  const real mu = s->lanes.barrier, cost_unit = s->lanes.cost_unit;
  reals row = first_row(s, t), limit = first_limit(s, t);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room room = room_of(limit), *r = &room;
    const reals now = row + s->at_iterate;
    const real value = now[ROW_VALUE], dual = row[HIGH_MULTIPLIER], pressure = dual / cost_unit;
    real room_low = low_room(r, value), room_high = high_room(r, value);
#if SOFT_ROWS
    excess_near(&r->price, lane_and(where, r->has_lower), room_low, lane_max(-dual, ALL(0)), mu, cost_unit,
                now + LOW_EXCESS, row + LOW_HOLD);
    excess_near(&r->price, lane_and(where, r->has_upper), room_high, lane_max(dual, ALL(0)), mu, cost_unit,
                now + HIGH_EXCESS, row + HIGH_HOLD);
    room_low = lane_select(r->price.soft, lane_max(room_low, ALL(0)), room_low);
    room_high = lane_select(r->price.soft, lane_max(room_high, ALL(0)), room_high);
#endif
    const real low = lane_select(r->has_lower, slack_near(room_low, lane_max(-pressure, ALL(0)), mu), ALL(1));
    const real high = lane_select(r->has_upper, slack_near(room_high, lane_max(pressure, ALL(0)), mu), ALL(1));
    now[LOW_SLACK] = lane_select(where, low, now[LOW_SLACK]);
    now[HIGH_SLACK] = lane_select(where, high, now[HIGH_SLACK]);
    const real of_low = where_on(r->has_lower, mu * cost_unit / low);
    const real of_high = where_on(r->has_upper, mu * cost_unit / high);
    row[LOW_MULTIPLIER] = lane_select(where, of_low, row[LOW_MULTIPLIER]);
    row[HIGH_MULTIPLIER] = lane_select(where, lane_select(is_equality(r), dual, of_high), dual);
  }
}
#endif

/* The units of problems that begin at a solution are known: moves what their bounds and rows have to the barrier's
 * path, and evaluates them there. */
RARE void start_near(barrier_state *s, mask where) {
  for (int t = 0; t < s->horizon; t++) controls_near(s, where, t);
#if CONSTRAINED
  for (int t = 0; t <= s->horizon; t++) rows_near(s, where, t);
#endif
  evaluate_rollout(s, ALL(0), ALL(0), where, lane_none(), where);
  adopt_candidates(s, where);
#if CONSTRAINED
  find_sizes(s, where);
#endif
}

#endif

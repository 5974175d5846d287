/* Attempts of the interior point at a problem: where they begin, for how long they go on, and the units that they take. */
#ifndef MPCGEN_INTERIOR_POINT_ATTEMPTS_H
#define MPCGEN_INTERIOR_POINT_ATTEMPTS_H

#include "mpcgen_interior_point_errors.h"

#define FIRST_BARRIER R(1)
#define LITTLE_BARRIER R(1e-3)        /* of some later attempts, and of all after one that stranded with the first */
enum { MOST_ATTEMPTS = CONSTRAINED ? 3 : 8 }; /* besides the first */
enum { STRANDED = 20 }; /* passes that the first barrier problem of the first attempt may take */
enum { ATTEMPT = 200, HELD_ATTEMPT = 40, SHIFTED_HELD_ATTEMPT = 250, SHIFTED_ATTEMPT = 400 }; /* see passes_of */

/* Attempts differ in where they begin, at the rollout of the call's controls or held at x_0 in all stages, in the barrier, and
 * in what the shift is on: the controls, and from the third on the states too. Without constraints the second one is short, as
 * what it solves it solves in few passes; then both beginnings take turns, the later ones from scattered controls. */
INLINE int begins_held(int attempt) { return CONSTRAINED || attempt < 2 ? attempt % 2 : attempt % 2 == 0; }

INLINE int has_little_barrier(int attempt) { return !CONSTRAINED && attempt > 0 && attempt != 2; }

INLINE int begins_scattered(int attempt) { return attempt > (CONSTRAINED ? 1 : 3); }

/* Passes until the next attempt. */
INLINE int passes_of(int attempt) {
  if (CONSTRAINED || attempt == 0) return ATTEMPT;
  return attempt == 1 ? HELD_ATTEMPT : begins_held(attempt) ? SHIFTED_HELD_ATTEMPT : SHIFTED_ATTEMPT;
}

/* The multipliers of lanes that begin, or leave restoration: mu over the slacks. */
OUTLINED void first_multipliers(barrier_state *s, mask where, real most) {
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  for (int t = 0; t < s->horizon; t++) {
    control_room room[NU];
    find_room(s, t, room);
    EACH(i, NU) {
      const int at = t * NU + i;
      const real low = where_on(room[i].has_lower, lane_min(mu / below(&room[i], s->u[at]), most));
      const real high = where_on(room[i].has_upper, lane_min(mu / above(&room[i], s->u[at]), most));
      s->lower_multiplier[at] = lane_select(where, low, s->lower_multiplier[at]);
      s->upper_multiplier[at] = lane_select(where, high, s->upper_multiplier[at]);
    }
  }
#if CONSTRAINED
  row_multipliers(s, where, most);
#endif
}

/* The barrier parameter of an attempt that begins. */
OUTLINED real first_barrier(const barrier_state *s) {
  real barrier = ALL(s->initial_barrier);
  for (int k = 0; k < LANES; k++) {
    if (lane_test(&s->lanes.warm, k)) continue;
    const int little = lane_test(&s->lanes.stranded, k) || has_little_barrier(lane_count(&s->lanes.attempt, k));
    lane_set(&barrier, k, little ? LITTLE_BARRIER : FIRST_BARRIER);
  }
  return barrier;
}

/* The costs of the first trajectory are found: gives a problem its units, multipliers and limits of the gaps. */
OUTLINED void take_units(barrier_state *s, mask where) {
  barrier_progress *lanes = &s->lanes;
  const real size = (s->point.cost_scale + s->summary.gradient_sum) / COST_IN_UNITS;
  const mask sound = lane_and(lane_finite(size), lane_lt(ALL(0), size));
  lanes->cost_unit = lane_select(where, lane_select(sound, size, ALL(1)), lanes->cost_unit);
  lanes->barrier = lane_select(where, first_barrier(s), lanes->barrier);
  const mask warm = lane_and(where, lanes->warm);
  first_multipliers(s, lane_and(where, lane_not(warm)), ALL(INFINITY));
  if (lane_any(warm)) start_near(s, warm);
  lanes->begins = lane_and(lanes->begins, lane_not(where));
}

#endif

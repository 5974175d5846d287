/* Attempts of the interior point at a problem: where they begin, for how long they go on, and the units that they take. */
#ifndef MPCGEN_INTERIOR_POINT_ATTEMPTS_H
#define MPCGEN_INTERIOR_POINT_ATTEMPTS_H

#include "mpcgen_interior_point_errors.h"
#include "mpcgen_little_moves.h"

#define FIRST_BARRIER R(1)
#define LARGE_BARRIER R(100)          /* of later attempts with constraints */
#define LITTLE_BARRIER R(1e-3)        /* of some later attempts, and of all after one that stranded with the first */
#define SCATTERED 0.5           /* share of half a control's range by which a later attempt moves its start */
#define START_IN_RANGE R(0.02)  /* share of half a control's range by which it starts inside */
enum { MOST_ATTEMPTS = CONSTRAINED ? 3 : 8 }; /* besides the first */
enum { MOST_RESCALINGS = 3 };
#define BENEATH R(CONSTRAINED ? 1e-2 : 0.1) /* share of the least tolerance */
#define OUTGROWN R(10)       /* a first cost so much less says nothing of the solution's, */
#define EARLY_BARRIER R(0.1) /* as is seen while the barrier is above this */
enum { STRANDED = 20 }; /* passes that the first barrier problem of the first attempt may take */
enum { ATTEMPT = CONSTRAINED ? 200 : 220, HELD_ATTEMPT = 40, SHIFTED_HELD_ATTEMPT = 220, SHIFTED_ATTEMPT = 400 }; /* see passes_of */

/* Attempts differ in where they begin, at the rollout of the call's controls or held at x_0 in all stages, in the barrier, and
 * in what the shift is on: the controls, and from the third on the states too. Without constraints the second one is short, as
 * what it solves it solves in few passes; then both beginnings take turns, the later ones from scattered controls. */
INLINE int begins_held(int attempt) { return CONSTRAINED || attempt < 2 ? attempt % 2 : attempt % 2 == 0; }

INLINE int has_large_barrier(int attempt) { return CONSTRAINED && begins_held(attempt); }

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

/* Controls of later attempts are scattered about those given, moved inside their bounds: by a sequence of Weyl's, the same
 * for every problem. A lane that begins beside others that step is moved inside with their candidates. */
RARE void scatter_controls(barrier_state *s, mask where, int t, const control_room *room) {
  real inside[NU];
  EACH(i, NU) inside[i] = keep_inside(&room[i], s->u[t * NU + i]);
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    const int attempt = lane_count(&s->lanes.attempt, k);
    if (!lane_test(&where, k) || !begins_scattered(attempt)) continue;
    for (int i = 0; i < NU; i++) {
      const scalar turns = R(0.6180339887498949) * (scalar)(t * NU + i + 1) * (scalar)attempt;
      const scalar share = R(SCATTERED) * (2 * (turns - (scalar)(int32_t)turns) - 1);
      lane_set(s->u + t * NU + i, k, lane_get(&inside[i], k) + share * lane_get(&room[i].unit, k));
    }
  }
}

/* The controls that lanes begin with, moved inside their bounds. */
OUTLINED void start_inside(barrier_state *s, mask where) {
  const int scatters = lane_any(lane_and(where, lane_more(s->lanes.attempt, ALL_COUNTS(1))));
  mask ranged = lane_all();
  for (int t = 0; t < s->horizon; t++) {
    control_room room[NU];
    find_room(s, t, room);
    if (scatters) scatter_controls(s, where, t, room);
    EACH(i, NU) {
      const control_room *r = &room[i];
      real u = s->u[t * NU + i];
      const real margin = lane_select(s->lanes.warm, ALL(0), START_IN_RANGE * r->unit);
      u = lane_select(r->has_lower, lane_max(u, r->lower + margin), u);
      u = lane_select(r->has_upper, lane_min(u, r->upper - margin), u);
      u = keep_inside(r, u);
      s->u[t * NU + i] = lane_select(where, u, s->u[t * NU + i]);
      ranged = lane_and(ranged, lane_or(lane_and(r->has_lower, r->has_upper), lane_not(r->is_free)));
    }
  }
  s->lanes.ranged = lane_or(lane_and(where, ranged), lane_and(s->lanes.ranged, lane_not(where)));
}

/* The barrier parameter of an attempt that begins. */
OUTLINED real first_barrier(const barrier_state *s) {
  real barrier = ALL(s->initial_barrier);
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    if (lane_test(&s->lanes.warm, k)) continue;
    const int attempt = lane_count(&s->lanes.attempt, k);
    const int little = lane_test(&s->lanes.stranded, k) || has_little_barrier(attempt);
    lane_set(&barrier, k, little ? LITTLE_BARRIER : has_large_barrier(attempt) ? LARGE_BARRIER : FIRST_BARRIER);
  }
  return barrier;
}

#if CONSTRAINED
/* The sizes of states, which are one at least: the largest on the first trajectory, or that its steps come to. The first attempt's
 * shift on the states is over their squares: beside controls in units of their range, a state of tens would hardly move. Later
 * ones have it as it is, which holds some back from where the first was lost, and so have those that begin at given states, near
 * which it holds them. */
OUTLINED void measure_states(barrier_state *s, mask where) {
  real size[NX];
  EACH(i, NX) size[i] = ALL(1);
  for (int t = 0; t < s->horizon; t++) {
    const reals x = path_at(s, t), next = path_at(s, t + 1);
    EACH(i, NX) size[i] = lane_max(lane_max(lane_abs(x[NX + i]), lane_abs(next[i])), size[i]);
  }
  const mask holds = shifts_plainly(s);
  EACH(i, NX) {
    const real largest = lane_select(holds, ALL(1), lane_max(lane_abs(s->path[i]), size[i]));
    s->share_of_shift[i] = lane_select(where, ALL(1) / (largest * largest), s->share_of_shift[i]);
  }
}
#endif

/* Units of the cost in which the present trajectory's is COST_IN_UNITS, or `least` if that is more. A trajectory that costs nothing
 * has those; where gaps are open, it says nothing of what closing them costs, and has one at least. */
INLINE real present_unit(const barrier_state *s, real least) {
  const real size = (size_of_costs(s) + s->summary.gradient_sum) / COST_IN_UNITS, one = ALL(1);
  const mask known = lane_and(lane_finite(size), lane_lt(ALL(0), size));
  const real unknown = lane_select(lane_and(lane_lt(ALL(0), least), lane_not(is_open(s))), least, lane_max(least, one));
  return lane_select(known, lane_max(least, size), unknown);
}

/* The model of a stage's cost alone, for units of its own. */
typedef struct {
  row_terms rows;
  value_model value;
  stage_model model;
} cost_model;

/* What moves of this iterate are worth: see mpcgen_little_moves.h. What states add that only accumulate cost is priced as at the
 * end. */
OUTLINED moves_worth worth_of_moves(const barrier_state *s) {
  const real whole = ALL(1), stages = ALL((scalar)s->horizon / (scalar)SAMPLED_STAGES);
  moves_worth worth = {ALL(0), ALL(0)};
  real price[NX];
  cost_model m;
  clear_terms(&m.rows);
  expand_last(s, &whole, &m.rows, &m.value);
  EACH(i, NX) price[i] = ONLY_COST(i) ? m.value.costate[i] : ALL(0);
  note_worth(&worth, worth_of_states(m.value.hessian), ALL(1));
  zero_reals(m.value.hessian, NXX);
  zero_reals(m.value.offset, NX);
  for (int k = 0; k < SAMPLED_STAGES; k++) {
    const int t = sampled_stage(s->horizon, k);
    EACH(i, NX) m.value.costate[i] = price[i];
    expand_stage(s, t, &whole, &m.rows, &m.value, &m.model);
    const reals theta_t = stage_row(s->theta_stage, s->rows, t);
    note_worth(&worth, worth_of_stage(path_at(s, t), s->u + t * NU, s->theta, theta_t, &m.model), stages);
  }
  return worth;
}

/* Units in which the costs would be at least what little moves are worth. */
INLINE real least_unit(const moves_worth *worth) { return worth->most * (R(100) / COST_IN_UNITS); }

/* Looks at the curvature of the first trajectories of lanes that begin. */
INLINE void measure_costs(barrier_state *s, mask where) {
  barrier_progress *lanes = &s->lanes;
  const moves_worth worth = worth_of_moves(s);
  lanes->least_unit = lane_select(where, least_unit(&worth), lanes->least_unit);
  lanes->curvature = lane_select(where, worth_of_large_moves(&worth), lanes->curvature);
}

/* The costs of the first trajectory are found: gives a problem its units, multipliers and limits of the gaps. */
OUTLINED void take_units(barrier_state *s, mask where) {
  barrier_progress *lanes = &s->lanes;
  real least = ALL(0);
#if CONSTRAINED
  measure_states(s, where);
  least = lanes->least_unit;
#endif
  const real unit = present_unit(s, least);
  lanes->cost_unit = lane_select(where, unit, lanes->cost_unit);
  lanes->barrier = lane_select(where, first_barrier(s), lanes->barrier);
  const mask warm = lane_and(where, lanes->warm);
  first_multipliers(s, lane_and(where, lane_not(warm)), ALL(INFINITY));
  if (lane_any(warm)) start_near(s, warm);
  lanes->begins = lane_and(lanes->begins, lane_not(where));
}

/* Beside which share of the units the least tolerance is large. */
INLINE mask is_beneath(real share, scalar tolerance) { return lane_lt(R(tolerance) * share, BENEATH * least_tolerance()); }

/* Which solved iterates are so only because their cost is next to nothing beside the first trajectory's, which unstable dynamics
 * blow up: beside what is left, the least tolerance of that is large. Not for ever, as a cost may fall to zero. */
INLINE mask is_beneath_units(const barrier_state *s, mask solved, scalar tolerance) {
  const mask few = lane_more(ALL_COUNTS(MOST_RESCALINGS), s->lanes.rescaled);
  return lane_and(lane_and(solved, few), is_beneath(share_left(s), tolerance));
}

/* Iterates that cost far more than the first trajectory did before the barrier has come down: that cost was next to nothing, as
 * where controls are zero, and said nothing of the solution's. */
INLINE mask outgrows_units(const barrier_state *s) {
  const barrier_progress *lanes = &s->lanes;
  if (!CONSTRAINED) return lane_none();
  const mask early = lane_or(lanes->direct, lane_lt(ALL(EARLY_BARRIER), lanes->barrier));
  const mask few = lane_more(ALL_COUNTS(MOST_RESCALINGS - 1), lanes->rescaled);
  const mask may = lane_and(lane_and(early, few), lane_not(lane_or(lanes->warm, sets_cost_aside(s))));
  return lane_and(may, lane_lt(OUTGROWN * COST_IN_UNITS * lanes->cost_unit, size_of_costs(s)));
}

/* Gives them units of the present trajectory, or the least. The barrier stays what it is of the cost, and with it the multipliers,
 * unless it is more than the first in the new units, or these are larger ones: then they begin with that. */
RARE void take_units_anew(barrier_state *s, mask where, real least) {
  barrier_progress *lanes = &s->lanes;
  const real unit = present_unit(s, least), barrier = lanes->barrier * (lanes->cost_unit / unit);
  const mask grows = CONSTRAINED ? lane_lt(lanes->cost_unit, unit) : lane_none();
  const mask large = lane_and(where, lane_or(grows, lane_not(lane_lt(barrier, ALL(FIRST_BARRIER)))));
  lanes->cost_unit = lane_select(where, unit, lanes->cost_unit);
  lanes->barrier = lane_select(where, lane_select(large, ALL(FIRST_BARRIER), barrier), lanes->barrier);
  if (lane_any(large)) first_multipliers(s, large, ALL(INFINITY));
  lanes->adjoint = lane_or(lanes->adjoint, lane_and(where, grows));
  lanes->rescaled -= where;
  lanes->shift = lane_select(where, ALL(0), lanes->shift);
  lanes->enough = lane_select(where, ALL(0), lanes->enough);
  lanes->moved = lane_select(where, ALL(0), lanes->moved);
  lanes->settled = lane_and(lanes->settled, lane_not(where));
  lanes->best_product = lane_select(where, ALL(INFINITY), lanes->best_product);
  empty_filter(lanes, where);
  forget_best(lanes, where);
}

#endif

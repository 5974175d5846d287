/* The candidates for the next iterate: the iterate's step of some length, or a rollout of its policy, with what they cost and lack. */
#ifndef MPCGEN_INTERIOR_POINT_CANDIDATES_H
#define MPCGEN_INTERIOR_POINT_CANDIDATES_H

#include "mpcgen_interior_point_corrector.h"

/* Keeps a control so far inside its bounds that rounding leaves it a slack; puts one that is held on its bound, of which -0 is 0:
 * a neighbour's step must not change so much as a sign. */
INLINE real keep_inside(const control_room *room, real u) {
  const real low = room->lower + ALL(4 * SCALAR_EPSILON) * larger(lane_abs(room->lower), room->unit);
  const real high = room->upper - ALL(4 * SCALAR_EPSILON) * larger(lane_abs(room->upper), room->unit);
  const real inside = lane_min(lane_select(room->has_lower, lane_max(u, low), u),
                               lane_select(room->has_upper, high, ALL(INFINITY)));
  return lane_select(room->is_free, inside, room->lower + ALL(0));
}

/* What a candidate's stages add up to; apart from its point, so that it stays in registers. */
typedef struct {
  real cost, cost_scale, gap, largest_gap, largest_state;
  log_sum logs;
} candidate_sums;

INLINE void note_state(candidate_sums *sums, stored_reals x) {
  real largest = ALL(0);
  EACH(i, NX) largest = lane_max(lane_abs(x[i]), largest);
  sums->largest_state = lane_max(largest, sums->largest_state);
}

INLINE void add_cost(candidate_sums *sums, real cost) {
  sums->cost += cost;
  sums->cost_scale += lane_abs(cost);
}

/* Next state and cost of a stage of the candidate, with the logarithms of its slacks. Controls that do not move are inside as
 * they are: how far is a matter of units, which a lane that waits for its own may get beside others that step. */
INLINE void evaluate_stage(barrier_state *s, int t, candidate_sums *sums) {
  const reals x = s->new_path + t * PAIR, u = s->new_u + t * NU;
  real cost;
  control_room room[NU]; /* found here and not handed on: of bounds that are constants nothing is left to compute */
  find_room(s, t, room);
  EACH(i, NU) {
    const control_room *r = &room[i];
    u[i] = lane_select(s->moves, keep_inside(r, u[i]), u[i]);
    add_logarithms(&sums->logs, lane_select(r->has_lower, (u[i] - r->lower) * r->over_unit, ALL(1)),
                   lane_select(r->has_upper, (r->upper - u[i]) * r->over_unit, ALL(1)));
  }
  note_state(sums, x);
  EVALUATE_CANDIDATE(x, u, s->theta, stage_row(s->theta_stage, s->rows, t), x + NX, &cost);
  add_cost(sums, cost);
}

INLINE void evaluate_gap(barrier_state *s, int t, candidate_sums *sums) {
  real sum = ALL(0), largest = ALL(0);
  EACH(i, NX) {
    const real size = lane_abs(gap_at(s->new_path, t, i));
    sum += size;
    largest = lane_max(size, largest);
  }
  sums->gap += sum;
  sums->largest_gap = lane_max(largest, sums->largest_gap);
}

/* The candidate of these stages, with its last one and its rows. */
OUTLINED void end_evaluation(barrier_state *s, const candidate_sums *of_stages) {
  const int last = s->horizon;
  candidate_sums sums = *of_stages;
  real cost;
  terminal_cost(s->new_path + last * PAIR, s->theta, stage_row(s->theta_stage, s->rows, last), &cost);
  note_state(&sums, s->new_path + last * PAIR);
  add_cost(&sums, cost);
  evaluation e = {
      {sums.cost, sums.cost_scale, sums.gap, sums.largest_gap, ALL(0), sums.gap, sums.largest_gap, ALL(0), ALL(0),
       sums.largest_state, ALL(0)},
      sums.logs,
  };
#if CONSTRAINED
  evaluate_all_slacks(s, &e);
#endif
  e.point.logs = logarithm(&e.logs);
  s->candidate = e.point;
}

/* In restoration controls are projected on their bounds, and keep some room for the barrier that follows. */
RARE void keep_restoring(barrier_state *s, int t) {
  control_room room[NU];
  find_room(s, t, room);
  EACH(i, NU) {
    const control_room *r = &room[i];
    const real margin = s->restoring_room * r->unit, u = s->new_u[t * NU + i];
    const real above_low = lane_select(r->has_lower, lane_max(u, r->lower + margin), u);
    const real inside = lane_select(r->has_upper, lane_min(above_low, r->upper - margin), above_low);
    s->new_u[t * NU + i] = lane_select(s->lanes.restoring, inside, u);
  }
}

INLINE real moved(const barrier_state *s, real from, real step) {
  return lane_select(s->moves, from + s->length * step, from);
}

/* A policy that is rolled out instead of a step: u + length (step) + gain (x_new - x), each control at most the
 * share `most` of its way to a bound, with the share `open` of the gaps left. Lanes of `as_given` keep their controls; those of
 * `hold` stay at x_0 in all stages, those of `stay` at their states, with gaps. */
typedef struct {
  real length, most, open;
  mask as_given, hold, stay;
} rollout_policy;

INLINE real moved_control(const barrier_state *s, int at) { return moved(s, s->u[at], s->d_u[at]); }

INLINE real moved_state(const barrier_state *s, int t, int i) {
  return moved(s, s->path[t * PAIR + i], s->d_x[t * NX + i]);
}

OUTLINED void roll_controls(barrier_state *s, int t, const rollout_policy *p) {
  stored_reals x = s->new_path + t * PAIR;
  control_room room[NU];
  find_room(s, t, room);
  EACH(i, NU) {
    const control_room *r = &room[i];
    const int at = t * NU + i;
    real change = p->length * s->step[at];
    EACH(j, NX) change += s->gain[at * NX + j] * (x[j] - s->path[t * PAIR + j]);
    change = lane_select(r->has_lower, lane_max(change, -p->most * (s->u[at] - r->lower)), change);
    change = lane_select(r->has_upper, lane_min(change, p->most * (r->upper - s->u[at])), change);
    s->new_u[at] = s->u[at] + lane_select(p->as_given, ALL(0), change);
  }
}

OUTLINED void roll_state(barrier_state *s, int t, const rollout_policy *p) {
  const reals x = s->new_path + t * PAIR, next = x + PAIR;
  const mask opens = lane_lt(ALL(0), p->open);
  EACH(i, NX) {
    const real reached = x[NX + i] - where_on(opens, p->open * gap_at(s->path, t, i));
    next[i] = lane_select(p->stay, s->path[(t + 1) * PAIR + i], lane_select(p->hold, x[i], reached));
  }
}

/* The next state of a candidate: that of the step; where lanes begin, which have none, the one that a rollout comes to. So are
 * states that only accumulate cost: nothing but the cost reads them, which then is that of the other states. */
INLINE void step_state(barrier_state *s, int t, mask rolls, int any_rolls) {
  const reals x = s->new_path + t * PAIR, next = x + PAIR;
  EACH(i, NX) {
    if (any_rolls || ONLY_COST(i)) {
      const mask reaches = ONLY_COST(i) ? lane_or(rolls, s->moves) : rolls;
      next[i] = lane_select(reaches, x[NX + i], moved_state(s, t + 1, i));
    } else {
      next[i] = moved_state(s, t + 1, i);
    }
  }
}

/* Evaluates the iterate and `length` times the step, in the lanes that do not move the iterate alone, but where they are in
 * `rolls` its controls' rollout; or a policy, if there is one. One function, since of two gcc could make two that round
 * differently, and an iterate is evaluated again. */
OUTLINED void evaluate_candidates(barrier_state *s, const rollout_policy *policy, mask rolls) {
  const int last = s->horizon, restores = CONSTRAINED && lane_any(s->lanes.restoring);
  int any_rolls = lane_any(rolls);
  candidate_sums sums = {ALL(0), ALL(0), ALL(0), ALL(0), ALL(0), {ALL(1), ALL_COUNTS(0)}};
  EACH(i, NX) s->new_path[i] = s->path[i];
  for (int t = 0; t < last; t++) {
    ONE_LOOP(policy);
    ONE_LOOP(any_rolls);
    if (policy)
      roll_controls(s, t, policy);
    else
      EACH(i, NU) s->new_u[t * NU + i] = moved_control(s, t * NU + i);
    if (restores) keep_restoring(s, t);
    evaluate_stage(s, t, &sums);
    if (policy)
      roll_state(s, t, policy);
    else
      step_state(s, t, rolls, any_rolls);
    evaluate_gap(s, t, &sums);
  }
  const candidate_sums found = sums;
  end_evaluation(s, &found);
}

INLINE void evaluate_step(barrier_state *s) { evaluate_candidates(s, NULL, lane_none()); }

INLINE void evaluate_policy(barrier_state *s, const rollout_policy *policy) {
  s->moves = lane_not(s->lanes.begins); /* slacks of rows as they are loaded have no step */
  evaluate_candidates(s, policy, lane_none());
}

INLINE void evaluate_rollout(barrier_state *s, real length, real most, mask as_given, mask hold, mask stay) {
  const rollout_policy policy = {length, most, ALL(0), as_given, hold, stay};
  evaluate_policy(s, &policy);
}

INLINE void select_point(barrier_point *to, const barrier_point *from, mask where) {
  to->cost = lane_select(where, from->cost, to->cost);
  to->cost_scale = lane_select(where, from->cost_scale, to->cost_scale);
  to->gap = lane_select(where, from->gap, to->gap);
  to->largest_gap = lane_select(where, from->largest_gap, to->largest_gap);
  to->squares = lane_select(where, from->squares, to->squares);
  to->jumps = lane_select(where, from->jumps, to->jumps);
  to->violation = lane_select(where, from->violation, to->violation);
  to->charge = lane_select(where, from->charge, to->charge);
  to->surcharge = lane_select(where, from->surcharge, to->surcharge);
  to->logs = lane_select(where, from->logs, to->logs);
  to->largest_state = lane_select(where, from->largest_state, to->largest_state);
}

/* Candidates become iterates, but for their multipliers and costates. */
OUTLINED void adopt_candidates(barrier_state *s, mask where) {
  const int states = s->horizon * PAIR + NX, controls = s->horizon * NU;
  for (int i = 0; i < states; i++) s->path[i] = lane_select(where, s->new_path[i], s->path[i]);
  for (int i = 0; i < controls; i++) s->u[i] = lane_select(where, s->new_u[i], s->u[i]);
#if CONSTRAINED
  reals row = s->row;
  for (int i = 0; i < s->horizon * NPATH + NEND; i++, row += ROW_REALS) {
    const reals now = row + s->at_iterate, then = row + s->at_candidate;
    EACH(j, POINT_REALS) now[j] = lane_select(where, then[j], now[j]);
  }
#endif
  select_point(&s->point, &s->candidate, where);
}

/* The same where those of all lanes that move do, and those of the others are their iterates. That takes no copy: what
 * evaluates a point once more finds the same numbers. But soft rows and restoration move slacks that are at rest. */
INLINE void exchange_candidates(barrier_state *s, mask where) {
  const reals path = s->path, u = s->u;
  const int now = s->at_iterate;
  if (SOFT_ROWS || s->restores) {
    adopt_candidates(s, where);
    return;
  }
  s->path = s->new_path;
  s->new_path = path;
  s->u = s->new_u;
  s->new_u = u;
  s->at_iterate = s->at_candidate;
  s->at_candidate = now;
  select_point(&s->point, &s->candidate, where);
}

#endif

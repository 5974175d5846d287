/* From the interior point's step to the next iterate: a filter (Waechter and Biegler 2006, section 2.3) over the
 * barrier function and the gaps; where no length will do, a rollout of the policy closes the gaps. */
#ifndef MPCGEN_INTERIOR_POINT_SEARCH_H
#define MPCGEN_INTERIOR_POINT_SEARCH_H

#include "mpcgen_interior_point_corrector.h"

enum { HALVINGS = 13 };
#define GAP_MARGIN R(1e-5)     /* share of the gaps by which a step has to be better in gaps or in the barrier function */
#define BARRIER_ARMIJO R(1e-4)
#define FARTHEST R(1e8)        /* a rollout with larger states is none */
enum { FEW_CUTS = 2 };         /* after so many steps that were cut, the next is bent too */

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
       sums.largest_state},
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

/* The barrier function, in units of cost. */
INLINE real merit(const barrier_state *s, const barrier_point *p) {
  return (p->cost + p->surcharge) / s->lanes.cost_unit - s->lanes.barrier * p->logs;
}

/* A change of the barrier function below this is rounding. */
INLINE real merit_rounding(const barrier_state *s, const barrier_point *p) {
  const real size = lane_max(p->cost_scale / s->lanes.cost_unit, lane_abs(merit(s, p)));
  return R(16) * SCALAR_EPSILON * size;
}

/* Gaps below this are rounding. */
INLINE real gap_rounding(const barrier_state *s, const barrier_point *p) {
  return R(4) * SCALAR_EPSILON * R(s->horizon) * lane_max(ALL(1), p->largest_state);
}

/* Whether a filter's pair, or one of those before it, is at least as good in both. */
INLINE mask in_filter(const barrier_progress *lanes, real gap, real value) {
  mask found = lane_none();
  KEEP_LOOP for (int i = 0; i < FILTER_PAIRS; i++) {
    const mask dearer = lane_le(lanes->filter_merit[i] - GAP_MARGIN * lanes->filter_gap[i], value);
    found = lane_or(found, lane_and(lane_le((R(1) - GAP_MARGIN) * lanes->filter_gap[i], gap), dearer));
  }
  return found;
}

/* Adds the iterate's pair to the filters of some lanes, in the place of their oldest. */
OUTLINED void add_to_filter(barrier_progress *lanes, mask where, real gap, real value) {
  KEEP_LOOP for (int i = 0; i < FILTER_PAIRS; i++) {
    const mask here = lane_and(where, same_count(lanes->filter_count, i));
    lanes->filter_gap[i] = lane_select(here, gap, lanes->filter_gap[i]);
    lanes->filter_merit[i] = lane_select(here, value, lanes->filter_merit[i]);
  }
  lanes->filter_count -= where;
  const mask full = lane_more(lanes->filter_count, ALL_COUNTS(FILTER_PAIRS - 1));
  lanes->filter_count = lane_and(lanes->filter_count, lane_not(full));
}

OUTLINED void empty_filter(barrier_progress *lanes, mask where) {
  KEEP_LOOP for (int i = 0; i < FILTER_PAIRS; i++) {
    lanes->filter_gap[i] = lane_select(where, ALL(INFINITY), lanes->filter_gap[i]);
    lanes->filter_merit[i] = lane_select(where, ALL(-INFINITY), lanes->filter_merit[i]);
  }
  lanes->filter_count = lane_and(lanes->filter_count, lane_not(where));
}

/* What the candidates of a pass are judged by: the iterate, and what of its step does not depend on the length. */
typedef struct {
  real merit, gap, rounding, gap_rounding;
  real fall;                  /* promised by the slope */
  mask near;                  /* its gaps may be small enough for the barrier function to judge */
  real fall_power, gap_power; /* fall to the 2.3; gap to the 1.1; where near */
} measure;

OUTLINED measure measure_of(const barrier_state *s) {
  const barrier_point *p = &s->point;
  const real fall = lane_max(-s->slope, ALL(0));
  const mask near = lane_and(lane_lt(ALL(0), fall), lane_le(p->gap, s->lanes.little_gap));
  measure m = {merit(s, p), p->gap, merit_rounding(s, p), gap_rounding(s, p), fall, near, ALL(0), ALL(0)};
  if (!lane_any(lane_and(near, s->lanes.busy))) return m;
  m.fall_power = lane_pow(lane_select(near, fall, ALL(1)), ALL(2.3)); /* of 0 it is slow */
  m.gap_power = lane_pow(lane_select(lane_and(near, lane_lt(ALL(0), p->gap)), p->gap, ALL(1)), ALL(1.1));
  m.gap_power = lane_select(lane_lt(ALL(0), p->gap), m.gap_power, ALL(0));
  return m;
}

/* Which candidates may follow their iterates; `keep` are those whose iterate then goes into the filter. */
INLINE mask judge_candidates(const barrier_state *s, const measure *m, mask *keep) {
  const barrier_point *p = &s->candidate;
  const barrier_progress *lanes = &s->lanes;
  const real value = merit(s, p), change = value - m->merit;
  const mask finite = lane_and(lane_finite(value), lane_finite(p->gap));
  const mask by_merit = lane_and(m->near, lane_lt(m->gap_power, s->length * m->fall_power));
  const mask armijo = lane_le(change, m->rounding - BARRIER_ARMIJO * s->length * m->fall);
  const mask closer = lane_le(p->gap, (R(1) - GAP_MARGIN) * m->gap + m->gap_rounding);
  const mask cheaper = lane_le(change, m->rounding - GAP_MARGIN * m->gap);
  const mask progress = lane_or(lane_and(by_merit, armijo), lane_and(lane_not(by_merit), lane_or(closer, cheaper)));
  const mask near = lane_and(lane_le(p->gap, lane_min(lanes->most_gap, R(10) * lane_max(ALL(1), m->gap))), lane_not(in_filter(lanes, p->gap, value)));
  const mask regular = lane_and(progress, near);
  *keep = lane_not(lane_and(by_merit, armijo));
  return lane_and(regular, finite);
}

/* Where steps are cut again and again, the way is along a bend that straight steps leave: their gaps are of second order in
 * the length. There the step of full length that was refused is bent to the dynamics, and taken if the barrier function
 * falls as it has to; that gaps are closed is no merit of it. Returns the lanes that took it. */
RARE mask search_bent(barrier_state *s, const measure *m, mask pending) {
  const mask bends = lane_and(pending, lane_more(s->lanes.cuts, ALL_COUNTS(FEW_CUTS - 1))), rests = lane_not(bends);
  if (!lane_any(bends)) return bends;
  mask keep;
  const real open = where_on(bends, ALL(1) - s->length);
  const rollout_policy policy = {
      s->length, lane_max(ALL(0.99), ALL(1) - s->lanes.barrier), open, rests, lane_none(), rests,
  };
  adopt_candidates(s, lane_and(s->moves, lane_not(pending)));
  evaluate_policy(s, &policy);
  const mask admitted = lane_and(bends, judge_candidates(s, m, &keep));
  const real change = merit(s, &s->candidate) - m->merit;
  const mask good = lane_and(admitted, lane_le(change, m->rounding - BARRIER_ARMIJO * s->length * m->fall));
  add_to_filter(&s->lanes, lane_and(good, keep), m->gap, m->merit);
  adopt_candidates(s, good);
  s->moves = lane_and(pending, lane_not(good));
  return good;
}

/* Lanes that are to begin at the rollout of the controls that the call gives, or its states: part of a candidate. */
INLINE mask starting(const barrier_state *s) {
  return lane_and(unplaced(s), lane_more(ALL_COUNTS(1), s->lanes.attempt));
}

/* Candidates that a lane may begin at: finite, and none that leaves 100 times the size of x_0, unless the call gives it. */
INLINE mask sound_starts(const barrier_state *s) {
  const barrier_point *p = &s->candidate;
  real size = ALL(1);
  EACH(i, NX) size = lane_max(lane_abs(s->path[i]), size);
  const mask near = lane_or(lane_le(p->largest_state, R(100) * size), s->lanes.given);
  return lane_and(near, lane_and(lane_finite(p->cost), lane_finite(p->gap)));
}

/* Takes the candidates of the lanes that took a step and of those that start; nothing is copied where that is all that moves. */
INLINE void take_candidates(barrier_state *s, mask taken, mask starts, int all) {
  const mask sound = lane_and(starts, sound_starts(s)), where = lane_or(taken, sound);
  if (!lane_any(where)) return;
  s->lanes.placed = lane_or(s->lanes.placed, sound);
  if (all && !lane_any(lane_and(starts, lane_not(sound))))
    exchange_candidates(s, where);
  else
    adopt_candidates(s, where);
}

/* Takes the longest step that the filter admits, of those that the slacks allow; returns the lanes that took one. Those that
 * are `quiet` (see note_settled) take the longest: rounding alone would judge it. A lane whose step is admitted is evaluated
 * there again, to the same numbers, until all have theirs: so nothing is copied. Lanes that `start` are rolled out beside. */
FUNCTION mask search_lengths(barrier_state *s, mask pending, mask quiet, mask starts) {
  const mask all = pending;
  const mask rolls = lane_and(starts, lane_not(s->lanes.given));
  const measure m = measure_of(s);
  s->moves = pending;
  s->length = where_on(pending, s->longest);
  for (int halving = 0; halving < HALVINGS && lane_any(pending); halving++) {
    mask keep;
    evaluate_candidates(s, NULL, rolls);
    const mask admitted = judge_candidates(s, &m, &keep), sound = lane_and(quiet, lane_finite(s->candidate.gap));
    const mask good = lane_and(pending, lane_or(admitted, sound));
    add_to_filter(&s->lanes, lane_and(good, keep), m.gap, m.merit);
    pending = lane_and(pending, lane_not(good));
    if (!CONSTRAINED && halving == 0) pending = lane_and(pending, lane_not(search_bent(s, &m, pending)));
    s->length = lane_select(pending, R(0.5) * s->length, s->length);
  }
  if (lane_any(s->moves)) take_candidates(s, lane_and(s->moves, lane_not(pending)), starts, !lane_any(pending));
  return lane_and(all, lane_not(pending));
}

#if CONSTRAINED
/* The squares of what the rows of a rollout lack; infinite where it is none. */
RARE real restoring_squares(const barrier_state *s) {
  const mask near = lane_and(lane_finite(s->candidate.cost), lane_lt(s->candidate.largest_state, ALL(FARTHEST)));
  return lane_select(near, s->candidate.squares, ALL(INFINITY));
}

/* A restoration rolls its policy out, so that there are no gaps of the dynamics, and takes the longest step that lowers
 * the violation of the rows. The first one, from an iterate with gaps, takes the best, or the controls as they are: a
 * policy found across gaps may lead far away at any length. Returns the lanes that took one. */
RARE mask search_restoration(barrier_state *s, mask pending) {
  const mask all = pending, first = lane_lt(gap_rounding(s, &s->point), s->point.jumps);
  const real before = lane_select(first, ALL(INFINITY), s->point.squares);
  real least = before, best = ALL(1), length = ALL(1);
  mask as_given = lane_and(pending, first);
  if (lane_any(as_given)) {
    evaluate_rollout(s, ALL(0), ALL(1), as_given, lane_none(), lane_none());
    least = lane_select(as_given, restoring_squares(s), least);
  }
  for (int halving = 0; halving < HALVINGS && lane_any(pending); halving++) {
    evaluate_rollout(s, length, ALL(1), lane_none(), lane_none(), lane_none());
    const real squares = restoring_squares(s);
    const mask lower = lane_and(pending, lane_lt(squares, least));
    least = lane_select(lower, squares, least);
    best = lane_select(lower, length, best);
    as_given = lane_and(as_given, lane_not(lower));
    const mask good = lane_and(pending, lane_le(squares, (ALL(1) - R(1e-3) * length) * before));
    pending = lane_and(pending, lane_or(first, lane_not(good)));
    length = lane_select(pending, R(0.5) * length, length);
  }
  const mask found = lane_and(all, lane_or(lane_and(first, lane_lt(least, ALL(INFINITY))), lane_not(pending)));
  s->length = lane_select(all, best, s->length);
  evaluate_rollout(s, best, ALL(1), as_given, lane_none(), lane_none());
  adopt_candidates(s, found);
  return found;
}
#else
/* Closes gaps by a rollout of the policy, of a few lengths the cheapest; returns the lanes where one is finite. */
RARE mask search_rollouts(barrier_state *s, mask pending) {
  enum { TRIALS = 5 };
  static const scalar LENGTHS[TRIALS] = {1, R(0.5), R(0.25), R(0.1), 0};
  const real most = lane_max(ALL(0.99), ALL(1) - s->lanes.barrier);
  const measure m = measure_of(s);
  real least = ALL(INFINITY), best = ALL(0);
  for (int i = 0; i <= TRIALS; i++) {
    evaluate_rollout(s, i < TRIALS ? ALL(LENGTHS[i]) : best, most, lane_none(), lane_none(), lane_none());
    if (i == TRIALS) break; /* once more, the best one */
    const mask near = lane_lt(s->candidate.largest_state, ALL(FARTHEST));
    const real value = lane_select(near, merit(s, &s->candidate), ALL(INFINITY));
    const mask better = lane_lt(value, least);
    least = lane_select(better, value, least);
    best = lane_select(better, ALL(LENGTHS[i]), best);
  }
  const mask found = lane_and(pending, lane_finite(least));
  adopt_candidates(s, found);
  empty_filter(&s->lanes, found);
  add_to_filter(&s->lanes, found, m.gap, m.merit);
  return found;
}
#endif

#endif

/* From the interior point's step to the next iterate: a filter (Waechter and Biegler 2006, section 2.3) over the
 * barrier function and the gaps; where no length will do, a rollout of the policy closes the gaps. */
#ifndef MPCGEN_INTERIOR_POINT_SEARCH_H
#define MPCGEN_INTERIOR_POINT_SEARCH_H

#include "mpcgen_interior_point_candidates.h"

enum { HALVINGS = 13 };
#define GAP_MARGIN R(1e-5)     /* share of the gaps by which a step has to be better in gaps or in the barrier function */
#define BARRIER_ARMIJO R(1e-4)
#define FARTHEST R(1e8)        /* a rollout with larger states is none */
enum { FEW_CUTS = 2 };         /* after so many steps that were cut, the next is bent too */

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

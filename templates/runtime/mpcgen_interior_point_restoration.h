/* Restoration: the violation is lowered for itself where no step is acceptable, until it has halved, or is the least nearby. */
#ifndef MPCGEN_INTERIOR_POINT_RESTORATION_H
#define MPCGEN_INTERIOR_POINT_RESTORATION_H

#include "mpcgen_interior_point_infeasible.h"

#define STATIONARY R(1e-6)            /* share of the violation that a step has to promise, or it is the least */
#define LITTLE_PROMISED 0.01          /* the same share: a step that fails is regularised less, not more */
#define RESTORED_MULTIPLIER R(1e3)    /* the largest after restoration */
#define RESTORED (LINEAR_CONSTRAINTS ? 0.01 : 0.5) /* share of a violation that restoration leaves; a convex one has its least soon */
enum { MOST_RESTORATIONS = 20, RESTORING_FAILURES = 8 };
enum { MOST_CRAWL = 40 }; /* passes of a restoration that have not halved the squares of what the rows lack */

/* Lanes leave restoration: with multipliers and costates of the point that they have. */
INLINE void end_restoration(barrier_state *s, mask leaves) {
  barrier_progress *lanes = &s->lanes;
  if (!lane_any(leaves)) return;
  lanes->restoring = lane_and(lanes->restoring, lane_not(leaves));
  lanes->adjoint = lane_or(lanes->adjoint, leaves);
  lanes->shift = lane_select(leaves, ALL(0), lanes->shift);
  first_multipliers(s, leaves, RESTORED_MULTIPLIER * lanes->cost_unit);
}

/* Whether there is a violation to lower. */
INLINE mask has_violation(const barrier_state *s) {
  return lane_lt(lane_max(ALL(OPEN_GAP), stage_rounding(s)), s->point.violation);
}

/* Lanes that are to lower the violation before anything else, and have any: their first step is none of the barrier's. */
INLINE mask violation_first(barrier_state *s, mask ready) {
  barrier_progress *lanes = &s->lanes;
  const mask first = lane_and(lane_and(ready, lanes->violation_first), has_violation(s));
  lanes->violation_first = lane_and(lanes->violation_first, lane_not(ready));
  return first;
}

/* Lanes enter restoration where no step is acceptable and there is something to restore. They leave it where the
 * violation has halved, and the filter has nothing against the point. */
INLINE mask enter_restoration(barrier_state *s, mask stuck) {
  barrier_progress *lanes = &s->lanes;
  const mask may = lane_and(lane_not(lanes->restoring), lane_more(ALL_COUNTS(MOST_RESTORATIONS), lanes->restorations));
  const mask enters = lane_and(lane_and(stuck, may), is_open(s));
  add_to_filter(lanes, enters, s->point.gap, merit(s, &s->point));
  lanes->restoring = lane_or(lanes->restoring, enters);
  lanes->restorations -= enters;
  lanes->crawls = lane_and(lanes->crawls, lane_not(enters));
  lanes->squares_before = lane_select(enters, ALL(INFINITY), lanes->squares_before);
  lanes->violation_at_entry = lane_select(enters, s->point.gap, lanes->violation_at_entry);
  lanes->shift = lane_select(enters, ALL(0), lanes->shift);
  if (!lane_any(enters)) return enters;
  /* Slacks as restoration has them. What soft rows lack needs no restoration: their excesses take it. */
  s->length = lane_select(enters, ALL(0), s->length);
  s->moves = enters;
  evaluate_step(s);
  adopt_candidates(s, enters);
#if SOFT_ROWS
  lanes->violation_at_entry = lane_select(enters, s->point.gap, lanes->violation_at_entry);
  end_restoration(s, lane_and(enters, lane_not(is_open(s))));
#endif
  return enters;
}

/* What a restoration's step promises of the squares of what the rows lack: a share of them. */
INLINE real promised_share(const barrier_state *s) {
  const mask any = lane_lt(ALL(0), s->point.squares);
  return lane_select(any, -s->violation_slope / (s->row_unit * lane_select(any, s->point.squares, ALL(1))), ALL(0));
}

/* Restorations whose step promises little and is regularised: that it fails may be for the regularisation alone. */
INLINE mask is_timid(const barrier_state *s, mask restored) {
  const mask little = lane_lt(promised_share(s), ALL(LITTLE_PROMISED));
  return lane_and(lane_and(restored, little), lane_lt(ALL(0), s->lanes.shift));
}

/* Whether the dynamics have no gaps but rounding. */
INLINE mask is_closed(const barrier_state *s) { return lane_le(s->point.jumps, gap_rounding(s, &s->point)); }

/* Where a step that is not regularised promises next to nothing of the violation where it begins, that is least, nearby at
 * least. Before the step is taken: of another point it promises nothing. */
INLINE void note_least_violation(barrier_state *s, mask restored) {
  barrier_progress *lanes = &s->lanes;
  const mask flat = lane_and(lane_le(promised_share(s), ALL(STATIONARY)), is_closed(s));
  const mask plain = lane_eq(lanes->shift, ALL(0));
  lanes->unrestorable = lane_or(lanes->unrestorable, lane_and(lane_and(restored, flat), lane_and(plain, is_violated(s))));
}

/* And where no step lowers it any more. Of curved dynamics with gaps that says nothing: what it goes wrong by may be that no
 * rollout has numbers. That attempt is over. */
INLINE void note_unrestorable(barrier_state *s, mask ready) {
  const mask failed = lane_and(ready, lane_more(s->lanes.restoring_failures, ALL_COUNTS(RESTORING_FAILURES)));
  const mask closed = LINEAR_CONSTRAINTS ? lane_all() : is_closed(s);
  s->lanes.unrestorable = lane_or(s->lanes.unrestorable, lane_and(lane_and(failed, closed), is_violated(s)));
  const mask over = lane_and(failed, lane_not(closed));
  s->lanes.failures = lane_or(lane_and(s->lanes.failures, lane_not(over)), lane_and(ALL_COUNTS(MOST_FAILURES + 1), over));
}

INLINE void leave_restoration(barrier_state *s, mask stepped) {
  barrier_progress *lanes = &s->lanes;
  const real gap = s->point.gap, before = lanes->violation_at_entry;
  const mask acceptable = lane_or(lane_not(in_filter(lanes, gap, merit(s, &s->point))), lane_le(gap, R(1e-2) * before));
  const mask lowered = lane_le(gap, R(RESTORED) * before);
  const mask leaves = lane_and(lane_and(lanes->restoring, stepped), lane_and(lowered, acceptable));
  end_restoration(s, leaves);
}

/* Restorations that crawl: the attempt is lost, whatever the violation is. */
INLINE void note_crawl(barrier_state *s, mask restored) {
  barrier_progress *lanes = &s->lanes;
  const mask halved = lane_and(restored, lane_le(s->point.squares, R(0.5) * lanes->squares_before));
  lanes->squares_before = lane_select(halved, s->point.squares, lanes->squares_before);
  lanes->crawls = lane_and(lanes->crawls - restored, lane_not(halved));
  lanes->crawling = lane_and(lanes->restoring, lane_more(lanes->crawls, ALL_COUNTS(MOST_CRAWL - 1)));
}

#endif

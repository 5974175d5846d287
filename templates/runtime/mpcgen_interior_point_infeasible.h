/* When a problem is called INFEASIBLE: what its rows lack where an attempt began, and where it has ended. */
#ifndef MPCGEN_INTERIOR_POINT_INFEASIBLE_H
#define MPCGEN_INTERIOR_POINT_INFEASIBLE_H

#include "mpcgen_interior_point_attempts.h"

#define LITTLE_LEFT R(0.2) /* of what a row lacked where an attempt began, if rows are curved: less is not called infeasible */
enum { FEW_MISSES = LINEAR_CONSTRAINTS ? 1 : 3 }; /* attempts that have to find no feasible point */
enum { MOST_FAILURES = 14 }; /* steps in a row that no length makes acceptable */

#if CONSTRAINED
/* What hard rows lack at most over the stages, each: those of the path, then those of the end. */
OUTLINED void find_lacks(const barrier_state *s, real *lack) {
  for (int i = 0; i < NPATH + NEND; i++) lack[i] = ALL(0);
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    real *most = lack + (t < s->horizon ? 0 : NPATH);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const real value = row[s->at_iterate + ROW_VALUE];
      real lacks = lane_max(-low_room(&r, value), -high_room(&r, value));
      if (s->equalities) lacks = lane_max(lacks, lane_abs(equality_lack(&r, value)));
      most[i] = lane_max(where_on(is_hard(&r), lacks), most[i]);
    }
  }
}

OUTLINED void keep_first_lacks(barrier_state *s, mask where) {
  real lack[NPATH + NEND];
  find_lacks(s, lack);
  for (int i = 0; i < NPATH + NEND; i++) s->first_lack[i] = lane_select(where, lack[i], s->first_lack[i]);
}

/* Where every row lacks little of what it lacked where the attempt began. Rows have units of their own. */
RARE mask is_little_left(const barrier_state *s) {
  real lack[NPATH + NEND];
  mask little = lane_all();
  find_lacks(s, lack);
  for (int i = 0; i < NPATH + NEND; i++) little = lane_and(little, lane_le(lack[i], LITTLE_LEFT * s->first_lack[i]));
  return little;
}

/* Attempts that end where the violation is least, at least nearby, if it is more than a little. */
RARE mask is_missed(const barrier_state *s) {
  const mask least = s->lanes.unrestorable;
  if (LINEAR_CONSTRAINTS || !lane_any(least)) return least;
  return lane_and(least, lane_not(is_little_left(s)));
}

/* Counts a lane's attempt that has ended so: once, and no neighbour's. */
RARE void note_missed(barrier_state *s, int k) {
  const mask missed = is_missed(s);
  if (lane_test(&missed, k)) lane_recount(&s->lanes.misses, k, lane_count(&s->lanes.misses, k) + 1);
}

/* After the last attempt, or pass: where the violation is least, or was for those before, and none came to a feasible point. */
INLINE void decide_infeasible(barrier_state *s, verdict *v, mask last_pass) {
  barrier_progress *lanes = &s->lanes;
  const mask fails = lane_or(lanes->crawling, lane_more(lanes->failures, ALL_COUNTS(MOST_FAILURES)));
  const mask last = lane_more(lanes->attempt, ALL_COUNTS(MOST_ATTEMPTS - 1));
  const mask spent = lane_or(last_pass, lane_and(last, lane_not(lane_more(lanes->attempt_end, lanes->iterations))));
  const mask ends = lane_or(lanes->unrestorable, fails);
  if (!lane_any(lane_or(ends, spent))) return;
#if SOFT_ROWS
  if (lane_any(ends)) decide(v, lane_and(ends, all_soft(s)), STALLED);
#endif
  const mask feasible = lane_le(lane_min(lanes->least_violation, s->point.violation), certain_violation(s));
  const mask missed = lane_more(lanes->misses - is_missed(s), ALL_COUNTS(FEW_MISSES - 1));
  decide(v, lane_and(lane_and(lane_or(ends, spent), missed), lane_not(feasible)), INFEASIBLE);
  decide(v, ends, STALLED);
}
#endif

#endif

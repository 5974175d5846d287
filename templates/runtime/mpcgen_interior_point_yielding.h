/* Corrected steps with rows that yield, where those with hard rows make no headway: there may be no feasible point.
 *
 * Rows then may lack e, which costs e^2 / (2 yield) and outweighs the cost of the problem: g + s = e, and e = yield z. So they give
 * way by delta = yield, and what is a regularisation elsewhere is part of the problem here. This one always has a solution, and is
 * as linear-quadratic as the other: corrected steps find it, or come to a feasible point before, where rows are hard again. At the
 * solution the violation is the least, and the multipliers prove that there is no feasible point. */
#ifndef MPCGEN_INTERIOR_POINT_YIELDING_H
#define MPCGEN_INTERIOR_POINT_YIELDING_H

#include "mpcgen_interior_point_restoration.h"

#if QUADRATIC_PROGRAM

#define FIRST_YIELDED R(0.1)  /* share of the violation that a row yields at its bound where the steps begin */
#define YIELDED_PRODUCT R(MPCGEN_PRECISION == 64 ? 1e-6 : 1e-5) /* share of what the violation costs that products may be where it is the least, to this share */
#define PROVING_SHARE R(0.1)  /* and that what the first-order conditions lack may be worth: of less than all of it, it is a proof, */
#define OUTWEIGHED R(MPCGEN_PRECISION == 64 ? 1e-2 : 0.1) /* if the cost, too, is no more than this share of it */

/* Gives the rows of some lanes slacks whose product with what they then lack is the same for all of them. */
RARE void centre_slacks(barrier_state *s, mask where, real product) {
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const reals now = row + s->at_iterate;
      const real low = slack_near(low_room(&r, now[ROW_VALUE]), ALL(0), product);
      const real high = slack_near(high_room(&r, now[ROW_VALUE]), ALL(0), product);
      now[LOW_SLACK] = lane_select(lane_and(where, r.has_lower), low, now[LOW_SLACK]);
      now[HIGH_SLACK] = lane_select(lane_and(where, r.has_upper), high, now[HIGH_SLACK]);
    }
  }
}

/* What corrected steps remember of those before is of other rows. */
INLINE void forget_steps(barrier_progress *lanes, mask where) {
  lanes->slow = lane_and(lanes->slow, lane_not(where));
  lanes->gap_before = lane_select(where, ALL(INFINITY), lanes->gap_before);
  lanes->product_before = lane_select(where, ALL(INFINITY), lanes->product_before);
  lanes->share = lane_select(where, ALL(1), lanes->share);
  lanes->adjoint = lane_or(lanes->adjoint, where);
  lanes->shift = lane_select(where, ALL(0), lanes->shift);
}

RARE void begin_yielding(barrier_state *s, mask where) {
  barrier_progress *lanes = &s->lanes;
  const real width = FIRST_YIELDED * s->point.violation, product = width * width, weight = weight_of_violation(s);
  lanes->yielded = lane_or(lanes->yielded, where);
  lanes->yield = lane_select(where, ALL(1) / weight, lanes->yield);
  lanes->barrier = lane_select(where, product * weight / lanes->cost_unit, lanes->barrier);
  lanes->violation_at_entry = lane_select(where, s->point.violation, lanes->violation_at_entry);
  start_inside(s, where);
  centre_slacks(s, where, product);
  first_multipliers(s, where, ALL(INFINITY)); /* so that what a row lacks is `yield` times them */
  s->length = lane_select(where, ALL(0), s->length);
  s->moves = where;
  evaluate_step(s);
  adopt_candidates(s, where);
  forget_steps(lanes, where);
}

RARE void end_yielding(barrier_state *s, mask where) {
  barrier_progress *lanes = &s->lanes;
  lanes->yield = lane_select(where, ALL(0), lanes->yield);
  lanes->barrier = lane_select(where, ALL(FIRST_BARRIER), lanes->barrier);
  first_multipliers(s, where, RESTORED_MULTIPLIER * lanes->cost_unit);
  forget_steps(lanes, where);
}

/* Where the violation is the least: multipliers z of rows that give way by yield z prove it by what products and residuals leave of
 * z e. A point that obeyed the rows would have a z (room) of zero or more; and that is, by the first-order conditions, no more
 * than the products, the residuals times the way there, and what it costs more, less z e. Where the cost is much beside that, as where
 * controls without bounds have gone far, there may be such a point: restoration, which has no cost, goes on from here. */
RARE mask is_least_violation(const barrier_state *s, mask yields) {
  const barrier_summary *summary = &s->summary;
  const real violation = s->point.violation, worth = violation * violation / lane_select(yields, s->lanes.yield, ALL(1));
  const real open_u = R(2 * NU) * summary->dual_u, open_x = R(2 * NX) * s->point.largest_state * summary->dual_x;
  const mask small = lane_le(R(s->horizon) * (open_u + open_x), PROVING_SHARE * worth);
  const mask central = lane_le(summary->product_sum, YIELDED_PRODUCT * worth);
  const mask outweighed = lane_le(size_of_costs(s), OUTWEIGHED * worth);
  return lane_and(lane_and(is_closed(s), is_violated(s)), lane_and(outweighed, lane_and(small, central)));
}

/* Corrected steps with yielding rows that have come to a feasible point, but for little, or to the least violation. */
RARE void note_yielded(barrier_state *s, mask yields) {
  barrier_progress *lanes = &s->lanes;
  const mask restored = lane_and(yields, lane_le(s->point.violation, R(RESTORED) * lanes->violation_at_entry));
  const mask least = lane_and(lane_and(yields, lane_not(restored)), is_least_violation(s, yields));
  const mask ends = lane_or(restored, least);
  lanes->unrestorable = lane_or(lanes->unrestorable, least);
  if (lane_any(ends)) end_yielding(s, ends);
}

/* Attempts whose corrected steps make no headway. First their rows yield. Where that was no help either, the violation, if there
 * is any, is lowered by restoration. Most end soon after that; the others have been led astray and begin anew without such steps.
 * Those that began at a solution begin anew without that at once, unless the call has few passes; see begin_anew. */
INLINE void note_slow(barrier_state *s, mask corrected) {
  barrier_progress *lanes = &s->lanes;
  const mask yields = lane_and(corrected, yielding(s));
  const real gap = lane_select(yields, s->point.jumps, s->point.gap), product = mean_product(s);
  const mask closed = lane_le(gap, lane_max(ALL(OPEN_GAP), gap_rounding(s, &s->point))), closer = lane_le(gap, R(0.5) * lanes->gap_before);
  const mask less = lane_le(product, R(0.5) * lanes->product_before);
  const mask anew = lane_and(corrected, lane_or(lane_and(closed, less), lane_and(closer, lane_not(closed))));
  lanes->gap_before = lane_select(anew, gap, lanes->gap_before);
  lanes->product_before = lane_select(anew, product, lanes->product_before);
  lanes->slow = lane_and(lanes->slow - corrected, lane_not(anew));
  lanes->share = lane_select(corrected, lane_min(s->length, s->dual_length), lanes->share);
  if (lane_any(yields)) note_yielded(s, yields);
  const mask far = lane_and(lanes->warm, lane_lt(lanes->share, ALL(FAR_SHARE)));
  const mask slow = lane_and(corrected, lane_or(far, lane_more(lanes->slow, ALL_COUNTS(SLOW))));
  const mask begins = lane_and(lane_and(slow, has_violation(s)), lane_not(lane_or(far, lanes->yielded)));
  const mask strays = lane_and(slow, lane_not(begins)), gives_up = lane_and(strays, yielding(s));
  if (lane_any(gives_up)) end_yielding(s, gives_up);
  if (lane_any(begins)) begin_yielding(s, begins);
  lanes->direct = lane_and(lanes->direct, lane_not(strays));
  const counts end = lanes->iterations + ALL_COUNTS(STRAYED);
  lanes->strays = lane_or(lanes->strays, strays);
  lanes->attempt_end = lane_or(lane_and(strays, end), lane_and(lane_not(strays), lanes->attempt_end));
  lanes->violation_first = lane_or(lanes->violation_first, lane_and(strays, lane_not(far)));
  lanes->barrier = lane_select(strays, lane_min(product / lanes->cost_unit, ALL(1)), lanes->barrier);
}

#endif

#endif

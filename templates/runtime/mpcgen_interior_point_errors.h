/* What an iterate of the interior point lacks of a solution, and how the barrier parameter follows it. */
#ifndef MPCGEN_INTERIOR_POINT_ERRORS_H
#define MPCGEN_INTERIOR_POINT_ERRORS_H

#include "mpcgen_interior_point_warm.h"

#define LEAST_TOLERANCE R(1e-12)
#define LEAST_SHIFT_UNIT 1e-10
#define VIOLATED R(1e-4)    /* less than that is never called infeasible */
#define VIOLATED_DIGITS 1e5 /* nor less than so many roundings of the largest state */
#define LEAST_BARRIER R(0.1) /* share of what the dual part has to come down to */
#define LEAST_STEP R(100 * SCALAR_EPSILON) /* share of a control's unit: less is none, whatever the tolerance */
#define POLISHED_BARRIER R(1e-2) /* share of that, in steps after a solution */
#define POLISHED_RESIDUAL 4      /* then of so many tolerances: rounding of costates, which do not tell what holds */
enum { STALE = 8 };   /* passes without progress */
enum { SETTLED = 3 }; /* passes of a settled iterate until nothing better is expected */

/* Errors of the first-order conditions, in units of cost; those of multipliers are divided by the multipliers' mean
 * size where it is above 100 (Waechter and Biegler 2006, equations (5) and (6)). */
typedef struct {
  real dual, gap;
  real least_product, largest_product, product_scale;
} barrier_errors;

INLINE barrier_errors errors_of(const barrier_state *s) {
  const barrier_summary *summary = &s->summary;
  const real over = ALL(1) / s->lanes.cost_unit, sides = summary->sides;
  const real bounds = summary->multiplier_sum * over, costates = summary->costate_sum * over;
  const real mean = (bounds + costates) / (sides + ALL(s->horizon * NX));
  const real dual_scale = lane_max(ALL(1), R(0.01) * mean);
  const real largest = lane_max(summary->dual_x, summary->dual_u);
  const barrier_errors e = {
      largest * over / dual_scale,
      s->point.largest_gap,
      summary->least_product * over,
      summary->largest_product * over,
      lane_max(ALL(1), R(0.01) * bounds / lane_max(sides, ALL(1))),
  };
  return e;
}

INLINE real product_error(const barrier_errors *e, real mu) {
  return lane_max(lane_max(e->largest_product - mu, mu - e->least_product), ALL(0)) / e->product_scale;
}

/* The present cost as a share of the first, at most one; and one where it is no number. */
INLINE real share_left(const barrier_state *s) {
  const real cost = (size_of_costs(s) + s->summary.gradient_sum) / s->lanes.cost_unit;
  return lane_min(cost / COST_IN_UNITS, ALL(1));
}

/* No tolerance is less: beside the units it would be rounding. */
INLINE real least_tolerance(void) { return ALL(LEAST_TOLERANCE + 100 * SCALAR_EPSILON); }

/* What the dual part has to come down to: the tolerance, of a cost that has fallen below its first a share. */
INLINE real dual_tolerance(const barrier_state *s, scalar tolerance) {
  return lane_max(least_tolerance(), R(tolerance) * share_left(s));
}

/* What shifts are counted in: they stand beside a Hessian, which shrinks with the cost, and one that a first cost of 1e4
 * times the present asks for would leave steps as short as a gradient's. With constraints the Hessian is the rows'. */
INLINE real shift_unit(const barrier_state *s) {
  return CONSTRAINED ? ALL(1) : lane_max(ALL(LEAST_SHIFT_UNIT), share_left(s));
}

INLINE void forget_best(barrier_progress *lanes, mask where) {
  lanes->best_gap = lane_select(where, ALL(INFINITY), lanes->best_gap);
  lanes->best_error = lane_select(where, ALL(INFINITY), lanes->best_error);
  lanes->stale = lane_and(lanes->stale, lane_not(where));
}

/* Where neither the gaps nor the errors of the barrier problem have fallen by a fifth for some passes, what is done
 * about a Hessian that is not convex goes the other way round. */
INLINE void note_progress(barrier_state *s, mask where, const barrier_errors *e) {
  barrier_progress *lanes = &s->lanes;
  const real error = lane_max(lane_max(e->dual, e->gap), product_error(e, lanes->barrier));
  const mask better = lane_and(where, lane_or(lane_lt(s->point.gap, R(0.8) * lanes->best_gap),
                                              lane_lt(error, R(0.8) * lanes->best_error)));
  lanes->best_gap = lane_select(where, lane_min(s->point.gap, lanes->best_gap), lanes->best_gap);
  lanes->best_error = lane_select(where, lane_min(error, lanes->best_error), lanes->best_error);
  lanes->stale = lane_and(lanes->stale - where, lane_not(better));
  const mask flips = lane_and(where, lane_more(lanes->stale, ALL_COUNTS(STALE - 1)));
  lanes->shift_first ^= flips;
  forget_best(lanes, flips);
}

/* Whether the barrier parameter is as low as it is to become, up to what a cost that still falls changes of that. */
INLINE mask is_lowest(real barrier, real least) { return lane_le(barrier, R(2) * least); }

/* Whether a lane's last step was one after a solution. */
INLINE int was_solved(const barrier_state *s, int k) {
#if POLISHES
  return lane_test(&s->lanes.busy, k) && lane_count(&s->lanes.polishing, k) > 0;
#else
  (void)s, (void)k;
  return 0;
#endif
}

/* Lanes whose steps are those after a solution. */
INLINE mask in_polishing(const barrier_state *s) {
#if POLISHES
  return lane_more(s->lanes.polishing, ALL_COUNTS(0));
#else
  (void)s;
  return lane_none();
#endif
}

/* What the barrier parameter comes down to. */
INLINE real least_barrier(const barrier_state *s, scalar tolerance) {
  const real least = LEAST_BARRIER * dual_tolerance(s, tolerance);
  return POLISHES ? lane_select(in_polishing(s), POLISHED_BARRIER * least, least) : least;
}

/* Lowers the barrier parameter while the barrier problem is solved to ten times it (same paper, equation (7)), or to
 * rounding. */
OUTLINED void lower_barrier(barrier_state *s, mask where, const barrier_errors *e, real least) {
  const real before = s->lanes.barrier;
  const mask settled = lane_and(lane_or(lane_more(s->lanes.settled, ALL_COUNTS(0)), in_polishing(s)), lane_not(is_lowest(before, least)));
  for (int i = 0; i < 4; i++) {
    const real mu = s->lanes.barrier;
    const real error = lane_max(lane_max(e->dual, e->gap), product_error(e, mu));
    const mask solved = lane_and(where, lane_or(lane_le(error, R(10) * mu), i == 0 ? settled : lane_none()));
    const real lower = lane_max(least, lane_min(R(0.2) * mu, mu * lane_sqrt(mu)));
    s->lanes.barrier = lane_select(solved, lower, mu);
  }
  const mask lowered = lane_lt(s->lanes.barrier, before);
  empty_filter(&s->lanes, lowered);
  forget_best(&s->lanes, lowered);
  const mask moved = lane_lt(s->lanes.barrier, R(0.5) * before);
  s->lanes.settled = lane_and(s->lanes.settled, lane_not(moved));
  s->lanes.best_product = lane_select(moved, ALL(INFINITY), s->lanes.best_product);
}

/* A gap of a stage below this is rounding. */
INLINE real stage_rounding(const barrier_state *s) {
  return R(16) * gap_rounding(s, &s->point) / ALL(s->horizon);
}

/* What there is to restore: gaps that are neither little nor rounding. */
INLINE mask is_open(const barrier_state *s) {
  return lane_lt(lane_max(ALL(OPEN_GAP), gap_rounding(s, &s->point)), s->point.gap);
}

/* What closing the gaps of the dynamics is worth in the barrier function, at most: costates are its prices. */
INLINE real worth_of_gaps(const barrier_state *s, const barrier_errors *e) {
  return s->summary.costate_sum / s->lanes.cost_unit * e->gap;
}

/* What a step may promise of the barrier function and be worthless: rounding, that of the gaps included; of a step that is none
 * in units of the controls, rounding of the first cost, as the present one may be zero but for rounding. */
INLINE real worth_of_rounding(const barrier_state *s, const barrier_errors *e) {
  const real rounding = merit_rounding(s, &s->point) + worth_of_gaps(s, e), first = ALL(16 * SCALAR_EPSILON) * COST_IN_UNITS;
  return lane_select(lane_le(s->step_size, ALL(LEAST_STEP)), lane_max(rounding, first), rounding);
}

/* Whether a lane's step is that of a solution: small in units of the controls, worth no more of the barrier function than
 * rounding, and leaving no gaps but rounding. Counts the passes in a row in which it was so with all second derivatives
 * and no shift, and what the products lack did not fall: what the first-order conditions lack then is what rounding of
 * costates, states and multipliers makes of them, and no step will take it away. */
INLINE mask note_settled(barrier_state *s, mask ready, const barrier_errors *e, scalar tolerance) {
  barrier_progress *lanes = &s->lanes;
  const mask small = lane_le(s->step_size, ALL(tolerance > LEAST_STEP ? tolerance : LEAST_STEP));
  const mask worthless = lane_le(lane_abs(s->slope), worth_of_rounding(s, e));
  const mask quiet = lane_and(lane_and(ready, small), lane_and(worthless, lane_le(e->gap, stage_rounding(s))));
  const mask plain = lane_and(lane_eq(lanes->shift, ALL(0)), lane_eq(lanes->second_order, ALL(1)));
  const real product = product_error(e, ALL(0));
  const mask falls = lane_lt(product, R(0.75) * lanes->best_product);
  const mask stays = lane_or(lane_le(product, dual_tolerance(s, tolerance)), lane_not(falls));
  const mask settles = lane_and(lane_and(quiet, plain), stays);
  lanes->best_product = lane_select(ready, lane_min(product, lanes->best_product), lanes->best_product);
  lanes->settled = lane_and(lanes->settled - settles, lane_or(settles, lane_not(ready)));
  return quiet;
}

/* A violation beyond this is one. */
INLINE real certain_violation(const barrier_state *s) {
  return lane_max(ALL(VIOLATED), R(VIOLATED_DIGITS) * SCALAR_EPSILON * s->point.largest_state);
}

INLINE mask is_violated(const barrier_state *s) {
  return lane_lt(certain_violation(s), s->point.violation);
}

#endif

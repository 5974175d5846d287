/* What happens to the interior point's lanes between passes: the barrier parameter, regularisation, and how a problem
 * ends. */
#ifndef MPCGEN_INTERIOR_POINT_CONTROL_H
#define MPCGEN_INTERIOR_POINT_CONTROL_H

#include "mpcgen_interior_point_convex.h"
#include "mpcgen_interior_point_yielding.h"

#define FIRST_SHIFT R(1e-4)           /* shifts but those of MOST_MEMORY and HOPELESS_SHIFT are times shift_unit */
#define SHIFT_GROWN R(8)              /* times one that did not do */
#define TINY_SHIFT R(1e-2)            /* with constraints a smaller one that does not do is multiplied by more, as rarely one will */
#define FIRST_QUICK_SHIFT R(0.1)      /* with constraints, where shifts are not plain: the first, */
#define QUICK_SHIFT_GROWN R(4)        /* what one that did not do is multiplied by, */
#define BACK_TO_ENOUGH R(0.3)         /* and the least share that it tries of the last that did after a refusal */
#define SHIFT_AFTER_FAILURE R(1e-3)
#define LEAST_SHIFT R(1e-7)
#define SHORT_STEP 0.2                /* share of what the slacks allow of a step */
#define SHIFT_GROWTH R(1.4)           /* after a short step: with 4, long horizons crawl at shifts that no pivot asks for */
#define RESTORING_GROWTH R(10)        /* the same in restoration, which crawls where steps that nothing regularises are cut */
#define LIGHTER R(0.5)                /* share of the weight of second derivatives after a refusal, none after another one; */
#define CURVED_BARRIER R(0.1)         /* above this barrier, where hardly any Hessian is convex with them, none at once */
#define LOOSER R(100)                 /* where the rows' weights may hide curvature, the next sweep's delta is this much larger */
#define MOST_MEMORY R(1e5)            /* short steps raise the shift to no more */
#define HOPELESS_SHIFT R(1e18)
#define TINY_STEP R(0.1)
#define LARGE_STEP R(0.5)
#define NEAR_STEP R(1e-2)             /* share of a control's unit: full steps of less come to a solution, */
#define STAYING_PRODUCT R(30)         /* of slack and multiplier: the barrier times so much, after full steps, is what delta leaves */
#define SLOW_FALL R(0.1)              /* slowly where the next one is more than this share of it */
#define MOST_RISE R(0.2)              /* of the weight of second derivatives after a step of the first attempt, */
#define MOST_PLAIN_RISE R(0.25)       /* and where shifts are plain */
#define RISE_AFTER_REFUSAL R(0.1)    /* where a sweep had to leave them out, the next would soon have to again: slower then, */
#define RISE_GROWTH R(1.1)            /* and faster with every step */
#define NEAR_RISE R(0.1)             /* share of a control's unit: after full steps of less, without a shift, all of them are back */
#define TELLING_STEP R(1. / 6)        /* after a shorter one, of a whole that asks for more than a control's unit, the weight */
#define RISE_UNTOLD R(0.1)            /* grows by this share: there the model says little of where it leads, and more is seldom convex */
#define RESTING_STEP R(1e-2)  /* share of a control's unit: an attempt rests whose shifted steps stay below it for MOST_REST */
#define RESTING_FALL R(3e-3)  /* passes, and have not changed the cost by this share of it, */
#define RESTING_SHIFT R(1e-2) /* if the shift is above that, or on the states too: those below it leave Newton's steps */
enum { MOST_REST = 20 };

/* Where the costates are those of the trajectory: the gaps that its steps may have. */
INLINE void limit_gaps(barrier_state *s, mask where) {
  const real size = lane_max(ALL(1), s->point.gap);
  s->lanes.most_gap = lane_select(where, R(1e4) * size, s->lanes.most_gap);
  s->lanes.little_gap = lane_select(where, R(1e-4) * size, s->lanes.little_gap);
  s->lanes.adjoint = lane_and(s->lanes.adjoint, lane_not(where));
}

/* The next sweep weighs rows less, and so do those after it. */
INLINE void loosen_next(barrier_progress *lanes, mask where) {
  lanes->looseness = lane_select(where, LOOSER * lanes->looseness, lanes->looseness);
  lanes->least_looseness = lane_select(where, lanes->looseness, lanes->least_looseness);
}

/* Keeps the shift with which a sweep was accepted after one that was refused. */
INLINE void note_enough(barrier_progress *lanes, mask accepted) {
  const mask shifted = lane_and(lanes->refused, lane_lt(ALL(0), lanes->shift));
  const mask enough = lane_and(lane_and(accepted, shifted), lane_not(lanes->restoring));
  lanes->enough = lane_select(enough, lanes->shift, lanes->enough);
}

/* What follows a shift that did not do, or none: a first attempt's with constraints begins with more and grows by less, from what did
 * before. Where later ones had that, too, 3 of 600,000 corridors were called INFEASIBLE. */
INLINE real raised_shift(const barrier_state *s, real now) {
  const barrier_progress *lanes = &s->lanes;
  const mask quick = CONSTRAINED ? lane_not(lane_or(shifts_plainly(s), lanes->restoring)) : lane_none();
  const mask tiny = CONSTRAINED ? lane_lt(now, ALL(TINY_SHIFT)) : lane_none();
  const real growth = lane_select(tiny, ALL(100), lane_select(quick, ALL(QUICK_SHIFT_GROWN), ALL(SHIFT_GROWN)));
  const real first = lane_select(quick, ALL(FIRST_QUICK_SHIFT), ALL(FIRST_SHIFT)) * shift_unit(s);
  const real raised = lane_select(lane_lt(ALL(0), now), growth * now, first);
  return CONSTRAINED ? lane_max(raised, where_on(quick, BACK_TO_ENOUGH * lanes->enough)) : raised;
}

/* A sweep met a Quu that is not positive definite. With constraints, the next weighs rows less, if rounding of their weights
 * may hide that it is; or weighs the second derivatives of dynamics and rows less, and at the second refusal in a row, or beside a
 * large barrier, leaves them out. Where that is no help, or has not been of late, more of a shift. */
INLINE void convexify_next(barrier_state *s, mask all) {
  barrier_progress *lanes = &s->lanes;
  const mask hidden = CONSTRAINED ? lane_and(s->summary.hidden, lane_not(sets_cost_aside(s))) : lane_none();
  const mask loosens = lane_and(lane_and(all, hidden), lane_lt(lanes->looseness, ALL(LOOSEST)));
  const mask refused = lane_and(all, lane_not(loosens));
  if (CONSTRAINED) loosen_next(lanes, loosens);
  const real now = lanes->shift;
  const mask flat = lane_and(lane_lt(ALL(0), lanes->second_order), lane_not(lane_or(lanes->shift_first, sets_cost_aside(s))));
  const mask leaves_out = CONSTRAINED ? lane_and(refused, flat) : lane_none();
  const real raised = raised_shift(s, now);
  if (CONSTRAINED) note_enough(lanes, lane_not(all));
  lanes->shift = lane_select(lane_and(refused, lane_not(leaves_out)), raised, now);
  if (QUADRATIC_PROGRAM) lanes->direct = lane_and(lanes->direct, lane_or(yielding(s), lane_not(refused)));
  const mask hardly = lane_or(lanes->refused, lane_le(ALL(CURVED_BARRIER), lanes->barrier)); /* refused: the sweep before, too */
  const real lighter = lane_select(hardly, ALL(0), LIGHTER * lanes->second_order);
  lanes->second_order = lane_select(leaves_out, lighter, lanes->second_order);
  lanes->rise = lane_select(leaves_out, ALL(RISE_AFTER_REFUSAL), lanes->rise);
}

/* Which of the solved iterates that no minima seem may be some but for rounding: the weights of rows are so large that theirs
 * hides what curvature there is over the controls. These are asked again with smaller ones, beside which a Hessian is positive
 * definite only if it is beside larger ones. */
INLINE mask may_be_rounding(const barrier_state *s, mask concave) {
  const barrier_progress *lanes = &s->lanes;
  if (!CONSTRAINED) return lane_none();
  return lane_and(lane_and(concave, lanes->certifying), lane_lt(lanes->looseness, ALL(LOOSEST)));
}

/* Gives the lanes that begin what their first trajectory and its costates say. */
OUTLINED void begin_barrier(barrier_state *s, mask where) {
  take_units(s, where);
#if CONSTRAINED
  keep_first_lacks(s, where);
#endif
  limit_gaps(s, where);
}

/* After a sweep: which lanes have finished, and with which status; the others go on. */
OUTLINED counts review_barrier(barrier_state *s, const solve_arguments *a) {
  barrier_progress *lanes = &s->lanes;
  const mask begun = lane_and(lanes->busy, lane_not(lanes->begins));
  const barrier_errors e = errors_of(s);
  const scalar tolerance = (scalar)a->tolerance;
  const real allowed = dual_tolerance(s, tolerance);
  const real relative = lane_max(e.dual, product_error(&e, ALL(0))) * (R(tolerance) / allowed);
  const real gap = lane_select(lane_le(e.gap, stage_rounding(s)), ALL(0), e.gap);
  s->residual = lane_maximum(relative, gap); /* NaN where either is */
  const mask sound = lane_and(lane_finite(s->residual), lane_finite(s->point.gap));
  const mask settled = lane_more(lanes->settled, ALL_COUNTS(SETTLED - 1));
  const mask at_limit = lane_and(settled, is_lowest(lanes->barrier, LEAST_BARRIER * allowed));
  const real most = POLISHES ? lane_select(in_polishing(s), ALL(POLISHED_RESIDUAL * tolerance), ALL(tolerance)) : ALL(tolerance);
  const mask small = lane_or(lane_and(lane_le(relative, most), lane_le(gap, ALL(tolerance))), at_limit);
  const mask reached = lane_and(small, lane_and(sound, lane_not(sets_cost_aside(s))));
  mask beneath = lane_and(is_beneath_units(s, reached, tolerance), begun);
  real least = ALL(0);
#if CONSTRAINED
  if (lane_any(beneath)) {
    const moves_worth worth = worth_of_moves(s);
    least = least_unit(&worth);
    beneath = lane_and(beneath, is_beneath(least / lanes->cost_unit, tolerance));
  }
#endif
  const mask solved = lane_and(reached, lane_not(beneath));
  const mask positive = lane_and(s->summary.convex, s->summary.finite);
  const mask plain = lane_and(lane_eq(lanes->shift, ALL(0)), lane_eq(lanes->second_order, ALL(1)));
  const mask asked = lane_or(lane_or(plain, settled), lanes->certifying); /* what settled had plain sweeps */
  const mask proven = proven_otherwise(s, lane_and(solved, lane_and(asked, lane_not(positive))));
  const mask certified = lane_or(lane_and(asked, positive), proven);

  verdict v = {ALL_COUNTS(UNFINISHED), begun};
  decide(&v, lane_not(sound), DIVERGED);
  decide(&v, lane_and(solved, a->certify ? certified : lane_all()), CONVERGED);
  const mask doubtful = lane_and(v.open, may_be_rounding(s, lane_and(solved, lane_not(positive))));
  decide(&v, lane_and(lanes->certifying, lane_not(lane_or(positive, doubtful))), NOT_A_MINIMUM);
  const mask uncertain = lane_and(lane_or(doubtful, lane_and(solved, lane_not(lane_or(plain, settled)))), v.open);
  const mask refused = lane_and(lane_and(v.open, lane_not(uncertain)), lane_not(positive));
  const mask first = lane_and(uncertain, lane_not(lanes->certifying));
  if (CONSTRAINED) lanes->looseness = lane_select(first, ALL(1), lanes->looseness);
  lanes->certifying = uncertain;
  lanes->shift = lane_select(uncertain, ALL(0), lanes->shift);
  if (CONSTRAINED) loosen_next(lanes, doubtful);
  lanes->second_order = lane_select(uncertain, ALL(1), lanes->second_order);
  convexify_next(s, refused);
  lanes->refused = lane_or(refused, uncertain);
  decide(&v, lane_and(refused, lane_not(lane_le(lanes->shift, ALL(HOPELESS_SHIFT)))), STALLED); /* or no number */
  const mask last_pass = lane_not(lane_more(ALL_COUNTS(a->max_iterations), lanes->iterations));
  const mask hopeless = lane_more(lanes->failures, ALL_COUNTS(MOST_FAILURES));
#if CONSTRAINED
  decide_infeasible(s, &v, last_pass);
#endif
  decide(&v, hopeless, STALLED);
  decide(&v, last_pass, MAX_ITERATIONS);

  const mask begin = lane_and(lanes->busy, lanes->begins);
  if (lane_any(begin)) begin_barrier(s, begin);
  limit_gaps(s, lane_and(lanes->busy, lanes->adjoint));
  const mask anew = lane_and(lane_or(beneath, lane_and(outgrows_units(s), begun)), v.open);
  if (lane_any(anew)) take_units_anew(s, anew, least);
  lanes->refused = lane_or(lanes->refused, lane_or(begin, anew)); /* the next sweep has the units */
  return v.status;
}

/* The step of the costates, d_lambda = V dx + (v - lambda). */
FUNCTION void step_costates(barrier_state *s, mask where) {
  for (int t = 1; t <= s->horizon; t++) {
    const reals costate = s->costate + t * NX;
    real d_x[NX], change[NX];
    EACH(i, NX) {
      d_x[i] = s->d_x[t * NX + i];
      change[i] = s->offset[t * NX + i];
    }
    add_symmetric_product(s->hessian + t * NXX, d_x, change);
    EACH(i, NX) costate[i] = lane_select(where, costate[i] + s->length * change[i], costate[i]);
  }
}

/* Memory of the regularisation: more after a step that had to be short, or a rollout, less after a long one. With
 * constraints it is less after every step but restoration's short ones, and second derivatives that were left out come back
 * by and by: where all of them were no use, they often are not in the next pass, which would sweep twice to find out. */
INLINE void remember_shift(barrier_state *s, mask stepped, mask rolled, mask restored) {
  const real now = s->lanes.shift, share = s->length / s->longest;
  const mask cut = lane_and(stepped, lane_lt(share, ALL(SHORT_STEP)));
  const mask short_step = CONSTRAINED ? lane_and(restored, cut) : lane_or(rolled, cut);
  const mask long_step = CONSTRAINED ? stepped : lane_and(stepped, lane_lt(ALL(0.9), share));
  const real more = lane_max(now, lane_min((CONSTRAINED ? RESTORING_GROWTH : SHIFT_GROWTH) * now, ALL(MOST_MEMORY)));
  const real less = R(1. / 3) * now;
  const real raised = lane_select(lane_lt(ALL(0), now), more, FIRST_SHIFT * shift_unit(s));
  const real lowered = lane_select(lane_lt(less, LEAST_SHIFT * shift_unit(s)), ALL(0), less);
  s->lanes.shift = lane_select(short_step, raised, lane_select(long_step, lowered, now));
  s->lanes.cuts = lane_and(s->lanes.cuts - stepped, lane_not(lane_or(long_step, rolled)));
  const mask within = lane_lt(s->step_size, ALL(1)), long_enough = lane_lt(ALL(TELLING_STEP), s->length);
  const real share_of_rise = lane_select(lane_or(long_enough, within), ALL(1), ALL(RISE_UNTOLD));
  const mask near = lane_and(lane_eq(now, ALL(0)), lane_and(lane_le(ALL(1), s->length), lane_le(s->step_size, ALL(NEAR_RISE))));
  const real fuller = lane_select(near, ALL(1), lane_min(ALL(1), s->lanes.second_order + share_of_rise * s->lanes.rise));
  s->lanes.second_order = lane_select(stepped, fuller, s->lanes.second_order);
  const real most_rise = lane_select(shifts_plainly(s), ALL(MOST_PLAIN_RISE), ALL(MOST_RISE));
  s->lanes.rise = lane_select(stepped, lane_min(most_rise, RISE_GROWTH * s->lanes.rise), s->lanes.rise);
}

/* What the dual residual will be after the step: its linear part shrinks with the step's length, and what is left grows
 * with the square of the step, by as much as it did in the step before. The sweep that follows finds the true one, but
 * needs the barrier parameter before. Where there was no step before, it is taken to stay as it is. */
INLINE real expected_dual(barrier_state *s, mask ready, mask stepped, real dual) {
  barrier_progress *lanes = &s->lanes;
  const real size = s->length * s->step_size, linear = (ALL(1) - s->length) * dual;
  const mask known = lane_lt(ALL(0), lanes->moved);
  const real ratio = size / lane_select(known, lanes->moved, ALL(1));
  const real rest = lane_max(dual - lanes->linear_dual, ALL(0)) * (ratio * ratio);
  lanes->moved = lane_select(ready, lane_select(stepped, size, ALL(0)), lanes->moved);
  lanes->linear_dual = lane_select(ready, linear, lanes->linear_dual);
  return lane_select(known, linear + rest, dual);
}

/* No length would do, and there is no gap to close: regularise, or less than before where `timid`, and after some failures
 * forget the filter. Where rounding decided, in lanes that are `quiet`, not at all: see note_settled. */
INLINE void note_failures(barrier_state *s, mask failed, mask moved, mask timid, mask quiet) {
  barrier_progress *lanes = &s->lanes;
  const real now = lanes->shift, less = R(0.1) * now;
  const real raised = lane_select(lane_lt(ALL(0), now), R(10) * now, SHIFT_AFTER_FAILURE * shift_unit(s));
  const real lowered = lane_select(lane_lt(less, LEAST_SHIFT * shift_unit(s)), ALL(0), less);
  const mask rounded = lane_and(failed, quiet);
  lanes->shift = lane_select(failed, lane_select(quiet, ALL(0), lane_select(timid, lowered, raised)), now);
  lanes->second_order = lane_select(rounded, ALL(1), lanes->second_order);
  lanes->failures = lane_and(lanes->failures - failed, lane_not(moved));
  empty_filter(lanes, lane_and(failed, lane_more(lanes->failures, ALL_COUNTS(2))));
}

/* Where the slacks forbid all but a tiny step, the rows' linearisation asks for what cannot be had, and their multipliers
 * would run away: a larger delta then weighs them against the cost, as an augmented Lagrangian does, until steps are long. Its
 * method of multipliers comes nearer by a constant factor a pass: where that is seen of full steps, a smaller one; where rows are
 * so small in their units that the products do not come down to the barrier, a much smaller one. */
INLINE void loosen_rows(barrier_state *s, mask ready, mask regular) {
  barrier_progress *lanes = &s->lanes;
  const mask tiny = lane_and(ready, lane_lt(s->longest, ALL(TINY_STEP)));
  const mask large = lane_and(regular, lane_lt(ALL(LARGE_STEP), s->length));
  const mask full = lane_and(regular, lane_and(lane_le(ALL(1), s->length), lane_le(s->step_size, ALL(NEAR_STEP))));
  const mask slow = lane_and(lane_lt(SLOW_FALL * lanes->moved, s->step_size), lane_lt(ALL(LEAST_STEP), s->step_size));
  const mask crawls = lane_and(lane_and(full, slow), lane_lt(ALL(0), lanes->moved));
  const mask stays = lane_lt(STAYING_PRODUCT * s->mu, s->summary.largest_product);
  const real now = lanes->looseness, looser = lane_min(lane_max(R(100) * now, ALL(FIRST_LOOSENESS)), ALL(MOST_LOOSENESS));
  const real slowest = lane_select(stays, ALL(HARDLY_LOOSE), lane_min(now, ALL(LEAST_LOOSENESS)));
  const real least = lane_select(crawls, slowest, lane_min(now, ALL(1)));
  const real back = lane_select(lane_and(ready, lane_not(regular)), lane_max(now, ALL(1)), now);
  const real next = lane_select(tiny, looser, lane_select(large, lane_max(R(0.1) * now, least), back));
  lanes->looseness = lane_select(ready, lane_max(next, lanes->least_looseness), now); /* not of lanes that certify */
}

#if QUADRATIC_PROGRAM
/* Corrected steps that are whole, and leave of the gaps what delta does: there the next delta is smaller. */
INLINE void tighten_rows(barrier_state *s, mask corrected, real gap_before) {
  barrier_progress *lanes = &s->lanes;
  const mask whole = lane_le(ALL(1), lane_min(s->length, s->dual_length));
  const real left = lane_max(SLOW_FALL * gap_before, lane_max(ALL(OPEN_GAP), gap_rounding(s, &s->point)));
  const mask open = lane_and(lane_and(corrected, whole), lane_lt(left, s->point.gap));
  const real tighter = lane_max(lane_max(R(0.1) * lanes->looseness, ALL(HARDLY_LOOSE)), lanes->least_looseness);
  lanes->looseness = lane_select(open, tighter, lanes->looseness);
}
#endif

/* Attempts of problems without constraints that rest. Shifts on the controls of unstable dynamics grow until steps are gradient
 * steps; some come out of that, by steps that grow from pass to pass, but the others last for hundreds of passes. */
INLINE void note_rest(barrier_state *s, mask ready, mask stepped) {
  barrier_progress *lanes = &s->lanes;
  const real cost = s->point.cost, change = lane_abs(cost - lanes->cost_before);
  const mask on_states = lane_lt(ALL(0), lanes->on_states);
  const mask shifted = lane_lt(lane_select(on_states, ALL(0), ALL(RESTING_SHIFT)), lanes->shift);
  const mask little = lane_and(lane_lt(s->length * s->step_size, ALL(RESTING_STEP)), shifted);
  const mask same = lane_le(change, RESTING_FALL * size_of_costs(s));
  const mask rests = lane_and(lane_and(stepped, little), same), moves = lane_and(ready, lane_not(rests));
  lanes->cost_before = lane_select(moves, cost, lanes->cost_before);
  lanes->crawls = lane_and(lanes->crawls - rests, lane_not(moves));
  lanes->crawling = lane_more(lanes->crawls, ALL_COUNTS(MOST_REST - 1));
}

/* Where no length would do and there are gaps: with control bounds alone, a rollout closes them; with constraints the
 * violation is lowered for itself. Returns the lanes that have moved. */
INLINE mask find_another_way(barrier_state *s, mask stuck, mask *enters) {
  *enters = lane_none();
#if CONSTRAINED
  if (lane_any(stuck)) *enters = enter_restoration(s, stuck);
  return lane_none();
#else
  const mask gaps = lane_lt(R(4) * gap_rounding(s, &s->point) + ALL(R(1e-9) * (scalar)s->horizon), s->point.gap);
  const mask open = lane_and(stuck, gaps);
  return lane_any(open) ? search_rollouts(s, open) : lane_none();
#endif
}

/* Takes a step in all lanes that have one; what cannot be known without a sweep is guessed for the barrier. */
FUNCTION void advance(barrier_state *s, const solve_arguments *a) {
  barrier_progress *lanes = &s->lanes;
  const mask ready = moving(s), restored = lane_and(ready, lanes->restoring), counts_cost = lane_and(ready, lane_not(sets_cost_aside(s)));
  if (!lane_any(ready)) return;
  barrier_errors e = errors_of(s);
#if QUADRATIC_PROGRAM
  const real gap_before = s->point.gap;
#endif
  if (CONSTRAINED) note_progress(s, counts_cost, &e);
  find_step(s, least_barrier(s, (scalar)a->tolerance));
  const mask quiet = note_settled(s, counts_cost, &e, (scalar)a->tolerance);
  const mask timid = CONSTRAINED ? is_timid(s, restored) : lane_none();
  if (CONSTRAINED) note_least_violation(s, restored);
  mask enters;
  const mask first = CONSTRAINED ? violation_first(s, ready) : lane_none();
  const mask starts = starting(s);
  if (lane_any(starts)) start_inside(s, starts);
  const mask corrected = QUADRATIC_PROGRAM ? lane_and(ready, s->corrects) : lane_none();
  const mask trusted = lane_or(lane_or(quiet, corrected), in_polishing(s));
  mask stepped = search_lengths(s, lane_and(ready, lane_not(lane_or(restored, first))), trusted, starts);
#if CONSTRAINED
  if (lane_any(restored)) stepped = lane_or(stepped, search_restoration(s, restored));
#endif
  const mask stuck = lane_and(ready, lane_not(stepped));
  const mask rolled = find_another_way(s, stuck, &enters);
  const mask moved = lane_or(stepped, rolled), regular = lane_and(stepped, lane_not(restored));
  const mask failed = lane_and(stuck, lane_not(lane_or(rolled, enters)));
  step_costates(s, regular);
  const product_range products = step_multipliers(s, lane_and(moved, lane_not(restored)));
  lanes->adjoint = lane_or(lanes->adjoint, rolled);
  if (CONSTRAINED) note_unrestorable(s, ready);
  remember_shift(s, stepped, rolled, restored);
  if (!CONSTRAINED) note_rest(s, ready, stepped);
  note_failures(s, failed, moved, timid, quiet);
  lanes->iterations -= ready;
  if (CONSTRAINED) {
    lanes->restoring_failures = lane_and(lanes->restoring_failures - lane_and(failed, restored), lane_not(moved));
    loosen_rows(s, lane_and(ready, lane_not(corrected)), lane_and(regular, lane_not(corrected)));
    leave_restoration(s, lane_and(restored, stepped));
    if (lane_any(restored)) note_crawl(s, restored);
  }
  e.dual = expected_dual(s, ready, regular, e.dual);
  e.gap = s->point.largest_gap;
  e.least_product = products.least / lanes->cost_unit;
  e.largest_product = products.largest / lanes->cost_unit;
#if QUADRATIC_PROGRAM
  tighten_rows(s, corrected, gap_before);
  note_slow(s, corrected);
#endif
  const mask may_lower = lane_and(lane_or(regular, lane_and(failed, quiet)), lane_not(corrected));
  lower_barrier(s, may_lower, &e, least_barrier(s, (scalar)a->tolerance));
}

#endif

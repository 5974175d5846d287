/* What happens to the lanes between passes: acceptance, regularisation, choice of the Hessian, the end of a problem. */
#ifndef MPCGEN_CONTROL_H
#define MPCGEN_CONTROL_H

#include "mpcgen_little_moves.h"
#include "mpcgen_outcome.h"
#include "mpcgen_sweeps.h"

#define ARMIJO R(0.05) /* share of the promised change that a step must bring: less lets far steps leave the basin */
#define KEPT R(0.9)   /* share of what the model promises that the first step has to bring, */
#define MISSED R(0.4) /* or share of the cost that it comes to by which it may miss that */
#define LEFT R(0.4)   /* share of the cost: where the first model promises to leave less, */
#define LIKELY R(0.1) /* and controls nearer the middle of their range bring this share to first order, these come first */
#define FAR R(0.2)    /* if its step goes so far, of the range in root mean square */
#define SHORTEST_STEP R(1e-3)
#define LEAST_SHARE R(0.1) /* of the way to a candidate: below it the step is wrong, rather than too long */
#define LEAST_KNOWN R(1e3) /* times rounding: a cost that is less, of a point part of the way, nobody knows */
/* Of regularisation, as shares of Quu. */
#define FIRST_REGULARISATION R(0.1) /* less hardly shortens a step */
#define LARGEST_REGULARISATION R(1e10)
/* The most weight of the dynamics' second derivatives, by the relative change d of the cost that the model promises:
 * none where d > FAR_FROM_SOLUTION, else 1 - RISE d, but at least PART_WAY; NEARLY_ALL and above are one, so that what
 * converges has the exact Hessian. */
#define FAR_FROM_SOLUTION R(0.3)
#define PART_WAY R(0.6)
#define RISE R(10)
#define NEARLY_ALL R(0.9)
/* What becomes of a weight. The two factors' product is below one, or acceptance and refusal could go on by turns. */
#define AFTER_ACCEPTANCE R(3)
#define AFTER_REFUSAL R(0.3)
#define AFTER_NONE R(0.25) /* the first weight after one was refused down to none */
#define LEAST_SECOND_ORDER R(0.05)
#define MOST_HIDDEN R(1e3) /* times the cost: at rest far from the origin the cost is itself rounding, but never by so much */
#define LEAST_BEND R(1e-2) /* share of the slope by which a model has to bend: at a minimum without bounds it is 0.5 */
#define MAGNIFIED R(1e-3) /* share of the cost that rounding of states may change where a lane rests for it; see is_restless */
#define LITTLE_BEND R(0.05)  /* below that share a model is nearly linear: its step ends at bounds, or far away */
#define WORTH R(30) /* a certifying lane goes on for so many times what ends others */
enum { PATIENCE = 6, FEW_WAITS = 2, LONG_WAIT = 20, FEW_PASSES = 15, MOST_PASSES = LINEAR_QUADRATIC ? 40 : 100 };
#define WRONG_SLOPE R(10) /* times the model's slope: a rollout whose controls promise so much is far from the model */
/* See note_troubles. */
enum { REFUSED = 2, REFUSED_FAR = 5, REFUSED_REGULARISED = 3, UNBENT = 5, CONCAVE = 8, ACCEPTED = 3, MOST_TROUBLES = 23 };

/* A change of a cost of this size below that is rounding. */
INLINE real rounding_of(real size) { return R(16) * SCALAR_EPSILON * size; }
INLINE real rounding(const solver_state *s) { return rounding_of(s->lanes.cost_scale); }

/* What rounding of points may change the cost by, but where rollouts magnify it to a multiple of the cost: there it says
 * nothing of a step, which is not at the limit of the precision, but past it. */
INLINE real unless_chaotic(const solver_state *s, real change) {
  const real size = lane_max(s->lanes.cost_scale, s->lanes.first_scale);
  const mask sane = lane_or(lane_le(change, MOST_HIDDEN * size), lane_le(s->lanes.first_scale, ALL(0)));
  return lane_select(sane, change, ALL(0));
}

/* What costs from a stage on vary by where its states move by their sizes, or by one, by slopes, which are costates; and of the stage
 * where that is most. */
INLINE real slopes_of_states(const solver_state *s, int t) {
  real sum = ALL(0);
  EACH(i, NX) sum += slope_of(i, s->costate[t * NX + i], s->x[t * NX + i]);
  return sum;
}
RARE real slopes_of_costs(const solver_state *s) {
  real most = ALL(0);
  for (int t = 1; t <= s->horizon; t++) most = lane_max(slopes_of_states(s, t), most);
  return most;
}

/* The size of the cost; of a lane that doubts it, what slopes say that it may vary by, if that is less: constants are no part of
 * it. Curvature would say more by far than what is left of the cost near a goal. */
INLINE real size_of_cost(const solver_state *s) {
  const mask weighed = lane_and(s->lanes.busy, s->lanes.weighed);
  if (!lane_any(weighed)) return s->lanes.cost_scale;
  return lane_select(weighed, lane_min(slopes_of_costs(s), s->lanes.cost_scale), s->lanes.cost_scale);
}

/* Where points count: where the cost has ceased to fall, as it does where little is left of it, or constants hide it. The last sweep
 * was to find there what rounding of controls and states costs. */
INLINE mask points_count(const solver_state *s) {
  return lane_or(s->lanes.weighed, lane_more(s->lanes.waits, ALL_COUNTS(FEW_WAITS)));
}

/* A step that promises no more than this is rounding: of a cost of this size, or of controls and states. */
INLINE real least_promise_of(const solver_state *s, real size) {
  const real of_points = R(16) * (SCALAR_EPSILON * SCALAR_EPSILON) * s->summary.bend_of_points;
  return lane_max(rounding_of(size), lane_select(points_count(s), unless_chaotic(s, of_points), ALL(0)));
}
INLINE real least_promise(const solver_state *s) { return least_promise_of(s, s->lanes.cost_scale); }

/* What the model promises of a full step. */
INLINE real expected_change(const solver_state *s) { return s->summary.slope + s->summary.bend; }

/* The lanes that iterate: neither idle nor in their first pass, nor certifying a solution. */
INLINE mask iterating(const solver_state *s) {
  return lane_and(s->lanes.busy, lane_not(lane_or(s->lanes.begins, s->lanes.certifying)));
}

/* Begins regularisation where there is none, in units of Quu: of its mean along the last sweep's steps. */
RARE void begin_regularisation(solver_state *s, mask where) {
  real square = ALL(0);
  for (int i = 0; i < s->horizon * NU; i++) square += s->step[i] * s->step[i];
  const real quu = R(2) * s->summary.bend / square;
  const mask known = lane_and(lane_lt(ALL(0), quu), lane_finite(quu));
  s->lanes.quu = lane_select(where, lane_select(known, quu, ALL(1)), s->lanes.quu);
  s->regularisation = lane_select(where, FIRST_REGULARISATION * s->lanes.quu, s->regularisation);
}

/* Sets up the next step of the lanes whose candidate was refused: with less of the second derivatives; without any, a
 * shorter one; and where that will not do, a full one with more regularisation. */
INLINE void refuse(solver_state *s, mask refused) {
  const mask curved = lane_and(refused, lane_lt(ALL(0), s->second_order));
  const real less = AFTER_REFUSAL * s->second_order;
  const real weight = lane_select(lane_lt(less, ALL(LEAST_SECOND_ORDER)), ALL(0), less);
  s->second_order = lane_select(curved, weight, s->second_order);
  s->lanes.cautious = lane_or(s->lanes.cautious, curved);

  const mask shorter = lane_and(refused, lane_not(curved));
  const real half = R(0.5) * s->length, now = s->regularisation;
  const mask futile = lane_and(shorter, lane_or(lane_lt(half, ALL(SHORTEST_STEP)), lane_le(ALL(0), s->promise)));
  s->length = lane_select(futile, ALL(1), lane_select(shorter, half, s->length));
  s->regularisation = lane_select(futile, R(10) * now, now);
  const mask first = lane_and(futile, lane_le(now, ALL(0)));
  if (lane_any(first)) begin_regularisation(s, first);
}

INLINE mask is_hopeless(const solver_state *s) {
  return lane_lt(LARGEST_REGULARISATION * s->lanes.quu, s->regularisation);
}

INLINE void lower_regularisation(solver_state *s, mask where) {
  const real less = R(0.1) * s->regularisation;
  const real lowered = lane_select(lane_lt(less, FIRST_REGULARISATION * s->lanes.quu), ALL(0), less);
  s->regularisation = lane_select(where, lowered, s->regularisation);
}

/* The point at a share of the way, between both even after rounding. */
INLINE real between(real from, real to, real share) {
  return lane_clip(from + share * (to - from), lane_min(from, to), lane_max(from, to));
}

/* Of a linear-quadratic problem the points between two trajectories are trajectories, and the cost between them is a
 * parabola, known from its slope at the accepted one and its values at both. So a candidate beyond its minimum need not
 * be refused: the lane goes there instead, if it is not near the start, and by more than rounding: what a parabola of large
 * costs says of a small one, and the way of large states of small ones, is worth less than the candidate itself. Nor where
 * rounding of them is nearly all that it leaves: nobody would know what that point costs. */
INLINE void find_share(solver_state *s, mask stepped) {
  const real bend = s->cost - s->lanes.cost - s->promise, downhill = -s->promise;
  const real share = R(0.5) * downhill / bend, least = s->lanes.cost - R(0.5) * share * downhill; /* rounded as the first cost is */
  const mask falls = lane_and(lane_lt(ALL(0), downhill), lane_finite(s->cost));
  const mask beyond = lane_lt(R(0.5) * downhill + rounding(s), bend);
  const mask far = lane_le(R(2) * LEAST_SHARE * bend, downhill);
  const mask known = lane_lt(LEAST_KNOWN * rounding_of(lane_max(s->lanes.cost_scale, s->cost_scale)), lane_abs(least));
  const mask shorter = lane_and(lane_and(stepped, lane_and(far, known)), lane_and(falls, beyond));
  s->share = lane_select(shorter, share, ALL(1));
  s->cost = lane_select(shorter, least, s->cost);
  const real scale = between(s->lanes.cost_scale, s->cost_scale, s->share);
  s->cost_scale = lane_select(shorter, lane_max(scale, lane_abs(s->lanes.cost)), s->cost_scale);
  s->promise = lane_select(shorter, s->share * s->promise, s->promise);
}

/* What rounding of the accepted states may change the cost by: costates are its derivatives. */
FUNCTION real magnified_rounding(const solver_state *s) {
  real sum = ALL(0);
  for (int i = NX; i < (s->horizon + 1) * NX; i++) sum += lane_abs(s->costate[i] * s->x[i]);
  return R(16) * SCALAR_EPSILON * sum;
}
INLINE real rounding_of_states(const solver_state *s) { return unless_chaotic(s, magnified_rounding(s)); }

/* Where the model is nearly linear, and so has no length of its own. */
INLINE mask is_unbent(const solver_state *s) { return lane_lt(s->summary.bend, -LITTLE_BEND * s->summary.slope); }

/* Keeps count of troubles: of refused steps, which count for more where the rollout went far from the model, or even with
 * regularisation; and of models, whatever became of their steps, that are nearly linear, and so have no length of their own,
 * or that are not convex even without the dynamics' second derivatives. An accepted step makes up for some. A refused one
 * that promised no more than rounding of cost and states is none, as that decides then. Where troubles prevail, box-DDP does
 * not get on. */
FUNCTION void note_troubles(solver_state *s, mask accepted, mask refused) {
  if (s->hands_over && lane_any(refused)) {
    const mask rounded = lane_le(-expected_change(s), rounding(s) + rounding_of_states(s));
    refused = lane_and(refused, lane_not(rounded));
  }
  const real slope = s->summary.slope;
  const mask judged = lane_or(accepted, refused);
  const mask far = lane_and(refused, lane_lt(-WRONG_SLOPE * s->length * slope, lane_abs(s->promise)));
  const mask regularised = lane_and(refused, lane_lt(ALL(0), s->regularisation));
  const mask unbent = lane_and(judged, is_unbent(s));
  const mask concave = lane_and(judged, lane_not(lane_or(s->summary.convex, lane_lt(ALL(0), s->second_order))));
  const counts fewer = s->lanes.troubles - lane_and(ALL_COUNTS(ACCEPTED), accepted);
  s->lanes.troubles = lane_and(fewer, lane_more(fewer, ALL_COUNTS(0))) + lane_and(ALL_COUNTS(REFUSED), refused) +
                      lane_and(ALL_COUNTS(REFUSED_FAR), far) + lane_and(ALL_COUNTS(REFUSED_REGULARISED), regularised) +
                      lane_and(ALL_COUNTS(UNBENT), unbent) + lane_and(ALL_COUNTS(CONCAVE), concave);
}

/* Whether a step, if it is the first, goes no further than its model knows. From where a call begins, often far from any
 * solution, a model may promise that next to nothing of the cost is left. A step that takes most of it away, and leaves much
 * more than that, is good, but may have jumped from the basin of a minimum to that of a dear one, which a shorter one does
 * not. Linear-quadratic problems have one minimum, and nearly linear models nothing that a shorter step would be better for. */
INLINE mask is_known(const solver_state *s) {
  if (LINEAR_QUADRATIC) return lane_all();
  const mask exempt = lane_or(lane_not(s->lanes.fresh), is_unbent(s));
  const real promised = s->length * (s->summary.slope + s->length * s->summary.bend), change = s->cost - s->lanes.cost;
  const mask kept = lane_le(change, KEPT * promised + rounding(s));
  return lane_or(exempt, lane_or(kept, lane_le(change - promised, MISSED * s->cost_scale)));
}

/* Which lanes' candidates become their trajectories; sets up the next step of all. */
FUNCTION mask accept_candidates(solver_state *s) {
  lane_progress *lanes = &s->lanes;
  const mask stepped = lane_and(iterating(s), lane_not(lanes->overflowed));
  if (LINEAR_QUADRATIC && !(s->barrier > 0)) find_share(s, stepped);
  const mask falls = lane_le(s->cost - lanes->cost, ARMIJO * lane_min(s->promise, ALL(0)) + rounding(s));
  const mask centring = lane_and(stepped, lanes->centring);
  const mask cheaper = lane_and(centring, lane_lt(s->cost, lanes->cost));
  const mask better = lane_or(cheaper, lane_and(falls, lane_and(is_known(s), lane_not(centring))));
  const mask good = lane_and(stepped, lane_and(lane_finite(s->cost), better));
  const mask refused = lane_and(stepped, lane_not(lane_or(good, centring)));
  const mask accepted = lane_or(good, lane_and(lanes->busy, lanes->begins));
  lanes->iterations -= stepped;
  lanes->unmoved = lane_and(lanes->unmoved, lane_not(lane_and(good, lane_finite(lanes->cost))));
  note_troubles(s, good, refused);
  lower_regularisation(s, lane_and(good, lane_not(lanes->refused)));
  refuse(s, refused);
  lanes->fresh = lane_and(lanes->fresh, lane_or(centring, lane_not(stepped)));
  lanes->centring = lane_none();
  lanes->refused = lane_or(refused, lane_and(lanes->refused, lane_not(accepted)));
  s->length = lane_select(accepted, ALL(1), s->length);
  lanes->cost = lane_select(accepted, s->cost, lanes->cost);
  lanes->barrier_cost = lane_select(accepted, s->barrier_cost, lanes->barrier_cost);
  lanes->cost_scale = lane_select(accepted, s->cost_scale, lanes->cost_scale);
  lanes->first_scale = lane_select(lane_and(lanes->busy, lanes->begins), s->cost_scale, lanes->first_scale);
  return accepted;
}

/* Before a sweep: how much of the dynamics' second derivatives goes into the Hessians. No more than the promised
 * change of the cost allows: none far from the solution, all of them near it; and not at once what was refused. */
FUNCTION void choose_hessian(solver_state *s) {
  lane_progress *lanes = &s->lanes;
  const mask where = lane_and(iterating(s), lane_not(lane_or(lanes->refused, lanes->overflowed)));
  const real change = -expected_change(s) / lanes->cost_scale, now = s->second_order;
  real allowed = lane_max(R(1) - RISE * change, ALL(PART_WAY));
  allowed = lane_select(lane_lt(ALL(NEARLY_ALL), allowed), ALL(1), allowed);
  allowed = lane_select(lane_lt(ALL(FAR_FROM_SOLUTION), change), ALL(0), allowed);
  const real first = lane_select(lanes->cautious, ALL(AFTER_NONE), ALL(1));
  const real next = lane_select(lane_lt(ALL(0), now), AFTER_ACCEPTANCE * now, first);
  s->second_order = lane_select(where, lane_min(next, allowed), now);
  lanes->cautious = lane_and(lanes->cautious, lane_not(where));
}

/* Which lanes must sweep their trajectory again, without the dynamics' second derivatives, because with them the
 * model overflowed: curvature that points downward can grow from stage to stage. Or within the bounds, which alone keep a
 * step finite where the cost hardly bends. */
INLINE void note_overflow(solver_state *s) {
  lane_progress *lanes = &s->lanes;
  const mask curved = lane_and(iterating(s), lane_lt(ALL(0), s->second_order));
  const mask again = LINEAR_QUADRATIC ? lane_or(curved, lane_and(lanes->busy, lanes->unguided)) : curved;
  lanes->overflowed = lane_and(again, lane_not(s->summary.finite));
  lanes->cautious = lane_or(lanes->cautious, lanes->overflowed);
  s->second_order = lane_select(lanes->overflowed, ALL(0), s->second_order);
}

/* Whether the next step is worth nothing: the residual alone says little, being in units of a control and of the cost.
 * The step promises next to nothing of the cost, so that controls are within about tol^(3/4) of their natural size; where
 * the cost falls to zero, next to nothing of the first one. */
INLINE mask worthless(const solver_state *s, real factor, scalar tolerance) {
  const real tol = ALL(tolerance), share = tol * lane_sqrt(tol), size = size_of_cost(s);
  const real first = lane_select(s->lanes.weighed, ALL(0), s->lanes.first_scale);
  const real little = share * (size + share * first);
  return lane_le(-expected_change(s), factor * lane_max(little, least_promise_of(s, size)));
}

/* Which of some lanes, whose next step is worth nothing beside the cost, have reason to doubt that, and have not yet: it is worth
 * something beside what slopes say that the cost varies by, of which constants are no part. */
RARE mask find_doubts(const solver_state *s, mask where, real factor, scalar tolerance) {
  const real tol = ALL(tolerance), share = factor * (tol * lane_sqrt(tol)), promised = -expected_change(s);
  const mask asks = lane_and(where, lane_lt(share * slopes_of_states(s, 1), promised)); /* mostly that is enough */
  return lane_any(asks) ? lane_and(asks, lane_lt(share * slopes_of_costs(s), promised)) : asks;
}

INLINE mask doubtful(const solver_state *s, mask where, real factor, scalar tolerance) {
  const mask fresh = lane_and(where, lane_not(s->lanes.doubts));
  return lane_any(fresh) ? find_doubts(s, fresh, factor, tolerance) : fresh;
}

/* The next sweep of those lanes finds what rounding of controls and states costs. Until then, and for as long as their residuals
 * fall, it is no sign of anything that their costs do not. */
INLINE mask begin_doubts(solver_state *s, mask where, real factor, scalar tolerance) {
  const mask doubts = doubtful(s, where, factor, tolerance);
  lane_progress *lanes = &s->lanes;
  lanes->doubts = lane_or(lanes->doubts, doubts);
  lanes->unproductive = lane_and(lanes->unproductive, lane_not(doubts));
  lanes->waits = lane_and(lanes->waits, lane_not(doubts));
  return doubts;
}

/* Keeps count of passes since the cost has fallen by more than rounding. */
INLINE void note_cost(solver_state *s, mask where) {
  lane_progress *lanes = &s->lanes;
  const mask fallen = lane_and(where, lane_lt(lanes->cost, lanes->lowest_cost - rounding(s)));
  lanes->lowest_cost = lane_select(fallen, lanes->cost, lanes->lowest_cost);
  lanes->waits = lane_and(lanes->waits - where, lane_not(fallen));
}

/* The sweep that follows two of them, or a doubt, finds what the rounding of controls and states costs. */
INLINE void note_weighing(solver_state *s) {
  lane_progress *lanes = &s->lanes;
  lanes->weighed = lanes->doubts;
  const mask weighs = lane_or(lanes->doubts, lane_more(lanes->waits, ALL_COUNTS(FEW_WAITS - 1)));
  s->weighs_points = lane_any(lane_and(lanes->busy, weighs));
}

/* Where the cost has not fallen for long, and what the model promises may be that. Where it has not for a few passes only,
 * it may yet fall: steps along a valley or near a saddle promise little. */
INLINE mask waits_in_vain(const solver_state *s, mask where) {
  const mask asks = lane_and(where, lane_more(s->lanes.waits, ALL_COUNTS(LONG_WAIT)));
  if (!lane_any(asks)) return asks;
  return lane_and(asks, lane_le(-expected_change(s), rounding(s) + rounding_of_states(s)));
}

/* Keeps count of steps too small for the cost to judge; past PATIENCE a lane is at its precision's limit. */
INLINE mask stalled(solver_state *s, mask where) {
  lane_progress *lanes = &s->lanes;
  const mask better = lane_and(where, lane_lt(s->summary.residual, R(0.5) * lanes->best_residual));
  const mask idle = lane_and(lane_and(where, lane_not(better)), lane_le(-expected_change(s), least_promise(s)));
  lanes->best_residual = lane_select(better, s->summary.residual, lanes->best_residual);
  lanes->unproductive = lane_and(lanes->unproductive - idle, lane_not(better));
  return lane_or(lane_more(lanes->unproductive, ALL_COUNTS(PATIENCE)), waits_in_vain(s, where));
}

/* What the last states are worth: where dynamics magnify nothing, rounding of any states is no share of that, however far from the
 * origin they rest. */
INLINE real worth_of_last_states(const solver_state *s) {
  return s->summary.bend_of_end + lane_max(slopes_of_states(s, s->horizon), slopes_of_states(s, s->horizon - 1));
}

/* Which of the lanes that rest do not: rounding of the states alone seems to hide what their steps promise, and that is because
 * dynamics magnify it from stage to stage until costates may be wrong by a share of what there is to gain. */
RARE mask is_restless(const solver_state *s, mask where) {
  const mask promising = lane_and(lane_and(where, points_count(s)), lane_lt(R(4) * rounding(s), -expected_change(s)));
  if (!lane_any(promising)) return promising;
  return lane_and(promising, lane_lt(MAGNIFIED * (s->lanes.cost_scale + worth_of_last_states(s)), magnified_rounding(s)));
}
INLINE mask find_restless(const solver_state *s, mask where) { return lane_any(where) ? is_restless(s, where) : where; }

/* Which of the lanes at the limit of their precision are so for rounding of constants alone, which hides what their steps are worth. */
INLINE mask is_hidden(const solver_state *s, mask where, scalar tolerance) {
  const mask weighed = lane_and(where, s->lanes.weighed);
  return lane_any(weighed) ? lane_and(weighed, lane_not(worthless(s, ALL(WORTH), tolerance))) : weighed;
}

/* Whether what a full step promises is at the limit of the precision. */
INLINE mask is_at_limit(const solver_state *s) { return lane_le(-expected_change(s), R(4) * least_promise(s)); }

/* Where the step of another model was worth nothing, and that of the exact one, without regularisation, is worth much,
 * there is a way on, and only the exact model ends the lane. The residual, being in units, may be small all the same. Where
 * that step is worth little, but more than rounding of the cost, the lane goes on until the cost has not fallen for long, as
 * only then rounding of the states may end it: what brought it here may be regularised steps, which promise less. */
INLINE void go_on_with_exact_hessian(solver_state *s, scalar tolerance) {
  lane_progress *lanes = &s->lanes;
  const mask asks = lane_and(lanes->certifying, s->summary.finite);
  if (!(s->exact_hessian || LINEAR_DYNAMICS) || !lane_any(asks)) return;
  const mask idle = lane_and(asks, worthless(s, ALL(WORTH), tolerance));
  const mask worth = lane_and(asks, lane_or(lane_not(idle), begin_doubts(s, idle, ALL(WORTH), tolerance)));
  const mask ends = lane_or(is_at_limit(s), lane_le(s->summary.residual, ALL(tolerance)));
  const mask early = lane_not(lane_or(ends, lane_more(lanes->waits, ALL_COUNTS(LONG_WAIT))));
  const mask moves = lane_or(worth, lane_and(asks, early));
  lanes->certifying = lane_and(lanes->certifying, lane_not(moves));
  lanes->unproductive = lane_and(lanes->unproductive, lane_not(moves));
  lanes->waits = lane_and(lanes->waits, lane_not(worth));
  lanes->sceptical = lane_or(lanes->sceptical, moves);
}

/* Where a cost that does not fall was taken for a solution's, and the model says that it is a saddle's, there is a way on. */
INLINE void go_on_at_saddles(solver_state *s) {
  lane_progress *lanes = &s->lanes;
  const mask waited = lane_and(lanes->certifying, lane_more(lanes->waits, ALL_COUNTS(LONG_WAIT)));
  const mask saddle = lane_and(waited, lane_not(s->summary.convex));
  lanes->certifying = lane_and(lanes->certifying, lane_not(saddle));
  lanes->waits = lane_and(lanes->waits, lane_not(saddle));
}

/* A certifying lane has the residual that made it one: another model computes the same with other roundings. */
INLINE void keep_residual(solver_state *s) {
  const lane_progress *lanes = &s->lanes;
  s->summary.residual = lane_select(lanes->certifying, lanes->best_residual, s->summary.residual);
}

/* Half of the way from a control to the middle of its range; not finite if it has none. */
INLINE real half_way(real u, real lower, real upper) { return R(0.5) * (R(0.5) * (lower + upper) - u); }

/* Where the step goes far, and controls half way to the middle of their range promise to cost less. */
RARE mask is_off_centre(const solver_state *s) {
  real slope = ALL(0), step = ALL(0);
  for (int t = 0; t < s->horizon; t++) {
    real lower[NU], upper[NU];
    stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
    for (int i = 0; i < NU; i++) {
      const real half = half_way(s->u[t * NU + i], lower[i], upper[i]), range = upper[i] - lower[i];
      const real unit = lane_select(lane_lt(ALL(0), range), range, ALL(1));
      slope += s->gradient[t * NU + i] * half;
      step += (s->step[t * NU + i] / unit) * (s->step[t * NU + i] / unit);
    }
  }
  const mask wide = lane_le(ALL(FAR * FAR * (scalar)(s->horizon * NU)), step);
  return lane_and(lane_lt(slope, -LIKELY * s->lanes.cost), lane_and(wide, lane_finite(slope)));
}

/* Puts those controls in the place of the policy. */
RARE void put_half_way(solver_state *s, mask where) {
  for (int t = 0; t < s->horizon; t++) {
    real lower[NU], upper[NU];
    stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
    for (int i = 0; i < NU; i++) {
      const real half = half_way(s->u[t * NU + i], lower[i], upper[i]);
      s->step[t * NU + i] = lane_select(where, half, s->step[t * NU + i]);
    }
    for (int i = t * NU * NX; i < (t + 1) * NU * NX; i++) s->gain[i] = lane_select(where, ALL(0), s->gain[i]);
  }
}

/* Before the first step. A model that promises that next to nothing of the cost is left, by a step over much of the range, says
 * that the controls of the call are far from any solution, and may be wrong of the basin, too. From nearer the middle of the
 * range it knows more. So where it says that they cost less, too, these controls are the first candidate. A model that is nearly
 * linear says so of any. */
INLINE void begin_half_way(solver_state *s, mask open) {
  const lane_progress *lanes = &s->lanes;
  const mask first = lane_and(open, lane_and(lanes->begins, lanes->fresh));
  if (LINEAR_QUADRATIC || s->barrier > 0 || !lane_any(first)) return;
  const mask nothing_left = lane_lt(lanes->cost + expected_change(s), LEFT * lanes->cost);
  const mask sure = lane_and(lane_lt(ALL(0), lanes->cost), lane_and(nothing_left, lane_not(is_unbent(s))));
  const mask asks = lane_and(first, sure);
  if (!lane_any(asks)) return;
  s->lanes.centring = lane_and(asks, is_off_centre(s));
  if (lane_any(s->lanes.centring)) put_half_way(s, s->lanes.centring);
}

/* Whether box-DDP is the method for a lane: not where troubles prevail, or small steps are many; nor where after the
 * passes that most problems take the model is so nearly linear that all controls go to their bounds. Of linear-quadratic
 * problems that model is exact, and box-DDP the method for all but those that grow until rollouts get out of hand. */
INLINE mask gets_on(const solver_state *s) {
  const lane_progress *lanes = &s->lanes;
  const mask young = lane_more(ALL_COUNTS(MOST_PASSES), lanes->iterations);
  if (LINEAR_QUADRATIC) return young;
  const mask bent = lane_le(-LEAST_BEND * s->summary.slope, s->summary.bend);
  const mask fit = lane_or(bent, lane_not(same_count(lanes->iterations, FEW_PASSES)));
  const mask calm = lane_not(is_hopeless(s));
  return lane_and(lane_and(fit, calm), lane_and(young, lane_more(ALL_COUNTS(MOST_TROUBLES), lanes->troubles)));
}

/* Ends lanes that do not get on: STALLED, or handed over where that is asked for and what is left is not `little`. */
INLINE void give_up(const solver_state *s, verdict *v, mask where, mask little) {
  if (s->hands_over) decide(v, lane_and(where, lane_not(little)), MAX_ITERATIONS);
  decide(v, where, STALLED);
}

/* After a sweep: which lanes have finished, and with which status; the others go on. Even a solution whose model
 * overflowed is swept again, for its gains. */
FUNCTION counts review(solver_state *s, scalar tolerance, int certify) {
  lane_progress *lanes = &s->lanes;
  go_on_at_saddles(s);
  go_on_with_exact_hessian(s, tolerance);
  note_overflow(s);
  verdict v = {ALL_COUNTS(UNFINISHED), lane_and(lanes->busy, lane_not(lanes->overflowed))};
  const mask small = lane_le(s->summary.residual, ALL(tolerance));
  const mask at_limit = is_at_limit(s);
  /* A certifying lane whose model is not convex comes first: that model may have overflowed. */
  const mask concave = lane_and(lanes->certifying, lane_not(s->summary.convex));
  const mask flat = s->hands_over ? lane_none() : lane_le(-expected_change(s), R(4) * rounding(s)); /* of the cost alone */
  decide(&v, lane_and(concave, lane_or(small, flat)), NOT_A_MINIMUM);
  give_up(s, &v, concave, lane_none());
  decide(&v, lane_not(lane_and(s->summary.finite, lane_finite(s->summary.residual))), DIVERGED);
  /* What came to the limit of its precision with another model has to be there with this one too. */
  const mask vain = waits_in_vain(s, lanes->certifying), ends = lane_or(small, lane_or(at_limit, vain));
  const mask restless_end = find_restless(s, lane_and(lanes->certifying, v.open));
  decide(&v, lane_and(lanes->certifying, lane_and(ends, lane_not(restless_end))), CONVERGED);
  give_up(s, &v, lanes->certifying, lane_and(at_limit, lane_not(restless_end)));

  const mask whole = LINEAR_DYNAMICS ? lane_all() : lane_le(ALL(1), s->second_order); /* all second derivatives */
  const mask exact = lane_and(whole, lane_eq(s->regularisation, ALL(0)));
  mask asks = lane_and(lane_not(lanes->unmoved), lane_or(exact, lane_not(lanes->sceptical)));
  /* Part of the way is not Newton's step, and its cost is as uncertain as the one that it began with. */
  if (LINEAR_QUADRATIC && !(s->barrier > 0)) asks = lane_and(asks, lane_le(ALL(1), s->share));
  const mask idle = lane_and(lane_and(small, asks), worthless(s, ALL(1), tolerance));
  const mask done = lane_and(idle, lane_not(begin_doubts(s, lane_and(idle, v.open), ALL(1), tolerance)));
  note_cost(s, v.open);
  mask stuck = stalled(s, lane_and(v.open, lane_not(done)));
  stuck = lane_and(stuck, lane_not(begin_doubts(s, stuck, ALL(WORTH), tolerance)));
  const mask restless = find_restless(s, lane_and(stuck, exact));
  const mask hidden = is_hidden(s, stuck, tolerance), rests = lane_and(stuck, lane_not(lane_or(restless, hidden)));
  /* Newton's method comes to a stop at rounding, Gauss and Newton's may where it is slow. */
  const mask solved = s->exact_hessian || LINEAR_DYNAMICS ? lane_or(done, rests) : done;
  const mask certain = lane_and(exact, s->summary.convex);
  decide(&v, lane_and(solved, certify ? certain : lane_or(done, certain)), CONVERGED);
  const mask uncertain = lane_and(solved, v.open);
  lanes->best_residual = lane_select(uncertain, s->summary.residual, lanes->best_residual);
  lanes->certifying = lane_or(lanes->certifying, uncertain);
  s->second_order = lane_select(uncertain, ALL(1), s->second_order);
  s->regularisation = lane_select(uncertain, ALL(0), s->regularisation);

  const mask going = lane_and(v.open, lane_not(uncertain));
  mask may_go_on = lane_more(lanes->last, lanes->iterations);
  if (s->hands_over) may_go_on = lane_and(may_go_on, gets_on(s));
  decide(&v, lane_and(going, lane_not(may_go_on)), MAX_ITERATIONS);
  const mask little = lane_and(lane_or(small, at_limit), lane_not(lane_or(restless, hidden)));
  give_up(s, &v, lane_and(going, lane_or(stuck, is_hopeless(s))), little);
  note_weighing(s);
  begin_half_way(s, v.open);
  lanes->begins = lanes->unguided = lane_none();
  return v.status;
}

#endif

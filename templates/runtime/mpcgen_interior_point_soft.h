/* Soft rows in the interior point: a side may be exceeded by e >= 0 at the price linear e + quadratic e^2 / 2.
 *
 * A side g(x, u) <= 0 is then g - e + s = 0, and e >= 0 has a multiplier of its own, the hold: s z = mu, e hold = mu,
 * linear + quadratic e = z + hold. Excess and hold are eliminated from the Newton step: with kappa = quadratic + hold / e
 * the side's weight is D = 1 / (s/z + 1/kappa + delta), and de = (dz + p) / kappa with p = mu/e - linear - quadratic e + z.
 * So a soft side is one that gives way by 1/kappa; a hard side does not, nor does one whose linear weight is infinite. */
#ifndef MPCGEN_INTERIOR_POINT_SOFT_H
#define MPCGEN_INTERIOR_POINT_SOFT_H

#include "mpcgen_interior_point_state.h"

#if SOFT_ROWS

/* What exceeding a row costs at a stage; `soft` where that is finite. */
typedef struct {
  real linear, quadratic;
  mask soft;
} row_price;

INLINE real price_of(const row_price *p, real excess) {
  return (p->linear + R(0.5) * p->quadratic * excess) * excess;
}

/* How a side gives way: de = give dz + moved. Not at all where it is hard. */
typedef struct {
  real give, moved;
} side_give;

INLINE side_give give_of(const row_price *p, mask on, real excess, real hold, real multiplier, real mu) {
  const mask soft = lane_and(on, p->soft);
  const real e = lane_select(soft, excess, ALL(1)), kappa = lane_select(soft, p->quadratic + hold / e, ALL(1));
  const real over = ALL(1) / kappa, push = mu / e - p->linear - p->quadratic * e + multiplier;
  const side_give give = {where_on(soft, over), where_on(soft, over * push)};
  return give;
}

/* The step of an excess and its hold, for one of the side's multiplier; how far these let it go. */
typedef struct {
  real excess, hold, slope;
} excess_step;

INLINE excess_step step_of_excess(const row_price *p, mask on, side_give give, real excess, real hold, real d_multiplier,
                                  real mu, real *slack_share) {
  const mask soft = lane_and(on, p->soft);
  const real e = lane_select(soft, excess, ALL(1)), h = lane_select(soft, hold, ALL(1));
  const real d_excess = give.give * d_multiplier + give.moved;
  const real d_hold = where_on(soft, (mu - h * d_excess) / e - h);
  const excess_step step = {d_excess, d_hold, where_on(soft, (p->linear + p->quadratic * e - mu / e) * d_excess)};
  *slack_share = lane_max(-d_excess / e, *slack_share);
  return step;
}

/* What a side's excess lacks in linear + quadratic e = z + hold; its product with its hold into the summary. */
INLINE void note_excess(barrier_summary *summary, const row_price *p, mask on, real excess, real hold, real multiplier) {
  const mask soft = lane_and(on, p->soft);
  const real product = excess * hold, price = p->linear + p->quadratic * excess, lack = lane_abs(price - multiplier - hold);
  const mask seen = lane_lt(R(4) * SCALAR_EPSILON * price, lack); /* above its rounding */
  summary->dual_x = lane_max(where_on(lane_and(soft, seen), lack), summary->dual_x);
  summary->multiplier_sum += where_on(soft, hold);
  summary->sides += where_on(soft, ALL(1));
  summary->least_product = lane_min(summary->least_product, lane_select(soft, product, ALL(INFINITY)));
  summary->largest_product = lane_max(summary->largest_product, where_on(soft, product));
}

/* Slack, multiplier, excess and hold of a soft side that lies g beyond its bound, all four products mu and nothing
 * lacking: the root e of mu/(e - g) + mu/e = linear + quadratic e, which is convex in e, so that Newton's steps from below
 * go up to it. Without the quadratic weight the root is that of a quadratic equation. */
typedef struct {
  real slack, excess;
} soft_side;

INLINE soft_side centre_of_linear(real linear, real beyond, real mu) {
  const real a = linear * beyond, root = lane_sqrt(a * a + R(4) * mu * mu);
  /* (root - |a|) without the loss of digits */
  const real near = R(4) * mu * mu / (root + lane_abs(a)), far = root + lane_abs(a);
  const mask out = lane_lt(ALL(0), beyond);
  const real over = ALL(0.5) / linear;
  const soft_side found = {over * (R(2) * mu + lane_select(out, near, far)), over * (R(2) * mu + lane_select(out, far, near))};
  return found;
}

enum { CENTRING_STEPS = 6 };

RARE soft_side centre_of(const row_price *p, real beyond, real mu) {
  const mask priced = lane_lt(ALL(0), p->linear), curved = lane_lt(ALL(0), p->quadratic);
  const soft_side linear = centre_of_linear(lane_select(priced, p->linear, ALL(1)), beyond, mu);
  /* From above: no excess is more than that of either weight alone. */
  const real width = lane_sqrt(R(2) * mu / lane_select(curved, p->quadratic, ALL(1)));
  const real most = lane_min(lane_select(priced, linear.excess, ALL(INFINITY)),
                             lane_select(curved, lane_max(beyond, ALL(0)) + width, ALL(INFINITY)));
  soft_side side = centre_of_linear(p->linear + p->quadratic * most, beyond, mu);
  for (int i = 0; i < CENTRING_STEPS; i++) {
    const real over_slack = ALL(1) / side.slack, over_excess = ALL(1) / side.excess;
    const real lack = mu * (over_slack + over_excess) - p->linear - p->quadratic * side.excess;
    const real slope = mu * (over_slack * over_slack + over_excess * over_excess) + p->quadratic;
    const real change = lane_max(lack / slope, ALL(0));
    side.slack += change;
    side.excess += change;
  }
  return side;
}

/* The excess of a side of a candidate that lies `beyond` its bound, from where the step leads it. In restoration, where
 * soft sides rest, it is what the slack leaves open. The cost has the price of what is beyond the bound; that of an excess
 * above it is for the merit. */
INLINE real evaluate_excess(const barrier_state *s, const row_price *price, mask on, real beyond, real slack, real excess,
                            barrier_point *p, log_sum *logs) {
  const mask soft = lane_and(on, price->soft);
  const real least = lane_select(s->lanes.restoring, beyond + slack, excess), found = lane_max(excess, least);
  const real cost = where_on(soft, price_of(price, lane_max(beyond, ALL(0))));
  p->cost += cost;
  p->cost_scale += cost;
  p->charge += cost;
  p->surcharge += where_on(soft, price_of(price, found)) - cost;
  add_logarithms(logs, lane_select(soft, found, ALL(1)), ALL(1));
  return where_on(soft, found);
}

/* Gives a soft side of some lanes the slack, excess and multipliers that go together at mu where the row is. */
INLINE void centre_side(barrier_state *s, const row_price *price, mask where, real beyond, real mu, reals slack,
                        reals excess, reals multiplier, reals hold) {
  where = lane_and(where, price->soft);
  const soft_side found = centre_of(price, beyond, mu);
  const real before = excess[0] * slack[0], after = found.excess * found.slack;
  const real surcharge = price_of(price, found.excess) - price_of(price, excess[0]);
  s->point.logs += where_on(where, lane_log(after / before));
  s->point.surcharge += where_on(where, surcharge);
  slack[0] = lane_select(where, found.slack, slack[0]);
  excess[0] = lane_select(where, found.excess, excess[0]);
  multiplier[0] = lane_select(where, mu / found.slack, multiplier[0]);
  hold[0] = lane_select(where, mu / found.excess, hold[0]);
}

/* The hold of a side after the step, kept near mu over its excess. */
INLINE void step_hold(const row_price *price, mask on, mask where, real length, real excess, real d_hold, real mu, real range,
                      reals hold, product_range *products) {
  const mask soft = lane_and(on, price->soft);
  const real aim = mu / lane_select(soft, excess, ALL(1));
  const real found = where_on(soft, lane_clip(hold[0] + length * d_hold, aim / range, aim * range));
  hold[0] = lane_select(where, found, hold[0]);
  products->least = lane_min(products->least, lane_select(soft, excess * found, ALL(INFINITY)));
  products->largest = lane_max(products->largest, excess * found);
}

#endif

#endif

/* The rows of constraints in the interior point: slacks, multipliers, and what they add to a stage's Newton system.
 *
 * A row lower <= c(x, u) <= upper has two sides, each with a slack s and a multiplier z of its own, c - upper + s = 0 and
 * lower - c + s = 0. Its weight in the Hessian is D = 1 / (s/z + delta), summed over the sides before it meets the row's
 * Jacobian; delta is a regularisation that makes every row independent. Where the bounds meet, the row is an equality:
 * D = 1 / delta, and its multiplier, of either sign, is kept as the upper side's. A side that is infinite is off. Soft rows
 * have an excess besides (mpcgen_interior_point_soft.h), and are no equalities. */
#ifndef MPCGEN_INTERIOR_POINT_ROWS_H
#define MPCGEN_INTERIOR_POINT_ROWS_H

#include "mpcgen_interior_point_soft.h"

enum { MOST_ROWS = NPATH > NEND ? NPATH : NEND, ROWS = MOST_ROWS > 0 ? MOST_ROWS : 1 };

#if MPCGEN_PRECISION == 64
#define INEQUALITY_DELTA R(1e-10)
#define EQUALITY_DELTA R(1e-8)
#define VIOLATION_WEIGHT R(1e9)   /* in restoration, of a violation of one in units of the cost, which then hardly counts */
#define FIRST_LOOSENESS R(1e4)    /* of delta, where the linearised rows ask for too much */
#define MOST_LOOSENESS R(1e8)
#else
#define INEQUALITY_DELTA R(1e-5)
#define EQUALITY_DELTA R(1e-5)
#define VIOLATION_WEIGHT R(1e3)
#define FIRST_LOOSENESS R(1e1)
#define MOST_LOOSENESS R(1e4)
#endif

/* The bounds of a stage's rows, and what exceeding them costs. */
typedef struct {
  real lower[ROWS], upper[ROWS];
#if SOFT_ROWS
  real linear[ROWS], quadratic[ROWS];
#endif
} row_limits;

/* A row's bounds at a stage. */
typedef struct {
  real lower, upper;
  mask has_lower, has_upper, meets;
#if SOFT_ROWS
  row_price price;
#endif
} row_room;

/* What the rows of a stage hand to the stage's model: their multipliers, weights D, and D times what they lack. */
typedef struct {
  real dual[ROWS], stiffness[ROWS], force[ROWS];
} row_terms;

/* Whether exceeding the row is no question of price. */
INLINE mask is_hard(const row_room *r) {
#if SOFT_ROWS
  return lane_not(r->price.soft);
#else
  (void)r;
  return lane_all();
#endif
}

INLINE int row_count(const barrier_state *s, int t) { return t < s->horizon ? NPATH : NEND; }

#if CONSTRAINED

INLINE void read_limits(const barrier_state *s, int t, row_limits *limits) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t);
  EACH(i, ROWS) limits->lower[i] = limits->upper[i] = ALL(0);
  row_bounds_at(s->theta, theta_t, t == s->horizon, limits->lower, limits->upper);
#if SOFT_ROWS
  EACH(i, ROWS) limits->linear[i] = limits->quadratic[i] = ALL(0);
  row_weights_at(s->theta, theta_t, t == s->horizon, limits->linear, limits->quadratic);
#endif
}

#if SOFT_ROWS
/* What exceeding a row costs. A row without any price is off; one whose bounds meet has two sides. */
INLINE void find_price(real linear, real quadratic, row_room *r) {
  const mask soft = lane_finite(linear), priced = lane_lt(ALL(0), linear + quadratic);
  const row_price price = {where_on(soft, linear), where_on(soft, quadratic), soft};
  r->price = price;
  r->has_lower = lane_and(priced, lane_or(r->has_lower, lane_and(soft, r->meets)));
  r->has_upper = lane_and(priced, lane_or(r->has_upper, lane_and(soft, r->meets)));
  r->meets = lane_and(r->meets, lane_not(soft));
}
#endif

/* Rows that read no control do not hold at x_0, which is given. */
INLINE row_room room_of(const row_limits *limits, int t, int i) {
  const real lower = limits->lower[i], upper = limits->upper[i];
  const mask here = t > 0 || i < NMIXED ? lane_all() : lane_none();
  const real size = lane_max(lane_abs(lower), lane_abs(upper));
  const mask near = lane_le(upper - lower, ALL(8 * SCALAR_EPSILON) * size);
  const mask meets = lane_and(here, lane_and(near, lane_finite(size))), apart = lane_and(here, lane_not(meets));
  row_room room;
  room.lower = lower;
  room.upper = upper;
  room.meets = meets;
  room.has_lower = lane_and(apart, lane_finite(lower));
  room.has_upper = lane_and(apart, lane_finite(upper));
#if SOFT_ROWS
  find_price(limits->linear[i], limits->quadratic[i], &room);
#endif
  return room;
}

FUNCTION void evaluate_rows(const barrier_state *s, int t, stored_reals path, stored_reals u, reals rows) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t);
  if (t < s->horizon)
    stage_rows(path + t * PAIR, u + t * NU, s->theta, theta_t, rows + t * NPATH);
  else
    terminal_rows(path + t * PAIR, s->theta, theta_t, rows + t * NPATH);
}

/* What a side lacks: zero where it is off. */
INLINE real high_lack(const row_room *r, real row, real slack) { return where_on(r->has_upper, row - r->upper + slack); }
INLINE real low_lack(const row_room *r, real row, real slack) { return where_on(r->has_lower, r->lower - row + slack); }
INLINE real equality_lack(const row_room *r, real row) { return where_on(r->meets, row - r->upper); }

#if SOFT_ROWS
/* The excesses of a row's sides; they are off where these are hard. In restoration soft sides take no part. */
typedef struct {
  mask has_low, has_high;
  real low, high;
  side_give low_give, high_give;
} row_excess;

INLINE row_excess excess_of(const barrier_state *s, const row_room *r, int at) {
  const row_price *price = &r->price;
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  const mask rests = lane_and(price->soft, s->lanes.restoring);
  const mask low = lane_and(r->has_lower, lane_not(rests)), high = lane_and(r->has_upper, lane_not(rests));
  const real low_excess = s->low_excess[at], high_excess = s->high_excess[at];
  const row_excess excess = {
      low, high, low_excess, high_excess,
      give_of(price, low, low_excess, s->low_hold[at], s->low_multiplier[at], mu),
      give_of(price, high, high_excess, s->high_hold[at], s->high_multiplier[at], mu),
  };
  return excess;
}
#endif

/* A side at the iterate: what it lacks and how it gives way, its slack and its multiplier, which is zero where it is off. */
typedef struct {
  mask on;
  real lack, slack, multiplier, delta;
} row_side;

INLINE row_side low_side(const barrier_state *s, const row_room *r, int at) {
  const real slack = s->low_slack[at], multiplier = where_on(r->has_lower, s->low_multiplier[at]);
  const row_side side = {r->has_lower, low_lack(r, s->row[at], slack), slack, multiplier, s->delta};
  return side;
}

INLINE row_side high_side(const barrier_state *s, const row_room *r, int at) {
  const real slack = s->high_slack[at], multiplier = where_on(r->has_upper, s->high_multiplier[at]);
  const row_side side = {r->has_upper, high_lack(r, s->row[at], slack), slack, multiplier, s->delta};
  return side;
}

typedef struct {
  row_side low, high;
#if SOFT_ROWS
  row_excess excess;
#endif
} row_sides;

INLINE row_sides sides_of(const barrier_state *s, const row_room *r, int at) {
  row_sides sides;
  sides.low = low_side(s, r, at);
  sides.high = high_side(s, r, at);
#if SOFT_ROWS
  const row_excess e = excess_of(s, r, at);
  sides.excess = e;
  sides.low.on = e.has_low;
  sides.high.on = e.has_high;
  sides.low.lack -= e.low + e.low_give.moved;
  sides.high.lack -= e.high + e.high_give.moved;
  sides.low.delta += e.low_give.give;
  sides.high.delta += e.high_give.give;
#endif
  return sides;
}

/* D = z / (s + delta z), and D (g + mu/z): both from one division, which is kept for the step. */
typedef struct {
  real inverse, weight, force;
} side_terms;

INLINE side_terms terms_of(const barrier_state *s, const row_side *side) {
  const real z = side->multiplier, inverse = ALL(1) / (side->slack + side->delta * z);
  const side_terms terms = {inverse, z * inverse, where_on(side->on, (z * (side->lack - side->slack) + s->mu) * inverse)};
  return terms;
}

/* In restoration only what a hard row lacks counts, with the weight one. */
typedef struct {
  real stiffness, force;
} row_pull;

INLINE row_pull restoring_pull(const barrier_state *s, const row_room *r, int at) {
  const real row = s->row[at], low = where_on(is_hard(r), lane_max(low_lack(r, row, s->low_slack[at]), ALL(0)));
  const real high = where_on(is_hard(r), lane_max(high_lack(r, row, s->high_slack[at]), ALL(0)));
  const mask counts_low = lane_lt(ALL(0), low), counts_high = lane_lt(ALL(0), high);
  const real sides = where_on(counts_low, ALL(1)) + where_on(counts_high, ALL(1)) + where_on(r->meets, ALL(1));
  const row_pull pull = {s->row_unit * sides, s->row_unit * (high - low + equality_lack(r, row))};
  return pull;
}

/* In the lanes that restore, what the rows of a stage add is this. */
RARE void add_restoring_rows(const barrier_state *s, int t, row_terms *terms) {
  const mask restoring = s->lanes.restoring;
  row_limits limits;
  read_limits(s, t, &limits);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room r = room_of(&limits, t, i);
    const row_pull pull = restoring_pull(s, &r, t * NPATH + i);
    terms->dual[i] = lane_select(restoring, ALL(0), terms->dual[i]);
    terms->stiffness[i] = lane_select(restoring, pull.stiffness, terms->stiffness[i]);
    terms->force[i] = lane_select(restoring, pull.force, terms->force[i]);
  }
}

/* Sizes of a stage's multipliers, and their products with the slacks. Of barrier_summary; apart, so that it stays in
 * registers. */
typedef struct {
  real multiplier_sum, sides, least_product, largest_product;
} row_sizes;

INLINE void note_sides(row_sizes *sizes, const row_room *r, real low, real high, const row_sides *sides) {
  const real low_product = low * sides->low.slack, high_product = high * sides->high.slack;
  sizes->multiplier_sum += low + lane_abs(high);
  sizes->sides += where_on(r->has_lower, ALL(1)) + where_on(lane_or(r->has_upper, r->meets), ALL(1));
  sizes->least_product = lane_min(sizes->least_product, lane_select(r->has_lower, low_product, ALL(INFINITY)));
  sizes->least_product = lane_min(sizes->least_product, lane_select(r->has_upper, high_product, ALL(INFINITY)));
  sizes->largest_product = lane_max(sizes->largest_product, where_on(r->has_lower, low_product));
  sizes->largest_product = lane_max(sizes->largest_product, where_on(r->has_upper, high_product));
}

INLINE void add_sizes(barrier_summary *summary, const row_sizes *sizes) {
  summary->multiplier_sum += sizes->multiplier_sum;
  summary->sides += sizes->sides;
  summary->least_product = lane_min(summary->least_product, sizes->least_product);
  summary->largest_product = lane_max(summary->largest_product, sizes->largest_product);
}

/* What the rows of a stage add to its model, and the sizes of multipliers and products into what a sweep finds. */
FUNCTION void add_rows(barrier_state *s, int t, row_terms *terms) {
  row_sizes sizes = {ALL(0), ALL(0), ALL(INFINITY), ALL(0)};
  row_limits limits;
  read_limits(s, t, &limits);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room r = room_of(&limits, t, i);
    const int at = t * NPATH + i;
    const row_sides sides = sides_of(s, &r, at);
    const side_terms of_low = terms_of(s, &sides.low), of_high = terms_of(s, &sides.high);
    const real low = s->low_multiplier[at], high = s->high_multiplier[at], equal = where_on(r.meets, s->equality_weight);
    s->low_inverse[at] = of_low.inverse;
    s->high_inverse[at] = of_high.inverse;
    terms->dual[i] = high - low;
    terms->stiffness[i] = lane_select(s->lanes.begins, ALL(0), of_low.weight + of_high.weight + equal);
    terms->force[i] = of_high.force - of_low.force + equal * equality_lack(&r, s->row[at]);
    note_sides(&sizes, &r, low, high, &sides);
#if SOFT_ROWS
    note_excess(&s->summary, &r.price, r.has_lower, s->low_excess[at], s->low_hold[at], low);
    note_excess(&s->summary, &r.price, r.has_upper, s->high_excess[at], s->high_hold[at], high);
#endif
  }
  add_sizes(&s->summary, &sizes);
  if (lane_any(s->lanes.restoring)) add_restoring_rows(s, t, terms);
}

#endif

#endif

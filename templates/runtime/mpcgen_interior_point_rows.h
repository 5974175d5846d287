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

/* A loop over rows that gcc unrolled would have its constants anew in each turn, and so no registers left. */
#if NPATH > 1 || NEND > 1
#define KEEP_ROWS KEEP_LOOP
#else
#define KEEP_ROWS
#endif

#if MPCGEN_PRECISION == 64
#define INEQUALITY_DELTA R(1e-10)
#define EQUALITY_DELTA R(1e-8)
#define MIXED_EQUALITY_DELTA EQUALITY_DELTA
#define VIOLATION_WEIGHT R(1e9)   /* in restoration, of a violation of one in units of the cost, which then hardly counts */
#define YIELDING_SHIFT R(1e-8)    /* where rows yield, in units of what the violation weighs: little, but more than rounding */
#define FIRST_LOOSENESS R(1e4)    /* of delta, where the linearised rows ask for too much */
#define MOST_LOOSENESS R(1e8)
#define LOOSEST R(1e4)            /* where the rows' weights may hide curvature */
#define LEAST_LOOSENESS R(1)
#define LEAST_EQUALITY_LOOSENESS 1e-2
#define MOST_EQUALITY_LOOSENESS R(1e2)
#else
#define INEQUALITY_DELTA R(1e-7)
#define EQUALITY_DELTA R(1e-5)
#define LEAST_EQUALITY_LOOSENESS 1
#define MOST_EQUALITY_LOOSENESS R(1e1)
#define MIXED_EQUALITY_DELTA R(1e-3) /* of rows that read controls, beside whose weight Quu has to keep its digits */
#define VIOLATION_WEIGHT R(1e6)
#define YIELDING_SHIFT R(1e-6)
#define FIRST_LOOSENESS R(1e1)
#define MOST_LOOSENESS R(1e4)
#define LOOSEST R(1e6)
#define LEAST_LOOSENESS R(0.1)    /* where steps shrink slowly for it, */
#endif
#define HARDLY_LOOSE R(1e-3)      /* and where products stay, too */

/* A row's bounds at a stage; see LIMIT_REALS. `equal` means something only where they meet. */
typedef struct {
  real low_sign, low_shift, high_sign, high_shift, low_off, high_off, equal;
  mask has_lower, has_upper;
#if SOFT_ROWS
  row_price price;
#endif
} row_room;

/* What the rows of a stage hand to the stage's model: their multipliers, weights D, and D times what they lack. */
typedef struct {
  real dual[ROWS], stiffness[ROWS], force[ROWS];
} row_terms;

/* Those of no rows. */
INLINE void clear_terms(row_terms *terms) {
  EACH(i, ROWS) terms->dual[i] = terms->stiffness[i] = terms->force[i] = ALL(0);
}

/* Whether exceeding the row is no question of price. */
INLINE mask is_hard(const row_room *r) {
#if SOFT_ROWS
  return lane_not(r->price.soft);
#else
  (void)r;
  return lane_all();
#endif
}

#if CONSTRAINED

#if SOFT_ROWS
/* What exceeding a row costs. A row without any price is off; one whose bounds meet has two sides. */
INLINE void find_price(reals limit, real linear, real quadratic, mask *has_lower, mask *has_upper, mask *meets) {
  const mask soft = lane_finite(linear), priced = lane_lt(ALL(0), linear + quadratic);
  limit[LINEAR] = linear;
  limit[QUADRATIC] = where_on(soft, quadratic);
  *has_lower = lane_and(priced, lane_or(*has_lower, lane_and(soft, *meets)));
  *has_upper = lane_and(priced, lane_or(*has_upper, lane_and(soft, *meets)));
  *meets = lane_and(*meets, lane_not(soft));
}
#endif

/* For how many stages a row's limits at stage t stand. */
INLINE int limit_stages(const barrier_state *s, int t, int i) {
  const int first = i < NMIXED && t < s->horizon ? 0 : 1; /* x_0 has no rows of states */
  return s->rows == 1 && t < s->horizon ? s->horizon - first : t >= first;
}

/* The limits of a stage's rows from the parameters. Adds how many sides they have in all stages that they stand for, and
 * notes whether any is an equality. */
OUTLINED void find_limits(barrier_state *s, int t) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t);
  real lower[ROWS], upper[ROWS];
  reals limit = first_limit(s, t);
  EACH(i, ROWS) lower[i] = upper[i] = ALL(0);
  row_bounds_at(s->theta, theta_t, t == s->horizon, lower, upper);
#if SOFT_ROWS
  real linear[ROWS], quadratic[ROWS];
  EACH(i, ROWS) linear[i] = quadratic[i] = ALL(0);
  row_weights_at(s->theta, theta_t, t == s->horizon, linear, quadratic);
#endif
  for (int i = 0; i < (t < s->horizon ? NPATH : NEND); i++, limit += LIMIT_REALS) {
    const real size = lane_max(lane_abs(lower[i]), lane_abs(upper[i]));
    mask meets = lane_and(lane_le(upper[i] - lower[i], ALL(8 * SCALAR_EPSILON) * size), lane_finite(size));
    mask has_lower = lane_and(lane_not(meets), is_bound(lower[i]));
    mask has_upper = lane_and(lane_not(meets), is_bound(upper[i]));
#if SOFT_ROWS
    find_price(limit, linear[i], quadratic[i], &has_lower, &has_upper, &meets);
#endif
    limit[LOW_SIGN] = where_on(has_lower, ALL(1));
    limit[LOW_SHIFT] = lane_select(has_lower, -lower[i], ALL(1));
    limit[HIGH_SIGN] = where_on(has_upper, ALL(-1));
    limit[HIGH_SHIFT] = lane_select(has_upper, upper[i], ALL(1));
    limit[LOW_OFF] = lane_select(has_lower, ALL(0), ALL(INFINITY));
    limit[HIGH_OFF] = lane_select(has_upper, ALL(0), ALL(INFINITY));
    limit[EQUAL] = lane_select(meets, upper[i], ALL(INFINITY));
    s->equalities |= lane_any(meets);
    const real stages = ALL(limit_stages(s, t, i));
    s->row_sides += where_on(has_lower, stages) + where_on(lane_or(has_upper, meets), stages);
    s->row_products += where_on(has_lower, stages) + where_on(has_upper, stages);
  }
}

/* The same of all stages, after a lane has loaded its parameters. */
OUTLINED void load_limits(barrier_state *s) {
  s->row_sides = s->row_products = ALL(0);
  s->equalities = 0;
  for (int t = 0; t < s->horizon; t += s->rows > 1 ? 1 : s->horizon) find_limits(s, t);
  find_limits(s, s->horizon);
}

INLINE row_room room_of(reals limit) {
  row_room room;
  room.low_sign = limit[LOW_SIGN];
  room.low_shift = limit[LOW_SHIFT];
  room.high_sign = limit[HIGH_SIGN];
  room.high_shift = limit[HIGH_SHIFT];
  room.low_off = limit[LOW_OFF];
  room.high_off = limit[HIGH_OFF];
  room.equal = limit[EQUAL];
  room.has_lower = lane_le(room.low_off, ALL(0));
  room.has_upper = lane_le(room.high_off, ALL(0));
#if SOFT_ROWS
  const mask soft = lane_finite(limit[LINEAR]);
  const row_price price = {where_on(soft, limit[LINEAR]), limit[QUADRATIC], soft};
  room.price = price;
#endif
  return room;
}

INLINE mask is_equality(const row_room *r) { return lane_lt(r->equal, ALL(INFINITY)); }

FUNCTION void evaluate_rows(const barrier_state *s, int t, stored_reals path, stored_reals u, real *rows) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t);
  if (t < s->horizon)
    stage_rows(path + t * PAIR, u + t * NU, s->theta, theta_t, rows);
  else
    terminal_rows(path + t * PAIR, s->theta, theta_t, rows);
}

/* How far a row is from its bounds; one where they are off. What it lacks is the slack less that. */
INLINE real low_room(const row_room *r, real row) { return r->low_sign * row + r->low_shift; }
INLINE real high_room(const row_room *r, real row) { return r->high_sign * row + r->high_shift; }
INLINE real equality_lack(const row_room *r, real row) { return where_on(is_equality(r), row - r->equal); }

#if SOFT_ROWS
/* The excesses of a row's sides; they are off where these are hard. In restoration soft sides take no part. */
typedef struct {
  mask has_low, has_high;
  real low, high;
  side_give low_give, high_give;
} row_excess;

INLINE row_excess excess_of(const barrier_state *s, const row_room *r, reals row) {
  const row_price *price = &r->price;
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  const mask rests = lane_and(price->soft, s->lanes.restoring);
  const mask low = lane_and(r->has_lower, lane_not(rests)), high = lane_and(r->has_upper, lane_not(rests));
  const reals now = row + s->at_iterate;
  const row_excess excess = {
      low, high, now[LOW_EXCESS], now[HIGH_EXCESS],
      give_of(price, low, now[LOW_EXCESS], row[LOW_HOLD], row[LOW_MULTIPLIER], mu),
      give_of(price, high, now[HIGH_EXCESS], row[HIGH_HOLD], row[HIGH_MULTIPLIER], mu),
  };
  return excess;
}
#endif

/* A side at the iterate: the sign of its bound, how far the row is from that, its slack and its multiplier, zero where it is
 * off; how it gives way. */
typedef struct {
  real sign, room, slack, multiplier, delta;
} row_side;

INLINE row_side low_side(const barrier_state *s, const row_room *r, reals row) {
  const reals now = row + s->at_iterate;
  const row_side side = {r->low_sign, low_room(r, now[ROW_VALUE]), now[LOW_SLACK], row[LOW_MULTIPLIER], s->delta};
  return side;
}

INLINE row_side high_side(const barrier_state *s, const row_room *r, reals row) {
  const reals now = row + s->at_iterate;
  const row_side side = {r->high_sign, high_room(r, now[ROW_VALUE]), now[HIGH_SLACK], row[HIGH_MULTIPLIER], s->delta};
  return side;
}

typedef struct {
  row_side low, high;
#if SOFT_ROWS
  row_excess excess;
#endif
} row_sides;

INLINE row_sides sides_of(const barrier_state *s, const row_room *r, reals row) {
  row_sides sides;
  sides.low = low_side(s, r, row);
  sides.high = high_side(s, r, row);
#if QUADRATIC_PROGRAM
  sides.low.room += s->lanes.yield * sides.low.multiplier;
  sides.high.room += s->lanes.yield * sides.high.multiplier;
#endif
#if SOFT_ROWS
  const row_excess e = excess_of(s, r, row);
  sides.excess = e;
  sides.low.sign = where_on(e.has_low, r->low_sign);
  sides.high.sign = where_on(e.has_high, r->high_sign);
  sides.low.room += e.low + e.low_give.moved;
  sides.high.room += e.high + e.high_give.moved;
  sides.low.delta += e.low_give.give;
  sides.high.delta += e.high_give.give;
#endif
  return sides;
}

/* What a side with the room -g adds to the sweep and to the step after it, from one division, 1 / (s (s + delta z)): its
 * weight D = z / (s + delta z); force = D (g + mu/z), the multiplier's step where the row does not move; and ratio, the slack's
 * step over the slack there. That is found without the multiplier's, and so does not lose a small slack in rounding. `inverse`
 * and weight have the sign of the side's room; all are zero where it is off. */
typedef struct {
  real inverse, ratio, weight, force, quotient;
} side_terms;

INLINE side_terms terms_of(real mu, const row_side *side, int high) {
  const real z = side->multiplier, sum = side->slack + side->delta * z, give = side->delta * mu, product = z * side->room;
  const real quotient = side->sign * (ALL(1) / (side->slack * sum)), inverse = side->slack * quotient;
  const real rest = give * quotient - side->sign, moved = inverse * side->room + rest; /* of a slack that is the room: next to none */
  const real ratio = high ? -moved : moved, force = (high ? product - mu : mu - product) * inverse;
  const side_terms terms = {inverse, ratio, z * inverse, force, quotient};
  return terms;
}

/* In restoration only what a hard row lacks counts, with the weight one. */
typedef struct {
  real stiffness, force;
} row_pull;

INLINE row_pull restoring_pull(const barrier_state *s, const row_room *r, reals row) {
  const real value = row[s->at_iterate + ROW_VALUE];
  const real low_lack = row[s->at_iterate + LOW_SLACK] - low_room(r, value);
  const real high_lack = row[s->at_iterate + HIGH_SLACK] - high_room(r, value);
  const real low = where_on(is_hard(r), lane_max(low_lack, ALL(0))), high = where_on(is_hard(r), lane_max(high_lack, ALL(0)));
  const mask counts_low = lane_lt(ALL(0), low), counts_high = lane_lt(ALL(0), high);
  const real sides = where_on(counts_low, ALL(1)) + where_on(counts_high, ALL(1)) + where_on(is_equality(r), ALL(1));
  const row_pull pull = {s->row_unit * sides, s->row_unit * (high - low + equality_lack(r, value))};
  return pull;
}

/* The weight of an equality in row i of a stage. */
INLINE real equality_weight(const barrier_state *s, int t, int i) {
  return i < NMIXED && t < s->horizon ? s->mixed_weight : s->state_weight;
}

/* The step of an equality's multiplier where the row changes by `change`; what it has yielded is taken back. */
INLINE real equality_force(const barrier_state *s, const row_room *r, reals row, real weight, real change) {
  const real force = weight * (equality_lack(r, row[s->at_iterate + ROW_VALUE]) + change);
  return QUADRATIC_PROGRAM ? force - where_on(yielding(s), row[HIGH_MULTIPLIER]) : force;
}

/* Of equalities the rows of a stage add this. */
RARE void add_equalities(const barrier_state *s, int t, row_terms *terms) {
  reals row = first_row(s, t), limit = first_limit(s, t);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    const mask equal = is_equality(&r);
    const real weight = equality_weight(s, t, i), force = equality_force(s, &r, row, weight, ALL(0));
    terms->stiffness[i] = lane_select(equal, weight, terms->stiffness[i]);
    terms->force[i] = lane_select(equal, force, terms->force[i]);
    row[HIGH_INVERSE] = lane_select(equal, ALL(0), row[HIGH_INVERSE]);
    row[HIGH_RATIO] = lane_select(equal, ALL(0), row[HIGH_RATIO]);
    row[HIGH_FORCE] = lane_select(equal, ALL(0), row[HIGH_FORCE]);
  }
}

/* In the lanes that restore, what the rows of a stage add is this. */
RARE void add_restoring_rows(const barrier_state *s, int t, row_terms *terms) {
  const mask restoring = s->lanes.restoring;
  reals row = first_row(s, t), limit = first_limit(s, t);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    const row_pull pull = restoring_pull(s, &r, row);
    terms->dual[i] = lane_select(restoring, ALL(0), terms->dual[i]);
    terms->stiffness[i] = lane_select(restoring, pull.stiffness, terms->stiffness[i]);
    terms->force[i] = lane_select(restoring, pull.force, terms->force[i]);
  }
}

INLINE row_sizes no_sizes(void) {
  const row_sizes sizes = {ALL(0), ALL(INFINITY), ALL(0), ALL(0)};
  return sizes;
}

/* Adds those of a row's two sides. One that is off has a product of zero, and is left out of the least by its infinite
 * `off`; an equality has its multiplier as the high one's. */
INLINE void note_sizes(row_sizes *sizes, const row_room *r, int equalities, real low_slack, real low, real high_slack,
                       real high) {
  const real low_product = low_slack * low;
  real high_product = high_slack * high;
  if (equalities) high_product = where_on(r->has_upper, high_product);
  const real least = lane_min(lane_max(r->low_off, low_product), lane_max(r->high_off, high_product));
  sizes->multiplier_sum += low + (equalities ? lane_abs(high) : high);
  sizes->least_product = lane_min(least, sizes->least_product);
  sizes->largest_product = lane_max(lane_max(low_product, high_product), sizes->largest_product);
  if (QUADRATIC_PROGRAM) sizes->product_sum += low_product + high_product;
}

/* Takes those of some lanes. The others' stay as they were found: of the same sums in two functions gcc could make two that round
 * differently, and a lane would depend on what its neighbours do. */
INLINE void select_sizes(row_sizes *to, const row_sizes *from, mask where) {
  to->multiplier_sum = lane_select(where, from->multiplier_sum, to->multiplier_sum);
  to->least_product = lane_select(where, from->least_product, to->least_product);
  to->largest_product = lane_select(where, from->largest_product, to->largest_product);
  to->product_sum = lane_select(where, from->product_sum, to->product_sum);
}

/* Those of all rows of the iterate, in some lanes. */
RARE void find_sizes(barrier_state *s, mask where) {
  row_sizes sizes = no_sizes();
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const reals now = row + s->at_iterate;
      note_sizes(&sizes, &r, s->equalities, now[LOW_SLACK], row[LOW_MULTIPLIER], now[HIGH_SLACK], row[HIGH_MULTIPLIER]);
    }
  }
  select_sizes(&s->sizes, &sizes, where);
}

/* Part of the sweep where there are registers for it. */
#if LANES > 1 && REGISTER_BYTES == 64
#define ADD_ROWS INLINE
#else
#define ADD_ROWS OUTLINED
#endif

/* What the rows of a stage add to its model. */
ADD_ROWS void add_rows(barrier_state *s, int t, row_terms *terms) {
  reals row = first_row(s, t), limit = first_limit(s, t);
  const int count = row_count(s, t);
  const real mu = s->mu;
  KEEP_ROWS for (int i = 0; i < count; i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    const row_sides sides = sides_of(s, &r, row);
    const side_terms of_low = terms_of(mu, &sides.low, 0), of_high = terms_of(mu, &sides.high, 1);
    const real low = row[LOW_MULTIPLIER], high = row[HIGH_MULTIPLIER];
    row[LOW_INVERSE] = of_low.inverse;
    row[HIGH_INVERSE] = of_high.inverse;
    row[LOW_RATIO] = of_low.ratio;
    row[HIGH_RATIO] = of_high.ratio;
    row[LOW_FORCE] = of_low.force;
    row[HIGH_FORCE] = of_high.force;
#if QUADRATIC_PROGRAM
    row[LOW_QUOTIENT] = of_low.quotient;
    row[HIGH_QUOTIENT] = of_high.quotient;
#endif
    terms->dual[i] = high - low;
    terms->stiffness[i] = of_low.weight - of_high.weight;
    terms->force[i] = of_high.force - of_low.force;
#if SOFT_ROWS
    note_excess(&s->summary, &r.price, r.has_lower, row[s->at_iterate + LOW_EXCESS], row[LOW_HOLD], low);
    note_excess(&s->summary, &r.price, r.has_upper, row[s->at_iterate + HIGH_EXCESS], row[HIGH_HOLD], high);
#endif
  }
  for (int i = count; i < ROWS; i++) terms->dual[i] = terms->stiffness[i] = terms->force[i] = ALL(0);
  if (s->equalities) add_equalities(s, t, terms);
  if (s->begins) EACH(i, ROWS) terms->stiffness[i] = lane_select(s->lanes.begins, ALL(0), terms->stiffness[i]);
  if (s->restores) add_restoring_rows(s, t, terms);
}

#endif

#endif

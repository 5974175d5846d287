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

#if SOFT_ROWS
/* What exceeding the rows of a stage costs. A row without any price is off. */
FUNCTION void find_prices(const barrier_state *s, int t, row_room *room) {
  real linear[ROWS], quadratic[ROWS];
  EACH(i, ROWS) linear[i] = quadratic[i] = ALL(0);
  row_weights_at(s->theta, stage_row(s->theta_stage, s->rows, t), t == s->horizon, linear, quadratic);
  for (int i = 0; i < row_count(s, t); i++) {
    row_room *r = &room[i];
    const mask soft = lane_finite(linear[i]), priced = lane_lt(ALL(0), linear[i] + quadratic[i]);
    const row_price price = {where_on(soft, linear[i]), where_on(soft, quadratic[i]), soft};
    r->price = price;
    r->has_lower = lane_and(priced, lane_or(r->has_lower, lane_and(soft, r->meets)));
    r->has_upper = lane_and(priced, lane_or(r->has_upper, lane_and(soft, r->meets)));
    r->meets = lane_and(r->meets, lane_not(soft));
  }
}
#endif

/* Rows that read no control do not hold at x_0, which is given. */
FUNCTION void find_rows(const barrier_state *s, int t, row_room *room) {
  real lower[ROWS], upper[ROWS];
  EACH(i, ROWS) lower[i] = upper[i] = ALL(0);
  row_bounds_at(s->theta, stage_row(s->theta_stage, s->rows, t), t == s->horizon, lower, upper);
  for (int i = 0; i < row_count(s, t); i++) {
    const mask here = t > 0 || i < NMIXED ? lane_all() : lane_none();
    const real size = lane_max(lane_abs(lower[i]), lane_abs(upper[i]));
    const mask near = lane_le(upper[i] - lower[i], ALL(8 * SCALAR_EPSILON) * size);
    const mask meets = lane_and(near, lane_finite(size));
    room[i].lower = lower[i];
    room[i].upper = upper[i];
    room[i].meets = lane_and(here, meets);
    room[i].has_lower = lane_and(here, lane_and(lane_finite(lower[i]), lane_not(meets)));
    room[i].has_upper = lane_and(here, lane_and(lane_finite(upper[i]), lane_not(meets)));
  }
#if SOFT_ROWS
  find_prices(s, t, room);
#endif
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

/* A side in the Newton system, for a multiplier in units of the problem: its weight, and its weight times g + mu/z. With
 * the step of the multiplier, that of the slack is aim - compliance dz, which does not lose a small slack in rounding. */
typedef struct {
  real weight, force, aim, compliance;
} side;

INLINE side side_terms(const barrier_state *s, mask on, real lack, real slack, real multiplier, real give) {
  const barrier_progress *lanes = &s->lanes;
  const real mu = lanes->barrier * lanes->cost_unit;
  const real delta = ALL(INEQUALITY_DELTA) * lanes->looseness / lanes->cost_unit + give;
  const real z = lane_select(on, multiplier, ALL(1)), over = ALL(1) / z, compliance = slack * over;
  const real weight = where_on(on, ALL(1) / (compliance + delta)), aim = mu * over - slack;
  const real restores = lane_select(lane_and(on, lane_lt(ALL(0), lack)), s->row_unit, ALL(0));
  const side terms = {lane_select(lanes->restoring, restores, weight),
                      lane_select(lanes->restoring, restores * lack, weight * (lack + aim)), where_on(on, aim), compliance};
  return terms;
}

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

/* The sides of row i at stage t. In restoration only what a hard row lacks counts, with the weight one. */
typedef struct {
  side low, high, equal;
} row_sides;

INLINE row_sides sides_of(const barrier_state *s, const row_room *r, int at) {
  const barrier_progress *lanes = &s->lanes;
  const real low_slack = s->low_slack[at], high_slack = s->high_slack[at], row = s->row[at];
  const real delta = lane_select(lanes->restoring, ALL(1), ALL(EQUALITY_DELTA) * lanes->looseness) / s->row_unit;
  const real low_short = low_lack(r, row, low_slack), high_short = high_lack(r, row, high_slack);
  const real low = s->low_multiplier[at], high = s->high_multiplier[at];
  const side equal = {where_on(r->meets, ALL(1) / delta), equality_lack(r, row) / delta, ALL(0), ALL(0)};
#if SOFT_ROWS
  const row_excess e = excess_of(s, r, at);
  const row_sides sides = {
      side_terms(s, e.has_low, low_short - e.low - e.low_give.moved, low_slack, low, e.low_give.give),
      side_terms(s, e.has_high, high_short - e.high - e.high_give.moved, high_slack, high, e.high_give.give),
      equal,
  };
#else
  const row_sides sides = {
      side_terms(s, r->has_lower, low_short, low_slack, low, ALL(0)),
      side_terms(s, r->has_upper, high_short, high_slack, high, ALL(0)),
      equal,
  };
#endif
  return sides;
}

/* What the rows of a stage add to its model, and the sizes of multipliers and products into what a sweep finds. */
FUNCTION void add_rows(barrier_state *s, int t, row_terms *terms) {
  barrier_summary *summary = &s->summary;
  row_room room[ROWS];
  find_rows(s, t, room);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room *r = &room[i];
    const int at = t * NPATH + i;
    const row_sides sides = sides_of(s, r, at);
    const real low = s->low_multiplier[at], high = s->high_multiplier[at];
    const real low_product = low * s->low_slack[at], high_product = high * s->high_slack[at];
    const real stiffness = sides.low.weight + sides.high.weight + sides.equal.weight;
    terms->dual[i] = lane_select(s->lanes.restoring, ALL(0), high - low);
    terms->stiffness[i] = lane_select(s->lanes.begins, ALL(0), stiffness);
    terms->force[i] = sides.high.force - sides.low.force + sides.equal.force;
    summary->multiplier_sum += low + lane_abs(high);
    summary->sides += where_on(r->has_lower, ALL(1)) + where_on(lane_or(r->has_upper, r->meets), ALL(1));
    summary->least_product = lane_min(summary->least_product, lane_select(r->has_lower, low_product, ALL(INFINITY)));
    summary->least_product = lane_min(summary->least_product, lane_select(r->has_upper, high_product, ALL(INFINITY)));
    summary->largest_product = lane_max(summary->largest_product, where_on(r->has_lower, low_product));
    summary->largest_product = lane_max(summary->largest_product, where_on(r->has_upper, high_product));
#if SOFT_ROWS
    note_excess(summary, &r->price, r->has_lower, s->low_excess[at], s->low_hold[at], low);
    note_excess(summary, &r->price, r->has_upper, s->high_excess[at], s->high_hold[at], high);
#endif
  }
}

#if SOFT_ROWS
/* The step of the excesses of a row for one of its multipliers. */
INLINE void soften_step(barrier_state *s, const row_room *r, int at, real d_low_multiplier, real d_high_multiplier,
                        real *slack_share, real *multiplier_share) {
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  const row_excess excess = excess_of(s, r, at);
  const excess_step low = step_of_excess(&r->price, excess.has_low, excess.low_give, excess.low, s->low_hold[at],
                                         d_low_multiplier, mu, slack_share, multiplier_share);
  const excess_step high = step_of_excess(&r->price, excess.has_high, excess.high_give, excess.high, s->high_hold[at],
                                          d_high_multiplier, mu, slack_share, multiplier_share);
  s->d_low_excess[at] = low.excess;
  s->d_high_excess[at] = high.excess;
  s->d_low_hold[at] = low.hold;
  s->d_high_hold[at] = high.hold;
  s->slope += low.slope + high.slope;
}
#endif

/* The step of the rows of a stage, of their slacks and multipliers; how far these let it go; its slope. */
FUNCTION void row_step(barrier_state *s, int t, real *slack_share, real *multiplier_share) {
  const barrier_progress *lanes = &s->lanes;
  const reals theta_t = stage_row(s->theta_stage, s->rows, t), d_x = s->d_x + t * NX;
  real change[ROWS];
  row_room room[ROWS];
  EACH(i, ROWS) change[i] = ALL(0);
  find_rows(s, t, room);
  if (t < s->horizon)
    stage_rows_tangent(path_at(s, t), s->u + t * NU, s->theta, theta_t, d_x, s->d_u + t * NU, change);
  else
    terminal_rows_tangent(path_at(s, t), s->theta, theta_t, d_x, change);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room *r = &room[i];
    const int at = t * NPATH + i;
    const row_sides sides = sides_of(s, r, at);
    const real low_slack = s->low_slack[at], high_slack = s->high_slack[at];
    const real low = s->low_multiplier[at], high = s->high_multiplier[at];
    const real d_low = sides.low.force - sides.low.weight * change[i];
    const real d_high = sides.high.force + sides.high.weight * change[i];
    const real d_low_slack = sides.low.aim - sides.low.compliance * d_low;
    const real d_high_slack = sides.high.aim - sides.high.compliance * d_high;
#if SOFT_ROWS
    soften_step(s, r, at, d_low, d_high, slack_share, multiplier_share);
#endif
    const real equal = sides.equal.force + sides.equal.weight * change[i];
    s->d_low_slack[at] = d_low_slack;
    s->d_high_slack[at] = d_high_slack;
    s->d_low_multiplier[at] = d_low;
    s->d_high_multiplier[at] = lane_select(r->meets, equal, d_high);
    *slack_share = lane_max(where_on(r->has_lower, -d_low_slack / low_slack), *slack_share);
    *slack_share = lane_max(where_on(r->has_upper, -d_high_slack / high_slack), *slack_share);
    *multiplier_share = lane_max(where_on(r->has_lower, -d_low / low), *multiplier_share);
    *multiplier_share = lane_max(where_on(r->has_upper, -d_high / high), *multiplier_share);
    const real pushes = where_on(r->has_lower, d_low_slack / low_slack) + where_on(r->has_upper, d_high_slack / high_slack);
    s->slope -= (high - low) * change[i] + lanes->barrier * lanes->cost_unit * pushes;
    s->violation_slope += (sides.high.force - sides.low.force + sides.equal.force) * change[i];
  }
}

/* A slack after the step; in restoration only the room that is there, and a little. */
INLINE real slack_after(const barrier_state *s, const row_room *r, real slack, real change) {
  return lane_select(lane_and(s->lanes.restoring, is_hard(r)), s->restoring_room, slack + s->length * change);
}

/* The rows of a candidate at a stage: their slacks after the step, let out where a row has more room than that; what they
 * lack. */
FUNCTION void evaluate_slacks(barrier_state *s, int t, evaluation *e) {
  barrier_point *p = &e->point;
  row_room room[ROWS];
  find_rows(s, t, room);
  evaluate_rows(s, t, s->new_path, s->new_u, s->new_row);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room *r = &room[i];
    const int at = t * NPATH + i;
    const real row = s->new_row[at];
    real low_room = row - r->lower, high_room = r->upper - row, low_excess = ALL(0), high_excess = ALL(0);
#if SOFT_ROWS
    low_excess = where_on(r->price.soft, s->low_excess[at] + s->length * s->d_low_excess[at]);
    high_excess = where_on(r->price.soft, s->high_excess[at] + s->length * s->d_high_excess[at]);
    low_room += low_excess;
    high_room += high_excess;
#endif
    const real low = lane_max(slack_after(s, r, s->low_slack[at], s->d_low_slack[at]), low_room);
    const real high = lane_max(slack_after(s, r, s->high_slack[at], s->d_high_slack[at]), high_room);
#if SOFT_ROWS
    low_excess = evaluate_excess(s, &r->price, r->has_lower, r->lower - row, low, low_excess, e);
    high_excess = evaluate_excess(s, &r->price, r->has_upper, row - r->upper, high, high_excess, e);
    s->new_low_excess[at] = low_excess;
    s->new_high_excess[at] = high_excess;
#endif
    s->new_low_slack[at] = lane_select(r->has_lower, low, ALL(1));
    s->new_high_slack[at] = lane_select(r->has_upper, high, ALL(1));
    multiply(&e->logs, s->new_low_slack[at]);
    multiply(&e->logs, s->new_high_slack[at]);
    const real low_short = low_lack(r, row, low) - low_excess, high_short = high_lack(r, row, high) - high_excess;
    const real unequal = equality_lack(r, row);
    note_lack(p, low_short);
    note_lack(p, high_short);
    note_lack(p, unequal);
    p->squares += low_short * low_short + high_short * high_short + unequal * unequal;
    const real beyond = lane_max(where_on(r->has_upper, row - r->upper), where_on(r->has_lower, r->lower - row));
    const real most = lane_max(beyond, lane_abs(unequal));
    p->violation = lane_max(where_on(is_hard(r), most), p->violation);
  }
}

#if SOFT_ROWS
RARE void centre_row(barrier_state *s, const row_room *r, mask where, int at) {
  const real mu = s->lanes.barrier * s->lanes.cost_unit, row = s->row[at];
  centre_side(s, &r->price, lane_and(where, r->has_lower), r->lower - row, mu, s->low_slack + at, s->low_excess + at,
              s->low_multiplier + at, s->low_hold + at);
  centre_side(s, &r->price, lane_and(where, r->has_upper), row - r->upper, mu, s->high_slack + at, s->high_excess + at,
              s->high_multiplier + at, s->high_hold + at);
}

/* Lanes where every row is soft, so that any trajectory of the dynamics is feasible. */
RARE mask all_soft(const barrier_state *s) {
  mask found = lane_all();
  for (int t = 0; t <= s->horizon; t++) {
    row_room room[ROWS];
    find_rows(s, t, room);
    for (int i = 0; i < row_count(s, t); i++) {
      const row_room *r = &room[i];
      const mask holds = lane_or(r->meets, lane_or(r->has_lower, r->has_upper));
      found = lane_and(found, lane_not(lane_and(holds, is_hard(r))));
    }
  }
  return found;
}
#endif

/* The multipliers of lanes that begin, or leave restoration: from the slacks, and of equalities zero. */
RARE void row_multipliers(barrier_state *s, mask where, real most) {
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  for (int t = 0; t <= s->horizon; t++) {
    row_room room[ROWS];
    find_rows(s, t, room);
    for (int i = 0; i < row_count(s, t); i++) {
      const int at = t * NPATH + i;
      const real low = where_on(room[i].has_lower, lane_min(mu / s->low_slack[at], most));
      const real high = where_on(room[i].has_upper, lane_min(mu / s->high_slack[at], most));
      s->low_multiplier[at] = lane_select(where, low, s->low_multiplier[at]);
      s->high_multiplier[at] = lane_select(where, high, s->high_multiplier[at]);
#if SOFT_ROWS
      centre_row(s, &room[i], where, at);
#endif
    }
  }
}

/* The multipliers of the rows of the lanes that took a step, kept near mu over their slacks; equalities' as they are. */
FUNCTION void step_row_multipliers(barrier_state *s, mask where, real range, real *least, real *largest) {
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  const real length = lane_select(where, s->dual_length, ALL(0)), whole = lane_select(where, s->length, ALL(0));
  const real narrow = ALL(1) / range;
  for (int t = 0; t <= s->horizon; t++) {
    row_room room[ROWS];
    find_rows(s, t, room);
    for (int i = 0; i < row_count(s, t); i++) {
      const row_room *r = &room[i];
      const int at = t * NPATH + i;
      const real low_slack = s->low_slack[at], high_slack = s->high_slack[at];
      const real low_aim = mu / low_slack, high_aim = mu / high_slack, before = s->high_multiplier[at];
      real low = s->low_multiplier[at] + length * s->d_low_multiplier[at];
      real high = before + length * s->d_high_multiplier[at];
      const real equal = before + whole * s->d_high_multiplier[at];
      low = where_on(r->has_lower, lane_clip(low, low_aim * narrow, low_aim * range));
      high = where_on(r->has_upper, lane_clip(high, high_aim * narrow, high_aim * range));
      s->low_multiplier[at] = lane_select(where, low, s->low_multiplier[at]);
      s->high_multiplier[at] = lane_select(where, lane_select(r->meets, equal, high), before);
      *least = lane_min(*least, lane_select(r->has_lower, low_slack * low, ALL(INFINITY)));
      *least = lane_min(*least, lane_select(r->has_upper, high_slack * high, ALL(INFINITY)));
      *largest = lane_max(*largest, lane_max(low_slack * low, high_slack * high));
#if SOFT_ROWS
      step_hold(&r->price, r->has_lower, where, length, s->low_excess[at], s->d_low_hold[at], mu, range, s->low_hold + at,
                least, largest);
      step_hold(&r->price, r->has_upper, where, length, s->high_excess[at], s->d_high_hold[at], mu, range, s->high_hold + at,
                least, largest);
#endif
    }
  }
}

#endif

#endif

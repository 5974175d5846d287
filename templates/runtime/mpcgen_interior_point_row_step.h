/* The step of the rows of constraints in the interior point: of their slacks and multipliers, its length, and what a
 * candidate's rows lack. What they add to the sweep before it is in mpcgen_interior_point_rows.h. */
#ifndef MPCGEN_INTERIOR_POINT_ROW_STEP_H
#define MPCGEN_INTERIOR_POINT_ROW_STEP_H

#include "mpcgen_interior_point_rows.h"

/* The longest step that leaves a positive number the share `least` of what it is. Few of them shorten it: no division for
 * the others. */
INLINE void shorten(mask on, real value, real change, real least, real *length) {
  const mask shorter = lane_and(on, lane_lt(value + *length * change, least * value));
  if (lane_any(shorter)) *length = lane_select(shorter, (least - ALL(1)) * value / change, *length);
}

/* A multiplier within the factor `range` of mu over its slack. Hardly any is not: no division for the others. */
INLINE real keep_near(mask on, real multiplier, real slack, real mu, real range) {
  const real product = slack * multiplier, narrow = ALL(1) / range;
  const mask within = lane_and(lane_le(mu * narrow, product), lane_le(product, mu * range));
  const mask beyond = lane_and(on, lane_not(within));
  if (!lane_any(beyond)) return multiplier;
  const real aim = mu / slack;
  return lane_select(beyond, lane_clip(multiplier, aim * narrow, aim * range), multiplier);
}

#if CONSTRAINED

/* The step of a side where its row changes by `change` toward its bound. The slack's is found without the multiplier's,
 * from its own size, and so does not lose a small slack in rounding. */
typedef struct {
  real slack, multiplier;
} side_step;

INLINE side_step step_of_side(const barrier_state *s, const row_side *side, real inverse, real change) {
  const real z = side->multiplier, delta = side->delta, beyond = side->lack + change;
  const real d_multiplier = (z * (beyond - side->slack) + s->mu) * inverse;
  const real d_slack = (delta * s->mu - side->slack * (delta * z + beyond)) * inverse;
  const side_step step = {where_on(side->on, d_slack), where_on(side->on, d_multiplier)};
  return step;
}

/* The slope of half the rows' squares along the step of a restoration. */
RARE real restoring_slope(const barrier_state *s, int t, const real *change) {
  row_limits limits;
  real slope = ALL(0);
  read_limits(s, t, &limits);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room r = room_of(&limits, t, i);
    slope += restoring_pull(s, &r, t * NPATH + i).force * change[i];
  }
  return slope;
}

#if SOFT_ROWS
/* The step of the excesses of a row for one of its multipliers. */
INLINE void soften_step(barrier_state *s, const row_room *r, const row_excess *excess, int at, real d_low_multiplier,
                        real d_high_multiplier, real *slack_share, real *slope) {
  const excess_step low = step_of_excess(&r->price, excess->has_low, excess->low_give, excess->low, s->low_hold[at],
                                         d_low_multiplier, s->mu, slack_share);
  const excess_step high = step_of_excess(&r->price, excess->has_high, excess->high_give, excess->high, s->high_hold[at],
                                          d_high_multiplier, s->mu, slack_share);
  const mask soft_low = lane_and(excess->has_low, r->price.soft), soft_high = lane_and(excess->has_high, r->price.soft);
  shorten(soft_low, s->low_hold[at], low.hold, s->least_share, &s->dual_length);
  shorten(soft_high, s->high_hold[at], high.hold, s->least_share, &s->dual_length);
  s->d_low_excess[at] = low.excess;
  s->d_high_excess[at] = high.excess;
  s->d_low_hold[at] = low.hold;
  s->d_high_hold[at] = high.hold;
  *slope += low.slope + high.slope;
}
#endif

/* How the rows of a stage change along the step. */
INLINE void find_changes(const barrier_state *s, int t, real *change) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t), d_x = s->d_x + t * NX;
  EACH(i, ROWS) change[i] = ALL(0);
  if (t < s->horizon)
    stage_rows_tangent(path_at(s, t), s->u + t * NU, s->theta, theta_t, d_x, s->d_u + t * NU, change);
  else
    terminal_rows_tangent(path_at(s, t), s->theta, theta_t, d_x, change);
}

/* The step of the rows of a stage, of their slacks and multipliers; how far these let it go; its slope. */
FUNCTION void row_step(barrier_state *s, int t, real *slack_share, real *slope) {
  real change[ROWS], share = *slack_share, dual_length = s->dual_length, sum = ALL(0), pushes = ALL(0);
  row_limits limits;
  find_changes(s, t, change);
  read_limits(s, t, &limits);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room r = room_of(&limits, t, i);
    const int at = t * NPATH + i;
    const row_sides sides = sides_of(s, &r, at);
    const side_step low = step_of_side(s, &sides.low, s->low_inverse[at], -change[i]);
    const side_step high = step_of_side(s, &sides.high, s->high_inverse[at], change[i]);
    const real low_ratio = low.slack / sides.low.slack, high_ratio = high.slack / sides.high.slack;
    const real equal = s->equality_weight * (equality_lack(&r, s->row[at]) + change[i]);
    s->d_low_slack[at] = low.slack;
    s->d_high_slack[at] = high.slack;
    s->d_low_multiplier[at] = low.multiplier;
    s->d_high_multiplier[at] = lane_select(r.meets, equal, high.multiplier);
    share = lane_max(-low_ratio, lane_max(-high_ratio, share));
    shorten(sides.low.on, sides.low.multiplier, low.multiplier, s->least_share, &dual_length);
    shorten(sides.high.on, sides.high.multiplier, high.multiplier, s->least_share, &dual_length);
    pushes += low_ratio + high_ratio;
    sum -= (s->high_multiplier[at] - s->low_multiplier[at]) * change[i];
#if SOFT_ROWS
    s->dual_length = dual_length;
    soften_step(s, &r, &sides.excess, at, low.multiplier, high.multiplier, &share, &sum);
    dual_length = s->dual_length;
#endif
  }
  *slack_share = share;
  s->dual_length = dual_length;
  *slope += sum - s->mu * pushes;
  if (lane_any(s->lanes.restoring)) s->violation_slope += restoring_slope(s, t, change);
}

/* A slack after the step; in restoration only the room that is there, and a little. */
INLINE real slack_after(const barrier_state *s, const row_room *r, real slack, real change) {
  return lane_select(lane_and(s->lanes.restoring, is_hard(r)), s->restoring_room, slack + s->length * change);
}

/* What the rows of a candidate lack at a stage. Of barrier_point; apart, so that it stays in registers. */
typedef struct {
  real sum, largest, squares, violation;
} row_lacks;

/* Adds a row, with the slacks and excesses that it then has. */
INLINE void note_row(row_lacks *lacks, const row_room *r, real row, real low_short, real high_short) {
  const real unequal = equality_lack(r, row), low = lane_abs(low_short), high = lane_abs(high_short);
  const real beyond = lane_max(where_on(r->has_upper, row - r->upper), where_on(r->has_lower, r->lower - row));
  lacks->sum += low + high + lane_abs(unequal);
  lacks->largest = lane_max(lane_max(low, high), lane_max(lane_abs(unequal), lacks->largest));
  lacks->squares += low_short * low_short + high_short * high_short + unequal * unequal;
  lacks->violation = lane_max(where_on(is_hard(r), lane_max(beyond, lane_abs(unequal))), lacks->violation);
}

INLINE void add_lacks(barrier_point *p, const row_lacks *lacks) {
  p->gap += lacks->sum;
  p->largest_gap = lane_max(lacks->largest, p->largest_gap);
  p->squares += lacks->squares;
  p->violation = lane_max(lacks->violation, p->violation);
}

/* The rows of a candidate at a stage: their slacks after the step, let out where a row has more room than that; what they
 * lack. */
FUNCTION void evaluate_slacks(barrier_state *s, int t, evaluation *e) {
  row_lacks lacks = {ALL(0), ALL(0), ALL(0), ALL(0)};
  row_limits limits;
  read_limits(s, t, &limits);
  evaluate_rows(s, t, s->new_path, s->new_u, s->new_row);
  for (int i = 0; i < row_count(s, t); i++) {
    const row_room r = room_of(&limits, t, i);
    const int at = t * NPATH + i;
    const real row = s->new_row[at];
    real low_room = row - r.lower, high_room = r.upper - row, low_excess = ALL(0), high_excess = ALL(0);
#if SOFT_ROWS
    low_excess = where_on(r.price.soft, s->low_excess[at] + s->length * s->d_low_excess[at]);
    high_excess = where_on(r.price.soft, s->high_excess[at] + s->length * s->d_high_excess[at]);
    low_room += low_excess;
    high_room += high_excess;
#endif
    const real low = lane_max(slack_after(s, &r, s->low_slack[at], s->d_low_slack[at]), low_room);
    const real high = lane_max(slack_after(s, &r, s->high_slack[at], s->d_high_slack[at]), high_room);
#if SOFT_ROWS
    low_excess = evaluate_excess(s, &r.price, r.has_lower, r.lower - row, low, low_excess, e);
    high_excess = evaluate_excess(s, &r.price, r.has_upper, row - r.upper, high, high_excess, e);
    s->new_low_excess[at] = low_excess;
    s->new_high_excess[at] = high_excess;
#endif
    const real low_slack = lane_select(r.has_lower, low, ALL(1)), high_slack = lane_select(r.has_upper, high, ALL(1));
    s->new_low_slack[at] = low_slack;
    s->new_high_slack[at] = high_slack;
    add_logarithms(&e->logs, low_slack, high_slack);
    note_row(&lacks, &r, row, low_lack(&r, row, low) - low_excess, high_lack(&r, row, high) - high_excess);
  }
  add_lacks(&e->point, &lacks);
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
    row_limits limits;
    read_limits(s, t, &limits);
    for (int i = 0; i < row_count(s, t); i++) {
      const row_room r = room_of(&limits, t, i);
      const mask holds = lane_or(r.meets, lane_or(r.has_lower, r.has_upper));
      found = lane_and(found, lane_not(lane_and(holds, is_hard(&r))));
    }
  }
  return found;
}
#endif

/* The multipliers of lanes that begin, or leave restoration: from the slacks, and of equalities zero. */
RARE void row_multipliers(barrier_state *s, mask where, real most) {
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  for (int t = 0; t <= s->horizon; t++) {
    row_limits limits;
    read_limits(s, t, &limits);
    for (int i = 0; i < row_count(s, t); i++) {
      const row_room r = room_of(&limits, t, i);
      const int at = t * NPATH + i;
      const real low = where_on(r.has_lower, lane_min(mu / s->low_slack[at], most));
      const real high = where_on(r.has_upper, lane_min(mu / s->high_slack[at], most));
      s->low_multiplier[at] = lane_select(where, low, s->low_multiplier[at]);
      s->high_multiplier[at] = lane_select(where, high, s->high_multiplier[at]);
#if SOFT_ROWS
      centre_row(s, &r, where, at);
#endif
    }
  }
}

/* The multipliers of the rows of the lanes that took a step, kept near mu over their slacks; equalities' as they are. */
FUNCTION void step_row_multipliers(barrier_state *s, mask where, real range, real *least, real *largest) {
  const real mu = s->mu, length = lane_select(where, s->dual_length, ALL(0)), whole = lane_select(where, s->length, ALL(0));
  real lowest = *least, highest = *largest;
  for (int t = 0; t <= s->horizon; t++) {
    row_limits limits;
    read_limits(s, t, &limits);
    for (int i = 0; i < row_count(s, t); i++) {
      const row_room r = room_of(&limits, t, i);
      const int at = t * NPATH + i;
      const real low_slack = s->low_slack[at], high_slack = s->high_slack[at], before = s->high_multiplier[at];
      const real d_low = s->d_low_multiplier[at], d_high = s->d_high_multiplier[at];
      const real low = keep_near(r.has_lower, s->low_multiplier[at] + length * d_low, low_slack, mu, range);
      const real high = keep_near(r.has_upper, before + length * d_high, high_slack, mu, range);
      s->low_multiplier[at] = lane_select(where, where_on(r.has_lower, low), s->low_multiplier[at]);
      s->high_multiplier[at] =
          lane_select(where, lane_select(r.meets, before + whole * d_high, where_on(r.has_upper, high)), before);
      lowest = lane_min(lowest, lane_select(r.has_lower, low_slack * low, ALL(INFINITY)));
      lowest = lane_min(lowest, lane_select(r.has_upper, high_slack * high, ALL(INFINITY)));
      highest = lane_max(highest, where_on(r.has_lower, low_slack * low));
      highest = lane_max(highest, where_on(r.has_upper, high_slack * high));
#if SOFT_ROWS
      step_hold(&r.price, r.has_lower, where, length, s->low_excess[at], s->d_low_hold[at], mu, range, s->low_hold + at,
                &lowest, &highest);
      step_hold(&r.price, r.has_upper, where, length, s->high_excess[at], s->d_high_hold[at], mu, range, s->high_hold + at,
                &lowest, &highest);
#endif
    }
  }
  *least = lowest;
  *largest = highest;
}

#endif

#endif

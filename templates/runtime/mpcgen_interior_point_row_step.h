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

/* The step of a side where its row changes toward its bound, by `change` over slack + delta multiplier: of its slack over
 * the slack, and of its multiplier. */
typedef struct {
  real ratio, multiplier;
} side_step;

INLINE side_step step_of_side(real ratio, real force, real multiplier, real change) {
  const side_step step = {ratio - change, force + multiplier * change};
  return step;
}

/* The slope of half the rows' squares along the step of a restoration. */
RARE real restoring_slope(const barrier_state *s, int t, const real *change) {
  reals row = first_row(s, t), limit = first_limit(s, t);
  real slope = ALL(0);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    slope += restoring_pull(s, &r, row).force * change[i];
  }
  return slope;
}

#if SOFT_ROWS
/* The step of the excesses of a row for one of its multipliers. */
INLINE void soften_step(barrier_state *s, reals limit, reals row, real *slack_share, real *slope) {
  const row_room r = room_of(limit);
  const row_excess excess = excess_of(s, &r, row);
  const excess_step low = step_of_excess(&r.price, excess.has_low, excess.low_give, excess.low, row[LOW_HOLD],
                                         row[D_LOW_MULTIPLIER], s->mu, slack_share);
  const excess_step high = step_of_excess(&r.price, excess.has_high, excess.high_give, excess.high, row[HIGH_HOLD],
                                          row[D_HIGH_MULTIPLIER], s->mu, slack_share);
  const mask soft_low = lane_and(excess.has_low, r.price.soft), soft_high = lane_and(excess.has_high, r.price.soft);
  shorten(soft_low, row[LOW_HOLD], low.hold, s->least_share, &s->dual_length);
  shorten(soft_high, row[HIGH_HOLD], high.hold, s->least_share, &s->dual_length);
  row[D_LOW_EXCESS] = low.excess;
  row[D_HIGH_EXCESS] = high.excess;
  row[D_LOW_HOLD] = low.hold;
  row[D_HIGH_HOLD] = high.hold;
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

/* The longest step that the multipliers of a stage's rows allow, where one of them shortens it. */
RARE void shorten_for_rows(const barrier_state *s, int t, real *length) {
  reals row = first_row(s, t), limit = first_limit(s, t);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    shorten(r.has_lower, row[LOW_MULTIPLIER], row[D_LOW_MULTIPLIER], s->least_share, length);
    shorten(r.has_upper, row[HIGH_MULTIPLIER], row[D_HIGH_MULTIPLIER], s->least_share, length);
  }
}

/* The step of the multiplier of a row, where it is an equality. */
RARE real equality_step(const barrier_state *s, reals limit, reals row, real change, real d_multiplier) {
  const row_room r = room_of(limit);
  const real lack = equality_lack(&r, row[s->at_iterate + ROW_VALUE]);
  return lane_select(is_equality(&r), s->equality_weight * (lack + change), d_multiplier);
}

/* The step of the rows of a stage, of their slacks and multipliers; how far these let it go; its slope. Few multipliers
 * shorten it: which, is looked for where what one would have left is too little, or so little that rounding decides: what a
 * lane finds there must not depend on whether another looks. */
FUNCTION void row_step(barrier_state *s, int t, real *slack_share, real *slope) {
  real change[ROWS], sum = ALL(0), pushes = ALL(0), least_ratio = ALL(0), least_left = ALL(0);
  reals row = first_row(s, t), limit = first_limit(s, t);
  const int count = row_count(s, t), equalities = s->equalities;
  const real length = s->dual_length, spent = (ALL(1) - s->least_share) * R(1 - 16 * SCALAR_EPSILON);
  find_changes(s, t, change);
  for (int i = 0; i < count; i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const reals now = row + s->at_iterate;
    const real z_low = row[LOW_MULTIPLIER], z_high = row[HIGH_MULTIPLIER];
    const side_step low = step_of_side(row[LOW_RATIO], row[LOW_FORCE], z_low, -change[i] * row[LOW_INVERSE]);
    const side_step high = step_of_side(row[HIGH_RATIO], row[HIGH_FORCE], z_high, change[i] * row[HIGH_INVERSE]);
    real high_left = spent * z_high + length * high.multiplier, d_high = high.multiplier;
    if (equalities) {
      high_left = lane_select(lane_lt(limit[EQUAL], ALL(INFINITY)), ALL(0), high_left);
      d_high = equality_step(s, limit, row, change[i], d_high);
    }
    sum -= (z_high - z_low) * change[i];
    pushes += low.ratio + high.ratio;
    least_ratio = lane_min(lane_min(low.ratio, high.ratio), least_ratio);
    least_left = lane_min(lane_min(spent * z_low + length * low.multiplier, high_left), least_left);
    row[D_LOW_SLACK] = low.ratio * now[LOW_SLACK];
    row[D_HIGH_SLACK] = high.ratio * now[HIGH_SLACK];
    row[D_LOW_MULTIPLIER] = low.multiplier;
    row[D_HIGH_MULTIPLIER] = d_high;
#if SOFT_ROWS
    soften_step(s, limit, row, slack_share, &sum);
#endif
  }
  *slack_share = lane_max(-least_ratio, *slack_share);
  *slope += sum - s->mu * pushes;
  if (lane_any(lane_lt(least_left, ALL(0)))) shorten_for_rows(s, t, &s->dual_length);
  if (s->restores) s->violation_slope += restoring_slope(s, t, change);
}

/* What the rows of a candidate lack at a stage. Of barrier_point; apart, so that it stays in registers. */
typedef struct {
  real sum, largest, squares, least_room;
} row_lacks;

/* A side of a candidate that has `room` left of its bound: the slack is that of the step, let out where there is more room
 * than that. In restoration only the room that is there, and a little. What it lacks is zero where it is off. */
typedef struct {
  real slack, lack;
} candidate_side;

/* What of the state all rows of a stage read: apart, so that it stays in registers. */
typedef struct {
  real length;
  mask moves;
  int restores;
} candidate_step;

INLINE candidate_side side_after(const barrier_state *s, const row_room *r, mask on, const candidate_step *step, real slack,
                                 real change, real room) {
  real after = slack + step->length * where_on(step->moves, change);
  if (step->restores) after = lane_select(lane_and(on, lane_and(s->lanes.restoring, is_hard(r))), s->restoring_room, after);
  after = lane_max(after, room);
  const candidate_side side = {after, where_on(on, after - room)};
  return side;
}

#if SOFT_ROWS
INLINE real excess_after(const barrier_state *s, const row_room *r, mask on, real excess, real change) {
  return where_on(lane_and(on, r->price.soft), excess + s->length * where_on(s->moves, change));
}
#endif

INLINE void note_lacks(row_lacks *lacks, int restores, real low, real high) {
  const real low_size = lane_abs(low), high_size = lane_abs(high);
  lacks->sum += low_size + high_size;
  lacks->largest = lane_max(lane_max(low_size, high_size), lacks->largest);
  if (restores) lacks->squares += low * low + high * high;
}

INLINE void note_equality(row_lacks *lacks, real lack) {
  const real size = lane_abs(lack);
  lacks->sum += size;
  lacks->largest = lane_max(size, lacks->largest);
  lacks->squares += lack * lack;
  lacks->least_room = lane_min(lacks->least_room, -size);
}

INLINE void add_lacks(barrier_point *p, const row_lacks *lacks) {
  p->gap += lacks->sum;
  p->largest_gap = lane_max(lacks->largest, p->largest_gap);
  p->squares += lacks->squares;
  p->violation = lane_max(-lacks->least_room, p->violation);
}

/* The rows of a candidate at a stage: their slacks after the step; what they lack. The squares are for restoration. */
FUNCTION void evaluate_slacks(barrier_state *s, int t, evaluation *e) {
  row_lacks lacks = {ALL(0), ALL(0), ALL(0), ALL(0)};
  log_sum logs = e->logs;
  real values[ROWS];
  reals row = first_row(s, t), limit = first_limit(s, t);
  const int count = row_count(s, t), equalities = s->equalities;
  const candidate_step step = {s->length, s->moves, lane_any(s->lanes.restoring)};
  evaluate_rows(s, t, s->new_path, s->new_u, values);
  for (int i = 0; i < count; i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    const reals now = row + s->at_iterate, then = row + s->at_candidate;
    const real value = values[i];
    const real low_left = where_on(r.has_lower, value - r.lower), high_left = where_on(r.has_upper, r.upper - value);
    real low_room = low_left, high_room = high_left;
#if SOFT_ROWS
    real low_excess = excess_after(s, &r, r.has_lower, now[LOW_EXCESS], row[D_LOW_EXCESS]);
    real high_excess = excess_after(s, &r, r.has_upper, now[HIGH_EXCESS], row[D_HIGH_EXCESS]);
    low_room += low_excess;
    high_room += high_excess;
#endif
    const candidate_side low = side_after(s, &r, r.has_lower, &step, now[LOW_SLACK], row[D_LOW_SLACK], low_room);
    const candidate_side high = side_after(s, &r, r.has_upper, &step, now[HIGH_SLACK], row[D_HIGH_SLACK], high_room);
    real low_lack = low.lack, high_lack = high.lack;
#if SOFT_ROWS
    low_excess = evaluate_excess(s, &r.price, r.has_lower, -low_left, low.slack, low_excess, &e->point, &logs);
    high_excess = evaluate_excess(s, &r.price, r.has_upper, -high_left, high.slack, high_excess, &e->point, &logs);
    low_lack = where_on(r.has_lower, low.slack - low_left - low_excess);
    high_lack = where_on(r.has_upper, high.slack - high_left - high_excess);
    then[LOW_EXCESS] = low_excess;
    then[HIGH_EXCESS] = high_excess;
#endif
    then[ROW_VALUE] = value;
    then[LOW_SLACK] = low.slack;
    then[HIGH_SLACK] = high.slack;
    add_logarithms(&logs, low.slack, high.slack);
    note_lacks(&lacks, step.restores, low_lack, high_lack);
    lacks.least_room = lane_min(lacks.least_room, where_on(is_hard(&r), lane_min(low_left, high_left)));
    if (equalities) note_equality(&lacks, equality_lack(&r, value));
  }
  e->logs = logs;
  add_lacks(&e->point, &lacks);
}

#if SOFT_ROWS
RARE void centre_row(barrier_state *s, const row_room *r, mask where, reals row) {
  const reals now = row + s->at_iterate;
  const real mu = s->lanes.barrier * s->lanes.cost_unit, value = now[ROW_VALUE];
  centre_side(s, &r->price, lane_and(where, r->has_lower), r->lower - value, mu, now + LOW_SLACK, now + LOW_EXCESS,
              row + LOW_MULTIPLIER, row + LOW_HOLD);
  centre_side(s, &r->price, lane_and(where, r->has_upper), value - r->upper, mu, now + HIGH_SLACK, now + HIGH_EXCESS,
              row + HIGH_MULTIPLIER, row + HIGH_HOLD);
}

/* Lanes where every row is soft, so that any trajectory of the dynamics is feasible. */
RARE mask all_soft(const barrier_state *s) {
  mask found = lane_all();
  for (int t = 0; t <= s->horizon; t++) {
    reals limit = first_limit(s, t);
    for (int i = 0; i < row_count(s, t); i++, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const mask holds = lane_or(is_equality(&r), lane_or(r.has_lower, r.has_upper));
      found = lane_and(found, lane_not(lane_and(holds, is_hard(&r))));
    }
  }
  return found;
}
#endif

/* The multipliers of lanes that begin, or leave restoration: from the slacks, and of equalities zero. */
RARE void row_multipliers(barrier_state *s, mask where, real most) {
  s->sizes_known = 0;
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const real low = where_on(r.has_lower, lane_min(mu / row[s->at_iterate + LOW_SLACK], most));
      const real high = where_on(r.has_upper, lane_min(mu / row[s->at_iterate + HIGH_SLACK], most));
      row[LOW_MULTIPLIER] = lane_select(where, low, row[LOW_MULTIPLIER]);
      row[HIGH_MULTIPLIER] = lane_select(where, high, row[HIGH_MULTIPLIER]);
#if SOFT_ROWS
      centre_row(s, &r, where, row);
#endif
    }
  }
}

/* Keeps multipliers near mu over their slacks in the lanes where some are not. */
RARE row_sizes keep_rows_near(barrier_state *s, mask where, real range) {
  row_sizes sizes = no_sizes();
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const reals now = row + s->at_iterate;
      const real low = keep_near(lane_and(where, r.has_lower), row[LOW_MULTIPLIER], now[LOW_SLACK], s->mu, range);
      const real high = keep_near(lane_and(where, r.has_upper), row[HIGH_MULTIPLIER], now[HIGH_SLACK], s->mu, range);
      row[LOW_MULTIPLIER] = low;
      row[HIGH_MULTIPLIER] = high;
      note_sizes(&sizes, &r, now[LOW_SLACK], low, now[HIGH_SLACK], high);
    }
  }
  return sizes;
}

/* The multipliers of the rows of the lanes that took a step, kept near mu over their slacks; equalities' as they are after
 * it, those of other lanes and of sides that are off as they are before. */
FUNCTION void step_row_multipliers(barrier_state *s, mask where, real range, real *least, real *largest) {
  const real mu = s->mu, length = where_on(where, s->dual_length), whole = where_on(where, s->length);
  const int equalities = s->equalities;
  row_sizes sizes = no_sizes();
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    const int count = row_count(s, t);
    for (int i = 0; i < count; i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const reals now = row + s->at_iterate;
      const real before = row[HIGH_MULTIPLIER], d_high = where_on(where, row[D_HIGH_MULTIPLIER]);
      const real low = row[LOW_MULTIPLIER] + length * where_on(where, row[D_LOW_MULTIPLIER]);
      real high = before + length * d_high;
      if (equalities) high = lane_select(is_equality(&r), before + whole * d_high, high);
      row[LOW_MULTIPLIER] = low;
      row[HIGH_MULTIPLIER] = high;
      note_sizes(&sizes, &r, now[LOW_SLACK], low, now[HIGH_SLACK], high);
#if SOFT_ROWS
      step_hold(&r.price, r.has_lower, where, length, now[LOW_EXCESS], row[D_LOW_HOLD], mu, range, row + LOW_HOLD,
                least, largest);
      step_hold(&r.price, r.has_upper, where, length, now[HIGH_EXCESS], row[D_HIGH_HOLD], mu, range, row + HIGH_HOLD,
                least, largest);
#endif
    }
  }
  const mask near = lane_and(lane_le(mu / range, sizes.least_product), lane_le(sizes.largest_product, mu * range));
  const mask beyond = lane_and(where, lane_not(near)); /* and no others: they do not depend on their neighbours */
  if (lane_any(beyond)) sizes = keep_rows_near(s, beyond, range);
  s->sizes = sizes;
  s->sizes_known = 1;
  *least = lane_min(*least, sizes.least_product);
  *largest = lane_max(*largest, sizes.largest_product);
}

#endif

#endif

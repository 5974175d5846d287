/* The step of the rows of constraints in the interior point: of their slacks and multipliers, its length, and what a
 * candidate's rows lack. What they add to the sweep before it is in mpcgen_interior_point_rows.h. */
#ifndef MPCGEN_INTERIOR_POINT_ROW_STEP_H
#define MPCGEN_INTERIOR_POINT_ROW_STEP_H

#include "mpcgen_interior_point_rows.h"

#define MOST_PUSH R(1e3)

/* What a slack that grows by this share adds to the slope of the logarithms. One that has become much too small grows to its size in
 * one step, and the logarithm of that is little beside the share, which no length would fulfil. */
INLINE real push_of(real share) { return lane_min(ALL(MOST_PUSH), share); }

/* A step, as its stages make it known: apart from the state, so that it stays in registers. */
typedef struct {
  real mu;                 /* of the state */
  real least_share;        /* of a slack or multiplier, that it has to leave */
  real slack_share;        /* the largest share of a slack that the whole step would take, */
  real dual_share;         /* and of a control's multiplier, with a minus */
  real dual_length, slope; /* of the state: how far the multipliers let it go; of the barrier function along it */
  real size;               /* max |du| over the control's unit */
} step_reach;

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

/* The step of a side where its room changes, by `change` over slack + delta multiplier: of its slack over the slack, and of its
 * multiplier. */
typedef struct {
  real ratio, multiplier;
} side_step;

INLINE side_step step_of_side(real ratio, real force, real multiplier, real change) {
  const side_step step = {ratio + change, force - multiplier * change};
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
INLINE void soften_step(const barrier_state *s, reals limit, reals row, step_reach *reach, real *slope) {
  const row_room r = room_of(limit);
  const row_excess excess = excess_of(s, &r, row);
  const excess_step low = step_of_excess(&r.price, excess.has_low, excess.low_give, excess.low, row[LOW_HOLD],
                                         row[D_LOW_MULTIPLIER], reach->mu, &reach->slack_share);
  const excess_step high = step_of_excess(&r.price, excess.has_high, excess.high_give, excess.high, row[HIGH_HOLD],
                                          row[D_HIGH_MULTIPLIER], reach->mu, &reach->slack_share);
  const mask soft_low = lane_and(excess.has_low, r.price.soft), soft_high = lane_and(excess.has_high, r.price.soft);
  shorten(soft_low, row[LOW_HOLD], low.hold, reach->least_share, &reach->dual_length);
  shorten(soft_high, row[HIGH_HOLD], high.hold, reach->least_share, &reach->dual_length);
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

/* The multiplier of which its step takes the largest share, in the lanes where that is too much of it. */
typedef struct {
  real value, change;
  mask shortens;
} largest_share;

INLINE void note_share(largest_share *worst, mask on, real value, real change) {
  const mask more = lane_and(on, lane_lt(change * worst->value, worst->change * value));
  worst->value = lane_select(more, value, worst->value);
  worst->change = lane_select(more, change, worst->change);
  worst->shortens = lane_or(worst->shortens, more);
}

/* The longest step that the multipliers of a stage's rows allow, of `length` or less: found by products, and one division. A
 * side that is off has none and no step, and so is never the worst; but an equality has its own as the upper side's. */
OUTLINED real shortened_for_rows(const barrier_state *s, int t, real least, real length) {
  reals row = first_row(s, t), limit = first_limit(s, t);
  const int equalities = s->equalities;
  largest_share worst = {length, least - ALL(1), lane_none()};
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const mask high = equalities ? lane_le(limit[HIGH_OFF], ALL(0)) : lane_all();
    note_share(&worst, lane_all(), row[LOW_MULTIPLIER], row[D_LOW_MULTIPLIER]);
    note_share(&worst, high, row[HIGH_MULTIPLIER], row[D_HIGH_MULTIPLIER]);
  }
  return lane_select(worst.shortens, (least - ALL(1)) * worst.value / worst.change, length);
}

/* The step of the multiplier of a row, where it is an equality. */
RARE real equality_step(const barrier_state *s, reals limit, reals row, real weight, real change, real d_multiplier) {
  const row_room r = room_of(limit);
  return lane_select(is_equality(&r), equality_force(s, &r, row, weight, change), d_multiplier);
}

/* The step of the rows of a stage, of their slacks and multipliers; how far these let it go; its slope. Few multipliers
 * shorten it: which, is looked for where what one would have left is too little, or so little that rounding decides: what a
 * lane finds there must not depend on whether another looks. */
INLINE void row_step(barrier_state *s, int t, step_reach *reach) {
  real change[ROWS], sum = ALL(0), pushes = ALL(0), least_ratio = ALL(0), least_left = ALL(0);
  reals row = first_row(s, t), limit = first_limit(s, t);
  const int count = row_count(s, t), equalities = s->equalities;
  const real length = reach->dual_length, spent = (ALL(1) - reach->least_share) * R(1 - 16 * SCALAR_EPSILON);
  find_changes(s, t, change);
  KEEP_ROWS for (int i = 0; i < count; i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const reals now = row + s->at_iterate;
    const real z_low = row[LOW_MULTIPLIER], z_high = row[HIGH_MULTIPLIER];
    const side_step low = step_of_side(row[LOW_RATIO], row[LOW_FORCE], z_low, change[i] * row[LOW_INVERSE]);
    const side_step high = step_of_side(row[HIGH_RATIO], row[HIGH_FORCE], z_high, change[i] * row[HIGH_INVERSE]);
    real high_left = spent * z_high + length * high.multiplier, d_high = high.multiplier;
    if (equalities) {
      high_left = lane_select(lane_lt(limit[EQUAL], ALL(INFINITY)), ALL(0), high_left);
      d_high = equality_step(s, limit, row, equality_weight(s, t, i), change[i], d_high);
    }
    sum -= (z_high - z_low) * change[i];
    pushes += push_of(low.ratio) + push_of(high.ratio);
    least_ratio = lane_min(lane_min(low.ratio, high.ratio), least_ratio);
    least_left = lane_min(spent * z_low + length * low.multiplier, least_left); /* a side without a number hides no other */
    least_left = lane_min(high_left, least_left);
    row[D_LOW_SLACK] = low.ratio * now[LOW_SLACK];
    row[D_HIGH_SLACK] = high.ratio * now[HIGH_SLACK];
    row[D_LOW_MULTIPLIER] = low.multiplier;
    row[D_HIGH_MULTIPLIER] = d_high;
#if SOFT_ROWS
    soften_step(s, limit, row, reach, &sum);
#endif
  }
  reach->slack_share = lane_max(-least_ratio, reach->slack_share);
  reach->slope += sum - reach->mu * pushes;
  if (lane_any(lane_lt(least_left, ALL(0))))
    reach->dual_length = shortened_for_rows(s, t, reach->least_share, reach->dual_length);
  if (s->restores) s->violation_slope += restoring_slope(s, t, change);
}

/* That of all rows, stage by stage: a loop of its own, whose numbers stay in registers. From the last one on, where
 * steps of states are mostly largest: then fewer stages shorten what those before have left. */
OUTLINED void step_rows(barrier_state *s, step_reach *found) {
  step_reach reach = *found;
  for (int t = s->horizon; t >= 0; t--) row_step(s, t, &reach);
  *found = reach;
}

/* What the rows of a candidate lack at a stage. Of barrier_point; apart, so that it stays in registers. */
typedef struct {
  real sum, largest, least_room;
} row_lacks;


/* What of the state all rows of a stage read: apart, so that it stays in registers. */
typedef struct {
  real length;
  mask moves, starts; /* lanes that begin, whose slacks are of no problem yet */
  int restores, differs; /* whether any lane does; or starts */
} candidate_step;

INLINE candidate_step step_to_candidate(const barrier_state *s) {
  const int restores = lane_any(s->lanes.restoring);
  const mask starts = unplaced(s);
  const candidate_step step = {s->length, s->moves, starts, restores, restores || lane_any(starts)};
  return step;
}

/* The slack of a side of a candidate that has `room` left of its bound: that of the step, let out where there is more room than
 * that. In restoration only the room that is there, and a little; one where a lane begins, and of linear rows as much as they
 * lack, so that slacks are as far from zero as steps are long. Curved ones would go that far in the wrong direction. */
INLINE real slack_after(const barrier_state *s, const row_room *r, const candidate_step *step, real slack, real change, real room) {
  real after = slack + step->length * where_on(step->moves, change);
  if (step->differs) {
    after = lane_select(lane_and(s->lanes.restoring, is_hard(r)), s->restoring_room, after);
    after = lane_select(step->starts, LINEAR_CONSTRAINTS ? lane_max(ALL(1), -room) : ALL(1), after);
  }
  return lane_max(after, room);
}

#if SOFT_ROWS
INLINE real excess_after(const barrier_state *s, const row_room *r, mask on, real excess, real change) {
  return where_on(lane_and(on, r->price.soft), excess + s->length * where_on(s->moves, change));
}
#endif

/* Hard sides lack what their slacks are more than the room, which they are never less than. */
INLINE void note_lacks(row_lacks *lacks, real low, real high) {
  const real low_size = SOFT_ROWS ? lane_abs(low) : low, high_size = SOFT_ROWS ? lane_abs(high) : high;
  lacks->sum += low_size + high_size;
  lacks->largest = lane_max(lane_max(low_size, high_size), lacks->largest);
}

/* With what the equalities of a stage lack at a candidate. */
RARE row_lacks with_equalities(const barrier_state *s, int t, row_lacks lacks) {
  reals row = first_row(s, t), limit = first_limit(s, t);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    const real size = lane_abs(equality_lack(&r, row[s->at_candidate + ROW_VALUE]));
    lacks.sum += size;
    lacks.largest = lane_max(size, lacks.largest);
    lacks.least_room = lane_min(lacks.least_room, -size);
  }
  return lacks;
}

/* The squares of what the rows of a stage lack at a candidate, which is for restoration. */
RARE real lacking_squares(const barrier_state *s, int t) {
  reals row = first_row(s, t), limit = first_limit(s, t);
  real squares = ALL(0);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    const reals then = row + s->at_candidate;
    real low = then[LOW_SLACK] - low_room(&r, then[ROW_VALUE]), high = then[HIGH_SLACK] - high_room(&r, then[ROW_VALUE]);
#if SOFT_ROWS
    low -= then[LOW_EXCESS];
    high -= then[HIGH_EXCESS];
#endif
    const real equal = equality_lack(&r, then[ROW_VALUE]);
    squares += low * low + high * high;
    squares += equal * equal;
  }
  return squares;
}

INLINE void add_lacks(barrier_point *p, const row_lacks *lacks) {
  p->gap += lacks->sum;
  p->largest_gap = lane_max(lacks->largest, p->largest_gap);
  p->violation = lane_max(-lacks->least_room, p->violation);
}

/* The rows of a candidate at a stage: their slacks after the step; what they lack. */
INLINE void evaluate_slacks(barrier_state *s, int t, evaluation *e) {
  row_lacks lacks = {ALL(0), ALL(0), ALL(0)};
  log_sum logs = e->logs;
  real values[ROWS];
  reals row = first_row(s, t), limit = first_limit(s, t);
  const int count = row_count(s, t);
  const candidate_step step = step_to_candidate(s);
  evaluate_rows(s, t, s->new_path, s->new_u, values);
  KEEP_ROWS for (int i = 0; i < count; i++, row += ROW_REALS, limit += LIMIT_REALS) {
    const row_room r = room_of(limit);
    const reals now = row + s->at_iterate, then = row + s->at_candidate;
    const real value = values[i], low_left = low_room(&r, value), high_left = high_room(&r, value);
#if SOFT_ROWS
    real low_excess = excess_after(s, &r, r.has_lower, now[LOW_EXCESS], row[D_LOW_EXCESS]);
    real high_excess = excess_after(s, &r, r.has_upper, now[HIGH_EXCESS], row[D_HIGH_EXCESS]);
    const real low = slack_after(s, &r, &step, now[LOW_SLACK], row[D_LOW_SLACK], low_left + low_excess);
    const real high = slack_after(s, &r, &step, now[HIGH_SLACK], row[D_HIGH_SLACK], high_left + high_excess);
    low_excess = evaluate_excess(s, &r.price, r.has_lower, -low_left, low, low_excess, &e->point, &logs);
    high_excess = evaluate_excess(s, &r.price, r.has_upper, -high_left, high, high_excess, &e->point, &logs);
    const real low_lack = low - low_left - low_excess, high_lack = high - high_left - high_excess;
    then[LOW_EXCESS] = low_excess;
    then[HIGH_EXCESS] = high_excess;
#else
    const real low = slack_after(s, &r, &step, now[LOW_SLACK], row[D_LOW_SLACK], low_left);
    const real high = slack_after(s, &r, &step, now[HIGH_SLACK], row[D_HIGH_SLACK], high_left);
    const real low_lack = low - low_left, high_lack = high - high_left;
#endif
    then[ROW_VALUE] = value;
    then[LOW_SLACK] = low;
    then[HIGH_SLACK] = high;
    add_logarithms(&logs, low, high);
    note_lacks(&lacks, low_lack, high_lack);
    lacks.least_room = lane_min(lacks.least_room, where_on(is_hard(&r), lane_min(low_left, high_left)));
  }
  e->logs = logs;
  if (s->equalities) lacks = with_equalities(s, t, lacks);
  if (step.restores) e->point.squares += lacking_squares(s, t);
  add_lacks(&e->point, &lacks);
}

/* Those of all stages: a loop of its own, as that of the step. */
OUTLINED void evaluate_all_slacks(barrier_state *s, evaluation *found) {
  evaluation e = *found;
  for (int t = 0; t <= s->horizon; t++) evaluate_slacks(s, t, &e);
  *found = e;
}

#if SOFT_ROWS
RARE void centre_row(barrier_state *s, const row_room *r, mask where, reals row) {
  const reals now = row + s->at_iterate;
  const real mu = s->lanes.barrier * s->lanes.cost_unit, value = now[ROW_VALUE];
  centre_side(s, &r->price, lane_and(where, r->has_lower), -low_room(r, value), mu, now + LOW_SLACK, now + LOW_EXCESS,
              row + LOW_MULTIPLIER, row + LOW_HOLD);
  centre_side(s, &r->price, lane_and(where, r->has_upper), -high_room(r, value), mu, now + HIGH_SLACK, now + HIGH_EXCESS,
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
OUTLINED void row_multipliers(barrier_state *s, mask where, real most) {
  const real mu = s->lanes.barrier * s->lanes.cost_unit;
  row_sizes sizes = no_sizes();
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const reals now = row + s->at_iterate;
      const real low = where_on(r.has_lower, lane_min(mu / now[LOW_SLACK], most));
      const real high = where_on(r.has_upper, lane_min(mu / now[HIGH_SLACK], most));
      row[LOW_MULTIPLIER] = lane_select(where, low, row[LOW_MULTIPLIER]);
      row[HIGH_MULTIPLIER] = lane_select(where, high, row[HIGH_MULTIPLIER]);
#if SOFT_ROWS
      centre_row(s, &r, where, row);
#endif
      note_sizes(&sizes, &r, s->equalities, now[LOW_SLACK], row[LOW_MULTIPLIER], now[HIGH_SLACK], row[HIGH_MULTIPLIER]);
    }
  }
  select_sizes(&s->sizes, &sizes, where);
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
      note_sizes(&sizes, &r, s->equalities, now[LOW_SLACK], low, now[HIGH_SLACK], high);
    }
  }
  return sizes;
}

#if SOFT_ROWS
/* The holds of the soft rows of the lanes that took a step, kept near mu over their excesses. */
FUNCTION void step_holds(barrier_state *s, mask where, real range, product_range *products) {
  const real length = where_on(where, s->dual_length);
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const reals now = row + s->at_iterate;
      step_hold(&r.price, r.has_lower, where, length, now[LOW_EXCESS], row[D_LOW_HOLD], s->mu, range, row + LOW_HOLD, products);
      step_hold(&r.price, r.has_upper, where, length, now[HIGH_EXCESS], row[D_HIGH_HOLD], s->mu, range, row + HIGH_HOLD,
                products);
    }
  }
}
#endif

/* The multipliers of the rows of the lanes that took a step, kept near mu over their slacks; equalities' as they are after
 * it, those of other lanes and of sides that are off as they are before. With their products. */
FUNCTION void step_row_multipliers(barrier_state *s, mask where, real range, product_range *products) {
  const real length = where_on(where, s->dual_length), whole = where_on(where, s->length);
  const int equalities = s->equalities;
  row_sizes sizes = no_sizes();
  for (int t = 0; t <= s->horizon; t++) {
    reals row = first_row(s, t), limit = first_limit(s, t);
    const int count = row_count(s, t);
    KEEP_ROWS for (int i = 0; i < count; i++, row += ROW_REALS, limit += LIMIT_REALS) {
      const row_room r = room_of(limit);
      const reals now = row + s->at_iterate;
      const real d_high = where_on(where, row[D_HIGH_MULTIPLIER]);
      const real low = row[LOW_MULTIPLIER] + length * where_on(where, row[D_LOW_MULTIPLIER]);
      real high = row[HIGH_MULTIPLIER] + length * d_high;
      if (equalities) high = lane_select(is_equality(&r), row[HIGH_MULTIPLIER] + whole * d_high, high);
      row[LOW_MULTIPLIER] = low;
      row[HIGH_MULTIPLIER] = high;
      note_sizes(&sizes, &r, equalities, now[LOW_SLACK], low, now[HIGH_SLACK], high);
    }
  }
  const mask near = lane_and(lane_le(s->mu / range, sizes.least_product), lane_le(sizes.largest_product, s->mu * range));
  const mask beyond = lane_and(where, lane_not(near)); /* and no others: they do not depend on their neighbours */
  if (lane_any(beyond)) {
    const row_sizes kept = keep_rows_near(s, beyond, range);
    select_sizes(&sizes, &kept, beyond);
  }
  select_sizes(&s->sizes, &sizes, lane_or(where, s->lanes.restoring)); /* whose slacks change */
  products->least = lane_min(products->least, sizes.least_product);
  products->largest = lane_max(products->largest, sizes.largest_product);
#if SOFT_ROWS
  step_holds(s, where, range, products);
#endif
}

#endif

#endif

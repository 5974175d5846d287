/* The Newton step of the interior point: a Riccati sweep backward, whose policy mpcgen_interior_point_step.h follows.
 *
 * The same stage functions and the same update as box-DDP's (mpcgen_stage.h); each side of a bound, with slack s and
 * multiplier z, adds its stiffness z/s to Quu and its force mu/s to the gradient, and no control is held by a bound. */
#ifndef MPCGEN_INTERIOR_POINT_SWEEP_H
#define MPCGEN_INTERIOR_POINT_SWEEP_H

#include "mpcgen_interior_point_row_step.h"
#include "mpcgen_little_moves.h"

#define COST_IN_UNITS R(CONSTRAINED ? 1000 : 100) /* of the first trajectory: what makes a barrier of one a mild one */
#define RESTORATION_SHIFT R(1e-3)
#define MOST_GROWN R(1e6)             /* units that a thousandth of the cost may have become; restoration outweighs it */
#define RESTORING_ROOM R(1e-4)        /* of a violation of one */
#define OPEN_GAP R(1e-6)              /* less than that is not restored */

/* What equations are loosened by. Where steps are tiny, by little: a way round an obstacle may ask for inequalities that give
 * way, but equations that did would wait for the cost, pass after pass, until their multipliers had grown. */
INLINE real equality_looseness(const barrier_state *s) {
  const barrier_progress *lanes = &s->lanes;
  return lane_min(lanes->looseness, lane_max(lanes->least_looseness, ALL(MOST_EQUALITY_LOOSENESS)));
}

/* The same of equations of states: less with the barrier. Where as many bounds press as there are controls, a step closes
 * gaps by what slacks have left alone, which is as little as the barrier, and looser equations would give way instead, pass
 * after pass. From the start, some looseness leads to better minima. */
INLINE real state_looseness(const barrier_state *s) {
  const barrier_progress *lanes = &s->lanes;
  const real tight = lane_clip(lanes->barrier, ALL(LEAST_EQUALITY_LOOSENESS), ALL(1));
  return lane_select(lanes->certifying, ALL(1), tight) * equality_looseness(s);
}

/* The gap, as far as it is neither next to nothing nor more than one. */
INLINE real counted_gap(const barrier_state *s) { return lane_min(ALL(1), lane_max(s->point.gap, ALL(OPEN_GAP))); }

/* What one cost unit is for rows, so that they outweigh the cost however small their violation. */
INLINE real weight_of_violation(const barrier_state *s) {
  const real gap = counted_gap(s), unit = s->lanes.cost_unit;
  const real grown = lane_min(s->point.cost_scale / COST_IN_UNITS, MOST_GROWN * unit);
  return VIOLATION_WEIGHT / (gap * gap) * lane_max(grown, unit);
}

/* In lanes whose rows yield, these give way by more than for the sake of regularity, and weigh less. */
INLINE void let_rows_yield(barrier_state *s) {
  const mask yields = yielding(s);
  const real yield = s->lanes.yield, weight = ALL(1) / lane_select(yields, yield, ALL(1));
  s->delta = lane_select(yields, yield, s->delta);
  s->state_weight = lane_select(yields, weight, s->state_weight);
  s->mixed_weight = lane_select(yields, weight, s->mixed_weight);
  s->row_unit = lane_select(yields, weight, s->row_unit);
}

/* Readies what a pass weighs slacks and rows by. In restoration also the share of a control's range, and the slack of a row, that
 * are left to the barrier after it. */
INLINE void ready_pass(barrier_state *s) {
  s->begins = lane_any(s->lanes.begins);
  s->restores = CONSTRAINED && lane_any(s->lanes.restoring);
  s->mu = s->lanes.barrier * s->lanes.cost_unit;
  s->row_unit = s->lanes.cost_unit;
  if (!CONSTRAINED) return;
  if (QUADRATIC_PROGRAM) { /* what is corrected is a step to no barrier */
    s->corrects = lane_and(s->lanes.direct, lane_not(lane_or(s->lanes.begins, s->lanes.restoring)));
    s->mu = lane_select(s->corrects, ALL(0), s->mu);
  }
  s->delta = ALL(INEQUALITY_DELTA) * s->lanes.looseness / s->lanes.cost_unit;
  s->state_weight = s->lanes.cost_unit / (ALL(EQUALITY_DELTA) * state_looseness(s));
  s->mixed_weight = s->lanes.cost_unit / (ALL(MIXED_EQUALITY_DELTA) * lane_max(equality_looseness(s), ALL(1)));
  s->row_unit = lane_select(s->lanes.restoring, weight_of_violation(s), s->row_unit);
  s->restoring_room = ALL(RESTORING_ROOM) * counted_gap(s);
  if (QUADRATIC_PROGRAM) let_rows_yield(s);
}

/* In restoration there is no barrier: controls that press against their bounds are held there. */
INLINE real unless_restoring(const barrier_state *s, real value) {
  return s->restores ? lane_select(s->lanes.restoring, ALL(0), value) : value;
}

INLINE mask held_in_restoration(const barrier_state *s, const control_room *r, real near_low, real near_high, real slope) {
  if (!s->restores) return lane_none();
  const real room = R(4) * s->restoring_room * r->unit;
  const mask low = lane_and(r->has_lower, lane_and(lane_le(near_low, room), lane_lt(ALL(0), slope)));
  const mask high = lane_and(r->has_upper, lane_and(lane_le(near_high, room), lane_lt(slope, ALL(0))));
  return lane_and(s->lanes.restoring, lane_or(low, high));
}

/* What is added to the Hessian's diagonal over controls in units of their range; in restoration some of it always, and a little
 * where rows yield. */
INLINE real shift_of(const barrier_state *s) {
  real shift = s->lanes.shift * s->row_unit;
  if (QUADRATIC_PROGRAM) shift += where_on(yielding(s), YIELDING_SHIFT * s->row_unit);
  if (!s->restores) return shift;
  const real least = ALL(RESTORATION_SHIFT) * lane_min(ALL(1), s->point.gap) * s->row_unit;
  return shift + lane_select(s->lanes.restoring, least, ALL(0));
}

/* Adds the shift over states to a Hessian, where there is one: a lane without is what it is beside one with. */
INLINE void shift_states(const barrier_state *s, real all, real *hessian) {
  const mask shifted = lane_lt(ALL(0), all);
  if (!lane_any(shifted)) return;
  EACH(i, NX) {
    const real share = CONSTRAINED ? s->share_of_shift[CONSTRAINED ? i : 0] : ALL(1), now = hessian[TRIANGLE(i, i)];
    hessian[TRIANGLE(i, i)] = lane_select(shifted, now + all * share, now);
  }
}

/* Adds the bounds and the shift to a stage's model; notes what its first-order conditions lack. */
INLINE void add_bounds(barrier_state *s, int t, const stage_model *q, real *quu, real *qu, mask *is_free) {
  barrier_summary *summary = &s->summary;
  const real mu = unless_restoring(s, s->mu), shift = shift_of(s);
  control_room room[NU];
  find_room(s, t, room);
  copy_uu(q, quu);
  EACH(i, NU) {
    const control_room *r = &room[i];
    const int at = t * NU + i;
    const real u = s->u[at], near_low = below(r, u), near_high = above(r, u);
    const real over_low = ALL(1) / near_low, over_high = ALL(1) / near_high;
    const real low = unless_restoring(s, s->lower_multiplier[at]), high = unless_restoring(s, s->upper_multiplier[at]);
    const real gradient = q->gradient_u[i], dual = lane_abs(where_on(r->is_free, gradient + high - low)) * r->unit;
    s->gradient[at] = gradient;
    s->d_lower[at] = over_low;
    s->d_upper[at] = over_high;
    quu[TRIANGLE(i, i)] += low * over_low + high * over_high + shift * (r->over_unit * r->over_unit);
    qu[i] = gradient + where_on(r->has_upper, mu * over_high) - where_on(r->has_lower, mu * over_low) + q->offset_u[i];
    is_free[i] = lane_and(r->is_free, lane_not(held_in_restoration(s, r, near_low, near_high, qu[i])));
    summary->dual_u = lane_max(dual, summary->dual_u);
    summary->gradient_sum += where_on(r->is_free, lane_abs(gradient)) * r->unit;
    summary->multiplier_sum += (low + high) * r->unit;
    const real low_product = near_low * low, high_product = near_high * high;
    summary->least_product = lane_min(summary->least_product, lane_select(r->has_lower, low_product, ALL(INFINITY)));
    summary->least_product = lane_min(summary->least_product, lane_select(r->has_upper, high_product, ALL(INFINITY)));
    summary->largest_product = lane_max(summary->largest_product, lane_max(low_product, high_product));
    summary->sides += where_on(r->has_lower, ALL(1)) + where_on(r->has_upper, ALL(1));
    if (QUADRATIC_PROGRAM) {
      summary->product_sum += low_product + high_product;
      summary->products += where_on(r->has_lower, ALL(1)) + where_on(r->has_upper, ALL(1));
    }
    summary->finite = lane_and(summary->finite, lane_finite(gradient));
  }
}

/* The costates of an iterate, as they are, where a sweep has found others: in lanes that want them those that it has found,
 * as far as they are finite. In restoration the cost's are none. */
INLINE real costate_of(const barrier_state *s, real iterate, real found) {
  return lane_select(s->lanes.adjoint, lane_select(lane_finite(found), found, ALL(0)), iterate);
}

/* By loops: of a copy gcc makes a slow instruction. Of a small stage row by row, which gcc unrolls as a whole. */
INLINE void keep_hessian(const real *from, reals to) {
#if SMALL_STAGE
  EACH(i, NX) EACH(j, i + 1) to[TRIANGLE(i, j)] = from[TRIANGLE(i, j)];
#else
  EACH(i, NXX) to[i] = from[i];
#endif
}

/* Takes over the costates of a trajectory where they are wanted, notes dL/dx, and turns the offset of the value
 * function from that of lambda_t as the sweep has it to that of the iterate's. */
INLINE void meet_costates(barrier_state *s, int t, int adopts, value_model *value) {
  barrier_summary *summary = &s->summary;
  stored_reals x = path_at(s, t);
  real largest = ALL(0), size = ALL(0), slope = ALL(0), overflow = ALL(0); /* of the stage, and not through memory */
  EACH(i, NX) {
    const int at = t * NX + i;
    const real found = value->costate[i];
    const real iterate = adopts ? costate_of(s, s->costate[at], found) : s->costate[at];
    const real costate = unless_restoring(s, iterate);
    const real residual = t > 0 ? found - costate : ALL(0);
    if (adopts || t == 0) s->costate[at] = t > 0 ? iterate : found;
    s->dual_residual[at] = residual;
    value->offset[i] += residual;
    value->costate[i] = costate;
    s->offset[at] = value->offset[i];
    largest = lane_max(lane_abs(residual), largest);
    size += lane_abs(costate);
    slope += slope_of(i, costate, x[i]);
    overflow += ALL(0) * found; /* NaN where one is not finite */
  }
  if (t > 0) { /* what has no derivative at x_0 only has not reached a control */
    summary->dual_x = lane_max(largest, summary->dual_x);
    summary->costate_sum += size;
    summary->slopes = lane_max(slope, summary->slopes);
    summary->finite = lane_and(summary->finite, lane_eq(overflow, ALL(0)));
  }
  keep_hessian(value->hessian, s->hessian + t * NXX);
}

/* Adds V c: the gap of the stage before moves the point at which the value function is met. */
INLINE void add_gap(const barrier_state *s, int t, value_model *value) {
  real gap[NX];
  EACH(i, NX) gap[i] = gap_at(s->path, t - 1, i);
  add_symmetric_product(value->hessian, gap, value->offset);
}

/* With what is known of the rows. */
INLINE void begin_summary(barrier_state *s) {
  barrier_summary *summary = &s->summary;
  summary->dual_x = summary->dual_u = summary->gradient_sum = summary->costate_sum = summary->slopes = ALL(0);
  summary->multiplier_sum = CONSTRAINED ? s->sizes.multiplier_sum : ALL(0);
  summary->sides = s->row_sides;
  summary->products = s->row_products;
  summary->product_sum = CONSTRAINED ? s->sizes.product_sum : ALL(0);
  summary->least_product = CONSTRAINED ? s->sizes.least_product : ALL(INFINITY);
  summary->largest_product = CONSTRAINED ? s->sizes.largest_product : ALL(0);
  summary->finite = summary->convex = lane_all();
  summary->hidden = lane_none();
}

/* A control without a range has as its unit what its size is, or how far the cost lets it go, whichever is more. */
INLINE void measure_controls(barrier_state *s, int t, const real *quu, real *largest, real *stiffest) {
  EACH(i, NU) {
    largest[i] = lane_max(lane_abs(s->u[t * NU + i]), largest[i]);
    stiffest[i] = lane_max(quu[TRIANGLE(i, i)], stiffest[i]);
  }
}

INLINE void find_units(barrier_state *s, const real *largest, const real *stiffest) {
  EACH(i, NU) {
    const real reach = lane_sqrt(R(2) * size_of_costs(s) / lane_max(stiffest[i], ALL(0)));
    const real unit = lane_max(lane_select(lane_finite(reach), reach, ALL(0)), largest[i]);
    const real found = lane_select(lane_lt(ALL(0), unit), unit, ALL(1));
    s->unit[i] = lane_select(s->lanes.begins, found, s->unit[i]);
  }
}

/* What the rows of a stage add to its model, if there are any. */
INLINE void find_rows(barrier_state *s, int t, row_terms *rows) {
#if CONSTRAINED
  add_rows(s, t, rows);
#else
  (void)s, (void)t, (void)rows;
#endif
}

/* The value function of the last stage, and the model of another. Where there are rows, with what they add. */
INLINE void expand_last(const barrier_state *s, const real *weight, const row_terms *rows, value_model *value) {
  const int last = s->horizon;
  const reals x = path_at(s, last), theta_t = stage_row(s->theta_stage, s->rows, last);
#if CONSTRAINED
  terminal_expand(x, s->theta, theta_t, weight, rows->dual, rows->stiffness, rows->force, value->hessian, value->costate,
                  value->offset);
#else
  (void)weight, (void)rows;
  terminal_expand(x, s->theta, theta_t, value->hessian, value->costate);
  EACH(i, NX) value->offset[i] = ALL(0);
#endif
}

INLINE void expand_stage(const barrier_state *s, int t, const real *weight, const row_terms *rows, const value_model *value,
                         stage_model *q) {
  const reals x = path_at(s, t), u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
#if CONSTRAINED
  EXPAND_ITERATE(x, u, s->theta, theta_t, weight, value, rows->dual, rows->stiffness, rows->force, q);
#else
  (void)rows;
  stage_expand_exact(x, u, s->theta, theta_t, weight, value, q);
#endif
}

/* The gradients of the Lagrangian alone. Where there is no function of them: the compiler leaves nothing of the Hessians where
 * the model is inlined, and where it is made by loops these are left out. */
INLINE void expand_gradients(const barrier_state *s, int t, const row_terms *rows, const value_model *value, stage_model *q) {
#ifdef HAS_ADJOINT
  stage_adjoint(path_at(s, t), s->u + t * NU, s->theta, stage_row(s->theta_stage, s->rows, t), value->costate, rows->dual, q);
#elif LOOPED_PRODUCTS && !LINEAR_DYNAMICS
  const reals x = path_at(s, t), u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  const real none = ALL(0);
  (void)rows;
  stage_derivatives_exact(x, u, s->theta, theta_t, &none, value->costate,
                          ROWS_OF(rows->dual) ROWS_OF(rows->stiffness) ROWS_OF(rows->force) q);
#else
  const real none = ALL(0);
  expand_stage(s, t, &none, rows, value, q);
#endif
}

/* Factors a stage's Quu; of lanes where it is the first that is not positive definite, notes whether rounding hides that it is. */
INLINE void note_factor(barrier_state *s, const real *quu, const mask *is_free, real *unit_lower, real *inverse_pivot) {
  barrier_summary *summary = &s->summary;
  mask hidden = lane_none();
  const mask positive = factor_noting(quu, is_free, unit_lower, inverse_pivot, CONSTRAINED ? &hidden : NULL);
  if (CONSTRAINED) summary->hidden = lane_or(summary->hidden, lane_and(summary->convex, hidden));
  summary->convex = lane_and(summary->convex, positive);
}

/* Keeps a factor, the inverse pivots on its diagonal. */
INLINE void keep_quu(const real *unit_lower, const real *inverse_pivot, reals kept) {
  EACH(i, NU) {
    EACH(j, i) kept[TRIANGLE(i, j)] = unit_lower[TRIANGLE(i, j)];
    kept[TRIANGLE(i, i)] = inverse_pivot[i];
  }
}

/* The multipliers of a stage's rows, in the lanes of `where`. */
INLINE void stage_duals(const barrier_state *s, int t, mask where, real *duals) {
#if CONSTRAINED
  reals row = first_row(s, t);
  for (int i = 0; i < row_count(s, t); i++, row += ROW_REALS)
    duals[i] = where_on(where, row[HIGH_MULTIPLIER] - row[LOW_MULTIPLIER]);
#else
  (void)s, (void)t, (void)where, (void)duals;
#endif
}

/* The costates of the first trajectories of some lanes, and the sum of the sizes of dL/du: a sweep without Hessians. */
SWEEP_FUNCTION void first_costates(barrier_state *s, mask where) {
  const real none = ALL(0);
  const int warm = lane_any(s->lanes.warm);
  row_terms rows;
  SWEEP_MODELS(s)
  real sum = ALL(0), slopes = ALL(0);
  clear_terms(&rows);
  if (warm) stage_duals(s, s->horizon, s->lanes.warm, rows.dual);
  expand_last(s, &none, &rows, value);
  EACH(i, NXX) value->hessian[i] = ALL(0);
  EACH(i, NX) value->offset[i] = ALL(0);
  for (int t = s->horizon;; t--) {
    real slope = ALL(0);
    EACH(i, NX) {
      const int at = t * NX + i;
      const real costate = t > 0 ? costate_of(s, s->costate[at], value->costate[i]) : value->costate[i];
      s->costate[at] = lane_select(where, costate, s->costate[at]);
      value->costate[i] = costate;
      slope += slope_of(i, costate, path_at(s, t)[i]);
    }
    if (t == 0) break;
    slopes = lane_max(slope, slopes);
    control_room room[NU];
    find_room(s, t - 1, room);
    if (warm) stage_duals(s, t - 1, s->lanes.warm, rows.dual);
    expand_gradients(s, t - 1, &rows, value, q);
    EACH(i, NU) {
      s->gradient[(t - 1) * NU + i] = q->gradient_u[i];
      sum += where_on(room[i].is_free, lane_abs(q->gradient_u[i])) * room[i].unit;
    }
    EACH(i, NX) value->costate[i] = q->costate[i];
  }
  s->summary.gradient_sum = sum;
  s->summary.slopes = slopes;
}

/* One backward sweep at the accepted trajectories. */
SWEEP_FUNCTION void barrier_sweep(barrier_state *s) {
  const int last = s->horizon, adopts = lane_any(s->lanes.adjoint);
  ready_pass(s);
  const real state_shift = shift_of(s) * unless_restoring(s, s->lanes.on_states);
  SWEEP_MODELS(s)
  real largest[NU], stiffest[NU];
  EACH(i, NU) largest[i] = stiffest[i] = ALL(0);
  begin_summary(s);
  s->weight = lane_select(s->lanes.restoring, ALL(0), s->lanes.second_order);
  row_terms rows;
  find_rows(s, last, &rows);
  expand_last(s, &s->weight, &rows, value);
  shift_states(s, state_shift, value->hessian);
  for (int t = last;; t--) {
    meet_costates(s, t, adopts, value);
    if (t == 0) break;
    const int k = t - 1;
    real quu[NUU], qu[NU], unit_lower[NUU], inverse_pivot[NU];
    mask is_free[NU];
    add_gap(s, t, value);
    find_rows(s, k, &rows);
    expand_stage(s, k, &s->weight, &rows, value, q);
    keep_slopes(q, s->kept + k * NKEPT);
    shift_states(s, state_shift, q->hessian);
    add_bounds(s, k, q, quu, qu, is_free);
    if (s->begins) measure_controls(s, k, quu, largest, stiffest);
    note_factor(s, quu, is_free, unit_lower, inverse_pivot);
    if (QUADRATIC_PROGRAM) keep_quu(unit_lower, inverse_pivot, s->factor + k * NUU);
    solve_free(unit_lower, inverse_pivot, is_free, qu, s->step + k * NU);
    feedback_gain(q, is_free, unit_lower, inverse_pivot, s->gain + k * NU * NX);
    update_value(q, quu, qu, s->gain + k * NU * NX, s->step + k * NU, value);
  }
  if (s->begins) find_units(s, largest, stiffest);
}

#endif

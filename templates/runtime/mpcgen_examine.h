/* What holds a solution: dL/du and the bounds, from which follow the active set and its margin. */
#ifndef MPCGEN_EXAMINE_H
#define MPCGEN_EXAMINE_H

#include "mpcgen_refinement.h"

COUNT size_t examine_reals(const examine_arguments *a) {
  return sensitivity_reals(a->horizon, a->constant_parameters);
}

/* Lays out a workspace of examine_reals() from `at` on, where all is zero. */
FUNCTION void lay_out_examine(sensitivity_state *s, const examine_arguments *a, reals at) {
  lay_out_sensitivity(s, a->horizon, a->constant_parameters, at);
}

FUNCTION void store_examined(const sensitivity_state *s, const examine_arguments *a, int k, int64_t problem) {
  const size_t count = (size_t)s->horizon * NU, to = (size_t)problem * count;
  store_row((scalar *)a->multipliers + to, s->multiplier, k, count);
  store_row((scalar *)a->lower + to, s->at_lower, k, count);
  store_row((scalar *)a->upper + to, s->at_upper, k, count);
}

#if CONSTRAINED
#if SOFT_ROWS
enum { EXAMINED = 4 };
/* What one more of excess would cost at a stage, less the multiplier: infinite of hard rows. */
FUNCTION void find_reserve(const sensitivity_state *s, int t, const rows_of_stage *rows, real *reserve) {
  prices_of_stage prices;
  read_prices(s, t, &prices);
  for (int i = 0; i < rows_at(s, t); i++) {
    const real low = rows->lower[i] - rows->values[i], high = rows->values[i] - rows->upper[i];
    const real excess = lane_max(lane_max(low, high), ALL(0)), dual = lane_abs(s->dual[t * NPATH + i]);
    reserve[i] = prices.linear[i] + prices.quadratic[i] * excess - dual;
  }
}
#else
enum { EXAMINED = 3 };
#endif

/* The rows of a stage, or of the last one, of all lanes; they begin at `column` of a stage's multipliers. */
FUNCTION void store_examined_rows(const sensitivity_state *s, const examine_arguments *a, int64_t first, int t) {
  const int column = row_column(t == s->horizon), count = rows_at(s, t);
  rows_of_stage rows;
  read_rows(s, t, &rows);
#if SOFT_ROWS
  real reserve[MOST_DIFFERENTIAL_ROWS];
  find_reserve(s, t, &rows, reserve);
  const real *from[] = {rows.values, rows.lower, rows.upper, reserve};
  scalar *to[] = {(scalar *)a->row_values, (scalar *)a->row_lower, (scalar *)a->row_upper, (scalar *)a->row_reserve};
#else
  const real *from[] = {rows.values, rows.lower, rows.upper};
  scalar *to[] = {(scalar *)a->row_values, (scalar *)a->row_lower, (scalar *)a->row_upper};
#endif
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, a->batch); k++) {
    if (!lane_test(&s->usable, k)) continue;
    const int64_t at = ((first + k) * (a->horizon + 1) + t) * NDUAL + column;
    for (int what = 0; what < EXAMINED; what++)
      for (int i = 0; i < count; i++) to[what][at + i] = lane_get(&from[what][i], k);
  }
}

/* Values and bounds of all rows of one vector of problems; those of states at stage 0, too, where they need not hold. */
FUNCTION void examine_rows(const sensitivity_state *s, const examine_arguments *a, int64_t first) {
  TEAM_LEADER {
    KEEP_LOOP for (int k = 0; k < lanes_filled(first, a->batch); k++)
      if (lane_test(&s->usable, k)) ((scalar *)a->cost_unit)[first + k] = lane_get(&s->cost_unit, k);
  }
  TEAM_FOR(t, s->horizon + 1) store_examined_rows(s, a, first, t);
}
#endif

/* Writes dL/du, the bounds and the rows of one vector of problems. */
RARE void examine_vector(sensitivity_state *s, const examine_arguments *a, int64_t first) {
  const solution_batch source = {a->batch, a->states, a->controls, a->usable, a->parameters, a->parameter_strides,
                                 DUALS_OF(a)};
  load_solutions(s, &source, first, lane_all());
  sensitivity_backward(s, 1, NULL, NULL);
  for (int t = 0; t < s->horizon; t++) /* the active set's arrays are free now */
    stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), s->at_lower + t * NU, s->at_upper + t * NU);
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, a->batch); k++)
    if (lane_test(&s->usable, k)) store_examined(s, a, k, first + k);
#if CONSTRAINED
  examine_rows(s, a, first);
#endif
}

#endif

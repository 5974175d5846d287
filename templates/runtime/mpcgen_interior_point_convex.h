/* Problems that are convex stage by stage: a proof of second order that no weight hides.
 *
 * The sweep's Quu has the weights of rows and F'VF, beside which a small cost of controls is lost in rounding. Where the
 * Lagrangian's Hessian of each stage, over its state and controls and with neither of them, is positive semidefinite, and over
 * the controls definite, every V is positive semidefinite, and so every Quu is at least that of the stage alone. */
#ifndef MPCGEN_INTERIOR_POINT_CONVEX_H
#define MPCGEN_INTERIOR_POINT_CONVEX_H

#include "mpcgen_interior_point_infeasible.h"

#if CONSTRAINED
/* Whether a symmetric matrix is positive semidefinite but for rounding, and the block of its last `definite` rows more than that.
 * Eliminates in place, from the last row on. */
FUNCTION mask is_semidefinite(real *matrix, int size, int definite) {
  const real rounding = ALL(2 * NTAU * SCALAR_EPSILON);
  mask convex = lane_all();
  real diagonal[NTAU];
  for (int i = 0; i < size; i++) diagonal[i] = lane_abs(matrix[TRIANGLE(i, i)]);
  for (int i = size - 1; i >= 0; i--) {
    const real share = i < size - definite ? rounding : -rounding, pivot = matrix[TRIANGLE(i, i)] + share * diagonal[i];
    const mask positive = lane_lt(ALL(0), pivot);
    mask good = positive;
    if (i < size - definite) { /* what has no curvature bends nothing else */
      mask empty = lane_eq(pivot, ALL(0));
      for (int j = 0; j < i; j++) empty = lane_and(empty, lane_eq(matrix[TRIANGLE(i, j)], ALL(0)));
      good = lane_or(positive, empty);
    }
    convex = lane_and(convex, good);
    const real inverse = lane_select(positive, ALL(1) / pivot, ALL(0));
    for (int j = 0; j < i; j++) {
      const real multiple = matrix[TRIANGLE(i, j)] * inverse;
      for (int k = 0; k <= j; k++) matrix[TRIANGLE(j, k)] -= multiple * matrix[TRIANGLE(i, k)];
    }
  }
  return convex;
}

/* Which lanes' stages are convex at their iterates. */
RARE mask find_convex(barrier_state *s) {
  const real whole = ALL(1);
  value_model *value = &s->value;
  stage_model *q = &s->model;
  row_terms rows;
  clear_terms(&rows);
  stage_duals(s, s->horizon, lane_all(), rows.dual);
  expand_last(s, &whole, &rows, value);
  mask convex = is_semidefinite(value->hessian, NX, 0);
  zero_reals(value->hessian, NXX);
  zero_reals(value->offset, NX);
  for (int t = s->horizon - 1; t >= 0 && lane_any(convex); t--) {
    for (int i = 0; i < NX; i++) value->costate[i] = s->costate[(t + 1) * NX + i];
    stage_duals(s, t, lane_all(), rows.dual);
    expand_stage(s, t, &whole, &rows, value, q);
    convex = lane_and(convex, is_semidefinite(q->hessian, NTAU, NU));
  }
  return convex;
}
#endif

/* Of the solved iterates that no minima seem those that are, as they are of problems that are convex stage by stage. */
INLINE mask proven_otherwise(barrier_state *s, mask concave) {
#if CONSTRAINED
  if (lane_any(concave)) return lane_and(concave, find_convex(s));
#endif
  (void)s, (void)concave;
  return lane_none();
}

#endif

/* One stage of the Riccati recursion, once the stage's quadratic model is known.
 *
 * Sizes NX and NU are compile-time constants of the problem. Symmetric matrices keep their lower triangle,
 * row by row: entry (i, j), j <= i, is at TRIANGLE(i, j). Matrices over (control, state) are row-major (NU, NX).
 * Products of matrices go through register tiles (mpcgen_tile.h).
 */
#ifndef MPCGEN_STAGE_H
#define MPCGEN_STAGE_H

#include "mpcgen_tile.h"

#define NXX TRIANGLE(NX, 0)
#define NUU TRIANGLE(NU, 0)
enum { NTAU = NX + NU };

/* Quadratic model of cost-to-go around (x_t, u_t):
 * the Hessian over (x, u), whose leading NXX numbers are Qxx; the costate lambda_t = dL/dx_t; dL/du_t; and what the
 * value function's gradient adds to both, F' (v - lambda)_{t+1}. At a stationary point these offsets vanish. */
typedef struct {
  real hessian[TRIANGLE(NTAU, 0)];
  real costate[NX];
  real gradient_u[NU];
  real offset_x[NX];
  real offset_u[NU];
#if LOOPED_PRODUCTS
  real F[NX * NTAU]; /* df/d(x, u): `hessian` lacks F'VF until mpcgen_products.h adds it */
#endif
#if NKEPT
  real kept[NKEPT]; /* entries of it */
#endif
} stage_model;

/* A control's row of the Hessian: its products with the states, then with the controls up to itself. */
INLINE const real *control_row(const stage_model *q, int control) {
  return q->hessian + TRIANGLE(NX + control, 0);
}

/* The lower triangle of Quu. */
INLINE void copy_uu(const stage_model *q, real *quu) {
  EACH(i, NU)
    for (int j = 0; j <= i; j++) quu[TRIANGLE(i, j)] = control_row(q, i)[NX + j];
}

/* Keeps what the model has of F. */
INLINE void keep_slopes(const stage_model *q, reals kept) {
#if NKEPT
  EACH(i, NKEPT) kept[i] = q->kept[i];
#else
  (void)q, (void)kept;
#endif
}

/* Value function to the right of a stage: Hessian, costate, and gradient minus costate. */
typedef struct {
  real hessian[NXX];
  real costate[NX];
  real offset[NX];
} value_model;

/* Whether no sweep ever wants second derivatives of the dynamics, so that a program need not have them. */
#ifndef GAUSS_NEWTON_ALONE
#define GAUSS_NEWTON_ALONE 0
#endif

/* Whether a backward sweep keeps a stage's model and value function in registers, as far as there are: the function
 * that makes the model is then part of the sweep's loop. */
#define MODEL_IN_REGISTERS (LANES > 1 && SMALL_STAGE && !LINEAR_DYNAMICS)

/* A function that sweeps, and what it declares first: the value function and the model of its present stage, in registers or
 * in the state, as they are too large for the stack if there are many states. */
#if MODEL_IN_REGISTERS
#define SWEEP_FUNCTION FUNCTION __attribute__((flatten))
#define SWEEP_MODELS(s)                   \
  value_model present, *value = &present; \
  stage_model stage, *q = &stage;
#else
#define SWEEP_FUNCTION FUNCTION
#define SWEEP_MODELS(s)              \
  value_model *value = &(s)->value;  \
  stage_model *q = &(s)->model;
#endif

/* What a stage asks of its controls: argmin of qu'step + step'Quu step / 2 over those that are free, and the factor of
 * their block of Quu, by which they follow the state. */
typedef struct {
  real quu[NUU], qu[NU];
  mask is_free[NU];
  real unit_lower[NUU], inverse_pivot[NU];
} control_problem;

/* L D L' of the free rows of a symmetric (NU, NU) matrix; clamped rows become the identity's.
 * A pivot that is not safely positive is replaced by one, and its lane is not in the returned mask. Where the first of these is
 * what rounding makes of zero, its lane is added to `hidden`, unless that is NULL. */
INLINE mask factor_noting(const real *matrix, const mask *is_free, real *unit_lower, real *inverse_pivot, mask *hidden) {
  mask accepted = lane_all();
  real pivot[NU];
  EACH(j, NU) {
    const real diagonal = lane_select(is_free[j], matrix[TRIANGLE(j, j)], ALL(1));
    real remaining = diagonal;
    /* cppcheck-suppress uninitvar ; what is read was written in an earlier round of the outer loop */
    EACH(k, j) remaining -= unit_lower[TRIANGLE(j, k)] * unit_lower[TRIANGLE(j, k)] * pivot[k];
    const mask positive = lane_lt(ALL(8 * NU * SCALAR_EPSILON) * lane_abs(diagonal), remaining);
    if (hidden && j > 0) {
      const mask rounding = lane_le(lane_abs(remaining), ALL(64 * NU * SCALAR_EPSILON) * lane_abs(diagonal));
      *hidden = lane_or(*hidden, lane_and(lane_and(accepted, lane_not(positive)), rounding));
    }
    accepted = lane_and(accepted, positive);
    pivot[j] = lane_select(positive, remaining, ALL(1));
    inverse_pivot[j] = ALL(1) / pivot[j];
    UNROLL for (int i = j + 1; i < NU; i++) {
      real entry = lane_select(lane_and(is_free[i], is_free[j]), matrix[TRIANGLE(i, j)], ALL(0));
      EACH(k, j) entry -= unit_lower[TRIANGLE(i, k)] * unit_lower[TRIANGLE(j, k)] * pivot[k];
      unit_lower[TRIANGLE(i, j)] = entry * inverse_pivot[j];
    }
  }
  return accepted;
}

INLINE mask factor_free(const real *matrix, const mask *is_free, real *unit_lower, real *inverse_pivot) {
  return factor_noting(matrix, is_free, unit_lower, inverse_pivot, NULL);
}

/* result = -(free block)^-1 rhs on the free rows, zero on the clamped ones. */
INLINE void solve_free(const real *unit_lower, const real *inverse_pivot, const mask *is_free,
                       in_reals rhs, out_reals result) {
  EACH(i, NU) {
    real sum = lane_select(is_free[i], -rhs[i], ALL(0));
    /* cppcheck-suppress uninitvar ; what is read was written in an earlier round of the outer loop */
    EACH(k, i) sum -= unit_lower[TRIANGLE(i, k)] * result[k];
    result[i] = sum;
  }
  UNROLL for (int i = NU - 1; i >= 0; i--) {
    real sum = result[i] * inverse_pivot[i];
    UNROLL for (int k = i + 1; k < NU; k++) sum -= unit_lower[TRIANGLE(k, i)] * result[k];
    result[i] = sum;
  }
}

INLINE void symmetric_times(const real *matrix, in_reals vector, real *result) {
  EACH(i, NU) {
    real sum = ALL(0);
    EACH(j, NU) sum += matrix[SYMMETRIC(i, j)] * vector[j];
    result[i] = sum;
  }
}

/* result += a symmetric (NX, NX) matrix times a vector; each entry is read once. */
INLINE void add_symmetric_product(in_reals matrix, const real *vector, real *result) {
  EACH(i, NX) {
    real sum = result[i] + matrix[TRIANGLE(i, i)] * vector[i];
    EACH(j, i) {
      const real entry = matrix[TRIANGLE(i, j)];
      sum += entry * vector[j];
      result[j] += entry * vector[i];
    }
    result[i] = sum;
  }
}

/* `columns` columns, from `first` on, of gain = -(free block of Quu)^-1 Qux: solve_free for all of them at once. */
ALWAYS_INLINE void gain_columns(const stage_model *q, const mask *is_free, const real *unit_lower,
                                const real *inverse_pivot, int first, int columns, out_reals gain) {
  real result[NU][TILE];
  EACH(i, NU) {
    real sums[TILE];
    EACH(c, columns) sums[c] = lane_select(is_free[i], -control_row(q, i)[first + c], ALL(0));
    EACH(k, i) EACH(c, columns) sums[c] -= unit_lower[TRIANGLE(i, k)] * result[k][c];
    EACH(c, columns) result[i][c] = sums[c];
  }
  for (int i = NU - 1; i >= 0; i--) {
    real sums[TILE];
    EACH(c, columns) sums[c] = result[i][c] * inverse_pivot[i];
    UNROLL for (int k = i + 1; k < NU; k++) EACH(c, columns) sums[c] -= unit_lower[TRIANGLE(k, i)] * result[k][c];
    EACH(c, columns) gain[i * NX + first + c] = result[i][c] = sums[c];
  }
}

/* gain = -(free block of Quu)^-1 Qux, zero in the clamped rows; (NU, NX). */
INLINE void feedback_gain(const stage_model *q, const mask *is_free, const real *unit_lower,
                          const real *inverse_pivot, out_reals gain) {
  for (int j = 0; j < WHOLE_TILES(NX); j += TILE) gain_columns(q, is_free, unit_lower, inverse_pivot, j, TILE, gain);
  if (NX % TILE) gain_columns(q, is_free, unit_lower, inverse_pivot, WHOLE_TILES(NX), NX % TILE, gain);
}

/* A tile of V = Qxx + Qux' gain. */
ALWAYS_INLINE void value_tile(const stage_model *q, in_reals gain, int i, int rows, int j, int columns,
                              real *hessian) {
  real sums[TILE][TILE];
  clear_tile(sums, rows, columns);
  EACH(a, NU) add_outer(sums, control_row(q, a) + i, rows, gain + a * NX + j, columns);
  EACH(r, rows) EACH(c, columns) if (i != j || c <= r) {
    const int at = TRIANGLE(i + r, j + c);
    hessian[at] = q->hessian[at] + sums[r][c];
  }
}

ALWAYS_INLINE void value_columns(const stage_model *q, in_reals gain, int j, int columns, real *hessian) {
  value_tile(q, gain, j, columns, j, columns, hessian);
  for (int i = j + TILE; i < WHOLE_TILES(NX); i += TILE) value_tile(q, gain, i, TILE, j, columns, hessian);
  if (NX % TILE && columns == TILE) value_tile(q, gain, WHOLE_TILES(NX), NX % TILE, j, columns, hessian);
}

/* Value function of the policy u = step + gain dx under the model q (paper, Algorithm 1, last two lines). The gain
 * solves Quu gain = -Qux on the free controls and is zero on the others, so that V = Qxx + K'Quu K + K'Qux + Qux'K
 * is Qxx + Qux'K. The step may be short of the minimum: v - lambda keeps all terms. `qu` is the model's linear term
 * in u. Here its gradient, and below its Hessian. */
INLINE void update_gradient(const stage_model *q, const real *quu, const real *qu, in_reals gain,
                            in_reals step, value_model *restrict value) {
  real slope[NU];
  symmetric_times(quu, step, slope);
  EACH(a, NU) slope[a] += qu[a];
  EACH(i, NX) {
    real sum = q->offset_x[i];
    EACH(a, NU) sum += gain[a * NX + i] * slope[a] + control_row(q, a)[i] * step[a];
    value->offset[i] = sum;
    value->costate[i] = q->costate[i];
  }
}

INLINE void update_hessian(const stage_model *q, in_reals gain, value_model *restrict value) {
  for (int j = 0; j < WHOLE_TILES(NX); j += TILE) value_columns(q, gain, j, TILE, value->hessian);
  if (NX % TILE) value_columns(q, gain, WHOLE_TILES(NX), NX % TILE, value->hessian);
}

INLINE void update_value(const stage_model *q, const real *quu, const real *qu, in_reals gain, in_reals step,
                         value_model *restrict value) {
  update_gradient(q, quu, qu, gain, step, value);
  update_hessian(q, gain, value);
}

/* The gains of a stage's policy, whose step is known, and its value function. */
INLINE void follow_policy(const stage_model *q, const control_problem *p, out_reals gain, in_reals step,
                          value_model *restrict value) {
  feedback_gain(q, p->is_free, p->unit_lower, p->inverse_pivot, gain);
  update_value(q, p->quu, p->qu, gain, step, value);
}

#endif

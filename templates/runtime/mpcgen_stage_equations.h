/* The equations that the slopes of an implicit step obey, linearised: a dense matrix for each lane, its factors, and how
 * far Newton's method gets with them.
 *
 * Stage i of a step from z, the rest v held, is at Z_i with E (Z_i - z) = sum of a_ij k(Z_j, v). E is the identity but for
 * a zero for each state whose k is a residual (MASS). MATRIX has a. The matrix of the equations is E - a_ij J_j in its
 * block (i, j), with J_j = dk/dz at Z_j. The step goes to START z + sum of FINAL[i] Z_i. A part of a step has that share of
 * a in place of a.
 */
#ifndef MPCGEN_STAGE_EQUATIONS_H
#define MPCGEN_STAGE_EQUATIONS_H

#include "mpcgen_step_products.h"

#define NUNKNOWNS (NSLOPES * NMOVING) /* a macro: C++ minds products of two enumerations */
enum { PAIRS = NUNKNOWNS * (NUNKNOWNS - 1) / 2 };

INLINE real stage_weight(int i, int j) { return ALL(MATRIX[i * NSLOPES + j]); }

INLINE real final_share(int i) { return ALL(FINAL[i]); }

/* START `first` + sum of FINAL[i] of the stages' values, for `width` numbers of each state. */
INLINE void last_of(const real *first, const real *stages, int width, real *result) {
  const int count = NMOVING * width;
  for (int j = 0; j < count; j++) {
    real sum = ALL(START) * first[j];
    for (int i = 0; i < NSLOPES; i++) sum += final_share(i) * stages[i * count + j];
    result[j] = sum;
  }
}

/* L and U in place, L with a unit diagonal, of the rows after exchanges; each lane has its own exchanges. */
typedef struct {
  real matrix[NUNKNOWNS * NUNKNOWNS], inverse_pivot[NUNKNOWNS];
  mask exchanged[PAIRS + 1];
} stage_factors;

INLINE void exchange(real *a, real *b, mask where, int count) {
  for (int j = 0; j < count; j++) {
    const real first = a[j], second = b[j];
    a[j] = lane_select(where, second, first);
    b[j] = lane_select(where, first, second);
  }
}

/* Factors f->matrix, the largest entry of a column as its pivot: rows are compared one by one, and exchanged. */
FUNCTION void factor_stages(stage_factors *f) {
  mask *exchanged = f->exchanged;
  KEEP_LOOP for (int k = 0; k < NUNKNOWNS; k++) {
    real *const pivot_row = f->matrix + k * NUNKNOWNS;
    KEEP_LOOP for (int r = k + 1; r < NUNKNOWNS; r++) {
      real *const row = f->matrix + r * NUNKNOWNS;
      const mask larger = lane_lt(lane_abs(pivot_row[k]), lane_abs(row[k]));
      *exchanged++ = larger;
      if (lane_any(larger)) exchange(pivot_row, row, larger, NUNKNOWNS);
    }
    const real inverse = ALL(1) / pivot_row[k];
    f->inverse_pivot[k] = inverse;
    KEEP_LOOP for (int r = k + 1; r < NUNKNOWNS; r++) {
      real *const row = f->matrix + r * NUNKNOWNS;
      const real multiple = row[k] * inverse;
      row[k] = multiple;
      for (int j = k + 1; j < NUNKNOWNS; j++) row[j] -= multiple * pivot_row[j];
    }
  }
}

/* to -= factor * from. */
INLINE void subtract_multiple(real *to, real factor, const real *from, int count) {
  for (int j = 0; j < count; j++) to[j] -= factor * from[j];
}

/* Solves with the matrix for `width` right-hand sides, (NUNKNOWNS, width), in place. */
ALWAYS_INLINE void solve_stages(const stage_factors *f, real *right, int width) {
  const mask *exchanged = f->exchanged;
  KEEP_LOOP for (int k = 0; k < NUNKNOWNS; k++)
    KEEP_LOOP for (int r = k + 1; r < NUNKNOWNS; r++) {
      const mask where = *exchanged++;
      if (lane_any(where)) exchange(right + k * width, right + r * width, where, width);
    }
  KEEP_LOOP for (int r = 1; r < NUNKNOWNS; r++)
    KEEP_LOOP for (int c = 0; c < r; c++)
      subtract_multiple(right + r * width, f->matrix[r * NUNKNOWNS + c], right + c * width, width);
  KEEP_LOOP for (int r = NUNKNOWNS - 1; r >= 0; r--) {
    KEEP_LOOP for (int c = r + 1; c < NUNKNOWNS; c++)
      subtract_multiple(right + r * width, f->matrix[r * NUNKNOWNS + c], right + c * width, width);
    for (int j = 0; j < width; j++) right[r * width + j] *= f->inverse_pivot[r];
  }
}

/* Solves with the transposed matrix, in place. */
FUNCTION void solve_stages_transposed(const stage_factors *f, real *right) {
  KEEP_LOOP for (int r = 0; r < NUNKNOWNS; r++) {
    right[r] *= f->inverse_pivot[r];
    for (int c = r + 1; c < NUNKNOWNS; c++) right[c] -= f->matrix[r * NUNKNOWNS + c] * right[r];
  }
  KEEP_LOOP for (int r = NUNKNOWNS - 1; r > 0; r--)
    for (int c = 0; c < r; c++) right[c] -= f->matrix[r * NUNKNOWNS + c] * right[r];
  const mask *exchanged = f->exchanged + PAIRS;
  KEEP_LOOP for (int k = NUNKNOWNS - 1; k >= 0; k--)
    KEEP_LOOP for (int r = NUNKNOWNS - 1; r > k; r--) {
      const mask where = *--exchanged;
      exchange(right + k, right + r, where, 1);
    }
}

/* The matrix of the equations of a part of a step, of J_j whose rows are `stride` apart, and whole matrices NMOVING times
 * that. */
INLINE void assemble_stages(const real *J, int stride, real part, real *matrix) {
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++)
    KEEP_LOOP for (int r = 0; r < NMOVING; r++)
      KEEP_LOOP for (int j = 0; j < NSLOPES; j++) {
        real *const to = matrix + (i * NMOVING + r) * NUNKNOWNS + j * NMOVING;
        const real weight = part * stage_weight(i, j), *const row = J + (j * NMOVING + r) * stride;
        for (int c = 0; c < NMOVING; c++) to[c] = -weight * row[c];
        if (i == j) to[r] += ALL(MASS[r]);
      }
}

/* ---- Newton's method ---- */

#define NEWTON_ROUNDING R(8)          /* roundings of a residual's terms that it may be of, or a step of its state */
#define NEWTON_LITTLE LIBM(sqrt)(SCALAR_EPSILON) /* relative size of steps, or a residual in that of its terms, that
                                                    may be all that rounding allows if they do not fall */

#define NEWTON_LEAST (SCALAR_LEAST / SCALAR_EPSILON) /* below which a number has no rounding of its own: a mode that
                                                        has died away */

/* How far the lanes have come with a step's equations. */
typedef struct {
  real step;      /* the largest change of an unknown in the last Newton step, relative to its state's size */
  real residual;  /* the largest of a row, relative to its terms */
  mask open;      /* goes on */
  mask converged;
} newton_progress;

/* Of what size a moving state is for rounding. A hidden one is the change of the state NVISIBLE places before it, and is
 * not known better than that state, of which it is a rounding at rest. */
INLINE real state_size(const real *state, int i) {
  return i < NVISIBLE ? lane_abs(state[i]) : lane_max(lane_abs(state[i]), lane_abs(state[i - NVISIBLE]));
}

/* The residuals of the equations at z + W, and the largest relative to the terms that a rounding is of: those of a
 * row's sum, and what a rounding of the states makes of them. k, J: (NSLOPES, ...) at z + W. */
INLINE real stage_residuals(const real *at, const real *change, const real *k, const real *J, real part,
                            real *residual) {
  real largest = ALL(0), sizes[NUNKNOWNS];
  for (int r = 0; r < NUNKNOWNS; r++) {
    const real *const state = at + r / NMOVING * NMOVING;
    sizes[r] = lane_abs(k[r]);
    for (int c = 0; c < NMOVING; c++) sizes[r] += lane_abs(J[r * NMOVING + c]) * state_size(state, c);
  }
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++)
    KEEP_LOOP for (int r = 0; r < NMOVING; r++) {
      const real moved = ALL(MASS[r]) * change[i * NMOVING + r];
      real sum = -moved, terms = lane_abs(moved);
      for (int j = 0; j < NSLOPES; j++) {
        const real weight = part * stage_weight(i, j);
        sum += weight * k[j * NMOVING + r];
        terms += lane_abs(weight) * sizes[j * NMOVING + r];
      }
      residual[i * NMOVING + r] = sum;
      largest = lane_maximum(lane_abs(sum) / lane_max(terms, ALL(NEWTON_LEAST)), largest); /* NaN stays */
    }
  return largest;
}

/* Takes the step of the lanes that go on; returns its largest entry relative to its state's size. */
INLINE real take_newton_step(const real *z, const real *step, mask open, real *change) {
  real largest = ALL(0);
  KEEP_LOOP for (int r = 0; r < NMOVING; r++) {
    real size = state_size(z, r), most = ALL(0);
    for (int i = 0; i < NSLOPES; i++) {
      real *const w = &change[i * NMOVING + r];
      *w = lane_select(open, *w + step[i * NMOVING + r], *w);
      size = lane_max(lane_abs(*w), size);
      most = lane_maximum(lane_abs(step[i * NMOVING + r]), most);
    }
    largest = lane_maximum(most / lane_max(size, ALL(NEWTON_LEAST)), largest);
  }
  return largest;
}

/* Whether a value is rounding: at once, or because it is little and does not fall. */
INLINE mask at_rounding(real value, real before) {
  const mask stays = lane_and(lane_le(value, ALL(NEWTON_LITTLE)), lane_le(R(0.5) * before, value));
  return lane_or(lane_le(value, ALL(NEWTON_ROUNDING * SCALAR_EPSILON)), stays);
}

/* Whether the step after two of these sizes is rounding, since it falls with the square of the last one. */
INLINE mask last_step(real step, real before) {
  const real ratio = step / before;
  const mask quadratic = lane_le(step * ratio * ratio, ALL(SCALAR_EPSILON));
  return lane_and(lane_le(step, ALL(NEWTON_LITTLE)), lane_and(quadratic, lane_lt(before, ALL(INFINITY))));
}

INLINE void conclude_lanes(newton_progress *n, mask where) {
  n->converged = lane_or(n->converged, lane_and(n->open, where));
  n->open = lane_and(n->open, lane_not(where));
}

/* Newton's method for a part of a step from z, in the lanes of `wanted`. `change` has that of the stages' states from z,
 * where it begins, in all stages alike if `alike`, and where it ends; returns where that solves the equations. A lane that
 * has converged keeps what it has, whatever its neighbours need. Out of line, so that a rollout and derivatives solve
 * alike. */
OUTLINED mask newton(const real *z, const real *held, stored_reals theta, stored_reals theta_t, scalar part, int alike,
                     mask wanted, real *change) {
  real points[NUNKNOWNS], k[NUNKNOWNS], J[NUNKNOWNS * NMOVING], step[NUNKNOWNS];
  stage_factors f;
  newton_progress n = {ALL(INFINITY), ALL(INFINITY), wanted, lane_none()};
  KEEP_LOOP for (int count = 0; count <= NEWTON; count++) {
    KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
      real *const at = points + i * NMOVING;
      EACH(j, NMOVING) at[j] = z[j] + change[i * NMOVING + j];
      if (alike && count == 0 && i > 0) {
        copy_reals(k + i * NMOVING, k, NMOVING);
        copy_reals(J + i * NMOVING * NMOVING, J, NMOVING * NMOVING);
        continue;
      }
      rate_newton(at, held, theta, theta_t, k + i * NMOVING, J + i * NMOVING * NMOVING);
    }
    const real residual = stage_residuals(points, change, k, J, ALL(part), step);
    conclude_lanes(&n, at_rounding(residual, n.residual));
    n.open = lane_and(n.open, lane_finite(residual)); /* what has no numbers gets none */
    if (count == NEWTON || !lane_any(n.open)) break;
    n.residual = residual;
    assemble_stages(J, NMOVING, ALL(part), f.matrix);
    factor_stages(&f);
    solve_stages(&f, step, 1);
    const real size = take_newton_step(z, step, n.open, change);
    conclude_lanes(&n, last_step(size, n.step));
    n.step = size;
    if (!lane_any(n.open)) break;
  }
  return n.converged;
}

/* ---- Where Newton's method from z fails ---- */

/* Whether stage i is nearest to the end of part k of a step. */
INLINE int is_nearest(int i, int k) {
  scalar place = 0;
  for (int j = 0; j < NSLOPES; j++) place += PARTS * MATRIX[i * NSLOPES + j];
  return (int)(place + (scalar)0.5) == k;
}

/* Whether the call is stopped: steps in parts of a single pass may take seconds. See mpcgen_parallel.h. */
FUNCTION int is_stopped(int asks);

/* Goes through the step in parts, which Newton's method solves where it does not solve the whole, as where a reaction
 * ignites; then begins at what that finds near the stages, at the step's end, or there in all stages but the first. */
RARE mask newton_by_parts(const real *z, const real *held, stored_reals theta, stored_reals theta_t, mask wanted,
                          real *change) {
  real y[NMOVING], next[NMOVING], w[NUNKNOWNS], along[NUNKNOWNS];
  EACH(j, NMOVING) y[j] = z[j];
  for (int i = 0; i < NUNKNOWNS; i++) along[i] = ALL(0);
  KEEP_LOOP for (int k = 1; k <= PARTS; k++) {
    for (int i = 0; i < NUNKNOWNS; i++) w[i] = ALL(0);
    wanted = newton(y, held, theta, theta_t, (scalar)1 / PARTS, 1, wanted, w);
    if (!lane_any(wanted) || is_stopped(1)) return lane_none();
    for (int i = 0; i < NUNKNOWNS; i++) w[i] += y[i % NMOVING];
    last_of(y, w, 1, next);
    EACH(j, NMOVING) y[j] = next[j];
    for (int i = 0; i < NSLOPES; i++)
      EACH(j, NMOVING) along[i * NMOVING + j] = is_nearest(i, k) ? y[j] - z[j] : along[i * NMOVING + j];
  }
  mask solved = lane_none();
  KEEP_LOOP for (int attempt = 0; attempt < 3; attempt++) {
    for (int i = 0; i < NUNKNOWNS; i++) {
      const int keeps = attempt == 0 || (attempt == 2 && i < NMOVING);
      w[i] = keeps ? along[i] : y[i % NMOVING] - z[i % NMOVING];
    }
    const mask found = newton(z, held, theta, theta_t, 1, attempt == 1, lane_and(wanted, lane_not(solved)), w);
    for (int i = 0; i < NUNKNOWNS; i++) change[i] = lane_select(found, w[i], change[i]);
    solved = lane_or(solved, found);
  }
  return solved;
}

/* Solves for the states at a step's stages, (NSLOPES, NMOVING), from z in all, and by parts in the lanes that may; NaN
 * where Newton's method does not. From f(z) as first slope it would diverge more often than from none (Robertson's
 * kinetics). */
INLINE void solve_stage_equations(const real *z, const real *held, stored_reals theta, stored_reals theta_t, real *points) {
  real change[NUNKNOWNS];
  for (int i = 0; i < NUNKNOWNS; i++) change[i] = ALL(0);
  const mask all = is_stopped(0) ? lane_none() : lane_all();
  mask solved = newton(z, held, theta, theta_t, 1, 1, all, change);
  const mask failed = lane_and(lane_lt(ALL(0), theta[BY_PARTS]), lane_and(all, lane_not(solved)));
  if (__builtin_expect(lane_any(failed), 0))
    solved = lane_or(solved, newton_by_parts(z, held, theta, theta_t, failed, change));
  for (int i = 0; i < NUNKNOWNS; i++)
    points[i] = lane_select(solved, z[i % NMOVING] + change[i], ALL(NAN));
}

#endif

/* Products with P = d(z, v)/d(z, v) = [A; 0 I] of a part of a step or of what follows it, in register tiles. */
#ifndef MPCGEN_STEP_PRODUCTS_H
#define MPCGEN_STEP_PRODUCTS_H

#include "mpcgen_arrays.h"
#include "mpcgen_stage.h"

INLINE real slope_share(int i) { return ALL(SHARE[i]); }

/* A tile of B P, P = [A; 0 I]: the rows of B from `B` on, columns j to j + columns. */
ALWAYS_INLINE void chain_tile(const real *B, int rows, const real *A, int j, int columns, real *result) {
  real sums[TILE][TILE], left[TILE];
  EACH(r, rows) EACH(c, columns) sums[r][c] = j + c < NMOVING ? ALL(0) : B[r * NBOTH + j + c];
  for (int k = 0; k < NMOVING; k++) {
    EACH(r, rows) left[r] = B[r * NBOTH + k];
    add_outer(sums, left, rows, A + k * NBOTH + j, columns);
  }
  EACH(r, rows) EACH(c, columns) result[r * NBOTH + j + c] = sums[r][c];
}

ALWAYS_INLINE void chain_rows(const real *B, int rows, const real *A, real *result) {
  for (int j = 0; j < WHOLE_TILES(NBOTH); j += TILE) chain_tile(B, rows, A, j, TILE, result);
  if (NBOTH % TILE) chain_tile(B, rows, A, WHOLE_TILES(NBOTH), NBOTH % TILE, result);
}

/* result = B P for `count` rows. */
ALWAYS_INLINE void chain(const real *B, int count, const real *A, real *result) {
  for (int i = 0; i < WHOLE_TILES(count); i += TILE) chain_rows(B + i * NBOTH, TILE, A, result + i * NBOTH);
  const int i = WHOLE_TILES(count);
  if (count % TILE) chain_rows(B + i * NBOTH, count % TILE, A, result + i * NBOTH);
}

/* H += a tile of P'B on or below the diagonal of H, a triangle. */
ALWAYS_INLINE void curve_tile(const real *B, const real *A, int i, int rows, int j, int columns, real *H) {
  real sums[TILE][TILE];
  EACH(r, rows) EACH(c, columns) sums[r][c] = i + r < NMOVING ? ALL(0) : B[(i + r) * NBOTH + j + c];
  for (int k = 0; k < NMOVING; k++) add_outer(sums, A + k * NBOTH + i, rows, B + k * NBOTH + j, columns);
  EACH(r, rows) EACH(c, columns) if (i != j || c <= r) H[TRIANGLE(i + r, j + c)] += sums[r][c];
}

ALWAYS_INLINE void curve_columns(const real *B, const real *A, int j, int columns, real *H) {
  curve_tile(B, A, j, columns, j, columns, H);
  for (int i = j + TILE; i < WHOLE_TILES(NBOTH); i += TILE) curve_tile(B, A, i, TILE, j, columns, H);
  if (NBOTH % TILE && columns == TILE) curve_tile(B, A, WHOLE_TILES(NBOTH), NBOTH % TILE, j, columns, H);
}

/* H += P'B, H symmetric, a triangle. */
ALWAYS_INLINE void curve(const real *B, const real *A, real *H) {
  for (int j = 0; j < WHOLE_TILES(NBOTH); j += TILE) curve_columns(B, A, j, TILE, H);
  if (NBOTH % TILE) curve_columns(B, A, WHOLE_TILES(NBOTH), NBOTH % TILE, H);
}

/* All of a symmetric matrix from its triangle. */
INLINE void unfold(const real *triangle, real *full) {
  EACH(i, NBOTH) EACH(j, NBOTH) full[i * NBOTH + j] = triangle[SYMMETRIC(i, j)];
}

#endif

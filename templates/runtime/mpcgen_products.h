/* The Riccati products by loops, for problems too large to unroll: Q = H + F'VF and the offsets F'(v - lambda).
 *
 * F is (NX, NX + NU), row-major, and with H part of the stage's model. The columns of F are taken TILE at a time:
 * VF for these few columns stays in the L1 cache, and is used up before the next ones are formed.
 */
#ifndef MPCGEN_PRODUCTS_H
#define MPCGEN_PRODUCTS_H

#include "mpcgen_stage.h"

/* panel (NX, TILE), rows i to i + rows: those of V F for the columns of F from `F` on. V is a triangle: left of its
 * diagonal a column of the tile runs along a row of V, below it along a column. */
ALWAYS_INLINE void value_times(const real *V, const real *F, int i, int rows, int columns, real *panel) {
  real sums[TILE][TILE], left[TILE];
  clear_tile(sums, rows, columns);
  for (int k = 0; k < i; k++) {
    EACH(r, rows) left[r] = V[TRIANGLE(i + r, k)];
    add_outer(sums, left, rows, F + k * NTAU, columns);
  }
  EACH(k, rows) {
    EACH(r, rows) left[r] = V[r >= k ? TRIANGLE(i + r, i + k) : TRIANGLE(i + k, i + r)];
    add_outer(sums, left, rows, F + (i + k) * NTAU, columns);
  }
  for (int k = i + rows; k < NX; k++) add_outer(sums, V + TRIANGLE(k, i), rows, F + k * NTAU, columns);
  EACH(r, rows) EACH(c, columns) panel[(i + r) * TILE + c] = sums[r][c];
}

/* Q += F' panel for a tile of Q that begins at (i, j); on the diagonal, its lower triangle. */
ALWAYS_INLINE void add_product(const real *F, const real *panel, int i, int rows, int j, int columns, real *Q) {
  real sums[TILE][TILE];
  clear_tile(sums, rows, columns);
  for (int k = 0; k < NX; k++) add_outer(sums, F + k * NTAU + i, rows, panel + k * TILE, columns);
  EACH(r, rows) EACH(c, columns) if (i != j || c <= r) Q[TRIANGLE(i + r, j) + c] += sums[r][c];
}

ALWAYS_INLINE real *offset_at(stage_model *q, int column) {
  return column < NX ? &q->offset_x[column] : &q->offset_u[column - NX];
}

/* The part of both products that belongs to columns j to j + columns of F. */
ALWAYS_INLINE void riccati_columns(const value_model *value, int j, int columns, stage_model *q) {
  const real *F = q->F;
  real panel[NX * TILE], offset[TILE];
  for (int i = 0; i < WHOLE_TILES(NX); i += TILE) value_times(value->hessian, F + j, i, TILE, columns, panel);
  if (NX % TILE) value_times(value->hessian, F + j, WHOLE_TILES(NX), NX % TILE, columns, panel);
  EACH(c, columns) offset[c] = NPATH ? *offset_at(q, j + c) : ALL(0); /* what the rows of constraints push with */
  for (int k = 0; k < NX; k++) EACH(c, columns) offset[c] += F[k * NTAU + j + c] * value->offset[k];
  EACH(c, columns) *offset_at(q, j + c) = offset[c];
  add_product(F, panel, j, columns, j, columns, q->hessian);
  for (int i = j + TILE; i < WHOLE_TILES(NTAU); i += TILE) add_product(F, panel, i, TILE, j, columns, q->hessian);
  if (NTAU % TILE && columns == TILE)
    add_product(F, panel, WHOLE_TILES(NTAU), NTAU % TILE, j, columns, q->hessian);
}

FUNCTION void riccati_products(const value_model *restrict value, stage_model *restrict q) {
  for (int j = 0; j < WHOLE_TILES(NTAU); j += TILE) riccati_columns(value, j, TILE, q);
  if (NTAU % TILE) riccati_columns(value, WHOLE_TILES(NTAU), NTAU % TILE, q);
}

#endif

/* Products with the weights of a network's layers, and with the derivatives of its units. */
#ifndef MPCGEN_NETWORK_PRODUCTS_H
#define MPCGEN_NETWORK_PRODUCTS_H

#include "mpcgen_network_memory.h"

enum {
  ROWS_AT_ONCE = REGISTER_BYTES == 64 ? 4 : 2, /* of a product with G: rows and columns whose sums fit in registers */
  SUMS_AT_ONCE = 8,                                /* of a product with a vector */
  GRAM_TILE = REGISTER_BYTES == 64 ? 6 : 3, /* most rows and columns of a tile of second derivatives */
  NENDS = NWIDEST > NRESULTS ? NWIDEST : NRESULTS,
};
/* Columns of G that are multiplied at once. */
#define PIECE(inputs) (((inputs) + ((inputs) + 5) / 6 - 1) / (((inputs) + 5) / 6))

/* Rows and columns of such a tile: six alone, whose triangle fits in registers; of more inputs parts of four at most. */
#define GRAM_PARTS(inputs) (((inputs) + 3) / 4)
#define GRAM_PIECE(inputs) \
  (REGISTER_BYTES != 64 ? GRAM_TILE : (inputs) <= 6 ? (inputs) : ((inputs) + GRAM_PARTS(inputs) - 1) / GRAM_PARTS(inputs))

/* ---- products with the weights of a layer: `shares` says whose they are ---- */

/* Rows i to i + count of W x, with b if there is one and it is wanted. */
ALWAYS_INLINE void apply_rows(const network_layer *layer, stored_reals theta, int shares, int with_bias, int i, int count,
                              const real *x, real *y) {
  const int columns = layer->columns, W = layer->weights + i * columns;
  real sums[SUMS_AT_ONCE];
  EACH(r, count) sums[r] = with_bias && layer->bias >= 0 ? theta[layer->bias + i + r] : ALL(0);
  for (int k = 0; k < columns; k++) EACH(r, count) sums[r] += weight_at(theta, W + r * columns + k, shares) * x[k];
  EACH(r, count) y[i + r] = sums[r];
}

ALWAYS_INLINE void apply_all(const network_layer *layer, stored_reals theta, int shares, int with_bias, const real *x,
                             real *y) {
  int i = 0;
  for (; i + SUMS_AT_ONCE <= layer->rows; i += SUMS_AT_ONCE)
    apply_rows(layer, theta, shares, with_bias, i, SUMS_AT_ONCE, x, y);
  for (; i < layer->rows; i++) apply_rows(layer, theta, shares, with_bias, i, 1, x, y);
}

/* y = W x, with b if there is one and it is wanted. */
FUNCTION void apply_layer(const network_layer *layer, stored_reals theta, int with_bias, const real *x, real *y) {
  if (shares_weights(theta)) apply_all(layer, theta, 1, with_bias, x, y);
  else apply_all(layer, theta, 0, with_bias, x, y);
}

/* Columns j to j + count of W'y. */
ALWAYS_INLINE void pull_columns(const network_layer *layer, stored_reals theta, int shares, int j, int count,
                                const real *y, real *back) {
  const int columns = layer->columns, W = layer->weights + j;
  real sums[SUMS_AT_ONCE];
  EACH(c, count) sums[c] = ALL(0);
  for (int k = 0; k < layer->rows; k++) EACH(c, count) sums[c] += weight_at(theta, W + k * columns + c, shares) * y[k];
  EACH(c, count) back[j + c] = sums[c];
}

ALWAYS_INLINE void pull_all(const network_layer *layer, stored_reals theta, int shares, const real *y, real *back) {
  int j = 0;
  for (; j + SUMS_AT_ONCE <= layer->columns; j += SUMS_AT_ONCE)
    pull_columns(layer, theta, shares, j, SUMS_AT_ONCE, y, back);
  for (; j < layer->columns; j++) pull_columns(layer, theta, shares, j, 1, y, back);
}

/* back = W'y. */
FUNCTION void pull_layer(const network_layer *layer, stored_reals theta, const real *y, real *back) {
  if (shares_weights(theta)) pull_all(layer, theta, 1, y, back);
  else pull_all(layer, theta, 0, y, back);
}

/* The same with weights that are none of the network's, but what moves them. */
#if KEEPS_NETWORK
FUNCTION void apply_change(const network_layer *layer, stored_reals d_theta, const real *x, real *y) {
  apply_all(layer, d_theta, 0, 1, x, y);
}
FUNCTION void pull_change(const network_layer *layer, stored_reals d_theta, const real *y, real *back) {
  pull_all(layer, d_theta, 0, y, back);
}
#else
#define apply_change(layer, d_theta, x, y) apply_layer(layer, d_theta, 1, x, y)
#define pull_change pull_layer
#endif

/* Rows i to i + rows of W diag(scale) G, columns j to j + count; without `scale`, of W G. */
ALWAYS_INLINE void multiply_piece(const network_layer *layer, int inputs, stored_reals theta, int shares,
                                  const real *scale, const real *G, int i, int rows, int j, int count, real *S) {
  const int columns = layer->columns, W = layer->weights + i * columns;
  real sums[4][6];
  EACH(r, rows) EACH(c, count) sums[r][c] = ALL(0);
  for (int k = 0; k < columns; k++) EACH(r, rows) {
    real weight = weight_at(theta, W + r * columns + k, shares);
    if (scale) weight *= scale[k];
    EACH(c, count) sums[r][c] += weight * G[k * inputs + j + c];
  }
  EACH(r, rows) EACH(c, count) S[(i + r) * inputs + j + c] = sums[r][c];
}

ALWAYS_INLINE void multiply_rows(const network_layer *layer, int inputs, stored_reals theta, int shares,
                                 const real *scale, const real *G, int i, int rows, real *S) {
  const int piece = PIECE(inputs), rest = inputs % piece;
  for (int j = 0; j + piece <= inputs; j += piece)
    multiply_piece(layer, inputs, theta, shares, scale, G, i, rows, j, piece, S);
  if (rest) multiply_piece(layer, inputs, theta, shares, scale, G, i, rows, inputs - rest, rest, S);
}

ALWAYS_INLINE void multiply_all(const network_layer *layer, int inputs, stored_reals theta, int shares,
                                const real *scale, const real *G, real *S) {
  int i = 0;
  for (; i + ROWS_AT_ONCE <= layer->rows; i += ROWS_AT_ONCE)
    multiply_rows(layer, inputs, theta, shares, scale, G, i, ROWS_AT_ONCE, S);
  for (; i < layer->rows; i++) multiply_rows(layer, inputs, theta, shares, scale, G, i, 1, S);
}

/* S = W G, of as many columns as there are inputs. */
ALWAYS_INLINE void multiply_layer(const network_layer *layer, int inputs, stored_reals theta, const real *G, real *S) {
  if (shares_weights(theta)) multiply_all(layer, inputs, theta, 1, 0, G, S);
  else multiply_all(layer, inputs, theta, 0, 0, G, S);
}

/* S = W diag(scale) G, where W has few rows. */
ALWAYS_INLINE void multiply_scaled(const network_layer *layer, int inputs, stored_reals theta, const real *scale,
                                   const real *G, real *S) {
  if (shares_weights(theta)) multiply_all(layer, inputs, theta, 1, scale, G, S);
  else multiply_all(layer, inputs, theta, 0, scale, G, S);
}

/* G = diag(scale) W of a network's first layer, whose S is W. */
ALWAYS_INLINE void scale_first(const network_layer *layer, int inputs, stored_reals theta, const real *scale, real *G) {
  const int W = layer->weights, shares = shares_weights(theta);
  for (int i = 0; i < layer->rows; i++)
    EACH(c, inputs) G[i * inputs + c] = scale[i] * weight_at(theta, W + i * inputs + c, shares);
}

/* G = diag(scale) S. */
ALWAYS_INLINE void scale_rows(int rows, int inputs, const real *scale, const real *S, real *G) {
  for (int i = 0; i < rows; i++) EACH(c, inputs) G[i * inputs + c] = scale[i] * S[i * inputs + c];
}

/* Entry i of a layer's S; without one, of the first layer's, which is W. */
ALWAYS_INLINE real unit_slope(const network_layer *first, const real *S, stored_reals theta, int shares, int i) {
  return S ? S[i] : weight_at(theta, first->weights + i, shares);
}

/* ---- H += S' diag(weight) S, a triangle; with T, S' diag(weight) T + T' diag(weight) S ---- */

/* Rows i to i + rows of it, columns j to j + columns; on the diagonal their triangle. */
ALWAYS_INLINE void gram_tile(const network_layer *first, int inputs, int count, const real *weight, const real *S,
                             const real *T, stored_reals theta, int shares, int i, int rows, int j, int columns,
                             int on_diagonal, real *H) {
  real sums[GRAM_TILE][GRAM_TILE], right[GRAM_TILE];
  EACH(r, rows) EACH(c, columns) if (!on_diagonal || c <= r) sums[r][c] = H[TRIANGLE(i + r, j + c)];
  for (int k = 0; k < count; k++) {
    EACH(c, columns) right[c] = unit_slope(first, S, theta, shares, k * inputs + j + c);
    EACH(r, rows) {
      const real slope = on_diagonal ? right[r] : unit_slope(first, S, theta, shares, k * inputs + i + r);
      const real left = weight[k] * (T ? T[k * inputs + i + r] : slope);
      EACH(c, columns) if (!on_diagonal || c <= r) sums[r][c] += left * right[c];
      if (!T) continue;
      EACH(c, columns) if (!on_diagonal || c <= r) sums[r][c] += weight[k] * slope * T[k * inputs + j + c];
    }
  }
  EACH(r, rows) EACH(c, columns) if (!on_diagonal || c <= r) H[TRIANGLE(i + r, j + c)] = sums[r][c];
}

ALWAYS_INLINE void gram_columns(const network_layer *first, int inputs, int count, const real *weight, const real *S,
                                const real *T, stored_reals theta, int shares, int j, int columns, real *H) {
  const int tile = GRAM_PIECE(inputs), rest = inputs % tile;
  gram_tile(first, inputs, count, weight, S, T, theta, shares, j, columns, j, columns, 1, H);
  for (int i = j + tile; i + tile <= inputs; i += tile)
    gram_tile(first, inputs, count, weight, S, T, theta, shares, i, tile, j, columns, 0, H);
  if (rest && columns == tile)
    gram_tile(first, inputs, count, weight, S, T, theta, shares, inputs - rest, rest, j, columns, 0, H);
}

ALWAYS_INLINE void gram(const network_layer *first, int inputs, int count, const real *weight, const real *S,
                        const real *T, stored_reals theta, int shares, real *H) {
  const int tile = GRAM_PIECE(inputs), rest = inputs % tile;
  for (int j = 0; j + tile <= inputs; j += tile)
    gram_columns(first, inputs, count, weight, S, T, theta, shares, j, tile, H);
  if (rest) gram_columns(first, inputs, count, weight, S, T, theta, shares, inputs - rest, rest, H);
}

#endif

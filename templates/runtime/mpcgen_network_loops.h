/* A network y = N(p) of NLAYERS layers, its weights in theta: values and derivatives by loops over the layers.
 *
 * Layer l takes h_(l-1), h_0 = p, to a_l = W_l h_(l-1) + b_l and its activation to h_l; y is a of the last. Forwards,
 * S_l = da_l/dp = W_l diag(phi'_(l-1)) S_(l-1). Backwards, what multiplies h_(l-1) is W_l' times what multiplies a_l,
 * which is phi'_l times what multiplies h_l; and the Hessian of m'y by p is the sum over the units of
 * (what multiplies h_l) phi''_l S_l'S_l. So it takes NINPUTS + 2 products for a weight.
 */
#ifndef MPCGEN_NETWORK_LOOPS_H
#define MPCGEN_NETWORK_LOOPS_H

#include "mpcgen_network.h"

enum {
  ROWS_AT_ONCE = REGISTER_BYTES == 64 ? 4 : 2, /* of a product with S: rows and columns whose sums fit in registers */
  PIECES = (NINPUTS + 5) / 6,
  PIECE = (NINPUTS + PIECES - 1) / PIECES,
  NENDS = NWIDEST > NOUTPUTS ? NWIDEST : NOUTPUTS,
};

/* Of all units but those of the last layer: h, phi' and phi''. */
typedef struct {
  real h[NUNITS + 1], first[NUNITS + 1], second[NUNITS + 1];
} network_units;

/* y = W x, with b if there is one and it is wanted. */
FUNCTION void apply_layer(const network_layer *layer, stored_reals theta, int with_bias, const real *x, real *y) {
  const int rows = layer->rows, columns = layer->columns;
  stored_reals W = theta + layer->weights;
  for (int i = 0; i < rows; i++) y[i] = with_bias && layer->bias >= 0 ? theta[layer->bias + i] : ALL(0);
  int i = 0;
  for (; i + 4 <= rows; i += 4) {
    real sums[4];
    EACH(r, 4) sums[r] = y[i + r];
    for (int k = 0; k < columns; k++) EACH(r, 4) sums[r] += W[(i + r) * columns + k] * x[k];
    EACH(r, 4) y[i + r] = sums[r];
  }
  for (; i < rows; i++) {
    real sum = y[i];
    for (int k = 0; k < columns; k++) sum += W[i * columns + k] * x[k];
    y[i] = sum;
  }
}

/* back = W'y. */
FUNCTION void pull_layer(const network_layer *layer, stored_reals theta, const real *y, real *back) {
  const int rows = layer->rows, columns = layer->columns;
  stored_reals W = theta + layer->weights;
  int j = 0;
  for (; j + 8 <= columns; j += 8) {
    real sums[8];
    EACH(c, 8) sums[c] = ALL(0);
    for (int k = 0; k < rows; k++) EACH(c, 8) sums[c] += W[k * columns + j + c] * y[k];
    EACH(c, 8) back[j + c] = sums[c];
  }
  for (; j < columns; j++) {
    real sum = ALL(0);
    for (int k = 0; k < rows; k++) sum += W[k * columns + j] * y[k];
    back[j] = sum;
  }
}

/* Rows of W G, columns j to j + count. */
ALWAYS_INLINE void multiply_piece(stored_reals W, int columns, const real *G, int rows, int j, int count, real *S) {
  real sums[4][6];
  EACH(r, rows) EACH(c, count) sums[r][c] = ALL(0);
  for (int k = 0; k < columns; k++) EACH(r, rows) {
    const real weight = W[r * columns + k];
    EACH(c, count) sums[r][c] += weight * G[k * NINPUTS + j + c];
  }
  EACH(r, rows) EACH(c, count) S[r * NINPUTS + j + c] = sums[r][c];
}

ALWAYS_INLINE void multiply_rows(stored_reals W, int columns, const real *G, int rows, real *S) {
  for (int j = 0; j + PIECE <= NINPUTS; j += PIECE) multiply_piece(W, columns, G, rows, j, PIECE, S);
  if (NINPUTS % PIECE) multiply_piece(W, columns, G, rows, NINPUTS - NINPUTS % PIECE, NINPUTS % PIECE, S);
}

/* S = W G, of NINPUTS columns. */
FUNCTION void multiply_layer(const network_layer *layer, stored_reals theta, const real *G, real *S) {
  const int columns = layer->columns;
  int i = 0;
  for (; i + ROWS_AT_ONCE <= layer->rows; i += ROWS_AT_ONCE)
    multiply_rows(theta + (layer->weights + i * columns), columns, G, ROWS_AT_ONCE, S + i * NINPUTS);
  for (; i < layer->rows; i++)
    multiply_rows(theta + (layer->weights + i * columns), columns, G, 1, S + i * NINPUTS);
}

FUNCTION void network_values(const real *p, stored_reals theta, real *y) {
  real pair[2][NWIDEST];
  const real *x = p;
  KEEP_LOOP for (int l = 0; l < NLAYERS; l++) {
    real *const out = l == NLAYERS - 1 ? y : pair[l & 1];
    apply_layer(&LAYERS[l], theta, 1, x, out);
    activate(LAYERS[l].activation, LAYERS[l].rows, out);
    x = out;
  }
}

/* y, its Jacobian J (NOUTPUTS, NINPUTS), and those of the units, S (NUNITS, NINPUTS). */
FUNCTION void network_slopes(const real *p, stored_reals theta, network_units *at, real *S, real *y, real *J) {
  real G[NWIDEST * NINPUTS];
  const real *x = p;
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < NLAYERS; l++) {
    const network_layer *const layer = &LAYERS[l];
    const int is_last = l == NLAYERS - 1;
    real *const out = is_last ? y : at->h + begin, *const slopes = is_last ? J : S + begin * NINPUTS;
    apply_layer(layer, theta, 1, x, out);
    if (l == 0)
      for (int i = 0; i < layer->rows * NINPUTS; i++) slopes[i] = theta[layer->weights + i];
    else
      multiply_layer(layer, theta, G, slopes);
    if (is_last) break;
    activate_curved(layer->activation, layer->rows, out, at->first + begin, at->second + begin);
    for (int i = 0; i < layer->rows; i++)
      EACH(c, NINPUTS) G[i * NINPUTS + c] = at->first[begin + i] * slopes[i * NINPUTS + c];
    x = out;
    begin += layer->rows;
  }
}

/* A tile of H += S' diag(weight) S on or below the diagonal, a triangle. */
ALWAYS_INLINE void gram_tile(int count, const real *weight, const real *S, int i, int rows, int j, int columns,
                             real *H) {
  real sums[TILE][TILE], left[TILE];
  clear_tile(sums, rows, columns);
  for (int k = 0; k < count; k++) {
    EACH(r, rows) left[r] = weight[k] * S[k * NINPUTS + i + r];
    add_outer(sums, left, rows, S + k * NINPUTS + j, columns);
  }
  EACH(r, rows) EACH(c, columns) if (i != j || c <= r) H[TRIANGLE(i + r, j + c)] += sums[r][c];
}

ALWAYS_INLINE void gram_columns(int count, const real *weight, const real *S, int j, int columns, real *H) {
  gram_tile(count, weight, S, j, columns, j, columns, H);
  for (int i = j + TILE; i < WHOLE_TILES(NINPUTS); i += TILE) gram_tile(count, weight, S, i, TILE, j, columns, H);
  if (NINPUTS % TILE && columns == TILE)
    gram_tile(count, weight, S, WHOLE_TILES(NINPUTS), NINPUTS % TILE, j, columns, H);
}

FUNCTION void add_gram(int count, const real *weight, const real *S, real *H) {
  for (int j = 0; j < WHOLE_TILES(NINPUTS); j += TILE) gram_columns(count, weight, S, j, TILE, H);
  if (NINPUTS % TILE) gram_columns(count, weight, S, WHOLE_TILES(NINPUTS), NINPUTS % TILE, H);
}

/* The gradient of m'y by p and, if H is given, its Hessian, a triangle. */
FUNCTION void network_curvature(stored_reals theta, const network_units *at, const real *S, const real *m, real *slope,
                                real *H) {
  real bar[NENDS], back[NWIDEST], weight[NWIDEST];
  int begin = NUNITS;
  copy_reals(bar, m, NOUTPUTS);
  if (H)
    for (int i = 0; i < TRIANGLE(NINPUTS, 0); i++) H[i] = ALL(0);
  KEEP_LOOP for (int l = NLAYERS - 1; l > 0; l--) {
    const int count = LAYERS[l].columns;
    begin -= count;
    pull_layer(&LAYERS[l], theta, bar, back);
    for (int i = 0; i < count; i++) {
      bar[i] = at->first[begin + i] * back[i];
      weight[i] = at->second[begin + i] * back[i];
    }
    if (H) add_gram(count, weight, S + begin * NINPUTS, H);
  }
  pull_layer(&LAYERS[0], theta, bar, slope);
}

/* The units at p, and the change of their h and a along a change of p and, if `moves`, of theta; y and its change. */
FUNCTION void network_line(const real *p, const real *d_p, stored_reals theta, stored_reals d_theta, int moves,
                           network_units *at, real *d_h, real *d_a, real *y, real *d_y) {
  real by_weights[NENDS];
  const real *x = p, *d_x = d_p;
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < NLAYERS; l++) {
    const network_layer *const layer = &LAYERS[l];
    const int is_last = l == NLAYERS - 1;
    real *const out = is_last ? y : at->h + begin, *const d_out = is_last ? d_y : d_a + begin;
    apply_layer(layer, theta, 1, x, out);
    apply_layer(layer, theta, 0, d_x, d_out);
    if (moves) {
      apply_layer(layer, d_theta, 1, x, by_weights);
      for (int i = 0; i < layer->rows; i++) d_out[i] += by_weights[i];
    }
    if (is_last) break;
    activate_curved(layer->activation, layer->rows, out, at->first + begin, at->second + begin);
    for (int i = 0; i < layer->rows; i++) d_h[begin + i] = at->first[begin + i] * d_a[begin + i];
    x = out;
    d_x = d_h + begin;
    begin += layer->rows;
  }
}

/* Along such a line in p alone: adds the gradient by theta of bar_y'y + bar_d_y'(change of y); gives that by p, and by
 * the change of p. */
FUNCTION void network_gradient(const real *p, const real *d_p, stored_reals theta, const network_units *at,
                               const real *d_h, const real *d_a, const real *bar_y, const real *bar_d_y,
                               reals g_theta, real *bar_p, real *bar_d_p) {
  real bar[NENDS], d_bar[NENDS], back[NWIDEST], d_back[NWIDEST];
  int begin = NUNITS;
  copy_reals(bar, bar_y, NOUTPUTS);
  copy_reals(d_bar, bar_d_y, NOUTPUTS);
  KEEP_LOOP for (int l = NLAYERS - 1; l >= 0; l--) {
    const network_layer *const layer = &LAYERS[l];
    const int columns = layer->columns;
    begin -= l ? columns : 0;
    const real *const x = l ? at->h + begin : p, *const d_x = l ? d_h + begin : d_p;
    for (int i = 0; i < layer->rows; i++) {
      if (layer->bias >= 0) g_theta[layer->bias + i] += bar[i];
      for (int k = 0; k < columns; k++)
        g_theta[layer->weights + i * columns + k] += bar[i] * x[k] + d_bar[i] * d_x[k];
    }
    pull_layer(layer, theta, bar, l ? back : bar_p);
    pull_layer(layer, theta, d_bar, l ? d_back : bar_d_p);
    if (!l) break;
    for (int i = 0; i < columns; i++) {
      const real first = at->first[begin + i], second = at->second[begin + i];
      d_bar[i] = first * d_back[i];
      bar[i] = first * back[i] + second * d_a[begin + i] * d_back[i];
    }
  }
}

/* The gradient of m'y by p, and its change along such a line, a change of theta and one of m. */
FUNCTION void network_forward(stored_reals theta, stored_reals d_theta, const network_units *at, const real *d_a,
                              const real *m, const real *d_m, real *slope, real *d_slope) {
  real bar[NENDS], d_bar[NENDS], back[NWIDEST], d_back[NWIDEST];
  real by_weights[NWIDEST > NINPUTS ? NWIDEST : NINPUTS];
  int begin = NUNITS;
  copy_reals(bar, m, NOUTPUTS);
  copy_reals(d_bar, d_m, NOUTPUTS);
  KEEP_LOOP for (int l = NLAYERS - 1; l >= 0; l--) {
    const network_layer *const layer = &LAYERS[l];
    const int columns = layer->columns;
    real *const to = l ? back : slope, *const d_to = l ? d_back : d_slope;
    pull_layer(layer, theta, bar, to);
    pull_layer(layer, theta, d_bar, d_to);
    pull_layer(layer, d_theta, bar, by_weights);
    for (int i = 0; i < columns; i++) d_to[i] += by_weights[i];
    if (!l) break;
    begin -= columns;
    for (int i = 0; i < columns; i++) {
      const real first = at->first[begin + i], second = at->second[begin + i];
      bar[i] = first * back[i];
      d_bar[i] = first * d_back[i] + second * d_a[begin + i] * back[i];
    }
  }
}

#endif

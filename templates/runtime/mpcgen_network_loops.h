/* A network y = N(p) of NLAYERS layers, its weights in theta: values and derivatives by loops over the layers.
 *
 * Layer l takes h_(l-1), h_0 = p, to a_l = W_l h_(l-1) + b_l and its activation to h_l; y is a of the last. Forwards,
 * S_l = da_l/dp = W_l G_(l-1) with G_l = diag(phi'_l) S_l, and S_1 = W_1. Backwards, what multiplies h_(l-1) is W_l' times
 * what multiplies a_l, which is phi'_l times what multiplies h_l; and the Hessian of m'y by p is the sum over the units of
 * (what multiplies h_l) phi''_l S_l'S_l. So it takes NINPUTS + 2 products for a weight.
 */
#ifndef MPCGEN_NETWORK_LOOPS_H
#define MPCGEN_NETWORK_LOOPS_H

#include "mpcgen_network_memory.h"

enum {
  ROWS_AT_ONCE = REGISTER_BYTES == 64 ? 4 : 2, /* of a product with G: rows and columns whose sums fit in registers */
  PIECES = (NINPUTS + 5) / 6,
  PIECE = (NINPUTS + PIECES - 1) / PIECES,
  SUMS_AT_ONCE = 8,                                /* of a product with a vector */
  NENDS = NWIDEST > NOUTPUTS ? NWIDEST : NOUTPUTS,
};

/* phi' and phi'' of all units but those of the last layer. */
typedef struct {
  real first[NUNITS + 1], second[NUNITS + 1];
} network_bends;

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
ALWAYS_INLINE void multiply_piece(const network_layer *layer, stored_reals theta, int shares, const real *scale,
                                  const real *G, int i, int rows, int j, int count, real *S) {
  const int columns = layer->columns, W = layer->weights + i * columns;
  real sums[4][6];
  EACH(r, rows) EACH(c, count) sums[r][c] = ALL(0);
  for (int k = 0; k < columns; k++) EACH(r, rows) {
    real weight = weight_at(theta, W + r * columns + k, shares);
    if (scale) weight *= scale[k];
    EACH(c, count) sums[r][c] += weight * G[k * NINPUTS + j + c];
  }
  EACH(r, rows) EACH(c, count) S[(i + r) * NINPUTS + j + c] = sums[r][c];
}

ALWAYS_INLINE void multiply_rows(const network_layer *layer, stored_reals theta, int shares, const real *scale,
                                 const real *G, int i, int rows, real *S) {
  for (int j = 0; j + PIECE <= NINPUTS; j += PIECE) multiply_piece(layer, theta, shares, scale, G, i, rows, j, PIECE, S);
  if (NINPUTS % PIECE)
    multiply_piece(layer, theta, shares, scale, G, i, rows, NINPUTS - NINPUTS % PIECE, NINPUTS % PIECE, S);
}

ALWAYS_INLINE void multiply_all(const network_layer *layer, stored_reals theta, int shares, const real *scale,
                                const real *G, real *S) {
  int i = 0;
  for (; i + ROWS_AT_ONCE <= layer->rows; i += ROWS_AT_ONCE)
    multiply_rows(layer, theta, shares, scale, G, i, ROWS_AT_ONCE, S);
  for (; i < layer->rows; i++) multiply_rows(layer, theta, shares, scale, G, i, 1, S);
}

/* S = W G, of NINPUTS columns. */
FUNCTION void multiply_layer(const network_layer *layer, stored_reals theta, const real *G, real *S) {
  if (shares_weights(theta)) multiply_all(layer, theta, 1, 0, G, S);
  else multiply_all(layer, theta, 0, 0, G, S);
}

/* S = W diag(scale) G, where W has few rows. */
FUNCTION void multiply_scaled(const network_layer *layer, stored_reals theta, const real *scale, const real *G, real *S) {
  if (shares_weights(theta)) multiply_all(layer, theta, 1, scale, G, S);
  else multiply_all(layer, theta, 0, scale, G, S);
}

/* G = diag(scale) W of the first layer, whose S is W. */
FUNCTION void scale_first(stored_reals theta, const real *scale, real *G) {
  const int W = LAYERS[0].weights, shares = shares_weights(theta);
  for (int i = 0; i < LAYERS[0].rows; i++)
    EACH(c, NINPUTS) G[i * NINPUTS + c] = scale[i] * weight_at(theta, W + i * NINPUTS + c, shares);
}

/* ---- values ---- */

/* Evaluates the network at at->p. */
FUNCTION void evaluate_network(stored_reals theta, network_point *at) {
  const real *x = at->p;
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < NLAYERS; l++) {
    const network_layer *const layer = &LAYERS[l];
    real *const out = l == NLAYERS - 1 ? at->y : at->h + begin;
    apply_layer(layer, theta, 1, x, out);
    if (l == NLAYERS - 1) break;
    if (NSUMS) copy_reals(at->a + begin, out, (size_t)layer->rows);
    activate(layer->activation, layer->rows, out);
    x = out;
    begin += layer->rows;
  }
}

/* The network at p: found among the points that are kept, or evaluated; in `scratch`, where none are. */
FUNCTION const network_point *network_at(const real *p, stored_reals theta, network_point *scratch) {
#if KEEPS_NETWORK
  network_memory *const memory = network_memory_of(theta);
  network_point *const points = network_points(theta);
  (void)scratch;
  for (int distance = 0; distance <= POINTS_OF_A_STAGE; distance++) {
    const int ahead = kept_point(memory, distance), behind = kept_point(memory, -distance);
    const int found = is_kept_point(memory, points, ahead, p) ? ahead : behind;
    if (!is_kept_point(memory, points, found, p)) continue;
    memory->at = found;
    return &points[found];
  }
  memory->at = memory->at + 1 < memory->room ? memory->at + 1 : 0; /* before any problem is loaded, there is no room */
  if (memory->at >= memory->kept) memory->kept = memory->at + 1;
  network_point *const at = &points[memory->at];
#else
  network_point *const at = scratch;
#endif
  copy_reals(at->p, p, NINPUTS);
  evaluate_network(theta, at);
  return at;
}

/* ---- derivatives ---- */

FUNCTION void bend_units(const network_point *at, network_bends *bends) {
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < NLAYERS - 1; l++) {
    activation_slopes(LAYERS[l].activation, LAYERS[l].rows, at->h + begin, at->a + (NSUMS ? begin : 0),
                      bends->first + begin, bends->second + begin);
    begin += LAYERS[l].rows;
  }
}

/* The Jacobian J (NOUTPUTS, NINPUTS) of y, and those of the units behind the first layer, S (NUNITS, NINPUTS). */
FUNCTION void network_slopes(stored_reals theta, const network_bends *bends, real *S, real *J) {
  real G[NWIDEST * NINPUTS];
  int begin = LAYERS[0].rows;
  if (NLAYERS == 1) {
    EACH(i, NOUTPUTS) EACH(c, NINPUTS) J[i * NINPUTS + c] = theta[LAYERS[0].weights + i * NINPUTS + c];
    return;
  }
  scale_first(theta, bends->first, G);
  KEEP_LOOP for (int l = 1; l < NLAYERS - 1; l++) {
    const int rows = LAYERS[l].rows;
    real *const slopes = S + begin * NINPUTS;
    multiply_layer(&LAYERS[l], theta, G, slopes);
    if (l == NLAYERS - 2) break;
    for (int i = 0; i < rows; i++)
      EACH(c, NINPUTS) G[i * NINPUTS + c] = bends->first[begin + i] * slopes[i * NINPUTS + c];
    begin += rows;
  }
  if (NLAYERS == 2) multiply_layer(&LAYERS[NLAYERS - 1], theta, G, J);
  else multiply_scaled(&LAYERS[NLAYERS - 1], theta, bends->first + begin, S + begin * NINPUTS, J);
}

/* Entry i of a layer's S; without one, of the first layer's, which is W. */
ALWAYS_INLINE real unit_slope(const real *S, stored_reals theta, int shares, int i) {
  return S ? S[i] : weight_at(theta, LAYERS[0].weights + i, shares);
}

#if REGISTER_BYTES == 64 && NINPUTS <= 6 /* then all sums fit in registers */
/* H += S' diag(weight) S, a triangle. */
ALWAYS_INLINE void gram(int count, const real *weight, const real *S, stored_reals theta, int shares, real *H) {
  real sums[TRIANGLE(NINPUTS, 0)], right[NINPUTS];
  EACH(r, NINPUTS) EACH(c, NINPUTS) if (c <= r) sums[TRIANGLE(r, c)] = H[TRIANGLE(r, c)];
  for (int k = 0; k < count; k++) {
    EACH(c, NINPUTS) right[c] = unit_slope(S, theta, shares, k * NINPUTS + c);
    EACH(r, NINPUTS) {
      const real left = weight[k] * right[r];
      EACH(c, NINPUTS) if (c <= r) sums[TRIANGLE(r, c)] += left * right[c];
    }
  }
  EACH(r, NINPUTS) EACH(c, NINPUTS) if (c <= r) H[TRIANGLE(r, c)] = sums[TRIANGLE(r, c)];
}
#else
/* A tile of it on or below the diagonal. */
ALWAYS_INLINE void gram_tile(int count, const real *weight, const real *S, stored_reals theta, int shares, int i, int rows,
                             int j, int columns, real *H) {
  real sums[TILE][TILE], left[TILE], right[TILE];
  clear_tile(sums, rows, columns);
  for (int k = 0; k < count; k++) {
    EACH(r, rows) left[r] = weight[k] * unit_slope(S, theta, shares, k * NINPUTS + i + r);
    EACH(c, columns) right[c] = unit_slope(S, theta, shares, k * NINPUTS + j + c);
    add_outer(sums, left, rows, right, columns);
  }
  EACH(r, rows) EACH(c, columns) if (i != j || c <= r) H[TRIANGLE(i + r, j + c)] += sums[r][c];
}

ALWAYS_INLINE void gram_columns(int count, const real *weight, const real *S, stored_reals theta, int shares, int j,
                                int columns, real *H) {
  gram_tile(count, weight, S, theta, shares, j, columns, j, columns, H);
  for (int i = j + TILE; i < WHOLE_TILES(NINPUTS); i += TILE)
    gram_tile(count, weight, S, theta, shares, i, TILE, j, columns, H);
  if (NINPUTS % TILE && columns == TILE)
    gram_tile(count, weight, S, theta, shares, WHOLE_TILES(NINPUTS), NINPUTS % TILE, j, columns, H);
}

/* H += S' diag(weight) S, a triangle, in tiles. */
ALWAYS_INLINE void gram(int count, const real *weight, const real *S, stored_reals theta, int shares, real *H) {
  for (int j = 0; j < WHOLE_TILES(NINPUTS); j += TILE) gram_columns(count, weight, S, theta, shares, j, TILE, H);
  if (NINPUTS % TILE) gram_columns(count, weight, S, theta, shares, WHOLE_TILES(NINPUTS), NINPUTS % TILE, H);
}
#endif

FUNCTION void add_gram(int count, const real *weight, const real *S, stored_reals theta, real *H) {
  gram(count, weight, S, theta, 0, H);
}

/* The same of the first layer. */
FUNCTION void add_first_gram(const real *weight, stored_reals theta, real *H) {
  if (shares_weights(theta)) gram(LAYERS[0].rows, weight, 0, theta, 1, H);
  else gram(LAYERS[0].rows, weight, 0, theta, 0, H);
}

/* The Hessian of m'y by p, a triangle. */
FUNCTION void network_curvature(stored_reals theta, const network_bends *bends, const real *S, const real *m, real *H) {
  real bar[NENDS], back[NWIDEST], weight[NWIDEST];
  int begin = NUNITS;
  copy_reals(bar, m, NOUTPUTS);
  for (int i = 0; i < TRIANGLE(NINPUTS, 0); i++) H[i] = ALL(0);
  KEEP_LOOP for (int l = NLAYERS - 1; l > 0; l--) {
    const int count = LAYERS[l].columns;
    begin -= count;
    pull_layer(&LAYERS[l], theta, bar, back);
    for (int i = 0; i < count; i++) {
      bar[i] = bends->first[begin + i] * back[i];
      weight[i] = bends->second[begin + i] * back[i];
    }
    if (l > 1) add_gram(count, weight, S + begin * NINPUTS, theta, H);
    else add_first_gram(weight, theta, H);
  }
}

/* The change of the units' h and a, and of y, along a change of p and, if `moves`, of theta. */
FUNCTION void network_line(const network_point *at, const network_bends *bends, const real *d_p, stored_reals theta,
                           stored_reals d_theta, int moves, real *d_h, real *d_a, real *d_y) {
  real by_weights[NENDS];
  const real *x = at->p, *d_x = d_p;
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < NLAYERS; l++) {
    const network_layer *const layer = &LAYERS[l];
    real *const d_out = l == NLAYERS - 1 ? d_y : d_a + begin;
    apply_layer(layer, theta, 0, d_x, d_out);
    if (moves) {
      apply_change(layer, d_theta, x, by_weights);
      for (int i = 0; i < layer->rows; i++) d_out[i] += by_weights[i];
    }
    if (l == NLAYERS - 1) break;
    for (int i = 0; i < layer->rows; i++) d_h[begin + i] = bends->first[begin + i] * d_a[begin + i];
    x = at->h + begin;
    d_x = d_h + begin;
    begin += layer->rows;
  }
}

/* Along such a line in p alone: adds the gradient by theta of bar_y'y + bar_d_y'(change of y); gives that by p, and by
 * the change of p. */
FUNCTION void network_gradient(const network_point *at, const network_bends *bends, const real *d_p,
                               stored_reals theta, const real *d_h, const real *d_a, const real *bar_y, const real *bar_d_y,
                               reals g_theta, real *bar_p, real *bar_d_p) {
  real bar[NENDS], d_bar[NENDS], back[NWIDEST], d_back[NWIDEST];
  int begin = NUNITS;
  copy_reals(bar, bar_y, NOUTPUTS);
  copy_reals(d_bar, bar_d_y, NOUTPUTS);
  KEEP_LOOP for (int l = NLAYERS - 1; l >= 0; l--) {
    const network_layer *const layer = &LAYERS[l];
    const int columns = layer->columns;
    begin -= l ? columns : 0;
    const real *const x = l ? at->h + begin : at->p, *const d_x = l ? d_h + begin : d_p;
    for (int i = 0; i < layer->rows; i++) {
      if (layer->bias >= 0) g_theta[layer->bias + i] += bar[i];
      for (int k = 0; k < columns; k++)
        g_theta[layer->weights + i * columns + k] += bar[i] * x[k] + d_bar[i] * d_x[k];
    }
    pull_layer(layer, theta, bar, l ? back : bar_p);
    pull_layer(layer, theta, d_bar, l ? d_back : bar_d_p);
    if (!l) break;
    for (int i = 0; i < columns; i++) {
      const real first = bends->first[begin + i], second = bends->second[begin + i];
      d_bar[i] = first * d_back[i];
      bar[i] = first * back[i] + second * d_a[begin + i] * d_back[i];
    }
  }
}

/* The gradient of m'y by p, and its change along such a line, a change of theta and one of m. */
FUNCTION void network_forward(stored_reals theta, stored_reals d_theta, const network_bends *bends, const real *d_a,
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
    pull_change(layer, d_theta, bar, by_weights);
    for (int i = 0; i < columns; i++) d_to[i] += by_weights[i];
    if (!l) break;
    begin -= columns;
    for (int i = 0; i < columns; i++) {
      const real first = bends->first[begin + i], second = bends->second[begin + i];
      bar[i] = first * back[i];
      d_bar[i] = first * d_back[i] + second * d_a[begin + i] * back[i];
    }
  }
}

#endif

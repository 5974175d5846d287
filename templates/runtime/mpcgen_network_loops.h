/* Networks y = N(p), their weights in theta: values and derivatives by loops over the layers.
 *
 * Layer l takes h_(l-1), h_0 = p, to a_l = W_l h_(l-1) + b_l and its activation to h_l; y is a of the last. Forwards,
 * S_l = da_l/dp = W_l G_(l-1) with G_l = diag(phi'_l) S_l, and S_1 = W_1. Backwards, what multiplies h_(l-1) is W_l' times
 * what multiplies a_l, which is phi'_l times what multiplies h_l; and the Hessian of m'y by p is the sum over the units of
 * (what multiplies h_l) phi''_l S_l'S_l. So it takes as many products for a weight as there are inputs, and two.
 *
 * The products with S and G are compiled for each number of inputs that the networks have: INPUT_COUNTS says which.
 */
#ifndef MPCGEN_NETWORK_LOOPS_H
#define MPCGEN_NETWORK_LOOPS_H

#include "mpcgen_network_memory.h"

enum {
  ROWS_AT_ONCE = REGISTER_BYTES == 64 ? 4 : 2, /* of a product with G: rows and columns whose sums fit in registers */
  SUMS_AT_ONCE = 8,                                /* of a product with a vector */
  NENDS = NWIDEST > NRESULTS ? NWIDEST : NRESULTS,
};
/* Columns of G that are multiplied at once. */
#define PIECE(inputs) (((inputs) + ((inputs) + 5) / 6 - 1) / (((inputs) + 5) / 6))

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

/* ---- values ---- */

/* Evaluates a network at its inputs p: h, a where they are kept, and y. */
FUNCTION void evaluate_network(const network *net, stored_reals theta, const real *p, real *h, real *a, real *y) {
  const network_layer *const layers = LAYERS + net->first;
  const real *x = p;
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < net->count; l++) {
    const network_layer *const layer = &layers[l];
    real *const out = l == net->count - 1 ? y : h + begin;
    apply_layer(layer, theta, 1, x, out);
    if (l == net->count - 1) break;
    if (NSUMS) copy_reals(a + begin, out, (size_t)layer->rows);
    activate(layer->activation, layer->rows, out);
    x = out;
    begin += layer->rows;
  }
}

/* The same of all networks of a site. */
FUNCTION void evaluate_networks(const network_site *site, stored_reals theta, network_point *at) {
  int units = 0, outputs = 0;
  KEEP_LOOP for (int k = 0; k < site->count; k++) {
    const network *const net = &NETWORKS[site->first + k];
    evaluate_network(net, theta, at->p + net->from, at->h + units, at->a + (NSUMS ? units : 0), at->y + outputs);
    units += net->units;
    outputs += net->outputs;
  }
}

/* A site's networks at p: found among the points that are kept, or evaluated; in `scratch`, where none are. */
FUNCTION const network_point *networks_at(int number, const real *p, stored_reals theta, network_point *scratch) {
  const network_site *const site = &SITES[number];
#if KEEPS_NETWORK
  network_ring *const ring = &network_memory_of(theta)->rings[number];
  network_point *const points = network_points(theta) + ring->first;
  (void)scratch;
  for (int distance = 0; distance <= site->points; distance++) {
    const int ahead = kept_point(ring, distance), behind = kept_point(ring, -distance);
    const int found = is_kept_point(ring, points, ahead, p, site->inputs) ? ahead : behind;
    if (!is_kept_point(ring, points, found, p, site->inputs)) continue;
    ring->at = found;
    return &points[found];
  }
  ring->at = ring->at + 1 < ring->room ? ring->at + 1 : 0; /* before any problem is loaded, there is no room */
  if (ring->at >= ring->kept) ring->kept = ring->at + 1;
  network_point *const at = &points[ring->at];
#else
  network_point *const at = scratch;
#endif
  copy_reals(at->p, p, (size_t)site->inputs);
  evaluate_networks(site, theta, at);
  return at;
}

/* ---- derivatives ---- */

FUNCTION void bend_units(const network *net, const real *h, const real *a, real *first, real *second) {
  const network_layer *const layers = LAYERS + net->first;
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < net->count - 1; l++) {
    activation_slopes(layers[l].activation, layers[l].rows, h + begin, a + (NSUMS ? begin : 0), first + begin,
                      second + begin);
    begin += layers[l].rows;
  }
}

/* The Jacobian J (outputs, inputs) of y, and those of the units behind the first layer, S (units, inputs). */
ALWAYS_INLINE void slopes_of_network(const network *net, int inputs, stored_reals theta, const real *first, real *S,
                                     real *J) {
  const network_layer *const layers = LAYERS + net->first;
  const int last = net->count - 1;
  real G[NWIDEST * MOST_INPUTS];
  int begin = layers[0].rows;
  if (last == 0) {
    for (int i = 0; i < net->outputs * inputs; i++) J[i] = theta[layers[0].weights + i];
    return;
  }
  scale_first(layers, inputs, theta, first, G);
  if (last == 1) begin = 0;
  KEEP_LOOP for (int l = 1; l < last; l++) {
    const int rows = layers[l].rows;
    real *const slopes = S + begin * inputs;
    multiply_layer(&layers[l], inputs, theta, G, slopes);
    if (l == last - 1) break;
    for (int i = 0; i < rows; i++)
      EACH(c, inputs) G[i * inputs + c] = first[begin + i] * slopes[i * inputs + c];
    begin += rows;
  }
  if (last == 1) multiply_layer(&layers[last], inputs, theta, G, J);
  else multiply_scaled(&layers[last], inputs, theta, first + begin, S + begin * inputs, J);
}

/* Entry i of a layer's S; without one, of the first layer's, which is W. */
ALWAYS_INLINE real unit_slope(const network_layer *first, const real *S, stored_reals theta, int shares, int i) {
  return S ? S[i] : weight_at(theta, first->weights + i, shares);
}

/* H += S' diag(weight) S, a triangle, where all sums fit in registers. */
ALWAYS_INLINE void gram_at_once(const network_layer *first, int inputs, int count, const real *weight, const real *S,
                                stored_reals theta, int shares, real *H) {
  real sums[TRIANGLE(6, 0)], right[6];
  EACH(r, inputs) EACH(c, inputs) if (c <= r) sums[TRIANGLE(r, c)] = H[TRIANGLE(r, c)];
  for (int k = 0; k < count; k++) {
    EACH(c, inputs) right[c] = unit_slope(first, S, theta, shares, k * inputs + c);
    EACH(r, inputs) {
      const real left = weight[k] * right[r];
      EACH(c, inputs) if (c <= r) sums[TRIANGLE(r, c)] += left * right[c];
    }
  }
  EACH(r, inputs) EACH(c, inputs) if (c <= r) H[TRIANGLE(r, c)] = sums[TRIANGLE(r, c)];
}

/* A tile of it on or below the diagonal. */
ALWAYS_INLINE void gram_tile(const network_layer *first, int inputs, int count, const real *weight, const real *S,
                             stored_reals theta, int shares, int i, int rows, int j, int columns, real *H) {
  real sums[TILE][TILE], left[TILE], right[TILE];
  clear_tile(sums, rows, columns);
  for (int k = 0; k < count; k++) {
    EACH(r, rows) left[r] = weight[k] * unit_slope(first, S, theta, shares, k * inputs + i + r);
    EACH(c, columns) right[c] = unit_slope(first, S, theta, shares, k * inputs + j + c);
    add_outer(sums, left, rows, right, columns);
  }
  EACH(r, rows) EACH(c, columns) if (i != j || c <= r) H[TRIANGLE(i + r, j + c)] += sums[r][c];
}

ALWAYS_INLINE void gram_columns(const network_layer *first, int inputs, int count, const real *weight, const real *S,
                                stored_reals theta, int shares, int j, int columns, real *H) {
  const int whole = WHOLE_TILES(inputs), rest = inputs % TILE;
  gram_tile(first, inputs, count, weight, S, theta, shares, j, columns, j, columns, H);
  for (int i = j + TILE; i < whole; i += TILE)
    gram_tile(first, inputs, count, weight, S, theta, shares, i, TILE, j, columns, H);
  if (rest && columns == TILE) gram_tile(first, inputs, count, weight, S, theta, shares, whole, rest, j, columns, H);
}

/* H += S' diag(weight) S, a triangle, at once or in tiles. */
ALWAYS_INLINE void gram(const network_layer *first, int inputs, int count, const real *weight, const real *S,
                        stored_reals theta, int shares, real *H) {
  const int whole = WHOLE_TILES(inputs), rest = inputs % TILE;
  if (REGISTER_BYTES == 64 && inputs <= 6) {
    gram_at_once(first, inputs, count, weight, S, theta, shares, H);
    return;
  }
  for (int j = 0; j < whole; j += TILE) gram_columns(first, inputs, count, weight, S, theta, shares, j, TILE, H);
  if (rest) gram_columns(first, inputs, count, weight, S, theta, shares, whole, rest, H);
}

/* H += the Hessian of m'y by p, a triangle. */
ALWAYS_INLINE void add_network_curvature(const network *net, int inputs, stored_reals theta, const real *first,
                                         const real *second, const real *S, const real *m, real *H) {
  const network_layer *const layers = LAYERS + net->first;
  real bar[NENDS], back[NWIDEST], weight[NWIDEST];
  int begin = net->units;
  copy_reals(bar, m, (size_t)net->outputs);
  KEEP_LOOP for (int l = net->count - 1; l > 0; l--) {
    const int count = layers[l].columns;
    begin -= count;
    pull_layer(&layers[l], theta, bar, back);
    for (int i = 0; i < count; i++) {
      bar[i] = first[begin + i] * back[i];
      weight[i] = second[begin + i] * back[i];
    }
    if (l > 1) gram(layers, inputs, count, weight, S + begin * inputs, theta, 0, H);
    else if (shares_weights(theta)) gram(layers, inputs, count, weight, 0, theta, 1, H);
    else gram(layers, inputs, count, weight, 0, theta, 0, H);
  }
}

/* The Jacobian J, and H += the Hessian of m'y; no Hessian without m. `first` and `second`: phi' and phi''. */
#define EXPAND_NETWORK(inputs)                                                                                         \
  FUNCTION void expand_network_of_##inputs(const network *net, stored_reals theta, const real *first,                  \
                                           const real *second, const real *m, real *J, real *H) {                      \
    real S[(NUNITS + 1) * (inputs)];                                                                                   \
    slopes_of_network(net, inputs, theta, first, S, J);                                                                \
    if (m) add_network_curvature(net, inputs, theta, first, second, S, m, H);                                          \
  }
INPUT_COUNTS(EXPAND_NETWORK)

INLINE void expand_network(const network *net, stored_reals theta, const real *first, const real *second, const real *m,
                           real *J, real *H) {
#define OF_THAT_MANY(inputs) \
  case inputs: expand_network_of_##inputs(net, theta, first, second, m, J, H); break;
  switch (net->inputs) {
    INPUT_COUNTS(OF_THAT_MANY)
    default: break;
  }
#undef OF_THAT_MANY
}

/* The change of the units' h and a, and of y, along a change of p and, if `moves`, of theta. */
FUNCTION void network_line(const network *net, const real *p, const real *h, const real *first, const real *d_p,
                           stored_reals theta, stored_reals d_theta, int moves, real *d_h, real *d_a, real *d_y) {
  real by_weights[NENDS];
  const real *x = p, *d_x = d_p;
  int begin = 0;
  KEEP_LOOP for (int l = 0; l < net->count; l++) {
    const network_layer *const layer = &LAYERS[net->first + l];
    real *const d_out = l == net->count - 1 ? d_y : d_a + begin;
    apply_layer(layer, theta, 0, d_x, d_out);
    if (moves) {
      apply_change(layer, d_theta, x, by_weights);
      for (int i = 0; i < layer->rows; i++) d_out[i] += by_weights[i];
    }
    if (l == net->count - 1) break;
    for (int i = 0; i < layer->rows; i++) d_h[begin + i] = first[begin + i] * d_a[begin + i];
    x = h + begin;
    d_x = d_h + begin;
    begin += layer->rows;
  }
}

/* Along such a line in p alone: adds the gradient by theta of bar_y'y + bar_d_y'(change of y); gives that by p, and by
 * the change of p. */
FUNCTION void network_gradient(const network *net, const real *p, const real *h, const real *first, const real *second,
                               const real *d_p, stored_reals theta, const real *d_h, const real *d_a, const real *bar_y,
                               const real *bar_d_y, reals g_theta, real *bar_p, real *bar_d_p) {
  real bar[NENDS], d_bar[NENDS], back[NWIDEST], d_back[NWIDEST];
  int begin = net->units;
  copy_reals(bar, bar_y, (size_t)net->outputs);
  copy_reals(d_bar, bar_d_y, (size_t)net->outputs);
  KEEP_LOOP for (int l = net->count - 1; l >= 0; l--) {
    const network_layer *const layer = &LAYERS[net->first + l];
    const int columns = layer->columns;
    begin -= l ? columns : 0;
    const real *const x = l ? h + begin : p, *const d_x = l ? d_h + begin : d_p;
    for (int i = 0; i < layer->rows; i++) {
      if (layer->bias >= 0) g_theta[layer->bias + i] += bar[i];
      for (int k = 0; k < columns; k++)
        g_theta[layer->weights + i * columns + k] += bar[i] * x[k] + d_bar[i] * d_x[k];
    }
    pull_layer(layer, theta, bar, l ? back : bar_p);
    pull_layer(layer, theta, d_bar, l ? d_back : bar_d_p);
    if (!l) break;
    for (int i = 0; i < columns; i++) {
      const real one = first[begin + i], two = second[begin + i];
      d_bar[i] = one * d_back[i];
      bar[i] = one * back[i] + two * d_a[begin + i] * d_back[i];
    }
  }
}

/* The gradient of m'y by p, and its change along such a line, a change of theta and one of m. */
FUNCTION void network_forward(const network *net, stored_reals theta, stored_reals d_theta, const real *first,
                              const real *second, const real *d_a, const real *m, const real *d_m, real *slope,
                              real *d_slope) {
  real bar[NENDS], d_bar[NENDS], back[NWIDEST], d_back[NWIDEST];
  real by_weights[NWIDEST > MOST_INPUTS ? NWIDEST : MOST_INPUTS];
  int begin = net->units;
  copy_reals(bar, m, (size_t)net->outputs);
  copy_reals(d_bar, d_m, (size_t)net->outputs);
  KEEP_LOOP for (int l = net->count - 1; l >= 0; l--) {
    const network_layer *const layer = &LAYERS[net->first + l];
    const int columns = layer->columns;
    real *const to = l ? back : slope, *const d_to = l ? d_back : d_slope;
    pull_layer(layer, theta, bar, to);
    pull_layer(layer, theta, d_bar, d_to);
    pull_change(layer, d_theta, bar, by_weights);
    for (int i = 0; i < columns; i++) d_to[i] += by_weights[i];
    if (!l) break;
    begin -= columns;
    for (int i = 0; i < columns; i++) {
      const real one = first[begin + i], two = second[begin + i];
      bar[i] = one * back[i];
      d_bar[i] = one * d_back[i] + two * d_a[begin + i] * back[i];
    }
  }
}

#endif

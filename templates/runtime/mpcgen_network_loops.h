/* Networks y = N(p), their weights in theta: values and derivatives by loops over the layers.
 *
 * Layer l makes a_l of what earlier layers give, W x + b, or what mpcgen_network_parts.h says, and its activation makes h_l of
 * a_l; y is a of those that end. Forwards, S_l = da_l/dp follows from G_k = diag(phi'_k) S_k of the layers k that it reads, W G
 * where it is W x + b. Backwards, what multiplies a_l is phi'_l times the sum of what its readers multiply h_l by; and the
 * Hessian of m'y by p is the sum over the units of (what multiplies h_l) phi''_l S_l'S_l, and of what norms and products bend.
 * So it takes as many products for a weight as there are inputs, and two. In a chain of layers S_1 = W_1 is never formed.
 *
 * The products with S and G are compiled for each number of inputs that the networks have: INPUT_COUNTS says which.
 */
#ifndef MPCGEN_NETWORK_LOOPS_H
#define MPCGEN_NETWORK_LOOPS_H

#include "mpcgen_network_parts.h"

/* Whether a layer is none of W x + b: a chain of layers has none such. */
#define IS_PART(layer) (PARTS_OF_NETWORKS && (layer)->kind != AFFINE)

/* Whether what a layer reads are inputs of the network as they come. */
INLINE int reads_inputs(const network *net, const network_layer *layer) {
  return layer->from < 0 || (LAYERS[net->first].kind == GIVEN && layer->from + layer->columns <= net->inputs);
}

/* The derivatives of such a layer W x + b: its weights. */
ALWAYS_INLINE void place_weights(const network_layer *layer, int inputs, stored_reals theta, real *slopes) {
  const int columns = layer->columns, from = layer->from < 0 ? 0 : layer->from;
  for (int i = 0; i < layer->rows; i++) {
    real *const row = slopes + i * inputs;
    if (columns < inputs) EACH(k, inputs) row[k] = ALL(0);
    for (int k = 0; k < columns; k++) row[from + k] = theta[layer->weights + i * columns + k];
  }
}

/* ---- values ---- */

/* Evaluates a network at its inputs p: h, a of its site where they are kept, and y. */
FUNCTION void evaluate_network(const network *net, stored_reals theta, const real *p, real *h, real *a, real *y) {
  KEEP_LOOP for (int l = 0; l < net->count; l++) {
    const network_layer *const layer = &LAYERS[net->first + l];
    const real *const x = layer->from < 0 ? p : h + layer->from;
    real *const out = (layer->ends ? y : h) + layer->at;
    if (IS_PART(layer)) part_values(layer, theta, x, h, out);
    else apply_layer(layer, theta, 1, x, out);
    if (layer->ends) continue;
    if (NSUMS && layer->sums >= 0) copy_reals(a + layer->sums, out, (size_t)layer->rows);
    activate(layer, out);
  }
}

/* The same of all networks of a site. */
FUNCTION void evaluate_networks(const network_site *site, stored_reals theta, network_point *at) {
  int units = 0, outputs = 0;
  KEEP_LOOP for (int k = 0; k < site->count; k++) {
    const network *const net = &NETWORKS[site->first + k];
    evaluate_network(net, theta, at->p + net->from, at->h + units, at->a, at->y + outputs);
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

/* Of a single network of three layers sizes are constants, where the loop is unrolled: 3 % of a stage. */
#if PARTS_OF_NETWORKS || NLAYERS > 3
#define EACH_LAYER KEEP_LOOP
#else
#define EACH_LAYER UNROLL
#endif

/* phi' and phi'' of a network's units; a is its site's. */
FUNCTION void bend_units(const network *net, const real *h, const real *a, real *first, real *second) {
  KEEP_LOOP for (int l = 0; l < net->count; l++) {
    const network_layer *const layer = &LAYERS[net->first + l];
    if (layer->ends) continue;
    activation_slopes(layer, h + layer->at, a + (layer->sums < 0 ? 0 : layer->sums), first + layer->at,
                      second + layer->at);
  }
}

/* The Jacobian J (outputs, inputs) of y, and those of the units, S, where layers say; G is room for those that are scaled. */
ALWAYS_INLINE void slopes_of_network(const network *net, int inputs, stored_reals theta, const real *h,
                                     const real *first, real *S, real *G, real *J) {
  const network_layer *const layers = LAYERS + net->first;
  EACH_LAYER for (int l = 0; l < net->count; l++) {
    const network_layer *const layer = &layers[l];
    real *const slopes = (layer->ends ? J : S) + (layer->slopes < 0 ? 0 : layer->slopes * inputs);
    if (IS_PART(layer)) {
      part_slopes(layer, inputs, theta, h, first, S, slopes);
    } else if (reads_inputs(net, layer)) {
      if (layer->slopes < 0) continue;
      place_weights(layer, inputs, theta, slopes);
    } else if (layer->ends && layer->from_slopes >= 0) {
      multiply_scaled(layer, inputs, theta, first + layer->from, S + layer->from_slopes * inputs, slopes);
    } else {
      const real *const scale = first + layer->from;
      if (layer->from_slopes < 0) scale_first(layers, inputs, theta, scale, G);
      else scale_rows(layer->columns, inputs, scale, S + layer->from_slopes * inputs, G);
      multiply_layer(layer, inputs, theta, G, slopes);
    }
  }
}

/* What multiplies the units of a network, before any reader has added to it. */
INLINE void clear_units(const network *net, real *bars) {
  for (int i = 0; PARTS_OF_NETWORKS && i < net->units; i++) bars[i] = ALL(0);
}

/* Adds W'y to what multiplies the units that a layer reads. */
INLINE void pull_units(const network_layer *layer, stored_reals theta, const real *y, real *bar) {
#if PARTS_OF_NETWORKS
  real back[NWIDEST];
  pull_layer(layer, theta, y, back);
  for (int j = 0; j < layer->columns; j++) bar[layer->from + j] += back[j];
#else
  pull_layer(layer, theta, y, bar + layer->from);
#endif
}

/* H += the Hessian of m'y by p, a triangle. */
ALWAYS_INLINE void add_network_curvature(const network *net, int inputs, stored_reals theta, const real *h,
                                         const real *first, const real *second, const real *S, const real *m,
                                         real *H) {
  const network_layer *const layers = LAYERS + net->first;
  real bars[NUNITS + 1], weight[NWIDEST];
  clear_units(net, bars);
  KEEP_LOOP for (int l = net->count - 1; l >= 0; l--) {
    const network_layer *const layer = &layers[l];
    const real *const multiplier = (layer->ends ? m : bars) + layer->at;
    for (int i = 0; !layer->ends && i < layer->rows; i++) {
      real *const bar = bars + layer->at + i;
      weight[i] = second[layer->at + i] * *bar;
      *bar *= first[layer->at + i];
    }
    if (layer->ends || layer->activation == PLAIN) {
    } else if (layer->slopes >= 0) {
      gram(layers, inputs, layer->rows, weight, S + layer->slopes * inputs, 0, theta, 0, H);
    } else if (shares_weights(theta)) {
      gram(layers, inputs, layer->rows, weight, 0, 0, theta, 1, H);
    } else {
      gram(layers, inputs, layer->rows, weight, 0, 0, theta, 0, H);
    }
    if (IS_PART(layer)) part_curvature(layer, inputs, theta, h, first, S, multiplier, bars, H);
    else if (layer->from >= 0 && !reads_inputs(net, layer)) pull_units(layer, theta, multiplier, bars);
  }
}

/* The Jacobian J, and H += the Hessian of m'y; no Hessian without m. `first` and `second`: phi' and phi''. */
#define EXPAND_NETWORK(inputs)                                                                                         \
  FUNCTION void expand_network_of_##inputs(const network *net, stored_reals theta, const real *h, const real *first,   \
                                           const real *second, const real *m, real *J, real *H) {                      \
    TAKE_ARRAYS(theta, of_layers, ARRAYS_OF_LAYERS)                                                                    \
    slopes_of_network(net, inputs, theta, h, first, S, G, J);                                                             \
    if (m) add_network_curvature(net, inputs, theta, h, first, second, S, m, H);                                       \
  }
INPUT_COUNTS(EXPAND_NETWORK)

INLINE void expand_network(const network *net, stored_reals theta, const real *h, const real *first, const real *second,
                           const real *m, real *J, real *H) {
#define OF_THAT_MANY(inputs) \
  case inputs: expand_network_of_##inputs(net, theta, h, first, second, m, J, H); break;
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
  KEEP_LOOP for (int l = 0; l < net->count; l++) {
    const network_layer *const layer = &LAYERS[net->first + l];
    const real *const x = layer->from < 0 ? p : h + layer->from, *const d_x = layer->from < 0 ? d_p : d_h + layer->from;
    real *const d_out = (layer->ends ? d_y : d_a) + layer->at;
    if (IS_PART(layer)) {
      part_change(layer, theta, d_theta, moves, x, d_x, h, d_h, d_out);
    } else {
      apply_layer(layer, theta, 0, d_x, d_out);
      if (moves) apply_change(layer, d_theta, x, by_weights);
      for (int i = 0; moves && i < layer->rows; i++) d_out[i] += by_weights[i];
    }
    for (int i = 0; !layer->ends && i < layer->rows; i++) d_h[layer->at + i] = first[layer->at + i] * d_out[i];
  }
}

/* From what multiplies h and its change that by which a and its change are multiplied, of a layer's units. */
INLINE void bend_back(const network_layer *layer, const real *first, const real *second, const real *d_a, real *twice,
                      real *once) {
  for (int i = layer->at; i < layer->at + layer->rows; i++) {
    twice[i] = first[i] * twice[i] + second[i] * d_a[i] * once[i];
    once[i] *= first[i];
  }
}

/* Along such a line in p alone: adds the gradient by theta of bar_y'y + bar_d_y'(change of y); gives that by p, and by
 * the change of p. */
FUNCTION void network_gradient(const network *net, const real *p, const real *h, const real *first, const real *second,
                               const real *d_p, stored_reals theta, const real *d_h, const real *d_a, const real *bar_y,
                               const real *bar_d_y, reals g_theta, real *bar_p, real *bar_d_p) {
  real twice[NUNITS + 1], once[NUNITS + 1];
  clear_units(net, twice);
  clear_units(net, once);
  KEEP_LOOP for (int l = net->count - 1; l >= 0; l--) {
    const network_layer *const layer = &LAYERS[net->first + l];
    const int columns = layer->columns, begins = layer->from < 0;
    const real *const x = begins ? p : h + layer->from, *const d_x = begins ? d_p : d_h + layer->from;
    const real *const bar = (layer->ends ? bar_y : twice) + layer->at;
    const real *const d_bar = (layer->ends ? bar_d_y : once) + layer->at;
    if (!layer->ends) bend_back(layer, first, second, d_a, twice, once);
    if (IS_PART(layer)) {
      part_gradient(layer, x, d_x, bar, d_bar, g_theta);
      part_back(layer, theta, theta, 0, h, d_h, bar, d_bar, twice, once, bar_p, bar_d_p);
      continue;
    }
    for (int i = 0; i < layer->rows; i++) {
      if (layer->bias >= 0) g_theta[layer->bias + i] += bar[i];
      for (int k = 0; k < columns; k++)
        g_theta[layer->weights + i * columns + k] += bar[i] * x[k] + d_bar[i] * d_x[k];
    }
    if (begins) {
      pull_layer(layer, theta, bar, bar_p);
      pull_layer(layer, theta, d_bar, bar_d_p);
    } else {
      pull_units(layer, theta, bar, twice);
      pull_units(layer, theta, d_bar, once);
    }
  }
}

/* The gradient of m'y by p, and its change along such a line, a change of theta and one of m. */
FUNCTION void network_forward(const network *net, const real *h, stored_reals theta, stored_reals d_theta,
                              const real *first, const real *second, const real *d_h, const real *d_a, const real *m,
                              const real *d_m, real *slope, real *d_slope) {
  real twice[NUNITS + 1], once[NUNITS + 1], by_weights[NWIDEST > MOST_INPUTS ? NWIDEST : MOST_INPUTS];
  clear_units(net, twice);
  clear_units(net, once);
  KEEP_LOOP for (int l = net->count - 1; l >= 0; l--) {
    const network_layer *const layer = &LAYERS[net->first + l];
    const int begins = layer->from < 0;
    const real *const d_bar = (layer->ends ? d_m : twice) + layer->at, *const bar = (layer->ends ? m : once) + layer->at;
    if (!layer->ends) bend_back(layer, first, second, d_a, twice, once);
    if (IS_PART(layer)) {
      part_back(layer, theta, d_theta, 1, h, d_h, d_bar, bar, twice, once, d_slope, slope);
      continue;
    }
    real *const to = begins ? slope : once + layer->from, *const d_to = begins ? d_slope : twice + layer->from;
    if (begins) {
      pull_layer(layer, theta, bar, to);
      pull_layer(layer, theta, d_bar, d_to);
    } else {
      pull_units(layer, theta, bar, once);
      pull_units(layer, theta, d_bar, twice);
    }
    pull_change(layer, d_theta, bar, by_weights);
    for (int i = 0; i < layer->columns; i++) d_to[i] += by_weights[i];
  }
}

#endif

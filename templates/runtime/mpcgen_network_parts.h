/* What layers of networks compute besides W x + b: sums, products and norms of units, entry by entry.
 *
 * A norm of x is z = s c with c = x - m, m the mean of x or 0, and s = 1 / sqrt(v + constant), where v = c'c / n. Along a
 * change dx, dc = dx - dm and ds = -s^3 c'dc / n. The Hessian of w'z is, along two changes,
 *   -s^3/n (c'dc w'dc2 + w'dc c'dc2) + w'c (3 s^5/n^2 c'dc c'dc2 - s^3/n dc'dc2). */
#ifndef MPCGEN_NETWORK_PARTS_H
#define MPCGEN_NETWORK_PARTS_H

#include "mpcgen_network_products.h"

/* x less what a norm takes off. */
INLINE void centre(const network_layer *layer, const real *x, real *c) {
  const int count = layer->rows;
  real mean = ALL(0);
  for (int i = 0; i < count; i++) mean += x[i];
  mean *= layer->b / R(count);
  for (int i = 0; i < count; i++) c[i] = x[i] - mean;
}

INLINE real dot_of(int count, const real *x, const real *y) {
  real sum = ALL(0);
  for (int i = 0; i < count; i++) sum += x[i] * y[i];
  return sum;
}

/* c and s of a norm of x. */
FUNCTION real centre_norm(const network_layer *layer, const real *x, real *c) {
  centre(layer, x, c);
  return R(1) / lane_sqrt(dot_of(layer->rows, c, c) / R(layer->rows) + layer->c);
}

/* What a norm's row i is multiplied by. */
INLINE real factor_of(const network_layer *layer, stored_reals theta, int i) {
  return layer->weights < 0 ? ALL(1) : theta[layer->weights + i];
}

FUNCTION void part_values(const network_layer *layer, stored_reals theta, const real *x, const real *h, real *out) {
  const int rows = layer->rows, other = layer->other;
  if (layer->kind == SUM) {
    for (int i = 0; i < rows; i++) out[i] = layer->a * x[i] + layer->c;
    for (int i = 0; other >= 0 && i < rows; i++) out[i] += layer->b * h[other + i];
  } else if (layer->kind == PRODUCT) {
    for (int i = 0; i < rows; i++) out[i] = x[i] * h[other + i];
  } else if (layer->kind == NORM) {
    real c[NWIDEST];
    const real s = centre_norm(layer, x, c);
    for (int i = 0; i < rows; i++) {
      out[i] = factor_of(layer, theta, i) * (s * c[i]);
      if (layer->bias >= 0) out[i] += theta[layer->bias + i];
    }
  } else {
    copy_reals(out, x, (size_t)rows);
  }
}

/* The mean of the rows of G = diag(first) S that a norm takes off, and c'G and w'G of what is left. */
ALWAYS_INLINE void sum_slopes(const network_layer *layer, int inputs, const real *first, const real *S, const real *c,
                              const real *w, real *mean, real *by_c, real *by_w) {
  const int rows = layer->rows;
  real weights = ALL(0);
  EACH(k, inputs) mean[k] = by_c[k] = by_w[k] = ALL(0);
  for (int i = 0; i < rows; i++) {
    const real one = first[layer->from + i];
    const real *const slopes = S + (layer->from_slopes + i) * inputs;
    weights += w[i];
    EACH(k, inputs) {
      const real slope = one * slopes[k];
      mean[k] += slope, by_c[k] += c[i] * slope, by_w[k] += w[i] * slope;
    }
  }
  EACH(k, inputs) mean[k] *= layer->b / R(rows), by_w[k] -= weights * mean[k];
}

/* Those of the units from one on, if there is one. */
INLINE const real *slopes_at(const real *S, int inputs, int begin) { return begin < 0 ? S : S + begin * inputs; }

/* The derivatives of a by the inputs. */
ALWAYS_INLINE void part_slopes(const network_layer *layer, int inputs, stored_reals theta, const real *h,
                               const real *first, const real *S, real *out) {
  const int rows = layer->rows, from = layer->from, other = layer->other;
  const real *const of_x = slopes_at(S, inputs, layer->from_slopes), *const of_y = slopes_at(S, inputs, layer->other_slopes);
  if (layer->kind == SUM) {
    for (int i = 0; i < rows; i++) EACH(k, inputs) out[i * inputs + k] = layer->a * first[from + i] * of_x[i * inputs + k];
    for (int i = 0; other >= 0 && i < rows; i++)
      EACH(k, inputs) out[i * inputs + k] += layer->b * first[other + i] * of_y[i * inputs + k];
  } else if (layer->kind == PRODUCT) {
    for (int i = 0; i < rows; i++) {
      const real by_x = first[from + i] * h[other + i], by_y = first[other + i] * h[from + i];
      EACH(k, inputs) out[i * inputs + k] = by_x * of_x[i * inputs + k] + by_y * of_y[i * inputs + k];
    }
  } else if (layer->kind == NORM) {
    real c[NWIDEST], mean[MOST_INPUTS], turn[MOST_INPUTS], same[MOST_INPUTS];
    const real s = centre_norm(layer, h + from, c), share = s * s * s / R(rows);
    sum_slopes(layer, inputs, first, S, c, c, mean, turn, same);
    for (int i = 0; i < rows; i++) {
      const real factor = factor_of(layer, theta, i), one = factor * s * first[from + i], along = factor * share * c[i];
      EACH(k, inputs) out[i * inputs + k] = one * of_x[i * inputs + k] - factor * s * mean[k] - along * turn[k];
    }
  } else {
    for (int i = 0; i < rows; i++) EACH(k, inputs) out[i * inputs + k] = ALL(i == k);
  }
}

/* H += left right' + right left', a triangle. */
ALWAYS_INLINE void add_both(int inputs, const real *left, const real *right, real *H) {
  EACH(r, inputs) EACH(k, inputs) if (k <= r) H[TRIANGLE(r, k)] += left[r] * right[k] + right[r] * left[k];
}

/* H += the Hessian of bar'a as a norm bends it, and bars += what multiplies x. */
ALWAYS_INLINE void norm_curvature(const network_layer *layer, int inputs, stored_reals theta, const real *h,
                                  const real *first, const real *S, const real *bar, real *bars, real *H) {
  const int rows = layer->rows;
  real c[NWIDEST], w[NWIDEST], weight[NWIDEST], mean[MOST_INPUTS], along[MOST_INPUTS], side[MOST_INPUTS];
  const real s = centre_norm(layer, h + layer->from, c), share = s * s * s / R(rows);
  for (int i = 0; i < rows; i++) w[i] = factor_of(layer, theta, i) * bar[i];
  const real both = dot_of(rows, w, c);
  for (int i = 0; i < rows; i++) weight[i] = -both * share * first[layer->from + i] * first[layer->from + i];
  sum_slopes(layer, inputs, first, S, c, w, mean, along, side);
  EACH(k, inputs) side[k] = share * (R(1.5) * both * s * s / R(rows) * along[k] - side[k]);
  add_both(inputs, along, side, H);
  gram(layer, inputs, rows, weight, S + layer->from_slopes * inputs, 0, theta, 0, H);
  EACH(k, inputs) side[k] = R(0.5) * R(rows) * both * share * mean[k];
  add_both(inputs, mean, side, H);
  centre(layer, w, w);
  for (int i = 0; i < rows; i++) bars[layer->from + i] += s * w[i] - share * both * c[i];
}

/* The same of any layer that is no W x + b. */
ALWAYS_INLINE void part_curvature(const network_layer *layer, int inputs, stored_reals theta, const real *h,
                                  const real *first, const real *S, const real *bar, real *bars, real *H) {
  const int rows = layer->rows, from = layer->from, other = layer->other;
  if (layer->kind == SUM) {
    for (int i = 0; i < rows; i++) bars[from + i] += layer->a * bar[i];
    for (int i = 0; other >= 0 && i < rows; i++) bars[other + i] += layer->b * bar[i];
  } else if (layer->kind == PRODUCT) {
    const real *const of_x = slopes_at(S, inputs, layer->from_slopes);
    const real *const of_y = slopes_at(S, inputs, layer->other_slopes);
    real weight[NWIDEST];
    for (int i = 0; i < rows; i++) weight[i] = bar[i] * first[from + i] * first[other + i];
    gram(layer, inputs, rows, weight, of_x, of_y, theta, 0, H);
    for (int i = 0; i < rows; i++) {
      bars[from + i] += bar[i] * h[other + i];
      bars[other + i] += bar[i] * h[from + i];
    }
  } else if (layer->kind == NORM) {
    norm_curvature(layer, inputs, theta, h, first, S, bar, bars, H);
  }
}

/* The change of z along dx, which becomes dc; returns that of s. */
INLINE real norm_change(const network_layer *layer, real s, const real *c, real *d_c, real *d_z) {
  centre(layer, d_c, d_c);
  const real d_s = -(s * s * s) * dot_of(layer->rows, c, d_c) / R(layer->rows);
  for (int i = 0; i < layer->rows; i++) d_z[i] = s * d_c[i] + d_s * c[i];
  return d_s;
}

/* The change of a along a change of the units and, if `moves`, of theta. */
FUNCTION void part_change(const network_layer *layer, stored_reals theta, stored_reals d_theta, int moves, const real *x,
                          const real *d_x, const real *h, const real *d_h, real *d_out) {
  const int rows = layer->rows, other = layer->other;
  if (layer->kind == SUM) {
    for (int i = 0; i < rows; i++) d_out[i] = layer->a * d_x[i];
    for (int i = 0; other >= 0 && i < rows; i++) d_out[i] += layer->b * d_h[other + i];
  } else if (layer->kind == PRODUCT) {
    for (int i = 0; i < rows; i++) d_out[i] = d_x[i] * h[other + i] + x[i] * d_h[other + i];
  } else if (layer->kind == NORM) {
    real c[NWIDEST], d_c[NWIDEST], d_z[NWIDEST];
    const real s = centre_norm(layer, x, c);
    copy_reals(d_c, d_x, (size_t)rows);
    norm_change(layer, s, c, d_c, d_z);
    for (int i = 0; i < rows; i++) {
      d_out[i] = factor_of(layer, theta, i) * d_z[i];
      if (moves && layer->weights >= 0) d_out[i] += d_theta[layer->weights + i] * (s * c[i]);
      if (moves && layer->bias >= 0) d_out[i] += d_theta[layer->bias + i];
    }
  } else {
    copy_reals(d_out, d_x, (size_t)rows);
  }
}

/* Adds the gradient by a norm's factors and what it adds of bar'a + d_bar'(change of a). */
FUNCTION void part_gradient(const network_layer *layer, const real *x, const real *d_x, const real *bar,
                            const real *d_bar, reals g_theta) {
  real c[NWIDEST], d_c[NWIDEST], d_z[NWIDEST];
  if (layer->kind != NORM) return;
  const real s = centre_norm(layer, x, c);
  copy_reals(d_c, d_x, (size_t)layer->rows);
  norm_change(layer, s, c, d_c, d_z);
  for (int i = 0; i < layer->rows; i++) {
    if (layer->weights >= 0) g_theta[layer->weights + i] += bar[i] * (s * c[i]) + d_bar[i] * d_z[i];
    if (layer->bias >= 0) g_theta[layer->bias + i] += bar[i];
  }
}

/* Adds to what multiplies units and their change, `twice` and `once`, what a norm brings, of which a and its change are
 * multiplied by `bar` and `d_bar`. */
FUNCTION void norm_back(const network_layer *layer, stored_reals theta, stored_reals d_theta, int moves, const real *h,
                        const real *d_h, const real *bar, const real *d_bar, real *twice, real *once) {
  const int rows = layer->rows;
  real c[NWIDEST], d_c[NWIDEST], w[NWIDEST], d_w[NWIDEST];
  const real s = centre_norm(layer, h + layer->from, c), share = s * s * s / R(rows);
  centre(layer, d_h + layer->from, d_c);
  for (int i = 0; i < rows; i++) {
    const real factor = factor_of(layer, theta, i);
    w[i] = factor * d_bar[i];
    d_w[i] = factor * bar[i];
    if (moves && layer->weights >= 0) d_w[i] += d_theta[layer->weights + i] * d_bar[i];
  }
  const real by_c = dot_of(rows, w, c), d_by_c = dot_of(rows, d_w, c) + dot_of(rows, w, d_c), turn = dot_of(rows, c, d_c);
  const real along = share * (R(3) * s * s / R(rows) * turn * by_c - d_by_c);
  centre(layer, w, w);
  centre(layer, d_w, d_w);
  for (int i = 0; i < rows; i++) {
    once[layer->from + i] += s * w[i] - share * by_c * c[i];
    twice[layer->from + i] += s * d_w[i] - share * (turn * w[i] + by_c * d_c[i]) + along * c[i];
  }
}

/* The same of any layer that is no W x + b; of the inputs, gives what multiplies them. */
FUNCTION void part_back(const network_layer *layer, stored_reals theta, stored_reals d_theta, int moves, const real *h,
                        const real *d_h, const real *bar, const real *d_bar, real *twice, real *once, real *bar_p,
                        real *bar_d_p) {
  const int rows = layer->rows, from = layer->from, other = layer->other;
  if (layer->kind == SUM) {
    for (int i = 0; i < rows; i++) twice[from + i] += layer->a * bar[i], once[from + i] += layer->a * d_bar[i];
    for (int i = 0; other >= 0 && i < rows; i++)
      twice[other + i] += layer->b * bar[i], once[other + i] += layer->b * d_bar[i];
  } else if (layer->kind == PRODUCT) {
    for (int i = 0; i < rows; i++) {
      twice[from + i] += bar[i] * h[other + i] + d_bar[i] * d_h[other + i];
      once[from + i] += d_bar[i] * h[other + i];
      twice[other + i] += bar[i] * h[from + i] + d_bar[i] * d_h[from + i];
      once[other + i] += d_bar[i] * h[from + i];
    }
  } else if (layer->kind == NORM) {
    norm_back(layer, theta, d_theta, moves, h, d_h, bar, d_bar, twice, once);
  } else {
    copy_reals(bar_p, bar, (size_t)rows);
    copy_reals(bar_d_p, d_bar, (size_t)rows);
  }
}

#endif

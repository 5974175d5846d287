/* The functions of a right-hand side k(z, v, y) with a network's outputs y = N(p), by the chain rule.
 *
 * z are the moving states and v what a stage holds; p are some of them, INPUTS says which. The body's functions count y
 * as held, behind v. With J = dy/dp and m the gradient of L = share c + lambda'k by y, that of L by p gains J'm, and its
 * Hessian by (z, v) is [1; J]' (Hessian by (z, v, y)) [1; J] + the Hessian of m'N by p. */
#ifndef MPCGEN_NETWORK_RATES_H
#define MPCGEN_NETWORK_RATES_H

#include "mpcgen_network_loops.h"
#include "mpcgen_step_products.h"

enum { NALL = NBOTH + NOUTPUTS };

INLINE void network_inputs(const real *moving, const real *held, real *p) {
  EACH(c, NINPUTS) p[c] = INPUTS[c] < NMOVING ? moving[INPUTS[c]] : held[INPUTS[c] - NMOVING];
}

/* The network at its inputs; `inner`: what the body holds. */
INLINE const network_point *inner_point(const real *moving, const real *held, stored_reals theta, real *inner,
                                        network_point *scratch) {
  real p[NINPUTS];
  network_inputs(moving, held, p);
  const network_point *const at = network_at(p, theta, scratch);
  copy_reals(inner, held, NHELD);
  copy_reals(inner + NHELD, at->y, NOUTPUTS);
  return at;
}

INLINE void rate_values(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                        const real *share, real *change, real *cost) {
  real inner[NINNER];
  network_point scratch;
  inner_point(moving, held, theta, inner, &scratch);
  body_values(moving, inner, theta, theta_t, share, change, cost);
}

/* From d(k)/d(z, v, y) that by (z, v). */
INLINE void chain_slopes(const real *all, const real *J, real *F) {
  for (int i = 0; i < NMOVING; i++) {
    EACH(j, NBOTH) F[i * NBOTH + j] = all[i * NALL + j];
    for (int o = 0; o < NOUTPUTS; o++)
      EACH(c, NINPUTS) F[i * NBOTH + INPUTS[c]] += all[i * NALL + NBOTH + o] * J[o * NINPUTS + c];
  }
}

/* From the gradient of L by (z, v, y) that by (z, v). */
INLINE void chain_gradient(const real *all, const real *J, real *slope) {
  copy_reals(slope, all, NBOTH);
  for (int o = 0; o < NOUTPUTS; o++) EACH(c, NINPUTS) slope[INPUTS[c]] += all[NBOTH + o] * J[o * NINPUTS + c];
}

#if !SUBSTEP_COSTS
FUNCTION void rate_slopes(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *share, const real *costate, real *F, real *slope) {
  real inner[NINNER], S[NUNITS * NINPUTS + 1], J[NOUTPUTS * NINPUTS];
  real all[NMOVING * NALL], slopes[NALL];
  network_point scratch;
  network_bends bends;
  bend_units(inner_point(moving, held, theta, inner, &scratch), &bends);
  network_slopes(theta, &bends, S, J);
  body_slopes(moving, inner, theta, theta_t, share, costate, all, slopes);
  chain_slopes(all, J, F);
  chain_gradient(slopes, J, slope);
}
#endif

/* The Hessian by (z, v), from those of the body and of the network. */
INLINE void chain_curvature(const real *all, const real *of_network, const real *J, real *H) {
  real by_outputs[NOUTPUTS * NBOTH]; /* by y and (z, v): half of what is by y alone comes from either side */
  for (int o = 0; o < NOUTPUTS; o++) {
    EACH(j, NBOTH) by_outputs[o * NBOTH + j] = all[TRIANGLE(NBOTH + o, j)];
    for (int e = 0; e < NOUTPUTS; e++)
      EACH(c, NINPUTS)
        by_outputs[o * NBOTH + INPUTS[c]] += R(0.5) * all[SYMMETRIC(NBOTH + o, NBOTH + e)] * J[e * NINPUTS + c];
  }
  copy_reals(H, all, TRIANGLE(NBOTH, 0));
  for (int c = 0; c < NINPUTS; c++) {
    const int place = INPUTS[c];
    for (int d = 0; d <= c; d++) H[SYMMETRIC(place, INPUTS[d])] += of_network[TRIANGLE(c, d)];
    for (int o = 0; o < NOUTPUTS; o++) {
      const real slope = J[o * NINPUTS + c];
      for (int j = 0; j < NBOTH; j++)
        H[SYMMETRIC(place, j)] += (j == place ? R(2) : R(1)) * slope * by_outputs[o * NBOTH + j];
    }
  }
}

FUNCTION void rate_curvature(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                             const real *share, const real *costate, real *F, real *H, real *slope) {
  real inner[NINNER], S[NUNITS * NINPUTS + 1], J[NOUTPUTS * NINPUTS];
  real all[NMOVING * NALL], curvature[TRIANGLE(NALL, 0)], slopes[NALL];
  real of_network[TRIANGLE(NINPUTS, 0)];
  network_point scratch;
  network_bends bends;
  bend_units(inner_point(moving, held, theta, inner, &scratch), &bends);
  network_slopes(theta, &bends, S, J);
  body_curvature(moving, inner, theta, theta_t, share, costate, all, curvature, slopes);
  chain_slopes(all, J, F);
  network_curvature(theta, &bends, S, slopes + NBOTH, of_network);
  chain_curvature(curvature, of_network, J, H);
  chain_gradient(slopes, J, slope);
}

INLINE void rate_tangent(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                         const real *share, const real *d_moving, const real *d_held, real *d_change) {
  real d_p[NINPUTS], inner[NINNER], d_inner[NINNER], d_h[NUNITS + 1], d_a[NUNITS + 1];
  network_point scratch;
  network_bends bends;
  const network_point *const at = inner_point(moving, held, theta, inner, &scratch);
  bend_units(at, &bends);
  network_inputs(d_moving, d_held, d_p);
  copy_reals(d_inner, d_held, NHELD);
  network_line(at, &bends, d_p, theta, theta, 0, d_h, d_a, d_inner + NHELD);
  body_tangent(moving, inner, theta, theta_t, share, d_moving, d_inner, d_change);
}

FUNCTION void rate_gradient(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                            const real *share, const real *costate, const real *d_moving, const real *d_held,
                            const real *d_costate, const real *loss_cost, reals g_theta, reals g_theta_t, real *g,
                            real *before) {
  real d_p[NINPUTS], inner[NINNER], d_inner[NINNER], d_h[NUNITS + 1], d_a[NUNITS + 1];
  real by_all[NALL], before_all[NALL], bar_p[NINPUTS], bar_d_p[NINPUTS];
  network_point scratch;
  network_bends bends;
  const network_point *const at = inner_point(moving, held, theta, inner, &scratch);
  bend_units(at, &bends);
  network_inputs(d_moving, d_held, d_p);
  copy_reals(d_inner, d_held, NHELD);
  network_line(at, &bends, d_p, theta, theta, 0, d_h, d_a, d_inner + NHELD);
  body_gradient(moving, inner, theta, theta_t, share, costate, d_moving, d_inner, d_costate, loss_cost, g_theta,
                g_theta_t, by_all, before_all);
  network_gradient(at, &bends, d_p, theta, d_h, d_a, by_all + NBOTH, before_all + NBOTH, g_theta, bar_p, bar_d_p);
  copy_reals(g, by_all, NBOTH);
  copy_reals(before, before_all, NMOVING);
  EACH(c, NINPUTS) {
    g[INPUTS[c]] += bar_p[c];
    if (INPUTS[c] < NMOVING) before[INPUTS[c]] += bar_d_p[c];
  }
}

/* The change along d_theta and a change of z, of the network's units and of what the body holds. */
INLINE void moved_point(const real *moving, const real *held, stored_reals theta, const real *d_moving,
                        stored_reals d_theta, network_bends *bends, real *d_a, real *inner, real *d_inner) {
  real d_p[NINPUTS], d_h[NUNITS + 1];
  network_point scratch;
  const network_point *const at = inner_point(moving, held, theta, inner, &scratch);
  bend_units(at, bends);
  EACH(i, NHELD) d_inner[i] = ALL(0);
  network_inputs(d_moving, d_inner, d_p);
  network_line(at, bends, d_p, theta, d_theta, 1, d_h, d_a, d_inner + NHELD);
}

FUNCTION void rate_change(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *share, const real *d_moving, stored_reals d_theta, stored_reals d_theta_t,
                          real *d_change, real *d_cost) {
  real inner[NINNER], d_inner[NINNER], d_a[NUNITS + 1];
  network_bends bends;
  moved_point(moving, held, theta, d_moving, d_theta, &bends, d_a, inner, d_inner);
  body_change(moving, inner, theta, theta_t, share, d_moving, d_inner, d_theta, d_theta_t, d_change, d_cost);
}

FUNCTION void rate_forward(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                           const real *share, const real *costate, const real *d_moving, const real *d_costate,
                           stored_reals d_theta, stored_reals d_theta_t, real *before, real *d_slope) {
  real inner[NINNER], d_inner[NINNER], d_a[NUNITS + 1];
  real before_all[NALL], d_all[NALL], pulled[NINPUTS], d_pulled[NINPUTS];
  network_bends bends;
  moved_point(moving, held, theta, d_moving, d_theta, &bends, d_a, inner, d_inner);
  body_forward(moving, inner, theta, theta_t, share, costate, d_moving, d_inner, d_costate, d_theta, d_theta_t,
               before_all, d_all);
  network_forward(theta, d_theta, &bends, d_a, before_all + NBOTH, d_all + NBOTH, pulled, d_pulled);
  copy_reals(before, before_all, NMOVING);
  copy_reals(d_slope, d_all, NBOTH);
  EACH(c, NINPUTS) {
    if (INPUTS[c] < NMOVING) before[INPUTS[c]] += pulled[c];
    d_slope[INPUTS[c]] += d_pulled[c];
  }
}

#endif

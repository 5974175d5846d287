/* The functions of a right-hand side k(z, v, y) that reads networks, y = N(p(z, v)), by the chain rule.
 *
 * z are the moving states and v what a stage holds; the point is w = (z, v). The body's functions count y as held, behind
 * v; those of inputs are p's. See mpcgen_network_chain.h. */
#ifndef MPCGEN_NETWORK_RATES_H
#define MPCGEN_NETWORK_RATES_H

#include "mpcgen_network_chain.h"
#include "mpcgen_step_products.h"

INLINE void join(const real *moving, const real *held, real *w) {
  copy_reals(w, moving, NMOVING);
  copy_reals(w + NMOVING, held, NHELD);
}

/* The networks at w; `inner`: what the body holds. */
INLINE const network_point *inner_point(const real *w, stored_reals theta, stored_reals theta_t, real *inner,
                                        network_point *scratch) {
  real p[NINPUTS];
  input_values(w, theta, theta_t, p);
  const network_point *const at = networks_at(SITE_OF_RATES, p, theta, scratch);
  copy_reals(inner, w + NMOVING, NHELD);
  copy_reals(inner + NHELD, at->y, NOUTPUTS);
  return at;
}

INLINE void rate_values(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                        const real *share, real *change, real *cost) {
  real w[NBOTH], inner[NINNER];
  network_point scratch;
  join(moving, held, w);
  inner_point(w, theta, theta_t, inner, &scratch);
  body_values(moving, inner, theta, theta_t, share, change, cost);
}

#if IMPLICIT
FUNCTION void rate_newton(const real *moving, const real *held, stored_reals theta, stored_reals theta_t, real *change,
                          real *J) {
  const real share = ALL(0);
  TAKE_ARRAYS(theta, of_rates, ARRAYS_OF_RATES)
  real w[NBOTH], inner[NINNER], F[NMOVING * NBOTH], slopes[NALL], costate[NMOVING], cost;
  network_point scratch;
  join(moving, held, w);
  const network_point *const at = inner_point(w, theta, theta_t, inner, &scratch);
  input_slopes(w, theta, theta_t, P);
  expand_networks(SITE_OF_RATES, theta, at, P, 0, T, 0, 0);
  EACH(i, NMOVING) costate[i] = ALL(0);
  body_values(moving, inner, theta, theta_t, &share, change, &cost);
  body_slopes(moving, inner, theta, theta_t, &share, costate, all, slopes);
  chain_slopes(NBOTH, NOUTPUTS, NMOVING, OUTPUTS_FROM, OUTPUTS_READ, all, T, F);
  for (int i = 0; i < NMOVING; i++) copy_reals(J + i * NMOVING, F + i * NBOTH, NMOVING);
}
#endif

/* From the gradient of L by (z, v, y) that by (z, v). */
INLINE void chain_gradient(const real *all, const real *T, real *slope) {
  chain_slopes(NBOTH, NOUTPUTS, 1, 0, 0, all, T, slope);
}

#if IMPLICIT || !SUBSTEP_COSTS
FUNCTION void rate_slopes(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *share, const real *costate, real *F, real *slope) {
  TAKE_ARRAYS(theta, of_rates, ARRAYS_OF_RATES)
  real w[NBOTH], inner[NINNER], slopes[NALL];
  network_point scratch;
  join(moving, held, w);
  const network_point *const at = inner_point(w, theta, theta_t, inner, &scratch);
  input_slopes(w, theta, theta_t, P);
  expand_networks(SITE_OF_RATES, theta, at, P, 0, T, 0, 0);
  body_slopes(moving, inner, theta, theta_t, share, costate, all, slopes);
  chain_slopes(NBOTH, NOUTPUTS, NMOVING, OUTPUTS_FROM, OUTPUTS_READ, all, T, F);
  chain_gradient(slopes, T, slope);
}
#endif

FUNCTION void rate_curvature(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                             const real *share, const real *costate, real *F, real *H, real *slope) {
  TAKE_ARRAYS(theta, of_rates, ARRAYS_OF_RATES)
  real w[NBOTH], inner[NINNER], pull[NINPUTS], slopes[NALL];
  network_point scratch;
  join(moving, held, w);
  const network_point *const at = inner_point(w, theta, theta_t, inner, &scratch);
  input_slopes(w, theta, theta_t, P);
  body_curvature(moving, inner, theta, theta_t, share, costate, all, curvature, slopes);
  for (int i = 0; i < TRIANGLE(NBOTH, 0); i++) H[i] = ALL(0);
  expand_networks(SITE_OF_RATES, theta, at, P, slopes + NBOTH, T, pull, H);
  chain_slopes(NBOTH, NOUTPUTS, NMOVING, OUTPUTS_FROM, OUTPUTS_READ, all, T, F);
  chain_curvature(NBOTH, NOUTPUTS, BODY_BENT, curvature, T, H);
  chain_gradient(slopes, T, slope);
#if INPUTS_BENT
  input_curvature(w, theta, theta_t, pull, of_inputs);
  for (int i = 0; i < TRIANGLE(NBOTH, 0); i++) H[i] += of_inputs[i];
#endif
}

#if !IMPLICIT
INLINE void rate_tangent(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                         const real *share, const real *d_moving, const real *d_held, real *d_change) {
  real w[NBOTH], d_w[NBOTH], d_p[NINPUTS], inner[NINNER], d_inner[NINNER];
  network_point scratch;
  network_bends bends;
  network_changes changes;
  join(moving, held, w);
  join(d_moving, d_held, d_w);
  const network_point *const at = inner_point(w, theta, theta_t, inner, &scratch);
  input_tangent(w, theta, theta_t, d_w, d_p);
  copy_reals(d_inner, d_held, NHELD);
  move_networks(SITE_OF_RATES, at, d_p, theta, theta, 0, &bends, &changes, d_inner + NHELD);
  body_tangent(moving, inner, theta, theta_t, share, d_moving, d_inner, d_change);
}
#endif

FUNCTION void rate_gradient(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                            const real *share, const real *costate, const real *d_moving, const real *d_held,
                            const real *d_costate, const real *loss_cost, reals g_theta, reals g_theta_t, real *g,
                            real *before) {
  real w[NBOTH], d_w[NBOTH], d_p[NINPUTS], inner[NINNER], d_inner[NINNER];
  real by_all[NALL], before_all[NALL], bar_p[NINPUTS], bar_d_p[NINPUTS], by_inputs[NBOTH], before_inputs[NBOTH];
  network_point scratch;
  network_bends bends;
  network_changes changes;
  join(moving, held, w);
  join(d_moving, d_held, d_w);
  const network_point *const at = inner_point(w, theta, theta_t, inner, &scratch);
  input_tangent(w, theta, theta_t, d_w, d_p);
  copy_reals(d_inner, d_held, NHELD);
  move_networks(SITE_OF_RATES, at, d_p, theta, theta, 0, &bends, &changes, d_inner + NHELD);
  body_gradient(moving, inner, theta, theta_t, share, costate, d_moving, d_inner, d_costate, loss_cost, g_theta,
                g_theta_t, by_all, before_all);
  networks_gradient(SITE_OF_RATES, at, &bends, d_p, theta, &changes, by_all + NBOTH, before_all + NBOTH, g_theta, bar_p,
                    bar_d_p);
  input_gradient(w, theta, theta_t, bar_d_p, d_w, bar_p, g_theta, g_theta_t, by_inputs, before_inputs);
  EACH(i, NBOTH) g[i] = by_all[i] + by_inputs[i];
  EACH(i, NMOVING) before[i] = before_all[i] + before_inputs[i];
}

/* The change along d_theta and a change of z, of the networks' units and of what the body holds. */
INLINE const network_point *moved_point(const real *w, stored_reals theta, stored_reals theta_t, const real *d_w,
                                        stored_reals d_theta, stored_reals d_theta_t, network_point *scratch,
                                        network_bends *bends, network_changes *changes, real *inner, real *d_inner) {
  real d_p[NINPUTS];
  const network_point *const at = inner_point(w, theta, theta_t, inner, scratch);
  input_change(w, theta, theta_t, d_w, d_theta, d_theta_t, d_p);
  EACH(i, NHELD) d_inner[i] = ALL(0);
  move_networks(SITE_OF_RATES, at, d_p, theta, d_theta, 1, bends, changes, d_inner + NHELD);
  return at;
}

INLINE void join_change(const real *d_moving, real *d_w) {
  copy_reals(d_w, d_moving, NMOVING);
  EACH(i, NHELD) d_w[NMOVING + i] = ALL(0);
}

FUNCTION void rate_change(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *share, const real *d_moving, stored_reals d_theta, stored_reals d_theta_t,
                          real *d_change, real *d_cost) {
  real w[NBOTH], d_w[NBOTH], inner[NINNER], d_inner[NINNER];
  network_point scratch;
  network_bends bends;
  network_changes changes;
  join(moving, held, w);
  join_change(d_moving, d_w);
  moved_point(w, theta, theta_t, d_w, d_theta, d_theta_t, &scratch, &bends, &changes, inner, d_inner);
  body_change(moving, inner, theta, theta_t, share, d_moving, d_inner, d_theta, d_theta_t, d_change, d_cost);
}

FUNCTION void rate_forward(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                           const real *share, const real *costate, const real *d_moving, const real *d_costate,
                           stored_reals d_theta, stored_reals d_theta_t, real *before, real *d_slope) {
  real w[NBOTH], d_w[NBOTH], inner[NINNER], d_inner[NINNER];
  real before_all[NALL], d_all[NALL], pull[NINPUTS], d_pull[NINPUTS], before_inputs[NBOTH], d_inputs[NBOTH];
  network_point scratch;
  network_bends bends;
  network_changes changes;
  join(moving, held, w);
  join_change(d_moving, d_w);
  const network_point *const at =
      moved_point(w, theta, theta_t, d_w, d_theta, d_theta_t, &scratch, &bends, &changes, inner, d_inner);
  body_forward(moving, inner, theta, theta_t, share, costate, d_moving, d_inner, d_costate, d_theta, d_theta_t,
               before_all, d_all);
  networks_forward(SITE_OF_RATES, at, theta, d_theta, &bends, &changes, before_all + NBOTH, d_all + NBOTH, pull,
                   d_pull);
  input_forward(w, theta, theta_t, pull, d_w, d_pull, d_theta, d_theta_t, before_inputs, d_inputs);
  EACH(i, NMOVING) before[i] = before_all[i] + before_inputs[i];
  EACH(i, NBOTH) d_slope[i] = d_all[i] + d_inputs[i];
}

#endif

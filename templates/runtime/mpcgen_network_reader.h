/* Functions k(w, y) of a point w that read a site's networks, y = N(p(w)), by w alone: included for each such site.
 *
 * SITE is its number, WIDTH numbers w, INPUTS p, OUTPUTS y and VALUES k. BODY(name) and INPUT(name) are the functions of
 * the maps k of (w, y) and p of w, OF(name) what is made here. See mpcgen_network_chain.h. */

/* The networks at w; `inner` is (w, y). */
INLINE const network_point *OF(inner_point)(const real *w, stored_reals theta, stored_reals theta_t, real *inner,
                                            network_point *scratch) {
  real p[INPUTS];
  INPUT(values)(w, theta, theta_t, p);
  const network_point *const at = networks_at(SITE, p, theta, scratch);
  copy_reals(inner, w, WIDTH);
  copy_reals(inner + WIDTH, at->y, OUTPUTS);
  return at;
}

FUNCTION void OF(values)(const real *w, stored_reals theta, stored_reals theta_t, real *values) {
  real inner[WIDTH + OUTPUTS];
  network_point scratch;
  OF(inner_point)(w, theta, theta_t, inner, &scratch);
  BODY(values)(inner, theta, theta_t, values);
}

/* F = dk/dw, and the Hessian of multiplier'k, a triangle. */
FUNCTION void OF(expand)(const real *w, stored_reals theta, stored_reals theta_t, const real *multiplier, real *F,
                         real *H) {
  real inner[WIDTH + OUTPUTS], P[INPUTS * WIDTH], T[OUTPUTS * WIDTH], pull[INPUTS], m[OUTPUTS];
  real all[VALUES * (WIDTH + OUTPUTS)];
  network_point scratch;
  const network_point *const at = OF(inner_point)(w, theta, theta_t, inner, &scratch);
  INPUT(slopes)(w, theta, theta_t, P);
  BODY(slopes)(inner, theta, theta_t, all);
  for (int o = 0; o < OUTPUTS; o++) m[o] = ALL(0);
  for (int i = 0; i < VALUES; i++)
    for (int o = 0; o < OUTPUTS; o++) m[o] += multiplier[i] * all[i * (WIDTH + OUTPUTS) + WIDTH + o];
  for (int i = 0; i < TRIANGLE(WIDTH, 0); i++) H[i] = ALL(0);
  expand_networks(SITE, theta, at, P, m, T, pull, H);
  chain_slopes(WIDTH, OUTPUTS, VALUES, all, T, F);
#if OF_BENT
  real curvature[TRIANGLE(WIDTH + OUTPUTS, 0)];
  BODY(curvature)(inner, theta, theta_t, multiplier, curvature);
  chain_curvature(WIDTH, OUTPUTS, 1, curvature, T, H);
#endif
#if OF_INPUTS_BENT
  real of_inputs[TRIANGLE(WIDTH, 0)];
  INPUT(curvature)(w, theta, theta_t, pull, of_inputs);
  for (int i = 0; i < TRIANGLE(WIDTH, 0); i++) H[i] += of_inputs[i];
#endif
}

/* Adds the gradient by theta of d'grad(multiplier'k) + d_multiplier'k; gives that by w. */
FUNCTION void OF(gradient)(const real *w, stored_reals theta, stored_reals theta_t, const real *multiplier,
                           const real *d_w, const real *d_multiplier, reals g_theta, reals g_theta_t, real *g) {
  enum { ALL_OF_THEM = WIDTH + OUTPUTS };
  real inner[ALL_OF_THEM], d_inner[ALL_OF_THEM], by_all[ALL_OF_THEM], before_all[ALL_OF_THEM], before[WIDTH];
  real d_p[INPUTS], bar_p[INPUTS], bar_d_p[INPUTS];
  network_point scratch;
  network_bends bends;
  network_changes changes;
  const network_point *const at = OF(inner_point)(w, theta, theta_t, inner, &scratch);
  INPUT(tangent)(w, theta, theta_t, d_w, d_p);
  copy_reals(d_inner, d_w, WIDTH);
  move_networks(SITE, at, d_p, theta, theta, 0, &bends, &changes, d_inner + WIDTH);
  BODY(gradient)(inner, theta, theta_t, multiplier, d_inner, d_multiplier, g_theta, g_theta_t, by_all, before_all);
  networks_gradient(SITE, at, &bends, d_p, theta, &changes, by_all + WIDTH, before_all + WIDTH, g_theta, bar_p, bar_d_p);
  INPUT(gradient)(w, theta, theta_t, bar_d_p, d_w, bar_p, g_theta, g_theta_t, g, before);
  EACH(i, WIDTH) g[i] += by_all[i];
}

/* The change of k and of the gradient of multiplier'k by w along d_theta. */
FUNCTION void OF(forward)(const real *w, stored_reals theta, stored_reals theta_t, const real *multiplier,
                          stored_reals d_theta, stored_reals d_theta_t, real *d_values, real *d_slope) {
  enum { ALL_OF_THEM = WIDTH + OUTPUTS };
  real inner[ALL_OF_THEM], d_inner[ALL_OF_THEM], before_all[ALL_OF_THEM], d_all[ALL_OF_THEM], before[WIDTH];
  real d_p[INPUTS], pull[INPUTS], d_pull[INPUTS], still[WIDTH], d_multiplier[VALUES];
  network_point scratch;
  network_bends bends;
  network_changes changes;
  EACH(i, WIDTH) still[i] = d_inner[i] = ALL(0);
  EACH(i, VALUES) d_multiplier[i] = ALL(0);
  const network_point *const at = OF(inner_point)(w, theta, theta_t, inner, &scratch);
  INPUT(change)(w, theta, theta_t, still, d_theta, d_theta_t, d_p);
  move_networks(SITE, at, d_p, theta, d_theta, 1, &bends, &changes, d_inner + WIDTH);
  BODY(change)(inner, theta, theta_t, d_inner, d_theta, d_theta_t, d_values);
  BODY(forward)(inner, theta, theta_t, multiplier, d_inner, d_multiplier, d_theta, d_theta_t, before_all, d_all);
  networks_forward(SITE, theta, d_theta, &bends, &changes, before_all + WIDTH, d_all + WIDTH, pull, d_pull);
  INPUT(forward)(w, theta, theta_t, pull, still, d_pull, d_theta, d_theta_t, before, d_slope);
  EACH(i, WIDTH) d_slope[i] += d_all[i];
}

#undef SITE
#undef WIDTH
#undef INPUTS
#undef OUTPUTS
#undef VALUES
#undef BODY
#undef INPUT
#undef OF
#undef OF_BENT
#undef OF_INPUTS_BENT

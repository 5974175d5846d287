/* Functions k(w, y) of a point w that read a site's networks, y = N(p(w)), by w alone: included for each such site.
 *
 * k is a share of a cost, then rows of constraints, ROW[i] of all. SITE is the site's number, WIDTH numbers w, INPUTS p,
 * OUTPUTS y and ROWS the rows. BODY(name) and INPUT(name) are the functions of the maps k of (w, y) and p of w, OF(name)
 * what is made here; ARRAYS_OF and ARRAYS_OF_ITS_MODEL are where their arrays are. See mpcgen_network_chain.h. */

#define VALUES (1 + ROWS)
#define AROUND_NETWORKS(ARRAY) ARRAYS_AROUND(ARRAY, WIDTH, INPUTS, OUTPUTS, VALUES)
#define OF_MODEL(ARRAY) ARRAYS_OF_MODEL(ARRAY, WIDTH, VALUES)
#if ROWS
#define OF_ROWS(...) __VA_ARGS__,
#else
#define OF_ROWS(...)
#endif

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

/* And their change along d_w: `d_inner` is that of `inner`, d_p that of what the networks read. */
INLINE const network_point *OF(inner_change)(const real *w, stored_reals theta, stored_reals theta_t, const real *d_w,
                                             real *inner, real *d_inner, real *d_p, network_point *scratch,
                                             network_bends *bends, network_changes *changes) {
  const network_point *const at = OF(inner_point)(w, theta, theta_t, inner, scratch);
  INPUT(tangent)(w, theta, theta_t, d_w, d_p);
  copy_reals(d_inner, d_w, WIDTH);
  move_networks(SITE, at, d_p, theta, theta, 0, bends, changes, d_inner + WIDTH);
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
  TAKE_ARRAYS(theta, ARRAYS_OF, AROUND_NETWORKS)
  real inner[WIDTH + OUTPUTS], pull[INPUTS], m[OUTPUTS];
  network_point scratch;
  const network_point *const at = OF(inner_point)(w, theta, theta_t, inner, &scratch);
  INPUT(slopes)(w, theta, theta_t, P);
  BODY(slopes)(inner, theta, theta_t, all);
  for (int o = 0; o < OUTPUTS; o++) m[o] = ALL(0);
  for (int i = 0; i < VALUES; i++)
    for (int o = 0; o < OUTPUTS; o++) m[o] += multiplier[i] * all[i * (WIDTH + OUTPUTS) + WIDTH + o];
  for (int i = 0; i < TRIANGLE(WIDTH, 0); i++) H[i] = ALL(0);
  expand_networks(SITE, theta, at, P, m, T, pull, H);
  chain_slopes(WIDTH, OUTPUTS, VALUES, 0, 0, all, T, F);
#if OF_BENT
  BODY(curvature)(inner, theta, theta_t, multiplier, curvature);
  chain_curvature(WIDTH, OUTPUTS, 1, curvature, T, H);
#endif
#if OF_INPUTS_BENT
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
  const network_point *const at = OF(inner_change)(w, theta, theta_t, d_w, inner, d_inner, d_p, &scratch, &bends, &changes);
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
  networks_forward(SITE, at, theta, d_theta, &bends, &changes, before_all + WIDTH, d_all + WIDTH, pull, d_pull);
  INPUT(forward)(w, theta, theta_t, pull, still, d_pull, d_theta, d_theta_t, before, d_slope);
  EACH(i, WIDTH) d_slope[i] += d_all[i];
}

/* ---- what k adds to a cost, to rows and to their derivatives ---- */

INLINE void OF(add_cost)(const real *w, stored_reals theta, stored_reals theta_t, real *cost) {
  real values[VALUES];
  OF(values)(w, theta, theta_t, values);
  *cost += values[0];
}

/* What multiplies k: 1, then the rows' multipliers. */
INLINE void OF(multipliers)(OF_ROWS(in_reals dual) real *multiplier) {
  multiplier[0] = ALL(1);
#if ROWS
  EACH(i, ROWS) multiplier[1 + i] = dual[ROW[i]];
#endif
}

/* Adds the Hessian of cost + weight dual'rows and J'stiffness J, J = d(rows)/dw, to H, the gradient of cost + dual'rows to
 * `slope`, and J'force to `offset`. */
FUNCTION void OF(add_model)(const real *w, stored_reals theta, stored_reals theta_t,
                            OF_ROWS(real weight, const real *dual, const real *stiffness, const real *force) real *H,
                            real *slope, real *offset) {
  TAKE_ARRAYS(theta, ARRAYS_OF_ITS_MODEL, OF_MODEL)
  real multiplier[VALUES];
  OF(multipliers)(OF_ROWS(dual) multiplier);
#if ROWS
  EACH(i, ROWS) multiplier[1 + i] *= weight;
#endif
  OF(expand)(w, theta, theta_t, multiplier, F, curvature);
  for (int i = 0; i < TRIANGLE(WIDTH, 0); i++) H[i] += curvature[i];
  EACH(j, WIDTH) slope[j] = F[j], offset[j] = ALL(0);
#if ROWS
  for (int i = 0; i < ROWS; i++) {
    const real *const row = F + (1 + i) * WIDTH;
    const real by_dual = dual[ROW[i]], by_force = force[ROW[i]], by_stiffness = stiffness[ROW[i]];
    EACH(j, WIDTH) {
      slope[j] += by_dual * row[j];
      offset[j] += by_force * row[j];
      for (int l = 0; l <= j; l++) H[TRIANGLE(j, l)] += by_stiffness * row[j] * row[l];
    }
  }
#endif
}

/* Adds the gradient by theta of d'grad(cost + dual'rows) + d_dual'rows + loss_cost (cost + dual'rows); gives that by w. */
FUNCTION void OF(add_gradient)(const real *w, stored_reals theta, stored_reals theta_t, OF_ROWS(stored_reals dual)
                               const real *d_w, OF_ROWS(stored_reals d_dual) const real *loss_cost, reals g_theta,
                               reals g_theta_t, real *g) {
  real multiplier[VALUES], d_multiplier[VALUES];
  OF(multipliers)(OF_ROWS(dual) multiplier);
  EACH(i, VALUES) d_multiplier[i] = *loss_cost * multiplier[i];
#if ROWS
  EACH(i, ROWS) d_multiplier[1 + i] += d_dual[ROW[i]];
#endif
  OF(gradient)(w, theta, theta_t, multiplier, d_w, d_multiplier, g_theta, g_theta_t, g);
}

/* Adds the change along d_theta of cost + dual'rows, and of the rows; gives that of the gradient by w. */
FUNCTION void OF(add_forward)(const real *w, stored_reals theta, stored_reals theta_t, OF_ROWS(stored_reals dual)
                              stored_reals d_theta, stored_reals d_theta_t, OF_ROWS(reals d_rows) real *d_cost,
                              real *d_slope) {
  real multiplier[VALUES], d_values[VALUES];
  OF(multipliers)(OF_ROWS(dual) multiplier);
  OF(forward)(w, theta, theta_t, multiplier, d_theta, d_theta_t, d_values, d_slope);
  EACH(i, VALUES) *d_cost += multiplier[i] * d_values[i];
#if ROWS
  EACH(i, ROWS) d_rows[ROW[i]] += d_values[1 + i];
#endif
}

#if ROWS
INLINE void OF(add_rows)(const real *w, stored_reals theta, stored_reals theta_t, out_reals rows) {
  real values[VALUES];
  OF(values)(w, theta, theta_t, values);
  EACH(i, ROWS) rows[ROW[i]] += values[1 + i];
}

/* Adds J d_w. */
INLINE void OF(add_tangent)(const real *w, stored_reals theta, stored_reals theta_t, const real *d_w, out_reals d_rows) {
  real inner[WIDTH + OUTPUTS], d_inner[WIDTH + OUTPUTS], d_p[INPUTS], d_values[VALUES];
  network_point scratch;
  network_bends bends;
  network_changes changes;
  OF(inner_change)(w, theta, theta_t, d_w, inner, d_inner, d_p, &scratch, &bends, &changes);
  BODY(tangent)(inner, theta, theta_t, d_inner, d_values);
  EACH(i, ROWS) d_rows[ROW[i]] += d_values[1 + i];
}
#endif

#undef SITE
#undef WIDTH
#undef INPUTS
#undef OUTPUTS
#undef ROWS
#undef ROW
#undef VALUES
#undef AROUND_NETWORKS
#undef OF_MODEL
#undef ARRAYS_OF
#undef ARRAYS_OF_ITS_MODEL
#undef OF_ROWS
#undef BODY
#undef INPUT
#undef OF
#undef OF_BENT
#undef OF_INPUTS_BENT

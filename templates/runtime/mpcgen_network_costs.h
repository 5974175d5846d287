/* Costs that read networks: what these add to the functions of a stage and of the last state.
 *
 * A stage's is priced(w, y) with w = (x, u), the last state's of w = x; the other terms are in the outer functions. */
#ifndef MPCGEN_NETWORK_COSTS_H
#define MPCGEN_NETWORK_COSTS_H

#include "mpcgen_network_chain.h"
#include "mpcgen_stage.h"

#if PRICED_STAGE
#define SITE SITE_OF_STAGES
#define WIDTH NTAU
#define INPUTS STAGE_INPUTS
#define OUTPUTS STAGE_OUTPUTS
#define VALUES 1
#define BODY(name) priced_##name
#define INPUT(name) priced_input_##name
#define OF(name) stage_price_##name
#define OF_BENT STAGE_BENT
#define OF_INPUTS_BENT STAGE_INPUTS_BENT
#include "mpcgen_network_reader.h"

INLINE void stage_point(in_reals state, in_reals control, real *w) {
  EACH(i, NX) w[i] = state[i];
  EACH(i, NU) w[NX + i] = control[i];
}

FUNCTION void add_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t, real *cost) {
  real w[NTAU], price;
  stage_point(state, control, w);
  stage_price_values(w, theta, theta_t, &price);
  *cost += price;
}

FUNCTION void expand_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                           stage_model *restrict q) {
  const real one = ALL(1);
  real w[NTAU], slope[NTAU], H[TRIANGLE(NTAU, 0)];
  stage_point(state, control, w);
  stage_price_expand(w, theta, theta_t, &one, slope, H);
  for (int i = 0; i < TRIANGLE(NTAU, 0); i++) q->hessian[i] += H[i];
  EACH(i, NX) q->costate[i] += slope[i];
  EACH(i, NU) q->gradient_u[i] += slope[NX + i];
}

FUNCTION void gradient_of_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                                const real *restrict d_state, const real *restrict d_control,
                                const real *restrict loss_cost, reals g_theta, reals g_theta_t, real *restrict g_control) {
  const real one = ALL(1);
  real w[NTAU], d_w[NTAU], g[NTAU];
  stage_point(state, control, w);
  copy_reals(d_w, d_state, NX);
  copy_reals(d_w + NX, d_control, NU);
  stage_price_gradient(w, theta, theta_t, &one, d_w, loss_cost, g_theta, g_theta_t, g);
  EACH(i, NU) g_control[i] += g[NX + i];
}

FUNCTION void forward_of_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                               stored_reals d_theta, stored_reals d_theta_t, reals r_state, reals r_control,
                               real *restrict d_cost) {
  const real one = ALL(1);
  real w[NTAU], d_price, d_slope[NTAU];
  stage_point(state, control, w);
  stage_price_forward(w, theta, theta_t, &one, d_theta, d_theta_t, &d_price, d_slope);
  *d_cost += d_price;
  EACH(i, NX) r_state[i] += d_slope[i];
  EACH(i, NU) r_control[i] += d_slope[NX + i];
}
#endif

#if PRICED_END
#define SITE SITE_OF_ENDS
#define WIDTH NX
#define INPUTS END_INPUTS
#define OUTPUTS END_OUTPUTS
#define VALUES 1
#define BODY(name) end_priced_##name
#define INPUT(name) end_input_##name
#define OF(name) end_price_##name
#define OF_BENT END_BENT
#define OF_INPUTS_BENT END_INPUTS_BENT
#include "mpcgen_network_reader.h"

INLINE void end_point(in_reals state, real *w) { EACH(i, NX) w[i] = state[i]; }

FUNCTION void add_end_price(stored_reals state, stored_reals theta, stored_reals theta_t, real *cost) {
  real w[NX], price;
  end_point(state, w);
  end_price_values(w, theta, theta_t, &price);
  *cost += price;
}

FUNCTION void expand_end_price(stored_reals state, stored_reals theta, stored_reals theta_t, real *restrict hessian,
                               real *restrict costate) {
  const real one = ALL(1);
  real w[NX], slope[NX], H[NXX];
  end_point(state, w);
  end_price_expand(w, theta, theta_t, &one, slope, H);
  for (int i = 0; i < NXX; i++) hessian[i] += H[i];
  EACH(i, NX) costate[i] += slope[i];
}

FUNCTION void gradient_of_end_price(stored_reals state, stored_reals theta, stored_reals theta_t,
                                    const real *restrict d_state, const real *restrict loss_cost, reals g_theta,
                                    reals g_theta_t) {
  const real one = ALL(1);
  real w[NX], g[NX];
  end_point(state, w);
  end_price_gradient(w, theta, theta_t, &one, d_state, loss_cost, g_theta, g_theta_t, g);
}

FUNCTION void forward_of_end_price(stored_reals state, stored_reals theta, stored_reals theta_t, stored_reals d_theta,
                                   stored_reals d_theta_t, reals r_state, real *restrict d_cost) {
  const real one = ALL(1);
  real w[NX], d_price, d_slope[NX];
  end_point(state, w);
  end_price_forward(w, theta, theta_t, &one, d_theta, d_theta_t, &d_price, d_slope);
  *d_cost += d_price;
  EACH(i, NX) r_state[i] += d_slope[i];
}
#endif

#endif

/* Costs and rows of constraints that read networks: what these add to the functions of a stage and of the last state.
 *
 * A stage's are functions of w = (x, u), the last state's of w = x; all other terms and rows are in the outer functions,
 * which have zeros for these rows. */
#ifndef MPCGEN_NETWORK_COSTS_H
#define MPCGEN_NETWORK_COSTS_H

#include "mpcgen_network_chain.h"
#include "mpcgen_stage.h"

#if PRICED_STAGE
#if STAGE_ROWS
#define OF_STAGE_ROWS(...) __VA_ARGS__,
#else
#define OF_STAGE_ROWS(...)
#endif
#define SITE SITE_OF_STAGES
#define WIDTH NTAU
#define INPUTS STAGE_INPUTS
#define OUTPUTS STAGE_OUTPUTS
#define ROWS STAGE_ROWS
#define ROW STAGE_ROW
#define BODY(name) priced_##name
#define INPUT(name) priced_input_##name
#define OF(name) stage_price_##name
#define ARRAYS_OF of_stage
#define ARRAYS_OF_ITS_MODEL of_stage_model
#define OF_BENT STAGE_BENT
#define OF_INPUTS_BENT STAGE_INPUTS_BENT
#include "mpcgen_network_reader.h"

INLINE void stage_point(in_reals state, in_reals control, real *w) {
  EACH(i, NX) w[i] = state[i];
  EACH(i, NU) w[NX + i] = control[i];
}

FUNCTION void add_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t, real *cost) {
  real w[NTAU];
  stage_point(state, control, w);
  stage_price_add_cost(w, theta, theta_t, cost);
}

FUNCTION void expand_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                           OF_STAGE_ROWS(real weight, const real *dual, const real *stiffness, const real *force)
                           stage_model *restrict q) {
  real w[NTAU], slope[NTAU], offset[NTAU];
  stage_point(state, control, w);
  stage_price_add_model(w, theta, theta_t, OF_STAGE_ROWS(weight, dual, stiffness, force) q->hessian, slope, offset);
  EACH(i, NX) q->costate[i] += slope[i];
  EACH(i, NU) q->gradient_u[i] += slope[NX + i];
#if STAGE_ROWS
  EACH(i, NX) q->offset_x[i] += offset[i];
  EACH(i, NU) q->offset_u[i] += offset[NX + i];
#endif
}

FUNCTION void gradient_of_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                                OF_STAGE_ROWS(stored_reals dual) const real *restrict d_state,
                                const real *restrict d_control, OF_STAGE_ROWS(stored_reals d_dual)
                                const real *restrict loss_cost, reals g_theta, reals g_theta_t, real *restrict g_control) {
  real w[NTAU], d_w[NTAU], g[NTAU];
  stage_point(state, control, w);
  copy_reals(d_w, d_state, NX);
  copy_reals(d_w + NX, d_control, NU);
  stage_price_add_gradient(w, theta, theta_t, OF_STAGE_ROWS(dual) d_w, OF_STAGE_ROWS(d_dual) loss_cost, g_theta,
                           g_theta_t, g);
  EACH(i, NU) g_control[i] += g[NX + i];
}

FUNCTION void forward_of_price(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                               OF_STAGE_ROWS(stored_reals dual) stored_reals d_theta, stored_reals d_theta_t,
                               reals r_state, reals r_control, OF_STAGE_ROWS(reals d_rows) real *restrict d_cost) {
  real w[NTAU], d_slope[NTAU];
  stage_point(state, control, w);
  stage_price_add_forward(w, theta, theta_t, OF_STAGE_ROWS(dual) d_theta, d_theta_t, OF_STAGE_ROWS(d_rows) d_cost,
                          d_slope);
  EACH(i, NX) r_state[i] += d_slope[i];
  EACH(i, NU) r_control[i] += d_slope[NX + i];
}

#if STAGE_ROWS
INLINE void add_stage_rows(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                           out_reals rows) {
  real w[NTAU];
  stage_point(state, control, w);
  stage_price_add_rows(w, theta, theta_t, rows);
}

INLINE void add_stage_tangent(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                              in_reals d_state, in_reals d_control, out_reals d_rows) {
  real w[NTAU], d_w[NTAU];
  stage_point(state, control, w);
  stage_point(d_state, d_control, d_w);
  stage_price_add_tangent(w, theta, theta_t, d_w, d_rows);
}
#endif
#endif

#if PRICED_END
#if END_ROWS
#define OF_END_ROWS(...) __VA_ARGS__,
#else
#define OF_END_ROWS(...)
#endif
#define SITE SITE_OF_ENDS
#define WIDTH NX
#define INPUTS END_INPUTS
#define OUTPUTS END_OUTPUTS
#define ROWS END_ROWS
#define ROW END_ROW
#define BODY(name) end_priced_##name
#define INPUT(name) end_input_##name
#define OF(name) end_price_##name
#define ARRAYS_OF of_end
#define ARRAYS_OF_ITS_MODEL of_end_model
#define OF_BENT END_BENT
#define OF_INPUTS_BENT END_INPUTS_BENT
#include "mpcgen_network_reader.h"

INLINE void end_point(in_reals state, real *w) { EACH(i, NX) w[i] = state[i]; }

FUNCTION void add_end_price(stored_reals state, stored_reals theta, stored_reals theta_t, real *cost) {
  real w[NX];
  end_point(state, w);
  end_price_add_cost(w, theta, theta_t, cost);
}

FUNCTION void expand_end_price(stored_reals state, stored_reals theta, stored_reals theta_t,
                               OF_END_ROWS(real weight, const real *dual, const real *stiffness, const real *force)
                               real *restrict hessian, OF_END_ROWS(real *restrict offset) real *restrict costate) {
  real w[NX], slope[NX], along_force[NX];
  end_point(state, w);
  end_price_add_model(w, theta, theta_t, OF_END_ROWS(weight, dual, stiffness, force) hessian, slope, along_force);
  EACH(i, NX) costate[i] += slope[i];
#if END_ROWS
  EACH(i, NX) offset[i] += along_force[i];
#endif
}

FUNCTION void gradient_of_end_price(stored_reals state, stored_reals theta, stored_reals theta_t,
                                    OF_END_ROWS(stored_reals dual) const real *restrict d_state,
                                    OF_END_ROWS(stored_reals d_dual) const real *restrict loss_cost, reals g_theta,
                                    reals g_theta_t) {
  real w[NX], g[NX];
  end_point(state, w);
  end_price_add_gradient(w, theta, theta_t, OF_END_ROWS(dual) d_state, OF_END_ROWS(d_dual) loss_cost, g_theta, g_theta_t,
                         g);
}

FUNCTION void forward_of_end_price(stored_reals state, stored_reals theta, stored_reals theta_t,
                                   OF_END_ROWS(stored_reals dual) stored_reals d_theta, stored_reals d_theta_t,
                                   reals r_state, OF_END_ROWS(reals d_rows) real *restrict d_cost) {
  real w[NX], d_slope[NX];
  end_point(state, w);
  end_price_add_forward(w, theta, theta_t, OF_END_ROWS(dual) d_theta, d_theta_t, OF_END_ROWS(d_rows) d_cost, d_slope);
  EACH(i, NX) r_state[i] += d_slope[i];
}

#if END_ROWS
INLINE void add_end_rows(stored_reals state, stored_reals theta, stored_reals theta_t, out_reals rows) {
  real w[NX];
  end_point(state, w);
  end_price_add_rows(w, theta, theta_t, rows);
}

INLINE void add_end_tangent(stored_reals state, stored_reals theta, stored_reals theta_t, in_reals d_state,
                            out_reals d_rows) {
  real w[NX], d_w[NX];
  end_point(state, w);
  end_point(d_state, d_w);
  end_price_add_tangent(w, theta, theta_t, d_w, d_rows);
}
#endif
#endif

#endif

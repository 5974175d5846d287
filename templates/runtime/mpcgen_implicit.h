/* One step of an implicit Runge-Kutta scheme, and its derivatives, composed of those of the right-hand side.
 *
 * z are the moving states and v what the step holds. The stages' states Z_i solve the equations of
 * mpcgen_stage_equations.h. The step goes to phi = START z + sum of FINAL[i] Z_i and costs c = sum of SHARE[i] c(Z_i, v).
 * A trace has z, then all Z_i.
 *
 * Derivatives are those of the solution: changes of Z solve the linearised equations, M dZ = E dz + sum of a_ij (dk_j
 * without dZ). Backwards, nu with M'nu = FINAL[i] lambda + d(SHARE[i] c)/dZ_i gives what multiplies k_j in the Lagrangian,
 * eta_j = sum of a_ij nu_i; then E nu_i is the gradient by Z_i of L_i = SHARE[i] c + eta_i'k, beside FINAL[i] lambda, so
 * that the gradient of c + lambda'phi by (z, v) is (lambda, 0) and the gradients of all L_i by (Z_i, v). Its second
 * derivatives are the sum of P_i'S_i P_i, with S_i those of L_i and P_i = d(Z_i, v)/d(z, v).
 */
#ifndef MPCGEN_IMPLICIT_H
#define MPCGEN_IMPLICIT_H

#include "mpcgen_stage_equations.h"

enum { STEP_TRACE = NMOVING + NUNKNOWNS };

/* Fills what a trace has besides the state that the step starts from. */
INLINE void complete_trace(real *trace, const real *held, stored_reals theta, stored_reals theta_t) {
  solve_stage_equations(trace, held, theta, theta_t, trace + NMOVING);
}

INLINE void step_values(real *trace, const real *held, stored_reals theta, stored_reals theta_t, real *next,
                        real *cost) {
  complete_trace(trace, held, theta, theta_t);
  last_of(trace, trace + NMOVING, 1, next);
  *cost = ALL(0);
#if SUBSTEP_COSTS
  real change[NMOVING], part;
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i);
    rate_values(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, change, &part);
    *cost += part;
  }
#endif
}

/* The linearised equations: A_i = dk/d(z, v) at Z_i, the gradients of SHARE[i] c, and the factors of the matrix. */
typedef struct {
  real A[NUNKNOWNS * NBOTH], cost_slopes[NSLOPES * NBOTH];
  stage_factors factors;
} linear_stages;

FUNCTION void linearise_stages(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                               linear_stages *s) {
  real nothing[NMOVING];
  EACH(j, NMOVING) nothing[j] = ALL(0);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i);
    rate_slopes(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, nothing, s->A + i * NMOVING * NBOTH,
                s->cost_slopes + i * NBOTH);
  }
  assemble_stages(s->A, NBOTH, ALL(1), s->factors.matrix);
  factor_stages(&s->factors);
}

/* right_i = E first + sum of a_ij changes_j. */
INLINE void stage_sums(const real *first, const real *changes, real *right) {
  for (int i = 0; i < NSLOPES; i++)
    for (int r = 0; r < NMOVING; r++) {
      real sum = ALL(MASS[r]) * first[r];
      for (int j = 0; j < NSLOPES; j++) sum += stage_weight(i, j) * changes[j * NMOVING + r];
      right[i * NMOVING + r] = sum;
    }
}

/* X_i = dZ_i/d(z, v), (NSLOPES, NMOVING, NBOTH), and F = d phi/d(z, v). */
FUNCTION void slopes_of_stages(const linear_stages *s, real *X, real *F) {
  real first[NMOVING * NBOTH];
  for (int r = 0; r < NMOVING; r++)
    for (int c = 0; c < NBOTH; c++) first[r * NBOTH + c] = ALL(c == r);
  for (int i = 0; i < NSLOPES; i++)
    for (int r = 0; r < NMOVING; r++) {
      real *const right = X + (i * NMOVING + r) * NBOTH;
      for (int c = 0; c < NMOVING; c++) right[c] = ALL(MASS[r] * (c == r));
      for (int c = NMOVING; c < NBOTH; c++) {
        right[c] = ALL(0);
        for (int j = 0; j < NSLOPES; j++) right[c] += stage_weight(i, j) * s->A[(j * NMOVING + r) * NBOTH + c];
      }
    }
  solve_stages(&s->factors, X, NBOTH);
  last_of(first, X, NBOTH, F);
}

/* eta: what multiplies the slopes where `last` multiplies phi, and the stages' states have further gradients, `width`
 * apart. */
FUNCTION void stage_multipliers(const linear_stages *s, const real *last, const real *further, int width, real *eta) {
  real nu[NUNKNOWNS];
  for (int i = 0; i < NSLOPES; i++)
    for (int r = 0; r < NMOVING; r++) nu[i * NMOVING + r] = final_share(i) * last[r] + further[i * width + r];
  solve_stages_transposed(&s->factors, nu);
  for (int j = 0; j < NSLOPES; j++)
    for (int r = 0; r < NMOVING; r++) {
      real sum = ALL(0);
      for (int i = 0; i < NSLOPES; i++) sum += stage_weight(i, j) * nu[i * NMOVING + r];
      eta[j * NMOVING + r] = sum;
    }
}

/* A gradient by (z, v), of what has the gradient `last` by the end of the step, before the slopes' part. */
INLINE void begin_slope(const real *last, real *slope) {
  EACH(j, NBOTH) slope[j] = j < NMOVING ? last[j] : ALL(0);
}

/* slope += sum of A_i'eta_i. */
INLINE void add_multiplied(const linear_stages *s, const real *eta, real *slope) {
  for (int r = 0; r < NUNKNOWNS; r++)
    for (int j = 0; j < NBOTH; j++) slope[j] += s->A[r * NBOTH + j] * eta[r];
}

#if !SUBSTEP_COSTS
/* F = d phi/d(z, v), and the gradient of lambda'phi by (z, v). */
FUNCTION void step_slopes(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *costate, real *F, real *slope) {
  linear_stages s;
  real X[NUNKNOWNS * NBOTH], eta[NUNKNOWNS];
  linearise_stages(trace, held, theta, theta_t, &s);
  slopes_of_stages(&s, X, F);
  stage_multipliers(&s, costate, s.cost_slopes, NBOTH, eta);
  begin_slope(costate, slope);
  add_multiplied(&s, eta, slope);
}
#endif

/* F, the Hessian of c + lambda'phi (lower triangle), and its gradient by (z, v). */
FUNCTION void step_curvature(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                             const real *costate, real *F, real *H, real *slope) {
  linear_stages s;
  real X[NUNKNOWNS * NBOTH], eta[NUNKNOWNS], again[NMOVING * NBOTH], S[TRIANGLE(NBOTH, 0)], part[NBOTH];
  real full[NBOTH * NBOTH], product[NBOTH * NBOTH];
  linearise_stages(trace, held, theta, theta_t, &s);
  slopes_of_stages(&s, X, F);
  stage_multipliers(&s, costate, s.cost_slopes, NBOTH, eta);
  begin_slope(costate, slope);
  for (int j = 0; j < TRIANGLE(NBOTH, 0); j++) H[j] = ALL(0);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i);
    rate_curvature(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, eta + i * NMOVING, again, S, part);
    EACH(j, NBOTH) slope[j] += part[j];
    unfold(S, full);
    chain(full, NBOTH, X + i * NMOVING * NBOTH, product);
    curve(product, X + i * NMOVING * NBOTH, H);
  }
}

/* Changes of the stages' states, where v changes by d_held. */
INLINE void stage_tangents(const linear_stages *s, const real *d_moving, const real *d_held, real *d_points) {
  real changes[NUNKNOWNS];
  for (int r = 0; r < NUNKNOWNS; r++) {
    changes[r] = ALL(0);
    for (int c = 0; c < NHELD; c++) changes[r] += s->A[r * NBOTH + NMOVING + c] * d_held[c];
  }
  stage_sums(d_moving, changes, d_points);
  solve_stages(&s->factors, d_points, 1);
}

/* phi and its change along d. */
FUNCTION void step_tangent(real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                           const real *d_moving, const real *d_held, real *next, real *d_next) {
  linear_stages s;
  real d_points[NUNKNOWNS];
  complete_trace(trace, held, theta, theta_t);
  last_of(trace, trace + NMOVING, 1, next);
  linearise_stages(trace, held, theta, theta_t, &s);
  stage_tangents(&s, d_moving, d_held, d_points);
  last_of(d_moving, d_points, 1, d_next);
}

/* Adds the gradient by theta of d'grad(c + lambda'phi) + d_lambda'phi + loss_cost (c + lambda'phi); gives that by
 * (z, v), and the gradient of c + lambda'phi by z. What multiplies the slopes' changes is eta; what multiplies the slopes
 * is loss_cost eta and what the second derivatives along d ask for, d_eta. */
FUNCTION void step_gradient(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                            const real *costate, const real *d_moving, const real *d_held, const real *d_costate,
                            const real *loss_cost, reals g_theta, reals g_theta_t, real *g, real *before) {
  linear_stages s;
  real d_points[NUNKNOWNS], eta[NUNKNOWNS], d_eta[NUNKNOWNS], along[NSLOPES * NBOTH], part[NBOTH], slope[NMOVING];
  real nothing[NBOTH];
  const real none = ALL(0);
  EACH(j, NBOTH) nothing[j] = ALL(0);
  linearise_stages(trace, held, theta, theta_t, &s);
  stage_tangents(&s, d_moving, d_held, d_points);
  stage_multipliers(&s, costate, s.cost_slopes, NBOTH, eta);
  EACH(j, NMOVING) before[j] = costate[j];
  EACH(j, NBOTH) g[j] = j < NMOVING ? d_costate[j] + *loss_cost * costate[j] : ALL(0);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i);
    rate_gradient(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, eta + i * NMOVING, d_points + i * NMOVING,
                  d_held, nothing, &none, g_theta, g_theta_t, along + i * NBOTH, slope);
    EACH(j, NMOVING) before[j] += slope[j];
    EACH(j, NBOTH) g[j] += along[i * NBOTH + j];
  }
  stage_multipliers(&s, d_costate, along, NBOTH, d_eta);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) { /* linear in what is nothing here and was not above */
    const real share = slope_share(i);
    rate_gradient(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, eta + i * NMOVING, nothing, nothing,
                  d_eta + i * NMOVING, loss_cost, g_theta, g_theta_t, part, slope);
    EACH(j, NBOTH) g[j] += part[j];
  }
}

/* Changes of the stages' states along d_theta and a change of z. */
FUNCTION void stage_changes(const linear_stages *s, const real *trace, const real *held, stored_reals theta,
                            stored_reals theta_t, const real *d_moving, stored_reals d_theta, stored_reals d_theta_t,
                            real *d_points) {
  real changes[NUNKNOWNS], nothing[NMOVING], part;
  EACH(j, NMOVING) nothing[j] = ALL(0);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i);
    rate_change(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, nothing, d_theta, d_theta_t,
                changes + i * NMOVING, &part);
  }
  stage_sums(d_moving, changes, d_points);
  solve_stages(&s->factors, d_points, 1);
}

/* phi, and the change of phi and c along d_theta and a change of z. */
FUNCTION void step_change(real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *d_moving, stored_reals d_theta, stored_reals d_theta_t, real *next, real *d_next,
                          real *d_cost) {
  linear_stages s;
  real d_points[NUNKNOWNS], d_change[NMOVING], part;
  complete_trace(trace, held, theta, theta_t);
  last_of(trace, trace + NMOVING, 1, next);
  linearise_stages(trace, held, theta, theta_t, &s);
  stage_changes(&s, trace, held, theta, theta_t, d_moving, d_theta, d_theta_t, d_points);
  last_of(d_moving, d_points, 1, d_next);
  *d_cost = ALL(0);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i);
    rate_change(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, d_points + i * NMOVING, d_theta, d_theta_t,
                d_change, &part);
    *d_cost += part;
  }
}

/* The gradient of c + lambda'phi by z, and the change of that by (z, v) along d_theta, d_lambda and a change of z. */
FUNCTION void step_forward(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                           const real *costate, const real *d_moving, const real *d_costate, stored_reals d_theta,
                           stored_reals d_theta_t, real *before, real *d_slope) {
  linear_stages s;
  real d_points[NUNKNOWNS], eta[NUNKNOWNS], d_eta[NUNKNOWNS], along[NSLOPES * NBOTH], slope[NMOVING], nothing[NMOVING];
  EACH(j, NMOVING) nothing[j] = ALL(0);
  linearise_stages(trace, held, theta, theta_t, &s);
  stage_changes(&s, trace, held, theta, theta_t, d_moving, d_theta, d_theta_t, d_points);
  stage_multipliers(&s, costate, s.cost_slopes, NBOTH, eta);
  EACH(j, NMOVING) before[j] = costate[j];
  begin_slope(d_costate, d_slope);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i);
    rate_forward(trace + (i + 1) * NMOVING, held, theta, theta_t, &share, eta + i * NMOVING, d_points + i * NMOVING,
                 nothing, d_theta, d_theta_t, slope, along + i * NBOTH);
    EACH(j, NMOVING) before[j] += slope[j];
    EACH(j, NBOTH) d_slope[j] += along[i * NBOTH + j];
  }
  stage_multipliers(&s, d_costate, along, NBOTH, d_eta);
  add_multiplied(&s, d_eta, d_slope);
}

#endif

/* One step of an explicit Runge-Kutta scheme, and its derivatives, composed of those of the right-hand side.
 *
 * z are the moving states and v what the step holds. Slope i, the change k_i = k(z_i, v) in a step's time, is taken at
 * z_i = z + REACH[i] k_(i-1). The step goes to phi = z + sum of SHARE[i] k_i and costs c = sum of SHARE[i] c(z_i, v).
 *
 * Backwards, what multiplies k_i is SHARE[i] lambda + REACH[i+1] (what multiplies z_(i+1)), and the second derivatives
 * of c + lambda'phi are the sum of P_i' S_i P_i, with S_i those of SHARE[i] c + (multiplier of k_i)'k at (z_i, v) and
 * P_i = d(z_i, v)/d(z, v).
 */
#ifndef MPCGEN_RUNGE_KUTTA_H
#define MPCGEN_RUNGE_KUTTA_H

#include "mpcgen_step_products.h"

/* What is kept of a step: where its slopes are taken, the first at the state that it starts from; or that state alone,
 * where all steps' points would be much, or a thread of a device kept them. */
#if MPCGEN_CUDA
#define KEEPS_POINTS 0
#else
#define KEEPS_POINTS (SUBSTEPS * NSLOPES * NMOVING <= 2048)
#endif
enum { STEP_TRACE = KEEPS_POINTS ? NSLOPES * NMOVING : NMOVING };

INLINE real slope_reach(int i) { return ALL(i < NSLOPES ? REACH[i] : 0); }

/* Where the slopes are taken, (NSLOPES, NMOVING), and the sum of the first `count`, which the points of the next ones
 * need; returns the cost of these. */
INLINE real step_points(const real *moving, const real *held, stored_reals theta, stored_reals theta_t, int count,
                        real *points, real *sum) {
  real change[NMOVING], total = ALL(0), part;
  EACH(j, NMOVING) change[j] = sum[j] = ALL(0);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i), reach = slope_reach(i);
    real *const at = points + i * NMOVING;
    EACH(j, NMOVING) at[j] = moving[j] + reach * change[j];
    if (i == count) break;
    rate_values(at, held, theta, theta_t, &share, change, &part);
    EACH(j, NMOVING) sum[j] += share * change[j];
    total += part;
  }
  return total;
}

/* Where the slopes of a step are taken; `scratch`: for points that its trace does not have. */
INLINE const real *points_of(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                             real *scratch) {
#if KEEPS_POINTS
  (void)held, (void)theta, (void)theta_t, (void)scratch;
  return trace;
#else
  real sum[NMOVING];
  step_points(trace, held, theta, theta_t, NSLOPES - 1, scratch, sum);
  return scratch;
#endif
}

INLINE void step_values(real *trace, const real *held, stored_reals theta, stored_reals theta_t, real *next,
                        real *cost) {
  real points[NSLOPES * NMOVING], sum[NMOVING];
  *cost = step_points(trace, held, theta, theta_t, NSLOPES, KEEPS_POINTS ? trace : points, sum);
  EACH(j, NMOVING) next[j] = trace[j] + sum[j];
}

/* Fills what a trace has besides the state that the step starts from. */
INLINE void complete_trace(real *trace, const real *held, stored_reals theta, stored_reals theta_t) {
#if KEEPS_POINTS
  real sum[NMOVING];
  step_points(trace, held, theta, theta_t, NSLOPES - 1, trace, sum);
#endif
  (void)trace, (void)held, (void)theta, (void)theta_t;
}

/* What multiplies k_i: lambda by its share, and by its reach what multiplies the next slope's point. */
INLINE void slope_multiplier(int i, const real *last, const real *point, real *multiplier) {
  const real share = slope_share(i), reach = slope_reach(i + 1);
  EACH(j, NMOVING) multiplier[j] = share * last[j] + reach * point[j];
}

/* Follows the slopes forwards, with A_i = dk/d(z, v) at (z_i, v) from `A` on: F = d phi/d(z, v), and after each slope
 * but the first, whose P is the identity, H += P'SP. */
ALWAYS_INLINE void compose_slopes(stored_reals theta, const real *A, const real *S, real *F, real *H) {
  TAKE_ARRAYS(theta, of_composition, ARRAYS_OF_COMPOSITION)
  (void)theta;
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i), reach = slope_reach(i);
    const real *const Ai = A + i * NMOVING * NBOTH;
    if (i == 0) {
      copy_reals(dk, Ai, NMOVING * NBOTH);
      for (int j = 0; j < NMOVING * NBOTH; j++) F[j] = share * dk[j];
      for (int j = 0; j < NMOVING; j++) F[j * NBOTH + j] += ALL(1);
      continue;
    }
    for (int j = 0; j < NMOVING * NBOTH; j++) P[j] = reach * dk[j];
    for (int j = 0; j < NMOVING; j++) P[j * NBOTH + j] += ALL(1);
    chain(Ai, NMOVING, P, dk);
    for (int j = 0; j < NMOVING * NBOTH; j++) F[j] += share * dk[j];
    if (!H) continue;
    unfold(S + i * TRIANGLE(NBOTH, 0), full);
    chain(full, NBOTH, P, product);
    curve(product, P, H);
  }
}

/* Follows the slopes of a step backwards: the gradient of c + lambda'phi by (z, v). Where there is an `A`, with dk/d(z, v) of each
 * slope from there on; where there is an `S`, with the Hessians of SHARE[i] c + (multiplier of k_i)'k, too. */
ALWAYS_INLINE void descend_slopes(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                                  const real *costate, real *A, real *S, real *slope) {
  real scratch[NSLOPES * NMOVING], multiplier[NMOVING], part[NBOTH];
  const real *const points = points_of(trace, held, theta, theta_t, scratch);
  EACH(j, NBOTH) part[j] = ALL(0), slope[j] = j < NMOVING ? costate[j] : ALL(0);
  KEEP_LOOP for (int i = NSLOPES - 1; i >= 0; i--) {
    const real share = slope_share(i), *const point = points + i * NMOVING;
    slope_multiplier(i, costate, part, multiplier);
    if (S)
      rate_curvature(point, held, theta, theta_t, &share, multiplier, A + i * NMOVING * NBOTH, S + i * TRIANGLE(NBOTH, 0), part);
#if !SUBSTEP_COSTS
    else if (A)
      rate_slopes(point, held, theta, theta_t, &share, multiplier, A + i * NMOVING * NBOTH, part);
#endif
#ifdef HAS_ADJOINT
    else
      rate_adjoint(point, held, theta, theta_t, &share, multiplier, part);
#endif
    EACH(j, NBOTH) slope[j] += part[j];
  }
}

#if !SUBSTEP_COSTS
/* F = d phi/d(z, v), and the gradient of lambda'phi by (z, v). */
FUNCTION void step_slopes(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *costate, real *F, real *slope) {
  TAKE_ARRAYS(theta, of_slopes, ARRAYS_OF_SLOPES)
  descend_slopes(trace, held, theta, theta_t, costate, A, 0, slope);
  compose_slopes(theta, A, 0, F, 0);
}
#endif

#ifdef HAS_ADJOINT
/* The gradient of c + lambda'phi by (z, v). */
FUNCTION void step_adjoint(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                           const real *costate, real *slope) {
  descend_slopes(trace, held, theta, theta_t, costate, 0, 0, slope);
}
#endif

/* F, the Hessian of c + lambda'phi (lower triangle), and its gradient by (z, v). */
FUNCTION void step_curvature(const real *trace, const real *held, stored_reals theta, stored_reals theta_t,
                             const real *costate, real *F, real *H, real *slope) {
  TAKE_ARRAYS(theta, of_slopes, ARRAYS_OF_SLOPES)
  descend_slopes(trace, held, theta, theta_t, costate, A, S, slope);
  copy_reals(H, S, TRIANGLE(NBOTH, 0));
  compose_slopes(theta, A, S, F, H);
}

/* Where the slopes are taken and the change of that along d; of the first `count` slopes, the sum that is phi, and its
 * change. */
INLINE void tangent_points(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                           const real *d_moving, const real *d_held, int count, real *points, real *d_points, real *next,
                           real *d_next) {
  real d_change[NMOVING];
  step_points(moving, held, theta, theta_t, count, points, next);
  EACH(j, NMOVING) {
    next[j] += moving[j];
    d_change[j] = ALL(0);
    d_next[j] = d_moving[j];
  }
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i), reach = slope_reach(i);
    real *const d_at = d_points + i * NMOVING;
    EACH(j, NMOVING) d_at[j] = d_moving[j] + reach * d_change[j];
    if (i == count) break;
    rate_tangent(points + i * NMOVING, held, theta, theta_t, &share, d_at, d_held, d_change);
    EACH(j, NMOVING) d_next[j] += share * d_change[j];
  }
}

/* phi and its change along d. */
INLINE void step_tangent(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                         const real *d_moving, const real *d_held, real *next, real *d_next) {
  real points[NSLOPES * NMOVING], d_points[NSLOPES * NMOVING];
  tangent_points(moving, held, theta, theta_t, d_moving, d_held, NSLOPES, points, d_points, next, d_next);
}

/* Adds the gradient by theta of d'grad(c + lambda'phi) + d_lambda'phi + loss_cost (c + lambda'phi); gives that by
 * (z, v), and the gradient of c + lambda'phi by z. */
FUNCTION void step_gradient(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                            const real *costate, const real *d_moving, const real *d_held, const real *d_costate,
                            const real *loss_cost, reals g_theta, reals g_theta_t, real *g, real *before) {
  real points[NSLOPES * NMOVING], d_points[NSLOPES * NMOVING], next[NMOVING], d_next[NMOVING];
  real multiplier[NMOVING], d_multiplier[NMOVING], slope[NMOVING], d_slope[NMOVING], part[NBOTH];
  tangent_points(moving, held, theta, theta_t, d_moving, d_held, NSLOPES - 1, points, d_points, next, d_next);
  EACH(j, NMOVING) {
    slope[j] = d_slope[j] = ALL(0);
    before[j] = costate[j];
    g[j] = d_costate[j] + *loss_cost * costate[j];
  }
  EACH(j, NHELD) g[NMOVING + j] = ALL(0);
  KEEP_LOOP for (int i = NSLOPES - 1; i >= 0; i--) {
    const real share = slope_share(i);
    slope_multiplier(i, costate, slope, multiplier);
    slope_multiplier(i, d_costate, d_slope, d_multiplier);
    rate_gradient(points + i * NMOVING, held, theta, theta_t, &share, multiplier, d_points + i * NMOVING, d_held,
                  d_multiplier, loss_cost, g_theta, g_theta_t, part, slope);
    EACH(j, NMOVING) d_slope[j] = part[j] - *loss_cost * slope[j], before[j] += slope[j];
    EACH(j, NBOTH) g[j] += part[j];
  }
}

/* Where the slopes are taken and the change of that along d_theta and a change of z; of the first `count` slopes, the sum
 * that is phi, and the change of it and of c. */
INLINE void change_points(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                          const real *d_moving, stored_reals d_theta, stored_reals d_theta_t, int count,
                          real *points, real *d_points, real *next, real *d_next, real *d_cost) {
  real d_change[NMOVING], part;
  step_points(moving, held, theta, theta_t, count, points, next);
  EACH(j, NMOVING) {
    next[j] += moving[j];
    d_change[j] = ALL(0);
    d_next[j] = d_moving[j];
  }
  *d_cost = ALL(0);
  KEEP_LOOP for (int i = 0; i < NSLOPES; i++) {
    const real share = slope_share(i), reach = slope_reach(i);
    real *const d_at = d_points + i * NMOVING;
    EACH(j, NMOVING) d_at[j] = d_moving[j] + reach * d_change[j];
    if (i == count) break;
    rate_change(points + i * NMOVING, held, theta, theta_t, &share, d_at, d_theta, d_theta_t, d_change, &part);
    EACH(j, NMOVING) d_next[j] += share * d_change[j];
    *d_cost += part;
  }
}

/* phi, and the change of phi and c along d_theta and a change of z. */
INLINE void step_change(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                        const real *d_moving, stored_reals d_theta, stored_reals d_theta_t, real *next, real *d_next,
                        real *d_cost) {
  real points[NSLOPES * NMOVING], d_points[NSLOPES * NMOVING];
  change_points(moving, held, theta, theta_t, d_moving, d_theta, d_theta_t, NSLOPES, points, d_points, next, d_next,
                d_cost);
}

/* The gradient of c + lambda'phi by z, and the change of that by (z, v) along d_theta, d_lambda and a change of z. */
FUNCTION void step_forward(const real *moving, const real *held, stored_reals theta, stored_reals theta_t,
                           const real *costate, const real *d_moving, const real *d_costate, stored_reals d_theta,
                           stored_reals d_theta_t, real *before, real *d_slope) {
  real points[NSLOPES * NMOVING], d_points[NSLOPES * NMOVING], next[NMOVING], d_next[NMOVING], d_cost;
  real multiplier[NMOVING], d_multiplier[NMOVING], slope[NMOVING], part[NBOTH];
  change_points(moving, held, theta, theta_t, d_moving, d_theta, d_theta_t, NSLOPES - 1, points, d_points, next, d_next,
                &d_cost);
  EACH(j, NMOVING) slope[j] = ALL(0), before[j] = costate[j];
  EACH(j, NBOTH) part[j] = ALL(0), d_slope[j] = j < NMOVING ? d_costate[j] : ALL(0);
  KEEP_LOOP for (int i = NSLOPES - 1; i >= 0; i--) {
    const real share = slope_share(i);
    slope_multiplier(i, costate, slope, multiplier);
    slope_multiplier(i, d_costate, part, d_multiplier);
    rate_forward(points + i * NMOVING, held, theta, theta_t, &share, multiplier, d_points + i * NMOVING, d_multiplier,
                 d_theta, d_theta_t, slope, part);
    EACH(j, NMOVING) before[j] += slope[j];
    EACH(j, NBOTH) d_slope[j] += part[j];
  }
}

#endif

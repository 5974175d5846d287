/* A stage that is integrated in SUBSTEPS equal steps: values and derivatives, composed in a loop of those of one.
 *
 * A step takes the moving states z to phi(z, v) and adds c(z, v) to the stage's cost; v is what the stage holds,
 * controls and other states. PLACES says where z and then v are in (x, u); the last NHIDDEN of z are in neither, start
 * from 0 and matter to no other stage. The functions below add the loop's share to
 * what the outer functions have written: of the moving rows these have written zeros.
 *
 * Backwards, a step is composed with all that follow it, P = d(phi, v)/d(z, v) = [A; 0 I]: the matrix F of the end
 * by (z, v) becomes F P, and second derivatives H of all that follows become P'HP + d2(c + lambda'phi).
 */
#ifndef MPCGEN_SUBSTEPS_H
#define MPCGEN_SUBSTEPS_H

#if IMPLICIT
#include "mpcgen_implicit.h"
#else
#include "mpcgen_runge_kutta.h"
#endif

/* Whether one of (z, v) is in (x, u). */
INLINE int is_visible(int i) { return i < NVISIBLE || i >= NMOVING; }

INLINE real value_at_place(in_reals state, in_reals control, int i) {
  if (!is_visible(i)) return ALL(0);
  return PLACES[i] < NX ? state[PLACES[i]] : control[PLACES[i] - NX];
}

INLINE void gather(in_reals state, in_reals control, real *moving, real *held) {
  EACH(i, NMOVING) moving[i] = value_at_place(state, control, i);
  EACH(i, NHELD) held[i] = value_at_place(state, control, NMOVING + i);
}

/* What multiplies the end of a moving state. `costate`: real pointers or workspaces' places alike. */
#define costate_at(costate, i) (is_visible(i) ? (costate)[PLACES[i]] : ALL(0))

/* The traces of all substeps: each has the moving states before it, then what else a step keeps. */
INLINE void substep_path(stored_reals theta, stored_reals theta_t, const real *held, real *path) {
  real cost;
  KEEP_LOOP for (int k = 0; k < SUBSTEPS - 1; k++)
    step_values(path + k * STEP_TRACE, held, theta, theta_t, path + (k + 1) * STEP_TRACE, &cost);
  complete_trace(path + (SUBSTEPS - 1) * STEP_TRACE, held, theta, theta_t);
}

/* Next moving states, and the integral of running costs. */
FUNCTION void advance_substeps(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                               reals next_state, real *cost) {
  real held[NHELD], present[STEP_TRACE], next[NMOVING], part;
  gather(state, control, present, held);
  KEEP_LOOP for (int k = 0; k < SUBSTEPS; k++) {
    step_values(present, held, theta, theta_t, next, &part);
    EACH(i, NMOVING) present[i] = next[i];
    *cost += part;
  }
  EACH(i, NVISIBLE) next_state[PLACES[i]] = present[i];
}

/* Adds the derivatives of the end by (z, v) to those of a stage; `slope`: its gradient by z, then by v. */
INLINE void scatter_slope(const real *slope, stage_model *q) {
  EACH(i, NBOTH) if (is_visible(i)) {
    real *to = PLACES[i] < NX ? &q->costate[PLACES[i]] : &q->gradient_u[PLACES[i] - NX];
    *to += slope[i];
  }
}

INLINE void scatter(const real *F, const real *slope, stage_model *q) {
  EACH(i, NVISIBLE) EACH(j, NBOTH) if (is_visible(j)) q->F[PLACES[i] * NTAU + PLACES[j]] = F[i * NBOTH + j];
  scatter_slope(slope, q);
}

#if SUBSTEP_COSTS
#define slopes_of_substeps(state, control, theta, theta_t, costate, q) \
  expand_substeps(state, control, theta, theta_t, ALL(0), costate, q)
#else
/* F, and the gradient of lambda'f. */
FUNCTION void slopes_of_substeps(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                                 const real *restrict costate, stage_model *restrict q) {
  TAKE_ARRAYS(theta, of_substeps, ARRAYS_OF_SUBSTEPS)
  real held[NHELD], path[SUBSTEPS * STEP_TRACE], *const F = both;
  real along[NMOVING], part[NBOTH], slope[NBOTH];
  gather(state, control, path, held);
  substep_path(theta, theta_t, held, path);
  EACH(i, NMOVING) along[i] = costate_at(costate, i);
  EACH(i, NBOTH) slope[i] = ALL(0);
  KEEP_LOOP for (int k = SUBSTEPS - 1; k >= 0; k--) {
    const int last = k == SUBSTEPS - 1;
    step_slopes(path + k * STEP_TRACE, held, theta, theta_t, along, last ? F : A, part);
    if (!last) {
      chain(F, NMOVING, A, product);
      copy_reals(F, product, NMOVING * NBOTH);
    }
    EACH(i, NMOVING) along[i] = slope[i] = part[i];
    EACH(i, NHELD) slope[NMOVING + i] += part[NMOVING + i];
  }
  scatter(F, slope, q);
}
#endif

#ifdef HAS_ADJOINT
/* The gradient of cost + lambda'f alone. */
FUNCTION void adjoint_of_substeps(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                                  const real *restrict costate, stage_model *restrict q) {
  real held[NHELD], path[SUBSTEPS * STEP_TRACE], along[NMOVING], part[NBOTH], slope[NBOTH];
  gather(state, control, path, held);
  substep_path(theta, theta_t, held, path);
  EACH(i, NMOVING) along[i] = costate_at(costate, i);
  EACH(i, NBOTH) slope[i] = ALL(0);
  KEEP_LOOP for (int k = SUBSTEPS - 1; k >= 0; k--) {
    step_adjoint(path + k * STEP_TRACE, held, theta, theta_t, along, part);
    EACH(i, NMOVING) along[i] = slope[i] = part[i];
    EACH(i, NHELD) slope[NMOVING + i] += part[NMOVING + i];
  }
  scatter_slope(slope, q);
}
#endif

/* F, the gradient of cost + lambda'f, and the Hessian of cost + weight lambda'f, where a cost that a state carries is
 * one. What a multiplier is worth before a step is linear in it, so that the weighted one is followed, and the rest beside
 * it. */
FUNCTION void expand_substeps(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                              real weight, const real *restrict costate, stage_model *restrict q) {
  enum { ROWS = NBOTH + NMOVING };
  TAKE_ARRAYS(theta, of_substeps, ARRAYS_OF_SUBSTEPS) /* `both`: H, then F */
  real held[NHELD], path[SUBSTEPS * STEP_TRACE];
  real weighted[NMOVING], rest[NMOVING], part[NBOTH], slope[NBOTH];
  real *const F = both + NBOTH * NBOTH;
  gather(state, control, path, held);
  substep_path(theta, theta_t, held, path);
  EACH(i, NMOVING) {
    weighted[i] = CARRIED[i] ? costate_at(costate, i) : weight * costate_at(costate, i);
    rest[i] = costate_at(costate, i) - weighted[i];
  }
  EACH(i, NBOTH) slope[i] = ALL(0);
  KEEP_LOOP for (int k = SUBSTEPS - 1; k >= 0; k--) {
    step_curvature(path + k * STEP_TRACE, held, theta, theta_t, weighted, A, S, part);
    if (k == SUBSTEPS - 1) {
      copy_reals(F, A, NMOVING * NBOTH);
    } else {
      chain(both, ROWS, A, product);
      curve(product, A, S);
      copy_reals(F, product + NBOTH * NBOTH, NMOVING * NBOTH);
    }
    unfold(S, both);
    real others[NBOTH];
    EACH(j, NBOTH) others[j] = ALL(0);
    for (int i = 0; i < NMOVING; i++) EACH(j, NBOTH) others[j] += A[i * NBOTH + j] * rest[i];
    EACH(i, NMOVING) {
      weighted[i] = part[i];
      rest[i] = others[i];
      slope[i] = part[i] + others[i];
    }
    EACH(i, NHELD) slope[NMOVING + i] += part[NMOVING + i] + others[NMOVING + i];
  }
  scatter(F, slope, q);
  EACH(i, NBOTH) for (int j = 0; j <= i; j++)
    if (is_visible(i) && is_visible(j)) q->hessian[SYMMETRIC(PLACES[i], PLACES[j])] += both[i * NBOTH + j];
}

/* F d: the differential of the moving states. */
FUNCTION void tangent_of_substeps(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                                  in_reals d_state, in_reals d_control, out_reals d_next) {
  real held[NHELD], d_held[NHELD], present[STEP_TRACE], next[NMOVING], d_present[NMOVING], d_after[NMOVING];
  gather(state, control, present, held);
  gather(d_state, d_control, d_present, d_held);
  KEEP_LOOP for (int k = 0; k < SUBSTEPS; k++) {
    step_tangent(present, held, theta, theta_t, d_present, d_held, next, d_after);
    EACH(i, NMOVING) present[i] = next[i], d_present[i] = d_after[i];
  }
  EACH(i, NVISIBLE) d_next[PLACES[i]] = d_present[i];
}

/* The gradient by parameters and controls of what stage_gradient says. The value and its change along d are followed
 * together; backwards, what multiplies the change is lambda, and what multiplies the value is d_lambda beside
 * loss_cost lambda. */
FUNCTION void gradient_of_substeps(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                                   stored_reals costate, const real *restrict d_state, const real *restrict d_control,
                                   const real *restrict d_costate, const real *restrict loss_cost, reals g_theta,
                                   reals g_theta_t, real *restrict g_control) {
  real held[NHELD], d_held[NHELD], path[SUBSTEPS * STEP_TRACE], d_path[SUBSTEPS * NMOVING];
  real along[NMOVING], d_along[NMOVING], before[NMOVING], g[NBOTH];
  gather(state, control, path, held);
  gather(d_state, d_control, d_path, d_held);
  KEEP_LOOP for (int k = 0; k < SUBSTEPS - 1; k++) {
    real *const at = path + k * STEP_TRACE, *const d_at = d_path + k * NMOVING;
    step_tangent(at, held, theta, theta_t, d_at, d_held, at + STEP_TRACE, d_at + NMOVING);
  }
  complete_trace(path + (SUBSTEPS - 1) * STEP_TRACE, held, theta, theta_t);
  EACH(i, NMOVING) along[i] = costate_at(costate, i), d_along[i] = costate_at(d_costate, i);
  KEEP_LOOP for (int k = SUBSTEPS - 1; k >= 0; k--) {
    step_gradient(path + k * STEP_TRACE, held, theta, theta_t, along, d_path + k * NMOVING, d_held, d_along, loss_cost,
                  g_theta, g_theta_t, g, before);
    EACH(i, NMOVING) along[i] = before[i], d_along[i] = g[i] - *loss_cost * before[i];
    EACH(i, NHELD) if (PLACES[NMOVING + i] >= NX) g_control[PLACES[NMOVING + i] - NX] += g[NMOVING + i];
  }
}

/* Changes along d_theta: of the gradient of cost + lambda'f, of the moving states, and of cost + lambda'f. */
FUNCTION void forward_of_substeps(stored_reals state, stored_reals control, stored_reals theta, stored_reals theta_t,
                                  const real *restrict costate, stored_reals d_theta, stored_reals d_theta_t,
                                  reals r_state, reals r_control, reals affine, real *restrict d_cost) {
  real held[NHELD], path[(SUBSTEPS + 1) * STEP_TRACE], d_path[(SUBSTEPS + 1) * NMOVING], part;
  real along[NMOVING], d_along[NMOVING], before[NMOVING], d_slope[NBOTH];
  const real *const d_end = d_path + SUBSTEPS * NMOVING;
  gather(state, control, path, held);
  EACH(i, NMOVING) d_path[i] = ALL(0);
  KEEP_LOOP for (int k = 0; k < SUBSTEPS; k++) {
    real *const at = path + k * STEP_TRACE, *const d_at = d_path + k * NMOVING;
    step_change(at, held, theta, theta_t, d_at, d_theta, d_theta_t, at + STEP_TRACE, d_at + NMOVING, &part);
    *d_cost += part;
  }
  EACH(i, NMOVING) along[i] = costate_at(costate, i), d_along[i] = ALL(0);
  EACH(i, NVISIBLE) {
    affine[PLACES[i]] = d_end[i];
    *d_cost += along[i] * d_end[i];
  }
  KEEP_LOOP for (int k = SUBSTEPS - 1; k >= 0; k--) {
    step_forward(path + k * STEP_TRACE, held, theta, theta_t, along, d_path + k * NMOVING, d_along, d_theta, d_theta_t,
                 before, d_slope);
    EACH(i, NMOVING) along[i] = before[i], d_along[i] = d_slope[i];
    EACH(i, NHELD) {
      const int place = PLACES[NMOVING + i];
      if (place < NX) r_state[place] += d_slope[NMOVING + i];
      else r_control[place - NX] += d_slope[NMOVING + i];
    }
  }
  EACH(i, NVISIBLE) r_state[PLACES[i]] += d_along[i];
}

#endif

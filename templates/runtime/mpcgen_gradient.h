/* Reverse mode: gradients of a loss with respect to x0, every parameter and through them the bounds.
 *
 * One Riccati sweep and one forward sweep (mpcgen_sensitivity.h). Problems are taken LANES at a time; the batch is
 * cut into blocks that depend on nothing but its size, and the gradients of parameters shared by the batch are
 * summed inside a block and then over the blocks in order, so that the sum does not depend on the threads. */
#ifndef MPCGEN_GRADIENT_H
#define MPCGEN_GRADIENT_H

#include "mpcgen_refinement.h"

/* Beside what the sweep takes. A device looks for the sums at the end. */
#define GRADIENT_ARRAYS(ARRAY)                                                 \
  ARRAY(g_theta, NTHETA)    /* this vector's parameter gradients */            \
  ARRAY(g_theta_stage, rows * NTHETA_STAGE)                                    \
  ARRAY(sum_theta, NTHETA)  /* the same summed over the vectors of a block */  \
  ARRAY(sum_theta_stage, rows * NTHETA_STAGE)

typedef struct {
  sensitivity_state base;
  GRADIENT_ARRAYS(DECLARE_ARRAY)
  real g_initial[NX];
} gradient_state;

COUNT size_t gradient_reals(const gradient_arguments *a) {
  const size_t rows = (size_t)parameter_rows(a->horizon, a->constant_parameters);
  return sensitivity_reals(a->horizon, a->constant_parameters) GRADIENT_ARRAYS(COUNT_ARRAY);
}

/* Lays out a workspace of gradient_reals() from `at` on, for the call's horizon and smoothing. */
FUNCTION void lay_out_gradient(gradient_state *s, const gradient_arguments *a, reals at) {
  at = lay_out_sensitivity(&s->base, a->horizon, a->constant_parameters, at);
  const size_t rows = (size_t)s->base.rows;
  s->base.smoothing = (scalar)a->smoothing;
  s->base.barrier = a->barrier;
  GRADIENT_ARRAYS(PLACE_ARRAY)
}

/* d_lambda = V d_x + v at a stage; with rows of constraints it has been found before. */
FUNCTION void multiplier_differential(const sensitivity_state *s, int t, const real *d_x, real *d_costate) {
  for (int i = 0; i < NX; i++) {
    real sum = s->offset[t * NX + i];
    for (int j = 0; j < (CONSTRAINED ? 0 : NX); j++) sum += s->hessian[t * NXX + SYMMETRIC(i, j)] * d_x[j];
    d_costate[i] = sum;
  }
}

/* Gradient of the bounds at stage t, given that of the free Lagrangian in g_u. */
FUNCTION void bound_gradients(const gradient_state *g, int t, const real *d_u, const real *g_u, real *g_lower,
                              real *g_upper) {
  const sensitivity_state *s = &g->base;
  for (int i = 0; i < NU; i++) {
    const int at = t * NU + i;
    if (s->smoothing > 0) {
      const real pushed = d_u[i] + (CONSTRAINED ? s->bound_push[at] : ALL(0));
      g_lower[i] = s->loss_cost * lower_pressure(s, at) - s->at_lower[at] * pushed;
      g_upper[i] = s->loss_cost * upper_pressure(s, at) - s->at_upper[at] * pushed;
    } else {
      g_lower[i] = s->at_lower[at] * (s->linear_u[at] + g_u[i]);
      g_upper[i] = s->at_upper[at] * (s->linear_u[at] + g_u[i]);
    }
  }
}

/* Forward sweep: differentials of the trajectory and, stage by stage, the gradients of parameters and bounds. */
SWEEP_FUNCTION void gradient_forward(gradient_state *g) {
  const sensitivity_state *s = &g->base;
  real d_x[NX], d_u[NU], d_next[NX], d_costate[NX], g_u[NU], g_lower[NU], g_upper[NU];
#if MODEL_IN_REGISTERS
  real g_theta[NTHETA + 1]; /* sums that others may point to are written twice by gcc */
#else
  const reals g_theta = g->g_theta;
#endif
  for (int i = 0; i < NX; i++) {
    d_x[i] = ALL(0);
    g->g_initial[i] = s->offset[i] + s->loss_cost * s->costate[i];
  }
  zero_reals(g_theta, NTHETA);
  zero_reals(g->g_theta_stage, (size_t)s->rows * NTHETA_STAGE);
  for (int t = 0; t < s->horizon; t++) {
    const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
    const reals g_theta_t = stage_row(g->g_theta_stage, s->rows, t);
    policy_differential(s, t, d_x, d_u);
    change_next_state(s, t, d_x, d_u, d_next);
    multiplier_differential(s, t + 1, d_next, d_costate);
    stage_gradient(x, u, s->theta, theta_t, s->costate + (t + 1) * NX, ROWS_OF(s->dual + t * NPATH) d_x, d_u, d_costate,
                   ROWS_OF(s->d_dual + t * NPATH) &s->loss_cost, g_theta, g_theta_t, g_u);
#if CONSTRAINED
    add_row_bounds(s, t, g_theta, g_theta_t);
#endif
    bound_gradients(g, t, d_u, g_u, g_lower, g_upper);
    bounds_gradient(s->theta, theta_t, g_lower, g_upper, g_theta, g_theta_t);
    copy_reals(d_x, d_next, NX);
  }
  const int last = s->horizon;
  const reals g_theta_last = stage_row(g->g_theta_stage, s->rows, last);
  terminal_gradient(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last), ROWS_OF(s->dual + last * NPATH)
                    d_x, ROWS_OF(s->d_dual + last * NPATH) &s->loss_cost, g_theta, g_theta_last);
#if CONSTRAINED
  add_row_bounds(s, last, g_theta, g_theta_last);
#endif
#if MODEL_IN_REGISTERS
  copy_reals(g->g_theta, g_theta, NTHETA);
#endif
}

/* Gradients of singular problems are given where they are finite. */
FUNCTION void check_gradient(gradient_state *g) {
  sensitivity_state *s = &g->base;
  note_not_finite(s, g->g_theta, NTHETA);
  note_not_finite(s, g->g_theta_stage, (size_t)s->rows * NTHETA_STAGE);
}

/* Loads the solutions of the problems from `first` on, and their cotangents, into the lanes of `asked`. */
FUNCTION void load_cotangents(gradient_state *g, const gradient_arguments *a, int64_t first, mask asked) {
  sensitivity_state *s = &g->base;
  const size_t n = (size_t)s->horizon;
  const solution_batch source = {a->batch, a->states, a->controls, a->usable, a->parameters, a->parameter_strides,
                                 DUALS_OF(a)};
  const mask wanted = load_solutions(s, &source, first, asked);
  if (!lane_any(wanted)) return;
  load_arrays(s->linear_x, wanted, a->cotangent_states, first, (n + 1) * NX);
  load_arrays(s->linear_u, wanted, a->cotangent_controls, first, n * NU);
  load_arrays(&s->loss_cost, wanted, a->cotangent_cost, first, 1);
#if CONSTRAINED
  const scalar *duals = (const scalar *)a->cotangent_duals;
  KEEP_LOOP for (int k = 0; k < LANES; k++)
    if (lane_test(&wanted, k))
      TEAM_LEADER load_dual_cotangents(s, k, duals ? duals + (size_t)(first + k) * (n + 1) * NDUAL : NULL);
#endif
}

/* Whether the loss has a part in the trajectory of a problem, and not in its cost alone. */
FUNCTION int is_in_trajectory(const gradient_arguments *a, int64_t problem) {
  const size_t n = (size_t)a->horizon, states = (n + 1) * NX, controls = n * NU;
  const scalar *g_x = (const scalar *)a->cotangent_states, *g_u = (const scalar *)a->cotangent_controls;
  int found = 0;
  for (size_t i = 0; g_x && i < states; i++) found |= g_x[(size_t)problem * states + i] != 0;
  for (size_t i = 0; g_u && i < controls; i++) found |= g_u[(size_t)problem * controls + i] != 0;
#if CONSTRAINED
  const size_t duals = (n + 1) * NDUAL;
  const scalar *g_duals = (const scalar *)a->cotangent_duals;
  for (size_t i = 0; g_duals && i < duals; i++) found |= g_duals[(size_t)problem * duals + i] != 0;
#endif
  return found;
}

/* Writes what belongs to one problem alone: zero where there is no gradient. */
FUNCTION void store_gradients(const gradient_state *g, const gradient_arguments *a, int k, int64_t problem) {
  const sensitivity_state *s = &g->base;
  const int good = lane_test(&s->given, k);
  TEAM_LEADER a->singular[problem] = what_is_lost(s, k) == 1 && !is_in_trajectory(a, problem) ? 0 : what_is_lost(s, k);
  scalar *g_initial = (scalar *)a->gradient_initial_state + (size_t)problem * NX;
  TEAM_FOR(i, NX) g_initial[i] = good ? lane_get(&g->g_initial[i], k) : 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] == 0) continue;
    const parameter_layout *layout = &PARAMETERS[p];
    const int stages = parameter_stages(layout, s->rows);
    scalar *to = (scalar *)a->gradient_parameters[p] + problem * stages * layout->size;
    for (int t = 0; t < stages; t++) {
      const reals from = parameter_row(layout, g->g_theta, g->g_theta_stage, t);
      TEAM_FOR(i, layout->size) to[t * layout->size + i] = good ? lane_get(from + i, k) : 0;
    }
  }
}

FUNCTION void accumulate(reals sum, reals term, size_t count, mask where) {
  TEAM_FOR(i, count) sum[i] += lane_select(where, term[i], ALL(0));
}

FUNCTION void clear_sums(gradient_state *g) {
  zero_reals(g->sum_theta, NTHETA);
  zero_reals(g->sum_theta_stage, (size_t)g->base.rows * NTHETA_STAGE);
}

/* Differentiates one vector of problems, those before `end`, and adds its parameters' gradients to the sums. */
FUNCTION void gradient_vector(gradient_state *g, const gradient_arguments *a, int64_t first, int64_t end) {
  sensitivity_state *s = &g->base;
  load_cotangents(g, a, first, lane_all());
  sensitivity_backward(s, a->exact_hessian, NULL, NULL);
  gradient_forward(g);
  check_gradient(g);
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, end); k++) store_gradients(g, a, k, first + k);
  accumulate(g->sum_theta, g->g_theta, NTHETA, s->given);
  accumulate(g->sum_theta_stage, g->g_theta_stage, (size_t)s->rows * NTHETA_STAGE, s->given);
}

#endif

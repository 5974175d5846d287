/* Forward mode: the change of the solution along a change of x0 and of the parameters.
 *
 * The same Riccati sweep as in reverse mode, with the change of the KKT conditions as linear and affine terms, and
 * one forward sweep. The change of the cost is that of the Lagrangian (envelope theorem), as in reverse mode. */
#ifndef MPCGEN_TANGENT_H
#define MPCGEN_TANGENT_H

#include "mpcgen_refinement.h"

/* Beside what the sweep and the change of the parameters take. */
#define TANGENT_ARRAYS(ARRAY)    \
  ARRAY(d_states, (n + 1) * NX)  \
  ARRAY(d_controls, n * NU)      \
  ARRAY(d_bounds, BOUND_DUALS * n) /* changes of the multipliers of the controls' bounds */

typedef struct {
  sensitivity_state base;
  parameter_change change;
  real initial[NX];       /* change of x0 */
  TANGENT_ARRAYS(DECLARE_ARRAY)
} tangent_state;

COUNT size_t tangent_reals(const tangent_arguments *a) {
  const size_t n = (size_t)a->horizon, rows = (size_t)parameter_rows(a->horizon, a->constant_parameters);
  return sensitivity_reals(a->horizon, a->constant_parameters) CHANGE_ARRAYS(COUNT_ARRAY) TANGENT_ARRAYS(COUNT_ARRAY);
}

FUNCTION reals lay_out_change(parameter_change *s, size_t rows, reals at) {
  CHANGE_ARRAYS(PLACE_ARRAY)
  return at;
}

/* Lays out a workspace of tangent_reals() from `at` on, where all is zero, for the call's horizon and smoothing. */
FUNCTION void lay_out_tangent(tangent_state *s, const tangent_arguments *a, reals at) {
  const size_t n = (size_t)a->horizon;
  at = lay_out_sensitivity(&s->base, a->horizon, a->constant_parameters, at);
  at = lay_out_change(&s->change, (size_t)s->base.rows, at);
  s->base.smoothing = (scalar)a->smoothing;
  s->base.barrier = a->barrier;
  TANGENT_ARRAYS(PLACE_ARRAY)
}

/* Loads the changes of a problem's parameters into a lane; a NULL change is zero. */
FUNCTION void load_parameter_change(tangent_state *f, const tangent_arguments *a, int k, int64_t problem) {
  const int rows = f->base.rows;
  for (int p = 0; p < NPARAMETERS; p++) {
    const parameter_layout *layout = &PARAMETERS[p];
    const scalar *from = (const scalar *)a->tangent_parameters[p];
    if (from) from += problem * a->tangent_strides[p];
    for (int t = 0; t < parameter_stages(layout, rows); t++) {
      const reals to = parameter_row(layout, f->change.theta, f->change.theta_stage, t);
      TEAM_FOR(i, layout->size) lane_set(to + i, k, from ? from[t * layout->size + i] : 0);
    }
  }
}

/* Loads the solutions of the problems from `first` on, and the changes of their x0 and parameters. */
FUNCTION void load_changes(tangent_state *f, const tangent_arguments *a, int64_t first) {
  const solution_batch source = {a->batch, a->states, a->controls, a->usable, a->parameters, a->parameter_strides,
                                 DUALS_OF(a)};
  const mask wanted = load_solutions(&f->base, &source, first, lane_all());
  if (!lane_any(wanted)) return;
  load_arrays(f->initial, wanted, a->tangent_initial_state, first, NX);
  KEEP_LOOP for (int k = 0; k < LANES; k++)
    if (lane_test(&wanted, k)) load_parameter_change(f, a, k, first + k);
}

/* What a stage adds to the change of the cost: dL/du of free controls, and what their policy leaves of dL/dx, as in reverse
 * mode. */
INLINE real stage_cost_change(const sensitivity_state *s, int t, in_reals d_x, in_reals d_u) {
  real sum = ALL(0);
  if (!rest_counts(s)) return sum;
  for (int i = 0; i < NX; i++) sum += s->slope[t * NX + i] * d_x[i];
  for (int i = 0; i < NU; i++) {
    const real stiffness = s->barrier ? ALL(0) : s->at_lower[t * NU + i] + s->at_upper[t * NU + i];
    const mask held = lane_lt(ALL(0), stiffness);
    sum += lane_select(held, ALL(0), s->multiplier[t * NU + i] * d_u[i]);
  }
  return sum;
}

/* Forward sweep: d_{t+1} = F d_t + affine under the optimal policy. */
FUNCTION void tangent_forward(tangent_state *f) {
  const sensitivity_state *s = &f->base;
  for (int i = 0; i < NX; i++) {
    f->d_states[i] = f->initial[i];
    f->change.cost += s->costate[i] * f->initial[i];
  }
  for (int t = 0; t < s->horizon; t++) {
    const reals d_x = f->d_states + t * NX;
    const reals d_u = f->d_controls + t * NU, d_next = f->d_states + (t + 1) * NX;
    policy_differential(s, t, d_x, d_u);
    change_next_state(s, t, d_x, d_u, d_next);
    for (int i = 0; i < NX; i++) d_next[i] += s->affine[t * NX + i];
#if CONSTRAINED
    change_bound_duals(s, t, f->d_bounds);
#endif
    f->change.cost += stage_cost_change(s, t, d_x, d_u);
  }
}

/* Makes the change of what is not wanted, or not differentiable, zero. */
FUNCTION void drop_unusable(tangent_state *f) {
  const sensitivity_state *s = &f->base;
  const mask good = lane_and(s->usable, s->regular);
  TEAM_FOR(i, (s->horizon + 1) * NX) f->d_states[i] = lane_select(good, f->d_states[i], ALL(0));
  TEAM_FOR(i, s->horizon * NU) f->d_controls[i] = lane_select(good, f->d_controls[i], ALL(0));
  TEAM_FOR(i, s->horizon * BOUND_DUALS) f->d_bounds[i] = lane_select(good, f->d_bounds[i], ALL(0));
  TEAM_FOR(i, CONSTRAINED ? s->horizon * NPATH + NEND : 0) f->base.d_dual[i] = lane_select(good, s->d_dual[i], ALL(0));
  TEAM_LEADER f->change.cost = lane_select(s->given, f->change.cost, ALL(0));
}

#if CONSTRAINED
/* Changes of the multipliers, laid out as those are. */
FUNCTION void store_dual_tangents(const tangent_state *f, scalar *to, int k) {
  const sensitivity_state *s = &f->base;
  for (int i = 0; i < (s->horizon + 1) * NDUAL; i++) to[i] = 0;
  for (int t = 0; t < s->horizon; t++)
    for (int i = 0; i < NU; i++) to[t * NDUAL + i] = lane_get(f->d_bounds + t * NU + i, k);
  for (int t = 0; t <= s->horizon; t++)
    for (int i = 0; i < rows_at(s, t); i++) to[dual_place(s, t, i)] = lane_get(s->d_dual + t * NPATH + i, k);
}
#endif

FUNCTION void store_tangents(const tangent_state *f, const tangent_arguments *a, int k, int64_t at) {
  const sensitivity_state *s = &f->base;
  const size_t problem = (size_t)at, n = (size_t)s->horizon;
  store_row((scalar *)a->tangent_states + problem * (n + 1) * NX, f->d_states, k, (n + 1) * NX);
  store_row((scalar *)a->tangent_controls + problem * n * NU, f->d_controls, k, n * NU);
  store_row((scalar *)a->tangent_cost + problem, &f->change.cost, k, 1);
#if CONSTRAINED
  TEAM_LEADER store_dual_tangents(f, (scalar *)a->tangent_duals + problem * (n + 1) * NDUAL, k);
#endif
  TEAM_LEADER a->singular[problem] = what_is_lost(s, k);
}

FUNCTION void tangent_vector(tangent_state *f, const tangent_arguments *a, int64_t first) {
  sensitivity_state *s = &f->base;
  load_changes(f, a, first);
  sensitivity_backward(s, a->exact_hessian, &f->change, f->initial);
  tangent_forward(f);
  note_not_finite(s, &f->change.cost, 1);
  drop_unusable(f);
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, a->batch); k++) store_tangents(f, a, k, first + k);
}

#endif

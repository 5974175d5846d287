/* One stage by itself, or the last state: next state and cost at any state and control, and their derivatives in both
 * modes. No control is clipped, and nothing is solved.
 *
 * In reverse mode F = df/d(x, u) is applied column by column, by the functions that the differentials of a solution have
 * anyway: n + m of them cost less than a stage of the Riccati sweep. A problem whose cotangents are all zero has gradients
 * of zero, whatever its numbers are, so that it does not spoil the sums of shared parameters. */
#ifndef MPCGEN_EVALUATE_H
#define MPCGEN_EVALUATE_H

#include "mpcgen_sensitivity.h"

enum { ROWS_EVALUATED = MAX_OF(NPATH, NEND) };

#define EVALUATE_ARRAYS(ARRAY)                                                                           \
  ARRAY(theta, THETA_REALS(1))                                                                           \
  ARRAY(theta_stage, NTHETA_STAGE)                                                                       \
  ARRAY(x, 2 * NX)                      /* the state, and the next one, where a stage looks for it */    \
  ARRAY(u, NU)                                                                                           \
  ARRAY(none, MAX_OF(NX, ROWS_EVALUATED)) /* zero: the costates and multipliers that there are none of */ \
  ARRAY(g_theta, NTHETA)                                                                                 \
  ARRAY(g_theta_stage, NTHETA_STAGE)                                                                     \
  ARRAY(d_theta, NTHETA)                                                                                 \
  ARRAY(d_theta_stage, NTHETA_STAGE)                                                                     \
  ARRAY(r_x, NX)                        /* what stage_forward finds besides, as r_u and r_rows are */    \
  ARRAY(r_u, NU)                                                                                         \
  ARRAY(r_rows, ROWS_EVALUATED)                                                                          \
  ARRAY(affine, NX)                     /* change of f along d_theta */

typedef struct {
  EVALUATE_ARRAYS(DECLARE_ARRAY)
  int shared_loaded;
  mask wanted;                          /* reverse mode: a cotangent is not zero */
  real cost, g_cost, d_cost;
  real g_next[NX], g_x[NX], g_u[NU];    /* cotangent of the next state; gradients */
  real d_x[NX], d_u[NU], d_next[NX];
  real cost_x[NX], cost_u[NU];          /* gradient of the cost */
  value_model value;                    /* zero, or at the last state a model that is not needed */
  stage_model model;
} evaluate_state;

COUNT size_t evaluate_reals(void) { return 0 EVALUATE_ARRAYS(COUNT_ARRAY); }

/* Lays out a workspace of evaluate_reals() from `at` on, where all is zero. */
FUNCTION void lay_out_evaluate(evaluate_state *s, reals at) {
  s->shared_loaded = 0;
  EVALUATE_ARRAYS(PLACE_ARRAY)
}

/* Numbers of all parameters of a stage: of each problem's row of `sums`, from which shared gradients are made. */
enum { STAGE_PARAMETERS = NTHETA + NTHETA_STAGE };

COUNT int wants_gradient(const evaluate_arguments *a) { return a->gradient_states != NULL; }
INLINE int wants_tangent(const evaluate_arguments *a) { return a->tangent_cost != NULL; }

/* Loads the parameters' changes of a problem into a lane; a NULL change is zero. */
FUNCTION void load_parameter_changes(evaluate_state *s, const evaluate_arguments *a, int k, int64_t problem) {
  for (int p = 0; p < NPARAMETERS; p++) {
    const parameter_layout *layout = &PARAMETERS[p];
    const scalar *from = (const scalar *)a->tangent_parameters[p];
    if (from) from += problem * a->tangent_strides[p];
    const reals to = parameter_row(layout, s->d_theta, s->d_theta_stage, 0);
    TEAM_FOR(i, layout->size) lane_set(to + i, k, from ? from[i] : 0);
  }
}

FUNCTION void load_point(evaluate_state *s, const evaluate_arguments *a, int k, int64_t problem) {
  load_array(s->x, k, a->states, problem, NX);
  load_array(s->u, k, a->controls, problem, NU);
  if (!s->shared_loaded) load_shared_parameters(s->theta, s->theta_stage, 1, 1, a->parameters, a->parameter_strides);
  team_meet();
  TEAM_LEADER s->shared_loaded = 1;
  load_parameters(s->theta, s->theta_stage, k, problem, 1, a->parameters, a->parameter_strides);
  if (wants_gradient(a)) {
    load_array(s->g_next, k, a->cotangent_next, problem, NX);
    load_array(&s->g_cost, k, a->cotangent_cost, problem, 1);
  }
  if (!wants_tangent(a)) return;
  load_array(s->d_x, k, a->tangent_states, problem, NX);
  load_array(s->d_u, k, a->tangent_controls, problem, NU);
  load_parameter_changes(s, a, k, problem);
}

/* Gradient of the cost by state and control. */
FUNCTION void cost_gradient(evaluate_state *s, int last) {
  real *const costate = last ? s->value.costate : s->model.costate;
#if CONSTRAINED
  real none[ROWS_EVALUATED];
  EACH(i, ROWS_EVALUATED) none[i] = ALL(0);
#endif
  if (last) {
#if CONSTRAINED
    const real weight = ALL(0);
    terminal_expand(s->x, s->theta, s->theta_stage, &weight, none, none, none, s->value.hessian, s->value.costate,
                    s->value.offset);
#else
    terminal_expand(s->x, s->theta, s->theta_stage, s->value.hessian, s->value.costate);
#endif
  } else {
#if MPCGEN_WARP
    stage_derivatives_gauss_newton(s->x, s->u, s->theta, s->theta_stage, s->value.costate,
                                   ROWS_OF(none) ROWS_OF(none) ROWS_OF(none) &s->model);
#else
    stage_expand_gauss_newton(s->x, s->u, s->theta, s->theta_stage, &s->value,
                              ROWS_OF(none) ROWS_OF(none) ROWS_OF(none) &s->model);
#endif
  }
  for (int i = 0; i < NX; i++) s->cost_x[i] = costate[i];
  for (int i = 0; i < NU; i++) s->cost_u[i] = last ? ALL(0) : s->model.gradient_u[i];
}

/* d_next = F (d_x, d_u). */
FUNCTION void push_state(const evaluate_state *s, const real *d_x, const real *d_u, real *d_next) {
  tangent_alone(s->x, s->u, s->theta, s->theta_stage, d_x, d_u, d_next);
}

/* Gradients of g_next'f + g_cost cost by state, control and parameters. */
FUNCTION void pull_back(evaluate_state *s, int last) {
  real d_x[NX], d_u[NU], d_next[NX], ignored[NU];
  s->wanted = lane_not(lane_eq(s->g_cost, ALL(0)));
  for (int i = 0; i < NX; i++) s->wanted = lane_or(s->wanted, lane_not(lane_eq(s->g_next[i], ALL(0))));
  for (int i = 0; i < NX; i++) d_x[i] = ALL(0);
  for (int i = 0; i < NU; i++) d_u[i] = ALL(0);
  zero_reals(s->g_theta, NTHETA);
  zero_reals(s->g_theta_stage, NTHETA_STAGE);
  for (int j = 0; j < NX + NU; j++) {
    real sum = s->g_cost * (j < NX ? s->cost_x[j] : s->cost_u[j - NX]);
    if (!last) {
      real *const moved = j < NX ? d_x + j : d_u + (j - NX);
      *moved = ALL(1);
      push_state(s, d_x, d_u, d_next);
      *moved = ALL(0);
      for (int i = 0; i < NX; i++) sum += s->g_next[i] * d_next[i];
    }
    *(j < NX ? s->g_x + j : s->g_u + (j - NX)) = sum;
  }
  if (last)
    terminal_gradient(s->x, s->theta, s->theta_stage, ROWS_OF(s->none) d_x, ROWS_OF(s->none) &s->g_cost, s->g_theta,
                      s->g_theta_stage);
  else
    stage_gradient(s->x, s->u, s->theta, s->theta_stage, s->none, ROWS_OF(s->none) d_x, d_u, s->g_next,
                   ROWS_OF(s->none) &s->g_cost, s->g_theta, s->g_theta_stage, ignored);
}

/* Changes of next state and cost along those of state, control and parameters. */
FUNCTION void push_forward(evaluate_state *s, int last) {
  real none[NX];
  for (int i = 0; i < NX; i++) none[i] = ALL(0);
  if (last)
    terminal_forward(s->x, s->theta, s->theta_stage, ROWS_OF(s->none) s->d_theta, s->d_theta_stage, s->r_x,
                     ROWS_OF(s->r_rows) &s->d_cost);
  else
    stage_forward(s->x, s->u, s->theta, s->theta_stage, none, ROWS_OF(s->none) s->d_theta, s->d_theta_stage, s->r_x,
                  s->r_u, s->affine, ROWS_OF(s->r_rows) &s->d_cost);
  for (int i = 0; i < NX; i++) s->d_cost += s->cost_x[i] * s->d_x[i];
  for (int i = 0; i < NU; i++) s->d_cost += s->cost_u[i] * s->d_u[i];
  if (last) return;
  push_state(s, s->d_x, s->d_u, s->d_next);
  for (int i = 0; i < NX; i++) s->d_next[i] += s->affine[i];
}

/* What is wanted of the points that the lanes have. */
FUNCTION void evaluate_point(evaluate_state *s, const evaluate_arguments *a) {
  if (a->last)
    terminal_cost(s->x, s->theta, s->theta_stage, &s->cost);
  else
    stage_alone(s->x, s->u, s->theta, s->theta_stage, s->x + NX, &s->cost);
  if (!wants_gradient(a) && !wants_tangent(a)) return;
  for (int i = 0; i < NX; i++) s->value.costate[i] = s->value.offset[i] = ALL(0);
  for (int i = 0; i < NXX; i++) s->value.hessian[i] = ALL(0);
  cost_gradient(s, a->last);
  if (wants_gradient(a)) pull_back(s, a->last);
  if (wants_tangent(a)) push_forward(s, a->last);
}

/* `sums`: (batch, STAGE_PARAMETERS), for the parameters that the batch shares. */
FUNCTION void store_point_gradients(const evaluate_state *s, const evaluate_arguments *a, int k, int64_t problem,
                                    scalar *sums) {
  const int wanted = lane_test(&s->wanted, k);
  scalar *g_x = (scalar *)a->gradient_states + problem * NX, *own = sums + problem * STAGE_PARAMETERS;
  TEAM_FOR(i, NX) g_x[i] = wanted ? lane_get(&s->g_x[i], k) : 0;
  if (a->gradient_controls) {
    scalar *g_u = (scalar *)a->gradient_controls + problem * NU;
    TEAM_FOR(i, NU) g_u[i] = wanted ? lane_get(&s->g_u[i], k) : 0;
  }
  TEAM_FOR(i, NTHETA) own[i] = wanted ? lane_get(s->g_theta + i, k) : 0;
  TEAM_FOR(i, NTHETA_STAGE) own[NTHETA + i] = wanted ? lane_get(s->g_theta_stage + i, k) : 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] == 0) continue;
    const parameter_layout *layout = &PARAMETERS[p];
    const reals from = parameter_row(layout, s->g_theta, s->g_theta_stage, 0);
    scalar *to = (scalar *)a->gradient_parameters[p] + problem * layout->size;
    TEAM_FOR(i, layout->size) to[i] = wanted ? lane_get(from + i, k) : 0;
  }
}

FUNCTION void store_point(const evaluate_state *s, const evaluate_arguments *a, int k, int64_t problem, scalar *sums) {
  if (a->next_states) store_row((scalar *)a->next_states + problem * NX, s->x + NX, k, NX);
  if (a->cost) store_row((scalar *)a->cost + problem, &s->cost, k, 1);
  if (wants_gradient(a)) store_point_gradients(s, a, k, problem, sums);
  if (!wants_tangent(a)) return;
  if (a->tangent_next) store_row((scalar *)a->tangent_next + problem * NX, s->d_next, k, NX);
  store_row((scalar *)a->tangent_cost + problem, &s->d_cost, k, 1);
}

/* Evaluates one vector of problems. */
RARE void evaluate_vector(evaluate_state *s, const evaluate_arguments *a, int64_t first, scalar *sums) {
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, a->batch); k++) load_point(s, a, k, first + k);
  team_meet();
  TEAM_LEADER evaluate_point(s, a);
  team_meet();
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, a->batch); k++) store_point(s, a, k, first + k, sums);
  team_meet();
}

#endif

/* Reverse mode of closed loops: from the last step to the first, through the plant and the solution of each.
 *
 * A step hands the cotangent of its next state to the plant, which gives those of state, control and parameters, and that
 * of the control, which is the solution's first, to the solution. What both give the state is the cotangent that the step
 * before begins with. */
#ifndef MPCGEN_LOOP_GRADIENT_H
#define MPCGEN_LOOP_GRADIENT_H

#include "mpcgen_evaluate.h"
#include "mpcgen_gradient.h"
#include "mpcgen_plant.h"

typedef struct {
  gradient_state g;
  evaluate_state plant; /* its parameters are those of the solution's first stage */
  real push[NX];        /* cotangent of the state after the step */
  real policy[NU * NX]; /* du/dx of the control that was applied, where it is known */
  mask known;
  real asked[NU];       /* cotangent of the solution's first control */
  scalar *plant_sums;   /* gradients of parameters of a plant that is another model, which the batch shares */
  int failed;           /* a call of it */
} loop_gradient_state;

COUNT size_t loop_gradient_reals(const loop_gradient_arguments *c) {
  return gradient_reals(&c->gradient) + evaluate_reals();
}

FUNCTION void lay_out_loop_gradient(loop_gradient_state *s, const loop_gradient_arguments *c, reals at) {
  lay_out_gradient(&s->g, &c->gradient, at);
  lay_out_evaluate(&s->plant, at + gradient_reals(&c->gradient));
  s->plant.theta = s->g.base.theta;
  s->plant.theta_stage = s->g.base.theta_stage;
  s->failed = 0;
}

/* The arguments of a step, as if it were a batch of its own; `parameters` and `gradients` are memory for its pointers. */
FUNCTION gradient_arguments arguments_at(const loop_gradient_arguments *c, int t, const void **parameters, void **gradients) {
  gradient_arguments a = c->gradient;
  const size_t step = (size_t)t, batch = (size_t)a.batch, n = (size_t)a.horizon;
  for (int p = 0; p < NPARAMETERS; p++) {
    const size_t moved = step * (size_t)c->parameter_steps[p];
    parameters[p] = (const scalar *)a.parameters[p] + moved;
    const size_t made = a.parameter_strides[p] < 0 ? batch : 1; /* gradients of what problems share at a step are of each */
    if (a.gradient_parameters) gradients[p] = (scalar *)a.gradient_parameters[p] + made * moved;
  }
  a.parameters = parameters;
  if (a.gradient_parameters) a.gradient_parameters = gradients;
  a.states = (const scalar *)a.states + step * batch * (n + 1) * NX;
  a.controls = (const scalar *)a.controls + step * batch * n * NU;
  a.usable += step * batch;
  a.singular += step * batch;
#if CONSTRAINED
  a.duals = (const scalar *)a.duals + step * batch * (n + 1) * NDUAL;
#endif
  return a;
}

/* Loads `count` numbers of a problem's row of `stride`, at `offset`; zeros where there are none. */
OUTLINED void load_part(out_reals to, int k, const void *rows, int64_t problem, size_t stride, size_t offset, size_t count) {
  const scalar *from = rows && problem >= 0 ? (const scalar *)rows + (size_t)problem * stride + offset : NULL;
  for (size_t i = 0; i < count; i++) lane_set(to + i, k, from ? from[i] : 0);
}

/* What box-DDP knows of du/dx. */
INLINE const scalar *policies_of(const loop_gradient_arguments *c) {
#if CONSTRAINED
  (void)c;
  return NULL;
#else
  return c->policies;
#endif
}

/* Loads what a step reads of a problem into a lane, but for the solution; `problem` is negative for none. Returns whether the
 * solution is read. */
FUNCTION int load_step(loop_gradient_state *s, const loop_gradient_arguments *c, const gradient_arguments *a, int t,
                       int k, int64_t problem) {
  sensitivity_state *b = &s->g.base;
  const size_t steps = (size_t)c->steps, at = (size_t)t;
  if (problem >= 0) {
    if (!b->shared_loaded) load_shared_parameters(b->theta, b->theta_stage, b->horizon, b->rows, a->parameters, a->parameter_strides);
    b->shared_loaded = 1;
    load_parameters(b->theta, b->theta_stage, k, problem, b->rows, a->parameters, a->parameter_strides);
  }
  load_part(s->plant.x, k, c->plant_states, problem, (steps + 1) * NX, at * NX, NX);
  load_part(s->plant.u, k, c->applied, problem, steps * NU, at * NU, NU);
  load_part(s->plant.g_u, k, c->cotangent_controls, problem, steps * NU, at * NU, NU);
  load_part(&s->plant.g_cost, k, c->cotangent_costs, problem, steps, at, 1);
  const scalar *policies = policies_of(c);
  const int known = policies && problem >= 0 && isfinite(policies[((size_t)problem * steps + at) * NU * NX]);
  lane_mark(&s->known, k, known);
  /* what takes a policy needs no solution: only whether it is wanted */
  const int is_read = !known || a->gradient_parameters;
  if (!is_read) {
    lane_mark(&b->usable, k, a->usable[problem]);
    for (int i = 0; i < NU; i++) lane_set(b->linear_u + i, k, 0);
  }
  load_part(s->policy, k, known ? policies : NULL, problem, steps * NU * NX, at * NU * NX, NU * NX);
  return is_read;
}

/* Loads what a step reads of the problems from `first` to `end`. */
FUNCTION void load_steps(loop_gradient_state *s, const loop_gradient_arguments *c, const gradient_arguments *a, int t,
                         int64_t first, int64_t end) {
  mask is_read = lane_none();
  KEEP_LOOP for (int k = 0; k < LANES; k++) lane_mark(&is_read, k, load_step(s, c, a, t, k, first + k < end ? first + k : -1));
  load_cotangents(&s->g, a, first, is_read);
}

/* Adds the plant's gradients of parameters to the solution's, which are none where the problem has none. */
FUNCTION void join_gradients(loop_gradient_state *s) {
  gradient_state *g = &s->g;
  const size_t rows = (size_t)g->base.rows;
  const mask given = g->base.given, wanted = s->plant.wanted;
  for (int i = 0; i < NTHETA; i++)
    g->g_theta[i] = lane_select(given, g->g_theta[i], ALL(0)) + lane_select(wanted, s->plant.g_theta[i], ALL(0));
  for (size_t i = 0; i < rows * NTHETA_STAGE; i++) g->g_theta_stage[i] = lane_select(given, g->g_theta_stage[i], ALL(0));
  for (int i = 0; i < NTHETA_STAGE; i++)
    g->g_theta_stage[i] += lane_select(wanted, s->plant.g_theta_stage[i], ALL(0));
}

/* Adds what belongs to one problem alone to what later steps have left there, or writes it where each step has its own. */
RARE void store_own(const gradient_state *g, const loop_gradient_arguments *c, const gradient_arguments *a, int t,
                        int k, int64_t problem) {
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] == 0) continue;
    const int begins = t == c->steps - 1 || c->parameter_steps[p] != 0;
    const parameter_layout *layout = &PARAMETERS[p];
    const int stages = parameter_stages(layout, g->base.rows);
    scalar *to = (scalar *)a->gradient_parameters[p] + problem * stages * layout->size;
    for (int stage = 0; stage < stages; stage++, to += layout->size) {
      const reals from = parameter_row(layout, g->g_theta, g->g_theta_stage, stage);
      for (int i = 0; i < layout->size; i++) to[i] = (begins ? 0 : to[i]) + lane_get(from + i, k);
    }
  }
}

/* Notes in lanes whose solutions are swept whether what was asked of them is lost: zero cotangents ask nothing. */
FUNCTION void note_lost(const loop_gradient_state *s, const gradient_arguments *a, mask swept, int64_t first, int64_t end) {
  const sensitivity_state *b = &s->g.base;
  mask asked = lane_none();
  EACH(i, NU) asked = lane_or(asked, lane_not(lane_eq(s->asked[i], ALL(0))));
  swept = lane_and(swept, asked);
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, end); k++)
    if (lane_test(&swept, k)) a->singular[first + k] = what_is_lost(b, k);
}

/* Gradient of x_0 alone for the cotangent that the first control has: by the policy, or where that is not known, the sweep. */
FUNCTION void gradient_of_state(loop_gradient_state *s, const gradient_arguments *a, int64_t first, int64_t end) {
  gradient_state *g = &s->g;
  real by_policy[NX];
  EACH(i, NX) {
    by_policy[i] = ALL(0);
    EACH(j, NU) by_policy[i] += s->policy[j * NX + i] * g->base.linear_u[j];
  }
  if (lane_any(lane_and(g->base.usable, lane_not(s->known)))) {
    sensitivity_backward(&g->base, a->exact_hessian, NULL, NULL);
    note_lost(s, a, lane_not(s->known), first, end);
    EACH(i, NX) g->g_initial[i] = lane_select(s->known, by_policy[i], g->base.offset[i]);
    g->base.given = lane_or(g->base.given, lane_and(s->known, g->base.usable));
  } else {
    EACH(i, NX) g->g_initial[i] = by_policy[i];
    g->base.given = g->base.usable;
  }
}

/* Cotangents of state, control and parameters, by the model itself. */
FUNCTION void pull_back_model(loop_gradient_state *s) {
  evaluate_state *plant = &s->plant;
  EACH(i, NX) plant->g_next[i] = s->push[i];
  EACH(i, NX) plant->value.costate[i] = plant->value.offset[i] = ALL(0);
  EACH(i, NXX) plant->value.hessian[i] = ALL(0);
  stage_alone(plant->x, plant->u, plant->theta, plant->theta_stage, plant->x + NX, &plant->cost); /* derivatives read it */
  cost_gradient(plant, 0);
  pull_back(plant, 0);
}

/* The same by another model, whose parameters' gradients go to where the call has them. */
RARE void pull_back_plant(loop_gradient_state *s, const loop_gradient_arguments *c, int t, int64_t first, int64_t end) {
  evaluate_state *plant = &s->plant;
  const plant_arguments *p = &c->plant;
  const int count = lanes_filled(first, end);
  scalar x[LANES * NX], u[LANES * NU], g_next[LANES * NX], g_cost[LANES], g_x[LANES * NX] = {0}, g_u[LANES * NU] = {0};
  for (int k = 0; k < count; k++) {
    store_row(x + k * NX, plant->x, k, NX);
    store_row(u + k * NU, plant->u, k, NU);
    store_row(g_next + k * NX, s->push, k, NX);
    store_row(g_cost + k, &plant->g_cost, k, 1);
  }
  evaluate_arguments points = plant_point(p, first, count, t);
  points.states = x;
  points.controls = u;
  points.cotangent_next = g_next;
  points.cotangent_cost = g_cost;
  points.gradient_states = g_x;
  points.gradient_controls = g_u;
  place_latest(p, &points, first);
  if (p->evaluate(&points))
    s->failed = 1;
  else
    add_latest(p, &points, s->plant_sums, c->gradient.batch, first, t);
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    EACH(i, NX) lane_set(plant->g_x + i, k, g_x[k * NX + i]);
    EACH(i, NU) lane_set(plant->g_u + i, k, g_u[k * NU + i]);
  }
  zero_reals(plant->g_theta, NTHETA);
  zero_reals(plant->g_theta_stage, NTHETA_STAGE);
  plant->wanted = lane_all();
}

/* One step of a vector of problems, whose lanes are loaded. */
FUNCTION void step_back(loop_gradient_state *s, const loop_gradient_arguments *c, const gradient_arguments *a, int t,
                        int64_t first, int64_t end) {
  gradient_state *g = &s->g;
  const evaluate_state *plant = &s->plant;
  real outside[NU];
  EACH(i, NU) outside[i] = plant->g_u[i];
  if (c->plant.evaluate)
    pull_back_plant(s, c, t, first, end);
  else
    pull_back_model(s);
  EACH(i, NU) s->asked[i] = g->base.linear_u[i] = outside[i] + lane_select(plant->wanted, plant->g_u[i], ALL(0));
  if (a->gradient_parameters) {
    sensitivity_backward(&g->base, a->exact_hessian, NULL, NULL);
    gradient_forward(g);
    check_gradient(g);
    note_lost(s, a, lane_all(), first, end);
    join_gradients(s);
  } else {
    gradient_of_state(s, a, first, end);
  }
  EACH(i, NX)
    s->push[i] = lane_select(plant->wanted, plant->g_x[i], ALL(0)) + lane_select(g->base.given, g->g_initial[i], ALL(0));
}

/* All steps of one vector of problems, those before `end`; adds their parameters' gradients to the sums. */
FUNCTION void loop_gradient_vector(loop_gradient_state *s, const loop_gradient_arguments *c, int64_t first, int64_t end) {
  const void *parameters[NPARAMETERS + 1];
  void *gradients[NPARAMETERS + 1];
  const size_t steps = (size_t)c->steps;
  gradient_state *g = &s->g;
  real outside[NX];
  KEEP_LOOP for (int k = 0; k < LANES; k++)
    load_part(s->push, k, c->cotangent_states, first + k < end ? first + k : -1, (steps + 1) * NX, steps * NX, NX);
  for (int t = c->steps - 1; t >= 0; t--) {
    const gradient_arguments a = arguments_at(c, t, parameters, gradients);
    load_steps(s, c, &a, t, first, end);
    KEEP_LOOP for (int k = 0; k < lanes_filled(first, end); k++)
      if (c->gradient_disturbance)
        store_row((scalar *)c->gradient_disturbance + ((size_t)(first + k) * steps + (size_t)t) * NX, s->push, k, NX);
    step_back(s, c, &a, t, first, end);
    KEEP_LOOP for (int k = 0; k < LANES; k++)
      load_part(outside, k, c->cotangent_states, first + k < end ? first + k : -1, (steps + 1) * NX, (size_t)t * NX, NX);
    EACH(i, NX) s->push[i] += outside[i];
    if (!a.gradient_parameters) continue;
    KEEP_LOOP for (int k = 0; k < lanes_filled(first, end); k++) store_own(g, c, &a, t, k, first + k);
    accumulate(g->sum_theta, g->g_theta, NTHETA, lane_all());
    accumulate(g->sum_theta_stage, g->g_theta_stage, (size_t)g->base.rows * NTHETA_STAGE, lane_all());
  }
  KEEP_LOOP for (int k = 0; k < lanes_filled(first, end); k++)
    store_row((scalar *)c->gradient.gradient_initial_state + (size_t)(first + k) * NX, s->push, k, NX);
}

#endif

/* Steps of closed loops whose solutions are in memory: the control, the plant's step, and where the next solve begins, near the
 * solution, moved on by a stage. */
#ifndef MPCGEN_SOLVED_STEPS_H
#define MPCGEN_SOLVED_STEPS_H

#include "mpcgen_closed_loop.h"
#include "mpcgen_plant.h"

/* The control of a step: the solution's first, or where there is none and the state is finite, that of the plan before. */
FUNCTION void find_control(const solve_arguments *a, const scalar *state, int64_t problem, scalar *u) {
  int lacks = has_no_control(a->status[problem]);
  for (int i = 0; i < NX; i++) lacks &= isfinite(state[i]) != 0;
  const scalar *found = (const scalar *)a->controls + problem * a->horizon * NU;
  const scalar *plan = a->initial_controls ? (const scalar *)a->initial_controls + problem * a->initial_controls_stride : NULL;
  for (int i = 0; i < NU; i++) u[i] = !lacks ? found[i] : plan ? plan[i] : 0;
}

/* Moves columns of a plan's rows on by a stage, the last of `count` rows repeated. */
OUTLINED void move_columns(scalar *to, const scalar *from, int count, int width, int first, int columns) {
  for (int t = 0; t < count; t++)
    for (int i = first; i < first + columns; i++) to[t * width + i] = from[(t + 1 < count ? t + 1 : t) * width + i];
}

#if CONSTRAINED
/* Moves a plan's multipliers on, by where their rows hold. */
FUNCTION void move_duals(const closed_loop_arguments *c, const solve_arguments *a, int64_t problem) {
  const int n = a->horizon, with_control = NU + NMIXED, at_end = with_control + NSTATE;
  const int64_t duals = problem * (n + 1) * NDUAL;
  scalar *to = (scalar *)c->plan_duals + duals;
  const scalar *from = (const scalar *)a->duals + duals;
  move_columns(to, from, n, NDUAL, 0, with_control);
  move_columns(to, from, n + 1, NDUAL, with_control, NSTATE);
  for (int i = 0; i < with_control; i++) to[n * NDUAL + i] = from[n * NDUAL + i]; /* where there are none */
  for (int t = 0; t <= n; t++)
    for (int i = at_end; i < NDUAL; i++) to[t * NDUAL + i] = from[t * NDUAL + i];
}
#endif

/* Where the next step begins: near the solution of this one; or, if that is not fit, from zero controls and a rollout. */
FUNCTION void move_solution(const closed_loop_arguments *c, const solve_arguments *a, int64_t problem) {
  const int n = a->horizon;
  const scalar *controls = (const scalar *)a->controls + problem * n * NU;
  const int64_t states = problem * (n + 1) * NX;
  scalar *plan = (scalar *)c->plans + problem * n * NU;
  int fit = !has_no_plan(a->status[problem]);
  for (int i = 0; i < n * NU; i++) fit &= isfinite(controls[i]) != 0;
  move_columns(plan, controls, n, NU, 0, NU);
  move_columns((scalar *)c->plan_states + states, (const scalar *)a->states + states, n + 1, NX, 0, NX);
  move_columns((scalar *)c->plan_costates + states, (const scalar *)a->costates + states, n + 1, NX, 0, NX);
#if CONSTRAINED
  move_duals(c, a, problem);
#endif
  if (fit) return;
  for (int i = 0; i < n * NU; i++) plan[i] = 0;
  for (int i = 0; i < (n + 1) * NX; i++) ((scalar *)c->plan_states)[states + i] = (scalar)NAN;
}

/* Takes a problem's step, whose solve has ended; returns the next one, or PLANT_FAILED. */
OUTLINED int take_step_of(const closed_loop_arguments *c, int64_t problem, int t) {
  const solve_arguments *a = c->step_arguments + t;
  const int64_t at = problem * c->steps + t;
  scalar *state = (scalar *)c->plant_states + (at + problem) * NX, *next = state + NX;
  scalar *u = (scalar *)c->applied + at * NU;
  find_control(a, state, problem, u);
  evaluate_arguments point = plant_point(&c->plant, problem, 1, t);
  point.states = state;
  point.controls = u;
  point.next_states = next;
  point.cost = (scalar *)c->stage_costs + at;
  if (c->plant.evaluate(&point)) return c->progress[problem] = PLANT_FAILED;
  disturb(c, problem, t, next);
  move_solution(c, a, problem);
  return c->progress[problem] = t + 1;
}

#endif

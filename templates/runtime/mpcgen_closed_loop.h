/* Closed loops: a lane that has solved a problem applies the first control, moves the plant, which is the problem's own
 * model, and goes on with the problem's next step, from the plan before. So lanes are at steps of their own.
 *
 * Each step has an argument struct, as if it were a call: its arrays are those of the first step, moved on. A problem that
 * box-DDP leaves to the interior point waits at its step. When the batch has been through, the caller has that solved, and
 * runs the loop again: problems go on where they are. */
#ifndef MPCGEN_CLOSED_LOOP_H
#define MPCGEN_CLOSED_LOOP_H

#include "mpcgen_outcome.h"
#include "mpcgen_stage_alone.h"

/* Which problem of a loop each lane has, and at which step. */
typedef struct {
  int step[LANES];
  int has_problem[LANES];
  int stays[LANES];       /* the next step has the parameters that the lane has */
} loop_lanes;

/* Whether every parameter is the same at all steps. */
INLINE int has_constant_parameters(const closed_loop_arguments *c) {
  int constant = 1;
  for (int p = 0; p < NPARAMETERS; p++) constant &= c->parameter_steps[p] == 0;
  return constant;
}

/* Whether a step is solved, or has ended otherwise: before, its status is UNFINISHED. */
INLINE int has_ended(const solve_arguments *a, int64_t problem) {
  return a->status[problem] != UNFINISHED && !is_handed_over(a, problem);
}

/* The controls that a step of a problem starts from, or NULL for zeros. */
INLINE const scalar *plan_before(const solve_arguments *a, int64_t problem) {
  return a->initial_controls ? (const scalar *)a->initial_controls + problem * a->initial_controls_stride : NULL;
}

INLINE int all_are_finite(const scalar *numbers, size_t count) {
  int finite = 1;
  for (size_t i = 0; i < count; i++) finite &= isfinite(numbers[i]);
  return finite;
}

/* The control that is applied: the solution's first, or where there is none and the state is finite, that of the plan
 * before. */
INLINE const scalar *applied_control(const solve_arguments *a, int64_t problem, const scalar *state) {
  static const scalar zeros[NU] = {0};
  const scalar *found = (const scalar *)a->controls + (size_t)problem * (size_t)a->horizon * NU;
  const int lacks = has_no_value(a->status[problem]) || a->status[problem] == INVALID_INPUT;
  if (!lacks || !all_are_finite(state, NX)) return found;
  const scalar *before = plan_before(a, problem);
  return before ? before : zeros;
}

/* Next state and cost of the plant of one lane; the others compute the same with their own parameters. */
FUNCTION scalar move_lane(reals theta, reals theta_t, int k, const scalar *state, const scalar *control, scalar *next) {
  real x[NX], u[NU], following[NX], cost;
  EACH(i, NX) x[i] = ALL(state[i]);
  EACH(i, NU) u[i] = ALL(control[i]);
  stage_alone(x, u, theta, theta_t, following, &cost);
  for (int i = 0; i < NX; i++) next[i] = lane_get(&following[i], k);
  return lane_get(&cost, k);
}

/* Moves the plan on by a stage, its last row repeated, to where the next step starts: zeros where there is none. */
FUNCTION void move_plan(const solve_arguments *a, int64_t problem, scalar *plan) {
  const size_t count = (size_t)a->horizon * NU;
  const scalar *found = (const scalar *)a->controls + (size_t)problem * count;
  const int status = a->status[problem];
  const int fit = !has_no_value(status) && status != INVALID_INPUT && status != INFEASIBLE && all_are_finite(found, count);
  for (size_t i = 0; i < count; i++) plan[i] = !fit ? 0 : found[i + NU < count ? i + NU : i];
}

/* Takes the step that lane k has ended, with the parameters that are loaded in it. */
FUNCTION void take_step(loop_lanes *lanes, const solve_job *job, int k, int64_t problem, reals theta, reals theta_t) {
  const closed_loop_arguments *c = job->loop;
  const int t = lanes->step[k];
  const solve_arguments *a = job->arguments + t;
  const size_t p = (size_t)problem, at = p * (size_t)c->steps + (size_t)t;
  scalar *state = (scalar *)c->plant_states + (at + p) * NX, *applied = (scalar *)c->applied + at * NU;
  const scalar *control = applied_control(a, problem, state);
  for (int i = 0; i < NU; i++) applied[i] = control[i];
  ((scalar *)c->stage_costs)[at] = move_lane(theta, theta_t, k, state, applied, state + NX);
  if (c->disturbance) {
    const scalar *push = (const scalar *)c->disturbance + problem * c->disturbance_stride + (int64_t)t * NX;
    for (int i = 0; i < NX; i++) state[NX + i] += push[i];
  }
  move_plan(a, problem, (scalar *)c->plans + p * (size_t)a->horizon * NU);
  c->progress[problem] = lanes->step[k] = t + 1;
}

/* ---- the steps' argument structs ---- */

INLINE void *further(const void *first, size_t numbers) { return first ? (scalar *)first + numbers : NULL; }

/* Makes the structs of all steps. What nobody reads of earlier steps is written over: all have its one place. */
FUNCTION void make_steps(const closed_loop_arguments *c) {
  const void **pointers = c->step_parameters;
  const size_t n = (size_t)c->solve.horizon, batch = (size_t)c->solve.batch;
  for (int t = 0; t < c->steps; t++, pointers += NPARAMETERS) {
    solve_arguments *a = c->step_arguments + t;
    const size_t step = (size_t)t, kept = c->keeps_solutions ? step * batch : 0;
    *a = c->solve;
    for (int p = 0; p < NPARAMETERS; p++) pointers[p] = further(a->parameters[p], step * (size_t)c->parameter_steps[p]);
    a->parameters = pointers;
    a->initial_state = further(c->plant_states, step * NX);
    a->initial_state_stride = ((int64_t)c->steps + 1) * NX;
    a->states = further(a->states, kept * (n + 1) * NX);
    a->controls = further(a->controls, kept * n * NU);
    a->status += step * batch;
    if (t == 0) continue;
    a->initial_controls = c->plans;
    a->initial_controls_stride = (int64_t)n * NU;
  }
}

#endif

/* Closed loops: a lane that has solved a problem applies the first control, moves the plant, which is the problem's own
 * model or another (mpcgen_plant.h), and goes on with the problem's next step, from the plan before. So lanes are at steps of
 * their own.
 *
 * Each step has an argument struct, as if it were a call: its arrays are those of the first step, moved on. A problem that
 * box-DDP leaves to the interior point waits at its step. When the batch has been through, the caller has that solved, and
 * runs the loop again: problems go on where they are.
 *
 * Here what lanes keep of loops, and the structs; mpcgen_loop_steps.h has box-DDP's steps, mpcgen_barrier_loop.h those of the
 * interior point. Where box-DDP polishes what that has found, a step is two runs over the batch, and all problems take it
 * together: see mpcgen_loop_batch.h. */
#ifndef MPCGEN_CLOSED_LOOP_H
#define MPCGEN_CLOSED_LOOP_H

#include "mpcgen_outcome.h"

/* Which problem of a loop each lane has, and at which step. */
typedef struct {
  int step[LANES];
  int has_problem[LANES];
  int is_good[LANES];     /* its parameters are finite, and its bounds in order */
  mask solved;            /* the lane has the solution of its step, which is not in memory yet */
  mask follows;           /* the lane's first rollout follows the policy of the step before */
  int stays;              /* every step has the parameters of the first */
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

/* Whether a step that ended so has no control to apply; or no plan that the next one may start from. */
INLINE int has_no_control(int status) { return has_no_value(status) || status == INVALID_INPUT; }
INLINE int has_no_plan(int status) { return has_no_control(status) || status == INFEASIBLE; }

/* Pushes the state after a problem's step, as the call asks. */
INLINE void disturb(const closed_loop_arguments *c, int64_t problem, int t, scalar *next) {
  if (!c->disturbance) return;
  const scalar *push = (const scalar *)c->disturbance + problem * c->disturbance_stride + (int64_t)t * NX;
  for (int i = 0; i < NX; i++) next[i] += push[i];
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
#if CONSTRAINED
    a->duals = further(a->duals, kept * (n + 1) * NDUAL);
#endif
    if (t == 0) continue;
    a->initial_controls = c->plans;
    a->initial_controls_stride = (int64_t)n * NU;
    a->initial_states = c->plan_states;
    a->initial_costates = c->plan_costates;
    a->initial_states_stride = a->initial_costates_stride = ((int64_t)n + 1) * NX;
#if CONSTRAINED
    a->initial_duals = c->plan_duals;
    a->initial_duals_stride = ((int64_t)n + 1) * NDUAL;
#endif
  }
}

#endif

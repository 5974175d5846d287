/* The steps of closed loops: lanes that have solved theirs take them together, and go on with their problems' next ones.
 *
 * A lane keeps its problem from the first step to the last. Of a step that is solved nothing goes to memory but what the
 * caller has asked for; of one that ended otherwise, what a call writes. */
#ifndef MPCGEN_LOOP_STEPS_H
#define MPCGEN_LOOP_STEPS_H

#include "mpcgen_plant.h"
#include "mpcgen_stage_alone.h"

enum { KEEPS_ALL = 1, KEEPS_UNKNOWN = 2 }; /* see keeps_solutions */

/* Ends the step that lane k has solved. */
INLINE void end_step(solver_state *s, const solve_arguments *a, int k) {
  const int64_t problem = s->problem[k];
  a->status[problem] = CONVERGED;
  a->iterations[problem] = lane_count(&s->lanes.iterations, k);
  lane_mark(&s->loop.solved, k, 1);
  lane_mark(&s->lanes.busy, k, 0);
}

/* Where it is beyond doubt which bounds hold controls at the lanes' solutions: where none is nearly reached, or hardly
 * pushed on, what the solver's last sweep and the differentials take for free is the same. */
FUNCTION mask holds_firmly(const solver_state *s) {
  const real margin = ALL(1000) * s->summary.residual;
  mask firm = s->barrier > 0 ? lane_none() : lane_all();
  for (int t = 0; t < s->horizon; t++) {
    real lower[NU], upper[NU];
    stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
    EACH(i, NU) {
      const real u = s->u[t * NU + i], g = s->gradient[t * NU + i], below = u - lower[i], above = upper[i] - u;
      const mask at_lower = lane_le(below, ALL(0)), at_bound = lane_or(at_lower, lane_le(above, ALL(0)));
      const mask pushed = lane_lt(margin, lane_select(at_lower, g, -g));
      const mask inside = lane_and(lane_lt(margin, below), lane_lt(margin, above));
      firm = lane_and(firm, lane_or(lane_and(at_bound, pushed), lane_and(lane_not(at_bound), inside)));
    }
  }
  return firm;
}

/* Where du_0/dx_0 of the solutions that lanes have found is the first gain. Gains of problems that are not linear-quadratic
 * are off by what costates are, and so by the residual. */
INLINE mask known_policies(const solver_state *s, const closed_loop_arguments *c) {
  if (!c->policies || !LINEAR_QUADRATIC || !lane_any(s->loop.solved)) return lane_none();
  return lane_and(s->loop.solved, holds_firmly(s));
}

/* Writes what the caller keeps of the step that lane k has solved. */
FUNCTION void keep_solution(const solver_state *s, const solve_job *job, int k, int is_known) {
  const closed_loop_arguments *c = job->loop;
  const solve_arguments *a = ARGUMENTS_OF(s, job, k);
  const size_t problem = (size_t)s->problem[k], n = (size_t)s->horizon;
  if (c->keeps_solutions == KEEPS_ALL || (c->keeps_solutions == KEEPS_UNKNOWN && !is_known)) {
    store_row((scalar *)a->states + problem * (n + 1) * NX, s->x, k, (n + 1) * NX);
    store_row((scalar *)a->controls + problem * n * NU, s->u, k, n * NU);
  }
  if (!is_known) return;
  scalar *to = (scalar *)c->policies + (problem * (size_t)c->steps + (size_t)s->loop.step[k]) * NU * NX;
  store_row(to, s->gain, k, NU * NX);
}

/* Which lanes' next steps begin with the policy that they have found. Of a linear-quadratic problem that stays the same, and
 * whose bounds hold no control, it is the optimal one from every state: the first rollout is the solution. */
FUNCTION mask followed_policies(const solver_state *s) {
#if KEEPS_MATRICES
  if (!s->loop.stays || !LINEAR_QUADRATIC || s->barrier > 0) return lane_none();
  mask follows = s->loop.solved;
  for (int i = 0; i < s->horizon * NU; i++) follows = lane_and(follows, lane_eq(s->kept_free[i], ALL(1)));
  for (int i = 0; i < NU * NX; i++) follows = lane_and(follows, lane_finite(s->gain[i]));
  return follows;
#else
  (void)s;
  return lane_none();
#endif
}

/* Moves the plans of some lanes on by a stage, their last row repeated, to where their next steps start: zeros where a
 * lane's plan is not fit for that. A policy that is followed stays where it is. */
FUNCTION void move_plans(solver_state *s, mask where, mask fit) {
  const int count = s->horizon * NU;
  for (int i = 0; i < count; i++) fit = lane_and(fit, lane_finite(s->u[i]));
  for (int i = 0; i < count; i++) {
    const real next = lane_select(fit, s->u[i + NU < count ? i + NU : i], ALL(0));
    s->plan[i] = lane_select(where, next, s->plan[i]);
    s->u[i] = lane_select(lane_and(where, lane_not(s->loop.follows)), next, s->u[i]);
  }
}

/* Where the control of a problem's step is, and its cost: among those of all. */
INLINE size_t step_place(const solver_state *s, const closed_loop_arguments *c, int k) {
  return (size_t)s->problem[k] * (size_t)c->steps + (size_t)s->loop.step[k];
}

/* Where the state is that lane k's step begins at; the next one follows. */
INLINE scalar *state_place(const solver_state *s, const closed_loop_arguments *c, int k) {
  return (scalar *)c->plant_states + (step_place(s, c, k) + (size_t)s->problem[k]) * NX;
}

/* Next states and costs of lanes, by their own model: by steps in parts where these alone are solved; rollouts go on as they
 * do. */
FUNCTION void move_by_model(solver_state *s, const closed_loop_arguments *c, mask taking, real *u) {
  real x[NX], next[NX], cost;
  EACH(i, NX) x[i] = s->new_x[i];
#if IMPLICIT
  const real by_parts = s->theta[BY_PARTS];
  s->theta[BY_PARTS] = ALL(1);
#endif
  stage_alone(x, u, s->theta, s->theta_stage, next, &cost);
#if IMPLICIT
  s->theta[BY_PARTS] = by_parts;
#endif
  for (int k = 0; k < LANES; k++) {
    if (!lane_test(&taking, k)) continue;
    store_row(state_place(s, c, k) + NX, next, k, NX);
    store_row((scalar *)c->stage_costs + step_place(s, c, k), &cost, k, 1);
  }
}

/* The same of some lanes by a call of another model, which may fail for want of memory: then their loops are at their end. */
FUNCTION void move_together(solver_state *s, const closed_loop_arguments *c, const int *lanes, int count) {
  scalar x[LANES * NX], u[LANES * NU], next[LANES * NX], cost[LANES];
  for (int i = 0; i < LANES && i < count; i++) { /* which count never is more than: for compilers that wonder */
    memcpy(x + i * NX, state_place(s, c, lanes[i]), NX * sizeof(scalar));
    memcpy(u + i * NU, (const scalar *)c->applied + step_place(s, c, lanes[i]) * NU, NU * sizeof(scalar));
  }
  evaluate_arguments points = plant_point(&c->plant, s->problem[lanes[0]], count, s->loop.step[lanes[0]]);
  points.states = x;
  points.controls = u;
  points.next_states = next;
  points.cost = cost;
  const int failed = c->plant.evaluate(&points);
  for (int i = 0; i < LANES && i < count; i++) {
    if (failed) {
      s->loop.step[lanes[i]] = PLANT_FAILED;
    } else {
      memcpy(state_place(s, c, lanes[i]) + NX, next + i * NX, NX * sizeof(scalar));
      ((scalar *)c->stage_costs)[step_place(s, c, lanes[i])] = cost[i];
    }
  }
}

/* The same by another model: lanes together where they share its parameters, as a network's weights, which a call loads. */
FUNCTION void move_by_plant(solver_state *s, const closed_loop_arguments *c, mask taking) {
  const int most = shares_parameters(&c->plant) ? LANES : 1;
  int lanes[LANES], count = 0;
  for (int k = 0; k < LANES; k++) {
    if (lane_test(&taking, k)) lanes[count++] = k;
    if (count == most || (count > 0 && k == LANES - 1)) {
      move_together(s, c, lanes, count);
      count = 0;
    }
  }
}

/* Ends the step that lane k has taken: the next one begins at the state after it. */
FUNCTION void go_on(solver_state *s, const closed_loop_arguments *c, int k) {
  const int64_t problem = s->problem[k];
  const int t = s->loop.step[k];
  c->progress[problem] = t;
  if (t == PLANT_FAILED) return;
  disturb(c, problem, t, state_place(s, c, k) + NX);
  c->progress[problem] = s->loop.step[k] = t + 1;
}

/* Moves the plants of some lanes by the controls that these apply. */
FUNCTION void move_plants(solver_state *s, const closed_loop_arguments *c, mask taking, real *u) {
  for (int k = 0; k < LANES; k++)
    if (lane_test(&taking, k)) store_row((scalar *)c->applied + step_place(s, c, k) * NU, u, k, NU);
  if (c->plant.evaluate)
    move_by_plant(s, c, taking);
  else
    move_by_model(s, c, taking, u);
  for (int k = 0; k < LANES; k++)
    if (lane_test(&taking, k)) go_on(s, c, k);
}

/* Takes the steps that some lanes have ended. The control is the solution's first, or where there is none and the state is
 * finite, that of the plan before. */
FUNCTION void take_steps(solver_state *s, const solve_job *job, mask taking) {
  const mask known = known_policies(s, job->loop);
  mask lacks = lane_none(), fit = lane_all(), finite = lane_all();
  for (int k = 0; k < LANES; k++) {
    if (!lane_test(&taking, k)) continue;
    const int status = ARGUMENTS_OF(s, job, k)->status[s->problem[k]];
    lane_mark(&lacks, k, has_no_control(status));
    lane_mark(&fit, k, !has_no_plan(status));
    if (lane_test(&s->loop.solved, k)) keep_solution(s, job, k, lane_test(&known, k));
  }
  real u[NU];
  EACH(i, NX) finite = lane_and(finite, lane_finite(s->new_x[i]));
  EACH(i, NU) u[i] = lane_select(lacks, lane_select(finite, s->plan[i], ALL(NAN)), s->u[i]);
  move_plants(s, job->loop, taking, u);
  s->loop.follows = lane_or(lane_and(s->loop.follows, lane_not(taking)), followed_policies(s));
  s->length = lane_select(lane_and(taking, s->loop.follows), ALL(1), s->length);
  move_plans(s, taking, fit);
  s->loop.solved = lane_and(s->loop.solved, lane_not(taking));
}

/* Readies the step that lane k is at, from the plan that it has; ends it if its numbers cannot make a problem. */
FUNCTION void begin_step(solver_state *s, const solve_job *job, int k) {
  const solve_arguments *a = ARGUMENTS_OF(s, job, k);
  const int64_t problem = s->problem[k];
  if (!s->loop.stays) s->loop.is_good[k] = load_parameters_of(s, a, k, problem);
  int good = s->loop.is_good[k];
  good &= load_row(s->new_x, k, (const scalar *)a->initial_state + problem * a->initial_state_stride, NX, 0);
  set_by_parts(s->theta, k, 0);
  begin_problem(s, a, k, problem, good);
  if (!lane_test(&s->lanes.busy, k)) write_nothing(a, problem, s->horizon, INVALID_INPUT);
}

/* Which idle lanes have ended a step. Those that wait for the interior point leave their problems, and where it is to start. */
FUNCTION mask ended_lanes(solver_state *s, const solve_job *job) {
  mask ended = lane_none();
  for (int k = 0; k < LANES; k++) {
    if (lane_test(&s->lanes.busy, k) || !s->loop.has_problem[k]) continue;
    const int64_t problem = s->problem[k];
    const size_t count = (size_t)s->horizon * NU;
    if (has_ended(ARGUMENTS_OF(s, job, k), problem)) {
      lane_mark(&ended, k, 1);
    } else {
      s->loop.has_problem[k] = 0;
      store_row((scalar *)job->loop->plans + (size_t)problem * count, s->plan, k, count);
    }
  }
  return ended;
}

/* Loads a problem, at the step that it is at, into an idle lane, which either is at work then or has ended the step. */
FUNCTION void load_loop(solver_state *s, const solve_job *job, int k, int64_t problem) {
  const solve_arguments *a = ARGUMENTS_OF(s, job, k);
  const size_t count = (size_t)s->horizon * NU;
  const int is_solved = has_ended(a, problem); /* by the interior point, meanwhile */
  s->loop.has_problem[k] = 1;
  lane_mark(&s->loop.follows, k, 0);
  int good = load_controls(s, a, k, problem);
  for (size_t i = 0; i < count; i++) lane_set(s->plan + i, k, lane_get(s->u + i, k));
  s->loop.is_good[k] = load_parameters_of(s, a, k, problem);
  good &= s->loop.is_good[k];
  good &= load_row(s->new_x, k, (const scalar *)a->initial_state + problem * a->initial_state_stride, NX, 0);
  set_by_parts(s->theta, k, 0);
  begin_problem(s, a, k, problem, good && !is_solved);
  if (is_solved)
    load_row(s->u, k, (const scalar *)a->controls + (size_t)problem * count, (int)count, 0);
  else if (!lane_test(&s->lanes.busy, k))
    write_nothing(a, problem, s->horizon, INVALID_INPUT);
}

/* Gives idle lanes without a problem those of the queue. */
INLINE void take_loops(solver_state *s, solve_job *job) {
  for (int k = 0; k < LANES; k++)
    while (!lane_test(&s->lanes.busy, k) && !s->loop.has_problem[k]) {
      const int64_t problem = take(&job->queue);
      if (problem < 0) break;
      s->loop.step[k] = job->loop->progress[problem];
      if (s->loop.step[k] < job->loop->steps) load_loop(s, job, k, problem);
    }
}

/* Gives idle lanes the next steps of their problems, and other problems where those are through; returns whether any lane
 * is at work. */
FUNCTION int refill_loops(solver_state *s, solve_job *job) {
  mask ended;
  do {
    ended = ended_lanes(s, job);
    if (lane_any(ended)) take_steps(s, job, ended);
    for (int k = 0; k < LANES; k++) {
      if (!lane_test(&ended, k)) continue;
      s->loop.has_problem[k] = s->loop.step[k] != PLANT_FAILED && s->loop.step[k] < job->loop->steps;
      if (s->loop.has_problem[k]) begin_step(s, job, k);
    }
    take_loops(s, job);
    ended = ended_lanes(s, job); /* at once: no problem could be made of what they have */
  } while (lane_any(ended));
  return lane_any(s->lanes.busy);
}

#endif

/* Box-DDP (Tassa, Mansard and Todorov 2014) over asynchronous lanes: a batch from its arguments to its results.
 *
 * Each lane holds one problem with its own step length, regularisation and iteration count. One pass is one
 * rollout and one backward sweep for all lanes; a lane whose step is refused keeps its trajectory and tries another
 * in the next pass; a finished lane writes its result and loads the next problem of the batch. */
#ifndef MPCGEN_SOLVER_H
#define MPCGEN_SOLVER_H

#include "mpcgen_control.h"

/* The arguments of the call, or in a closed loop of the step that lane k is at. */
#if CLOSED_LOOPS
#define ARGUMENTS_OF(s, job, k) ((job)->arguments + (s)->loop.step[k])
#else
#define ARGUMENTS_OF(s, job, k) ((job)->arguments)
#endif

enum { POLISHING = 6 }; /* iterations that box-DDP has to polish a solution: it takes two, or cannot */

/* The status of a solution that box-DDP polishes, where that has come to the end of its iterations: a residual is in units, and
 * need not be small where steps are worth nothing. That it is a minimum the interior point has seen. */
FUNCTION int polished_status(const solver_state *s, const solve_arguments *a, int k, int status) {
  const mask whole = lane_and(lane_eq(s->regularisation, ALL(0)), s->summary.finite);
  const mask moved = lane_and(whole, lane_not(s->lanes.unmoved));
  const mask idle = lane_and(moved, worthless(s, ALL(1), (scalar)a->tolerance));
  const mask rests = lane_and(idle, lane_not(doubtful(s, idle, ALL(1), (scalar)a->tolerance)));
  return status == MAX_ITERATIONS && lane_test(&rests, k) ? CONVERGED : status;
}

/* Leaves a problem with the interior point's solution unless box-DDP has solved it, too, and no dearer than what the
 * interior point leaves of gaps explains. Returns whether it does. */
FUNCTION int leave_unpolished(solver_state *s, const solve_arguments *a, int k, int status) {
  const int64_t problem = s->problem[k];
  if (!is_polished(a, problem)) return 0;
  const scalar dearer = lane_get(&s->lanes.cost, k) - ((const scalar *)a->cost)[problem];
  const scalar explained = LIBM(sqrt)((scalar)a->tolerance) * lane_get(&s->lanes.cost_scale, k);
  const int leaves = status != CONVERGED || !(dearer <= explained);
  team_meet(); /* all have read what there is */
  if (!leaves) return 0;
  TEAM_LEADER {
    a->status[problem] = CONVERGED;
    a->iterations[problem] = lane_count(&s->lanes.iterations, k);
    lane_mark(&s->lanes.busy, k, 0);
  }
  return 1;
}

/* Writes a lane's result, which leaves the lane idle. */
FUNCTION void finish(solver_state *s, const solve_arguments *a, int k, int status) {
  if (is_polished(a, s->problem[k])) status = polished_status(s, a, k, status);
  if (leave_unpolished(s, a, k, status)) return;
  const size_t problem = (size_t)s->problem[k], n = (size_t)s->horizon;
  store_row((scalar *)a->states + problem * (n + 1) * NX, s->x, k, (n + 1) * NX);
  store_row((scalar *)a->controls + problem * n * NU, s->u, k, n * NU);
  store_row((scalar *)a->costates + problem * (n + 1) * NX, s->costate, k, (n + 1) * NX);
  store_row((scalar *)a->gains + problem * n * NU * NX, s->gain, k, n * NU * NX);
  team_meet(); /* all have read which problem it is */
  TEAM_LEADER {
    ((scalar *)a->cost)[problem] = lane_get(&s->lanes.cost, k) - lane_get(&s->lanes.barrier_cost, k);
    ((scalar *)a->residual)[problem] = lane_get(&s->summary.residual, k);
    const int iterations = lane_count(&s->lanes.iterations, k);
    a->status[problem] = left_with(a, status, iterations);
    a->iterations[problem] = iterations;
    lane_mark(&s->lanes.busy, k, 0);
  }
}

/* Writes what the sweep has found of the lanes' accepted trajectories. */
FUNCTION void write_history(const solver_state *s, const solve_arguments *a) {
  for (int k = 0; k < LANES; k++) {
    if (!lane_test(&s->lanes.busy, k)) continue;
    const size_t iteration = (size_t)lane_count(&s->lanes.iterations, k);
    scalar *row = (scalar *)a->history + ((size_t)s->problem[k] * ((size_t)a->max_iterations + 1) + iteration) * 2;
    row[0] = lane_get(&s->lanes.cost, k) - lane_get(&s->lanes.barrier_cost, k);
    row[1] = lane_get(&s->summary.residual, k);
  }
}

/* After a sweep: how the lanes' problems have ended, where they have. */
FUNCTION counts conclude(solver_state *s, const solve_arguments *a) {
  keep_residual(s);
  if (a->history) write_history(s, a);
  /* With linear dynamics what the last sweep found is the exact condition. */
  return review(s, (scalar)a->tolerance, LINEAR_DYNAMICS || a->certify);
}

/* Keeps of a rollout that overflowed what is finite: the states up to the first stage where one is not, NaN behind it.
 * They tell where the model fails. */
FUNCTION void write_overflow(const solver_state *s, const solve_arguments *a, int k) {
  const int count = (s->horizon + 1) * NX;
  int finite = 0;
  while (finite < count && isfinite(lane_get(&s->new_x[finite], k))) finite++;
  const int status = finite < count ? broken_at(s->new_x + finite / NX * NX, k) : DIVERGED;
  write_nothing(a, s->problem[k], s->horizon, left_with(a, status, 0));
  scalar *states = (scalar *)a->states + (size_t)s->problem[k] * (size_t)count;
  for (int i = 0; i < finite; i++) states[i] = lane_get(&s->new_x[i], k);
}

INLINE void forget_matrices(solver_state *s) {
#if KEEPS_MATRICES
  s->has_kept = 0;
#endif
  (void)s;
}

/* Lets a lane begin at the interior point's solution: rolls its policy out, as the dynamics may be too unstable for its
 * controls alone, and takes a step, which puts controls on their bounds. */
FUNCTION void begin_polishing(solver_state *s, const solve_arguments *a, int k, int64_t problem) {
  const size_t n = (size_t)s->horizon, p = (size_t)problem;
  lane_progress *lanes = &s->lanes;
  load_row(s->x, k, (const scalar *)a->states + p * (n + 1) * NX, (int)(n + 1) * NX, 0);
  load_row(s->gain, k, (const scalar *)a->gains + p * n * NU * NX, (int)n * NU * NX, 0);
  forget_matrices(s);
  TEAM_FOR(i, n * NU) {
    lane_set(s->step + i, k, 0);
    lane_set(s->gradient + i, k, 0);
  }
  TEAM_LEADER {
    const int last = a->iterations[problem] + POLISHING;
    if (last < a->max_iterations) lane_recount(&lanes->last, k, last);
    lane_mark(&lanes->begins, k, 0);
    lane_mark(&lanes->unmoved, k, 1);
    lane_set(&lanes->cost, k, (scalar)INFINITY);
    lane_set(&lanes->first_scale, k, 0);
    lane_set(&s->length, k, 1);
    lane_set(&s->second_order, k, 1);
    lane_set(&s->summary.slope, k, 0); /* of the sweep whose policy is rolled out: it promises nothing */
    lane_set(&s->summary.bend, k, 0);
  }
}

/* Loads the parameters of a problem into a lane; returns 0 if they cannot make a problem. */
FUNCTION int load_parameters_of(solver_state *s, const solve_arguments *a, int k, int64_t problem) {
  if (!s->shared_loaded) {
    const int finite =
        team_all(load_shared_parameters(s->theta, s->theta_stage, s->horizon, s->rows, a->parameters, a->parameter_strides));
    team_meet();
    TEAM_LEADER s->shared_loaded = 1, s->shared_finite = finite;
    team_meet();
  }
  int good = s->shared_finite;
  good &= load_parameters(s->theta, s->theta_stage, k, problem, s->rows, a->parameters, a->parameter_strides);
#if KEEPS_MATRICES
  if (!s->all_shared) forget_matrices(s);
#endif
  team_meet();
  good &= bounds_in_order(s->theta, s->theta_stage, s->rows, s->horizon, k);
  return team_all(good);
}

/* Loads the controls that a problem starts from into a lane; returns 0 if they are not finite. */
FUNCTION int load_controls(solver_state *s, const solve_arguments *a, int k, int64_t problem) {
  const int count = s->horizon * NU;
  const scalar *u = NULL;
  if (is_later_run(a))
    u = (const scalar *)a->controls + problem * count;
  else if (a->initial_controls)
    u = (const scalar *)a->initial_controls + problem * a->initial_controls_stride;
  if (u) return load_row(s->u, k, u, count, 0);
  TEAM_FOR(i, count) lane_set(s->u + i, k, 0);
  return 1;
}

/* Whether the first sweep of a problem looks past the bounds. Where a linear-quadratic problem begins from no controls,
 * that trajectory says nothing of which bounds will hold a control; but the optimal policy without bounds, clipped to them, is
 * mostly near the solution with them, and so are the controls that it has at its bounds. */
FUNCTION int is_unguided(const solver_state *s, const solve_arguments *a, int k) {
  int none = LINEAR_QUADRATIC && !(s->barrier > 0) && a->max_iterations != 0;
  for (int i = 0; none && i < s->horizon * NU; i++) none = lane_get(s->u + i, k) == 0;
  return none;
}

/* Readies a lane's first rollout of a problem whose numbers are loaded, and `good`. */
FUNCTION void begin_problem(solver_state *s, const solve_arguments *a, int k, int64_t problem, int good) {
  lane_progress *lanes = &s->lanes;
  if (s->barrier > 0) good &= move_inside(s->u, s->theta, s->theta_stage, s->rows, s->horizon, k, s->barrier);
  s->problem[k] = problem;
  lane_mark(&lanes->busy, k, good);
  lane_mark(&lanes->begins, k, 1);
  lane_mark(&lanes->unguided, k, is_unguided(s, a, k));
  lane_mark(&lanes->certifying, k, 0);
  lane_mark(&lanes->sceptical, k, 0);
  lane_mark(&lanes->doubts, k, 0);
  lane_mark(&lanes->weighed, k, 0);
  lane_mark(&lanes->overflowed, k, 0);
  lane_mark(&lanes->refused, k, 0);
  lane_mark(&lanes->fresh, k, !is_later_run(a));
  lane_mark(&lanes->centring, k, 0);
  lane_mark(&lanes->cautious, k, 0);
  lane_mark(&lanes->unmoved, k, 0);
  lane_recount(&lanes->last, k, a->max_iterations);
  lane_recount(&lanes->iterations, k, is_later_run(a) ? a->iterations[problem] : 0);
  lane_recount(&lanes->troubles, k, 0);
  lane_recount(&lanes->unproductive, k, 0);
  lane_recount(&lanes->waits, k, 0);
  lane_set(&lanes->quu, k, 1);
  lane_set(&lanes->lowest_cost, k, (scalar)INFINITY);
  lane_set(&lanes->best_residual, k, (scalar)INFINITY);
  lane_set(&s->regularisation, k, 0);
  lane_set(&s->second_order, k, 0);
}

/* Loads a problem into a lane and readies its first rollout; returns 0 if its numbers cannot make a problem. */
FUNCTION int load_problem(solver_state *s, const solve_arguments *a, int k, int64_t problem) {
  int good = load_row(s->new_x, k, (const scalar *)a->initial_state + problem * a->initial_state_stride, NX, 0);
  good &= load_controls(s, a, k, problem);
  good = team_all(good);
  good &= load_parameters_of(s, a, k, problem);
  set_by_parts(s->theta, k, is_polished(a, problem));
  TEAM_LEADER begin_problem(s, a, k, problem, good);
  team_meet();
  if (is_polished(a, problem)) begin_polishing(s, a, k, problem);
  team_meet();
  return lane_test(&s->lanes.busy, k);
}

#if CLOSED_LOOPS
#include "mpcgen_loop_steps.h"
#endif

/* Leaves an ended problem: in a closed loop it may be that its step is solved. */
INLINE void leave_problem(solver_state *s, const solve_job *job, int k, int status) {
#if CLOSED_LOOPS
  if (job->loop && status == CONVERGED) {
    end_step(s, ARGUMENTS_OF(s, job, k), k);
    return;
  }
#endif
  finish(s, ARGUMENTS_OF(s, job, k), k, status);
}

/* Gives idle lanes new problems; returns whether any lane is at work. */
FUNCTION int refill(solver_state *s, solve_job *job) {
#if CLOSED_LOOPS
  if (job->loop) return refill_loops(s, job);
#endif
  const solve_arguments *a = job->arguments;
  for (int k = 0; k < LANES; k++)
    while (!lane_test(&s->lanes.busy, k)) {
      const int64_t problem = take(&job->queue);
      if (problem < 0) break;
      if (is_later_run(a) && !is_handed_over(a, problem)) continue;
      if (!load_problem(s, a, k, problem)) write_nothing(a, problem, s->horizon, INVALID_INPUT);
    }
  return lane_any(s->lanes.busy);
}

/* Rolls all lanes out, and once more where one begins that has to go through steps in parts. */
INLINE void roll_out_lanes(solver_state *s) {
  rollout(s);
  if (begin_by_parts(s->theta, lane_and(s->lanes.busy, s->lanes.begins), s->cost)) rollout(s);
}

/* Ends the problems whose first rollout overflows. */
FUNCTION void drop_overflows(solver_state *s, const solve_job *job) {
  const mask fails = lane_and(lane_and(s->lanes.busy, s->lanes.begins), lane_not(lane_finite(s->cost)));
  if (!lane_any(fails)) return;
  for (int k = 0; k < LANES; k++)
    if (lane_test(&fails, k)) write_overflow(s, ARGUMENTS_OF(s, job, k), k);
  s->lanes.busy = lane_and(s->lanes.busy, lane_not(fails));
}

/* Which lanes take over their candidates, and with which Hessian they go on. */
FUNCTION mask judge(solver_state *s, const solve_job *job) {
  drop_overflows(s, job);
  const mask accepted = accept_candidates(s);
  if (s->exact_hessian) choose_hessian(s);
  return accepted;
}

INLINE real taken(const solver_state *s, real from, real to) {
  if (!LINEAR_QUADRATIC || s->barrier > 0) return to;
  return lane_select(lane_lt(s->share, ALL(1)), between(from, to, s->share), to);
}

/* Takes over the accepted candidates, or goes to their share of the way. What an idle lane has is of no account: it goes
 * along, so that the sweep finds all points of a network that the rollout has left. */
FUNCTION void adopt(solver_state *s, mask accepted) {
  if (KEEPS_NETWORK) accepted = lane_or(accepted, lane_and(lane_not(s->lanes.busy), lane_finite(s->cost)));
  TEAM_FOR(i, (s->horizon + 1) * NX) s->x[i] = lane_select(accepted, taken(s, s->x[i], s->new_x[i]), s->x[i]);
  TEAM_FOR(i, s->horizon * NU) s->u[i] = lane_select(accepted, taken(s, s->u[i], s->new_u[i]), s->u[i]);
}

/* What of a call's options the sweeps read. */
FUNCTION void take_options(solver_state *s, const solve_arguments *a) {
#if KEEPS_MATRICES
  s->all_shared = 1;
  for (int p = 0; p < NPARAMETERS; p++) s->all_shared &= a->parameter_strides[p] == 0;
#endif
  s->barrier = (scalar)a->barrier;
  s->exact_hessian = a->exact_hessian && !LINEAR_DYNAMICS;
  s->hands_over = a->method == HAND_OVER;
  s->weighs_points = 0;
}

/* Solves problems of the job until none is left, or the call is stopped. */
FUNCTION void run_solver(solver_state *s, solve_job *job) {
  const double pass = (double)s->horizon * STAGE_OPERATIONS;
  double since = 0; /* see `interrupted` */
  take_options(s, job->arguments);
#if CLOSED_LOOPS
  if (job->loop) s->loop.stays = has_constant_parameters(job->loop);
#endif
  while (!interrupted(&job->queue, &since, pass) && refill(s, job)) {
    roll_out_lanes(s);
    adopt(s, judge(s, job));
    backward_sweep(s);
    const counts status = conclude(s, job->arguments);
    for (int k = 0; k < LANES; k++)
      if (lane_count(&status, k) != UNFINISHED) leave_problem(s, job, k, lane_count(&status, k));
  }
}

#endif

/* Box-DDP (Tassa, Mansard and Todorov 2014) over asynchronous lanes: a batch from its arguments to its results.
 *
 * Each lane holds one problem with its own step length, regularisation and iteration count. One pass is one
 * rollout and one backward sweep for all lanes; a lane whose step is refused keeps its trajectory and tries a
 * shorter step in the next pass; a finished lane writes its result and loads the next problem of the batch. */
#ifndef MPCGEN_SOLVER_H
#define MPCGEN_SOLVER_H

#include "mpcgen_control.h"

/* Keep in step with mpcgen.Status. */
enum {
  CONVERGED = 0,
  MAX_ITERATIONS = 1,
  STALLED = 2,
  INVALID_INPUT = 3,
  DIVERGED = 4,
  NOT_A_MINIMUM = 5,
};
enum { UNFINISHED = -1 };

typedef struct {
  const solve_arguments *arguments;
  work_queue queue;
} solve_job;

/* Writes a lane's result, which leaves the lane idle. */
FUNCTION void finish(solver_state *s, const solve_arguments *a, int k, int status) {
  lane_state *lane = &s->lanes[k];
  const size_t problem = (size_t)lane->problem, n = (size_t)s->horizon;
  store_row((scalar *)a->states + problem * (n + 1) * NX, s->x, k, (n + 1) * NX);
  store_row((scalar *)a->controls + problem * n * NU, s->u, k, n * NU);
  store_row((scalar *)a->costates + problem * (n + 1) * NX, s->costate, k, (n + 1) * NX);
  store_row((scalar *)a->gains + problem * n * NU * NX, s->gain, k, n * NU * NX);
  team_meet(); /* all have read which problem it is */
  TEAM_LEADER {
    ((scalar *)a->cost)[problem] = lane->cost - lane->barrier_cost;
    ((scalar *)a->residual)[problem] = lane->residual;
    a->status[problem] = status;
    a->iterations[problem] = lane->iterations;
    lane->activity = IDLE;
  }
}

/* After a sweep: has the lane finished, and with which status, or with which Hessian does it go on? */
FUNCTION int review(solver_state *s, const solve_arguments *a, int k) {
  lane_state *lane = &s->lanes[k];
  if (lane->activity == IDLE) return UNFINISHED;
  lane->residual = lane_get(&s->residual, k);
  if (must_sweep_again(s, k)) return UNFINISHED;
  lane->slope = lane_get(&s->slope, k);
  lane->bend = lane_get(&s->bend, k);
  if (a->history) {
    scalar *row = (scalar *)a->history +
                  ((size_t)lane->problem * ((size_t)a->max_iterations + 1) + (size_t)lane->iterations) * 2;
    row[0] = lane->cost - lane->barrier_cost;
    row[1] = lane->residual;
  }
  const int whole = LINEAR_DYNAMICS || lane_get(&s->second_order, k) >= 1; /* the model has all second derivatives */
  const int exact = whole && lane_get(&s->regularisation, k) == 0;
  const int convex = lane_test(&s->convex, k);
  const int certify = LINEAR_DYNAMICS || a->certify; /* linear: what the last sweep found is the exact condition */
  if (lane->activity == CERTIFYING && !convex) return NOT_A_MINIMUM; /* its model may have overflowed */
  if (!lane_test(&s->finite, k) || !isfinite(lane->residual)) return DIVERGED;
  if (lane->activity == CERTIFYING) return CONVERGED;
  if (lane->residual <= (scalar)a->tolerance) {
    if ((exact && convex) || !certify) return CONVERGED;
    lane->activity = CERTIFYING;
    lane_set(&s->second_order, k, 1);
    lane_set(&s->regularisation, k, 0);
    return UNFINISHED;
  }
  if (lane->iterations >= a->max_iterations) return MAX_ITERATIONS;
  if (lane_get(&s->regularisation, k) > LARGEST_REGULARISATION || is_stalled(lane)) return STALLED;
  lane->activity = ITERATING;
  return UNFINISHED;
}

/* Fills a result that does not exist with NaN, so that nobody mistakes it for one. */
FUNCTION void write_nothing(const solve_arguments *a, int64_t problem, int horizon, int status) {
  const size_t n = (size_t)horizon, p = (size_t)problem;
  const struct { scalar *at; size_t count; } parts[] = {
      {(scalar *)a->states + p * (n + 1) * NX, (n + 1) * NX}, {(scalar *)a->controls + p * n * NU, n * NU},
      {(scalar *)a->costates + p * (n + 1) * NX, (n + 1) * NX}, {(scalar *)a->gains + p * n * NU * NX, n * NU * NX},
      {(scalar *)a->cost + p, 1}, {(scalar *)a->residual + p, 1}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    for (size_t j = 0; j < parts[i].count; j++) parts[i].at[j] = (scalar)NAN;
  a->status[problem] = status;
  a->iterations[problem] = 0;
}

/* Loads a problem into a lane and readies its first rollout; returns 0 if its numbers cannot make a problem. */
FUNCTION int load_problem(solver_state *s, const solve_arguments *a, int k, int64_t problem) {
  const int horizon = s->horizon;
  lane_state *lane = &s->lanes[k];
  if (!s->shared_loaded) {
    const int finite =
        team_all(load_shared_parameters(s->theta, s->theta_stage, s->rows, a->parameters, a->parameter_strides));
    team_meet();
    TEAM_LEADER s->shared_loaded = 1, s->shared_finite = finite;
    team_meet();
  }
  int good = s->shared_finite;
  good &= load_row(s->new_x, k, (const scalar *)a->initial_state + problem * a->initial_state_stride, NX, 0);
  good &= load_parameters(s->theta, s->theta_stage, k, problem, s->rows, a->parameters, a->parameter_strides);
  if (a->initial_controls) {
    const scalar *u = (const scalar *)a->initial_controls + problem * a->initial_controls_stride;
    good &= load_row(s->u, k, u, horizon * NU, 0);
  } else {
    TEAM_FOR(i, horizon * NU) lane_set(s->u + i, k, 0);
  }
  team_meet();
#if BOUNDS_VARY
  TEAM_FOR(t, horizon) {
    real lower[NU], upper[NU];
    stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
    for (int i = 0; i < NU; i++)
      good &= lane_get(&lower[i], k) <= lane_get(&upper[i], k) && lane_get(&lower[i], k) < (scalar)INFINITY &&
              lane_get(&upper[i], k) > -(scalar)INFINITY;
  }
#endif
  good = team_all(good);
  TEAM_LEADER {
    if (s->barrier > 0) good &= move_inside(s->u, s->theta, s->theta_stage, s->rows, horizon, k, s->barrier);
    memset(lane, 0, sizeof *lane);
    lane->problem = problem;
    lane->activity = good ? FIRST_ROLLOUT : IDLE;
    lane->best_residual = (scalar)INFINITY;
    lane_mark(&s->begins, k, 1);
    lane_set(&s->regularisation, k, 0);
    lane_set(&s->second_order, k, 0);
  }
  team_meet();
  return lane->activity != IDLE;
}

/* Gives idle lanes new problems; returns how many lanes are at work. */
FUNCTION int refill(solver_state *s, solve_job *job) {
  int busy = 0;
  for (int k = 0; k < LANES; k++) {
    while (s->lanes[k].activity == IDLE) {
      const int64_t problem = take(&job->queue);
      if (problem < 0) break;
      if (!load_problem(s, job->arguments, k, problem))
        write_nothing(job->arguments, problem, s->horizon, INVALID_INPUT);
    }
    busy += s->lanes[k].activity != IDLE;
  }
  return busy;
}

/* Which lanes take over their candidates; one whose first rollout overflows has ended. */
FUNCTION mask judge(solver_state *s, const solve_arguments *a) {
  mask accepted = lane_none();
  for (int k = 0; k < LANES; k++) {
    lane_state *lane = &s->lanes[k];
    if (lane->activity == FIRST_ROLLOUT && !isfinite(lane_get(&s->cost, k))) {
      write_nothing(a, lane->problem, s->horizon, DIVERGED);
      lane->activity = IDLE;
    }
    if (lane->activity == IDLE || !accept_candidate(s, k)) continue;
    lane_mark(&accepted, k, 1);
    lane->cost = lane_get(&s->cost, k);
    lane->barrier_cost = lane_get(&s->barrier_cost, k);
    lane->cost_scale = lane_get(&s->cost_scale, k);
  }
  return accepted;
}

/* Takes over the accepted candidates. */
FUNCTION void adopt(solver_state *s, mask accepted) {
  TEAM_FOR(i, (s->horizon + 1) * NX) s->x[i] = lane_select(accepted, s->new_x[i], s->x[i]);
  TEAM_FOR(i, s->horizon * NU) s->u[i] = lane_select(accepted, s->new_u[i], s->u[i]);
}

/* What of a call's options the sweeps read. */
FUNCTION void take_options(solver_state *s, const solve_arguments *a) {
  s->barrier = (scalar)a->barrier;
  s->exact_hessian = a->exact_hessian && !LINEAR_DYNAMICS;
}

/* Solves problems of the job until none is left. */
FUNCTION void run_solver(solver_state *s, solve_job *job) {
  take_options(s, job->arguments);
  while (refill(s, job)) {
    rollout(s);
    adopt(s, judge(s, job->arguments));
    if (s->exact_hessian)
      for (int k = 0; k < LANES; k++) choose_hessian(s, k);
    backward_sweep(s);
    for (int k = 0; k < LANES; k++) {
      const int status = review(s, job->arguments, k);
      if (status != UNFINISHED) finish(s, job->arguments, k, status);
    }
  }
}

#endif

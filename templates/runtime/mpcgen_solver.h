/* Box-DDP (Tassa, Mansard and Todorov 2014) over asynchronous lanes.
 *
 * Each lane holds one problem with its own step length, regularisation and iteration count. One pass is one
 * rollout and one backward sweep for all lanes; a lane whose step is refused keeps its trajectory and tries a
 * shorter step in the next pass; a finished lane writes its result and loads the next problem of the batch. */
#ifndef MPCGEN_SOLVER_H
#define MPCGEN_SOLVER_H

#include "mpcgen_problem.h"

/* Keep in step with mpcgen.Status. */
enum {
  CONVERGED = 0,
  MAX_ITERATIONS = 1,
  STALLED = 2,
  INVALID_INPUT = 3,
  DIVERGED = 4,
  NOT_A_MINIMUM = 5,
};

/* What a lane is doing. */
enum { IDLE, FIRST_ROLLOUT, ITERATING, CERTIFYING };

typedef struct {
  int64_t problem;
  int activity;
  int iterations;
  int refusals;      /* in a row */
  int unproductive;  /* passes with a step below rounding since the residual last halved */
  int cautious;      /* the last step with second derivatives of the dynamics was refused */
  scalar cost;
  scalar cost_scale; /* sum of the stages' absolute costs: what rounding is relative to */
  scalar slope;      /* expected change of the cost for a full step, linear part and quadratic part */
  scalar bend;
  scalar residual;
  scalar best_residual;
} lane_state;

/* Trajectories, gains and parameters of LANES problems; the size does not depend on the batch. */
typedef struct {
  int horizon;
  real *theta, *theta_stage;
  real *x, *u, *new_x, *new_u; /* (N+1, NX), (N, NU): accepted and candidate */
  real *costate;               /* (N+1, NX) */
  real *gain, *step;           /* (N, NU, NX), (N, NU) */
  real *gradient;              /* (N, NU): dL/du along the accepted trajectory */
  real length, regularisation;
  real second_order;           /* weight of lambda'(d2f) in the Hessian: 0 Gauss-Newton, 1 exact */
  real cost, cost_scale;       /* of the candidate */
  real promise;                /* dL/du (new_u - u): its change of the cost to first order, bounds included */
  real residual, slope, bend;  /* of the accepted trajectory */
  mask finite, convex;         /* all derivatives finite; every Quu positive definite as it came */
  lane_state lanes[LANES];
} solver_state;

static size_t solver_reals(int horizon) {
  const size_t n = (size_t)horizon;
  return NTHETA + (n + 1) * NTHETA_STAGE + 3 * (n + 1) * NX + 4 * n * NU + n * NU * NX;
}

static solver_state *make_solver(int horizon) {
  const size_t n = (size_t)horizon, head = (sizeof(solver_state) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  solver_state *s = allocate(head + solver_reals(horizon) * sizeof(real));
  if (!s) return NULL;
  memset((void *)s, 0, head + solver_reals(horizon) * sizeof(real));
  real *at = (real *)((char *)s + head);
  s->horizon = horizon;
  s->theta = at, at += NTHETA;
  s->theta_stage = at, at += (n + 1) * NTHETA_STAGE;
  s->x = at, at += (n + 1) * NX;
  s->new_x = at, at += (n + 1) * NX;
  s->costate = at, at += (n + 1) * NX;
  s->u = at, at += n * NU;
  s->new_u = at, at += n * NU;
  s->gradient = at, at += n * NU;
  s->gain = at, at += n * NU * NX;
  s->step = at;
  return s;
}

/* Clips, and puts what lies within rounding of a bound exactly on it: u + (bound - u) need not be the bound. An
 * infinite bound makes its comparison one with NaN, hence false. */
static inline real snap_to_bounds(real target, real lower, real upper) {
  const real slack = ALL(4 * SCALAR_EPSILON);
  const real above = lane_select(lane_le(target, lower + slack * lane_abs(lower)), lower, target);
  return lane_select(lane_le(upper - slack * lane_abs(upper), above), upper, above);
}

/* Rolls the policy u + length * step + gain (x_new - x), clipped to the bounds, through the true dynamics. */
static void rollout(solver_state *s) {
  real total = ALL(0), scale = ALL(0), cost;
  s->promise = ALL(0);
  for (int t = 0; t < s->horizon; t++) {
    const real *x = s->x + t * NX, *u = s->u + t * NU, *theta_t = s->theta_stage + t * NTHETA_STAGE;
    const real *new_x = s->new_x + t * NX;
    real *new_u = s->new_u + t * NU;
    real lower[NU], upper[NU];
    stage_bounds(s->theta, theta_t, lower, upper);
    for (int i = 0; i < NU; i++) {
      real target = u[i] + s->length * s->step[t * NU + i];
      for (int j = 0; j < NX; j++) target += s->gain[(t * NU + i) * NX + j] * (new_x[j] - x[j]);
      new_u[i] = snap_to_bounds(target, lower[i], upper[i]);
      s->promise += s->gradient[t * NU + i] * (new_u[i] - u[i]);
    }
    stage_dynamics(new_x, new_u, s->theta, theta_t, s->new_x + (t + 1) * NX, &cost);
    total += cost;
    scale += lane_abs(cost);
  }
  terminal_cost(s->new_x + s->horizon * NX, s->theta, s->theta_stage + s->horizon * NTHETA_STAGE, &cost);
  s->cost = total + cost;
  s->cost_scale = scale + lane_abs(cost);
}

/* Makes the diagonal so large that Quu is certainly positive definite (Gershgorin), in the lanes of `where`:
 * what replaces a model that curves downward. For one control this is |Quu|. */
static inline void convexify(real *quu, mask where) {
  real lowest = ALL(INFINITY), largest = ALL(0);
  for (int i = 0; i < NU; i++) {
    real radius = ALL(0);
    for (int j = 0; j < NU; j++)
      if (j != i) radius += lane_abs(quu[SYMMETRIC(i, j)]);
    lowest = lane_min(lowest, quu[TRIANGLE(i, i)] - radius);
    largest = lane_max(largest, lane_abs(quu[TRIANGLE(i, i)]) + radius);
  }
  const real shift = lane_max(ALL(-2) * lowest, ALL(0)) + ALL(1e-3) * largest + ALL(SCALAR_EPSILON);
  for (int i = 0; i < NU; i++) quu[TRIANGLE(i, i)] += lane_select(where, shift, ALL(0));
}

/* Where the Hessian of a model is infinite or NaN (or too large to be summed). */
static inline mask overflowed(const stage_model *q) {
  real sum = ALL(0);
  for (int i = 0; i < NXX; i++) sum += lane_abs(q->xx[i]);
  for (int i = 0; i < NU * NX; i++) sum += lane_abs(q->ux[i]);
  for (int i = 0; i < NUU; i++) sum += lane_abs(q->uu[i]);
  return lane_not(lane_finite(sum));
}

/* A stage's quadratic model: with second derivatives of the dynamics where a lane's weight is positive. With a
 * weight of zero the exact model is the Gauss-Newton one, except where zero meets an infinite second derivative:
 * a lane must not fail there because another one in its vector has a positive weight. */
static inline void expand(const solver_state *s, int t, real weight, const value_model *value, stage_model *q) {
  const real *x = s->x + t * NX, *u = s->u + t * NU, *theta_t = s->theta_stage + t * NTHETA_STAGE;
  const mask plain = lane_le(weight, ALL(0));
  if (!lane_any(lane_not(plain))) {
    stage_expand_gauss_newton(x, u, s->theta, theta_t, value, q);
    return;
  }
  real curvature[NX];
  for (int i = 0; i < NX; i++) curvature[i] = weight * value->costate[i];
  stage_expand_exact(x, u, s->theta, theta_t, curvature, value, q);
  const mask again = lane_and(plain, overflowed(q));
  if (!lane_any(again)) return;
  stage_model gauss_newton;
  stage_expand_gauss_newton(x, u, s->theta, theta_t, value, &gauss_newton);
  real *to = (real *)q;
  const real *from = (const real *)&gauss_newton;
  for (size_t i = 0; i < sizeof gauss_newton / sizeof *from; i++) to[i] = lane_select(again, from[i], to[i]);
}

/* Solves the box QP of a stage. Where Quu is not positive definite on its free controls, a lane that uses second
 * derivatives of the dynamics is not convex (and tries again with less of them); one that does not gets a shifted
 * Quu, and a descent direction from it. */
static inline void stage_policy(solver_state *s, int t, stage_model *q, real *quu, real *qu) {
  const real *u = s->u + t * NU;
  real lower[NU], upper[NU], unit_lower[NUU], inverse_pivot[NU], *step = s->step + t * NU;
  mask is_free[NU];
  stage_bounds(s->theta, s->theta_stage + t * NTHETA_STAGE, lower, upper);
  for (int i = 0; i < NU; i++) {
    lower[i] -= u[i];
    upper[i] -= u[i];
    /* |u - clip(u - dL/du, lower, upper)|, written so that a large u does not absorb the gradient */
    s->residual = lane_max(lane_abs(lane_clip(-q->gradient_u[i], lower[i], upper[i])), s->residual);
    s->finite = lane_and(s->finite, lane_finite(q->gradient_u[i]));
    qu[i] = q->gradient_u[i] + q->offset_u[i];
    s->gradient[t * NU + i] = q->gradient_u[i];
  }
  for (int i = 0; i < NUU; i++) quu[i] = q->uu[i];
  for (int i = 0; i < NU; i++) quu[TRIANGLE(i, i)] += s->regularisation;
  mask accepted = box_qp(quu, qu, lower, upper, is_free, unit_lower, inverse_pivot, step);
  s->convex = lane_and(s->convex, accepted);
  const mask shifted = lane_and(lane_not(accepted), lane_le(s->second_order, ALL(0)));
  if (lane_any(shifted)) {
    convexify(quu, shifted);
    accepted = box_qp(quu, qu, lower, upper, is_free, unit_lower, inverse_pivot, step);
    s->finite = lane_and(s->finite, lane_or(accepted, lane_not(shifted))); /* refused only if it holds a NaN */
  }
  feedback_gain(q, is_free, unit_lower, inverse_pivot, s->gain + t * NU * NX);
}

/* One backward sweep over the accepted trajectories: costates, residual, steps, gains, expected change. */
static void backward_sweep(solver_state *s) {
  const int last = s->horizon;
  value_model value;
  s->residual = s->slope = s->bend = ALL(0);
  s->finite = s->convex = lane_not(lane_none());
  terminal_expand(s->x + last * NX, s->theta, s->theta_stage + last * NTHETA_STAGE, value.hessian, value.costate);
  for (int i = 0; i < NX; i++) value.offset[i] = ALL(0);
  for (int t = last; t >= 0; t--) {
    for (int i = 0; i < NX; i++) s->costate[t * NX + i] = value.costate[i];
    if (t == 0) break;
    stage_model q;
    real quu[NUU], qu[NU], image[NU];
    const real *step = s->step + (t - 1) * NU;
    expand(s, t - 1, s->second_order, &value, &q);
    stage_policy(s, t - 1, &q, quu, qu);
    symmetric_times(quu, step, image);
    for (int i = 0; i < NU; i++) {
      s->slope += step[i] * qu[i];
      s->bend += R(0.5) * step[i] * image[i];
    }
    update_value(&q, quu, qu, s->gain + (t - 1) * NU * NX, step, q.offset_x, &value);
  }
  /* What has no derivative at x_0 only has not reached a control; a model that is not convex is not used. */
  for (int i = 0; i < NX; i++) s->finite = lane_and(s->finite, lane_finite(value.costate[i]));
  for (int i = 0; i < NXX; i++)
    s->finite = lane_and(s->finite, lane_or(lane_finite(value.hessian[i]), lane_not(s->convex)));
}

/* ---- what happens to one lane between passes: plain scalar code ---- */

#define ARMIJO R(0.05) /* share of the promised change that a step must bring: less lets far steps leave the basin */
#define SHORTEST_STEP R(1e-3)
#define FIRST_REGULARISATION R(1e-3)
#define LARGEST_REGULARISATION R(1e10)
#define FAR_FROM_SOLUTION R(0.3) /* expected relative change of the cost */
#define AFTER_REFUSAL R(0.3)     /* factors on the weight of the second derivatives */
#define AFTER_NONCONVEX R(0.7)
#define LEAST_SECOND_ORDER R(0.05)
enum { PATIENCE = 6, MORE_SWEEPS = 2 };

/* A change of the cost below this is rounding. */
static inline scalar rounding(const lane_state *lane) { return R(16) * SCALAR_EPSILON * lane->cost_scale; }

/* What the model promises of a full step. */
static inline scalar expected_change(const lane_state *lane) { return lane->slope + lane->bend; }

static void raise_regularisation(solver_state *s, int k) {
  const scalar now = lane_get(&s->regularisation, k);
  lane_set(&s->regularisation, k, now > 0 ? R(10) * now : FIRST_REGULARISATION);
}

static void lower_regularisation(solver_state *s, int k) {
  const scalar now = R(0.1) * lane_get(&s->regularisation, k);
  lane_set(&s->regularisation, k, now < FIRST_REGULARISATION ? R(0) : now);
}

static void reduce_second_order(solver_state *s, int k, scalar factor) {
  const scalar next = factor * lane_get(&s->second_order, k);
  lane_set(&s->second_order, k, next < LEAST_SECOND_ORDER ? R(0) : next);
}

/* Whether a lane's candidate becomes its trajectory; otherwise sets up the next, shorter, step. */
static int accept_candidate(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  const scalar cost = lane_get(&s->cost, k), length = lane_get(&s->length, k);
  if (lane->activity == FIRST_ROLLOUT) {
    lane_set(&s->length, k, 1);
    return 1;
  }
  if (lane->activity != ITERATING) return 0;
  lane->iterations++;
  const scalar promise = lane_get(&s->promise, k);
  if (isfinite(cost) && cost - lane->cost <= ARMIJO * promise + rounding(lane)) {
    if (lane->refusals == 0) lower_regularisation(s, k);
    lane->refusals = 0;
    lane_set(&s->length, k, 1);
    return 1;
  }
  lane->refusals++;
  if (lane_get(&s->second_order, k) > 0) {
    reduce_second_order(s, k, AFTER_REFUSAL);
    lane->cautious = 1;
    return 0;
  }
  lane_set(&s->length, k, R(0.5) * length);
  if (R(0.5) * length < SHORTEST_STEP || promise >= 0) { /* a shorter step of the same policy will not do */
    lane_set(&s->length, k, 1);
    raise_regularisation(s, k);
  }
  return 0;
}

/* Before a sweep: how much of the dynamics' second derivatives goes into a lane's Hessian. None far from the
 * solution, where the model promises to change the cost by a good part; else as much as the last step bore,
 * and twice that after a step that was accepted. */
static void choose_hessian(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  if (lane->activity != ITERATING || lane->refusals > 0) return;
  const scalar now = lane_get(&s->second_order, k);
  scalar next = now > 0 ? R(2) * now : lane->cautious ? R(0.25) : R(1);
  if (-expected_change(lane) > FAR_FROM_SOLUTION * lane->cost_scale) next = 0;
  lane->cautious = 0;
  lane_set(&s->second_order, k, next > 1 ? R(1) : next);
}

typedef struct {
  const solve_arguments *arguments;
  work_queue queue;
} solve_job;

static void write_result(const solver_state *s, const solve_arguments *a, int k, int status) {
  const lane_state *lane = &s->lanes[k];
  const size_t problem = (size_t)lane->problem, n = (size_t)s->horizon;
  store_row((scalar *)a->states + problem * (n + 1) * NX, s->x, k, (n + 1) * NX);
  store_row((scalar *)a->controls + problem * n * NU, s->u, k, n * NU);
  store_row((scalar *)a->costates + problem * (n + 1) * NX, s->costate, k, (n + 1) * NX);
  store_row((scalar *)a->gains + problem * n * NU * NX, s->gain, k, n * NU * NX);
  ((scalar *)a->cost)[problem] = lane->cost;
  ((scalar *)a->residual)[problem] = lane->residual;
  a->status[problem] = status;
  a->iterations[problem] = lane->iterations;
}

static void finish(solver_state *s, const solve_arguments *a, int k, int status) {
  write_result(s, a, k, status);
  s->lanes[k].activity = IDLE;
}

/* Keeps count of steps too small for the cost to judge; past PATIENCE the lane is at its precision's limit. */
static int is_stalled(lane_state *lane) {
  if (lane->residual < R(0.5) * lane->best_residual) {
    lane->best_residual = lane->residual;
    lane->unproductive = 0;
  } else if (-expected_change(lane) <= rounding(lane)) {
    lane->unproductive++;
  }
  return lane->unproductive > PATIENCE;
}

/* After a sweep: has the lane finished, and with which Hessian does it go on? */
static void review(solver_state *s, const solve_arguments *a, int k) {
  lane_state *lane = &s->lanes[k];
  if (lane->activity == IDLE) return;
  lane->residual = lane_get(&s->residual, k);
  lane->slope = lane_get(&s->slope, k);
  lane->bend = lane_get(&s->bend, k);
  if (a->history) {
    scalar *row = (scalar *)a->history +
                  ((size_t)lane->problem * ((size_t)a->max_iterations + 1) + (size_t)lane->iterations) * 2;
    row[0] = lane->cost;
    row[1] = lane->residual;
  }
  const int exact = lane_get(&s->second_order, k) >= 1 && lane_get(&s->regularisation, k) == 0;
  const int convex = lane_test(&s->convex, k);
  if (!lane_test(&s->finite, k) || !isfinite(lane->residual)) {
    finish(s, a, k, DIVERGED);
  } else if (lane->activity == CERTIFYING) {
    finish(s, a, k, convex ? CONVERGED : NOT_A_MINIMUM);
  } else if (lane->residual <= (scalar)a->tolerance) {
    if ((exact && convex) || !a->certify) {
      finish(s, a, k, CONVERGED);
    } else {
      lane->activity = CERTIFYING;
      lane_set(&s->second_order, k, 1);
      lane_set(&s->regularisation, k, 0);
    }
  } else if (lane->iterations >= a->max_iterations) {
    finish(s, a, k, MAX_ITERATIONS);
  } else if (lane_get(&s->regularisation, k) > LARGEST_REGULARISATION || is_stalled(lane)) {
    finish(s, a, k, STALLED);
  } else {
    lane->activity = ITERATING;
  }
}

/* Fills a result that does not exist with NaN, so that nobody mistakes it for one. */
static void write_nothing(const solve_arguments *a, int64_t problem, int horizon, int status) {
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
static int load_problem(solver_state *s, const solve_arguments *a, int k, int64_t problem) {
  const int horizon = s->horizon;
  lane_state *lane = &s->lanes[k];
  int good = load_row(s->new_x, k, (const scalar *)a->initial_state + problem * a->initial_state_stride, NX, 0);
  good &= load_parameters(s->theta, s->theta_stage, k, problem, horizon, a->parameters, a->parameter_strides);
  for (int i = 0; i < horizon * NU * (NX + 1); i++) lane_set(s->gain + i, k, 0); /* gain and step lie together */
  if (a->initial_controls) {
    const scalar *u = (const scalar *)a->initial_controls + problem * a->initial_controls_stride;
    good &= load_row(s->u, k, u, horizon * NU, 0);
  } else {
    for (int i = 0; i < horizon * NU; i++) lane_set(s->u + i, k, 0);
  }
#if BOUNDS_VARY
  for (int t = 0; t < horizon; t++) {
    real lower[NU], upper[NU];
    stage_bounds(s->theta, s->theta_stage + t * NTHETA_STAGE, lower, upper);
    for (int i = 0; i < NU; i++)
      good &= lane_get(&lower[i], k) <= lane_get(&upper[i], k) && lane_get(&lower[i], k) < (scalar)INFINITY &&
              lane_get(&upper[i], k) > -(scalar)INFINITY;
  }
#endif
  memset(lane, 0, sizeof *lane);
  lane->problem = problem;
  lane->activity = good ? FIRST_ROLLOUT : IDLE;
  lane->best_residual = (scalar)INFINITY;
  lane_set(&s->length, k, 0);
  lane_set(&s->regularisation, k, 0);
  lane_set(&s->second_order, k, 0);
  return good;
}

/* Gives idle lanes new problems; returns how many lanes are at work. */
static int refill(solver_state *s, solve_job *job) {
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

/* Takes over the accepted candidates, lane by lane. */
static void adopt(solver_state *s, const solve_arguments *a) {
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
    lane->cost_scale = lane_get(&s->cost_scale, k);
  }
  for (int i = 0; i < (s->horizon + 1) * NX; i++) s->x[i] = lane_select(accepted, s->new_x[i], s->x[i]);
  for (int i = 0; i < s->horizon * NU; i++) s->u[i] = lane_select(accepted, s->new_u[i], s->u[i]);
}

/* The backward sweep, again for lanes whose model was not convex with the second derivatives they asked for. */
static void sweep(solver_state *s, const solve_arguments *a) {
  if (a->exact_hessian)
    for (int k = 0; k < LANES; k++) choose_hessian(s, k);
  backward_sweep(s);
  for (int attempt = 0; a->exact_hessian && attempt <= MORE_SWEEPS; attempt++) {
    int again = 0;
    for (int k = 0; k < LANES; k++) {
      const int solved = lane_get(&s->residual, k) <= (scalar)a->tolerance;
      if (s->lanes[k].activity != ITERATING || lane_get(&s->second_order, k) <= 0) continue;
      if (lane_test(&s->convex, k) || solved) continue;
      reduce_second_order(s, k, attempt < MORE_SWEEPS ? AFTER_NONCONVEX : R(0));
      again = 1;
    }
    if (!again) break;
    backward_sweep(s);
  }
}

static void *solve_worker(void *shared) {
  solve_job *job = shared;
  solver_state *s = make_solver(job->arguments->horizon);
  if (!s) {
    atomic_store(&job->queue.out_of_memory, 1);
    return NULL;
  }
  while (refill(s, job)) {
    rollout(s);
    adopt(s, job->arguments);
    sweep(s, job->arguments);
    for (int k = 0; k < LANES; k++) review(s, job->arguments, k);
  }
  free(s);
  return NULL;
}

/* Solves the batch; returns 0, or 1 if a thread could not get its workspace. */
static int solve_batch(const solve_arguments *arguments) {
  solve_job job = {.arguments = arguments};
  job.queue.count = arguments->batch;
  run_workers(solve_worker, &job, useful_threads(arguments->batch, arguments->threads));
  return atomic_load(&job.queue.out_of_memory);
}

#endif

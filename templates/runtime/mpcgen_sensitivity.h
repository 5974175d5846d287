/* Gradients of a loss through the solution of the control problem: one Riccati sweep and one forward sweep.
 *
 * At a KKT point the differentials of the solution solve a linear-quadratic problem with the Lagrangian's Hessian,
 * the loss's cotangents as linear terms and the controls at a bound held (paper, equations (9) and (18), with
 * the curvature of the dynamics that the paper leaves out). Problems are taken LANES at a time; the batch is cut
 * into blocks that depend on nothing but its size, and the gradients of parameters shared by the batch are summed
 * inside a block and then over the blocks in order, so that the sum does not depend on the threads. */
#ifndef MPCGEN_SENSITIVITY_H
#define MPCGEN_SENSITIVITY_H

#include "mpcgen_problem.h"

enum { REDUCTION_BLOCKS = 64 };

typedef struct {
  int horizon;
  real *theta, *theta_stage;
  real *x, *u;
  real *loss_x, *loss_u, loss_cost; /* cotangents */
  real *costate;                    /* (N+1, NX) */
  real *hessian, *offset;           /* (N+1, NXX), (N+1, NX): value function of the differentials */
  real *gain, *step;
  real *at_lower, *at_upper;        /* (N, NU): one where the bound is active, else zero */
  real *g_theta, *g_theta_stage;    /* this vector's parameter gradients */
  real *sum_theta, *sum_theta_stage; /* the same summed over the vectors of a block */
  real g_initial[NX];
  mask usable, regular; /* the caller wants this gradient; every pivot was accepted */
} sensitivity_state;

static size_t sensitivity_reals(int horizon) {
  const size_t n = (size_t)horizon;
  return 3 * (NTHETA + (n + 1) * NTHETA_STAGE) + (n + 1) * (4 * NX + NXX) + n * NU * (NX + 5);
}

static sensitivity_state *make_sensitivity(int horizon) {
  const size_t n = (size_t)horizon, stage = (n + 1) * NTHETA_STAGE;
  const size_t head = (sizeof(sensitivity_state) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  sensitivity_state *s = allocate(head + sensitivity_reals(horizon) * sizeof(real));
  if (!s) return NULL;
  memset((void *)s, 0, head + sensitivity_reals(horizon) * sizeof(real));
  real *at = (real *)((char *)s + head);
  s->horizon = horizon;
  s->theta = at, at += NTHETA;
  s->theta_stage = at, at += stage;
  s->g_theta = at, at += NTHETA;
  s->g_theta_stage = at, at += stage;
  s->sum_theta = at, at += NTHETA;
  s->sum_theta_stage = at, at += stage;
  s->x = at, at += (n + 1) * NX;
  s->loss_x = at, at += (n + 1) * NX;
  s->costate = at, at += (n + 1) * NX;
  s->offset = at, at += (n + 1) * NX;
  s->hessian = at, at += (n + 1) * NXX;
  s->u = at, at += n * NU;
  s->loss_u = at, at += n * NU;
  s->step = at, at += n * NU;
  s->at_lower = at, at += n * NU;
  s->at_upper = at, at += n * NU;
  s->gain = at;
  return s;
}

/* Riccati sweep over the differentials; leaves policy, value functions, costates and active set per stage. */
static void sensitivity_backward(sensitivity_state *s, int exact_hessian) {
  const int last = s->horizon;
  value_model value;
  terminal_expand(s->x + last * NX, s->theta, s->theta_stage + last * NTHETA_STAGE, value.hessian, value.costate);
  for (int i = 0; i < NX; i++) value.offset[i] = s->loss_x[last * NX + i];
  s->regular = lane_not(lane_none());
  for (int t = last; t >= 0; t--) {
    memcpy(s->hessian + t * NXX, value.hessian, sizeof value.hessian);
    memcpy(s->costate + t * NX, value.costate, sizeof value.costate);
    memcpy(s->offset + t * NX, value.offset, sizeof value.offset);
    if (t == 0) break;
    const int k = t - 1;
    const real *x = s->x + k * NX, *u = s->u + k * NU, *theta_t = s->theta_stage + k * NTHETA_STAGE;
    stage_model q;
    real lower[NU], upper[NU], qu[NU], unit_lower[NUU], inverse_pivot[NU];
    mask is_free[NU];
    stage_bounds(s->theta, theta_t, lower, upper);
    if (exact_hessian)
      stage_expand_exact(x, u, s->theta, theta_t, value.costate, &value, &q);
    else
      stage_expand_gauss_newton(x, u, s->theta, theta_t, &value, &q);
    for (int i = 0; i < NU; i++) {
      const real target = u[i] - q.gradient_u[i];
      const mask low = lane_and(lane_le(target, lower[i]), lane_le(ALL(0), q.gradient_u[i]));
      const mask high = lane_and(lane_le(upper[i], target), lane_not(low));
      s->at_lower[k * NU + i] = lane_select(low, ALL(1), ALL(0));
      s->at_upper[k * NU + i] = lane_select(high, ALL(1), ALL(0));
      is_free[i] = lane_not(lane_or(low, high));
      qu[i] = s->loss_u[k * NU + i] + q.offset_u[i];
    }
    for (int i = 0; i < NX; i++) q.offset_x[i] += s->loss_x[k * NX + i];
    s->regular = lane_and(s->regular, factor_free(q.uu, is_free, unit_lower, inverse_pivot));
    solve_free(unit_lower, inverse_pivot, is_free, qu, 1, s->step + k * NU);
    feedback_gain(&q, is_free, unit_lower, inverse_pivot, s->gain + k * NU * NX);
    update_value(&q, q.uu, qu, s->gain + k * NU * NX, s->step + k * NU, q.offset_x, &value);
  }
}

/* d_lambda = V d_x + v at a stage. */
static void multiplier_differential(const sensitivity_state *s, int t, const real *d_x, real *d_costate) {
  for (int i = 0; i < NX; i++) {
    real sum = s->offset[t * NX + i];
    for (int j = 0; j < NX; j++) sum += s->hessian[t * NXX + SYMMETRIC(i, j)] * d_x[j];
    d_costate[i] = sum;
  }
}

/* Forward sweep: differentials of the trajectory and, stage by stage, the gradients of parameters and bounds. */
static void sensitivity_forward(sensitivity_state *s) {
  real d_x[NX], d_u[NU], d_next[NX], d_costate[NX], g_u[NU], g_lower[NU], g_upper[NU];
  for (int i = 0; i < NX; i++) {
    d_x[i] = ALL(0);
    s->g_initial[i] = s->offset[i] + s->loss_cost * s->costate[i];
  }
  memset(s->g_theta, 0, NTHETA * sizeof(real));
  memset(s->g_theta_stage, 0, (size_t)(s->horizon + 1) * NTHETA_STAGE * sizeof(real));
  for (int t = 0; t < s->horizon; t++) {
    const real *x = s->x + t * NX, *u = s->u + t * NU, *theta_t = s->theta_stage + t * NTHETA_STAGE;
    real *g_theta_t = s->g_theta_stage + t * NTHETA_STAGE;
    for (int a = 0; a < NU; a++) {
      d_u[a] = s->step[t * NU + a];
      for (int j = 0; j < NX; j++) d_u[a] += s->gain[(t * NU + a) * NX + j] * d_x[j];
    }
    stage_tangent(x, u, s->theta, theta_t, d_x, d_u, d_next);
    multiplier_differential(s, t + 1, d_next, d_costate);
    stage_gradient(x, u, s->theta, theta_t, s->costate + (t + 1) * NX, d_x, d_u, d_costate, &s->loss_cost,
                   s->g_theta, g_theta_t, g_u);
    for (int i = 0; i < NU; i++) {
      const real g_bound = s->loss_u[t * NU + i] + g_u[i];
      g_lower[i] = s->at_lower[t * NU + i] * g_bound;
      g_upper[i] = s->at_upper[t * NU + i] * g_bound;
    }
    bounds_gradient(s->theta, theta_t, g_lower, g_upper, s->g_theta, g_theta_t);
    memcpy(d_x, d_next, sizeof d_x);
  }
  terminal_gradient(s->x + s->horizon * NX, s->theta, s->theta_stage + s->horizon * NTHETA_STAGE, d_x, &s->loss_cost,
                    s->g_theta, s->g_theta_stage + s->horizon * NTHETA_STAGE);
}

typedef struct {
  const gradient_arguments *arguments;
  work_queue queue;
  int64_t block;  /* problems per block */
  size_t shared;  /* numbers of all parameters shared by the batch */
  scalar *partial; /* (blocks, shared) */
} gradient_job;

static void load_cotangent(real *destination, int lane, const void *source, int64_t problem, size_t count) {
  const scalar *from = source ? (const scalar *)source + (size_t)problem * count : NULL;
  for (size_t i = 0; i < count; i++) lane_set(destination + i, lane, from ? from[i] : 0);
}

/* Loads problem into a lane. A problem that is not usable is replaced by zeros, which spoil nothing. */
static void load_solution(sensitivity_state *s, const gradient_arguments *a, int k, int64_t problem) {
  const size_t n = (size_t)s->horizon;
  const int usable = problem < a->batch && a->usable[problem];
  lane_mark(&s->usable, k, usable);
  if (!usable) return;
  load_cotangent(s->x, k, a->states, problem, (n + 1) * NX);
  load_cotangent(s->u, k, a->controls, problem, n * NU);
  load_cotangent(s->loss_x, k, a->cotangent_states, problem, (n + 1) * NX);
  load_cotangent(s->loss_u, k, a->cotangent_controls, problem, n * NU);
  load_cotangent(&s->loss_cost, k, a->cotangent_cost, problem, 1);
  load_parameters(s->theta, s->theta_stage, k, problem, s->horizon, a->parameters, a->parameter_strides);
}

/* Writes what belongs to one problem alone: zero where there is no gradient. */
static void store_gradients(const sensitivity_state *s, const gradient_arguments *a, int k, int64_t problem) {
  const int good = lane_test(&s->usable, k) && lane_test(&s->regular, k);
  a->singular[problem] = lane_test(&s->usable, k) && !lane_test(&s->regular, k);
  scalar *g_initial = (scalar *)a->gradient_initial_state + (size_t)problem * NX;
  for (int i = 0; i < NX; i++) g_initial[i] = good ? lane_get(&s->g_initial[i], k) : 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] == 0) continue;
    const parameter_layout *layout = &PARAMETERS[p];
    const int stages = parameter_stages(layout, s->horizon);
    scalar *to = (scalar *)a->gradient_parameters[p] + problem * stages * layout->size;
    for (int t = 0; t < stages; t++) {
      const real *from = parameter_row(layout, s->g_theta, s->g_theta_stage, t);
      for (int i = 0; i < layout->size; i++) *to++ = good ? lane_get(from + i, k) : 0;
    }
  }
}

static void accumulate(real *sum, const real *term, size_t count, mask where) {
  for (size_t i = 0; i < count; i++) sum[i] += lane_select(where, term[i], ALL(0));
}

/* Sums a block's shared gradients over the lanes, in their order, into its row of `partial`. */
static void reduce_block(sensitivity_state *s, const gradient_job *job, scalar *partial) {
  for (int p = 0; p < NPARAMETERS; p++) {
    if (job->arguments->parameter_strides[p] != 0) continue;
    const parameter_layout *layout = &PARAMETERS[p];
    for (int t = 0; t < parameter_stages(layout, s->horizon); t++) {
      const real *from = parameter_row(layout, s->sum_theta, s->sum_theta_stage, t);
      for (int i = 0; i < layout->size; i++) {
        scalar sum = 0;
        for (int k = 0; k < LANES; k++) sum += lane_get(from + i, k);
        *partial++ = sum;
      }
    }
  }
}

static void gradient_block(sensitivity_state *s, const gradient_job *job, int64_t block) {
  const gradient_arguments *a = job->arguments;
  const size_t stage_numbers = (size_t)(s->horizon + 1) * NTHETA_STAGE;
  int64_t end = (block + 1) * job->block;
  if (end > a->batch) end = a->batch;
  memset(s->sum_theta, 0, NTHETA * sizeof(real));
  memset(s->sum_theta_stage, 0, stage_numbers * sizeof(real));
  for (int64_t first = block * job->block; first < end; first += LANES) {
    for (int k = 0; k < LANES; k++) load_solution(s, a, k, first + k);
    sensitivity_backward(s, a->exact_hessian);
    sensitivity_forward(s);
    for (int k = 0; k < LANES && first + k < end; k++) store_gradients(s, a, k, first + k);
    const mask good = lane_and(s->usable, s->regular);
    accumulate(s->sum_theta, s->g_theta, NTHETA, good);
    accumulate(s->sum_theta_stage, s->g_theta_stage, stage_numbers, good);
  }
  reduce_block(s, job, job->partial + (size_t)block * job->shared);
}

static void *gradient_worker(void *shared) {
  gradient_job *job = shared;
  sensitivity_state *s = make_sensitivity(job->arguments->horizon);
  if (!s) {
    atomic_store(&job->queue.out_of_memory, 1);
    return NULL;
  }
  for (int64_t block; (block = take(&job->queue)) >= 0;) gradient_block(s, job, block);
  free(s);
  return NULL;
}

/* Adds up the blocks in order. */
static void reduce_blocks(const gradient_job *job) {
  const gradient_arguments *a = job->arguments;
  size_t at = 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] != 0) continue;
    const size_t count = (size_t)parameter_stages(&PARAMETERS[p], a->horizon) * (size_t)PARAMETERS[p].size;
    scalar *to = a->gradient_parameters[p];
    for (size_t i = 0; i < count; i++) {
      to[i] = 0;
      for (int64_t b = 0; b < job->queue.count; b++) to[i] += job->partial[(size_t)b * job->shared + at + i];
    }
    at += count;
  }
}

/* Differentiates the batch; returns 0, or 1 if memory was refused. */
static int differentiate_batch(const gradient_arguments *a) {
  gradient_job job = {.arguments = a};
  const int64_t even = (a->batch + REDUCTION_BLOCKS - 1) / REDUCTION_BLOCKS;
  job.block = (even + LANES - 1) / LANES * LANES;
  job.queue.count = a->batch ? (a->batch + job.block - 1) / job.block : 0;
  for (int p = 0; p < NPARAMETERS; p++)
    if (a->parameter_strides[p] == 0)
      job.shared += (size_t)parameter_stages(&PARAMETERS[p], a->horizon) * (size_t)PARAMETERS[p].size;
  job.partial = malloc((size_t)job.queue.count * job.shared * sizeof(scalar) + 1);
  if (!job.partial) return 1;
  run_workers(gradient_worker, &job, useful_threads(a->batch, a->threads));
  const int failed = atomic_load(&job.queue.out_of_memory);
  if (!failed) reduce_blocks(&job);
  free(job.partial);
  return failed;
}

#endif

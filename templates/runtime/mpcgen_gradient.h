/* Reverse mode: gradients of a loss with respect to x0, every parameter and through them the bounds.
 *
 * One Riccati sweep and one forward sweep (mpcgen_sensitivity.h). Problems are taken LANES at a time; the batch is
 * cut into blocks that depend on nothing but its size, and the gradients of parameters shared by the batch are
 * summed inside a block and then over the blocks in order, so that the sum does not depend on the threads. */
#ifndef MPCGEN_GRADIENT_H
#define MPCGEN_GRADIENT_H

#include "mpcgen_sensitivity.h"

enum { REDUCTION_BLOCKS = 64 };

typedef struct {
  sensitivity_state base;
  real *g_theta, *g_theta_stage;     /* this vector's parameter gradients */
  real *sum_theta, *sum_theta_stage; /* the same summed over the vectors of a block */
  real g_initial[NX];
} gradient_state;

static gradient_state *make_gradient(int horizon) {
  const size_t stage = (size_t)(horizon + 1) * NTHETA_STAGE, own = 2 * (NTHETA + stage);
  const size_t head = (sizeof(gradient_state) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  gradient_state *g = allocate(head + (sensitivity_reals(horizon) + own) * sizeof(real));
  if (!g) return NULL;
  memset((void *)g, 0, head);
  real *at = lay_out_sensitivity(&g->base, horizon, (real *)((char *)g + head));
  g->g_theta = at, at += NTHETA;
  g->g_theta_stage = at, at += stage;
  g->sum_theta = at, at += NTHETA;
  g->sum_theta_stage = at;
  return g;
}

/* d_lambda = V d_x + v at a stage. */
static void multiplier_differential(const sensitivity_state *s, int t, const real *d_x, real *d_costate) {
  for (int i = 0; i < NX; i++) {
    real sum = s->offset[t * NX + i];
    for (int j = 0; j < NX; j++) sum += s->hessian[t * NXX + SYMMETRIC(i, j)] * d_x[j];
    d_costate[i] = sum;
  }
}

/* Gradient of the bounds at stage t, given that of the free Lagrangian in g_u. */
static void bound_gradients(const gradient_state *g, int t, const real *d_u, const real *g_u, real *g_lower,
                            real *g_upper) {
  const sensitivity_state *s = &g->base;
  for (int i = 0; i < NU; i++) {
    const int at = t * NU + i;
    if (s->smoothing > 0) {
      g_lower[i] = s->loss_cost * lower_pressure(s, at) - s->at_lower[at] * d_u[i];
      g_upper[i] = s->loss_cost * upper_pressure(s, at) - s->at_upper[at] * d_u[i];
    } else {
      g_lower[i] = s->at_lower[at] * (s->linear_u[at] + g_u[i]);
      g_upper[i] = s->at_upper[at] * (s->linear_u[at] + g_u[i]);
    }
  }
}

/* Forward sweep: differentials of the trajectory and, stage by stage, the gradients of parameters and bounds. */
static void gradient_forward(gradient_state *g) {
  const sensitivity_state *s = &g->base;
  real d_x[NX], d_u[NU], d_next[NX], d_costate[NX], g_u[NU], g_lower[NU], g_upper[NU];
  for (int i = 0; i < NX; i++) {
    d_x[i] = ALL(0);
    g->g_initial[i] = s->offset[i] + s->loss_cost * s->costate[i];
  }
  memset(g->g_theta, 0, NTHETA * sizeof(real));
  memset(g->g_theta_stage, 0, (size_t)(s->horizon + 1) * NTHETA_STAGE * sizeof(real));
  for (int t = 0; t < s->horizon; t++) {
    const real *x = s->x + t * NX, *u = s->u + t * NU, *theta_t = s->theta_stage + t * NTHETA_STAGE;
    real *g_theta_t = g->g_theta_stage + t * NTHETA_STAGE;
    policy_differential(s, t, d_x, d_u);
    stage_tangent(x, u, s->theta, theta_t, d_x, d_u, d_next);
    multiplier_differential(s, t + 1, d_next, d_costate);
    stage_gradient(x, u, s->theta, theta_t, s->costate + (t + 1) * NX, d_x, d_u, d_costate, &s->loss_cost,
                   g->g_theta, g_theta_t, g_u);
    bound_gradients(g, t, d_u, g_u, g_lower, g_upper);
    bounds_gradient(s->theta, theta_t, g_lower, g_upper, g->g_theta, g_theta_t);
    memcpy(d_x, d_next, sizeof d_x);
  }
  terminal_gradient(s->x + s->horizon * NX, s->theta, s->theta_stage + s->horizon * NTHETA_STAGE, d_x, &s->loss_cost,
                    g->g_theta, g->g_theta_stage + s->horizon * NTHETA_STAGE);
}

typedef struct {
  const gradient_arguments *arguments;
  work_queue queue;
  int64_t block;  /* problems per block */
  size_t shared;  /* numbers of all parameters shared by the batch */
  scalar *partial; /* (blocks, shared) */
} gradient_job;

/* Loads a solution and its cotangents into a lane. */
static void load_cotangents(gradient_state *g, const gradient_arguments *a, int k, int64_t problem) {
  sensitivity_state *s = &g->base;
  const size_t n = (size_t)s->horizon;
  const solution_batch source = {a->batch, a->states, a->controls, a->usable, a->parameters, a->parameter_strides};
  if (!load_solution(s, &source, k, problem)) return;
  load_array(s->linear_x, k, a->cotangent_states, problem, (n + 1) * NX);
  load_array(s->linear_u, k, a->cotangent_controls, problem, n * NU);
  load_array(&s->loss_cost, k, a->cotangent_cost, problem, 1);
}

/* Writes what belongs to one problem alone: zero where there is no gradient. */
static void store_gradients(const gradient_state *g, const gradient_arguments *a, int k, int64_t problem) {
  const sensitivity_state *s = &g->base;
  const int good = lane_test(&s->usable, k) && lane_test(&s->regular, k);
  a->singular[problem] = lane_test(&s->usable, k) && !lane_test(&s->regular, k);
  scalar *g_initial = (scalar *)a->gradient_initial_state + (size_t)problem * NX;
  for (int i = 0; i < NX; i++) g_initial[i] = good ? lane_get(&g->g_initial[i], k) : 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] == 0) continue;
    const parameter_layout *layout = &PARAMETERS[p];
    const int stages = parameter_stages(layout, s->horizon);
    scalar *to = (scalar *)a->gradient_parameters[p] + problem * stages * layout->size;
    for (int t = 0; t < stages; t++) {
      const real *from = parameter_row(layout, g->g_theta, g->g_theta_stage, t);
      for (int i = 0; i < layout->size; i++) *to++ = good ? lane_get(from + i, k) : 0;
    }
  }
}

static void accumulate(real *sum, const real *term, size_t count, mask where) {
  for (size_t i = 0; i < count; i++) sum[i] += lane_select(where, term[i], ALL(0));
}

/* Sums a block's shared gradients over the lanes, in their order, into its row of `partial`. */
static void reduce_block(const gradient_state *g, const gradient_job *job, scalar *partial) {
  for (int p = 0; p < NPARAMETERS; p++) {
    if (job->arguments->parameter_strides[p] != 0) continue;
    const parameter_layout *layout = &PARAMETERS[p];
    for (int t = 0; t < parameter_stages(layout, g->base.horizon); t++) {
      const real *from = parameter_row(layout, g->sum_theta, g->sum_theta_stage, t);
      for (int i = 0; i < layout->size; i++) {
        scalar sum = 0;
        for (int k = 0; k < LANES; k++) sum += lane_get(from + i, k);
        *partial++ = sum;
      }
    }
  }
}

static void gradient_block(gradient_state *g, const gradient_job *job, int64_t block) {
  sensitivity_state *s = &g->base;
  const gradient_arguments *a = job->arguments;
  const size_t stage_numbers = (size_t)(s->horizon + 1) * NTHETA_STAGE;
  int64_t end = (block + 1) * job->block;
  if (end > a->batch) end = a->batch;
  memset(g->sum_theta, 0, NTHETA * sizeof(real));
  memset(g->sum_theta_stage, 0, stage_numbers * sizeof(real));
  for (int64_t first = block * job->block; first < end; first += LANES) {
    for (int k = 0; k < LANES; k++) load_cotangents(g, a, k, first + k);
    sensitivity_backward(s, a->exact_hessian, NULL);
    gradient_forward(g);
    for (int k = 0; k < LANES && first + k < end; k++) store_gradients(g, a, k, first + k);
    const mask good = lane_and(s->usable, s->regular);
    accumulate(g->sum_theta, g->g_theta, NTHETA, good);
    accumulate(g->sum_theta_stage, g->g_theta_stage, stage_numbers, good);
  }
  reduce_block(g, job, job->partial + (size_t)block * job->shared);
}

static void *gradient_worker(void *shared) {
  gradient_job *job = shared;
  gradient_state *g = make_gradient(job->arguments->horizon);
  if (!g) {
    atomic_store(&job->queue.out_of_memory, 1);
    return NULL;
  }
  g->base.smoothing = (scalar)job->arguments->smoothing;
  for (int64_t block; (block = take(&job->queue)) >= 0;) gradient_block(g, job, block);
  free(g);
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

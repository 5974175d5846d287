/* The kernels on a CPU: batches shared among threads, each with a workspace of its own for LANES problems. */
#ifndef MPCGEN_HOST_H
#define MPCGEN_HOST_H

#include "mpcgen_parallel.h"

#include "mpcgen_examine.h"
#include "mpcgen_gradient.h"
#include "mpcgen_solver.h"
#include "mpcgen_tangent.h"

/* Memory for a state of `bytes`, zero, and `count` reals behind it, for which `at` is set; NULL if refused. */
static void *allocate_state(size_t bytes, size_t count, reals *at) {
  const size_t head = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  char *state = allocate(head + count * sizeof(real));
  if (!state) return NULL;
  memset(state, 0, head + count * sizeof(real));
  *at = (real *)(void *)(state + head);
  return state;
}

/* The same for a worker: where memory is refused, its queue says so. */
static void *worker_state(work_queue *queue, size_t bytes, size_t count, reals *at) {
  void *state = allocate_state(bytes, count, at);
  if (!state) atomic_store(&queue->out_of_memory, 1);
  return state;
}

enum { SOLVE_PASSES = 8, SENSITIVITY_PASSES = 2 }; /* sweeps over the stages that a problem is likely to take */
#define LEAST_WORK (2e5 * LANES) /* operations that are worth a thread: some 100 us of a core */

/* How many threads a batch can feed: each with a full vector of problems, and with work that is worth waking it. */
INLINE int useful_threads(int64_t batch, int horizon, int passes, int requested) {
  const double work = (double)batch * horizon * passes * STAGE_OPERATIONS / LEAST_WORK;
  const int64_t vectors = (batch + LANES - 1) / LANES;
  const int64_t most = work < (double)vectors ? (int64_t)work : vectors;
  return most < 2 || requested < 2 ? 1 : (int)(most < requested ? most : requested);
}

/* ---- solve ---- */

static void *solve_worker(void *shared) {
  solve_job *job = shared;
  reals workspace;
  solver_state *s = worker_state(&job->queue, sizeof *s, solver_reals(job->arguments), &workspace);
  if (!s) return NULL;
  lay_out_solver(s, job->arguments, workspace);
  run_solver(s, job);
  free(s);
  return NULL;
}

/* Solves the batch; returns 0, or 1 if a thread could not get its workspace. */
static int solve_batch(const solve_arguments *arguments) {
  solve_job job = {.arguments = arguments};
  job.queue.count = arguments->batch;
  run_workers(solve_worker, &job, useful_threads(arguments->batch, arguments->horizon, SOLVE_PASSES, arguments->threads));
  return atomic_load(&job.queue.out_of_memory);
}

/* ---- reverse mode: the batch is cut into blocks that depend on nothing but its size, and the gradients of shared
 * parameters are summed inside a block and then over the blocks in order, so that no sum depends on the threads ---- */

enum { REDUCTION_BLOCKS = 64 };

typedef struct {
  const gradient_arguments *arguments;
  work_queue queue;
  int64_t block;   /* problems per block */
  size_t shared;   /* numbers of all parameters shared by the batch */
  scalar *partial; /* (blocks, shared) */
} gradient_job;

/* Sums a block's shared gradients over the lanes, in their order, into its row of `partial`. */
static void reduce_block(const gradient_state *g, const gradient_job *job, scalar *partial) {
  for (int p = 0; p < NPARAMETERS; p++) {
    if (job->arguments->parameter_strides[p] != 0) continue;
    const parameter_layout *layout = &PARAMETERS[p];
    for (int t = 0; t < parameter_stages(layout, g->base.rows); t++) {
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
  const gradient_arguments *a = job->arguments;
  int64_t end = (block + 1) * job->block;
  if (end > a->batch) end = a->batch;
  clear_sums(g);
  for (int64_t first = block * job->block; first < end; first += LANES) gradient_vector(g, a, first, end);
  reduce_block(g, job, job->partial + (size_t)block * job->shared);
}

static void *gradient_worker(void *shared) {
  gradient_job *job = shared;
  reals workspace;
  gradient_state *g = worker_state(&job->queue, sizeof *g, gradient_reals(job->arguments), &workspace);
  if (!g) return NULL;
  lay_out_gradient(g, job->arguments, workspace);
  for (int64_t block; (block = take(&job->queue)) >= 0;) gradient_block(g, job, block);
  free(g);
  return NULL;
}

/* Adds up the blocks in order. */
static void reduce_blocks(const gradient_job *job) {
  const gradient_arguments *a = job->arguments;
  const int rows = parameter_rows(a->horizon, a->constant_parameters);
  size_t at = 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] != 0) continue;
    const size_t count = (size_t)parameter_stages(&PARAMETERS[p], rows) * (size_t)PARAMETERS[p].size;
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
  const int rows = parameter_rows(a->horizon, a->constant_parameters);
  const int64_t even = (a->batch + REDUCTION_BLOCKS - 1) / REDUCTION_BLOCKS;
  job.block = (even + LANES - 1) / LANES * LANES;
  job.queue.count = a->batch ? (a->batch + job.block - 1) / job.block : 0;
  for (int p = 0; p < NPARAMETERS; p++)
    if (a->parameter_strides[p] == 0)
      job.shared += (size_t)parameter_stages(&PARAMETERS[p], rows) * (size_t)PARAMETERS[p].size;
  job.partial = malloc((size_t)job.queue.count * job.shared * sizeof(scalar) + 1);
  if (!job.partial) return 1;
  run_workers(gradient_worker, &job, useful_threads(a->batch, a->horizon, SENSITIVITY_PASSES, a->threads));
  const int failed = atomic_load(&job.queue.out_of_memory);
  if (!failed) reduce_blocks(&job);
  free(job.partial);
  return failed;
}

/* ---- forward mode ---- */

typedef struct {
  const tangent_arguments *arguments;
  work_queue queue;
} tangent_job;

static void *tangent_worker(void *shared) {
  tangent_job *job = shared;
  reals workspace;
  tangent_state *f = worker_state(&job->queue, sizeof *f, tangent_reals(job->arguments), &workspace);
  if (!f) return NULL;
  lay_out_tangent(f, job->arguments, workspace);
  for (int64_t vector; (vector = take(&job->queue)) >= 0;) tangent_vector(f, job->arguments, vector * LANES);
  free(f);
  return NULL;
}

/* Differentiates the batch in forward mode; returns 0, or 1 if memory was refused. */
static int tangent_batch(const tangent_arguments *a) {
  tangent_job job = {.arguments = a};
  job.queue.count = (a->batch + LANES - 1) / LANES;
  run_workers(tangent_worker, &job, useful_threads(a->batch, a->horizon, SENSITIVITY_PASSES, a->threads));
  return atomic_load(&job.queue.out_of_memory);
}

/* ---- examination ---- */

/* Examines the batch; returns 0, or 1 if memory was refused. */
static int examine_batch(const examine_arguments *a) {
  reals workspace;
  sensitivity_state *s = allocate_state(sizeof *s, examine_reals(a), &workspace);
  if (!s) return 1;
  lay_out_examine(s, a, workspace);
  for (int64_t first = 0; first < a->batch; first += LANES) examine_vector(s, a, first);
  free(s);
  return 0;
}

#endif

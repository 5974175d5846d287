/* The kernels on a CPU, in memory that the caller owns: a batch shared among threads, each with a part of the workspace
 * for LANES problems.
 *
 * For each entry point there is the size of its workspace, a function of the arguments, and a run in one of that size,
 * aligned to CACHE_LINE, whatever it holds. Nothing here or in the algorithms allocates. */
#ifndef MPCGEN_BATCH_H
#define MPCGEN_BATCH_H

#include "mpcgen_parallel.h"
#include "mpcgen_parts.h"

#if HAS_PART(PART_SENSITIVITIES)
#include "mpcgen_evaluate.h"
#include "mpcgen_examine.h"
#include "mpcgen_gradient.h"
#include "mpcgen_tangent.h"
#include "mpcgen_loop_gradient.h"
#endif
#define HAS_BOX_DDP (HAS_PART(PART_SOLVE) && !CONSTRAINED)
#define HAS_INTERIOR_POINT (CONSTRAINED ? HAS_PART(PART_SOLVE) : HAS_PART(PART_INTERIOR_POINT))
#define CLOSED_LOOPS HAS_PART(PART_SOLVE)
#ifdef HAS_SLOPES
#define KEEPS_MATRICES 1
#endif
#if HAS_INTERIOR_POINT
#include "mpcgen_interior_point.h"
#endif
#if HAS_BOX_DDP
#include "mpcgen_solver.h"
#endif

enum { SOLVE_PASSES = 8, SENSITIVITY_PASSES = 2 }; /* sweeps over the stages that a problem is likely to take */
#define LEAST_WORK (2e5 * LANES) /* operations that are worth a thread: some 100 us of a core */

/* Operations of sweeps over a vector of problems, for `interrupted`. */
INLINE double sweep_operations(int horizon, int sweeps) { return (double)horizon * sweeps * STAGE_OPERATIONS; }

/* How many threads a batch can feed: each with a full vector of problems, and with work that is worth waking it. */
INLINE int useful_threads(int64_t batch, int horizon, int passes, int requested) {
  const double work = (double)batch * horizon * passes * STAGE_OPERATIONS / LEAST_WORK;
  const int64_t vectors = (batch + LANES - 1) / LANES;
  const int64_t most = work < (double)vectors ? (int64_t)work : vectors;
  if (requested > MAX_THREADS) requested = MAX_THREADS;
  return most < 2 || requested < 2 ? 1 : (int)(most < requested ? most : requested);
}

/* ---- workspaces: a part for each worker, with its state and the arrays behind that ---- */

/* In whole cache lines, so that no two workers write to one. */
INLINE size_t whole_lines(size_t bytes) { return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE; }

INLINE size_t part_bytes(size_t state, size_t count) { return whole_lines(state) + whole_lines(count * sizeof(real)); }

/* A workspace, and how many workers have taken their part of it. */
typedef struct {
  char *at;
  atomic_int taken;
} worker_parts;

/* A worker's state of `state` bytes, zero as are the `count` numbers behind it, for which `arrays` is set. */
static void *take_part(worker_parts *parts, size_t state, size_t count, reals *arrays) {
  const size_t bytes = part_bytes(state, count);
  char *part = parts->at + (size_t)atomic_fetch_add(&parts->taken, 1) * bytes;
  memset(part, 0, bytes);
  *arrays = (real *)(void *)(part + whole_lines(state));
  return part;
}

#if HAS_BOX_DDP || HAS_INTERIOR_POINT
/* ---- solve ---- */

typedef struct {
  solve_job job;
  worker_parts parts;
} solve_work;

static int solve_threads(const solve_arguments *a) {
  return useful_threads(a->batch, a->horizon, SOLVE_PASSES, a->threads);
}

#if HAS_BOX_DDP
static void *solve_worker(void *shared) {
  solve_work *work = shared;
  const solve_arguments *a = work->job.arguments;
  reals arrays;
  solver_state *s = take_part(&work->parts, sizeof *s, solver_reals(a), &arrays);
  lay_out_solver(s, a, arrays);
  run_solver(s, &work->job);
  return NULL;
}
#endif

#if HAS_INTERIOR_POINT
static void *interior_point_worker(void *shared) {
  solve_work *work = shared;
  const solve_arguments *a = work->job.arguments;
  reals arrays;
  barrier_state *s = take_part(&work->parts, sizeof *s, barrier_reals(a), &arrays);
  lay_out_barrier(s, a, arrays);
  run_interior_point(s, &work->job);
  return NULL;
}
#endif

static size_t solve_part(const solve_arguments *a) {
#if HAS_INTERIOR_POINT
  if (BY_INTERIOR_POINT(a)) return part_bytes(sizeof(barrier_state), barrier_reals(a));
#endif
#if HAS_BOX_DDP
  return part_bytes(sizeof(solver_state), solver_reals(a));
#endif
}

static size_t solve_workspace(const solve_arguments *a) { return (size_t)solve_threads(a) * solve_part(a); }

/* Whether a run has left problems for another method. */
static int any_handed_over(const solve_arguments *a) {
  for (int64_t problem = 0; problem < a->batch; problem++)
    if (is_handed_over(a, problem)) return 1;
  return 0;
}

static work_function solver_of(const solve_arguments *a) {
#if HAS_INTERIOR_POINT
  if (BY_INTERIOR_POINT(a)) return interior_point_worker;
#endif
#if HAS_BOX_DDP
  (void)a;
  return solve_worker;
#endif
}

/* Solves the batch by one method; returns 0, STOPPED, or LEFT_OVER where problems are left for `next_run`. */
enum { LEFT_OVER = 3 };
static int run_solve(const solve_arguments *a, void *workspace) {
  solve_work work = {.job = {.arguments = a, .queue.count = a->batch}, .parts.at = workspace};
  const int code = run_workers(solver_of(a), &work, &work.job.queue, solve_threads(a));
  return code == 0 && next_run(a->method) >= 0 && any_handed_over(a) ? LEFT_OVER : code;
}
#endif

#if HAS_PART(PART_SENSITIVITIES)
/* ---- reverse mode: the batch is cut into blocks that depend on nothing but its size, and the gradients of shared
 * parameters are summed inside a block and then over the blocks in order, so that no sum depends on the threads ---- */

enum { REDUCTION_BLOCKS = 64 };

typedef struct {
  const gradient_arguments *arguments;
  work_queue queue;
  worker_parts parts;
  int64_t block;   /* problems per block */
  size_t shared;   /* numbers of all parameters shared by the batch */
  scalar *partial; /* (blocks, shared) */
} gradient_work;

static int gradient_threads(const gradient_arguments *a) {
  return useful_threads(a->batch, a->horizon, SENSITIVITY_PASSES, a->threads);
}

static size_t shared_numbers(const gradient_arguments *a) {
  const int rows = parameter_rows(a->horizon, a->constant_parameters);
  size_t sum = 0;
  for (int p = 0; p < NPARAMETERS; p++)
    if (a->parameter_strides[p] == 0)
      sum += (size_t)parameter_stages(&PARAMETERS[p], rows) * (size_t)PARAMETERS[p].size;
  return sum;
}

static int64_t block_size(int64_t batch) {
  const int64_t even = (batch + REDUCTION_BLOCKS - 1) / REDUCTION_BLOCKS;
  return (even + LANES - 1) / LANES * LANES;
}

static int64_t block_count(int64_t batch) { return batch ? (batch + block_size(batch) - 1) / block_size(batch) : 0; }

static size_t gradient_parts(const gradient_arguments *a) {
  return (size_t)gradient_threads(a) * part_bytes(sizeof(gradient_state), gradient_reals(a));
}

static size_t gradient_workspace(const gradient_arguments *a) {
  return gradient_parts(a) + whole_lines((size_t)block_count(a->batch) * shared_numbers(a) * sizeof(scalar));
}

/* Sums a block's shared gradients over the lanes, in their order, into its row of `partial`. */
static void reduce_block(const gradient_state *g, const gradient_work *work, scalar *partial) {
  for (int p = 0; p < NPARAMETERS; p++) {
    if (work->arguments->parameter_strides[p] != 0) continue;
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

/* `since`: see `interrupted`. */
static void gradient_block(gradient_state *g, gradient_work *work, int64_t block, double *since) {
  const gradient_arguments *a = work->arguments;
  int64_t end = (block + 1) * work->block;
  if (end > a->batch) end = a->batch;
  clear_sums(g);
  for (int64_t first = block * work->block; first < end; first += LANES) {
    if (interrupted(&work->queue, since, sweep_operations(a->horizon, SENSITIVITY_PASSES))) return;
    gradient_vector(g, a, first, end);
  }
  reduce_block(g, work, work->partial + (size_t)block * work->shared);
}

static void *gradient_worker(void *shared) {
  gradient_work *work = shared;
  reals arrays;
  gradient_state *g = take_part(&work->parts, sizeof *g, gradient_reals(work->arguments), &arrays);
  lay_out_gradient(g, work->arguments, arrays);
  double since = 0;
  for (int64_t block; (block = take(&work->queue)) >= 0;) gradient_block(g, work, block, &since);
  return NULL;
}

/* Adds up the blocks in order. */
static void reduce_blocks(const gradient_work *work) {
  const gradient_arguments *a = work->arguments;
  const int rows = parameter_rows(a->horizon, a->constant_parameters);
  size_t at = 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    if (a->parameter_strides[p] != 0) continue;
    const size_t count = (size_t)parameter_stages(&PARAMETERS[p], rows) * (size_t)PARAMETERS[p].size;
    scalar *to = a->gradient_parameters[p];
    for (size_t i = 0; i < count; i++) {
      to[i] = 0;
      for (int64_t b = 0; b < work->queue.count; b++) to[i] += work->partial[(size_t)b * work->shared + at + i];
    }
    at += count;
  }
}

/* Differentiates the batch. */
static int run_differentiate(const gradient_arguments *a, void *workspace) {
  gradient_work work = {
      .arguments = a,
      .queue.count = block_count(a->batch),
      .parts.at = workspace,
      .block = block_size(a->batch),
      .shared = shared_numbers(a),
      .partial = (scalar *)(void *)((char *)workspace + gradient_parts(a)),
  };
  const int code = run_workers(gradient_worker, &work, &work.queue, gradient_threads(a));
  if (code == 0) reduce_blocks(&work);
  return code;
}

/* ---- forward mode ---- */

typedef struct {
  const tangent_arguments *arguments;
  work_queue queue;
  worker_parts parts;
} tangent_work;

static int tangent_threads(const tangent_arguments *a) {
  return useful_threads(a->batch, a->horizon, SENSITIVITY_PASSES, a->threads);
}

static size_t tangent_workspace(const tangent_arguments *a) {
  return (size_t)tangent_threads(a) * part_bytes(sizeof(tangent_state), tangent_reals(a));
}

static void *tangent_worker(void *shared) {
  tangent_work *work = shared;
  reals arrays;
  tangent_state *f = take_part(&work->parts, sizeof *f, tangent_reals(work->arguments), &arrays);
  lay_out_tangent(f, work->arguments, arrays);
  const double operations = sweep_operations(work->arguments->horizon, SENSITIVITY_PASSES);
  double since = 0;
  for (int64_t vector; (vector = take(&work->queue)) >= 0;) {
    if (interrupted(&work->queue, &since, operations)) break;
    tangent_vector(f, work->arguments, vector * LANES);
  }
  return NULL;
}

/* Differentiates the batch in forward mode. */
static int run_tangent(const tangent_arguments *a, void *workspace) {
  tangent_work work = {.arguments = a, .queue.count = (a->batch + LANES - 1) / LANES, .parts.at = workspace};
  return run_workers(tangent_worker, &work, &work.queue, tangent_threads(a));
}

/* ---- examination ---- */

static size_t examine_workspace(const examine_arguments *a) {
  return part_bytes(sizeof(sensitivity_state), examine_reals(a));
}

/* Examines the batch, on the calling thread. */
static int run_examine(const examine_arguments *a, void *workspace) {
  worker_parts parts = {.at = workspace};
  work_queue queue = {.caller = pthread_self()};
  double since = 0;
  reals arrays;
  sensitivity_state *s = take_part(&parts, sizeof *s, examine_reals(a), &arrays);
  lay_out_examine(s, a, arrays);
  int stopped = 0;
  for (int64_t first = 0; first < a->batch && !stopped; first += LANES) {
    stopped = interrupted(&queue, &since, sweep_operations(a->horizon, 1));
    if (!stopped) examine_vector(s, a, first);
  }
  served = NULL;
  return stopped ? STOPPED : 0;
}

/* ---- stages alone ---- */

enum { SUMMED_AT_ONCE = 64 };

typedef struct {
  const evaluate_arguments *arguments;
  work_queue queue;
  worker_parts parts;
  scalar *sums; /* (batch, STAGE_PARAMETERS): gradients, where they are wanted */
} evaluate_work;

static int evaluate_threads(const evaluate_arguments *a) { return useful_threads(a->batch, 1, 1, a->threads); }

static size_t evaluate_parts(const evaluate_arguments *a) {
  return (size_t)evaluate_threads(a) * part_bytes(sizeof(evaluate_state), evaluate_reals());
}

static size_t evaluate_workspace(const evaluate_arguments *a) {
  const size_t sums = wants_gradient(a) ? (size_t)a->batch * STAGE_PARAMETERS : 0;
  return evaluate_parts(a) + whole_lines(sums * sizeof(scalar));
}

static void *evaluate_worker(void *shared) {
  evaluate_work *work = shared;
  reals arrays;
  evaluate_state *s = take_part(&work->parts, sizeof *s, evaluate_reals(), &arrays);
  lay_out_evaluate(s, arrays);
  double since = 0;
  for (int64_t vector; (vector = take(&work->queue)) >= 0;) {
    if (interrupted(&work->queue, &since, sweep_operations(1, 1))) break;
    evaluate_vector(s, work->arguments, vector * LANES, work->sums);
  }
  return NULL;
}

/* A column of the sums: over some problems at a time and then over those, so that rounding stays small. */
static scalar sum_column(const evaluate_work *work, size_t column) {
  const int64_t batch = work->arguments->batch;
  scalar total = 0;
  for (int64_t first = 0; first < batch; first += SUMMED_AT_ONCE) {
    scalar sum = 0;
    for (int64_t i = first; i < batch && i < first + SUMMED_AT_ONCE; i++)
      sum += work->sums[(size_t)i * STAGE_PARAMETERS + column];
    total += sum;
  }
  return total;
}

/* Gradients of the parameters that the batch shares. */
static void sum_stage_gradients(const evaluate_work *work) {
  const evaluate_arguments *a = work->arguments;
  for (int p = 0; p < NPARAMETERS; p++) {
    const parameter_layout *layout = &PARAMETERS[p];
    const int column = (layout->per_stage ? NTHETA : 0) + layout->offset;
    scalar *to = a->gradient_parameters[p];
    if (a->parameter_strides[p] != 0) continue;
    for (int i = 0; i < layout->size; i++) to[i] = sum_column(work, (size_t)(column + i));
  }
}

/* Evaluates a stage of each problem of the batch. */
static int run_evaluate(const evaluate_arguments *a, void *workspace) {
  evaluate_work work = {
      .arguments = a,
      .queue.count = (a->batch + LANES - 1) / LANES,
      .parts.at = workspace,
      .sums = (scalar *)(void *)((char *)workspace + evaluate_parts(a)),
  };
  const int code = run_workers(evaluate_worker, &work, &work.queue, evaluate_threads(a));
  if (code == 0 && wants_gradient(a)) sum_stage_gradients(&work);
  return code;
}
#endif

#endif

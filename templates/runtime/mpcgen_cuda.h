/* The kernels on a CUDA device: a worker per problem, a thread or with MPCGEN_WARP a warp, each with its part of a
 * workspace that the caller owns.
 *
 * Nothing here allocates or waits: launches go to the caller's stream, and errors of a launch are returned. */
#ifndef MPCGEN_CUDA_H
#define MPCGEN_CUDA_H

/* Problems that wait for a worker: `next` lies in device memory. */
typedef struct {
  unsigned long long *next;
  int64_t count;
} work_queue;

/* The next problem, or -1 when there is none left. */
INLINE int64_t take(work_queue *queue) {
  const int64_t piece = (int64_t)atomicAdd(queue->next, 1ull);
  return piece < queue->count ? piece : -1;
}

/* A kernel runs to its end. */
INLINE int interrupted(const work_queue *, const double *, double) { return 0; }

FUNCTION int is_stopped(int) { return 0; }

#include "mpcgen_launch.h"
#include "mpcgen_team.h"

enum {
  BLOCK = 64,                              /* threads: small, so that few problems spread over many multiprocessors */
  WORK_BLOCK = MPCGEN_WARP ? TEAM : BLOCK, /* of a kernel that works on problems; a warp's block is the warp */
  WORKERS = WORK_BLOCK / TEAM,             /* in such a block */
  /* Workers of a differentiation, about what a large GPU holds at once: at 255 registers, or 16 warps a
   * multiprocessor; and how many however much memory they take. */
  MOST_WORKERS = MPCGEN_WARP ? 1 << 11 : 1 << 15,
  LEAST_WORKERS = MOST_WORKERS / 32,
  QUEUE_BYTES = 256,                       /* a counter, and room for the workspace behind it to be aligned */
};
static const int64_t MOST_BYTES = (int64_t)1 << 30; /* of a workspace, beyond LEAST_WORKERS */

/* Workers for a batch: a function of the batch and of a problem's memory, and for the solver, whose results do not
 * depend on it, of what the device holds at once. */
static int64_t workers_for(int64_t batch, size_t reals_each, int64_t most) {
  int64_t fitting = MOST_BYTES / (int64_t)(reals_each * sizeof(scalar) + 1);
  if (fitting < LEAST_WORKERS) fitting = LEAST_WORKERS;
  if (fitting < most) most = fitting;
  if (batch < most) most = batch;
  return (most + WORKERS - 1) / WORKERS * WORKERS;
}

INLINE int64_t thread_number() { return (int64_t)blockIdx.x * blockDim.x + threadIdx.x; }
INLINE int64_t worker_number() { return thread_number() / TEAM; }

/* A worker's part of the workspace, `count` numbers. */
INLINE reals worker_workspace(scalar *workspace, size_t count) {
  const int64_t worker = worker_number();
  return reals{workspace + (size_t)(worker / INTERLEAVED) * count * INTERLEAVED + (size_t)(worker % INTERLEAVED)};
}

/* The same, all zero. */
INLINE reals zero_workspace(scalar *workspace, size_t count) {
  const reals at = worker_workspace(workspace, count);
  TEAM_FOR(i, count) at[i] = 0;
  team_meet();
  return at;
}

/* The arrays of an argument struct that the host keeps, by value. */
template <class pointer_type>
struct kept {
  pointer_type at[NPARAMETERS + 1];
  template <class source_type>
  explicit kept(const source_type *source) { /* NULL: none is given */
    for (int p = 0; p < NPARAMETERS; p++) at[p] = source ? source[p] : pointer_type{};
    at[NPARAMETERS] = {};
  }
};

/* What a kernel is given: the arguments of its entry point, their arrays, and the workspace of all workers. */
template <class arguments_type>
struct batch_task {
  arguments_type original;
  kept<const void *> parameters;
  kept<int64_t> strides;
  scalar *workspace;
  batch_task(const arguments_type *a, void *memory)
      : original(*a), parameters(a->parameters), strides(a->parameter_strides), workspace((scalar *)memory) {}
  /* The arguments as the device may read them: the arrays are this task's. */
  __device__ arguments_type arguments() const {
    arguments_type a = original;
    a.parameters = parameters.at;
    a.parameter_strides = strides.at;
    return a;
  }
};

/* Workers of a kernel that takes the problems i, i + workers, ...; and the bytes of their workspaces. */
static int64_t striding_workers(int64_t batch, size_t reals_each) {
  return workers_for(batch, reals_each, MOST_WORKERS);
}
static int64_t striding_bytes(int64_t batch, size_t reals_each) {
  return striding_workers(batch, reals_each) * (int64_t)(reals_each * sizeof(scalar));
}
INLINE int64_t stride() { return (int64_t)gridDim.x * WORKERS; }

/* ---- the kernels: each takes problems of its task until none is left ---- */

struct solve_task : batch_task<solve_arguments> {
  unsigned long long *next;
};

struct gradient_task : batch_task<gradient_arguments> {
  kept<void *> gradients;
  __device__ gradient_arguments arguments() const {
    gradient_arguments a = batch_task::arguments();
    a.gradient_parameters = gradients.at;
    return a;
  }
};

struct tangent_task : batch_task<tangent_arguments> {
  kept<const void *> changes;
  kept<int64_t> change_strides;
  __device__ tangent_arguments arguments() const {
    tangent_arguments a = batch_task::arguments();
    a.tangent_parameters = changes.at;
    a.tangent_strides = change_strides.at;
    return a;
  }
};

struct examine_task : batch_task<examine_arguments> {};

struct evaluate_task : batch_task<evaluate_arguments> {
  kept<void *> gradients;
  kept<const void *> changes;
  kept<int64_t> change_strides;
  scalar *sums; /* (batch, STAGE_PARAMETERS) */
  __device__ evaluate_arguments arguments() const {
    evaluate_arguments a = batch_task::arguments();
    a.gradient_parameters = gradients.at;
    a.tangent_parameters = changes.at;
    a.tangent_strides = change_strides.at;
    return a;
  }
};

#if MPCGEN_WARP
#include "mpcgen_warp_kernels.h"
#else
#include "mpcgen_thread_kernels.h"
#endif

/* ---- solve ---- */

typedef void (*solver_kernel)(solve_task);

static solver_kernel solver_of(const solve_arguments *a) {
#if CONSTRAINED
  (void)a;
  return interior_point_kernel;
#else
  return BY_INTERIOR_POINT(a) ? interior_point_kernel : solve_kernel;
#endif
}

static cudaError_t solve_workers(const solve_arguments *a, int64_t *workers) {
  int64_t resident = 0;
  const cudaError_t error = resident_threads(solver_of(a), WORK_BLOCK, &resident);
  *workers = workers_for(a->batch, solve_worker_reals(a), resident / TEAM);
  return error;
}

static int64_t solve_workspace_of(const solve_arguments *a) {
  int64_t workers = 0;
  if (solve_workers(a, &workers)) return -1;
  return QUEUE_BYTES + workers * (int64_t)(solve_worker_reals(a) * sizeof(scalar));
}

static int solve_by_one_method(const solve_arguments *a, void *workspace, void *stream) {
  int64_t workers = 0;
  cudaError_t error = solve_workers(a, &workers);
  if (!error) error = cudaMemsetAsync(workspace, 0, QUEUE_BYTES, (cudaStream_t)stream);
  if (error) return (int)error;
  const solve_task task = {{a, (char *)workspace + QUEUE_BYTES}, (unsigned long long *)workspace};
  launch(solver_of(a), workers / WORKERS, WORK_BLOCK, (cudaStream_t)stream, task);
  return (int)cudaGetLastError();
}

static int64_t solve_workspace(const solve_arguments *a) {
  int64_t most = 0;
  for (solve_arguments run = *a; run.method >= 0; run.method = next_run(run.method)) {
    const int64_t own = solve_workspace_of(&run);
    if (own < 0) return own;
    if (own > most) most = own;
  }
  return most;
}

/* As on the host; but nobody waits to hear whether anything is left: the later kernels find out. */
static int solve_batch(const solve_arguments *a, void *workspace, void *stream) {
  int code = 0;
  for (solve_arguments run = *a; run.method >= 0 && !code; run.method = next_run(run.method))
    code = solve_by_one_method(&run, workspace, stream);
  return code;
}

/* ---- reverse mode: worker i differentiates the problems i, i + workers, ... and sums their gradients; the number of
 * workers depends on nothing but the batch and the horizon, and the sums are added up in order ---- */

/* Groups of WARP sums of `count` numbers each. Sum k of a group is `apart` numbers after sum k-1, number i of a sum
 * `dense` numbers after number i-1. */
struct sum_task {
  const scalar *from;
  scalar *to; /* (groups, count) */
  int64_t groups, sums, count;
  int64_t group_stride, apart, dense;
};

static __global__ void __launch_bounds__(BLOCK) sum_kernel(const __grid_constant__ sum_task task) {
  const int64_t thread = thread_number(), group = thread / task.count, i = thread % task.count;
  if (group >= task.groups) return;
  const scalar *from = task.from + group * task.group_stride + i * task.dense;
  scalar sum = 0;
  for (int64_t k = 0; k < WARP && group * WARP + k < task.sums; k++) sum += from[k * task.apart];
  task.to[thread] = sum;
}

struct scatter_task {
  const scalar *sums;
  int rows; /* of theta_stage */
  kept<int64_t> strides;
  kept<void *> gradients;
};

/* Writes the sums where the gradients of shared parameters belong; one thread per parameter. */
static __global__ void __launch_bounds__(BLOCK) scatter_kernel(const __grid_constant__ scatter_task task) {
  const int64_t p = thread_number();
  if (p >= NPARAMETERS || task.strides.at[p] != 0) return;
  const parameter_layout *layout = &PARAMETERS[p];
  scalar *to = (scalar *)task.gradients.at[p];
  for (int t = 0; t < parameter_stages(layout, task.rows); t++) {
    const scalar *from = task.sums + (layout->per_stage ? NTHETA + (int64_t)t * NTHETA_STAGE : 0) + layout->offset;
    for (int i = 0; i < layout->size; i++) *to++ = from[i];
  }
}

COUNT int64_t shared_numbers(const gradient_arguments *a) {
  return NTHETA + (int64_t)parameter_rows(a->horizon, a->constant_parameters) * NTHETA_STAGE;
}

static int64_t gradient_workers(const gradient_arguments *a) {
  return striding_workers(a->batch, gradient_worker_reals(a));
}

static int64_t gradient_workspace(const gradient_arguments *a) {
  const int64_t workers = gradient_workers(a), groups = (workers + WARP - 1) / WARP;
  const int64_t each = (int64_t)gradient_worker_reals(a), count = shared_numbers(a);
  return (workers * each + (groups + (groups + WARP - 1) / WARP) * count) * (int64_t)sizeof(scalar);
}

static int any_shared(const int64_t *strides) {
  int shared = 0;
  for (int p = 0; p < NPARAMETERS; p++) shared |= strides[p] == 0;
  return shared;
}

/* Adds up sums, WARP at a time, by turns into two places, and writes the gradients of shared parameters. */
static void add_up(sum_task task, scalar *to, scalar *other, const scatter_task &last, cudaStream_t stream) {
  task.to = to;
  while (1) {
    launch(sum_kernel, (task.groups * task.count + BLOCK - 1) / BLOCK, BLOCK, stream, task);
    if (task.groups == 1) break;
    const int64_t sums = task.groups, count = task.count;
    task = {to, other, (sums + WARP - 1) / WARP, sums, count, WARP * count, count, 1};
    scalar *const swap = to;
    to = other;
    other = swap;
  }
  scatter_task found = last;
  found.sums = to;
  launch(scatter_kernel, (NPARAMETERS + BLOCK - 1) / BLOCK, BLOCK, stream, found);
}

/* Adds up the workers' sums. */
static void sum_over_batch(const gradient_arguments *a, scalar *workspace, cudaStream_t stream) {
  const int64_t workers = gradient_workers(a), groups = (workers + WARP - 1) / WARP;
  const int64_t each = (int64_t)gradient_worker_reals(a), count = shared_numbers(a);
  const int64_t sums_at = (int64_t)gradient_reals(a) - count, apart = INTERLEAVED > 1 ? 1 : each;
  scalar *to = workspace + workers * each;
  const sum_task task = {
      workspace + sums_at * INTERLEAVED, to, groups, workers, count, each * WARP, apart, INTERLEAVED};
  const scatter_task last = {to, parameter_rows(a->horizon, a->constant_parameters), kept<int64_t>(a->parameter_strides),
                             kept<void *>(a->gradient_parameters)};
  add_up(task, to, to + groups * count, last, stream);
}

static int differentiate_batch(const gradient_arguments *a, void *workspace, void *stream) {
  const gradient_task task = {{a, workspace}, kept<void *>(a->gradient_parameters)};
  launch(gradient_kernel, gradient_workers(a) / WORKERS, WORK_BLOCK, (cudaStream_t)stream, task);
  if (any_shared(a->parameter_strides)) sum_over_batch(a, (scalar *)workspace, (cudaStream_t)stream);
  return (int)cudaGetLastError();
}

/* ---- forward mode ---- */

static int64_t tangent_workspace(const tangent_arguments *a) {
  return striding_bytes(a->batch, tangent_worker_reals(a));
}

static int tangent_batch(const tangent_arguments *a, void *workspace, void *stream) {
  const tangent_task task = {
      {a, workspace}, kept<const void *>(a->tangent_parameters), kept<int64_t>(a->tangent_strides)};
  const int64_t workers = striding_workers(a->batch, tangent_worker_reals(a));
  launch(tangent_kernel, workers / WORKERS, WORK_BLOCK, (cudaStream_t)stream, task);
  return (int)cudaGetLastError();
}

/* ---- examination ---- */

static int64_t examine_workspace(const examine_arguments *a) {
  return striding_bytes(a->batch, examine_worker_reals(a));
}

static int examine_batch(const examine_arguments *a, void *workspace, void *stream) {
  const examine_task task = {{a, workspace}};
  const int64_t workers = striding_workers(a->batch, examine_worker_reals(a));
  launch(examine_kernel, workers / WORKERS, WORK_BLOCK, (cudaStream_t)stream, task);
  return (int)cudaGetLastError();
}

/* ---- stages alone: a worker's part, then the gradients of each problem and their sums ---- */

static int64_t evaluate_workspace(const evaluate_arguments *a) {
  const int64_t workers = striding_bytes(a->batch, evaluate_reals());
  if (!wants_gradient(a)) return workers;
  const int64_t groups = (a->batch + WARP - 1) / WARP, rows = a->batch + groups + (groups + WARP - 1) / WARP;
  return workers + rows * STAGE_PARAMETERS * (int64_t)sizeof(scalar);
}

static int evaluate_batch(const evaluate_arguments *a, void *workspace, void *stream) {
  scalar *const sums = (scalar *)((char *)workspace + striding_bytes(a->batch, evaluate_reals()));
  const evaluate_task task = {{a, workspace},
                              kept<void *>(a->gradient_parameters),
                              kept<const void *>(a->tangent_parameters),
                              kept<int64_t>(a->tangent_strides),
                              sums};
  const int64_t workers = striding_workers(a->batch, evaluate_reals());
  launch(evaluate_kernel, workers / WORKERS, WORK_BLOCK, (cudaStream_t)stream, task);
  if (wants_gradient(a) && any_shared(a->parameter_strides)) {
    const int64_t groups = (a->batch + WARP - 1) / WARP, count = STAGE_PARAMETERS;
    scalar *const to = sums + a->batch * count;
    const sum_task each = {sums, to, groups, a->batch, count, WARP * count, count, 1};
    const scatter_task last = {to, 1, kept<int64_t>(a->parameter_strides), kept<void *>(a->gradient_parameters)};
    add_up(each, to, to + groups * count, last, (cudaStream_t)stream);
  }
  return (int)cudaGetLastError();
}

#ifdef MPCGEN_DIGEST /* of a library's object files in one */
const char *mpcgen_cuda_message(int error) { return cudaGetErrorString((cudaError_t)error); }
const char *mpcgen_build_digest(void) { return MPCGEN_DIGEST; }
#endif

#endif

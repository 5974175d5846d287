/* Closed loops on a CPU (mpcgen_closed_loop.h, mpcgen_loop_gradient.h): batches of them shared among threads. */
#ifndef MPCGEN_LOOP_BATCH_H
#define MPCGEN_LOOP_BATCH_H

#include "mpcgen_batch.h"

#if CLOSED_LOOPS
#include "mpcgen_solved_steps.h"
#endif

#if CLOSED_LOOPS
static int loop_threads(const closed_loop_arguments *c) {
  const solve_arguments *a = &c->solve;
  return useful_threads(a->batch, a->horizon, SOLVE_PASSES * c->steps, a->threads);
}

#if !CONSTRAINED
/* The solves that polish a step. */
INLINE solve_arguments polishing(const solve_arguments *step) {
  solve_arguments a = *step;
  a.method = RESUMED;
  return a;
}

/* Runs the batch's loops by the interior point, step by step; returns as `run_closed_loop`. */
static int run_polished_loop(const closed_loop_arguments *c, void *workspace) {
  int code = 0;
  make_steps(c);
  for (int t = 0; t < c->steps && code == 0; t++) {
    const solve_arguments *a = c->step_arguments + t, polished = polishing(a);
    code = c->interior_point(a);
    if (code == LEFT_OVER) code = run_solve(&polished, workspace);
    for (int64_t problem = 0; problem < a->batch && code == 0; problem++)
      code = take_step_of(c, problem, t) == PLANT_FAILED;
  }
  return code;
}
#endif

static size_t closed_loop_workspace(const closed_loop_arguments *c) {
#if !CONSTRAINED
  if (c->interior_point) {
    const solve_arguments polished = polishing(&c->solve);
    return solve_workspace(&polished);
  }
#endif
  return (size_t)loop_threads(c) * solve_part(&c->solve);
}

/* Runs the batch's loops by the method that problems start with; returns 0, 1 if memory was refused, STOPPED, or LEFT_OVER
 * where problems wait for another method. */
static int run_closed_loop(const closed_loop_arguments *c, void *workspace) {
#if !CONSTRAINED
  if (c->interior_point) return run_polished_loop(c, workspace);
#endif
  solve_work work = {.job = {.arguments = c->step_arguments, .queue.count = c->solve.batch, .loop = c}, .parts.at = workspace};
  make_steps(c);
  const int code = run_workers(solver_of(&c->solve), &work, &work.job.queue, loop_threads(c));
  if (code) return code;
  int waiting = 0, failed = 0;
  for (int64_t problem = 0; problem < c->solve.batch; problem++) {
    failed |= c->progress[problem] == PLANT_FAILED;
    waiting |= c->progress[problem] < c->steps;
  }
  return failed ? 1 : waiting ? LEFT_OVER : 0;
}
#endif

#if HAS_PART(PART_SENSITIVITIES)
/* ---- reverse mode, in the blocks of a single solve's ---- */

typedef struct {
  gradient_work sums;
  const loop_gradient_arguments *loop;
  scalar *plant_sums; /* (blocks, numbers): gradients of the plant's shared parameters */
  atomic_int failed;  /* a call of the plant */
} loop_gradient_work;

static int loop_gradient_threads(const loop_gradient_arguments *c) {
  const gradient_arguments *a = &c->gradient;
  return useful_threads(a->batch, a->horizon, SENSITIVITY_PASSES * c->steps, a->threads);
}

static size_t loop_shared_numbers(const loop_gradient_arguments *c) {
  return c->gradient.gradient_parameters ? shared_numbers(&c->gradient) : 0;
}

static size_t loop_gradient_parts(const loop_gradient_arguments *c) {
  return (size_t)loop_gradient_threads(c) * part_bytes(sizeof(loop_gradient_state), loop_gradient_reals(c));
}

static size_t loop_gradient_workspace(const loop_gradient_arguments *c) {
  const size_t shared = loop_shared_numbers(c) + plant_shared_numbers(&c->plant);
  return loop_gradient_parts(c) + whole_lines((size_t)block_count(c->gradient.batch) * shared * sizeof(scalar));
}

/* `since`: see `interrupted`. */
static void loop_gradient_block(loop_gradient_state *s, loop_gradient_work *work, int64_t block, double *since) {
  const gradient_arguments *a = work->sums.arguments;
  const double operations = sweep_operations(a->horizon, SENSITIVITY_PASSES * work->loop->steps);
  int64_t end = (block + 1) * work->sums.block;
  if (end > a->batch) end = a->batch;
  clear_sums(&s->g);
  const size_t of_plant = plant_shared_numbers(&work->loop->plant);
  s->plant_sums = work->plant_sums + (size_t)block * of_plant;
  memset(s->plant_sums, 0, of_plant * sizeof(scalar));
  for (int64_t first = block * work->sums.block; first < end; first += LANES) {
    if (interrupted(&work->sums.queue, since, operations)) return;
    loop_gradient_vector(s, work->loop, first, end);
  }
  if (work->sums.shared) reduce_block(&s->g, &work->sums, work->sums.partial + (size_t)block * work->sums.shared);
}

static void *loop_gradient_worker(void *shared) {
  loop_gradient_work *work = shared;
  reals arrays;
  loop_gradient_state *s = take_part(&work->sums.parts, sizeof *s, loop_gradient_reals(work->loop), &arrays);
  lay_out_loop_gradient(s, work->loop, arrays);
  double since = 0;
  for (int64_t block; (block = take(&work->sums.queue)) >= 0;) loop_gradient_block(s, work, block, &since);
  if (s->failed) atomic_store(&work->failed, 1);
  return NULL;
}

/* Differentiates the batch's loops; returns 0, 1 if memory was refused, or STOPPED. */
static int run_differentiate_loop(const loop_gradient_arguments *c, void *workspace) {
  const gradient_arguments *a = &c->gradient;
  loop_gradient_work work = {
      .sums = {
          .arguments = a,
          .queue.count = block_count(a->batch),
          .parts.at = workspace,
          .block = block_size(a->batch),
          .shared = loop_shared_numbers(c),
          .partial = (scalar *)(void *)((char *)workspace + loop_gradient_parts(c)),
      },
      .loop = c,
  };
  work.plant_sums = work.sums.partial + (size_t)work.sums.queue.count * work.sums.shared;
  const int code = run_workers(loop_gradient_worker, &work, &work.sums.queue, loop_gradient_threads(c));
  if (code == 0 && work.sums.shared) reduce_blocks(&work.sums);
  if (code == 0) sum_plant_gradients(&c->plant, work.plant_sums, work.sums.queue.count);
  return code ? code : atomic_load(&work.failed);
}
#endif

#endif

/* The kernels with a thread per problem. */
#ifndef MPCGEN_THREAD_KERNELS_H
#define MPCGEN_THREAD_KERNELS_H

#include "mpcgen_evaluate.h"
#include "mpcgen_examine.h"
#include "mpcgen_gradient.h"
#include "mpcgen_interior_point.h"
#if !CONSTRAINED
#include "mpcgen_solver.h"
#endif
#include "mpcgen_tangent.h"

/* Numbers in a worker's workspace. */
COUNT size_t solve_worker_reals(const solve_arguments *a) {
#if !CONSTRAINED
  if (!BY_INTERIOR_POINT(a)) return solver_reals(a);
#endif
  return barrier_reals(a);
}
COUNT size_t gradient_worker_reals(const gradient_arguments *a) { return gradient_reals(a); }
COUNT size_t tangent_worker_reals(const tangent_arguments *a) { return tangent_reals(a); }
COUNT size_t examine_worker_reals(const examine_arguments *a) { return examine_reals(a); }

#if !CONSTRAINED
static __global__ void __launch_bounds__(BLOCK) solve_kernel(const __grid_constant__ solve_task task) {
  const solve_arguments arguments = task.arguments();
  solve_job job = {&arguments, {task.next, arguments.batch}};
  solver_state s;
  memset((void *)&s, 0, sizeof s);
  lay_out_solver(&s, &arguments, worker_workspace(task.workspace, solve_worker_reals(&arguments)));
  run_solver(&s, &job);
}
#endif

static __global__ void __launch_bounds__(BLOCK) interior_point_kernel(const __grid_constant__ solve_task task) {
  const solve_arguments arguments = task.arguments();
  solve_job job = {&arguments, {task.next, arguments.batch}};
  barrier_state s;
  memset((void *)&s, 0, sizeof s);
  lay_out_barrier(&s, &arguments, worker_workspace(task.workspace, solve_worker_reals(&arguments)));
  run_interior_point(&s, &job);
}

static __global__ void __launch_bounds__(BLOCK) gradient_kernel(const __grid_constant__ gradient_task task) {
  const gradient_arguments a = task.arguments();
  gradient_state g;
  memset((void *)&g, 0, sizeof g);
  lay_out_gradient(&g, &a, zero_workspace(task.workspace, gradient_worker_reals(&a)));
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride())
    gradient_vector(&g, &a, problem, a.batch);
}

static __global__ void __launch_bounds__(BLOCK) tangent_kernel(const __grid_constant__ tangent_task task) {
  const tangent_arguments a = task.arguments();
  tangent_state f;
  memset((void *)&f, 0, sizeof f);
  lay_out_tangent(&f, &a, zero_workspace(task.workspace, tangent_worker_reals(&a)));
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride()) tangent_vector(&f, &a, problem);
}

static __global__ void __launch_bounds__(BLOCK) examine_kernel(const __grid_constant__ examine_task task) {
  const examine_arguments a = task.arguments();
  sensitivity_state s;
  memset((void *)&s, 0, sizeof s);
  lay_out_examine(&s, &a, zero_workspace(task.workspace, examine_worker_reals(&a)));
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride()) examine_vector(&s, &a, problem);
}

static __global__ void __launch_bounds__(BLOCK) evaluate_kernel(const __grid_constant__ evaluate_task task) {
  const evaluate_arguments a = task.arguments();
  evaluate_state s;
  memset((void *)&s, 0, sizeof s);
  lay_out_evaluate(&s, zero_workspace(task.workspace, evaluate_reals()));
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride())
    evaluate_vector(&s, &a, problem, task.sums);
}

#endif

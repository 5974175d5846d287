/* The kernels with a warp per problem: a warp's state, and the matrices of the stage at hand, are in shared memory. */
#ifndef MPCGEN_WARP_KERNELS_H
#define MPCGEN_WARP_KERNELS_H

#include "mpcgen_evaluate.h"
#include "mpcgen_examine.h"
#include "mpcgen_interior_point.h"
#include "mpcgen_warp_sensitivity.h"
#if !CONSTRAINED
#include "mpcgen_warp_solver.h"
#endif

/* Numbers in a worker's workspace. */
COUNT size_t solve_worker_reals(const solve_arguments *a) {
#if !CONSTRAINED
  if (!BY_INTERIOR_POINT(a)) return solver_reals(a) + team_reals(a->horizon);
#endif
  return barrier_reals(a);
}
COUNT size_t gradient_worker_reals(const gradient_arguments *a) {
  return gradient_reals(a) + team_gradient_reals(a->horizon);
}
COUNT size_t tangent_worker_reals(const tangent_arguments *a) { return tangent_reals(a) + team_reals(a->horizon); }
COUNT size_t examine_worker_reals(const examine_arguments *a) { return examine_reals(a) + team_reals(a->horizon); }

#if !CONSTRAINED
static __global__ void __launch_bounds__(WORK_BLOCK) solve_kernel(const __grid_constant__ solve_task task) {
  TEAM_SHARED solver_state s;
  TEAM_SHARED team_memory m;
  const solve_arguments arguments = task.arguments();
  const int horizon = arguments.horizon;
  solve_job job = {&arguments, {task.next, arguments.batch}};
  const reals workspace = worker_workspace(task.workspace, solve_worker_reals(&arguments));
  TEAM_LEADER {
    memset((void *)&s, 0, sizeof s);
    lay_out_solver(&s, &arguments, workspace);
    lay_out_team(&m, horizon, workspace + solver_reals(&arguments));
  }
  team_meet();
  run_team_solver(&s, &m, &job);
}
#endif

/* One lane of the warp computes: what is divided are loading and storing. */
static __global__ void __launch_bounds__(WORK_BLOCK) interior_point_kernel(const __grid_constant__ solve_task task) {
  TEAM_SHARED barrier_state s;
  const solve_arguments arguments = task.arguments();
  solve_job job = {&arguments, {task.next, arguments.batch}};
  const reals workspace = worker_workspace(task.workspace, solve_worker_reals(&arguments));
  TEAM_LEADER {
    memset((void *)&s, 0, sizeof s);
    lay_out_barrier(&s, &arguments, workspace);
  }
  team_meet();
  run_interior_point(&s, &job);
}

static __global__ void __launch_bounds__(WORK_BLOCK) gradient_kernel(const __grid_constant__ gradient_task task) {
  TEAM_SHARED gradient_state g;
  TEAM_SHARED team_memory m;
  const gradient_arguments a = task.arguments();
  const reals workspace = zero_workspace(task.workspace, gradient_worker_reals(&a));
  TEAM_LEADER {
    memset((void *)&g, 0, sizeof g);
    lay_out_gradient(&g, &a, workspace);
    lay_out_team_gradient(&m, a.horizon, workspace + gradient_reals(&a));
  }
  team_meet();
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride()) team_gradient(&g, &a, problem, &m);
}

static __global__ void __launch_bounds__(WORK_BLOCK) tangent_kernel(const __grid_constant__ tangent_task task) {
  TEAM_SHARED tangent_state f;
  TEAM_SHARED team_memory m;
  const tangent_arguments a = task.arguments();
  const reals workspace = zero_workspace(task.workspace, tangent_worker_reals(&a));
  TEAM_LEADER {
    memset((void *)&f, 0, sizeof f);
    lay_out_tangent(&f, &a, workspace);
    lay_out_team(&m, a.horizon, workspace + tangent_reals(&a));
  }
  team_meet();
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride()) team_tangent(&f, &a, problem, &m);
}

/* examine_vector for one problem, divided. */
FUNCTION void team_examine(sensitivity_state *s, const examine_arguments *a, int64_t problem, team_memory *m) {
  const solution_batch source = {a->batch, a->states, a->controls, a->usable, a->parameters, a->parameter_strides,
                                 DUALS_OF(a)};
  const mask usable = load_solutions(s, &source, problem, lane_all());
  team_meet();
  if (!lane_any(usable)) return;
  team_sensitivity_backward(s, 1, NULL, NULL, m);
  TEAM_FOR(t, s->horizon)
    stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), s->at_lower + t * NU, s->at_upper + t * NU);
  team_meet();
  store_examined(s, a, 0, problem);
#if CONSTRAINED
  examine_rows(s, a, problem);
#endif
  team_meet();
}

static __global__ void __launch_bounds__(WORK_BLOCK) examine_kernel(const __grid_constant__ examine_task task) {
  TEAM_SHARED sensitivity_state s;
  TEAM_SHARED team_memory m;
  const examine_arguments a = task.arguments();
  const reals workspace = zero_workspace(task.workspace, examine_worker_reals(&a));
  TEAM_LEADER {
    memset((void *)&s, 0, sizeof s);
    lay_out_examine(&s, &a, workspace);
    lay_out_team(&m, a.horizon, workspace + examine_reals(&a));
  }
  team_meet();
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride()) team_examine(&s, &a, problem, &m);
}

/* One lane of the warp evaluates a stage, all load and store. */
static __global__ void __launch_bounds__(WORK_BLOCK) evaluate_kernel(const __grid_constant__ evaluate_task task) {
  TEAM_SHARED evaluate_state s;
  const evaluate_arguments a = task.arguments();
  const reals workspace = zero_workspace(task.workspace, evaluate_reals());
  TEAM_LEADER {
    memset((void *)&s, 0, sizeof s);
    lay_out_evaluate(&s, workspace);
  }
  team_meet();
  for (int64_t problem = worker_number(); problem < a.batch; problem += stride())
    evaluate_vector(&s, &a, problem, task.sums);
}

#endif

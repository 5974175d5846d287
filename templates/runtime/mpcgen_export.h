/* A controller as C functions of one problem, in memory that its caller has: no heap, no threads, nothing that is written
 * outside of the caller's struct and the stack.
 *
 * The file that includes this has the problem's functions, HORIZON, `controller`, the caller's struct, and
 * `list_parameters`, the places of the parameters in it. */
#ifndef MPCGEN_EXPORT_H
#define MPCGEN_EXPORT_H

#include "mpcgen_alone.h"
#include "mpcgen_parts.h"

#define BY_BARRIER (CONSTRAINED || HAS_PART(PART_INTERIOR_POINT))
#if BY_BARRIER
#include "mpcgen_interior_point.h"
/* The controls given, to which each attempt returns, while the struct's become those of the nearest one. */
#define EXPORTED_ARRAYS(ARRAY) ARRAY(given, n * NU) BARRIER_ARRAYS(ARRAY)
typedef barrier_state export_state;
#else
#include "mpcgen_solver.h"
#define EXPORTED_ARRAYS(ARRAY) SCRATCH_ARRAYS(ARRAY) /* the solution's arrays are those of the caller's struct */
typedef solver_state export_state;
#endif



#if HAS_PART(PART_SENSITIVITIES)
#include "mpcgen_gradient.h"
#define DIFFERENTIATED_ARRAYS(ARRAY) SENSITIVITY_ARRAYS(ARRAY) GRADIENT_ARRAYS(ARRAY)
#else
#define DIFFERENTIATED_ARRAYS(ARRAY)
#endif

/* Numbers of the workspace. */
INLINE size_t workspace_numbers(void) {
  enum { n = HORIZON, rows = NTHETA_STAGE > 0 ? n + 1 : 1 };
  enum { OF_SOLVES = 0 EXPORTED_ARRAYS(COUNT_ARRAY), OF_GRADIENTS = 0 DIFFERENTIATED_ARRAYS(COUNT_ARRAY) };
  enum { NUMBERS = (int)OF_SOLVES > (int)OF_GRADIENTS ? OF_SOLVES : OF_GRADIENTS };
  typedef char workspace_is_large_enough[sizeof(((controller *)0)->workspace) >= NUMBERS * sizeof(real) ? 1 : -1];
  (void)sizeof(workspace_is_large_enough);
  return NUMBERS;
}

INLINE void place_arrays(export_state *s, const solve_arguments *a, controller *c) {
#if BY_BARRIER
  lay_out_barrier(s, a, c->workspace + HORIZON * NU);
#else
  const size_t n = HORIZON, rows = (size_t)parameter_rows(HORIZON, a->constant_parameters);
  reals at = c->workspace;
  s->horizon = HORIZON;
  s->rows = (int)rows;
  s->x = &c->x[0][0];
  s->u = &c->u[0][0];
  s->costate = &c->costate[0][0];
  s->gain = &c->gain[0][0][0];
  SCRATCH_ARRAYS(PLACE_ARRAY)
  (void)at;
#endif
}

INLINE int all_finite(const scalar *numbers, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (!isfinite(numbers[i])) return 0;
  return 1;
}

/* Solves from the controls in the struct, or near its solution where that was shifted; returns the status. */
FUNCTION int solve_one(controller *c, const scalar *initial_state) {
  const void *parameters[NPARAMETERS + 1] = {NULL};
  const int64_t strides[NPARAMETERS + 1] = {0}; /* as if a batch shared them: where they are, there they stay */
  if (!all_finite(&c->u[0][0], HORIZON * NU)) zero_reals(&c->u[0][0], HORIZON * NU); /* of a solve without a solution */
  zero_reals(c->workspace, workspace_numbers());
#if BY_BARRIER
  copy_reals(c->workspace, &c->u[0][0], HORIZON * NU);
#endif
  list_parameters(c, parameters);
  const solve_arguments arguments = {
      .batch = 1,
      .horizon = HORIZON,
      .max_iterations = c->max_iterations,
      .exact_hessian = EXACT_HESSIAN,
      .certify = EXACT_HESSIAN,
      .threads = 1,
      .constant_parameters = NTHETA_STAGE == 0,
      .method = BY_BARRIER ? INTERIOR_POINT : BOX_DDP,
      .tolerance = c->tolerance,
      .initial_state = initial_state,
      .initial_controls = BY_BARRIER ? c->workspace : &c->u[0][0],
#if BY_BARRIER
      .initial_states = c->near_solution ? c->x : NULL,
      .initial_costates = c->near_solution ? c->costate : NULL,
#endif
#if CONSTRAINED
      .initial_duals = c->near_solution ? c->dual : NULL,
#endif
#if BY_BARRIER
      .initial_barrier = MPCGEN_PRECISION == 64 ? R(1e-6) : R(1e-4), /* where a solution is near; as in batches */
#endif
      .parameters = parameters,
      .parameter_strides = strides,
      .states = c->x,
      .controls = c->u,
      .cost = &c->cost,
      .status = &c->status,
      .iterations = &c->iterations,
      .residual = &c->residual,
      .costates = c->costate,
      .gains = c->gain,
#if CONSTRAINED
      .duals = c->dual,
      .violation = &c->violation,
#endif
  };
  if (!(c->tolerance > 0)) {
    write_nothing(&arguments, 0, HORIZON, INVALID_INPUT);
    return c->status;
  }
  solve_job job = {.arguments = &arguments, .queue = {0, 1}};
  export_state state;
  memset(&state, 0, sizeof state);
  place_arrays(&state, &arguments, c);
#if BY_BARRIER
  run_interior_point(&state, &job);
  c->near_solution = 0;
#else
  run_solver(&state, &job);
#endif
  return c->status;
}

#if HAS_PART(PART_SENSITIVITIES)
/* Gradient of a loss through the solution in the struct: by x_0 and the parameters, from those by x, u and the cost. */
FUNCTION int differentiate_one(controller *c, const scalar *by_states, const scalar *by_controls, scalar by_cost,
                               scalar *initial_state, void *const *gradients) {
  const void *parameters[NPARAMETERS + 1] = {NULL};
  int64_t strides[NPARAMETERS + 1];
  const int32_t usable = c->status == CONVERGED;
  int32_t singular = 0;
  for (int p = 0; p <= NPARAMETERS; p++) strides[p] = 1; /* as if each problem of a batch had its own */
  list_parameters(c, parameters);
  const gradient_arguments arguments = {
      .batch = 1,
      .horizon = HORIZON,
      .exact_hessian = 1,
      .threads = 1,
      .constant_parameters = NTHETA_STAGE == 0,
      .parameters = parameters,
      .parameter_strides = strides,
      .states = c->x,
      .controls = c->u,
#if CONSTRAINED
      .duals = c->dual,
#endif
      .usable = &usable,
      .cotangent_states = by_states,
      .cotangent_controls = by_controls,
      .cotangent_cost = &by_cost,
      .gradient_initial_state = initial_state,
      .gradient_parameters = gradients,
      .singular = &singular,
  };
  gradient_state state;
  memset(&state, 0, sizeof state);
  zero_reals(c->workspace, workspace_numbers());
  lay_out_gradient(&state, &arguments, c->workspace);
  gradient_vector(&state, &arguments, 0, 1);
  return usable ? singular : 1;
}
#endif

/* Moves `count` rows of `width` numbers, `columns` of each, forward by one; the last stays. */
INLINE void move_forward(scalar *rows, int count, int width, int columns) {
  for (int t = 0; t + 1 < count; t++)
    for (int i = 0; i < columns; i++) rows[t * width + i] = rows[(t + 1) * width + i];
}

/* Moves the solution forward by a stage, for a next solve a stage later to begin at: what is beyond its end repeats the
 * end. One without values, or without a feasible point, is forgotten. */
FUNCTION void shift_one(controller *c) {
  const int usable = c->status != INFEASIBLE && c->status != INVALID_INPUT && !has_no_value(c->status) &&
                     all_finite(&c->u[0][0], HORIZON * NU);
  if (!usable) {
    zero_reals(&c->u[0][0], HORIZON * NU);
    return;
  }
  move_forward(&c->u[0][0], HORIZON, NU, NU);
#if BY_BARRIER
  move_forward(&c->x[0][0], HORIZON + 1, NX, NX);
  move_forward(&c->costate[0][0], HORIZON + 1, NX, NX);
  c->near_solution = 1;
#endif
#if CONSTRAINED
  move_forward(&c->dual[0][0], HORIZON, NDUAL, NU + NMIXED);                     /* stages with a control */
  move_forward(&c->dual[0][0] + NU + NMIXED, HORIZON + 1, NDUAL, NSTATE);        /* all; those of the end stay there */
#endif
}

#endif

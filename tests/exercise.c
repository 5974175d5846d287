/* Runs every entry point of a generated controller once, for the sanitizers to watch.
 *
 * Compiled once per variant with KERNELS, the generated file that it includes, VALUES_HEADER, with PARAMETER_VALUES
 * (one stage of each parameter, in order) and INITIAL_STATE, and EXERCISE, the name of this variant's function. Every
 * array is allocated at its exact size. The variant with MAIN defined calls the others; each prints a line with the
 * statuses that it met and a checksum, and ends the program with exit code 1 where a result breaks its contract. With
 * MPCGEN_CUDA it is C++, runs CUDA's kernels over their shim, and is a program by itself. */
#include KERNELS
#include VALUES_HEADER
#include <stdio.h>
#include <stdlib.h>

#ifndef MPCGEN_CUDA
#define MPCGEN_CUDA 0
#endif

#if MPCGEN_CUDA
/* The entry points with a workspace of exactly the size that they ask for. */
#define IN_WORKSPACE(verb, kind)                                                 \
  static int run_##verb(const kind##_arguments *a) {                             \
    void *workspace = malloc((size_t)kind##_workspace(a));                       \
    const int code = workspace ? verb##_batch(a, workspace, NULL) : 1;           \
    free(workspace);                                                             \
    return code;                                                                 \
  }
IN_WORKSPACE(solve, solve)
IN_WORKSPACE(differentiate, gradient)
IN_WORKSPACE(tangent, tangent)
IN_WORKSPACE(examine, examine)
IN_WORKSPACE(evaluate, evaluate)
#else
#define run_solve solve_batch
#define run_differentiate differentiate_batch
#define run_tangent tangent_batch
#define run_examine examine_batch
#define run_evaluate evaluate_batch
#endif

/* Of CPU lanes a whole register and a part of another, with the spoilt problem in the latter, since registers of which all
 * problems are wanted are loaded in another way; of warps, which go by themselves, a few. */
enum { BATCH = MPCGEN_CUDA ? 5 : REGISTER_BYTES / LANE_BYTES + 3, SPOILT = BATCH - 2 };
enum { HORIZON = 5, STATUSES = 8, MOST_ITERATIONS = 60 };

typedef struct {
  int64_t batch;
  int constant; /* parameters: one value for all stages */
  const void *data[NPARAMETERS + 1];
  void *gradients[NPARAMETERS + 1];
  int64_t strides[NPARAMETERS + 1];
  scalar *initial, *start, *x, *u, *costates, *gains, *cost, *residual, *history;
  scalar *g_x, *g_u, *g_cost, *g_initial;
  scalar *d_initial, *d_x, *d_u, *d_cost, *multipliers, *lower, *upper;
  scalar *duals, *violation, *row_values, *row_lower, *row_upper, *row_reserve, *cost_unit; /* of problems with constraints */
  scalar *g_duals, *d_duals;
  scalar *next, *g_first; /* of a stage by itself */
  int32_t *status, *iterations, *usable, *singular;
} arrays;

static void require(int condition, const char *what) {
  if (condition) return;
  printf("broken: %s\n", what);
  exit(1);
}

static scalar *numbers(int64_t count) {
  scalar *at = (scalar *)calloc((size_t)count, sizeof(scalar));
  require(at != NULL || count == 0, "no memory");
  return at;
}

static int32_t *flags(int64_t count) {
  int32_t *at = (int32_t *)calloc((size_t)count, sizeof(int32_t));
  require(at != NULL || count == 0, "no memory");
  return at;
}

/* Every parameter at its value, one for all problems or one each, and one for all stages or one each. */
static void fill_parameters(arrays *a, int shared) {
  const double *value = PARAMETER_VALUES;
  const int rows = parameter_rows(HORIZON, a->constant);
  for (int p = 0; p < NPARAMETERS; p++) {
    const int size = PARAMETERS[p].size, count = size * parameter_stages(&PARAMETERS[p], rows);
    const int64_t total = shared ? count : count * a->batch;
    scalar *at = numbers(total);
    for (int64_t i = 0; i < total; i++) at[i] = (scalar)value[i % size];
    a->data[p] = at;
    a->gradients[p] = numbers(total);
    a->strides[p] = shared ? 0 : count;
    value += size;
  }
}

static arrays make_arrays(int64_t batch, int shared, int constant) {
  arrays a = {.batch = batch, .constant = constant};
  fill_parameters(&a, shared);
  a.initial = numbers(batch * NX);
  a.start = numbers(batch * HORIZON * NU);
  a.x = numbers(batch * (HORIZON + 1) * NX);
  a.u = numbers(batch * HORIZON * NU);
  a.costates = numbers(batch * (HORIZON + 1) * NX);
  a.gains = numbers(batch * HORIZON * NU * NX);
  a.cost = numbers(batch);
  a.residual = numbers(batch);
  a.g_x = numbers(batch * (HORIZON + 1) * NX);
  a.g_u = numbers(batch * HORIZON * NU);
  a.g_cost = numbers(batch);
  a.g_initial = numbers(batch * NX);
  a.history = numbers(batch * (MOST_ITERATIONS + 1) * 2);
  a.d_initial = numbers(batch * NX);
  a.d_x = numbers(batch * (HORIZON + 1) * NX);
  a.d_u = numbers(batch * HORIZON * NU);
  a.d_cost = numbers(batch);
  a.multipliers = numbers(batch * HORIZON * NU);
  a.lower = numbers(batch * HORIZON * NU);
  a.upper = numbers(batch * HORIZON * NU);
  a.duals = numbers(batch * (HORIZON + 1) * NDUAL);
  a.violation = numbers(batch);
  a.g_duals = numbers(batch * (HORIZON + 1) * NDUAL);
  a.d_duals = numbers(batch * (HORIZON + 1) * NDUAL);
  a.row_values = numbers(batch * (HORIZON + 1) * NDUAL);
  a.row_lower = numbers(batch * (HORIZON + 1) * NDUAL);
  a.row_upper = numbers(batch * (HORIZON + 1) * NDUAL);
  a.row_reserve = numbers(batch * (HORIZON + 1) * NDUAL);
  a.cost_unit = numbers(batch);
  a.next = numbers(batch * NX);
  a.g_first = numbers(batch * NU);
  a.status = flags(batch);
  a.iterations = flags(batch);
  a.usable = flags(batch);
  a.singular = flags(batch);
  for (int64_t i = 0; i < batch * NX; i++) a.initial[i] = (scalar)(INITIAL_STATE[i % NX] * (1 + 0.01 * (double)(i / NX)));
  if (batch > SPOILT) a.initial[SPOILT * NX] = (scalar)NAN;
  for (int64_t i = 0; i < batch * (HORIZON + 1) * NX; i++) a.g_x[i] = R(0.5);
  for (int64_t i = 0; i < batch * HORIZON * NU; i++) a.g_u[i] = R(-0.25);
  for (int64_t i = 0; i < batch; i++) a.g_cost[i] = R(0.125);
  for (int64_t i = 0; i < batch * (HORIZON + 1) * NDUAL; i++) a.g_duals[i] = R(0.75);
  for (int64_t i = 0; i < batch * NX; i++) a.d_initial[i] = R(0.5);
  return a;
}

static void free_arrays(arrays *a) {
  scalar *all[] = {a->initial, a->start, a->x,         a->u,         a->costates, a->gains, a->cost,
                   a->residual, a->history, a->g_x,    a->g_u,       a->g_cost,   a->g_initial,
                   a->d_initial, a->d_x,  a->d_u,      a->d_cost,    a->multipliers, a->lower, a->upper,
                   a->duals,   a->violation, a->row_values, a->row_lower, a->row_upper, a->row_reserve, a->cost_unit,
                   a->g_duals, a->d_duals, a->next, a->g_first};
  int32_t *words[] = {a->status, a->iterations, a->usable, a->singular};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) free(words[i]);
  for (int p = 0; p < NPARAMETERS; p++) {
    free((void *)a->data[p]);
    free(a->gradients[p]);
  }
}

static void solve(arrays *a, int method, int exact, int cold, int threads) {
  const solve_arguments arguments = {
      .batch = a->batch,
      .horizon = HORIZON,
      .max_iterations = MOST_ITERATIONS,
      .exact_hessian = exact,
      .certify = exact,
      .threads = threads,
      .constant_parameters = a->constant,
      .method = method,
      .tolerance = MPCGEN_PRECISION == 64 ? 1e-8 : 1e-3,
      .initial_state = a->initial,
      .initial_state_stride = NX,
      .initial_controls = cold ? NULL : a->start,
      .initial_controls_stride = HORIZON * NU,
      .parameters = a->data,
      .parameter_strides = a->strides,
      .states = a->x,
      .controls = a->u,
      .cost = a->cost,
      .status = a->status,
      .iterations = a->iterations,
      .residual = a->residual,
      .costates = a->costates,
      .gains = a->gains,
#if CONSTRAINED
      .duals = a->duals,
      .violation = a->violation,
#endif
      .history = cold ? a->history : NULL,
  };
  require(run_solve(&arguments) == 0, "solve returned an error");
}

static void differentiate(arrays *a, int exact, int all_cotangents, double smoothing, int threads) {
  for (int64_t i = 0; i < a->batch; i++) a->usable[i] = a->status[i] == CONVERGED;
  const gradient_arguments arguments = {
      .batch = a->batch,
      .horizon = HORIZON,
      .exact_hessian = exact,
      .threads = threads,
      .constant_parameters = a->constant,
      .smoothing = smoothing,
      .parameters = a->data,
      .parameter_strides = a->strides,
      .states = a->x,
      .controls = a->u,
#if CONSTRAINED
      .duals = a->duals,
#endif
      .usable = a->usable,
      .cotangent_states = all_cotangents ? a->g_x : NULL,
      .cotangent_controls = a->g_u,
      .cotangent_cost = all_cotangents ? a->g_cost : NULL,
#if CONSTRAINED
      .cotangent_duals = all_cotangents ? a->g_duals : NULL,
#endif
      .gradient_initial_state = a->g_initial,
      .gradient_parameters = a->gradients,
      .singular = a->singular,
  };
  require(run_differentiate(&arguments) == 0, "differentiate returned an error");
}

/* The change along a change of x0 and of the parameters, by the gradients that `differentiate` left. */
static void change(arrays *a, int exact, double smoothing, int threads) {
  const tangent_arguments arguments = {
      .batch = a->batch,
      .horizon = HORIZON,
      .exact_hessian = exact,
      .threads = threads,
      .constant_parameters = a->constant,
      .smoothing = smoothing,
      .parameters = a->data,
      .parameter_strides = a->strides,
      .states = a->x,
      .controls = a->u,
#if CONSTRAINED
      .duals = a->duals,
#endif
      .usable = a->usable,
      .tangent_initial_state = a->d_initial,
      .tangent_parameters = (const void *const *)a->gradients,
      .tangent_strides = a->strides,
      .tangent_states = a->d_x,
      .tangent_controls = a->d_u,
      .tangent_cost = a->d_cost,
#if CONSTRAINED
      .tangent_duals = a->d_duals,
#endif
      .singular = a->singular,
  };
  require(run_tangent(&arguments) == 0, "tangent returned an error");
}

static void examine(arrays *a) {
  const examine_arguments arguments = {
      .batch = a->batch,
      .horizon = HORIZON,
      .constant_parameters = a->constant,
      .parameters = a->data,
      .parameter_strides = a->strides,
      .states = a->x,
      .controls = a->u,
#if CONSTRAINED
      .duals = a->duals,
#endif
      .usable = a->usable,
      .multipliers = a->multipliers,
      .lower = a->lower,
      .upper = a->upper,
#if CONSTRAINED
      .row_values = a->row_values,
      .row_lower = a->row_lower,
      .row_upper = a->row_upper,
      .cost_unit = a->cost_unit,
#if SOFT_ROWS
      .row_reserve = a->row_reserve,
#endif
#endif
  };
  require(run_examine(&arguments) == 0, "examine returned an error");
}

/* The first stage of each problem by itself, or its first state as the last one, with derivatives in both modes. */
static void evaluate(arrays *a, int last, int threads) {
  const evaluate_arguments arguments = {
      .batch = a->batch,
      .last = last,
      .threads = threads,
      .parameters = a->data,
      .parameter_strides = a->strides,
      .states = a->initial,
      .controls = last ? NULL : a->start,
      .next_states = last ? NULL : a->next,
      .cost = a->cost,
      .cotangent_next = last ? NULL : a->g_x,
      .cotangent_cost = a->g_cost,
      .gradient_states = a->g_initial,
      .gradient_controls = last ? NULL : a->g_first,
      .gradient_parameters = a->gradients,
      .tangent_states = a->d_initial,
      .tangent_controls = last ? NULL : a->g_u,
      .tangent_parameters = (const void *const *)a->data,
      .tangent_strides = a->strides,
      .tangent_next = last ? NULL : a->d_x,
      .tangent_cost = a->d_cost,
  };
  require(run_evaluate(&arguments) == 0, "evaluate returned an error");
  for (int64_t b = 0; b < a->batch; b++) {
    int finite = isfinite(a->cost[b]); /* a cost may read nothing that is spoilt, a next state does */
    for (int i = 0; !last && i < NX; i++) finite &= isfinite(a->next[b * NX + i]);
    require(finite || b == SPOILT, "a next state or a cost is not finite where it should be");
    require(!finite || b != SPOILT || last, "a next state is finite where it should not be");
  }
}

#if !MPCGEN_CUDA
enum { STEPS = 3 };

static int evaluate_any(const void *arguments) { return run_evaluate((const evaluate_arguments *)arguments); }

/* The model by itself as the plant of closed loops, with parameters of one stage. */
static plant_arguments make_plant(const arrays *a, int64_t *strides, int64_t *sizes, void **gradients) {
  int64_t all = 0;
  for (int p = 0; p < NPARAMETERS; p++) {
    strides[p] = a->strides[p];
    all += sizes[p] = PARAMETERS[p].size;
    gradients[p] = numbers(a->batch * sizes[p]);
  }
  const plant_arguments plant = {
      .evaluate = evaluate_any,
      .count = NPARAMETERS,
      .parameters = a->data,
      .strides = strides,
      .steps = (int64_t *)calloc(NPARAMETERS + 1, sizeof(int64_t)),
      .pointers = (const void **)calloc((size_t)a->batch * NPARAMETERS + 1, sizeof(void *)),
      .sizes = sizes,
      .gradients = gradients,
      .latest = numbers(a->batch * all),
      .latest_pointers = (void **)calloc((size_t)a->batch * NPARAMETERS + 1, sizeof(void *)),
  };
  require(plant.steps && plant.pointers && plant.latest_pointers, "no memory");
  return plant;
}

/* Closed loops and their gradients; the plant is the model itself, or by itself the model of its stages' parameters. */
static void run_loops(arrays *a, int apart, int threads) {
  const int64_t batch = a->batch, rows = batch * STEPS;
  int64_t strides[NPARAMETERS + 1], sizes[NPARAMETERS + 1], none[NPARAMETERS + 1] = {0};
  void *plant_gradients[NPARAMETERS + 1] = {0};
  plant_arguments plant = {0};
  if (apart) plant = make_plant(a, strides, sizes, plant_gradients);
  scalar *states = numbers(batch * (STEPS + 1) * NX), *applied = numbers(rows * NU), *costs = numbers(rows);
  scalar *x = numbers(rows * (HORIZON + 1) * NX), *u = numbers(rows * HORIZON * NU), *plans = numbers(batch * HORIZON * NU);
  scalar *push = numbers(STEPS * NX), *g_push = numbers(rows * NX), *g_states = numbers(batch * (STEPS + 1) * NX);
  scalar *duals = numbers(rows * (HORIZON + 1) * NDUAL), *plan_x = numbers(batch * (HORIZON + 1) * NX);
  scalar *plan_costates = numbers(batch * (HORIZON + 1) * NX), *plan_duals = numbers(batch * (HORIZON + 1) * NDUAL);
  int32_t *status = flags(rows), *progress = flags(batch), *usable = flags(rows), *singular = flags(rows);
  solve_arguments *each = (solve_arguments *)calloc(STEPS, sizeof *each);
  const void **pointers = (const void **)calloc(STEPS * NPARAMETERS + 1, sizeof(void *));
  require(each && pointers, "no memory");
  for (int64_t b = 0; b < batch; b++)
    for (int i = 0; i < NX; i++) states[b * (STEPS + 1) * NX + i] = a->initial[b * NX + i];
  for (int64_t i = 0; i < batch * (STEPS + 1) * NX; i++) g_states[i] = R(0.5);
  for (int64_t i = 0; i < rows; i++) status[i] = UNFINISHED;
  const closed_loop_arguments loop = {
      .solve = {
          .batch = batch,
          .horizon = HORIZON,
          .max_iterations = MOST_ITERATIONS,
          .exact_hessian = 1,
          .certify = 1,
          .threads = threads,
          .constant_parameters = a->constant,
          .method = CONSTRAINED,
          .tolerance = MPCGEN_PRECISION == 64 ? 1e-8 : 1e-3,
          .parameters = a->data,
          .parameter_strides = a->strides,
          .states = x,
          .controls = u,
          .cost = a->cost,
          .status = status,
          .iterations = a->iterations,
          .residual = a->residual,
          .costates = a->costates,
          .gains = a->gains,
#if CONSTRAINED
          .initial_barrier = MPCGEN_PRECISION == 64 ? 1e-6 : 1e-4,
          .duals = duals,
          .violation = a->violation,
#endif
      },
      .plant = plant,
      .steps = STEPS,
      .keeps_solutions = 1,
      .parameter_steps = none,
      .disturbance = push,
      .plans = plans,
#if CONSTRAINED
      .plan_states = plan_x,
      .plan_costates = plan_costates,
      .plan_duals = plan_duals,
#endif
      .plant_states = states,
      .applied = applied,
      .stage_costs = costs,
      .progress = progress,
      .step_arguments = each,
      .step_parameters = pointers,
  };
  require(closed_loop_batch(&loop) == 0, "closed_loop returned an error");
  for (int64_t i = 0; i < rows; i++) {
    require(status[i] >= 0 && status[i] < STATUSES, "an unknown status of a step");
    require((status[i] == INVALID_INPUT) == (i % batch == SPOILT), "only the steps of the problem with a NaN are invalid");
    usable[i] = status[i] == CONVERGED;
  }
  const loop_gradient_arguments back = {
      .gradient = {
          .batch = batch,
          .horizon = HORIZON,
          .exact_hessian = 1,
          .threads = threads,
          .constant_parameters = a->constant,
          .parameters = a->data,
          .parameter_strides = a->strides,
          .states = x,
          .controls = u,
#if CONSTRAINED
          .duals = duals,
#endif
          .usable = usable,
          .gradient_initial_state = a->g_initial,
          .gradient_parameters = a->gradients,
          .singular = singular,
      },
      .plant = plant,
      .steps = STEPS,
      .parameter_steps = none,
      .plant_states = states,
      .applied = applied,
      .cotangent_states = g_states,
      .gradient_disturbance = g_push,
  };
  require(differentiate_loop_batch(&back) == 0, "differentiate_loop returned an error");
  for (int64_t b = 0; b < batch; b++)
    for (int i = 0; i < NX; i++) {
      require(progress[b] == STEPS && (b == SPOILT || isfinite(states[b * (STEPS + 1) * NX + STEPS * NX + i])), "a loop is cut off");
      require(b == SPOILT || isfinite(a->g_initial[b * NX + i]), "a loop's gradient is not finite");
    }
  void *all[] = {states, applied, costs, x, u, plans, push, g_push, g_states, duals, plan_x, plan_costates, plan_duals,
                 status, progress, usable, singular, each, pointers};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  if (!apart) return;
  for (int p = 0; p < NPARAMETERS; p++) free(plant_gradients[p]);
  free((void *)plant.steps), free(plant.pointers), free(plant.latest), free(plant.latest_pointers);
}
#endif

/* What holds of any result; returns a number that depends on every gradient. */
static double check(const arrays *a, int *met) {
  double sum = 0;
  for (int64_t b = 0; b < a->batch; b++) {
    const int32_t status = a->status[b];
    require(status >= 0 && status < STATUSES, "an unknown status");
    require((status == INVALID_INPUT) == (b == SPOILT), "only the problem with a NaN is invalid");
    met[status]++;
    for (int i = 0; i < NX; i++) {
      const double g = (double)a->g_initial[b * NX + i];
      require(status == CONVERGED ? isfinite(g) : g == 0, "gradient of x0 neither finite nor zero as it should be");
      sum += g;
    }
    const double d_cost = (double)a->d_cost[b];
    require(status == CONVERGED ? isfinite(d_cost) : d_cost == 0, "tangent neither finite nor zero as it should be");
    for (int i = 0; i < HORIZON * NU && status == CONVERGED; i++) {
      const int64_t at = b * HORIZON * NU + i;
      require(a->lower[at] <= a->u[at] && a->u[at] <= a->upper[at], "a control is outside its bounds");
      require(isfinite(a->multipliers[at]), "a multiplier is not finite");
    }
  }
  for (int p = 0; p < NPARAMETERS; p++) {
    const int count = PARAMETERS[p].size * parameter_stages(&PARAMETERS[p], parameter_rows(HORIZON, a->constant));
    for (int64_t i = 0; i < (a->strides[p] ? count * a->batch : count); i++) {
      const double g = (double)((const scalar *)a->gradients[p])[i];
      require(isfinite(g), "a parameter's gradient is not finite");
      sum += g;
    }
  }
  return sum;
}

void EXERCISE(void);

void EXERCISE(void) {
  static const int64_t batches[] = {0, 1, BATCH};
  const size_t first = MPCGEN_CUDA ? 1 : 0; /* a device is not asked for nothing */
  int met[STATUSES] = {0};
  double sum = 0;
  for (size_t i = first; i < sizeof batches / sizeof *batches; i++) {
    for (int way = CONSTRAINED ? 4 : 0; way < 8; way++) {
      const int exact = way & 1, shared = way >> 1 & 1, method = way >> 2;
      const double smoothing = exact && !shared ? 0.01 : 0;
      arrays a = make_arrays(batches[i], shared, exact);
      solve(&a, method, exact, shared, 2);
      differentiate(&a, exact, !shared, smoothing, 2);
      change(&a, exact, smoothing, 2);
      examine(&a);
      sum += check(&a, met);
      if (exact) { /* then each parameter has the value of one stage */
        evaluate(&a, 0, 2);
        evaluate(&a, 1, 2);
#if !MPCGEN_CUDA
        if (a.batch && method == CONSTRAINED) {
          if (!CONSTRAINED) run_loops(&a, 0, 2);
          run_loops(&a, 1, 2);
        }
#endif
      }
      free_arrays(&a);
    }
  }
  printf("f%d %2d lanes: converged %d, saddles %d, invalid %d, else %d; checksum %.3e\n", MPCGEN_PRECISION, LANES,
         met[CONVERGED], met[NOT_A_MINIMUM], met[INVALID_INPUT], met[MAX_ITERATIONS] + met[STALLED] + met[DIVERGED] + met[INFEASIBLE],
         sum);
  require(met[CONVERGED] > 0, "nothing converged");
}

#if MPCGEN_CUDA
int main(void) {
  EXERCISE();
  return 0;
}
#elif defined(MAIN)
void exercise_f32_batch(void);
void exercise_f64_single(void);
void exercise_f32_single(void);

int main(void) {
  exercise_f64_batch();
  exercise_f32_batch();
  exercise_f64_single();
  exercise_f32_single();
  return 0;
}
#endif

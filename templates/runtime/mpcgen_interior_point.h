/* A primal-dual interior point in multiple shooting over asynchronous lanes: a batch from its arguments to its results.
 *
 * Each lane holds one problem with its own barrier parameter, filter and regularisation. One pass is one backward sweep
 * and one step for all lanes; a lane whose Hessian is not convex sweeps again in the next pass; a finished lane writes
 * its result and loads the next problem of the batch. */
#ifndef MPCGEN_INTERIOR_POINT_H
#define MPCGEN_INTERIOR_POINT_H

#include "mpcgen_interior_point_results.h"
#if BARRIER_LOOPS
#include "mpcgen_barrier_loop.h"
#endif

/* Weight of the second derivatives in the first step: far from a solution their multipliers are none, and where there are
 * constraints the Hessian is hardly ever convex with them. */
#define FIRST_SECOND_ORDER (CONSTRAINED && !LINEAR_CONSTRAINTS ? 0 : 1)

#if SOFT_ROWS
/* Readies the excesses of a lane's rows; slacks and multipliers come with its trajectory and its units. */
INLINE void begin_excesses(const barrier_state *s, int k) {
  TEAM_FOR(i, s->horizon * NPATH + NEND) {
    const reals row = s->row + i * ROW_REALS, now = row + s->at_iterate;
    lane_set(now + LOW_EXCESS, k, 1);
    lane_set(now + HIGH_EXCESS, k, 1);
    lane_set(row + LOW_HOLD, k, 0);
    lane_set(row + HIGH_HOLD, k, 0);
  }
}
#endif

/* Whether an attempt has solved none of its barrier problems, not even to ten times the barrier. The first trajectory may
 * cost a thousand times the last, and the first barrier, in units of it, then hides the cost: unstable dynamics strand. */
INLINE int is_at_first_barrier(const barrier_state *s, int k) {
  return !CONSTRAINED && lane_get(&s->lanes.barrier, k) >= FIRST_BARRIER;
}

/* Whether second derivatives are rather shifted than left out, so that steps stay near the states that the call gives. Without
 * them costs that bend nowhere leave a linear programme, whose steps go as far as bounds and slacks let them. */
INLINE int keeps_to_guess(const solve_arguments *a) { return FLAT_COSTS && a->initial_states && !a->initial_costates; }

/* Readies a lane for an attempt at its problem, from the controls that the call gives. */
OUTLINED int begin_attempt(barrier_state *s, const solve_arguments *a, int k, int64_t problem, int attempt) {
  barrier_progress *lanes = &s->lanes;
  const int count = s->horizon * NU;
  const scalar *from = (const scalar *)(a->initial_costates ? NULL : a->initial_controls); /* see load_guess */
  int good = 1;
  if (from) {
    good = load_row(s->u, k, from + problem * a->initial_controls_stride, count, 0);
  } else {
    TEAM_FOR(i, count) lane_set(s->u + i, k, 0);
  }
  TEAM_FOR(i, count) {
    lane_set(s->lower_multiplier + i, k, 0);
    lane_set(s->upper_multiplier + i, k, 0);
  }
#if SOFT_ROWS
  begin_excesses(s, k);
#endif
  TEAM_LEADER {
    for (int i = 0; i < NU; i++) lane_set(&s->unit[i], k, 1);
    for (int i = 0; i < FILTER_PAIRS; i++) {
      lane_set(&lanes->filter_gap[i], k, (scalar)INFINITY);
      lane_set(&lanes->filter_merit[i], k, -(scalar)INFINITY);
    }
    lane_recount(&lanes->filter_count, k, 0);
    lane_recount(&lanes->failures, k, 0);
    lane_recount(&lanes->cuts, k, 0);
    lane_recount(&lanes->settled, k, 0);
    lane_recount(&lanes->attempt, k, attempt);
    const int before = CONSTRAINED ? attempt * ATTEMPT : lane_count(&lanes->iterations, k);
    lane_recount(&lanes->attempt_end, k, before + passes_of(attempt));
    lane_mark(&lanes->stranded, k, attempt > 0 && (lane_test(&lanes->stranded, k) || is_at_first_barrier(s, k)));
    lane_set(&lanes->barrier, k, 0);
    lane_set(&lanes->cost_unit, k, 1);
    lane_set(&lanes->shift, k, 0);
    lane_set(&lanes->enough, k, 0);
    lane_set(&lanes->looseness, k, 1);
    lane_set(&lanes->least_looseness, k, 0);
    lane_set(&lanes->on_states, k, CONSTRAINED || attempt > 1);
    lane_set(&lanes->second_order, k, FIRST_SECOND_ORDER);
    lane_set(&lanes->rise, k, attempt > 0 ? MOST_PLAIN_RISE : MOST_RISE);
    lane_set(&lanes->best_gap, k, (scalar)INFINITY);
    lane_set(&lanes->best_error, k, (scalar)INFINITY);
    lane_set(&lanes->best_product, k, (scalar)INFINITY);
    lane_recount(&lanes->stale, k, 0);
    lane_recount(&lanes->restorations, k, 0);
    lane_recount(&lanes->restoring_failures, k, 0);
    const int direct = lane_test(&lanes->warm, k) || !lane_test(&lanes->strays, k); /* of the attempt before */
    lane_mark(&lanes->direct, k, QUADRATIC_PROGRAM && attempt == 0 && direct);
    lane_mark(&lanes->strays, k, 0);
    lane_set(&lanes->gap_before, k, (scalar)INFINITY);
    lane_set(&lanes->product_before, k, (scalar)INFINITY);
    lane_recount(&lanes->slow, k, 0);
    lane_set(&lanes->share, k, 1);
    lane_set(&lanes->yield, k, 0);
    lane_mark(&lanes->yielded, k, 0);
    lane_mark(&lanes->crawling, k, 0);
    lane_recount(&lanes->crawls, k, 0);
    lane_set(&lanes->cost_before, k, (scalar)INFINITY);
    lane_mark(&lanes->restoring, k, 0);
    lane_mark(&lanes->unrestorable, k, 0);
    lane_mark(&lanes->violation_first, k, attempt > 0);
    lane_mark(&lanes->shift_first, k, CONSTRAINED && (attempt > 1 || keeps_to_guess(a)));
    lane_set(&lanes->moved, k, 0);
    lane_set(&lanes->linear_dual, k, 0);
    lane_mark(&lanes->begins, k, 1);
    lane_mark(&lanes->placed, k, 0);
    lane_mark(&lanes->adjoint, k, 1);
    lane_mark(&lanes->given, k, 0);
    lane_mark(&lanes->warm, k, 0);
    lane_mark(&lanes->refused, k, 0);
    lane_mark(&lanes->certifying, k, 0);
#if POLISHES
    lane_recount(&lanes->polishing, k, 0);
#endif
  }
  return good;
}

/* Loads the states at which a lane is to begin, and of a solution all else that it has; returns 0 if states that are no
 * solution's cannot be begun at. A solution that is not finite is not begun at. */
RARE int load_guess(barrier_state *s, const solve_arguments *a, int k, int64_t problem) {
  const int is_solution = a->initial_costates != NULL;
  int good = 1;
  team_meet();
  for (int t = 1; t <= s->horizon; t++)
    good &= load_row(path_at(s, t), k, (const scalar *)a->initial_states + problem * a->initial_states_stride + t * NX, NX, 0);
  if (is_solution) good &= load_multipliers(s, a, k, problem);
  good = team_all(good);
  if (is_solution && !good) begin_attempt(s, a, k, problem, 0);
  TEAM_LEADER {
    lane_mark(&s->lanes.given, k, good);
    lane_mark(&s->lanes.violation_first, k, 0);
    lane_mark(&s->lanes.warm, k, good && is_solution);
    lane_mark(&s->lanes.adjoint, k, !(good && is_solution));
    if (good && is_solution) lane_set(&s->lanes.second_order, k, 1);
  }
  return good || is_solution;
}

/* Whether the batch shares all parameters. */
INLINE int shares_all(const solve_arguments *a) {
  int all = 1;
  for (int p = 0; p < NPARAMETERS; p++) all &= a->parameter_strides[p] == 0;
  return all;
}

/* Looks at the bounds of a lane's controls and rows; returns 0 if they are not in order. Those of parameters that the batch
 * shares are all lanes', and known from then on. */
OUTLINED int know_bounds(barrier_state *s, const solve_arguments *a, int k) {
  int good = bounds_in_order(s->theta, s->theta_stage, s->rows, s->horizon, k);
#if CONSTRAINED
  good &= rows_in_order(s->theta, s->theta_stage, s->rows, s->horizon, k);
#endif
  good = team_all(good);
  TEAM_LEADER {
#if CONSTRAINED
    load_limits(s);
#endif
    s->bounds_known = good && shares_all(a);
  }
  return good;
}

/* Loads a problem into a lane; returns 0 if its numbers cannot make a problem. */
OUTLINED int load_barrier_problem(barrier_state *s, const solve_arguments *a, int k, int64_t problem) {
  if (!s->shared_loaded) {
    const int finite =
        team_all(load_shared_parameters(s->theta, s->theta_stage, s->horizon, s->rows, a->parameters, a->parameter_strides));
    team_meet();
    TEAM_LEADER s->shared_loaded = 1, s->shared_finite = finite;
    team_meet();
  }
  int good = s->shared_finite;
  good &= load_row(s->path, k, (const scalar *)a->initial_state + problem * a->initial_state_stride, NX, 0);
  good &= load_parameters(s->theta, s->theta_stage, k, problem, s->rows, a->parameters, a->parameter_strides);
  set_by_parts(s->theta, k, 0);
  team_meet();
  if (!s->bounds_known) good &= know_bounds(s, a, k);
  TEAM_LEADER {
    lane_recount(&s->lanes.iterations, k, is_later_run(a) ? a->iterations[problem] : 0);
    lane_mark(&s->lanes.strays, k, 0);
  }
  good = team_all(good & begin_attempt(s, a, k, problem, 0));
  if (a->initial_states && good) good = load_guess(s, a, k, problem);
  TEAM_LEADER {
    s->problem[k] = problem;
    lane_mark(&s->lanes.busy, k, good);
    lane_set(&s->lanes.least_violation, k, (scalar)INFINITY);
    lane_set(&s->lanes.least_cost, k, (scalar)INFINITY);
    lane_recount(&s->lanes.misses, k, 0);
    lane_recount(&s->lanes.rescaled, k, 0);
  }
  team_meet();
  return good;
}

/* Evaluates where lanes may begin: by steps in parts where these alone are solved, of a rollout or from given states. */
OUTLINED void evaluate_start(barrier_state *s, mask begins, mask hold, mask stay) {
  evaluate_rollout(s, ALL(0), ALL(0), begins, hold, stay);
  if (begin_by_parts(s->theta, begins, s->candidate.cost + s->candidate.gap))
    evaluate_rollout(s, ALL(0), ALL(0), begins, hold, stay);
}

/* The first trajectories of the lanes that begin: a rollout; or x_0 at all stages, with gaps, where that overflows or
 * leaves 100 times its size, and in some attempts; or states that the call gives. */
OUTLINED void find_trajectories(barrier_state *s, mask begins) {
  s->length = lane_select(begins, ALL(0), s->length); /* slacks of rows: as loaded, or what room there is */
  evaluate_start(s, begins, lane_none(), s->lanes.given);
  mask held = lane_not(sound_starts(s));
  KEEP_LOOP for (int k = 0; k < LANES; k++)
    if (begins_held(lane_count(&s->lanes.attempt, k)) && !lane_test(&s->lanes.given, k)) lane_mark(&held, k, 1);
  held = lane_and(held, begins);
  adopt_candidates(s, lane_and(begins, lane_not(held))); /* slacks that overflowed are not kept */
  if (!lane_any(held)) return;
  evaluate_start(s, held, held, lane_none());
  adopt_candidates(s, held);
}

#if CONSTRAINED
/* The rows of lanes that wait for their units push nothing until then. */
RARE void clear_multipliers(barrier_state *s, mask where) {
  reals row = s->row;
  for (int i = 0; i < s->horizon * NPATH + NEND; i++, row += ROW_REALS) {
    row[LOW_MULTIPLIER] = lane_select(where, ALL(0), row[LOW_MULTIPLIER]);
    row[HIGH_MULTIPLIER] = lane_select(where, ALL(0), row[HIGH_MULTIPLIER]);
  }
}
#endif

/* Lanes that begin get their trajectories, and where their controls all have a range their costates and units, too: they take
 * part in the next sweep. The units of other controls take a sweep, see find_units, and lanes wait for it. */
OUTLINED void start_lanes(barrier_state *s) {
  const mask begins = lane_and(s->lanes.busy, s->lanes.begins);
  if (!lane_any(begins)) return;
  const mask open = unplaced(s);
  if (lane_any(open)) {
    start_inside(s, open);
    find_trajectories(s, open);
    s->lanes.placed = lane_or(s->lanes.placed, open);
  }
  const mask ranged = lane_and(begins, s->lanes.ranged), waiting = lane_and(begins, lane_not(s->lanes.ranged));
  measure_costs(s, begins);
#if CONSTRAINED
  if (lane_any(waiting)) clear_multipliers(s, lane_and(waiting, lane_not(s->lanes.warm)));
#else
  (void)waiting;
#endif
  if (!lane_any(ranged)) return;
  first_costates(s, ranged);
  begin_barrier(s, ranged);
}

/* The problem that an idle lane is to solve next, or -1. */
INLINE int64_t next_problem(barrier_state *s, solve_job *job, int k) {
#if BARRIER_LOOPS
  if (job->loop) return next_of_loops(s, job, k);
#endif
  (void)s, (void)k;
  return take(&job->queue);
}

/* Gives idle lanes new problems; returns whether any lane is at work. */
FUNCTION int refill_barrier(barrier_state *s, solve_job *job) {
  KEEP_LOOP for (int k = 0; k < LANES; k++)
    while (!lane_test(&s->lanes.busy, k)) {
      team_meet();
      TEAM_LEADER s->next = next_problem(s, job, k);
      team_meet();
      const int64_t problem = s->next;
      if (problem < 0) break;
      const solve_arguments *a = BARRIER_ARGUMENTS(s, job, k);
      if (is_later_run(a) && !is_handed_over(a, problem)) continue;
      if (!load_barrier_problem(s, a, k, problem)) TEAM_LEADER write_nothing(a, problem, s->horizon, INVALID_INPUT);
    }
  return lane_any(s->lanes.busy);
}

/* Whether a call allows so few passes, as one for each step of a loop, that what begins at a solution is to have them all. */
COUNT int has_few_passes(const solve_arguments *a) { return a->max_iterations < 3 * WARM_ATTEMPT; }

/* Of a call with few passes keeps the start that it gives, before the first step: no step makes the result lack more. A lane that
 * sweeps again has not moved; its residual may be that of a sweep without its units. */
FUNCTION void keep_starts(barrier_state *s, const solve_job *job) {
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    const solve_arguments *a = BARRIER_ARGUMENTS(s, job, k);
    const int given = a->initial_controls || a->initial_states;
    const int swept = lane_test(&s->lanes.busy, k) && !lane_test(&s->lanes.begins, k) && !lane_test(&s->lanes.refused, k);
    const int none = !(lane_get(&s->lanes.least_violation, k) < (scalar)INFINITY);
    team_meet(); /* all have read what is kept */
    if (swept && none && given && has_few_passes(a)) keep_iterate(s, a, k, (scalar)INFINITY);
  }
}

/* Whether the first attempt strands. */
INLINE int is_stranded(const barrier_state *s, int k) {
  const int left = lane_count(&s->lanes.attempt_end, k) - lane_count(&s->lanes.iterations, k);
  return is_at_first_barrier(s, k) && lane_count(&s->lanes.attempt, k) == 0 && left <= ATTEMPT - STRANDED;
}

/* Another attempt at a lane's problem. That which would begin held at x_0 begins at the states that the call gives, if any. */
OUTLINED void try_again(barrier_state *s, const solve_arguments *a, int k, int attempt) {
  const int64_t problem = s->problem[k];
  if (CONSTRAINED) keep_nearest(s, a, k);
  begin_attempt(s, a, k, problem, attempt);
  if (CONSTRAINED && begins_held(attempt) && a->initial_states && !a->initial_costates) load_guess(s, a, k, problem);
}

/* Lanes that have made no end of it for long, strand or crawl, begin anew, and those that found no feasible point where one
 * may be elsewhere; one that began at a solution after fewer passes than others, as if there were none, and one whose
 * corrected steps led astray, as if these were none. */
FUNCTION void begin_anew(barrier_state *s, const solve_job *job) {
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    const solve_arguments *a = BARRIER_ARGUMENTS(s, job, k);
    const int warm = lane_test(&s->lanes.warm, k), strays = lane_test(&s->lanes.strays, k);
    const int attempt = warm || strays ? 0 : lane_count(&s->lanes.attempt, k) + 1;
    const int far = warm && strays && !has_few_passes(a); /* from the solution that it began at */
    const int lost = far || is_stranded(s, k) || (!LINEAR_CONSTRAINTS && lane_test(&s->lanes.unrestorable, k)) ||
                     lane_test(&s->lanes.crawling, k) || (CONSTRAINED && lane_count(&s->lanes.failures, k) > MOST_FAILURES);
    const int passes = lane_count(&s->lanes.iterations, k), last = passes >= a->max_iterations; /* and is reported */
    const int end = lane_count(&s->lanes.attempt_end, k);
    const int patience = !warm ? end : has_few_passes(a) ? a->max_iterations : WARM_ATTEMPT;
    const int begun = lane_test(&s->lanes.busy, k) && !lane_test(&s->lanes.begins, k); /* others wait for their first sweep */
    const int late = begun && !last && !was_solved(s, k) && attempt <= MOST_ATTEMPTS && (lost || passes >= patience);
    team_meet(); /* all have read how often it began */
    if (late) try_again(s, a, k, attempt);
  }
  team_meet();
}

/* Whether another attempt follows one that ended with this status: later ones may come to a saddle, or to nothing, where
 * the next finds a solution. What the first says of a problem stands. */
INLINE int tries_again(const barrier_state *s, int k, int status) {
  const int attempt = lane_count(&s->lanes.attempt, k);
  const int saddle = !CONSTRAINED && attempt > 0 && status == NOT_A_MINIMUM;
  return attempt < MOST_ATTEMPTS && (saddle || status == STALLED);
}

/* A pass of all lanes up to the verdict. */
INLINE void sweep_and_review(barrier_state *s, const solve_arguments *a) {
  start_lanes(s);
  barrier_sweep(s);
  s->status = review_barrier(s, a);
  if (a->history) write_barrier_history(s, a);
}

/* Solves problems of the job until none is left, or the call is stopped. A team's leader computes, and its lanes load
 * and store. */
FUNCTION void run_interior_point(barrier_state *s, solve_job *job) {
  const solve_arguments *a = job->arguments;
  const double pass = (double)a->horizon * STAGE_OPERATIONS;
  double since = 0; /* see `interrupted` */
  while (!interrupted(&job->queue, &since, pass) && refill_barrier(s, job)) {
    team_meet();
    TEAM_LEADER sweep_and_review(s, a);
    team_meet();
    if (CONSTRAINED) keep_starts(s, job);
    KEEP_LOOP for (int k = 0; k < LANES; k++) {
      const int status = lane_count(&s->status, k);
      const int warm = lane_test(&s->lanes.warm, k), again = tries_again(s, k, status);
      const int attempt = lane_count(&s->lanes.attempt, k);
      team_meet(); /* all have read what the lane began at */
      const solve_arguments *of_lane = BARRIER_ARGUMENTS(s, job, k);
#if POLISHES
      if (is_polished_further(s, of_lane, k, status)) continue;
      if (was_solved(s, k) && status != CONVERGED) {
        end_polishing(s, of_lane, k);
        continue;
      }
#endif
      if (status == UNFINISHED) continue;
      if (warm && status != CONVERGED && status != MAX_ITERATIONS) {
        if (CONSTRAINED) keep_nearest(s, of_lane, k);
        begin_attempt(s, of_lane, k, s->problem[k], 0);
      } else if (again) {
        try_again(s, of_lane, k, attempt + 1);
      } else {
        finish_barrier(s, of_lane, k, status);
      }
    }
    refill_barrier(s, job); /* what begins is rolled out beside the other lanes' steps */
    team_meet();
    TEAM_LEADER advance(s, a);
    team_meet();
    begin_anew(s, job);
  }
}

#endif

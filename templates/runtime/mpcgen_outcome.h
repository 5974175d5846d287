/* What the solvers share beside the stages: jobs, how a problem can end, and results that do not exist. */
#ifndef MPCGEN_OUTCOME_H
#define MPCGEN_OUTCOME_H

#include "mpcgen_parts.h"
#include "mpcgen_problem.h"

/* What an argument struct calls a method. HAND_OVER is box-DDP, which leaves marks where it does not get on; REMAINING is
 * the interior point for the problems that have such marks; RESUMED is box-DDP again, for those that still have them, and
 * for the interior point's solutions, which it polishes. POLISHED is the interior point before RESUMED. */
enum { BOX_DDP = 0, INTERIOR_POINT = 1, HAND_OVER = 2, REMAINING = 3, RESUMED = 4, POLISHED = 5 };

COUNT int begins_with_interior_point(const solve_arguments *a) {
  return a->method == INTERIOR_POINT || a->method == POLISHED;
}

/* Problems with constraints have one method, and a part that is compiled apart has one. */
#if CONSTRAINED || MPCGEN_PART == PART_INTERIOR_POINT
#define BY_INTERIOR_POINT(a) ((void)(a), 1)
#elif MPCGEN_PART == PART_SOLVE
#define BY_INTERIOR_POINT(a) ((void)(a), 0)
#else
#define BY_INTERIOR_POINT(a) (begins_with_interior_point(a) || (a)->method == REMAINING)
#endif

/* The run that follows this one over the same batch, or -1. */
COUNT int next_run(int method) {
  if (CONSTRAINED) return -1;
  return method == HAND_OVER ? REMAINING : method == REMAINING || method == POLISHED ? RESUMED : -1;
}

/* Whether there is an entry point for closed loops (mpcgen_closed_loop.h). */
#ifndef CLOSED_LOOPS
#define CLOSED_LOOPS 0
#endif

typedef struct {
  const solve_arguments *arguments; /* in a closed loop of the steps, one after the other */
  work_queue queue;
#if CLOSED_LOOPS
  const closed_loop_arguments *loop; /* NULL: no closed loop */
#endif
} solve_job;

/* Keep in step with mpcgen.Status. */
enum {
  CONVERGED = 0,
  MAX_ITERATIONS = 1,
  STALLED = 2,
  INVALID_INPUT = 3,
  DIVERGED = 4,
  NOT_A_MINIMUM = 5,
  INFEASIBLE = 6,
  MODEL = 7,
};
enum { UNFINISHED = -1, HANDED_OVER = -2 }; /* the latter less the status that the problem was left with */

/* Whether a problem ended where its model has no value, and all that is left of it is NaN. */
INLINE int has_no_value(int status) { return status == DIVERGED || status == MODEL; }

/* The status of a problem whose next state is the first of a rollout that is not finite: where an implicit step found no
 * solution, it has left NaN in what moves. */
FUNCTION int broken_at(in_reals next, int k) {
#if IMPLICIT
  for (int i = 0; i < NMOVING - NHIDDEN; i++)
    if (isnan(lane_get(next + PLACES[i], k))) return MODEL;
#endif
  (void)next, (void)k;
  return DIVERGED;
}

/* The status that box-DDP leaves a problem with: a mark where the interior point is to go on. Not where it has come to
 * the end of its precision, which is a solution but for rounding. */
INLINE int left_with(const solve_arguments *a, int status, int iterations) {
  const int unsolved = status == MAX_ITERATIONS || has_no_value(status);
  return a->method == HAND_OVER && unsolved && iterations < a->max_iterations ? HANDED_OVER - status : status;
}

/* The status that the interior point leaves a problem with: a mark where box-DDP is to polish the solution, which takes
 * an iteration at least. */
INLINE int left_to_polish(const solve_arguments *a, int status, int iterations) {
  const int polishes = next_run(a->method) == RESUMED && status == CONVERGED && iterations < a->max_iterations;
  return polishes ? HANDED_OVER - CONVERGED : status;
}

INLINE int is_handed_over(const solve_arguments *a, int64_t problem) { return a->status[problem] <= HANDED_OVER; }

/* Whether other runs over this batch were before, so that only marked problems are left. */
INLINE int is_later_run(const solve_arguments *a) { return !CONSTRAINED && (a->method == REMAINING || a->method == RESUMED); }

/* Whether box-DDP polishes what the interior point has found. */
INLINE int is_polished(const solve_arguments *a, int64_t problem) {
  return is_later_run(a) && a->status[problem] == HANDED_OVER - CONVERGED;
}

INLINE mask same_count(counts a, int b) {
  return lane_not(lane_or(lane_more(a, ALL_COUNTS(b)), lane_more(ALL_COUNTS(b), a)));
}

/* How the lanes' problems have ended, where they have; `open` are those not decided yet. */
typedef struct {
  counts status;
  mask open;
} verdict;

INLINE void decide(verdict *v, mask where, int status) {
  where = lane_and(where, v->open);
  v->status = lane_or(lane_and(v->status, lane_not(where)), lane_and(ALL_COUNTS(status), where));
  v->open = lane_and(v->open, lane_not(where));
}

/* Fills a result that does not exist with NaN, so that nobody mistakes it for one. */
FUNCTION void write_nothing(const solve_arguments *a, int64_t problem, int horizon, int status) {
  const size_t n = (size_t)horizon, p = (size_t)problem;
  const struct { scalar *at; size_t count; } parts[] = {
      {(scalar *)a->states + p * (n + 1) * NX, (n + 1) * NX}, {(scalar *)a->controls + p * n * NU, n * NU},
      {(scalar *)a->costates + p * (n + 1) * NX, (n + 1) * NX}, {(scalar *)a->gains + p * n * NU * NX, n * NU * NX},
#if CONSTRAINED
      {(scalar *)a->duals + p * (n + 1) * NDUAL, (n + 1) * NDUAL}, {(scalar *)a->violation + p, 1},
#endif
      {(scalar *)a->cost + p, 1}, {(scalar *)a->residual + p, 1}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    for (size_t j = 0; j < parts[i].count; j++) parts[i].at[j] = (scalar)NAN;
  a->status[problem] = status;
  a->iterations[problem] = 0;
}

/* Whether a lane's bounds leave room for its controls. What does not vary was checked when the text was made. */
FUNCTION int bounds_in_order(reals theta, reals theta_stage, int rows, int horizon, int k) {
  int good = 1;
#if BOUNDS_VARY
  TEAM_FOR(t, horizon) {
    real lower[NU], upper[NU];
    stage_bounds(theta, stage_row(theta_stage, rows, t), lower, upper);
    for (int i = 0; i < NU; i++)
      good &= lane_get(&lower[i], k) <= lane_get(&upper[i], k) && lane_get(&lower[i], k) < (scalar)INFINITY &&
              lane_get(&upper[i], k) > -(scalar)INFINITY;
  }
#endif
  (void)theta, (void)theta_stage, (void)rows, (void)horizon, (void)k;
  return good;
}

#if CONSTRAINED
/* Whether a lane's rows have bounds in order, like controls, and the soft ones prices that are neither negative nor no
 * numbers. An infinite linear price makes a row hard. */
FUNCTION int rows_in_order(reals theta, reals theta_stage, int rows, int horizon, int k) {
  int good = 1;
#if ROW_BOUNDS_VARY
  const int stages = rows > 1 || horizon < 2 ? horizon + 1 : 3; /* the first, any other and the last, where all are alike */
  TEAM_FOR(stage, stages) {
    const int t = stage == stages - 1 ? horizon : stage;
    const reals theta_t = stage_row(theta_stage, rows, t);
    real lower[NPATH + NEND], upper[NPATH + NEND], linear[NPATH + NEND], quadratic[NPATH + NEND];
    row_bounds_at(theta, theta_t, t == horizon, lower, upper);
    EACH(i, NPATH + NEND) linear[i] = ALL(INFINITY), quadratic[i] = ALL(0);
#if SOFT_ROWS
    row_weights_at(theta, theta_t, t == horizon, linear, quadratic);
#endif
    for (int i = 0; i < (t == 0 ? NMIXED : t < horizon ? NPATH : NEND); i++) {
      const scalar low = lane_get(&lower[i], k), high = lane_get(&upper[i], k), price = lane_get(&linear[i], k);
      good &= price >= 0 && lane_get(&quadratic[i], k) >= 0 && isfinite(lane_get(&quadratic[i], k));
      good &= low < (scalar)INFINITY && high > -(scalar)INFINITY;
      good &= low <= high || low - high <= 8 * SCALAR_EPSILON * LIBM(fabs)(high); /* they may meet but for rounding */
    }
  }
#endif
  (void)theta, (void)theta_stage, (void)rows, (void)horizon, (void)k;
  return good;
}
#endif

#endif

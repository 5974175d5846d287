/* What lanes of the interior point write of their problems: results, what attempts keep for the next ones, and the history. */
#ifndef MPCGEN_INTERIOR_POINT_RESULTS_H
#define MPCGEN_INTERIOR_POINT_RESULTS_H

#include "mpcgen_interior_point_control.h"

#define FEASIBLE 1e-6           /* of points that lack no more, the last one is the result */

#if CONSTRAINED
INLINE scalar dual_of(in_reals upper, in_reals lower, int k) { return lane_get(upper, k) - lane_get(lower, k); }

/* The multipliers of a stage, its rows' from column `first` on. */
INLINE void store_stage_duals(const barrier_state *s, int t, int k, int first, int count, scalar *to) {
  const int controls = t < s->horizon ? NU : 0;
  reals row = first_row(s, t);
  for (int i = 0; i < controls; i++) to[i] = dual_of(s->upper_multiplier + t * NU + i, s->lower_multiplier + t * NU + i, k);
  for (int i = controls; i < first; i++) to[i] = 0;
  for (int i = 0; i < count; i++, row += ROW_REALS) to[first + i] = dual_of(row + HIGH_MULTIPLIER, row + LOW_MULTIPLIER, k);
  for (int i = first + count; i < NDUAL; i++) to[i] = 0;
}

/* Multipliers by stage: of the controls' bounds, then of the mixed rows, of those of states and of those of the end; zero
 * where there is no such row. Positive where the upper, negative where the lower bound pushes. */
OUTLINED void store_duals(const barrier_state *s, const solve_arguments *a, int k, size_t problem) {
  const int last = s->horizon;
  scalar *to = (scalar *)a->duals + problem * (size_t)(last + 1) * NDUAL;
  for (int t = 0; t <= last; t++, to += NDUAL) {
    if (t > 0 && t < last) /* of constant numbers of rows the loops are unrolled */
      store_stage_duals(s, t, k, NU, NPATH, to);
    else
      store_stage_duals(s, t, k, row_column(t == last), row_count(s, t), to);
  }
  ((scalar *)a->violation)[problem] = lane_get(&s->point.violation, k);
}
#endif

/* Leaves a problem that the interior point does not solve either with box-DDP's result, a rollout, which obeys the
 * dynamics; and with its mark, so that box-DDP goes on, if there are iterations left. Returns whether it does. */
OUTLINED int leave_rollout(barrier_state *s, const solve_arguments *a, int k, int status) {
  const int64_t problem = s->problem[k];
  const int mark = a->status[problem], before = HANDED_OVER - mark, iterations = lane_count(&s->lanes.iterations, k);
  const int ended = status == CONVERGED || (status == NOT_A_MINIMUM && !has_no_value(before));
  if (!is_later_run(a) || ended) return 0;
  const int goes_on = !has_no_value(before) && iterations < a->max_iterations;
  team_meet(); /* all have read what there is */
  TEAM_LEADER {
    a->status[problem] = goes_on ? mark : has_no_value(before) || has_no_value(status) ? before : status;
    a->iterations[problem] = iterations;
    lane_mark(&s->lanes.busy, k, 0);
  }
  team_meet();
  return 1;
}

/* The status of a lane whose iterate has no value. */
RARE int how_broken(const barrier_state *s, int k) {
  for (int t = 0; t < s->horizon; t++)
    if (broken_at(s->path + t * PAIR + NX, k) == MODEL) return MODEL;
  return DIVERGED;
}

/* Makes NaN of what nobody is to take for a result; states, costates and gains tell where the model fails. */
RARE void withhold(const solve_arguments *a, size_t problem, int horizon) {
  const size_t count = (size_t)horizon * NU;
  for (size_t i = 0; i < count; i++) ((scalar *)a->controls)[problem * count + i] = (scalar)NAN;
  ((scalar *)a->cost)[problem] = ((scalar *)a->residual)[problem] = (scalar)NAN;
#if CONSTRAINED
  ((scalar *)a->violation)[problem] = (scalar)NAN;
#endif
}

/* Writes what a lane has. */
OUTLINED void store_iterate(const barrier_state *s, const solve_arguments *a, int k) {
  const size_t problem = (size_t)s->problem[k], n = (size_t)s->horizon;
  scalar *states = (scalar *)a->states + problem * (n + 1) * NX;
  for (size_t t = 0; t <= n; t++) store_row(states + t * NX, s->path + t * PAIR, k, NX);
  store_row((scalar *)a->controls + problem * n * NU, s->u, k, n * NU);
  store_row((scalar *)a->costates + problem * (n + 1) * NX, s->costate, k, (n + 1) * NX);
  store_row((scalar *)a->gains + problem * n * NU * NX, s->gain, k, n * NU * NX);
#if CONSTRAINED
  TEAM_LEADER store_duals(s, a, k, problem);
#endif
  TEAM_LEADER {
    ((scalar *)a->cost)[problem] = lane_get(&s->point.cost, k);
    ((scalar *)a->residual)[problem] = lane_get(&s->residual, k);
  }
}

/* Whether a lane's iterate is nearer to a solution than what has been kept: of feasible points the cheaper one, of others the
 * one that lacks less. One without numbers, whose violation nothing says, never is. */
INLINE int is_nearer(const barrier_state *s, int k) {
  const barrier_progress *lanes = &s->lanes;
  if (!isfinite(lane_get(&s->point.cost, k)) || !isfinite(lane_get(&s->point.gap, k))) return 0;
  const scalar now = lane_get(&s->point.violation, k), least = lane_get(&lanes->least_violation, k);
  if (now <= (scalar)FEASIBLE && least <= (scalar)FEASIBLE)
    return lane_get(&s->point.cost, k) < lane_get(&lanes->least_cost, k);
  return now < least;
}

/* Whether a problem that ends without a solution has what was kept for its result. */
OUTLINED int was_nearer(const barrier_state *s, int k, int status) {
  const int kept = lane_get(&s->lanes.least_violation, k) < (scalar)INFINITY;
  return (status == INFEASIBLE || status == STALLED || status == MAX_ITERATIONS) && kept && !is_nearer(s, k);
}

#if POLISHES
enum { POLISHING_STEPS = 3, MOST_POLISHING_STEPS = 6 };

/* Whether a lane goes on for another step after its solution, which it keeps for its result if it still has one: a step towards
 * another barrier may leave it for a pass or two. Not from a warm start, which takes few more steps than these. */
OUTLINED int is_polished_further(barrier_state *s, const solve_arguments *a, int k, int status) {
  const int begun = was_solved(s, k) ? lane_count(&s->lanes.polishing, k) : 0, iterations = lane_count(&s->lanes.iterations, k);
  const int steps = begun > 0 ? iterations - begun + 1 : 0, solved = status == CONVERGED;
  const int goes_on = solved ? steps < POLISHING_STEPS : begun > 0 && status == UNFINISHED && steps < MOST_POLISHING_STEPS;
  if (!goes_on || iterations >= a->max_iterations || lane_test(&s->lanes.warm, k)) return 0;
  if (solved) store_iterate(s, a, k);
  team_meet(); /* all have read when it was solved */
  TEAM_LEADER if (begun == 0) lane_recount(&s->lanes.polishing, k, iterations + 1);
  team_meet();
  return 1;
}

/* Ends a lane whose last step has left the solution that is kept. */
INLINE void end_polishing(barrier_state *s, const solve_arguments *a, int k) {
  const size_t problem = (size_t)s->problem[k];
  team_meet(); /* all have read which problem it is */
  TEAM_LEADER {
    a->status[problem] = CONVERGED;
    a->iterations[problem] = lane_count(&s->lanes.iterations, k);
    lane_mark(&s->lanes.busy, k, 0);
  }
  team_meet();
}
#endif

/* Writes a lane's result, which leaves the lane idle. One that is no solution is that of the attempt that came nearest. */
OUTLINED void finish_barrier(barrier_state *s, const solve_arguments *a, int k, int status) {
  if (leave_rollout(s, a, k, status)) return;
  if (status == DIVERGED) status = how_broken(s, k);
  const size_t problem = (size_t)s->problem[k];
  if (!was_nearer(s, k, status)) store_iterate(s, a, k);
  team_meet(); /* all have read which problem it is */
  TEAM_LEADER {
    const int iterations = lane_count(&s->lanes.iterations, k);
    if (has_no_value(status)) withhold(a, problem, s->horizon);
    a->status[problem] = left_to_polish(a, status, iterations);
    a->iterations[problem] = iterations;
    lane_mark(&s->lanes.busy, k, 0);
  }
  team_meet();
}

/* Writes what a sweep has found of the lanes' iterates. */
RARE void write_barrier_history(const barrier_state *s, const solve_arguments *a) {
  KEEP_LOOP for (int k = 0; k < LANES; k++) {
    if (!lane_test(&s->lanes.busy, k) || lane_test(&s->lanes.begins, k)) continue;
    const size_t iteration = (size_t)lane_count(&s->lanes.iterations, k);
    scalar *row = (scalar *)a->history + ((size_t)s->problem[k] * ((size_t)a->max_iterations + 1) + iteration) * 2;
    row[0] = lane_get(&s->point.cost, k);
    row[1] = lane_get(&s->residual, k);
  }
}

/* Keeps a lane's iterate, if it is nearer to a solution than what was kept before; any feasible one that costs less than
 * `cost` is nearer later. */
RARE void keep_iterate(barrier_state *s, const solve_arguments *a, int k, scalar cost) {
  const int nearer = is_nearer(s, k);
  if (nearer) store_iterate(s, a, k);
  team_meet(); /* all have read what came nearest */
  TEAM_LEADER {
    if (nearer) lane_set(&s->lanes.least_violation, k, lane_get(&s->point.violation, k));
    if (nearer) lane_set(&s->lanes.least_cost, k, cost);
  }
  team_meet();
}

/* Keeps what an attempt ends with that is no solution. */
RARE void keep_nearest(barrier_state *s, const solve_arguments *a, int k) {
#if CONSTRAINED
  TEAM_LEADER note_missed(s, k);
  team_meet();
#endif
  keep_iterate(s, a, k, lane_get(&s->point.cost, k));
}

#endif

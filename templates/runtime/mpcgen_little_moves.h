/* What little moves of states and controls are worth by the curvature of the cost: the least that counts as a size of costs. And
 * what moves as large as states are worth by slopes, the most.
 *
 * Weights of rows stand beside that curvature, and tolerances ask for as many digits as it has. At rest at a goal the cost itself
 * is next to nothing, and says nothing of either. */
#ifndef MPCGEN_LITTLE_MOVES_H
#define MPCGEN_LITTLE_MOVES_H

#include "mpcgen_stage_alone.h"

#define LITTLE_MOVE R(1e-2) /* of a state */
enum { SAMPLED_STAGES = 3 };

/* What a costate says that the costs vary by where its state i moves by its size, or by one. States that only accumulate cost do
 * not count: most of one may be what it began with, which is a constant, and the others' costates say what the rest varies by. */
INLINE real slope_of(int i, real costate, real x) {
  (void)i; /* where none only accumulates cost */
  return ONLY_COST(i) ? ALL(0) : lane_abs(costate) * lane_max(lane_abs(x), ALL(1));
}

/* What little moves are worth: the most of any; and their sum over the stages, those that are not looked at counted as the others. */
typedef struct {
  real most, sum;
} moves_worth;

INLINE void note_worth(moves_worth *worth, real of_stage, real stages) {
  worth->most = lane_max(of_stage, worth->most);
  worth->sum += stages * of_stage;
}

/* By the same curvature, what moves of one are worth, in all stages. */
INLINE real worth_of_large_moves(const moves_worth *worth) { return R(0.5) / (LITTLE_MOVE * LITTLE_MOVE) * worth->sum; }

/* The stages that are looked at besides the last state: the first, a middle one, the last. */
INLINE int sampled_stage(int horizon, int k) { return k == 0 ? 0 : k == 1 ? horizon / 2 : horizon - 1; }

/* A little move of a stage's control i: it moves a state a little, and the control itself by no more than a share of its range. */
INLINE real little_control(stored_reals x, stored_reals u, stored_reals theta, stored_reals theta_t, int i) {
  real lower[NU], upper[NU], d_x[NX], d_u[NU], d_next[NX], reached = ALL(0);
  stage_bounds(theta, theta_t, lower, upper);
  EACH(j, NX) d_x[j] = ALL(0);
  EACH(j, NU) d_u[j] = ALL(i == j);
  tangent_alone(x, u, theta, theta_t, d_x, d_u, d_next);
  EACH(j, NX) reached = lane_max(lane_abs(d_next[j]), reached);
  const real half = R(0.5) * (upper[i] - lower[i]);
  return LITTLE_MOVE * lane_min(ALL(1) / reached, lane_select(lane_finite(half), half, ALL(INFINITY)));
}

/* Of the states, by a Hessian whose leading rows are theirs. */
INLINE real worth_of_states(const real *hessian) {
  real worth = ALL(0);
  EACH(i, NX) worth = lane_max(LITTLE_MOVE * LITTLE_MOVE * lane_abs(hessian[TRIANGLE(i, i)]), worth);
  return worth;
}

/* Of a stage, by the model of its cost alone. */
INLINE real worth_of_stage(stored_reals x, stored_reals u, stored_reals theta, stored_reals theta_t, const stage_model *q) {
  real worth = worth_of_states(q->hessian);
  for (int i = 0; i < NU; i++) {
    const real move = little_control(x, u, theta, theta_t, i), found = lane_abs(control_row(q, i)[NX + i]) * (move * move);
    worth = lane_max(lane_select(lane_finite(found), found, ALL(0)), worth); /* not where a control moves no state */
  }
  return worth;
}

#endif

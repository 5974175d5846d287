/* What happens to one lane between passes: acceptance, regularisation, choice of the Hessian. Plain scalar code. */
#ifndef MPCGEN_CONTROL_H
#define MPCGEN_CONTROL_H

#include "mpcgen_sweeps.h"

#define ARMIJO R(0.05) /* share of the promised change that a step must bring: less lets far steps leave the basin */
#define SHORTEST_STEP R(1e-3)
#define FIRST_REGULARISATION R(1e-3)
#define LARGEST_REGULARISATION R(1e10)
#define FAR_FROM_SOLUTION R(0.3) /* expected relative change of the cost */
#define AFTER_REFUSAL R(0.3)     /* factors on the weight of the second derivatives */
#define AFTER_NONCONVEX R(0.7)
#define LEAST_SECOND_ORDER R(0.05)
enum { PATIENCE = 6, MORE_SWEEPS = 3 };

/* A change of the cost below this is rounding. */
INLINE scalar rounding(const lane_state *lane) { return R(16) * SCALAR_EPSILON * lane->cost_scale; }

/* What the model promises of a full step. */
INLINE scalar expected_change(const lane_state *lane) { return lane->slope + lane->bend; }

FUNCTION void raise_regularisation(solver_state *s, int k) {
  const scalar now = lane_get(&s->regularisation, k);
  lane_set(&s->regularisation, k, now > 0 ? R(10) * now : FIRST_REGULARISATION);
}

FUNCTION void lower_regularisation(solver_state *s, int k) {
  const scalar now = R(0.1) * lane_get(&s->regularisation, k);
  lane_set(&s->regularisation, k, now < FIRST_REGULARISATION ? R(0) : now);
}

FUNCTION void reduce_second_order(solver_state *s, int k, scalar factor) {
  const scalar next = factor * lane_get(&s->second_order, k);
  lane_set(&s->second_order, k, next < LEAST_SECOND_ORDER ? R(0) : next);
}

/* Whether a lane's candidate becomes its trajectory; otherwise sets up the next, shorter, step. */
FUNCTION int accept_candidate(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  const scalar cost = lane_get(&s->cost, k), length = lane_get(&s->length, k);
  if (lane->activity == FIRST_ROLLOUT) {
    lane_mark(&s->begins, k, 0);
    lane_set(&s->length, k, 1);
    return 1;
  }
  if (lane->activity != ITERATING || lane->resweeps) return 0;
  lane->iterations++;
  const scalar promise = lane_get(&s->promise, k);
  if (isfinite(cost) && cost - lane->cost <= ARMIJO * promise + rounding(lane)) {
    if (lane->refusals == 0) lower_regularisation(s, k);
    lane->refusals = 0;
    lane_set(&s->length, k, 1);
    return 1;
  }
  lane->refusals++;
  if (lane_get(&s->second_order, k) > 0) {
    reduce_second_order(s, k, AFTER_REFUSAL);
    lane->cautious = 1;
    return 0;
  }
  lane_set(&s->length, k, R(0.5) * length);
  if (R(0.5) * length < SHORTEST_STEP || promise >= 0) { /* a shorter step of the same policy will not do */
    lane_set(&s->length, k, 1);
    raise_regularisation(s, k);
  }
  return 0;
}

/* Before a sweep: how much of the dynamics' second derivatives goes into a lane's Hessian. None far from the
 * solution, where the model promises to change the cost by a good part; else as much as the last step bore,
 * and twice that after a step that was accepted. */
FUNCTION void choose_hessian(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  if (lane->activity != ITERATING || lane->refusals > 0 || lane->resweeps) return;
  const scalar now = lane_get(&s->second_order, k);
  scalar next = now > 0 ? R(2) * now : lane->cautious ? R(0.25) : R(1);
  if (-expected_change(lane) > FAR_FROM_SOLUTION * lane->cost_scale) next = 0;
  lane->cautious = 0;
  lane_set(&s->second_order, k, next > 1 ? R(1) : next);
}

/* Whether a lane must sweep its trajectory again because the model was not convex with the second derivatives that it
 * asked for: with less of them next time, in the end with none. The other lanes of its vector go on meanwhile. */
FUNCTION int must_resweep(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  if (lane->activity != ITERATING || lane_test(&s->convex, k) || lane_get(&s->second_order, k) <= 0) {
    lane->resweeps = 0;
    return 0;
  }
  lane->resweeps++;
  reduce_second_order(s, k, lane->resweeps < MORE_SWEEPS ? AFTER_NONCONVEX : R(0));
  return 1;
}

/* Keeps count of steps too small for the cost to judge; past PATIENCE the lane is at its precision's limit. */
FUNCTION int is_stalled(lane_state *lane) {
  if (lane->residual < R(0.5) * lane->best_residual) {
    lane->best_residual = lane->residual;
    lane->unproductive = 0;
  } else if (-expected_change(lane) <= rounding(lane)) {
    lane->unproductive++;
  }
  return lane->unproductive > PATIENCE;
}

#endif

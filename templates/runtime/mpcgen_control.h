/* What happens to one lane between passes: acceptance, regularisation, choice of the Hessian. Plain scalar code. */
#ifndef MPCGEN_CONTROL_H
#define MPCGEN_CONTROL_H

#include "mpcgen_sweeps.h"

#define ARMIJO R(0.05) /* share of the promised change that a step must bring: less lets far steps leave the basin */
#define SHORTEST_STEP R(1e-3)
#define FIRST_REGULARISATION R(1e-3)
#define LARGEST_REGULARISATION R(1e10)
/* The weight of the dynamics' second derivatives, over the relative change of the cost that the model promises. */
#define FAR_FROM_SOLUTION R(0.3) /* none above this change */
#define PART_WAY R(0.6)          /* the weight there, which rises to one as the change falls to zero */
#define RISE R(10)
#define NEARLY_ALL R(0.9)        /* counts as one, so that what converges has the exact Hessian */
#define AFTER_ACCEPTANCE R(3)    /* factors: on a weight that a step has borne, and not */
#define AFTER_REFUSAL R(0.3)
#define AFTER_NONE R(0.25)       /* the first weight again, after one was refused down to none */
#define LEAST_SECOND_ORDER R(0.05)
enum { PATIENCE = 6 };

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

/* Whether a lane's candidate becomes its trajectory; otherwise sets up the next, shorter, step. */
FUNCTION int accept_candidate(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  const scalar cost = lane_get(&s->cost, k), length = lane_get(&s->length, k);
  if (lane->activity == FIRST_ROLLOUT) {
    lane_mark(&s->begins, k, 0);
    lane_set(&s->length, k, 1);
    return 1;
  }
  if (lane->activity != ITERATING || lane->overflowed) return 0;
  lane->iterations++;
  const scalar promise = lane_get(&s->promise, k);
  if (isfinite(cost) && cost - lane->cost <= ARMIJO * promise + rounding(lane)) {
    if (lane->refusals == 0) lower_regularisation(s, k);
    lane->refusals = 0;
    lane_set(&s->length, k, 1);
    return 1;
  }
  lane->refusals++;
  const scalar weight = lane_get(&s->second_order, k);
  if (weight > 0) {
    lane_set(&s->second_order, k, AFTER_REFUSAL * weight < LEAST_SECOND_ORDER ? R(0) : AFTER_REFUSAL * weight);
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

/* Before a sweep: how much of the dynamics' second derivatives goes into a lane's Hessian. No more than the promised
 * change of the cost allows: none far from the solution, all of them near it; and not at once what was refused. */
FUNCTION void choose_hessian(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  if (lane->activity != ITERATING || lane->refusals > 0 || lane->overflowed) return;
  const scalar change = -expected_change(lane) / lane->cost_scale;
  scalar allowed = R(1) - RISE * change;
  if (!(allowed > PART_WAY)) allowed = PART_WAY;
  if (allowed > NEARLY_ALL) allowed = 1;
  if (change > FAR_FROM_SOLUTION) allowed = 0;
  const scalar now = lane_get(&s->second_order, k);
  const scalar next = now > 0 ? AFTER_ACCEPTANCE * now : lane->cautious ? AFTER_NONE : R(1);
  lane->cautious = 0;
  lane_set(&s->second_order, k, next < allowed ? next : allowed);
}

/* Whether a lane must sweep its trajectory again, without the dynamics' second derivatives, because with them its
 * model overflowed: curvature that points downward can grow from stage to stage. */
FUNCTION int must_sweep_again(solver_state *s, int k) {
  lane_state *lane = &s->lanes[k];
  lane->overflowed =
      lane->activity == ITERATING && !lane_test(&s->finite, k) && lane_get(&s->second_order, k) > 0;
  if (lane->overflowed) {
    lane->cautious = 1;
    lane_set(&s->second_order, k, 0);
  }
  return lane->overflowed;
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

/* The backward sweep of the Riccati recursion: one text, included once for each policy step, so without a guard.
 *
 * The sweep goes from the value function at stage N, which `value` has when it begins, to that at stage 0. At each stage
 * it makes the quadratic model of what is left, a policy for the stage's controls, and the value function of that
 * policy. What these are is up to whoever includes this: SWEEP(part) is their name for a part, and the parts are
 *
 *   SWEEP(state)                     a struct: what is swept over, and what the sweep notes of it
 *   SWEEP(keep)(s, t, value)         takes what is wanted of the value function at stage t
 *   SWEEP(model)(s, t, value, q)     the quadratic model at stage t; what moves the point at which the value function to
 *                                    its right is read, moves it first
 *   SWEEP(policy)(s, t, q, p)        the step at stage t, and for the gains the controls that are free, and their factor
 *   SWEEP(value)(s, t, q, p, value)  the gains at stage t, and the value function of the policy
 *
 * Of a team, the leader makes the policy, and all make the rest. */
#ifndef RICCATI_FUNCTION
#define RICCATI_FUNCTION INLINE
#endif

RICCATI_FUNCTION void SWEEP(sweep)(SWEEP(state) *s, int horizon, value_model *value, stage_model *q, control_problem *p) {
  for (int t = horizon;; t--) {
    SWEEP(keep)(s, t, value);
    if (t == 0) break;
    SWEEP(model)(s, t - 1, value, q);
    TEAM_LEADER SWEEP(policy)(s, t - 1, q, p);
    team_meet();
    SWEEP(value)(s, t - 1, q, p, value);
  }
}
#undef SWEEP

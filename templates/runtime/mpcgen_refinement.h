/* The differentials of a solution: the sweep of mpcgen_sensitivity.h and, where there are rows of constraints, refinements
 * of what it finds.
 *
 * Rows that hold have weights of 1e8 and more in the sweep, which magnify its rounding as a penalty's do. Iterative
 * refinement takes that back, and the rows' regularisation delta with it: what the first-order conditions lack at the
 * differentials is found from the stages' models without the weights, with the multipliers' differentials in their place,
 * and the sweep's policy answers it. With H, F and the rows' forces of a stage, p = lambda's differential at the stage after
 * it, and what is lacking
 *
 *   r_x = linear_x + H_x d + F_x' p + J_x' force,   r_u = linear_u + H_u d + F_u' p + J_u' force,
 *
 * the correction of the policy's step is -Quu^-1 r_u and p = r_x + K' r_u. The gains K and the factors of Quu are the
 * sweep's, so that a refinement costs the stages' models and no Riccati recursion.
 *
 * What is left shrinks by the same factor in each refinement: one that changes the differentials little leaves the square of
 * that, and is the last. A lane that is done keeps what it has, whatever its neighbours need. Where it hardly shrinks, rows have
 * weights that are little beside the curvature, as those have whose values are small numbers: then the sweep is made again with
 * larger ones. */
#ifndef MPCGEN_REFINEMENT_H
#define MPCGEN_REFINEMENT_H

#include "mpcgen_little_moves.h"
#include "mpcgen_sensitivity.h"

#if CONSTRAINED
/* By how much a refinement changes each component of x and u over the stages, and how large they are: the largest. */
typedef struct {
  real change[NTAU], size[NTAU];
} refinement;

INLINE void begin_refinement(refinement *r) {
  for (int i = 0; i < NTAU; i++) r->change[i] = r->size[i] = ALL(0);
}

#if MPCGEN_PRECISION == 64
enum { SWEEPS = 3 }; /* the first, and at most so many refinements as are left */
#define LITTLE_CHANGE R(3e-5) /* of a component of x or u, as a share of its largest differential */
#define SLOW_CHANGE R(1e-3)   /* of multipliers, as a share of their largest differential: more is not rounding */
#define SMALLER_DELTA R(1e-3) /* than the one before, where refinements are slow */
#define SMALLEST_DELTA R(1e-9) /* than the first */
#else
enum { SWEEPS = 6 };
#define LITTLE_CHANGE R(1e-3)
#define SLOW_CHANGE R(0.1)
#define SMALLER_DELTA R(1e-2)
#define SMALLEST_DELTA R(1e-4)
#endif
enum { LOOSE_SWEEPS = 12 };   /* of lanes with a larger delta, which have no differentials where the last one changes */
#define MUCH_CHANGE R(0.1)    /* more than this share */
#define LARGER_DELTA R(100)   /* than the one before */
#define LARGEST_DELTA R(1e4)  /* than the first */

/* -(free block of Quu)^-1 rhs, zero where a control is held, by the factor that the sweep has kept. */
INLINE void solve_kept(in_reals factor, const real *rhs, real *result) {
  for (int i = 0; i < NU; i++) {
    real sum = -rhs[i];
    /* cppcheck-suppress uninitvar ; what is read was written in an earlier round of the outer loop */
    for (int k = 0; k < i; k++) sum -= factor[TRIANGLE(i, k)] * result[k];
    result[i] = sum;
  }
  for (int i = NU - 1; i >= 0; i--) {
    real sum = result[i] * factor[TRIANGLE(i, i)];
    for (int k = i + 1; k < NU; k++) sum -= factor[TRIANGLE(k, i)] * result[k];
    result[i] = sum;
  }
}

/* result (NTAU) += the Hessian of a stage's model times the differentials there. */
INLINE void add_curvature(const sensitivity_state *s, int t, const stage_model *q, real *result) {
  real d[NTAU];
  EACH(i, NX) d[i] = s->d_x[t * NX + i];
  EACH(i, NU) d[NX + i] = s->d_u[t * NU + i];
  EACH(i, NTAU) {
    real sum = result[i] + q->hessian[TRIANGLE(i, i)] * d[i];
    EACH(j, i) {
      const real entry = q->hessian[TRIANGLE(i, j)];
      sum += entry * d[j];
      result[j] += entry * d[i];
    }
    result[i] = sum;
  }
}

/* What a refinement finds, in the lanes that it is for. */
INLINE real refined(const sensitivity_state *s, real found, real before) { return lane_select(s->refines, found, before); }

/* What the first-order conditions of a stage lack but for their linear terms in u (see above), from its model: r (NTAU). */
INLINE void find_lack(const sensitivity_state *s, int t, const stage_model *q, real *lack) {
  for (int i = 0; i < NX; i++) {
    const real rest = rest_counts(s) ? s->loss_cost * s->slope[t * NX + i] : ALL(0);
    lack[i] = q->offset_x[i] + s->linear_x[t * NX + i] + rest;
  }
  for (int i = 0; i < NU; i++) lack[NX + i] = q->offset_u[i];
  add_curvature(s, t, q, lack);
}

/* The correction of a stage's policy, and p there, which is left in `offset`; the stage's model has that of the next one in
 * its offsets. In forward mode the change of dL/du besides. */
FUNCTION void correct_stage(sensitivity_state *s, int t, int forward, const stage_model *q) {
  real lack[NTAU], correction[NU];
  find_lack(s, t, q, lack);
  for (int i = 0; i < NU; i++) {
    const int at = t * NU + i;
    const real change = forward ? s->bound_model[at * BOUND_MODEL + NX + NU] + lack[NX + i] : ALL(0);
    if (forward) s->bound_change[at] = refined(s, change, s->bound_change[at]);
    lack[NX + i] += s->linear_u[at];
    if (s->smoothing > 0) lack[NX + i] += (s->at_lower[at] + s->at_upper[at]) * s->d_u[at];
  }
  solve_kept(s->factor + t * NUU, lack + NX, correction);
  for (int i = 0; i < NU; i++) {
    const int at = t * NU + i;
    s->correction[at] = refined(s, correction[i], ALL(0));
    s->step[at] = refined(s, s->step[at] + correction[i], s->step[at]);
  }
  for (int i = 0; i < NX; i++) {
    real sum = lack[i];
    for (int a = 0; a < NU; a++) sum += s->gain[(t * NU + a) * NX + i] * lack[NX + a];
    s->offset[t * NX + i] = refined(s, sum, s->offset[t * NX + i]);
  }
}

/* The same at the last stage, from the value function there; which is left without a Hessian, as the models take it. */
FUNCTION void correct_last(sensitivity_state *s, value_model *value) {
  const int last = s->horizon * NX;
  real d_x[NX];
  for (int i = 0; i < NX; i++) d_x[i] = s->d_x[last + i];
  add_symmetric_product(value->hessian, d_x, value->offset);
  for (int i = 0; i < NX; i++) s->offset[last + i] = refined(s, value->offset[i], s->offset[last + i]);
  zero_reals(value->hessian, NXX);
}

/* The corrections of all stages' policies. */
SWEEP_FUNCTION void find_correction(sensitivity_state *s, int exact_hessian, int forward) {
  differential_state d = {s, NULL, exact_hessian};
  SWEEP_MODELS(s)
  last_differential(s, exact_hessian, value);
  correct_last(s, value);
  for (int t = s->horizon - 1; t >= 0; t--) {
    copy_reals(value->costate, s->costate + (t + 1) * NX, NX);
    differential_model(&d, t, value, q);
    correct_stage(s, t, forward, q);
    copy_reals(value->offset, s->offset + t * NX, NX);
  }
}

/* Takes a step of the differentials at a stage; `offset` is then the differential of its costate. */
FUNCTION void take_stage(sensitivity_state *s, int t, int forward, const real *d_x, const real *d_u) {
  real costate[NX];
  for (int i = 0; i < NX; i++) {
    const int at = t * NX + i;
    s->d_x[at] = s->sweep > 0 ? refined(s, s->d_x[at] + d_x[i], s->d_x[at]) : d_x[i];
    costate[i] = s->offset[at];
  }
  add_symmetric_product(s->hessian + t * NXX, d_x, costate);
  for (int i = 0; i < NX; i++) s->offset[t * NX + i] = refined(s, costate[i], s->offset[t * NX + i]);
  take_rows(s, t, d_x, d_u);
  if (t == s->horizon) return;
  for (int i = 0; i < NU; i++) {
    const int at = t * NU + i;
    s->d_u[at] = s->sweep > 0 ? refined(s, s->d_u[at] + d_u[i], s->d_u[at]) : d_u[i];
  }
  if (forward && s->sweep > 0) take_bounds(s, t, d_x, d_u); /* what is left at the first is found anew */
}

/* The sizes of the differentials, and of their change at a stage. */
INLINE void note_change(refinement *r, const sensitivity_state *s, int t, in_reals d_x, in_reals d_u) {
  for (int i = 0; i < NX; i++) {
    r->size[i] = lane_max(lane_abs(s->d_x[t * NX + i]), r->size[i]);
    r->change[i] = lane_maximum(lane_abs(d_x[i]), r->change[i]);
  }
  for (int i = 0; i < (t < s->horizon ? NU : 0); i++) {
    r->size[NX + i] = lane_max(lane_abs(s->d_u[t * NU + i]), r->size[NX + i]);
    r->change[NX + i] = lane_maximum(lane_abs(d_u[i]), r->change[NX + i]);
  }
}

INLINE int is_last_refinement(const sensitivity_state *s) { return s->sweep + 1 == LOOSE_SWEEPS; }

/* Whether a refinement that changes component i by so much is the last one for it: it changes a share of its size; or, as long
 * as delta is small, no less than half of what the one before did, which is rounding. After the last one for any there is none:
 * then what is a share of what the first one changed will do, where rows leave a component next to nothing, and what is rounding
 * beside the largest component. */
INLINE mask is_refined(sensitivity_state *s, int i, real change, real size, real largest) {
  const real before = s->change_before[i], first = s->sweep > 1 ? s->first_change[i] : change;
  const mask stays = s->sweep > 1 ? lane_lt(R(0.5) * before, change) : lane_none();
  const real much = MUCH_CHANGE * lane_max(size, first) + R(100) * SCALAR_EPSILON * largest;
  s->change_before[i] = change;
  s->first_change[i] = first;
  if (is_last_refinement(s)) return lane_le(change, much);
  return lane_or(lane_le(change, LITTLE_CHANGE * size), lane_and(stays, lane_le(s->looseness, ALL(1))));
}

/* Leaves those lanes to the next refinement that this one has changed by more than a little. */
INLINE void end_refinement(sensitivity_state *s, const refinement *r) {
  mask little = lane_all();
  real largest = ALL(0);
  for (int i = 0; i < NTAU; i++) largest = lane_max(r->size[i], largest);
  for (int i = 0; i < NTAU; i++) little = lane_and(little, is_refined(s, i, r->change[i], r->size[i], largest));
  s->largest = lane_select(s->refines, largest, s->largest);
  s->refines = lane_and(s->refines, lane_not(little));
}

/* By how much a row's multiplier would change in a refinement that moves nothing, but for rounding of the row's moves. */
INLINE real multiplier_left(const sensitivity_state *s, int at) {
  const real rounding = R(100) * SCALAR_EPSILON * (row_weight(s, at) * s->largest);
  return lane_max(lane_abs(s->row_force[at] - s->d_dual[at]) - rounding, ALL(0));
}

/* The step of the differentials by the policy that a sweep has found, from a change of x_0, or by its correction. */
SWEEP_FUNCTION void take_differentials(sensitivity_state *s, int forward, const real *initial) {
  real d_x[NX], d_u[NU], d_next[NX];
  refinement r;
  begin_refinement(&r);
  for (int i = 0; i < NX; i++) d_x[i] = initial && s->sweep == 0 ? initial[i] : ALL(0);
  for (int i = 0; i < NU; i++) d_u[i] = ALL(0); /* the end has none */
  for (int t = 0; t < s->horizon; t++) {
    follow_gains(s, s->sweep > 0 ? s->correction : s->step, t, d_x, d_u);
    take_stage(s, t, forward, d_x, d_u);
    note_change(&r, s, t, d_x, d_u);
    change_next_state(s, t, d_x, d_u, d_next);
    for (int i = 0; i < NX; i++) d_x[i] = d_next[i] + (s->sweep > 0 ? ALL(0) : s->affine[t * NX + i]);
  }
  take_stage(s, s->horizon, forward, d_x, d_u);
  note_change(&r, s, s->horizon, d_x, d_u);
  if (s->sweep > 0) end_refinement(s, &r);
}

/* A sweep adds to the linear terms of the controls what it finds: keeps them for the next one in reverse mode, where they are
 * not its own, or gives them back. */
FUNCTION void keep_linear_terms(sensitivity_state *s) {
  TEAM_FOR(i, s->horizon * NU) s->asked[i] = s->linear_u[i];
}
FUNCTION void restore_linear_terms(sensitivity_state *s) {
  TEAM_FOR(i, s->horizon * NU) s->linear_u[i] = s->asked[i];
}

/* Lanes that a sweep has found singular, if not for want of curvature then because the weights of rows that hold hide it in
 * their rounding. A larger delta asks for no less: where the Hessian is positive definite beside smaller weights, so it is
 * beside larger ones. What it adds refinements take back. Returns whether there are any that have not had the largest. */
INLINE int loosen_differentials(sensitivity_state *s) {
  const mask may = lane_and(lane_lt(s->looseness, ALL(LARGEST_DELTA)), lane_and(s->usable, lane_not(s->envelope)));
  const mask singular = lane_and(may, lane_not(s->regular));
  s->looseness = lane_select(singular, LARGER_DELTA * s->looseness, s->looseness);
  return lane_any(singular);
}

/* After a refinement: which lanes are to have another. */
INLINE void limit_refinements(sensitivity_state *s) {
  if (s->sweep >= SWEEPS - 1) s->refines = lane_and(s->refines, lane_lt(ALL(1), s->looseness));
}

/* Before the first one: which lanes it is for. */
INLINE void begin_refinements(sensitivity_state *s) {
  s->refines = lane_and(s->usable, s->regular);
  s->largest = ALL(0);
}

/* After the last one: gives lanes a smaller delta in which refinements were slow, and the first one again where none helps, as
 * where the weights are too large already. Returns whether there are any; all are swept again then, and the others find what they
 * have found. */
INLINE int tighten_differentials(sensitivity_state *s) {
  const mask tight = lane_and(lane_lt(s->looseness, ALL(1)), s->usable), helped = lane_and(s->regular, lane_not(s->slow));
  const mask least = lane_or(lane_le(s->looseness, ALL(SMALLEST_DELTA)), lane_not(s->regular));
  const mask back = lane_and(lane_and(tight, least), lane_not(helped));
  const mask may = lane_and(lane_and(s->regular, s->usable), lane_and(lane_le(s->looseness, ALL(1)), lane_not(s->tightened)));
  const mask next = lane_and(lane_and(may, s->slow), lane_not(back));
  s->tightened = lane_or(s->tightened, back);
  s->looseness = lane_select(back, ALL(1), lane_select(next, SMALLER_DELTA * s->looseness, s->looseness));
  return lane_any(lane_or(back, next));
}

/* After the last of all: what a larger delta has added, and was not taken back, is no differential. */
INLINE void note_unrefined(sensitivity_state *s) { s->regular = lane_and(s->regular, lane_not(s->refines)); }
#endif

#if CONSTRAINED
/* The model of a stage's cost alone, in memory: no rows, no cost-to-go. */
INLINE void expand_cost(sensitivity_state *s, int t) {
#if MODEL_IN_REGISTERS
  expand_in_memory(s, t);
#else
  expand_differential(s, t, 0, &s->value, &s->model);
#endif
}

/* What moves of the costs' states and controls are worth at the solution: little ones by curvature, see mpcgen_little_moves.h; and by
 * how much costs vary where states move by their sizes or by one, and controls move states by one, by slopes and curvature. */
typedef struct {
  real little, size;
} worth_of_costs;

/* A stage's slopes times the moves. */
INLINE real slopes_of_stage(stored_reals x, stored_reals u, stored_reals theta, stored_reals theta_t, const stage_model *q) {
  real sum = ALL(0);
  EACH(i, NX) sum += slope_of(i, q->costate[i], x[i]);
  for (int i = 0; i < NU; i++) {
    const real move = little_control(x, u, theta, theta_t, i) / LITTLE_MOVE, slope = lane_abs(q->gradient_u[i]);
    const real size = lane_max(lane_select(lane_finite(move), move, ALL(0)), lane_abs(u[i]));
    sum += slope * size;
  }
  return sum;
}

/* Of the end, and of some stages, those that are not among them counted as they are; or of all. */
OUTLINED worth_of_costs find_worth(sensitivity_state *s, int all) {
  const int count = all ? s->horizon : SAMPLED_STAGES;
  const real stages = ALL((scalar)s->horizon / (scalar)count);
  const reals last = s->x + s->horizon * NX;
  moves_worth worth = {ALL(0), ALL(0)};
  real slopes = ALL(0);
  s->sweep = COST_ALONE;
  last_differential(s, 0, &s->value);
  note_worth(&worth, worth_of_states(s->value.hessian), ALL(1));
  EACH(i, NX) slopes += slope_of(i, s->value.costate[i], last[i]);
  zero_reals(s->value.hessian, NXX);
  zero_reals(s->value.costate, NX);
  zero_reals(s->value.offset, NX);
  for (int k = 0; k < count; k++) {
    const int t = all ? k : sampled_stage(s->horizon, k);
    const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
    expand_cost(s, t);
    note_worth(&worth, worth_of_stage(x, u, s->theta, theta_t, &s->model), stages);
    slopes += stages * slopes_of_stage(x, u, s->theta, theta_t, &s->model);
  }
  s->sweep = 0;
  const worth_of_costs found = {worth.most, slopes + worth_of_large_moves(&worth)};
  return found;
}

/* What weights of rows and forces of bounds are judged by: a share of the costs' sizes, of which constants are no part; where these
 * are next to nothing, what little moves are worth, since beside curvature weights that vanish with the costs would hold nothing.
 * All stages are looked at where it seems from some that constants are most of a cost. */
FUNCTION void find_cost_unit(sensitivity_state *s) {
  const real size = sum_of_costs(s);
  worth_of_costs worth = find_worth(s, 0);
  const mask constant = lane_lt(worth.size, size);
  if (lane_any(constant)) worth.size = lane_select(constant, find_worth(s, 1).size, worth.size);
  const real unit = lane_max(worth.little, lane_min(worth.size, size) / R(100));
  s->cost_unit = lane_select(lane_lt(ALL(0), unit), unit, ALL(1));
}
#endif

/* The sweep itself, with the model of a small stage in registers. */
SWEEP_FUNCTION void sweep_stages(sensitivity_state *s, int exact_hessian, parameter_change *change) {
  differential_state d = {s, change, exact_hessian};
  control_problem p;
  SWEEP_MODELS(s)
  last_differential(s, exact_hessian, value);
  differential_sweep(&d, s->horizon, value, q, &p);
  note_singular(s, value);
}

/* One sweep for policy and value functions; notes which lanes are singular. `change` is NULL in reverse mode. */
FUNCTION void sweep_differentials(sensitivity_state *s, int exact_hessian, parameter_change *change) {
  s->regular = lane_all();
  s->sweep = 0;
  s->keeps = exact_hessian;
#if CONSTRAINED
  find_cost_unit(s);
  weigh_rows(s);
  if (!change) push_rows(s);
#endif
  if (change) {
    change->cost = ALL(0);
    change_last(s, change);
  }
  sweep_stages(s, exact_hessian, change);
}

#if CONSTRAINED
/* The step of the differentials by the policy that a sweep has found, and its refinements. */
OUTLINED void refine_differentials(sensitivity_state *s, int exact_hessian, int forward, const real *initial) {
  begin_refinements(s);
  take_differentials(s, forward, initial);
  for (s->sweep = 1; s->sweep < LOOSE_SWEEPS && lane_any(s->refines); s->sweep++) {
    find_correction(s, exact_hessian, forward);
    take_differentials(s, forward, NULL);
    limit_refinements(s);
  }
  real left = ALL(0), size = ALL(0);
  for (int i = 0; i < s->horizon * NPATH + NEND; i++) {
    left = lane_max(multiplier_left(s, i), left);
    size = lane_max(lane_abs(s->d_dual[i]), size);
  }
  s->slow = lane_lt(ALL(SLOW_CHANGE) * size, left);
}
#endif

/* Riccati sweep over the differentials; leaves policy, value functions, costates and active set per stage; with rows of
 * constraints the differentials of the costates in place of the value functions' offsets. `change` is NULL in reverse mode,
 * with `initial`, the change of x_0. */
FUNCTION void sensitivity_backward(sensitivity_state *s, int exact_hessian, parameter_change *change,
                                   const real *initial) {
#if CONSTRAINED
  s->looseness = ALL(1);
  s->tightened = lane_none();
  if (!change) keep_linear_terms(s);
  sweep_differentials(s, exact_hessian, change);
  while (loosen_differentials(s)) {
    if (!change) restore_linear_terms(s);
    sweep_differentials(s, exact_hessian, change);
  }
  refine_differentials(s, exact_hessian, change != NULL, initial);
  while (tighten_differentials(s)) {
    if (!change) restore_linear_terms(s);
    sweep_differentials(s, exact_hessian, change);
    refine_differentials(s, exact_hessian, change != NULL, initial);
  }
  note_unrefined(s);
  if (!change) move_rows(s);
#else
  sweep_differentials(s, exact_hessian, change);
  (void)initial;
#endif
  drop_singular(s);
}

#endif

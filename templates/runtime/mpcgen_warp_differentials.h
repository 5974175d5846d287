/* Differentials of the solution with a warp per problem: the sweeps of mpcgen_sensitivity.h and mpcgen_refinement.h,
 * divided. What the stages have to themselves, a lane does for a stage, 32 of them at once. */
#ifndef MPCGEN_WARP_DIFFERENTIALS_H
#define MPCGEN_WARP_DIFFERENTIALS_H

#include "mpcgen_gradient.h"
#include "mpcgen_tangent.h"
#include "mpcgen_warp.h"

/* Forward mode: change_stage at all stages, a lane each, the last one included. */
FUNCTION void team_change_stages(sensitivity_state *s, parameter_change *change, team_memory *m) {
  const int last = s->horizon;
  TEAM_FOR(t, last)
    stage_forward(s->x + t * NX, s->u + t * NU, s->theta, stage_row(s->theta_stage, s->rows, t),
                  &s->costate[(t + 1) * NX], ROWS_OF(s->dual + t * NPATH) change->theta,
                  stage_row(change->theta_stage, s->rows, t), s->linear_x + t * NX, s->linear_u + t * NU,
                  s->affine + t * NX, ROWS_OF(m->d_rows + t * NPATH) &m->costs[t]);
#if CONSTRAINED
  TEAM_FOR(t, last) m->costs[t] += change_rows(s, t, m->d_rows + t * NPATH, change);
#endif
  team_meet();
  TEAM_LEADER {
    terminal_forward(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last),
                     ROWS_OF(s->dual + last * NPATH) change->theta, stage_row(change->theta_stage, s->rows, last),
                     s->linear_x + last * NX, ROWS_OF(m->d_rows + last * NPATH) &change->cost);
#if CONSTRAINED
    change->cost += change_rows(s, last, m->d_rows + last * NPATH, change);
#endif
    for (int t = last - 1; t >= 0; t--) change->cost += m->costs[t];
  }
  team_meet();
}

/* How a sweep comes by the costates, which are those under its policy. Stages are expanded before it, a lane each: so with
 * costates without a policy first, of which a sweep makes those with one, and then with these. Where dynamics magnify
 * rounding the first are no use, and the leader expands stage by stage. */
typedef enum {
  FOUND_BEFORE,     /* by a sweep before, with what that has left of dL/dx */
  FOUND_BY_SWEEP,   /* the models' gradients lack F' lambda, or F' of what lambda has more than theirs */
  FOLLOWED_BY_LEADER
} costate_source;

enum { BEFORE_SWEEPS = -1 };

typedef struct {
  sensitivity_state *s;
  parameter_change *change;
  team_memory *m;
  int exact;    /* the Hessians are the Lagrangian's */
  int complete; /* whether the stages' gradients are */
  costate_source costates;
} team_differential_state;

/* A stage's derivatives with what its rows add; by `exact`, with the curvature of dynamics and rows. */
FUNCTION void expand_stage(const sensitivity_state *s, int t, int exact, const real *costate, stage_model *q) {
  const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
#if CONSTRAINED
  real dual[MOST_DIFFERENTIAL_ROWS], weight[MOST_DIFFERENTIAL_ROWS], force[MOST_DIFFERENTIAL_ROWS];
  model_rows(s, t, dual, weight, force);
#endif
#if !LINEAR_DYNAMICS
  const real whole = 1;
  if (exact) {
    stage_derivatives_exact(x, u, s->theta, theta_t, &whole, costate, ROWS_OF(dual) ROWS_OF(weight) ROWS_OF(force) q);
    return;
  }
#endif
  (void)exact;
  stage_derivatives_gauss_newton(x, u, s->theta, theta_t, costate, ROWS_OF(dual) ROWS_OF(weight) ROWS_OF(force) q);
}

INLINE void team_differential_keep(team_differential_state *d, int t, const value_model *value) {
  sensitivity_state *s = d->s;
  TEAM_FOR(i, NXX) s->hessian[t * NXX + i] = value->hessian[i];
  TEAM_FOR(i, NX) {
    s->costate[t * NX + i] = value->costate[i];
    s->offset[t * NX + i] = value->offset[i];
  }
}

INLINE void team_differential_model(team_differential_state *d, int t, value_model *value, stage_model *q) {
  const team_memory *m = d->m;
  if (d->costates == FOLLOWED_BY_LEADER) {
    TEAM_LEADER {
      if (d->change) {
        change_stage(d->s, t, value->costate, d->change);
        shift_value(d->s->affine + t * NX, value);
      }
      expand_stage(d->s, t, d->exact, value->costate, team_model(m, t));
    }
  } else if (d->change) {
    TEAM_FOR(i, NX)
      for (int j = 0; j < NX; j++) value->offset[i] += m->square[i * NX + j] * d->s->affine[t * NX + j];
  }
  team_meet();
  const real *lacks = !d->complete ? value->costate : d->costates == FOUND_BY_SWEEP ? d->m->drift : NULL;
  team_products(t, lacks, d->m, value, q);
}

INLINE void team_differential_policy(team_differential_state *d, int t, stage_model *q, control_problem *p) {
  stage_differential(d->s, t, d->change, q, p);
}

INLINE void team_differential_value(team_differential_state *d, int t, const stage_model *q, const control_problem *p,
                                    value_model *value) {
  team_follow_policy(q, p, d->s->gain + t * NU * NX, d->s->step + t * NU, d->m, value);
  TEAM_FOR(i, NX) {
    const int at = TRIANGLE(i, i);
    d->m->square[i * NX + i] = value->hessian[at] = left_of_curvature(q->hessian[at], value->hessian[at]);
    if (d->costates == FOUND_BEFORE)
      take_off_slope(d->s->slope[t * NX + i], i, slope_weight(d->s), value);
    else
      follow_costate(d->s, t, i, keeps_slopes(d->change), value);
    d->m->drift[i] = value->costate[i] - d->s->costate[t * NX + i];
  }
  team_meet();
}

#define SWEEP(part) team_differential_##part
#include "mpcgen_riccati.h"

/* d_{t+1} = F d_t + affine under a policy with the sweep's gains, from d_x at stage 0 on: states (N+1, NX), controls (N, NU).
 * That of a refinement's correction has no affine term. */
FUNCTION void team_follow(const sensitivity_state *s, stored_reals steps, int corrects, const team_memory *m, reals d_states,
                          reals d_controls) {
  for (int t = 0; t < s->horizon; t++) {
    const reals d_x = d_states + t * NX, d_u = d_controls + t * NU;
    follow_gains(s, steps, t, d_x, d_u);
    team_meet();
    TEAM_FOR(i, NX) {
      const real *row = team_model(m, t)->F + i * NTAU;
      real sum = corrects ? 0 : s->affine[t * NX + i];
      for (int j = 0; j < NX; j++) sum += row[j] * d_x[j];
      for (int a = 0; a < NU; a++) sum += row[NX + a] * d_u[a];
      d_states[(t + 1) * NX + i] = sum;
    }
    team_meet();
  }
}

/* The same under the optimal policy. */
FUNCTION void team_differentials(const sensitivity_state *s, const team_memory *m, reals d_states, reals d_controls) {
  team_follow(s, s->step, 0, m, d_states, d_controls);
}

FUNCTION void clear_slopes(sensitivity_state *s) {
  TEAM_FOR(i, s->horizon * NX) s->slope[i] = 0;
  team_meet();
}

/* Whether costates without a policy magnify rounding, of the largest one's size at each stage, to the root of it. Of models
 * whose F is known; `errors` are (N+1, NX). */
FUNCTION int team_magnifies(const team_path *p, team_memory *m, reals errors) {
  real *largest = m->image; /* free between sweeps */
  int small = 1;
  TEAM_FOR(j, NX) {
    largest[j] = 0;
    for (int t = 0; t <= p->horizon; t++) largest[j] = lane_max(largest[j], lane_abs(p->costate[t * NX + j]));
  }
  for (int t = p->horizon; t >= 0; t--) {
    TEAM_FOR(j, NX) {
      const real grown = t < p->horizon ? column_times(team_model(m, t)->F, j, errors + (t + 1) * NX) : 0;
      errors[t * NX + j] = grown + SCALAR_EPSILON * largest[j];
      small = small && lane_abs(errors[t * NX + j]) <= LIBM(sqrt)(SCALAR_EPSILON) * largest[j];
    }
    team_meet();
  }
  return !team_all(small);
}

/* A sweep for the costates under its policy, and what those leave of dL/dx. */
FUNCTION void team_find_costates(sensitivity_state *s, int complete, team_memory *m) {
  team_differential_state d = {s, NULL, m, 0, complete, FOUND_BY_SWEEP};
  TEAM_LEADER s->sweep = BEFORE_SWEEPS;
  TEAM_FOR(i, NX) m->drift[i] = 0;
  team_meet();
  team_differential_sweep(&d, s->horizon, &s->value, &s->model, &m->controls);
  TEAM_LEADER s->sweep = 0, s->regular = lane_all();
  team_meet();
}

/* Forward mode: the linear terms of the stages, or, where the sweep makes these, of the last one. */
FUNCTION void team_change(team_differential_state *d) {
  if (d->costates != FOLLOWED_BY_LEADER) {
    team_change_stages(d->s, d->change, d->m);
    return;
  }
  TEAM_LEADER {
    d->change->cost = 0;
    change_last(d->s, d->change);
  }
  team_meet();
}

/* Expands all stages, a lane each. Before the costates are known the models' gradients lack F' lambda. */
FUNCTION void team_expand_stages(const sensitivity_state *s, int exact, int costates_known, team_memory *m) {
  TEAM_FOR(t, s->horizon)
    expand_stage(s, t, exact, costates_known ? &s->costate[(t + 1) * NX] : NO_COSTATE, team_model(m, t));
  team_meet();
}

#if CONSTRAINED
/* The value function of the last stage, the models of all, and with them the costates. */
FUNCTION void team_expand_differentials(team_differential_state *d) {
  sensitivity_state *s = d->s;
  const team_path path = {s->horizon, s->rows, s->x, s->u, s->theta, s->theta_stage, s->costate};
  TEAM_LEADER last_differential(s, d->exact, &s->value);
  team_meet();
  TEAM_FOR(i, NX) s->costate[s->horizon * NX + i] = s->value.costate[i];
  team_expand_stages(s, 0, 0, d->m);
  team_costates(&path, d->m);
  if (team_magnifies(&path, d->m, d->m->d_states)) {
    d->costates = FOLLOWED_BY_LEADER;
  } else {
    team_expand_stages(s, d->exact, 1, d->m);
    team_square(&s->value, d->m);
    team_find_costates(s, 1, d->m);
    TEAM_LEADER last_differential(s, d->exact, &s->value);
    team_meet();
  }
  if (d->change) {
    team_change(d);
    TEAM_LEADER last_differential(s, d->exact, &s->value);
  }
  if (d->costates != FOLLOWED_BY_LEADER) team_expand_stages(s, d->exact, 1, d->m);
  team_meet();
  team_square(&s->value, d->m);
}

/* find_correction, divided. */
FUNCTION void team_find_correction(sensitivity_state *s, int exact, int forward, team_memory *m) {
  TEAM_LEADER {
    last_differential(s, exact, &s->value);
    correct_last(s, &s->value);
  }
  team_expand_stages(s, exact, 1, m);
  for (int t = s->horizon - 1; t >= 0; t--) {
    stage_model *q = team_model(m, t);
    TEAM_FOR(j, NTAU) {
      real *offset = j < NX ? &q->offset_x[j] : &q->offset_u[j - NX];
      *offset = (NPATH ? *offset : 0) + column_times(q->F, j, s->offset + (t + 1) * NX);
    }
    team_meet();
    TEAM_LEADER correct_stage(s, t, forward, q);
    team_meet();
  }
}

/* The size of the largest differential of the trajectory; every lane finds it, as it is asked for once at most. */
FUNCTION real largest_differential(const sensitivity_state *s) {
  real largest = 0;
  for (int i = 0; i < (s->horizon + 1) * NX; i++) largest = lane_max(lane_abs(s->d_x[i]), largest);
  for (int i = 0; i < s->horizon * NU; i++) largest = lane_max(lane_abs(s->d_u[i]), largest);
  return largest;
}

/* end_refinement, divided by components. */
FUNCTION void team_end_refinement(sensitivity_state *s, const team_memory *m) {
  const real largest = is_last_refinement(s) ? largest_differential(s) : 0;
  int little = 1;
  TEAM_FOR(i, NTAU) {
    const int of_state = i < NX;
    real size = 0, change = 0;
    for (int t = 0; t < s->horizon + of_state; t++) {
      const real now = of_state ? s->d_x[t * NX + i] : s->d_u[t * NU + i - NX];
      const real by = of_state ? m->d_states[t * NX + i] : m->d_controls[t * NU + i - NX];
      size = lane_max(lane_abs(now), size);
      change = lane_maximum(lane_abs(by), change);
    }
    if (!is_refined(s, i, change, size, largest)) little = 0;
  }
  little = team_all(little);
  TEAM_LEADER s->refines = lane_and(s->refines, little ? lane_none() : lane_all());
  team_meet();
}

/* take_differentials, divided. */
FUNCTION void team_take_differentials(sensitivity_state *s, int forward, const real *initial, team_memory *m) {
  const int corrects = s->sweep > 0;
  TEAM_FOR(i, NX) m->d_states[i] = initial && !corrects ? initial[i] : 0;
  team_meet();
  team_follow(s, corrects ? s->correction : s->step, corrects, m, m->d_states, m->d_controls);
  TEAM_FOR(t, s->horizon + 1) take_stage(s, t, forward, &m->d_states[t * NX], &m->d_controls[t * NU]);
  team_meet();
  if (corrects) team_end_refinement(s, m);
}

/* sweep_differentials, divided. */
FUNCTION void team_sweep_differentials(sensitivity_state *s, int exact_hessian, parameter_change *change, team_memory *m) {
  team_differential_state d = {s, change, m, exact_hessian, 1, FOUND_BEFORE};
  TEAM_LEADER s->sweep = 0, s->keeps = 0, s->regular = lane_all(), find_cost_unit(s), weigh_rows(s);
  clear_slopes(s);
  if (!change) push_rows(s);
  team_meet();
  team_expand_differentials(&d);
  team_differential_sweep(&d, s->horizon, &s->value, &s->model, &m->controls);
  TEAM_LEADER note_singular(s, &s->value);
  team_meet();
}

/* loosen_differentials, divided. */
FUNCTION int team_loosen(sensitivity_state *s) {
  int more = 0;
  TEAM_LEADER more = loosen_differentials(s);
  more = !team_all(!more);
  team_meet();
  return more;
}

/* refine_differentials, divided. */
FUNCTION void team_refine(sensitivity_state *s, int exact_hessian, int forward, const real *initial, team_memory *m) {
  TEAM_LEADER begin_refinements(s);
  team_meet();
  team_take_differentials(s, forward, initial, m);
  for (int sweep = 1; sweep < LOOSE_SWEEPS && lane_any(s->refines); sweep++) {
    team_meet(); /* all have read whether there is one */
    TEAM_LEADER s->sweep = sweep;
    team_meet();
    team_find_correction(s, exact_hessian, forward, m);
    team_take_differentials(s, forward, NULL, m);
    TEAM_LEADER limit_refinements(s);
    team_meet();
  }
  TEAM_LEADER s->largest = largest_differential(s);
  team_meet();
  real size = 0;
  int slow = 0;
  for (int i = 0; i < s->horizon * NPATH + NEND; i++) size = lane_max(lane_abs(s->d_dual[i]), size);
  TEAM_FOR(i, s->horizon * NPATH + NEND) if (lane_lt(SLOW_CHANGE * size, multiplier_left(s, i))) slow = 1;
  slow = !team_all(!slow);
  TEAM_LEADER s->slow = slow ? lane_all() : lane_none();
  team_meet();
}

/* tighten_differentials, divided. */
FUNCTION int team_tighten(sensitivity_state *s) {
  int more = 0;
  TEAM_LEADER more = tighten_differentials(s);
  more = !team_all(!more);
  team_meet();
  return more;
}

/* sensitivity_backward, divided; `initial` is the change of x_0, or NULL. */
FUNCTION void team_sensitivity_backward(sensitivity_state *s, int exact_hessian, parameter_change *change,
                                        const real *initial, team_memory *m) {
  const int forward = change != NULL;
  TEAM_LEADER s->looseness = ALL(1), s->tightened = lane_none();
  if (!change) keep_linear_terms(s);
  team_meet();
  team_sweep_differentials(s, exact_hessian, change, m);
  while (team_loosen(s)) {
    if (!change) restore_linear_terms(s);
    team_sweep_differentials(s, exact_hessian, change, m);
  }
  team_refine(s, exact_hessian, forward, initial, m);
  while (team_tighten(s)) {
    if (!change) restore_linear_terms(s);
    team_sweep_differentials(s, exact_hessian, change, m);
    team_refine(s, exact_hessian, forward, initial, m);
  }
  TEAM_LEADER note_unrefined(s);
  team_meet();
  if (!change) move_rows(s);
  team_meet();
  drop_singular(s);
  team_meet();
}
#else
/* Expands the stages, and finds the costates as the sweep needs them. */
FUNCTION void team_expand_differentials(team_differential_state *d) {
  sensitivity_state *s = d->s;
  const team_path path = {s->horizon, s->rows, s->x, s->u, s->theta, s->theta_stage, s->costate};
  d->complete = team_expand(&path, d->exact, d->m, &s->value);
  if (!d->change && !d->complete) {
    d->costates = FOUND_BY_SWEEP;
    return;
  }
  if (!d->complete) team_costates(&path, d->m);
  if (team_magnifies(&path, d->m, d->m->d_states)) {
    d->costates = FOLLOWED_BY_LEADER;
  } else {
    team_find_costates(s, d->complete, d->m);
    team_expand_last(&path, d->m, &s->value); /* again; the others are next, with these costates */
    team_expand_stages(s, d->exact, 1, d->m);
  }
  d->complete = 1;
  if (d->change) team_change(d);
}

/* sensitivity_backward, divided. */
FUNCTION void team_sensitivity_backward(sensitivity_state *s, int exact_hessian, parameter_change *change,
                                        const real *initial, team_memory *m) {
  team_differential_state d = {s, change, m, exact_hessian, 1, FOUND_BEFORE};
  (void)initial;
  TEAM_LEADER s->sweep = 0, s->regular = lane_all();
  clear_slopes(s);
  team_expand_differentials(&d);
  TEAM_FOR(i, NX) s->value.offset[i] = s->linear_x[s->horizon * NX + i];
  team_meet();
  team_differential_sweep(&d, s->horizon, &s->value, &s->model, &m->controls);
  TEAM_LEADER note_singular(s, &s->value);
  team_meet();
  drop_singular(s);
  team_meet();
}
#endif

#endif

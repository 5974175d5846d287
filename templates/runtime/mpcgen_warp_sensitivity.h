/* Differentials of the solution with a warp per problem: the sweeps of mpcgen_sensitivity.h, mpcgen_gradient.h and
 * mpcgen_tangent.h, divided. What the stages have to themselves, a lane does for a stage, 32 of them at once. */
#ifndef MPCGEN_WARP_SENSITIVITY_H
#define MPCGEN_WARP_SENSITIVITY_H

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
      if (d->change) change_stage(d->s, t, value, d->change);
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
    if (d->costates == FOUND_BEFORE)
      take_off_slope(d->s, t, i, value);
    else
      follow_costate(d->s, t, i, value);
    d->m->drift[i] = value->costate[i] - d->s->costate[t * NX + i];
  }
  team_meet();
}

#define SWEEP(part) team_differential_##part
#include "mpcgen_riccati.h"

/* d_{t+1} = F d_t + affine under the optimal policy, from d_x at stage 0 on: states (N+1, NX), controls (N, NU). */
FUNCTION void team_differentials(const sensitivity_state *s, const team_memory *m, reals d_states, reals d_controls) {
  for (int t = 0; t < s->horizon; t++) {
    const reals d_x = d_states + t * NX, d_u = d_controls + t * NU;
    policy_differential(s, t, d_x, d_u);
    team_meet();
    TEAM_FOR(i, NX) {
      const real *row = team_model(m, t)->F + i * NTAU;
      real sum = s->affine[t * NX + i];
      for (int j = 0; j < NX; j++) sum += row[j] * d_x[j];
      for (int a = 0; a < NU; a++) sum += row[NX + a] * d_u[a];
      d_states[(t + 1) * NX + i] = sum;
    }
    team_meet();
  }
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
/* The value function of the last stage, and the models of all; with them, where it is the first time, the costates. */
FUNCTION void team_expand_differentials(team_differential_state *d) {
  sensitivity_state *s = d->s;
  const team_path path = {s->horizon, s->rows, s->x, s->u, s->theta, s->theta_stage, s->costate};
  TEAM_LEADER last_differential(s, d->exact, &s->value);
  team_meet();
  if (s->sweep == 0) {
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
  }
  if (d->change) {
    team_change(d);
    TEAM_LEADER last_differential(s, d->exact, &s->value);
  }
  if (d->costates != FOLLOWED_BY_LEADER) team_expand_stages(s, d->exact, 1, d->m);
  team_meet();
  team_square(&s->value, d->m);
}

/* sensitivity_backward, divided; `initial` is the change of x_0, or NULL. */
FUNCTION void team_sensitivity_backward(sensitivity_state *s, int exact_hessian, parameter_change *change,
                                        const real *initial, team_memory *m) {
  team_differential_state d = {s, change, m, exact_hessian, 1, FOUND_BEFORE};
  TEAM_LEADER s->regular = lane_all(), weigh_rows(s);
  clear_slopes(s);
  if (!change) push_rows(s);
  for (int sweep = 0; sweep < SWEEPS; sweep++) {
    TEAM_LEADER s->sweep = sweep;
    team_meet();
    team_expand_differentials(&d);
    team_differential_sweep(&d, s->horizon, &s->value, &s->model, &m->controls);
    TEAM_FOR(i, NX) m->d_states[i] = initial ? initial[i] : 0;
    team_meet();
    team_differentials(s, m, m->d_states, m->d_controls);
    TEAM_FOR(t, s->horizon + 1) change_duals(s, t, m->d_states + t * NX, m->d_controls + t * NU);
    team_meet();
  }
  if (!change) move_rows(s);
  TEAM_LEADER note_singular(s, &s->value);
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
    team_expand(&path, 0, d->m, &s->value); /* the last stage again; the others are next, with these costates */
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

/* ---- reverse mode ---- */

/* Workspace of a team beside gradient_reals(). */
COUNT size_t team_gradient_reals(int horizon) { return team_reals(horizon) TEAM_GRADIENT_ARRAYS(COUNT_ARRAY); }

FUNCTION void lay_out_team_gradient(team_memory *s, int horizon, reals at) {
  at = lay_out_team(s, horizon, at);
  TEAM_GRADIENT_ARRAYS(PLACE_ARRAY)
}

/* gradient_forward's part at stage t. What it adds to the gradients of parameters that all stages share goes to a
 * lane's own sums: theta's, then theta_stage's if that has one row. */
FUNCTION void team_stage_gradient(const gradient_state *g, int t, const team_memory *m, reals g_theta) {
  const sensitivity_state *s = &g->base;
  const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  const reals g_theta_t = s->rows > 1 ? stage_row(g->g_theta_stage, s->rows, t) : g_theta + NTHETA;
  const real *d_x = &m->d_states[t * NX], *d_u = &m->d_controls[t * NU];
  real d_costate[NX], g_u[NU], g_lower[NU], g_upper[NU];
  multiplier_differential(s, t + 1, d_x + NX, d_costate);
  stage_gradient(x, u, s->theta, theta_t, s->costate + (t + 1) * NX, ROWS_OF(s->dual + t * NPATH) d_x, d_u, d_costate,
                 ROWS_OF(s->d_dual + t * NPATH) &s->loss_cost, g_theta, g_theta_t, g_u);
#if CONSTRAINED
  add_row_bounds(s, t, g_theta, g_theta_t);
#endif
  bound_gradients(g, t, d_u, g_u, g_lower, g_upper);
  bounds_gradient(s->theta, theta_t, g_lower, g_upper, g_theta, g_theta_t);
}

/* gradient_forward, divided. */
FUNCTION void team_gradient_forward(gradient_state *g, team_memory *m) {
  const sensitivity_state *s = &g->base;
  const int last = s->horizon;
  TEAM_FOR(i, NX) {
    m->d_states[i] = 0;
    g->g_initial[i] = s->offset[i] + s->loss_cost * s->costate[i];
  }
  TEAM_FOR(i, s->rows * NTHETA_STAGE) g->g_theta_stage[i] = 0;
  TEAM_FOR(i, (int)WARP * LANE_SUMS) m->lane_sums[i] = 0;
  team_meet();
  team_differentials(s, m, m->d_states, m->d_controls);
  TEAM_FOR(t, last) team_stage_gradient(g, t, m, m->lane_sums + t % WARP * LANE_SUMS);
  team_meet();
  TEAM_FOR(i, s->rows > 1 ? NTHETA : LANE_SUMS) {
    real sum = 0;
    for (int k = 0; k < WARP; k++) sum += m->lane_sums[k * LANE_SUMS + i];
    (i < NTHETA ? g->g_theta[i] : g->g_theta_stage[i - NTHETA]) = sum;
  }
  team_meet();
  TEAM_LEADER {
    const reals g_theta_last = stage_row(g->g_theta_stage, s->rows, last);
    terminal_gradient(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last),
                      ROWS_OF(s->dual + last * NPATH) &m->d_states[last * NX], ROWS_OF(s->d_dual + last * NPATH)
                      &s->loss_cost, g->g_theta, g_theta_last);
#if CONSTRAINED
    add_row_bounds(s, last, g->g_theta, g_theta_last);
#endif
  }
  team_meet();
}

/* Differentiates a problem and adds its parameters' gradients to the sums; gradient_vector, divided. */
FUNCTION void team_gradient(gradient_state *g, const gradient_arguments *a, int64_t problem, team_memory *m) {
  sensitivity_state *s = &g->base;
  load_cotangents(g, a, 0, problem);
  team_meet();
  if (s->usable) {
    team_sensitivity_backward(s, a->exact_hessian, NULL, NULL, m);
    team_gradient_forward(g, m);
    TEAM_LEADER check_gradient(g);
  } else {
    TEAM_LEADER s->given = lane_none();
  }
  team_meet();
  store_gradients(g, a, 0, problem);
  accumulate(g->sum_theta, g->g_theta, NTHETA, s->given);
  accumulate(g->sum_theta_stage, g->g_theta_stage, (size_t)s->rows * NTHETA_STAGE, s->given);
  team_meet();
}

/* ---- forward mode ---- */

/* tangent_vector for one problem, divided. */
FUNCTION void team_tangent(tangent_state *f, const tangent_arguments *a, int64_t problem, team_memory *m) {
  sensitivity_state *s = &f->base;
  load_change(f, a, 0, problem);
  team_meet();
  if (s->usable) {
    team_sensitivity_backward(s, a->exact_hessian, &f->change, f->initial, m);
    TEAM_FOR(i, NX) f->d_states[i] = f->initial[i];
    team_meet();
    team_differentials(s, m, f->d_states, f->d_controls);
#if CONSTRAINED
    TEAM_FOR(t, s->horizon) change_bound_duals(s, t, f->d_states + t * NX, f->d_controls + t * NU, f->d_bounds);
#endif
    TEAM_LEADER {
      for (int i = 0; i < NX; i++) f->change.cost += s->costate[i] * f->initial[i];
      for (int t = 0; t < s->horizon; t++)
        f->change.cost += stage_cost_change(s, t, f->d_states + t * NX, f->d_controls + t * NU);
      note_not_finite(s, &f->change.cost, 1);
    }
  } else {
    TEAM_LEADER s->given = lane_none();
  }
  team_meet();
  drop_unusable(f);
  team_meet();
  store_tangents(f, a, 0, problem);
  team_meet();
}

#endif

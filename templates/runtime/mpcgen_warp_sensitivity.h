/* Differentials of the solution with a warp per problem: mpcgen_gradient.h and mpcgen_tangent.h, divided, after the sweeps. */
#ifndef MPCGEN_WARP_SENSITIVITY_H
#define MPCGEN_WARP_SENSITIVITY_H

#include "mpcgen_warp_differentials.h"

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
  load_cotangents(g, a, problem, lane_all());
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
  load_changes(f, a, problem);
  team_meet();
  if (s->usable) {
    team_sensitivity_backward(s, a->exact_hessian, &f->change, f->initial, m);
    TEAM_FOR(i, NX) f->d_states[i] = f->initial[i];
    team_meet();
    team_differentials(s, m, f->d_states, f->d_controls);
#if CONSTRAINED
    TEAM_FOR(t, s->horizon) change_bound_duals(s, t, f->d_bounds);
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

/* Box-DDP with a warp per problem: mpcgen_solver.h with the loading, the backward sweep and the storing divided.
 *
 * Rollout, box QP and decisions are the team's leader's, by the same functions as everywhere. */
#ifndef MPCGEN_WARP_SOLVER_H
#define MPCGEN_WARP_SOLVER_H

#include "mpcgen_solver.h"
#include "mpcgen_warp.h"

/* backward_sweep, divided. */
FUNCTION void team_backward_sweep(solver_state *s, team_memory *m) {
  const team_path path = {s->horizon, s->rows, s->x, s->u, s->theta, s->theta_stage, s->costate};
  value_model *value = &s->value;
  stage_model *q = &s->model;
  TEAM_LEADER clear_summary(&s->summary);
  TEAM_FOR(i, NX) value->offset[i] = 0;
  const int complete = team_expand(&path, s->second_order, m, value);
  for (int t = s->horizon - 1; t >= 0; t--) {
    if (t == 0) TEAM_LEADER note_value(s, value, &s->summary);
    team_products(t, complete, m, value, q);
    TEAM_LEADER stage_policy(s, t, q, m->quu, m->qu, m->is_free, m->unit_lower, m->inverse_pivot,
                             &s->summary);
    team_meet();
    team_value(q, s->gain + t * NU * NX, s->step + t * NU, m, value);
    TEAM_FOR(i, NX) s->costate[t * NX + i] = value->costate[i];
  }
  team_meet();
}

/* The next problem that can be solved; returns 0 when there is none left. */
FUNCTION int team_refill(solver_state *s, team_memory *m, solve_job *job) {
  while (!lane_test(&s->lanes.busy, 0)) {
    team_meet();
    TEAM_LEADER m->problem = take(&job->queue);
    team_meet();
    const int64_t problem = m->problem;
    if (problem < 0) return 0;
    if (!load_problem(s, job->arguments, 0, problem))
      TEAM_LEADER write_nothing(job->arguments, problem, s->horizon, INVALID_INPUT);
    team_meet();
  }
  return 1;
}

/* Takes over the candidate if it is accepted, and chooses the Hessian of the next sweep; returns 0 if the problem has
 * ended. */
FUNCTION int team_adopt(solver_state *s, team_memory *m, const solve_arguments *a) {
  TEAM_LEADER m->accepted = judge(s, a);
  team_meet();
  if (m->accepted) adopt(s, m->accepted);
  team_meet();
  return lane_test(&s->lanes.busy, 0);
}

/* Solves problems of the job until none is left, one after the other. */
FUNCTION void run_team_solver(solver_state *s, team_memory *m, solve_job *job) {
  const solve_arguments *a = job->arguments;
  TEAM_LEADER take_options(s, a);
  team_meet();
  while (team_refill(s, m, job)) {
    TEAM_LEADER rollout(s);
    team_meet();
    if (team_adopt(s, m, a)) {
      team_backward_sweep(s, m);
      TEAM_LEADER m->status = conclude(s, a);
      team_meet();
      if (m->status != UNFINISHED) finish(s, a, 0, m->status);
    }
    team_meet();
  }
}

#endif

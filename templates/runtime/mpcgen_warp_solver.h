/* Box-DDP with a warp per problem: mpcgen_solver.h with the loading, the backward sweep and the storing divided.
 *
 * Rollout, box QP and decisions are the team's leader's, by the same functions as everywhere. */
#ifndef MPCGEN_WARP_SOLVER_H
#define MPCGEN_WARP_SOLVER_H

#include "mpcgen_solver.h"
#include "mpcgen_warp.h"

typedef struct {
  solver_state *s;
  team_memory *m;
  int complete; /* whether the stages' gradients are */
} team_ddp_state;

INLINE void team_ddp_keep(team_ddp_state *d, int t, const value_model *value) {
  TEAM_FOR(i, NX) d->s->costate[t * NX + i] = value->costate[i];
  if (t == 1) TEAM_LEADER note_value(d->s, value, &d->s->summary);
  if (d->s->weighs_points) TEAM_LEADER weigh_state(d->s, t, value, &d->s->summary);
}

INLINE void team_ddp_model(team_ddp_state *d, int t, const value_model *value, stage_model *q) {
  team_products(t, d->complete ? NULL : value->costate, d->m, value, q);
}

INLINE void team_ddp_policy(team_ddp_state *d, int t, const stage_model *q, control_problem *p) {
  stage_policy(d->s, t, q, NULL, p, &d->s->summary);
}

INLINE void team_ddp_value(team_ddp_state *d, int t, const stage_model *q, const control_problem *p,
                           value_model *value) {
  team_follow_policy(q, p, d->s->gain + t * NU * NX, d->s->step + t * NU, d->m, value);
}

#define SWEEP(part) team_ddp_##part
#include "mpcgen_riccati.h"

/* backward_sweep, divided. */
FUNCTION void team_backward_sweep(solver_state *s, team_memory *m) {
  const team_path path = {s->horizon, s->rows, s->x, s->u, s->theta, s->theta_stage, s->costate};
  team_ddp_state d = {s, m, 0};
  TEAM_LEADER clear_summary(&s->summary);
  TEAM_FOR(i, NX) s->value.offset[i] = 0;
  d.complete = team_expand(&path, s->second_order, m, &s->value);
  team_ddp_sweep(&d, s->horizon, &s->value, &s->model, &m->controls);
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
    if (is_later_run(job->arguments) && !is_handed_over(job->arguments, problem)) continue;
    if (!load_problem(s, job->arguments, 0, problem))
      TEAM_LEADER write_nothing(job->arguments, problem, s->horizon, INVALID_INPUT);
    team_meet();
  }
  return 1;
}

/* Takes over the candidate if it is accepted, and chooses the Hessian of the next sweep; returns 0 if the problem has
 * ended. */
FUNCTION int team_adopt(solver_state *s, team_memory *m, const solve_job *job) {
  TEAM_LEADER m->accepted = judge(s, job);
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
    TEAM_LEADER roll_out_lanes(s);
    team_meet();
    if (team_adopt(s, m, job)) {
      team_backward_sweep(s, m);
      TEAM_LEADER m->status = conclude(s, a);
      team_meet();
      if (m->status != UNFINISHED) finish(s, a, 0, m->status);
    }
    team_meet();
  }
}

#endif

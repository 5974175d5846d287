/* A warp per problem: what divides the work of a Riccati sweep among the lanes of a team.
 *
 * The derivatives of the dynamics and of the cost are straight-line code: a lane takes those of a stage, so that 32
 * stages are expanded at once, into the workspace. The sweep itself goes from stage to stage; there the entries of each
 * product are divided, with the stage's matrices in shared memory. The generated text is that with looped products:
 * F and H apart, so that the products can be divided. */
#ifndef MPCGEN_WARP_H
#define MPCGEN_WARP_H

#include "mpcgen_problem.h"
#include "mpcgen_workspace.h"

/* A trajectory and its costates as the workspace holds them. */
typedef struct {
  int horizon, rows; /* of theta_stage */
  reals x, u, theta, theta_stage;
  reals costate; /* (N+1, NX) */
} team_path;

enum {
  MODEL_REALS = sizeof(stage_model) / sizeof(real),
  LANE_SUMS = NTHETA + NTHETA_STAGE, /* gradients of what all stages share: theta, and theta_stage if it has one row */
};

/* A team's workspace beside that of what it computes: */
#define TEAM_ARRAYS(ARRAY)                                                \
  ARRAY(models, n * MODEL_REALS)    /* the stages' F, H and gradients */  \
  ARRAY(costs, n)                   /* forward mode: changes of the stages' costs */ \
  ARRAY(d_rows, n * NPATH + NEND)   /* forward mode: changes of the rows of constraints */ \
  ARRAY(d_states, (n + 1) * NX)     /* the differentials, in reverse mode or of problems with constraints */ \
  ARRAY(d_controls, n * NU)

/* and in reverse mode: each lane's sum of the parameters' gradients. */
#define TEAM_GRADIENT_ARRAYS(ARRAY) ARRAY(lane_sums, (size_t)WARP * LANE_SUMS)

/* What a team keeps beside the state of a solve or of a sensitivity. */
typedef struct {
  TEAM_ARRAYS(DECLARE_ARRAY)
  TEAM_GRADIENT_ARRAYS(DECLARE_ARRAY) /* in reverse mode */
  real square[NX * NX];    /* the value function's Hessian, both triangles */
  real image[NX * NTAU];   /* times F */
  real drift[NX];          /* a costate under a policy less that of the stages' models */
  control_problem controls; /* of the sweep's present stage */
  int64_t problem;         /* the next one, or -1 */
  int status;              /* how the present one ended, or UNFINISHED */
  mask accepted;
} team_memory;

COUNT size_t team_reals(int horizon) {
  const size_t n = (size_t)horizon;
  return TEAM_ARRAYS(COUNT_ARRAY);
}

/* Lays out team_reals() from `at` on; returns what follows. */
FUNCTION reals lay_out_team(team_memory *s, int horizon, reals at) {
  const size_t n = (size_t)horizon;
  TEAM_ARRAYS(PLACE_ARRAY)
  return at;
}

INLINE stage_model *team_model(const team_memory *m, int t) {
  return (stage_model *)(void *)&m->models[t * MODEL_REALS];
}

TABLE real NO_COSTATE[NX] = {0};

/* Position e of a lower triangle of n rows, without a square root: row n - 1 - k and a short one fill a line. */
INLINE void triangle_entry(int n, int e, int *i, int *j) {
  const int odd = n % 2, width = n + 1 - odd, line = e / width, column = e % width, shorter = line - odd;
  *i = column <= shorter ? shorter : n - 1 - line;
  *j = column <= shorter ? column : column - shorter - 1;
}

/* Entry j of F' v. */
INLINE real column_times(const real *F, int j, in_reals v) {
  real sum = 0;
  for (int k = 0; k < NX; k++) sum += F[k * NTAU + j] * v[k];
  return sum;
}

/* The costates of all stages, lambda_t = dl/dx + F' lambda_{t+1}, from models whose gradients are the cost's. */
FUNCTION void team_costates(const team_path *p, const team_memory *m) {
  for (int t = p->horizon - 1; t >= 0; t--) {
    const stage_model *q = team_model(m, t);
    TEAM_FOR(j, NX) p->costate[t * NX + j] = q->costate[j] + column_times(q->F, j, p->costate + (t + 1) * NX);
    team_meet();
  }
}

/* Both triangles of the value function's Hessian, as the products read it. */
FUNCTION void team_square(const value_model *value, team_memory *m) {
  TEAM_FOR(e, NX * NX) m->square[e] = value->hessian[SYMMETRIC(e / NX, e % NX)];
  team_meet();
}

#if !CONSTRAINED
/* Expands the last stage. */
FUNCTION void team_expand_last(const team_path *p, team_memory *m, value_model *value) {
  const int last = p->horizon;
  TEAM_LEADER terminal_expand(p->x + last * NX, p->theta, stage_row(p->theta_stage, p->rows, last), value->hessian,
                              value->costate);
  team_meet();
  TEAM_FOR(i, NX) p->costate[last * NX + i] = value->costate[i];
  team_square(value, m);
}

/* Expands all stages, a lane each, and the last one. The Hessians are the cost's, and the models' gradients lack
 * F' lambda_{t+1}, which team_products adds; with a positive weight, the Lagrangian's of cost + weight lambda'f. These
 * need the costates, as does what states accumulate of cost, and those F: all is expanded twice. Returns whether the gradients
 * are complete. */
FUNCTION int team_expand(const team_path *p, real weight, team_memory *m, value_model *value) {
  const int last = p->horizon;
  TEAM_FOR(t, last)
    stage_derivatives_gauss_newton(p->x + t * NX, p->u + t * NU, p->theta, stage_row(p->theta_stage, p->rows, t),
                                   NO_COSTATE, team_model(m, t));
  team_expand_last(p, m, value);
#if !LINEAR_DYNAMICS
  if (ACCUMULATES || weight > 0) {
    team_costates(p, m);
    TEAM_FOR(t, last) {
      const reals x = p->x + t * NX, u = p->u + t * NU, theta_t = stage_row(p->theta_stage, p->rows, t);
      if (weight > 0)
        stage_derivatives_exact(x, u, p->theta, theta_t, &weight, &p->costate[(t + 1) * NX], team_model(m, t));
      else
        stage_derivatives_gauss_newton(x, u, p->theta, theta_t, &p->costate[(t + 1) * NX], team_model(m, t));
    }
    team_meet();
    return 1;
  }
#endif
  (void)weight;
  return 0;
}
#endif

/* The model of stage t in shared memory: q = H + F'VF with its gradients and offsets. `costate` is what the gradients lack F'
 * times, or NULL. */
FUNCTION void team_products(int t, const real *costate, team_memory *m, const value_model *value, stage_model *q) {
  const real *from = &m->models[t * MODEL_REALS];
  real *to = (real *)q;
  TEAM_FOR(i, MODEL_REALS) to[i] = from[i];
  team_meet();
  TEAM_FOR(j, NTAU) {
    const real rest = costate ? column_times(q->F, j, costate) : 0;
    *(j < NX ? &q->costate[j] : &q->gradient_u[j - NX]) += rest;
    real *offset = j < NX ? &q->offset_x[j] : &q->offset_u[j - NX];
    *offset = (NPATH ? *offset : 0) + column_times(q->F, j, value->offset); /* what rows push with, in the model */
  }
  TEAM_FOR(e, NX * NTAU) m->image[e] = column_times(q->F, e % NTAU, m->square + e / NTAU * NX);
  team_meet();
  TEAM_FOR(e, TRIANGLE(NTAU, 0)) {
    int i, j;
    triangle_entry(NTAU, e, &i, &j);
    real sum = 0;
    for (int k = 0; k < NX; k++) sum += q->F[k * NTAU + i] * m->image[k * NTAU + j];
    q->hessian[TRIANGLE(i, j)] += sum;
  }
  team_meet();
}

/* follow_policy, divided. */
FUNCTION void team_follow_policy(const stage_model *q, const control_problem *p, reals gain, reals step, team_memory *m,
                                 value_model *value) {
  TEAM_FOR(j, NX) gain_columns(q, p->is_free, p->unit_lower, p->inverse_pivot, j, 1, gain);
  team_meet();
  real slope[NU];
  symmetric_times(p->quu, step, slope);
  for (int a = 0; a < NU; a++) slope[a] += p->qu[a];
  TEAM_FOR(i, NX) {
    real sum = q->offset_x[i];
    for (int a = 0; a < NU; a++) sum += gain[a * NX + i] * slope[a] + control_row(q, a)[i] * step[a];
    value->offset[i] = sum;
    value->costate[i] = q->costate[i];
  }
  TEAM_FOR(e, NXX) {
    int i, j;
    triangle_entry(NX, e, &i, &j);
    real sum = q->hessian[TRIANGLE(i, j)];
    for (int a = 0; a < NU; a++) sum += control_row(q, a)[i] * gain[a * NX + j];
    m->square[i * NX + j] = m->square[j * NX + i] = value->hessian[TRIANGLE(i, j)] = sum;
  }
  team_meet();
}

#endif

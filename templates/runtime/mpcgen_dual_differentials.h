/* Multipliers as what is differentiated: their cotangents in reverse mode, their changes in forward mode.
 *
 * The KKT conditions of the differentials are symmetric: a cotangent of a multiplier stands where a move of its row does,
 * so the sweeps are the same. */
#ifndef MPCGEN_DUAL_DIFFERENTIALS_H
#define MPCGEN_DUAL_DIFFERENTIALS_H

#include "mpcgen_row_differentials.h"

#if CONSTRAINED

/* Cotangents of a solution's multipliers into a lane; NULL: zeros. */
FUNCTION void load_dual_cotangents(sensitivity_state *s, int k, const scalar *from) {
  for (int t = 0; t <= s->horizon; t++) {
    for (int i = 0; i < rows_at(s, t); i++)
      lane_set(s->row_cotangent + t * NPATH + i, k, from ? from[dual_place(s, t, i)] : 0);
    for (int i = 0; i < (t < s->horizon ? NU : 0); i++)
      lane_set(s->bound_push + t * NU + i, k, from ? from[t * NDUAL + i] : 0);
  }
}

/* Reverse mode: the cotangent of a row's multiplier pushes as a move of the row does. After weigh_rows. */
FUNCTION void push_rows(sensitivity_state *s) {
  TEAM_FOR(i, s->horizon * NPATH + NEND) s->row_push[i] = row_weight(s, i) * s->row_cotangent[i];
}

/* Reverse mode: and counts as one, in what soft rows give way by. After the last sweep. */
FUNCTION void move_rows(sensitivity_state *s) {
  TEAM_FOR(i, (s->horizon * NPATH + NEND) * SOFT_ROWS) s->row_moved[i] += s->row_cotangent[i];
}

/* Reverse mode: the cotangent of a bound's multiplier moves the control that it holds, as a change of the bound does. */
FUNCTION void push_controls(sensitivity_state *s, int t, const mask *is_free) {
  for (int i = 0; i < NU; i++) {
    const int at = t * NU + i;
    if (!(s->smoothing > 0))
      s->held[at] = lane_select(is_free[i], ALL(0), -s->bound_push[at]);
    else if (s->sweep == 0)
      s->linear_u[at] += (s->at_lower[at] + s->at_upper[at]) * s->bound_push[at];
  }
}

/* Forward mode: keeps of a stage's model what the change of the multiplier of a control's bound is made of. */
FUNCTION void keep_controls(sensitivity_state *s, int t, const stage_model *q) {
  for (int i = 0; i < NU; i++) {
    const reals kept = s->bound_model + (t * NU + i) * BOUND_MODEL;
    for (int j = 0; j < NX; j++) kept[j] = control_row(q, i)[j];
    for (int j = 0; j < NU; j++) kept[NX + j] = j <= i ? control_row(q, i)[NX + j] : control_row(q, j)[NX + i];
    kept[NX + NU] = s->linear_u[t * NU + i];
  }
}

/* Forward mode: takes a step of the trajectory's differentials at a stage into the change of dL/du. */
FUNCTION void take_bounds(sensitivity_state *s, int t, in_reals d_x, in_reals d_u) {
  for (int i = 0; i < NU; i++) {
    const reals kept = s->bound_model + (t * NU + i) * BOUND_MODEL;
    real sum = s->bound_change[t * NU + i];
    for (int j = 0; j < NX; j++) sum += kept[j] * d_x[j];
    for (int j = 0; j < NU; j++) sum += kept[NX + j] * d_u[j];
    s->bound_change[t * NU + i] = lane_select(s->refines, sum, s->bound_change[t * NU + i]);
  }
}

/* The change of the multipliers of the controls' bounds at a stage: less that of the gradient of the Lagrangian. */
FUNCTION void change_bound_duals(const sensitivity_state *s, int t, reals d_bound) {
  for (int at = t * NU; at < (t + 1) * NU; at++)
    d_bound[at] = lane_select(lane_lt(ALL(0), s->at_lower[at] + s->at_upper[at]), -s->bound_change[at], ALL(0));
}

#endif

#endif

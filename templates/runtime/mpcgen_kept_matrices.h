/* The backward sweep of linear-quadratic problems, whose models' matrices depend on no state or control.
 *
 * From the last stage back to the first whose set of free controls is another one, the matrices of the pass before are those
 * of this pass, to the bit: there a sweep finds gradients and steps alone, at a fraction of the operations. They also
 * outlast a problem whose successor in the lane has the same parameters. */
#ifndef MPCGEN_KEPT_MATRICES_H
#define MPCGEN_KEPT_MATRICES_H

/* Of a stage that has been swept never: no set of free controls is this. */
#define NO_SET ALL(-1)

INLINE stage_model *kept_model(solver_state *s, int t) {
  return (stage_model *)(void *)(s->kept_models + (size_t)t * KEPT_MODEL);
}

/* The factor that was found at stage t. */
INLINE known_factor kept_factor(const solver_state *s, int t) {
  const known_factor kept = {s->kept_free + t * NU, s->kept_unit_lower + t * NUU, s->kept_inverse_pivot + t * NU,
                             s->lanes.busy};
  return kept;
}

/* Whether the gains and the value function at stage t have to be found again, in any lane that has a problem, because other
 * controls are free than those that they were found for, or Quu was changed. Keeps what is free now if so. */
INLINE int is_other_policy(solver_state *s, int t, const stage_model *q, const control_problem *p, int anew) {
  mask altered = lane_none(), other = lane_none();
  EACH(i, NU) {
    const real was_free = s->kept_free[t * NU + i], is_free = lane_select(p->is_free[i], ALL(1), ALL(0));
    altered = lane_or(altered, lane_not(lane_eq(p->quu[TRIANGLE(i, i)], control_row(q, i)[NX + i])));
    other = lane_or(other, lane_not(lane_eq(was_free, is_free)));
  }
  if (!anew && !lane_any(lane_and(s->lanes.busy, lane_or(altered, other)))) return 0;
  EACH(i, NU)
    s->kept_free[t * NU + i] = lane_select(altered, NO_SET, lane_select(p->is_free[i], ALL(1), ALL(0)));
  copy_factor(p->unit_lower, p->inverse_pivot, s->kept_unit_lower + t * NUU, s->kept_inverse_pivot + t * NU);
  return 1;
}

/* As note_value, of value functions whose Hessian at x_1 may be one that was kept. */
INLINE void note_kept_value(solver_state *s, const value_model *value, int anew, sweep_summary *summary) {
  const mask shifted = lane_and(lane_not(summary->convex), lane_le(s->second_order, ALL(0)));
  if (anew) {
    s->kept_is_finite = lane_all();
    EACH(i, NXX) s->kept_is_finite = lane_and(s->kept_is_finite, lane_finite(value->hessian[i]));
  }
  EACH(i, NX) summary->finite = lane_and(summary->finite, lane_finite(value->costate[i]));
  summary->finite = lane_and(summary->finite, lane_or(s->kept_is_finite, shifted));
}

FUNCTION void sweep_with_kept_matrices(solver_state *s) {
  const int last = s->horizon;
  value_model *value = &s->value;
  sweep_summary summary;
  control_problem p;
  const int weighs = s->weighs_points; /* which reads the Hessians of all value functions */
  int anew = !s->has_kept || weighs;
  const int is_altered = s->barrier > 0 || lane_any(lane_and(s->lanes.busy, lane_lt(ALL(0), s->regularisation)));
  clear_summary(&summary);
  terminal_expand(s->x + last * NX, s->theta, stage_row(s->theta_stage, s->rows, last), value->hessian, value->costate);
  EACH(i, NX) value->offset[i] = ALL(0);
  copy_reals(s->costate + last * NX, value->costate, NX);
  if (__builtin_expect(weighs, 0)) weigh_state(s, last, value, &summary);
  for (int t = last - 1; t >= 0; t--) {
    const reals x = s->x + t * NX, u = s->u + t * NU, gain = s->gain + t * NU * NX, step = s->step + t * NU;
    const reals theta_t = stage_row(s->theta_stage, s->rows, t);
    stage_model *q = kept_model(s, t);
    if (anew) stage_matrices(x, u, s->theta, theta_t, value, q);
    stage_slopes(x, u, s->theta, theta_t, value, q);
    const known_factor kept = kept_factor(s, t);
    stage_policy(s, t, q, anew || is_altered ? NULL : &kept, &p, &summary);
    if (t == 0) note_kept_value(s, value, anew, &summary);
    anew = is_other_policy(s, t, q, &p, anew);
    if (anew) {
      feedback_gain(q, p.is_free, p.unit_lower, p.inverse_pivot, gain);
      update_hessian(q, gain, value);
    }
    update_gradient(q, p.quu, p.qu, gain, step, value);
    copy_reals(s->costate + t * NX, value->costate, NX);
    if (__builtin_expect(weighs, 0)) weigh_state(s, t, value, &summary);
  }
  s->has_kept = 1;
  s->summary = summary;
}

#endif

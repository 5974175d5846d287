/* The box QP of a stage: argmin of qu'step + step'Quu step / 2 over lower <= step <= upper, by projected Newton. */
#ifndef MPCGEN_BOX_QP_H
#define MPCGEN_BOX_QP_H

#include "mpcgen_stage.h"

/* Which components may move, and the bound that each of the others goes to: those whose gradient pushes outward
 * and whose distance to the bound is next to nothing beside what the gradient asks for. Exactly at the bound would
 * be too narrow: a component a hair inside it would block every step of the others (Bertsekas 1982). A bound at
 * infinity is infinitely far, or NaN without curvature, and so never met. */
INLINE void find_free(const real *quu, in_reals step, const real *gradient, const real *lower,
                      const real *upper, mask *is_free, real *bound) {
  const real share = ALL(0.01);
  EACH(i, NU) {
    const real below = step[i] - lower[i], above = upper[i] - step[i], curvature = lane_abs(quu[TRIANGLE(i, i)]);
    const mask low = lane_and(lane_lt(ALL(0), gradient[i]), lane_le(below * curvature, share * gradient[i]));
    const mask high = lane_and(lane_lt(gradient[i], ALL(0)), lane_le(above * curvature, -share * gradient[i]));
    is_free[i] = lane_not(lane_or(low, high));
    bound[i] = lane_select(low, lower[i], lane_select(high, upper[i], step[i]));
  }
}

enum { BOX_QP_PASSES = 4 * NU + 4, BOX_QP_HALVINGS = 16 };

/* Goes from `step` along `way` to a share `most` of it, or to the first bound, in the lanes of `where`; returns how far. */
INLINE real box_qp_go(const real *way, real most, const mask *is_free, const real *bound, const real *lower,
                      const real *upper, mask where, in_reals step, real *best) {
  real reach[NU], end[NU], length = most;
  EACH(i, NU) {
    end[i] = lane_select(lane_lt(ALL(0), way[i]), upper[i], lower[i]);
    const mask moves = lane_and(is_free[i], lane_not(lane_eq(way[i], ALL(0))));
    reach[i] = lane_select(moves, (end[i] - step[i]) / way[i], ALL(INFINITY));
    length = lane_min(length, reach[i]);
  }
  EACH(i, NU) {
    const real inside = lane_clip(step[i] + length * way[i], lower[i], upper[i]);
    const real moved = lane_select(lane_le(reach[i], length), end[i], inside);
    best[i] = lane_select(where, lane_select(is_free[i], moved, bound[i]), best[i]);
  }
  return length;
}

/* Where no clipped step is good, as of a Quu that hardly bends along some ways, whose Newton step is long: as far as to
 * the first bound along it, which lowers the cost; or where that is reached at once, to the minimum along the gradient. */
RARE void box_qp_reach(const real *quu, const real *gradient, const real *direction, const mask *is_free,
                       const real *bound, const real *lower, const real *upper, mask where, in_reals step, real *best) {
  const real along = box_qp_go(direction, ALL(1), is_free, bound, lower, upper, where, step, best);
  real downhill[NU], image[NU], square = ALL(0), bend = ALL(0);
  EACH(i, NU) downhill[i] = lane_select(is_free[i], -gradient[i], ALL(0));
  symmetric_times(quu, downhill, image);
  EACH(i, NU) {
    square += downhill[i] * downhill[i];
    bend += downhill[i] * image[i];
  }
  const mask stays = lane_and(where, lane_le(along, ALL(0)));
  box_qp_go(downhill, square / bend, is_free, bound, lower, upper, stays, step, best);
}

/* Projected line search of the box QP along `direction` (Armijo on the quadratic), with the components that are not
 * free on their bound; lanes in `settled` stay. */
INLINE mask box_qp_move(const real *quu, const real *gradient, const real *direction, const mask *is_free,
                        const real *bound, const real *lower, const real *upper, mask settled, out_reals step) {
  mask pending = lane_not(settled), full = lane_none();
  real length = ALL(1), candidate[NU], change[NU], image[NU], best[NU];
  EACH(i, NU) best[i] = step[i];
  for (int halving = 0; halving < BOX_QP_HALVINGS; halving++) {
    mask inside = lane_all();
    real linear = ALL(0), quadratic = ALL(0);
    EACH(i, NU) {
      const real target = step[i] + length * direction[i];
      candidate[i] = lane_select(is_free[i], lane_clip(target, lower[i], upper[i]), bound[i]);
      inside = lane_and(inside, lane_eq(candidate[i], lane_select(is_free[i], target, step[i])));
      change[i] = candidate[i] - step[i];
    }
    symmetric_times(quu, change, image);
    EACH(i, NU) {
      linear += gradient[i] * change[i];
      quadratic += change[i] * image[i];
    }
    const mask good = lane_and(pending, lane_le(linear + R(0.5) * quadratic, R(0.1) * linear));
    EACH(i, NU) best[i] = lane_select(good, candidate[i], best[i]);
    if (halving == 0) full = lane_and(good, inside);
    pending = lane_and(pending, lane_not(good));
    if (!lane_any(pending)) break;
    length *= R(0.5);
  }
  if (__builtin_expect(lane_any(pending), 0))
    box_qp_reach(quu, gradient, direction, is_free, bound, lower, upper, pending, step, best);
  EACH(i, NU) step[i] = best[i];
  return full;
}

#if NU == 1
/* The box QP of one control. */
INLINE mask minimise_in_interval(const real *quu, const real *qu, const real *lower, const real *upper,
                                 mask *is_free, real *unit_lower, real *inverse_pivot, out_reals step) {
  real bound[1];
  step[0] = ALL(0);
  find_free(quu, step, qu, lower, upper, is_free, bound); /* at a bound and pushed outward, any curvature will do */
  const mask accepted = factor_free(quu, is_free, unit_lower, inverse_pivot);
  const real newton = -qu[0] * inverse_pivot[0];
  step[0] = lane_select(is_free[0], lane_clip(newton, lower[0], upper[0]), bound[0]);
  is_free[0] = lane_and(is_free[0], lane_eq(step[0], newton));
  return accepted;
}
#elif NU == 2
/* The box QP of two controls where all of Quu is positive definite: solves those lanes, and returns them.
 *
 * Clip the Newton step to the box; then each control goes to the minimum along the line through the other one's clipped
 * value, or to where that line leaves the box. This is the minimum over the box. If no control was clipped, it is the
 * Newton step. If one was, every way from the box to the Newton step leaves through its bound, and the cost falls along
 * it: the minimum lies on that edge. If both were, the gradient in the corner pushes at least one of them outward, since
 * Quu is positive definite. That one stays in the corner, and the minimum is on its edge, because along the edge of the
 * other one the cost is least in the corner. */
INLINE mask minimise_in_rectangle(const real *quu, const real *qu, const real *lower, const real *upper,
                                  mask *is_free, real *unit_lower, real *inverse_pivot, out_reals step) {
  const mask both[2] = {lane_all(), lane_all()};
  const mask convex = factor_free(quu, both, unit_lower, inverse_pivot);
  const real inverse_curvature[2] = {inverse_pivot[0], ALL(1) / quu[TRIANGLE(1, 1)]};
  real newton[2], clipped[2];
  solve_free(unit_lower, inverse_pivot, both, qu, newton);
  EACH(i, 2) clipped[i] = lane_clip(newton[i], lower[i], upper[i]);
  EACH(i, 2) {
    const real target = -(qu[i] + quu[TRIANGLE(1, 0)] * clipped[1 - i]) * inverse_curvature[i];
    const real nearest = lane_clip(target, lower[i], upper[i]);
    is_free[i] = lane_and(convex, lane_eq(nearest, target));
    step[i] = lane_select(convex, nearest, step[i]);
  }
  const mask all_free = lane_and(is_free[0], is_free[1]);
  unit_lower[TRIANGLE(1, 0)] = lane_select(all_free, unit_lower[TRIANGLE(1, 0)], ALL(0));
  inverse_pivot[1] = lane_select(all_free, inverse_pivot[1], inverse_curvature[1]);
  return convex;
}
#endif

/* A factor that is known: of the same Quu, with the controls free whose entry of `is_free` is one. Lanes that are not
 * `busy` may have any. */
typedef struct {
  const real *is_free, *unit_lower, *inverse_pivot;
  mask busy;
} known_factor;

INLINE void copy_factor(const real *unit_lower, const real *inverse_pivot, real *to_lower, real *to_inverse) {
  EACH(i, NU) {
    EACH(j, i) to_lower[TRIANGLE(i, j)] = unit_lower[TRIANGLE(i, j)];
    to_inverse[i] = inverse_pivot[i];
  }
}

/* Takes the known factor if that is the one that is asked for; returns whether it is. */
INLINE int take_factor(const known_factor *known, const mask *is_free, real *unit_lower, real *inverse_pivot) {
  if (!known) return 0;
  mask same = lane_all();
  EACH(i, NU) same = lane_and(same, lane_eq(known->is_free[i], lane_select(is_free[i], ALL(1), ALL(0))));
  if (lane_any(lane_and(known->busy, lane_not(same)))) return 0;
  copy_factor(known->unit_lower, known->inverse_pivot, unit_lower, inverse_pivot);
  return 1;
}

/* Takes the whole Newton step where it is in the box and all components are free: there it is the minimum. Returns the
 * lanes where it is; those in `settled` stay. */
INLINE mask take_newton(const real *direction, const mask *is_free, const real *lower, const real *upper, mask settled,
                        out_reals step) {
  mask interior = lane_not(settled);
  real target[NU];
  EACH(i, NU) {
    target[i] = step[i] + direction[i];
    interior = lane_and(interior, lane_and(is_free[i], lane_eq(lane_clip(target[i], lower[i], upper[i]), target[i])));
  }
  EACH(i, NU) step[i] = lane_select(interior, target[i], step[i]);
  return interior;
}

/* argmin over lower <= step <= upper of qu'step + step'Quu step / 2 by projected Newton (Tassa, Mansard and
 * Todorov 2014, section III). Starts from the step zero, where the components at a bound are the last pass's
 * active set. Leaves the free set and its factor for the gains; `known` is that of a pass before, or NULL. Returns the
 * lanes where the free block of Quu was positive definite throughout; in the others the step is not to be used. */
INLINE mask box_qp(const real *quu, const real *qu, const real *lower, const real *upper, const known_factor *known,
                   mask *is_free, real *unit_lower, real *inverse_pivot, out_reals step) {
#if NU == 1
  (void)known;
  return minimise_in_interval(quu, qu, lower, upper, is_free, unit_lower, inverse_pivot, step);
#else
  real gradient[NU], direction[NU], bound[NU];
  mask settled = lane_none(), full = lane_none(), accepted = lane_all();
  EACH(i, NU) {
    step[i] = lane_clip(ALL(0), lower[i], upper[i]);
    is_free[i] = lane_none();
  }
#if NU == 2
  settled = minimise_in_rectangle(quu, qu, lower, upper, is_free, unit_lower, inverse_pivot, step);
  if (!lane_any(lane_not(settled))) return accepted;
#endif
  for (int pass = 0; pass < BOX_QP_PASSES; pass++) {
    mask now_free[NU], unchanged = lane_all();
    symmetric_times(quu, step, gradient);
    EACH(i, NU) gradient[i] += qu[i];
    find_free(quu, step, gradient, lower, upper, now_free, bound);
    EACH(i, NU)
      unchanged = lane_and(unchanged, lane_and(lane_not(now_free[i] ^ is_free[i]), lane_eq(bound[i], step[i])));
    settled = lane_or(settled, lane_and(full, unchanged));
    if (pass > 0 && !lane_any(lane_not(settled))) break;
    EACH(i, NU)
      is_free[i] = lane_or(lane_and(settled, is_free[i]), lane_and(lane_not(settled), now_free[i]));
    if (!take_factor(known, is_free, unit_lower, inverse_pivot)) {
      const mask positive = factor_free(quu, is_free, unit_lower, inverse_pivot);
      accepted = lane_and(accepted, positive);
      settled = lane_or(settled, lane_not(positive));
      if (!lane_any(lane_not(settled))) break;
    }
    solve_free(unit_lower, inverse_pivot, is_free, gradient, direction);
    settled = lane_or(settled, take_newton(direction, is_free, lower, upper, settled, step));
    if (!lane_any(lane_not(settled))) break;
    full = box_qp_move(quu, gradient, direction, is_free, bound, lower, upper, settled, step);
  }
  return accepted;
#endif
}

#endif

/* A problem's parameters as the kernels hold them: one value per lane.
 *
 * Parameters shared by all stages lie in `theta` (NTHETA, then NPREPARED numbers computed from them); those with a
 * value per stage in `theta_stage`, one row of NTHETA_STAGE per stage 0..N; or in a single row, where a call gives each
 * of them one value for all stages. The generated PARAMETERS table says where each named parameter lies. */
#ifndef MPCGEN_PROBLEM_H
#define MPCGEN_PROBLEM_H

#include "mpcgen_arrays.h"
#include "mpcgen_layout.h"
#include "mpcgen_stage.h"
#include "mpcgen_team.h"

#ifndef NETWORK_REALS /* what a network keeps behind the parameters: see mpcgen_network_memory.h */
#define NETWORK_REALS(n) 0
#endif
#define THETA_REALS(n) (NTHETA + NPREPARED + IMPLICIT + NETWORK_REALS(n)) /* of theta in workspaces */

/* Rows of theta_stage for a call. */
COUNT int parameter_rows(int horizon, int constant) { return constant ? 1 : horizon + 1; }

/* Where a stage's row is: the only one, if there is no other. */
INLINE reals stage_row(reals theta_stage, int rows, int stage) {
  return theta_stage + (rows > 1 ? (size_t)stage * NTHETA_STAGE : 0);
}

#if CONSTRAINED
/* Where the multipliers of a stage's rows begin in memory: behind those of the controls' bounds, and at the last stage
 * behind those of mixed rows, which there are none of. */
INLINE int row_column(int is_last) { return is_last ? NU + NMIXED : NU; }

/* Bounds of the rows of a stage, and at the last stage of those of the end. */
INLINE void row_bounds_at(reals theta, reals theta_t, int is_last, out_reals lower, out_reals upper) {
  if (is_last)
    terminal_row_bounds(theta, theta_t, lower, upper);
  else
    stage_row_bounds(theta, theta_t, lower, upper);
}

#if SOFT_ROWS
/* The prices of exceeding them. */
INLINE void row_weights_at(reals theta, reals theta_t, int is_last, out_reals linear, out_reals quadratic) {
  if (is_last)
    terminal_row_weights(theta, theta_t, linear, quadratic);
  else
    stage_row_weights(theta, theta_t, linear, quadratic);
}
#endif
#endif

/* Values that a parameter has, one after the other, where theta_stage has `rows` rows: N + 1, or 1. */
INLINE int parameter_stages(const parameter_layout *layout, int rows) {
  return layout->per_stage && rows > 1 ? rows - 1 + layout->in_terminal : 1;
}

/* Where stage `stage` of a parameter lies in the lane arrays theta and theta_stage. */
INLINE reals parameter_row(const parameter_layout *layout, reals theta, reals theta_stage, int stage) {
  return (layout->per_stage ? theta_stage + (size_t)stage * NTHETA_STAGE : theta) + layout->offset;
}

/* How many lanes the problems from `first` on fill, those before `end`. */
INLINE int lanes_filled(int64_t first, int64_t end) { return end - first < LANES ? (int)(end - first) : LANES; }

/* Copies one problem's numbers into a lane; says whether all were finite, of a team those that it copied itself. */
OUTLINED int load_row(out_reals destination, int lane, const scalar *source, int count, int may_be_infinite) {
  int good = 1;
  TEAM_FOR(i, count) {
    good &= may_be_infinite ? !isnan(source[i]) : isfinite(source[i]);
    lane_set(destination + i, lane, source[i]);
  }
  return good;
}

/* Computes what follows from the parameters. */
OUTLINED void follow_parameters(reals theta) {
#if NPREPARED
  team_meet();
  TEAM_LEADER prepare_parameters(theta, theta + NTHETA);
#endif
  (void)theta;
}

/* Loads the parameters that the batch shares into all lanes, where they stay; says whether all were finite. `data`
 * has one pointer per parameter, `strides` the numbers from one problem to the next (0: shared by the batch).
 * load_parameters comes next, and computes what follows from them where a problem has some of its own. */
RARE int load_shared_parameters(reals theta, reals theta_stage, int horizon, int rows, const void *const *data,
                                    const int64_t *strides) {
  int good = 1, all_shared = 1;
  for (int p = 0; p < NPARAMETERS; p++) {
    const parameter_layout *layout = &PARAMETERS[p];
    all_shared &= strides[p] == 0;
    if (strides[p] != 0) continue;
    for (int stage = 0; stage < parameter_stages(layout, rows); stage++) {
      const scalar *source = (const scalar *)data[p] + (size_t)stage * (size_t)layout->size;
      const reals to = parameter_row(layout, theta, theta_stage, stage);
      TEAM_FOR(i, layout->size) {
        good &= layout->only_bounds ? !isnan(source[i]) : isfinite(source[i]);
        to[i] = ALL(source[i]);
      }
    }
  }
#if KEEPS_NETWORK
  begin_network(theta, horizon, strides);
#endif
  if (all_shared) follow_parameters(theta);
  (void)horizon;
  return good;
}

/* Numbers from one problem's parameter to the next, of its stride: negative where the batch shares it at each step of a closed
 * loop, and so at none all along. */
INLINE int64_t between_problems(int64_t stride) { return stride > 0 ? stride : 0; }

INLINE void set_by_parts(reals theta, int lane, int by_parts) {
  TEAM_LEADER if (IMPLICIT) lane_set(theta + BY_PARTS, lane, (scalar)by_parts);
}

/* Loads the parameters that `problem` has of its own, if there are any, into a lane, and computes what follows from all of
 * them; says whether all were finite. */
FUNCTION int load_parameters(reals theta, reals theta_stage, int lane, int64_t problem, int rows,
                             const void *const *data, const int64_t *strides) {
  int good = 1, all_shared = 1;
  for (int p = 0; p < NPARAMETERS; p++) {
    const parameter_layout *layout = &PARAMETERS[p];
    if (strides[p] == 0) continue;
    all_shared = 0;
    const scalar *source = (const scalar *)data[p] + problem * between_problems(strides[p]);
    for (int stage = 0; stage < parameter_stages(layout, rows); stage++)
      good &= load_row(parameter_row(layout, theta, theta_stage, stage), lane, source + stage * layout->size,
                       layout->size, layout->only_bounds);
  }
#if KEEPS_NETWORK
  renew_network(theta);
#endif
  if (!all_shared) follow_parameters(theta);
  set_by_parts(theta, lane, 1);
  return good;
}

/* Lets a problem that begins go through steps in parts, all along, where it cannot begin without; of trials the others
 * refuse such steps, which takes less than to go through them, and seldom leads anywhere. Returns whether any lane does
 * that is new in it, and has to be rolled out again. */
INLINE int begin_by_parts(reals theta, mask begins, real cost) {
  if (!IMPLICIT) return 0;
  const mask fails = lane_and(begins, lane_not(lane_finite(cost)));
  const mask anew = lane_and(fails, lane_le(theta[BY_PARTS], ALL(0)));
  if (!lane_any(anew)) return 0;
  theta[BY_PARTS] = lane_select(anew, ALL(1), theta[BY_PARTS]);
  return 1;
}

#if LANES > 1
/* So many numbers at a distance from each other, which are written at once. */
enum { PIECE = 16 / LANE_BYTES };
typedef scalar piece __attribute__((vector_size(16)));

INLINE piece piece_of(const aliased_scalar *from, size_t stride) {
#if LANE_BYTES == 8
  return (piece){from[0], from[stride]};
#else
  return (piece){from[0], from[stride], from[2 * stride], from[3 * stride]};
#endif
}
#endif

/* Writes a lane's numbers, one after the other. */
OUTLINED void store_row(scalar *destination, in_reals source, int lane, size_t count) {
#if LANES > 1
  const size_t whole = count - count % PIECE;
  KEEP_LOOP for (size_t i = 0; i < whole; i += PIECE) {
    const piece numbers = piece_of((const aliased_scalar *)(source + i) + lane, LANES);
    memcpy(destination + i, &numbers, sizeof numbers);
  }
  KEEP_LOOP for (size_t i = whole; i < count; i++) destination[i] = lane_get(source + i, lane);
#else
  TEAM_FOR(i, count) destination[i] = lane_get(source + i, lane);
#endif
}

#endif

/* The step of the interior point where a problem is linear-quadratic but for its inequalities: Mehrotra's (1992).
 *
 * A sweep is for a step to no barrier. How far that may go says what barrier to aim at, and the products ds dz of its steps
 * in slacks and multipliers what the linear model of the products s z leaves out. The step that is taken aims at mu - ds dz
 * instead: a sweep of vectors with the gains and factors that there are. It goes as far as slacks and multipliers allow, past
 * no filter. Where an attempt makes no headway so, its rows yield (mpcgen_interior_point_yielding.h); one that makes none then goes on
 * as those of other problems do, with a barrier that only falls, and begins anew if that comes to no end. */
#ifndef MPCGEN_INTERIOR_POINT_CORRECTOR_H
#define MPCGEN_INTERIOR_POINT_CORRECTOR_H

#include "mpcgen_interior_point_step.h"

#if QUADRATIC_PROGRAM

#define SHORT_SHARE R(0.3)    /* of a step: after a shorter one, products are far from each other, and the next is more cautious: */
#define LEAST_CENTRING R(0.5) /* it aims at no less than this share of their mean, with less of a correction */
#define FAR_SHARE R(0.1)      /* of a step of an attempt that begins at a solution: where less is allowed, that is far */
/* Steps that have halved neither the gaps nor, where these are closed, the mean product; passes that an attempt has after them. */
enum { SLOW = 5, STRAYED = 30 };

INLINE real mean_product(const barrier_state *s) {
  return s->summary.product_sum / lane_max(s->summary.products, ALL(1));
}

/* Where products of slacks and multipliers are to go, and by how much of the products of their steps they are corrected. */
typedef struct {
  real mu, share;
} product_aim;

INLINE product_aim aim_of(const barrier_state *s, real least) {
  const real length = lane_min(s->longest, s->dual_length), rest = ALL(1) - length;
  const mask is_short = lane_lt(s->lanes.share, ALL(SHORT_SHARE));
  const real centring = lane_max(rest * rest, where_on(is_short, ALL(LEAST_CENTRING)));
  const product_aim c = {
      lane_max(centring * mean_product(s), least * s->lanes.cost_unit),
      lane_select(is_short, s->longest * s->dual_length, ALL(1)),
  };
  return c;
}

/* Turns the rows of a stage towards their corrected aims; `force` is what they push with more than before. */
INLINE void correct_rows(barrier_state *s, int t, const product_aim *c, real *force) {
  reals row = first_row(s, t);
  const int count = row_count(s, t);
  for (int i = 0; i < count; i++, row += ROW_REALS) {
    const real second_low = row[D_LOW_SLACK] * row[D_LOW_MULTIPLIER], second_high = row[D_HIGH_SLACK] * row[D_HIGH_MULTIPLIER];
    const real low = where_on(s->corrects, c->mu - c->share * second_low);
    const real high = where_on(s->corrects, c->mu - c->share * second_high);
    const real of_low = low * row[LOW_INVERSE], of_high = high * row[HIGH_INVERSE]; /* which is negative */
    row[LOW_FORCE] += of_low;
    row[HIGH_FORCE] -= of_high;
    row[LOW_RATIO] += s->delta * low * row[LOW_QUOTIENT];
    row[HIGH_RATIO] -= s->delta * high * row[HIGH_QUOTIENT];
    force[i] = -of_high - of_low;
  }
  for (int i = count; i < ROWS; i++) force[i] = ALL(0);
}

/* The same of a stage's controls: their aims, and what is added to dL/du. */
INLINE void correct_bounds(barrier_state *s, int t, const product_aim *c, real *change_u, mask *is_free) {
  control_room room[NU];
  find_room(s, t, room);
  EACH(i, NU) {
    const control_room *r = &room[i];
    const int at = t * NU + i;
    const real du = s->d_u[at];
    const real low = where_on(s->corrects, c->mu - c->share * (du * s->lower_aim[at]));
    const real high = where_on(s->corrects, c->mu + c->share * (du * s->upper_aim[at]));
    change_u[i] += where_on(r->has_upper, high * s->d_upper[at]) - where_on(r->has_lower, low * s->d_lower[at]);
    s->lower_aim[at] = lane_select(s->corrects, low, s->mu);
    s->upper_aim[at] = lane_select(s->corrects, high, s->mu);
    is_free[i] = r->is_free;
  }
}

/* The correction of a stage's policy where dL/du changes, and of the value function's gradient, `offset`. */
INLINE void correct_stage_policy(barrier_state *s, int t, const real *change_x, const real *change_u, const mask *is_free,
                                 real *offset) {
  const reals factor = s->factor + t * NUU;
  real unit_lower[NUU], inverse_pivot[NU], change[NU];
  EACH(i, NU) {
    EACH(j, i) unit_lower[TRIANGLE(i, j)] = factor[TRIANGLE(i, j)];
    inverse_pivot[i] = factor[TRIANGLE(i, i)];
  }
  solve_free(unit_lower, inverse_pivot, is_free, change_u, change);
  EACH(i, NU) s->step[t * NU + i] += change[i];
  EACH(j, NX) {
    real sum = change_x[j];
    EACH(i, NU) sum += s->gain[(t * NU + i) * NX + j] * change_u[i];
    offset[j] = sum;
  }
}

/* The backward sweep of what changes. */
OUTLINED void correct_policy(barrier_state *s, const product_aim *c) {
  const int last = s->horizon;
  real offset[NX], force[ROWS], change_x[NX], change_u[NU];
  mask is_free[NU];
  correct_rows(s, last, c, force);
  terminal_pullback(path_at(s, last), s->theta, stage_row(s->theta_stage, s->rows, last), force, offset);
  for (int t = last;; t--) {
    EACH(i, NX) s->offset[t * NX + i] += offset[i];
    if (t == 0) break;
    const int k = t - 1;
    correct_rows(s, k, c, force);
    stage_pullback(path_at(s, k), s->u + k * NU, s->theta, stage_row(s->theta_stage, s->rows, k), offset, force, change_x,
                   change_u);
    correct_bounds(s, k, c, change_u, is_free);
    correct_stage_policy(s, k, change_x, change_u, is_free, offset);
  }
}

/* Where rows yield, what they lack is a matter of their multipliers, too: one length is for both. */
INLINE void join_lengths(barrier_state *s) {
  const mask yields = yielding(s);
  const real length = lane_min(s->longest, s->dual_length);
  s->longest = lane_select(yields, length, s->longest);
  s->dual_length = lane_select(yields, length, s->dual_length);
}

#endif

/* The step of a pass. What does not correct its step does the same, to no effect: no lane depends on its neighbours. */
FUNCTION void find_step(barrier_state *s, real least) {
#if QUADRATIC_PROGRAM
  s->predicts = 1;
  barrier_step(s);
  const product_aim c = aim_of(s, least);
  const mask corrected = lane_and(s->corrects, moving(s));
  s->mu = lane_select(s->corrects, c.mu, s->mu);
  s->lanes.barrier = lane_select(corrected, c.mu / s->lanes.cost_unit, s->lanes.barrier);
  correct_policy(s, &c);
  s->predicts = 0;
#else
  (void)least;
#endif
  barrier_step(s);
#if QUADRATIC_PROGRAM
  join_lengths(s);
#endif
}

#endif

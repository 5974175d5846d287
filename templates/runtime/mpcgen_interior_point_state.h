/* The interior point's state over a vector of problems: workspace, iterates, and how far each lane has come.
 *
 * Unknowns are all states x_1..x_N and controls, the costates lambda_1..lambda_N of the dynamics, and a multiplier for
 * each side of each bound. The dynamics need not hold between iterates: the gap of a stage is f(x_t, u_t) - x_(t+1). */
#ifndef MPCGEN_INTERIOR_POINT_STATE_H
#define MPCGEN_INTERIOR_POINT_STATE_H

#include "mpcgen_outcome.h"
#include "mpcgen_workspace.h"

/* Whether solutions are polished: in float32 the tolerance leaves a barrier that blurs which constraints hold, and gradients tell. */
#define POLISHES (CONSTRAINED && MPCGEN_PRECISION == 32)

/* Closed loops of problems with constraints; of others box-DDP has them. */
#define BARRIER_LOOPS (CLOSED_LOOPS && CONSTRAINED)
#if BARRIER_LOOPS
#include "mpcgen_closed_loop.h"
#define BARRIER_ARGUMENTS(s, job, k) ((job)->arguments + (s)->loop_step[k]) /* of the step that lane k is at */
#else
#define BARRIER_ARGUMENTS(s, job, k) ((job)->arguments)
#endif

enum {
  PAIR = 2 * NX + NREMEMBERED, /* a stage of a path: x_t, and behind it, where generated functions look for it, f(x_t, u_t)
                                  and what has been remembered of that */
  FILTER_PAIRS = 12,  /* points that a lane's filter remembers */
};

/* What is remembered of a stage's rollout its model need not compute again. */
#if NREMEMBERED
#define EVALUATE_CANDIDATE stage_dynamics_remembering
#define EXPAND_ITERATE stage_expand_remembered
#else
#define EVALUATE_CANDIDATE stage_dynamics
#define EXPAND_ITERATE stage_expand_exact
#endif

/* How far the lanes have come with their problems. The barrier parameter, the regularisation and the residuals are in
 * units of `cost_unit`, lengths of steps in controls in units of a control's range: no unit changes a decision. */
typedef struct {
  mask busy;           /* has a problem; nothing else means anything where it has none */
  mask begins;         /* has no units yet: they come from its first trajectory, or take a sweep that no step follows */
  mask placed;         /* and has that trajectory */
  mask ranged;         /* all controls have a range */
  mask adjoint;        /* costates are to be those of the trajectory: it begins, or was rolled out */
  mask given;          /* begins at states that the call gives */
  mask warm;           /* this attempt began at a solution that the call gives */
  mask refused;        /* the last sweep met a Quu that is not positive definite: the same again, with more of a shift */
  mask certifying;     /* solved: sweeps once more, without a shift */
  mask unrestorable;   /* restoration ended where the violation is least, at least nearby */
  mask restoring;      /* no step was acceptable: lowers the violation alone, until one is */
  mask crawling;       /* restoration has not halved the violation in many passes, or the attempt rests: it is over */
  mask violation_first; /* the attempt begins in restoration: after one that went where the cost leads, and no further */
  mask stranded;       /* an attempt before has not solved its first barrier problem */
  mask direct;         /* linear-quadratic: takes corrected steps, and all of them; see mpcgen_interior_point_corrector.h */
  mask strays;         /* has left those; where it comes to no end in a few passes, the next attempt takes none */
  mask shift_first;    /* where a Hessian is not convex: shifts it before it leaves the second derivatives out */
  real second_order;   /* weight of the second derivatives of dynamics and rows in the next sweep */
  real rise;           /* of it after the next step */
  counts iterations;   /* steps of the attempt and of those before it */
  counts attempt, attempt_end;  /* how often it began; the iteration at which it begins anew */
  counts failures;     /* steps in a row that no length made acceptable */
  counts cuts;         /* steps in a row that had to be shorter than the slacks allow */
  counts settled;      /* passes in a row whose step was that of a solution: see note_settled */
  counts filter_count;
#if POLISHES
  counts polishing;    /* the iteration of the first solution, plus one; before it zero */
#endif
  counts rescaled;     /* how often the units were taken anew: see take_units_anew */
  real barrier;        /* mu */
  real cost_unit;      /* what the cost is divided by */
  real least_unit;     /* and what it is to be at least, by what little moves of the first trajectory are worth; */
  real curvature;      /* with what large ones are by their curvature: see size_of_costs */
  real shift;          /* delta_w: regularisation of the Hessian over the controls */
  real enough;         /* the last one with which a sweep was accepted after one that was refused; with constraints */
  real on_states;      /* share of it that the states get too, with constraints times `share_of_shift` */
  real filter_gap[FILTER_PAIRS], filter_merit[FILTER_PAIRS];
  real looseness;      /* of rows: a factor of their regularisation, */
  real least_looseness; /* which with less would hide curvature */
  real most_gap;       /* no step leads beyond */
  real little_gap;     /* above it, steps are judged by the gaps too */
  real best_gap, best_error; /* since the last change of the barrier or of shift_first, */
  real best_product;         /* and the least of what the products lack */
  counts crawls;       /* passes of a restoration since the squares of what rows lack have halved; without constraints, */
  real squares_before; /* those then */
  real cost_before;    /* of an attempt since it had this cost and moved: see note_rest */
  mask yielded;        /* the rows have yielded, or do: */
  real yield;          /* what they lack for each unit of their multipliers, or zero; see mpcgen_interior_point_yielding.h */
  real gap_before, product_before; /* of corrected steps, when they had last halved, */
  counts slow;         /* and the steps since then; */
  real share;          /* of the last one, what slacks and multipliers allowed */
  counts stale;        /* passes in which neither has fallen */
  real violation_at_entry; /* of restoration */
  real least_violation; /* of what is kept of attempts that have ended without a solution, for the result if none finds one, */
  real least_cost;      /* and what a feasible iterate has to cost less than to be kept instead */
  counts misses; /* attempts that ended where the violation is least, and had not lowered it to little */
  counts restorations, restoring_failures;
  real moved;          /* size of the last step, or 0 where there was none; */
  real linear_dual;    /* and what it should have left of the dual residual */
} barrier_progress;

/* What is known of a trajectory from its evaluation. */
typedef struct {
  real cost, cost_scale;  /* sum of the stages' costs, and of their sizes; not in units */
  real gap, largest_gap;  /* sum and maximum of |f(x_t, u_t) - x_(t+1)|, and of what rows and their slacks lack */
  real squares, jumps;    /* sum of the squares of what rows lack; sum of the dynamics' gaps alone */
  real violation;         /* the largest of the gaps, and of what hard rows exceed their bounds by */
  real surcharge;         /* what the excesses of soft rows would cost beyond the cost of what the rows exceed */
  real logs;              /* sum of the logarithms of the slacks, those of controls in their units */
  real largest_state;
  real charge;            /* what soft rows cost by what they exceed their bounds by: part of the cost */
} barrier_point;

/* What a backward sweep finds at the accepted trajectories; in the problem's units but for D, the control's. */
typedef struct {
  real dual_x, dual_u;              /* max |dL/dx|, max |dL/du| D */
  real gradient_sum;                /* sum of |dL/du| D, bounds aside */
  real slopes;                      /* of the stage where it is most, the sum of |lambda| times the sizes of states, or one */
  real multiplier_sum, costate_sum; /* of the bounds, times D; of the costates */
  real least_product, largest_product; /* of slack and multiplier */
  real sides;                       /* finite bounds */
  real product_sum, products;       /* of the products, and their number, where QUADRATIC_PROGRAM */
  mask finite, convex;
  mask hidden;                      /* not convex, and the first pivot that is not positive is no more than rounding */
} barrier_summary;

/* Of the rows: the sum of the sizes of multipliers, and their products with the slacks. */
typedef struct {
  real multiplier_sum, least_product, largest_product;
  real product_sum; /* where QUADRATIC_PROGRAM */
} row_sizes;

/* What a row has at a point, the iterate or the candidate. */
enum {
  ROW_VALUE,
  LOW_SLACK,
  HIGH_SLACK,
#if SOFT_ROWS
  LOW_EXCESS, /* by how much it may be exceeded */
  HIGH_EXCESS,
#endif
  POINT_REALS
};

/* What it has in the workspace, side by side, since all is read where any is: two points, of which now the one is the
 * iterate and now the other; and the rest. A step of something is its name after D_; of slacks and multipliers it is found
 * in two parts, by the sweep and after it, in the same places. */
enum {
  LOW_MULTIPLIER = 2 * POINT_REALS,
  HIGH_MULTIPLIER, /* of an equality: its own */
  LOW_INVERSE,     /* 1 / (slack + delta multiplier), with the sign of the side's room; zero where it is off, as what follows */
  HIGH_INVERSE,
  D_LOW_SLACK,
  D_HIGH_SLACK,
  D_LOW_MULTIPLIER,
  D_HIGH_MULTIPLIER,
#if QUADRATIC_PROGRAM
  LOW_QUOTIENT, /* the inverse over the slack */
  HIGH_QUOTIENT,
  LOW_RATIO, /* apart from the steps, as these are found twice */
#else
  LOW_RATIO = D_LOW_SLACK, /* the step of the slack over the slack, and that of the multiplier, where the row does not move */
#endif
  HIGH_RATIO,
  LOW_FORCE,
  HIGH_FORCE,
#if SOFT_ROWS
  D_LOW_EXCESS,
  D_HIGH_EXCESS,
  LOW_HOLD, /* multipliers of the excesses */
  HIGH_HOLD,
  D_LOW_HOLD,
  D_HIGH_HOLD,
#endif
  ROW_REALS
};

/* A row's bounds, as rows and their steps read them, found when a problem is loaded. A side has the room sign c + shift: that
 * to its bound, or one where it is off, as its slack is then. */
enum {
  LOW_SIGN, /* 1; 0 where it is off */
  LOW_SHIFT,
  HIGH_SIGN, /* -1, or 0 */
  HIGH_SHIFT,
  LOW_OFF,  /* zero where the side is on, infinite where it is off */
  HIGH_OFF,
  EQUAL,    /* the value where the bounds meet; infinite elsewhere */
#if SOFT_ROWS
  LINEAR,
  QUADRATIC, /* prices; those of a hard row are infinite and zero */
#endif
  LIMIT_REALS
};

/* The workspace of LANES problems. A step of something is its name after d_. */
#define BARRIER_ARRAYS(ARRAY)                                                  \
  ARRAY(theta, THETA_REALS(n))                                                 \
  ARRAY(theta_stage, rows * NTHETA_STAGE)                                      \
  ARRAY(path, (n + 1) * PAIR)          /* of the iterate, as u is */           \
  ARRAY(new_path, (n + 1) * PAIR)      /* of the candidate, as new_u is */     \
  ARRAY(costate, (n + 1) * NX)                                                 \
  ARRAY(dual_residual, (n + 1) * NX)   /* dL/dx */                             \
  ARRAY(d_x, (n + 1) * NX)                                                     \
  ARRAY(offset, (n + 1) * NX)          /* v - lambda, beside V = hessian */    \
  ARRAY(hessian, (n + 1) * NXX)                                                \
  ARRAY(u, n * NU)                                                             \
  ARRAY(new_u, n * NU)                                                         \
  ARRAY(d_u, n * NU)                                                           \
  ARRAY(lower_multiplier, n * NU)      /* of the bounds; not negative */       \
  ARRAY(upper_multiplier, n * NU)                                              \
  ARRAY(d_lower, n * NU)               /* steps of the multipliers; before them, 1 over the slacks */ \
  ARRAY(d_upper, n * NU)                                                       \
  ARRAY(gradient, n * NU)              /* dL/du, bounds aside */               \
  ARRAY(row, (n * NPATH + NEND) * ROW_REALS)   /* of constraints: see first_row */ \
  ARRAY(limit, (rows > 1 ? n * NPATH + NEND : NPATH + NEND) * LIMIT_REALS) /* their bounds: see first_limit */ \
  ARRAY(first_lack, NPATH + NEND)      /* what rows lacked at most where the attempt began */ \
  ARRAY(kept, n * NKEPT)               /* of F = df/d(x, u) */                 \
  ARRAY(gain, n * NU * NX)             /* the policy, with the step */         \
  ARRAY(step, n * NU)                                                          \
  ARRAY(factor, QUADRATIC_PROGRAM * n * NUU)   /* of Quu: see mpcgen_interior_point_corrector.h */ \
  ARRAY(lower_aim, QUADRATIC_PROGRAM * n * NU) /* what products of slacks and multipliers are to be; */ \
  ARRAY(upper_aim, QUADRATIC_PROGRAM * n * NU) /* before that, the multipliers' steps without a correction */

typedef struct {
  int horizon, rows;                /* rows of theta_stage: N+1, or 1 */
  int shared_loaded, shared_finite; /* parameters that the batch shares: loaded into all lanes; all finite */
  int bounds_known;                 /* those of all lanes: of parameters that the batch shares, and in order */
  scalar initial_barrier;           /* mu of an attempt that begins at a solution */
  BARRIER_ARRAYS(DECLARE_ARRAY)
  int at_iterate, at_candidate;     /* where rows have the iterate, and where the candidate: 0 and POINT_REALS, or not */
  int begins, restores;             /* whether any lane does, in the present pass */
  int equalities;                   /* whether any lane's rows have bounds that meet */
  row_sizes sizes;                  /* of the iterate's rows */
  real row_sides, row_products;     /* sides of rows that are on, with equalities and without */
  real unit[NU];                    /* of a control that has no range */
  real share_of_shift[CONSTRAINED ? NX : 1]; /* of states: see measure_states */
  mask moves;                       /* lanes whose candidate is another point; those of the others are their iterates */
  real length, dual_length;         /* of the step: of x, u and the costates; of the multipliers */
  real slope;                       /* of the barrier function along the step, in units of cost */
  real longest;                     /* what the slacks allow of the step */
  mask corrects;                    /* lanes whose step is corrected */
  int predicts;                     /* and whether what is found is the step before that */
  real mu, delta;                   /* of the sweep and the step after it, in the problem's units; see ready_pass */
  real state_weight, mixed_weight;  /* of equalities, likewise; see equality_weight */
  real row_unit, restoring_room;    /* of a restoration */
  real violation_slope;             /* of half the rows' squares along the step of a restoration */
  real step_size;                   /* max |du| over the control's unit */
  barrier_point point, candidate;
  barrier_summary summary;
  barrier_progress lanes;
  real weight;                      /* of second derivatives in the present sweep */
  real residual;                    /* what is compared with the tolerance */
  counts status;                    /* how the lanes' problems have ended */
  int64_t problem[LANES], next;
#if BARRIER_LOOPS
  int loop_step[LANES], has_problem[LANES]; /* of closed loops; elsewhere the one step is 0 */
#endif
  value_model value;
  stage_model model;
} barrier_state;

COUNT size_t barrier_reals(const solve_arguments *a) {
  const size_t n = (size_t)a->horizon, rows = (size_t)parameter_rows(a->horizon, a->constant_parameters);
  return BARRIER_ARRAYS(COUNT_ARRAY);
}

/* Lays out a workspace of barrier_reals() from `at` on. */
FUNCTION void lay_out_barrier(barrier_state *s, const solve_arguments *a, reals at) {
  const size_t n = (size_t)a->horizon, rows = (size_t)parameter_rows(a->horizon, a->constant_parameters);
  s->horizon = a->horizon;
  s->rows = (int)rows;
  s->shared_loaded = 0;
  s->bounds_known = 0;
  s->initial_barrier = (scalar)a->initial_barrier;
  s->at_iterate = 0;
  s->at_candidate = POINT_REALS;
  s->equalities = 0;
  s->row_sides = s->row_products = ALL(0);
  BARRIER_ARRAYS(PLACE_ARRAY)
}

/* The room that a control has at a stage. A bound that is infinite is off; bounds that meet hold the control. */
typedef struct {
  real lower, upper;
  mask has_lower, has_upper, is_free;
  real unit, over_unit;    /* D: half of the range, or what stands for it; and 1/D */
} control_room;

/* Whether a bound is one: what is beyond the largest number that has a square holds nothing back. */
INLINE mask is_bound(real bound) { return lane_lt(lane_abs(bound), ALL(SCALAR_HUGE)); }

/* The larger of two numbers. Of constants the compiler knows which it is, as it does not of lane_max, an instruction: and
 * where bounds are constants nothing is left to compute of what follows from them. */
INLINE real larger(real a, real b) { return lane_select(lane_lt(a, b), b, a); }

INLINE void find_room(const barrier_state *s, int t, control_room *room) {
  real lower[NU], upper[NU];
  stage_bounds(s->theta, stage_row(s->theta_stage, s->rows, t), lower, upper);
  EACH(i, NU) {
    control_room *r = &room[i];
    const real size = larger(lane_abs(lower[i]), lane_abs(upper[i])), half = R(0.5) * (upper[i] - lower[i]);
    const mask bounded = lane_and(is_bound(lower[i]), is_bound(upper[i]));
    const mask meets = lane_and(bounded, lane_le(half, ALL(8 * SCALAR_EPSILON) * size));
    r->lower = lower[i];
    r->upper = upper[i];
    r->is_free = lane_not(meets);
    r->has_lower = lane_and(is_bound(lower[i]), r->is_free);
    r->has_upper = lane_and(is_bound(upper[i]), r->is_free);
    r->unit = lane_select(lane_and(bounded, r->is_free), half, s->unit[i]);
    r->over_unit = ALL(1) / r->unit;
  }
}

/* Distance to a bound that is on; one elsewhere. */
INLINE real below(const control_room *room, real u) { return lane_select(room->has_lower, u - room->lower, ALL(1)); }
INLINE real above(const control_room *room, real u) { return lane_select(room->has_upper, room->upper - u, ALL(1)); }

/* Lanes whose rows yield, for a while. */
INLINE mask yielding(const barrier_state *s) {
  return QUADRATIC_PROGRAM ? lane_lt(ALL(0), s->lanes.yield) : lane_none();
}

/* Lanes where nothing but the violation counts. */
INLINE mask sets_cost_aside(const barrier_state *s) { return lane_or(s->lanes.restoring, yielding(s)); }

INLINE real where_on(mask on, real value) { return lane_select(on, value, ALL(0)); }

INLINE reals path_at(const barrier_state *s, int t) { return s->path + t * PAIR; }

/* The first row of a stage, each ROW_REALS behind the one before, and their number: mixed ones, then those of states, which
 * x_0 has not; at the end those of states and those of the end. */
INLINE reals first_row(const barrier_state *s, int t) { return s->row + t * NPATH * ROW_REALS; }

INLINE int row_count(const barrier_state *s, int t) { return t == 0 ? NMIXED : t < s->horizon ? NPATH : NEND; }

/* The limits of a stage's first row, each LIMIT_REALS behind the one before. */
INLINE reals first_limit(const barrier_state *s, int t) {
  const int first = s->rows > 1 ? t * NPATH : t == s->horizon ? NPATH : 0;
  return s->limit + first * LIMIT_REALS;
}

/* The least and largest of the products of multipliers and slacks. */
typedef struct {
  real least, largest;
} product_range;

INLINE product_range no_products(void) {
  const product_range products = {ALL(INFINITY), ALL(0)};
  return products;
}

/* Those of a control, which are zero where its bounds are off. */
INLINE void note_products(product_range *products, const control_room *r, real low, real high) {
  products->least = lane_min(products->least, lane_select(r->has_lower, low, ALL(INFINITY)));
  products->least = lane_min(products->least, lane_select(r->has_upper, high, ALL(INFINITY)));
  products->largest = lane_max(products->largest, lane_max(low, high));
}

/* The gap of stage t of a path. */
INLINE real gap_at(in_reals path, int t, int i) { return path[t * PAIR + NX + i] - path[(t + 1) * PAIR + i]; }

/* Lanes that a pass moves: those that have begun, and whose sweep was accepted. */
INLINE mask moving(const barrier_state *s) {
  const barrier_progress *lanes = &s->lanes;
  return lane_and(lanes->busy, lane_not(lane_or(lane_or(lanes->begins, lanes->refused), lanes->certifying)));
}

/* Lanes whose shifts are not those of a first attempt, which are for its speed: those of later attempts, which are to go wrong
 * elsewhere, and those that begin at given states, near which they are to stay. */
INLINE mask shifts_plainly(const barrier_state *s) {
  return lane_or(s->lanes.given, lane_more(s->lanes.attempt, ALL_COUNTS(0)));
}

/* Lanes that begin and have no trajectory yet. */
INLINE mask unplaced(const barrier_state *s) {
  return lane_and(lane_and(s->lanes.busy, s->lanes.begins), lane_not(s->lanes.placed));
}

/* The size of the costs, of which constants are no part: no more than what they vary by where states move by their sizes or by
 * one, by slopes, which are costates, and by curvature; and what soft rows cost, which is never constant, and which costates say
 * nothing of before there are multipliers. What is no number is not less, which lane_min's second is. */
INLINE real size_of_costs(const barrier_state *s) {
  const real charge = SOFT_ROWS ? s->point.charge : ALL(0);
  return lane_min(s->summary.slopes + s->lanes.curvature, s->point.cost_scale - charge) + charge;
}

/* A sum of logarithms, as that of their product: fraction 2^exponent. */
typedef struct {
  real fraction;
  counts exponent;
} log_sum;

/* Adds those of two slacks, not below rounding and hardly above one, so that the product neither overflows nor vanishes. */
INLINE void add_logarithms(log_sum *logs, real a, real b) {
  logs->fraction = lane_fraction(logs->fraction * (a * b), &logs->exponent);
}

INLINE real logarithm(const log_sum *logs) {
  return lane_log(logs->fraction) + R(0.6931471805599453) * lane_number(logs->exponent);
}

/* A candidate being made, stage by stage. */
typedef struct {
  barrier_point point;
  log_sum logs;
} evaluation;

#endif

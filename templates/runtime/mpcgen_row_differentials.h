/* The rows of constraints in the differentials of a solution.
 *
 * A row's multiplier changes by v = D (J d + what moves the row against its bounds), D = 1 / (s/z + delta): next to
 * infinity where the row holds, next to nothing where it does not. delta keeps rows that depend on each other apart. Its
 * error is taken back by refinement (mpcgen_refinement.h), with delta v as a move, which leaves the exact differentials.
 * Where rounding of weights so large hides the curvature of the cost, as it may in float32, a larger delta does not.
 *
 * A soft row that is exceeded by e gives way: 1/D has 1/kappa besides, kappa = quadratic + hold / e with the hold that
 * price and multiplier leave, linear + quadratic e - z (mpcgen_interior_point_soft.h). So D is the quadratic weight there,
 * and e goes along with the row by the share 1 / (1 + kappa (s/z + delta)), which is how its prices come in. */
#ifndef MPCGEN_ROW_DIFFERENTIALS_H
#define MPCGEN_ROW_DIFFERENTIALS_H

#include "mpcgen_sensitivity_state.h"

enum { MOST_DIFFERENTIAL_ROWS = NPATH > NEND ? NPATH : NEND };

#if CONSTRAINED

#if MPCGEN_PRECISION == 64
#define ROW_DELTA R(1e-8)
#define EQUAL_ROW_DELTA R(1e-8)
#define MIXED_EQUAL_ROW_DELTA EQUAL_ROW_DELTA
#else
#define ROW_DELTA R(1e-5)
#define EQUAL_ROW_DELTA R(1e-5)
#define MIXED_EQUAL_ROW_DELTA R(1e-3) /* see MIXED_EQUALITY_DELTA of the interior point */
#endif

typedef struct {
  real values[MOST_DIFFERENTIAL_ROWS], lower[MOST_DIFFERENTIAL_ROWS], upper[MOST_DIFFERENTIAL_ROWS];
} rows_of_stage;

INLINE int rows_at(const sensitivity_state *s, int t) { return t < s->horizon ? NPATH : NEND; }

FUNCTION void read_rows(const sensitivity_state *s, int t, rows_of_stage *rows) {
  const reals x = s->x + t * NX, theta_t = stage_row(s->theta_stage, s->rows, t);
  EACH(i, MOST_DIFFERENTIAL_ROWS) rows->values[i] = rows->lower[i] = rows->upper[i] = ALL(0);
  if (t < s->horizon)
    stage_rows(x, s->u + t * NU, s->theta, theta_t, rows->values);
  else
    terminal_rows(x, s->theta, theta_t, rows->values);
  row_bounds_at(s->theta, theta_t, t == s->horizon, rows->lower, rows->upper);
}

/* Of two factors whose product a solve's last barrier parameter is, one is zero at the solution. Where one is this many
 * times the other, in units, it is plain which; between, no one can tell, and their ratio is taken as it is. */
#define CLEARLY R(100)

/* s/z of a side at distance `slack` with multiplier `pressure`; zero where it clearly holds; with smoothing moved to
 * their product. `unit` is that of the cost. */
INLINE real side_compliance(const sensitivity_state *s, real slack, real pressure, real unit) {
  const real room = lane_max(slack, ALL(0)), push = lane_max(pressure, ALL(0));
  if (s->smoothing > 0) return ALL(1) / stiffness(room, push, s->smoothing);
  return lane_select(lane_lt(CLEARLY * (room * unit), push), ALL(0), room / push);
}

/* D of a side; delta is what it gives way by besides. */
INLINE real side_weight(const sensitivity_state *s, real slack, real pressure, mask on, real delta, real unit) {
  const real over = side_compliance(s, slack, pressure, unit);
  const mask may_hold = lane_lt(lane_max(slack, ALL(0)) * unit, CLEARLY * pressure);
  const mask pushes = lane_and(on, s->smoothing > 0 ? lane_all() : may_hold);
  return lane_select(pushes, ALL(1) / (over + delta), ALL(0));
}

#if SOFT_ROWS
typedef struct {
  real linear[MOST_DIFFERENTIAL_ROWS], quadratic[MOST_DIFFERENTIAL_ROWS];
} prices_of_stage;

FUNCTION void read_prices(const sensitivity_state *s, int t, prices_of_stage *prices) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t);
  EACH(i, MOST_DIFFERENTIAL_ROWS) prices->linear[i] = prices->quadratic[i] = ALL(0);
  row_weights_at(s->theta, theta_t, t == s->horizon, prices->linear, prices->quadratic);
}

/* A side of a soft row: its excess, 1/kappa, and the share of the row's move that the excess goes along with. */
typedef struct {
  real excess, give, share;
} soft_give;

INLINE soft_give soften_side(const sensitivity_state *s, const prices_of_stage *prices, int i, real slack, real pressure,
                             mask on, real delta, real unit) {
  const mask soft = lane_and(on, lane_finite(prices->linear[i]));
  const real linear = lane_select(soft, prices->linear[i], ALL(0)), quadratic = lane_select(soft, prices->quadratic[i], ALL(0));
  const real excess = lane_max(-slack, ALL(0)), left = linear + quadratic * excess - lane_max(pressure, ALL(0));
  const real hold = lane_max(left, ALL(0));
  const mask exceeded = lane_lt(hold, CLEARLY * (excess * unit));
  const mask gives = lane_and(soft, s->smoothing > 0 ? lane_all() : exceeded), freely = lane_lt(CLEARLY * hold, excess * unit);
  const real rigid = s->smoothing > 0 ? stiffness(excess, hold, s->smoothing) : lane_select(freely, ALL(0), hold / excess);
  const real kappa = lane_select(gives, quadratic + rigid, ALL(1));
  const real over = s->smoothing > 0 ? side_compliance(s, slack, pressure, unit) : ALL(0);
  const soft_give give = {
      lane_select(soft, excess, ALL(0)),
      lane_select(gives, ALL(1) / kappa, ALL(0)),
      lane_select(gives, ALL(1) / (ALL(1) + kappa * (over + delta)), ALL(0)),
  };
  return give;
}
#endif

/* The cost of a stage; leaves what its model need not compute again. */
INLINE real cost_and_point(sensitivity_state *s, int t) {
  const reals x = s->x + t * NX, u = s->u + t * NU, theta_t = stage_row(s->theta_stage, s->rows, t);
  real cost;
#if NREMEMBERED
  const reals point = s->point + t * REMEMBERED_POINT;
  EACH(i, NX) point[i] = x[i];
  stage_dynamics_remembering(point, u, s->theta, theta_t, point + NX, &cost);
#else
  stage_dynamics(x, u, s->theta, theta_t, s->next_state, &cost);
#endif
  return cost;
}

/* The sizes of a solution's costs, summed, constants and all. */
FUNCTION real sum_of_costs(sensitivity_state *s) {
  real scale = ALL(0), cost;
  for (int t = 0; t < s->horizon; t++) scale += lane_abs(cost_and_point(s, t));
  terminal_cost(s->x + s->horizon * NX, s->theta, stage_row(s->theta_stage, s->rows, s->horizon), &cost);
  return scale + lane_abs(cost);
}

/* How stiff each row's sides are, and their sum, beside costs of this unit. */
FUNCTION void weigh_rows(sensitivity_state *s) {
  const real unit = s->cost_unit;
  for (int t = 0; t <= s->horizon; t++) {
    rows_of_stage rows;
    read_rows(s, t, &rows);
#if SOFT_ROWS
    prices_of_stage prices;
    read_prices(s, t, &prices);
#endif
    for (int i = 0; i < rows_at(s, t); i++) {
      const int at = t * NPATH + i;
      const mask here = t > 0 || i < NMIXED ? lane_all() : lane_none();
      const real size = lane_max(lane_abs(rows.lower[i]), lane_abs(rows.upper[i])), dual = s->dual[at];
      const real width = rows.upper[i] - rows.lower[i];
      mask meets = lane_and(here, lane_and(lane_finite(size), lane_le(width, ALL(8 * SCALAR_EPSILON) * size)));
#if SOFT_ROWS
      meets = lane_and(meets, lane_not(lane_finite(prices.linear[i])));
#endif
      const mask apart = lane_and(here, lane_not(meets));
      const mask low = lane_and(apart, lane_finite(rows.lower[i])), high = lane_and(apart, lane_finite(rows.upper[i]));
      const real low_slack = rows.values[i] - rows.lower[i], high_slack = rows.upper[i] - rows.values[i];
      real low_delta = ALL(ROW_DELTA) * s->looseness / unit, high_delta = low_delta;
#if SOFT_ROWS
      const soft_give low_give = soften_side(s, &prices, i, low_slack, -dual, low, low_delta, unit);
      const soft_give high_give = soften_side(s, &prices, i, high_slack, dual, high, high_delta, unit);
      low_delta += low_give.give;
      high_delta += high_give.give;
      s->row_low_excess[at] = low_give.excess;
      s->row_high_excess[at] = high_give.excess;
      s->row_low_share[at] = low_give.share;
      s->row_high_share[at] = high_give.share;
#endif
      const real above = side_weight(s, high_slack, dual, high, high_delta, unit);
      s->row_lower[at] = side_weight(s, low_slack, -dual, low, low_delta, unit);
      const real equal_delta = ALL(i < NMIXED && t < s->horizon ? MIXED_EQUAL_ROW_DELTA : EQUAL_ROW_DELTA) * s->looseness;
      s->row_upper[at] = lane_select(meets, unit / equal_delta, above);
      s->row_delta[at] = lane_select(meets, equal_delta, ALL(ROW_DELTA) * s->looseness) / unit;
      s->row_equal[at] = lane_select(meets, ALL(1), ALL(0));
      s->row_push[at] = s->row_moved[at] = s->d_dual[at] = ALL(0);
    }
  }
}

INLINE real row_weight(const sensitivity_state *s, int at) { return s->row_lower[at] + s->row_upper[at]; }

/* What the rows of a stage hand to its model: for a refinement their force alone, and nothing to that of the cost. */
INLINE void model_rows(const sensitivity_state *s, int t, real *dual, real *weight, real *force) {
  const int alone = s->sweep == COST_ALONE;
  for (int i = 0; i < rows_at(s, t); i++) {
    const int at = t * NPATH + i;
    dual[i] = alone ? ALL(0) : s->dual[at];
    weight[i] = alone || s->sweep > 0 ? ALL(0) : row_weight(s, at);
    force[i] = alone ? ALL(0) : s->sweep > 0 ? s->row_force[at] : s->row_push[at];
  }
}

#if SOFT_ROWS
/* Forward mode: the prices of a stage's rows change; returns what that does to the cost. */
FUNCTION real change_prices(sensitivity_state *s, int t, const parameter_change *change) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t), d_theta_t = stage_row(change->theta_stage, s->rows, t);
  real linear[MOST_DIFFERENTIAL_ROWS], quadratic[MOST_DIFFERENTIAL_ROWS], d_cost = ALL(0);
  EACH(i, MOST_DIFFERENTIAL_ROWS) linear[i] = quadratic[i] = ALL(0);
  if (t < s->horizon)
    row_weights_forward(s->theta, theta_t, change->theta, d_theta_t, linear, quadratic);
  else
    terminal_row_weights_forward(s->theta, theta_t, change->theta, d_theta_t, linear, quadratic);
  for (int i = 0; i < rows_at(s, t); i++) {
    const int at = t * NPATH + i;
    const real low = s->row_low_excess[at], high = s->row_high_excess[at];
    s->row_push[at] += s->row_high_share[at] * (linear[i] + quadratic[i] * high);
    s->row_push[at] -= s->row_low_share[at] * (linear[i] + quadratic[i] * low);
    d_cost += (low + high) * linear[i] + R(0.5) * (low * low + high * high) * quadratic[i];
  }
  return d_cost;
}

/* Reverse mode: gradients of the prices of a stage's rows. */
FUNCTION void add_row_prices(const sensitivity_state *s, int t, reals g_theta, reals g_theta_t) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t);
  real linear[MOST_DIFFERENTIAL_ROWS], quadratic[MOST_DIFFERENTIAL_ROWS];
  for (int i = 0; i < rows_at(s, t); i++) {
    const int at = t * NPATH + i;
    const real low = s->row_low_excess[at], high = s->row_high_excess[at];
    const real moved = s->row_moved[at] + s->row_delta[at] * s->d_dual[at];
    const real d_low = -s->row_low_share[at] * moved, d_high = s->row_high_share[at] * moved;
    linear[i] = d_low + d_high + s->loss_cost * (low + high);
    quadratic[i] = low * d_low + high * d_high + s->loss_cost * R(0.5) * (low * low + high * high);
  }
  if (t < s->horizon)
    row_weights_gradient(s->theta, theta_t, linear, quadratic, g_theta, g_theta_t);
  else
    terminal_row_weights_gradient(s->theta, theta_t, linear, quadratic, g_theta, g_theta_t);
}
#endif

/* Forward mode: the rows move, and so do their bounds; returns what that does to the cost. */
FUNCTION real change_rows(sensitivity_state *s, int t, in_reals d_rows, const parameter_change *change) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t), d_theta_t = stage_row(change->theta_stage, s->rows, t);
  real d_lower[MOST_DIFFERENTIAL_ROWS], d_upper[MOST_DIFFERENTIAL_ROWS], d_cost = ALL(0);
  EACH(i, MOST_DIFFERENTIAL_ROWS) d_lower[i] = d_upper[i] = ALL(0);
  if (t < s->horizon)
    row_bounds_forward(s->theta, theta_t, change->theta, d_theta_t, d_lower, d_upper);
  else
    terminal_row_bounds_forward(s->theta, theta_t, change->theta, d_theta_t, d_lower, d_upper);
  for (int i = 0; i < rows_at(s, t); i++) {
    const int at = t * NPATH + i;
    const real dual = s->dual[at];
    const mask equal = lane_lt(ALL(0), s->row_equal[at]);
    const real high = lane_select(equal, dual, lane_max(dual, ALL(0)));
    const real low = lane_select(equal, ALL(0), lane_max(-dual, ALL(0)));
    s->row_push[at] = row_weight(s, at) * d_rows[i] - s->row_lower[at] * d_lower[i] - s->row_upper[at] * d_upper[i];
    d_cost += low * d_lower[i] - high * d_upper[i];
  }
#if SOFT_ROWS
  d_cost += change_prices(s, t, change);
#endif
  return d_cost;
}

/* Takes a step of the trajectory's differentials at a stage into those of its rows' multipliers. What a multiplier would be
 * with no further move of its row is the row's force in a refinement: not found from the multiplier, but with it, since the
 * weight times the row's whole move is the multiplier but for rounding, which the weight magnifies. */
FUNCTION void take_rows(sensitivity_state *s, int t, in_reals d_x, in_reals d_u) {
  const reals x = s->x + t * NX, theta_t = stage_row(s->theta_stage, s->rows, t);
  real moved[MOST_DIFFERENTIAL_ROWS];
  EACH(i, MOST_DIFFERENTIAL_ROWS) moved[i] = ALL(0);
  if (t < s->horizon)
    stage_rows_tangent(x, s->u + t * NU, s->theta, theta_t, d_x, d_u, moved);
  else
    terminal_rows_tangent(x, s->theta, theta_t, d_x, moved);
  for (int i = 0; i < rows_at(s, t); i++) {
    const int at = t * NPATH + i;
    const real weight = row_weight(s, at), force = s->sweep > 0 ? s->row_force[at] : s->row_push[at];
    const mask takes = s->sweep > 0 ? s->refines : lane_all();
    s->row_moved[at] = lane_select(takes, s->row_moved[at] + moved[i], s->row_moved[at]);
    s->d_dual[at] = lane_select(takes, force + weight * moved[i], s->d_dual[at]);
    s->row_force[at] = weight * (s->row_moved[at] + s->row_delta[at] * s->d_dual[at]) + s->row_push[at];
  }
}

/* Reverse mode: gradients of the rows' bounds at a stage. */
FUNCTION void add_row_bounds(const sensitivity_state *s, int t, reals g_theta, reals g_theta_t) {
  const reals theta_t = stage_row(s->theta_stage, s->rows, t);
  real g_lower[MOST_DIFFERENTIAL_ROWS], g_upper[MOST_DIFFERENTIAL_ROWS];
  for (int i = 0; i < rows_at(s, t); i++) {
    const int at = t * NPATH + i;
    const real dual = s->dual[at], weight = row_weight(s, at);
    const real share = lane_select(lane_lt(ALL(0), weight), s->row_upper[at] / weight, ALL(0));
    const mask equal = lane_lt(ALL(0), s->row_equal[at]);
    const real high = lane_select(equal, dual, lane_max(dual, ALL(0)));
    const real low = lane_select(equal, ALL(0), lane_max(-dual, ALL(0)));
    g_upper[i] = -share * s->d_dual[at] - s->loss_cost * high;
    g_lower[i] = (share - ALL(1)) * s->d_dual[at] + s->loss_cost * low;
  }
  if (t < s->horizon)
    row_bounds_gradient(s->theta, theta_t, g_lower, g_upper, g_theta, g_theta_t);
  else
    terminal_row_bounds_gradient(s->theta, theta_t, g_lower, g_upper, g_theta, g_theta_t);
#if SOFT_ROWS
  add_row_prices(s, t, g_theta, g_theta_t);
#endif
}

/* Where in memory the multiplier of a row is. */
INLINE int dual_place(const sensitivity_state *s, int t, int i) { return t * NDUAL + row_column(t == s->horizon) + i; }

/* A solution's multipliers of rows into a lane. */
FUNCTION void load_duals(sensitivity_state *s, int k, const scalar *from) {
  for (int t = 0; t <= s->horizon; t++)
    for (int i = 0; i < rows_at(s, t); i++) lane_set(s->dual + t * NPATH + i, k, from[dual_place(s, t, i)]);
}

#endif

#endif

/* A network's layers, and their activations with first and second derivatives; slopes at kinks are torch's. */
#ifndef MPCGEN_NETWORK_H
#define MPCGEN_NETWORK_H

#include "mpcgen_tile.h"

/* Kinds of layers: W x + b; the network's inputs; a x + b y + c; x times y, entry by entry; s times (x - m) + t, where m
 * is the mean of x, or 0, and s divides by the root of the mean square of what is left. */
enum { AFFINE, GIVEN, SUM, PRODUCT, NORM };

/* What a layer reads begins at a unit of the network, or is -1: then it is all inputs. */
typedef struct {
  int kind;
  int rows;       /* outputs */
  int columns;    /* entries of x */
  int weights;    /* where they begin in theta, row by row, or factors of a norm's rows; -1: there are none */
  int bias;       /* the same, or -1 */
  int activation; /* one of those below */
  int ends;       /* whether its rows are outputs of the network, and no units */
  int at;         /* the first of its units, or outputs */
  int sums;       /* of a site: where what the activation is applied to is kept, or -1 */
  int slopes;     /* where its units' derivatives begin, or -1: they are the weights */
  int from;       /* x */
  int from_slopes;
  int other;      /* y, or -1: there is none */
  int other_slopes;
  scalar a, b, c; /* of a sum; of a norm, b is whether the mean is taken, and c is added to the mean square */
} network_layer;

typedef struct {
  int first;   /* of its layers, in LAYERS */
  int count;   /* of them */
  int inputs;
  int outputs;
  int from;    /* where its inputs begin among those of its site: networks of the same inputs share them */
  int units;   /* rows of all layers that have units */
} network;

/* Where a problem reads networks: they are evaluated together. */
typedef struct {
  int first;   /* of its networks, in NETWORKS */
  int count;   /* of them */
  int inputs;  /* of all */
  int outputs; /* of all, one network's after the other's */
  int width;   /* of the point w that its inputs are made of */
  int reads;   /* where its inputs begin in READ_FROM */
  int points;  /* at which a stage reads them: so many are kept for each */
} network_site;

enum { PLAIN, USES_TANH, USES_SIGMOID, USES_RELU, USES_SOFTPLUS, USES_SILU, USES_GELU, USES_ELU };

#define SOFTPLUS_THRESHOLD 20 /* beyond it torch counts softplus(a) as a */

INLINE real gelu_share(real a) { return R(0.5) * (R(1) + lane_erf(R(0.70710678118654752) * a)); }
INLINE real elu_below(real a) { return lane_expm1(lane_min(a, ALL(0))); }

/* In place: the activation of `count` numbers. */
FUNCTION void activate(int activation, int count, real *a) {
#define VALUES(expression) for (int i = 0; i < count; i++) a[i] = expression
  const real zero = ALL(0);
  switch (activation) {
    case USES_TANH: VALUES(lane_tanh(a[i])); break;
    case USES_SIGMOID: VALUES(lane_sigmoid(a[i])); break;
    case USES_RELU: VALUES(lane_maximum(a[i], zero)); break;
    case USES_SOFTPLUS:
      VALUES(lane_select(lane_lt(ALL(SOFTPLUS_THRESHOLD), a[i]), a[i], lane_softplus(a[i])));
      break;
    case USES_SILU: VALUES(a[i] * lane_sigmoid(a[i])); break;
    case USES_GELU: VALUES(a[i] * gelu_share(a[i])); break;
    case USES_ELU: VALUES(lane_select(lane_lt(zero, a[i]), a[i], elu_below(a[i]))); break;
    default: break;
  }
#undef VALUES
}

/* Their first and second derivatives, from h = phi(a), or where that does not tell, from a. */
FUNCTION void activation_slopes(int activation, int count, const real *h, const real *a, real *first, real *second) {
#define UNITS for (int i = 0; i < count; i++)
  const real zero = ALL(0), one = ALL(1);
  switch (activation) {
    case USES_TANH: UNITS {
      first[i] = one - h[i] * h[i], second[i] = R(-2) * h[i] * first[i];
    } break;
    case USES_SIGMOID: UNITS {
      first[i] = h[i] * (one - h[i]), second[i] = first[i] * (one - R(2) * h[i]);
    } break;
    case USES_RELU: UNITS {
      first[i] = lane_select(lane_lt(zero, h[i]), one, zero), second[i] = zero;
    } break;
    case USES_SOFTPLUS: UNITS {
      const mask beyond = lane_lt(ALL(SOFTPLUS_THRESHOLD), a[i]);
      const real slope = lane_sigmoid(a[i]);
      first[i] = lane_select(beyond, one, slope), second[i] = lane_select(beyond, zero, slope * (one - slope));
    } break;
    case USES_SILU: UNITS {
      const real x = a[i], share = lane_sigmoid(x), rest = one - share;
      first[i] = share * (one + x * rest), second[i] = share * rest * (R(2) + x * (rest - share));
    } break;
    case USES_GELU: UNITS {
      const real x = a[i], density = R(0.39894228040143268) * lane_exp(R(-0.5) * x * x);
      first[i] = gelu_share(x) + x * density, second[i] = density * (R(2) - x * x);
    } break;
    case USES_ELU: UNITS {
      const mask above = lane_lt(zero, h[i]);
      first[i] = lane_select(above, one, one + h[i]), second[i] = lane_select(above, zero, one + h[i]);
    } break;
    default: UNITS { first[i] = one, second[i] = zero; } break;
  }
#undef UNITS
}

#endif

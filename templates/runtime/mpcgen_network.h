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
  scalar p, q, r; /* options of the activation: see below */
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

/* Softplus is log(1 + exp(p a)) / p, and a where p a is beyond q; elu p a, and q (exp(r a) - 1) below 0; leaky relu a, and p a
 * below 0; hardtanh a between p and q. */
enum {
  PLAIN, USES_TANH, USES_SIGMOID, USES_RELU, USES_SOFTPLUS, USES_SILU, USES_GELU, USES_ELU, USES_LEAKY_RELU, USES_HARDTANH,
  USES_HARDSIGMOID, USES_HARDSWISH, USES_GELU_TANH, USES_SIN, USES_COS, USES_EXP,
};

INLINE real gelu_share(real a) { return R(0.5) * (R(1) + lane_erf(R(0.70710678118654752) * a)); }
INLINE real elu_below(real a) { return lane_expm1(lane_min(a, ALL(0))); }
/* `below` up to the number `low`, `above` from `high` on, and `inside` between them. */
INLINE real by_range(real a, real low, real high, real below, real inside, real above) {
  return lane_select(lane_le(a, low), below, lane_select(lane_le(high, a), above, inside));
}
#define GELU_FACTOR R(0.79788456080286536)
#define GELU_CUBE R(0.044715)
/* What gelu's approximation takes the tanh of. */
INLINE real gelu_inside(real a) { return GELU_FACTOR * (a + GELU_CUBE * a * a * a); }

/* In place: the activation of a layer's numbers. */
FUNCTION void activate(const network_layer *layer, real *a) {
#define OF_EACH(expression) for (int i = 0; i < count; i++) a[i] = expression
  const int count = layer->rows;
  const real zero = ALL(0), p = ALL(layer->p), q = ALL(layer->q), r = ALL(layer->r);
  switch (layer->activation) {
    case USES_TANH: OF_EACH(lane_tanh(a[i])); break;
    case USES_SIGMOID: OF_EACH(lane_sigmoid(a[i])); break;
    case USES_RELU: OF_EACH(lane_maximum(a[i], zero)); break;
    case USES_SOFTPLUS: OF_EACH(lane_select(lane_lt(q, p * a[i]), a[i], lane_softplus(p * a[i]) / p)); break;
    case USES_SILU: OF_EACH(a[i] * lane_sigmoid(a[i])); break;
    case USES_GELU: OF_EACH(a[i] * gelu_share(a[i])); break;
    case USES_ELU: OF_EACH(lane_select(lane_lt(zero, a[i]), p * a[i], q * elu_below(r * a[i]))); break;
    case USES_LEAKY_RELU: OF_EACH(lane_select(lane_lt(zero, a[i]), a[i], p * a[i])); break;
    case USES_HARDTANH: OF_EACH(by_range(a[i], p, q, p, a[i], q)); break;
    case USES_HARDSIGMOID: OF_EACH(by_range(a[i], ALL(-3), ALL(3), zero, (a[i] + R(3)) / R(6), ALL(1))); break;
    case USES_HARDSWISH: OF_EACH(by_range(a[i], ALL(-3), ALL(3), zero, a[i] * (a[i] + R(3)) / R(6), a[i])); break;
    case USES_GELU_TANH: OF_EACH(R(0.5) * a[i] * (R(1) + lane_tanh(gelu_inside(a[i])))); break;
    case USES_SIN: OF_EACH(lane_sin(a[i])); break;
    case USES_COS: OF_EACH(lane_cos(a[i])); break;
    case USES_EXP: OF_EACH(lane_exp(a[i])); break;
    default: break;
  }
#undef OF_EACH
}

/* Their first and second derivatives, from h = phi(a), or where that does not tell, from a. */
FUNCTION void activation_slopes(const network_layer *layer, const real *h, const real *a, real *first, real *second) {
#define UNITS for (int i = 0; i < count; i++)
  const int count = layer->rows;
  const real zero = ALL(0), one = ALL(1), p = ALL(layer->p), q = ALL(layer->q), r = ALL(layer->r);
  switch (layer->activation) {
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
      const mask beyond = lane_lt(q, p * a[i]);
      const real slope = lane_sigmoid(p * a[i]);
      first[i] = lane_select(beyond, one, slope), second[i] = lane_select(beyond, zero, p * slope * (one - slope));
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
      const real below = r * (q + h[i]);
      first[i] = lane_select(above, p, below), second[i] = lane_select(above, zero, r * below);
    } break;
    case USES_LEAKY_RELU: UNITS {
      first[i] = lane_select(lane_lt(zero, h[i]), one, p), second[i] = zero;
    } break;
    case USES_HARDTANH: UNITS {
      first[i] = by_range(h[i], p, q, zero, one, zero), second[i] = zero;
    } break;
    case USES_HARDSIGMOID: UNITS {
      first[i] = by_range(a[i], ALL(-3), ALL(3), zero, one / R(6), zero), second[i] = zero;
    } break;
    case USES_HARDSWISH: UNITS {
      first[i] = by_range(a[i], ALL(-3), ALL(3), zero, a[i] / R(3) + R(0.5), one);
      second[i] = by_range(a[i], ALL(-3), ALL(3), zero, one / R(3), zero);
    } break;
    case USES_GELU_TANH: UNITS {
      const real x = a[i], t = lane_tanh(gelu_inside(x)), bend = one - t * t;
      const real by_x = GELU_FACTOR * (one + R(3) * GELU_CUBE * x * x);
      const real turn = R(6) * GELU_FACTOR * GELU_CUBE * x - R(2) * t * by_x * by_x;
      first[i] = R(0.5) * (one + t + x * bend * by_x), second[i] = bend * (by_x + R(0.5) * x * turn);
    } break;
    case USES_SIN: UNITS { first[i] = lane_cos(a[i]), second[i] = -h[i]; } break;
    case USES_COS: UNITS { first[i] = -lane_sin(a[i]), second[i] = -h[i]; } break;
    case USES_EXP: UNITS { first[i] = second[i] = h[i]; } break;
    default: UNITS { first[i] = one, second[i] = zero; } break;
  }
#undef UNITS
}

#endif

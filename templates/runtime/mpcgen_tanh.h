/* Hyperbolic tangent of a vector, inlined: a call to a library empties the registers, and takes twice as long.
 *
 * tanh |x| = t / (t + 2) with t = exp(2|x|) - 1, and t = 2^k p + (2^k - 1) where 2|x| = k ln 2 + r, |r| <= ln(2)/2,
 * p = exp(r) - 1. ln 2 comes in two parts, and fused multiply-adds make the first difference exact. The polynomial is
 * minimax, of (p - r - r^2/2) / r^3. Nothing cancels: the error stays below three units in the last place. */
#ifndef MPCGEN_TANH_H
#define MPCGEN_TANH_H

#include "mpcgen_sincos.h"

#if MPCGEN_PRECISION == 64
#define LARGEST_TWICE R(40) /* from there on tanh is one */
#define LN_2_1 R(0.6931471805599453)
#define LN_2_2 R(2.3190468138462996e-17)
#define LOWEST_EXPONENT_BIT 52
#else
#define LARGEST_TWICE R(20)
#define LN_2_1 R(0.69314718)
#define LN_2_2 R(-1.9046543e-9)
#define LOWEST_EXPONENT_BIT 23
#endif

/* exp(r) - 1 for |r| <= ln(2)/2. */
INLINE real exp_less_one_near_zero(real r) {
  const real z = r * r;
#if MPCGEN_PRECISION == 64
  const real z2 = z * z;
  const real low = (R(0.1666666666666668) + r * R(0.0416666666666198)) +
                   z * (R(0.008333333333319044) + r * R(0.0013888888920592034));
  const real high = (R(0.00019841269894134764) + r * R(2.4801516235228598e-05)) +
                    z * (R(2.7557235317691627e-06) + r * R(2.7622273867486895e-07)) + z2 * R(2.5112301143277225e-08);
  const real q = low + z2 * high;
#else
  const real q = (R(0.16666540635234897) + r * R(0.04166647768186991)) +
                 z * (R(0.008366825542325203) + r * R(0.0013933732005393781));
#endif
  return r + z * (R(0.5) + r * q);
}

INLINE real lane_tanh(real x) {
  const real twice = lane_min(ALL(LARGEST_TWICE), R(2) * lane_abs(x)); /* NaN where x is */
  const real shifted = twice * R(1.4426950408889634) + ROUND_BY;
  const real k = shifted - ROUND_BY;
  const real r = fused_difference(fused_difference(twice, k, LN_2_1), k, LN_2_2);
  const real power = (real)((mask)ALL(1) + ((mask)shifted << LOWEST_EXPONENT_BIT)); /* 2^k */
  const real t = power * exp_less_one_near_zero(r) + (power - R(1));
  return (real)((mask)(t / (t + R(2))) | ((mask)x & ~ALL_BUT_SIGN));
}

#endif

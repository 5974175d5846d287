/* Sine and cosine of a vector of angles, inlined: a function that wants both has one reduction and one pair of
 * polynomials, and keeps its registers, which a call to a library empties.
 *
 * x = k pi/2 + r with |r| <= pi/4; pi/2 comes in three parts, and fused multiply-adds make the first difference exact
 * (Cody and Waite 1980). The polynomials are minimax in z = r^2, of (sin r - r) / r^3 and (cos r - 1 + z/2) / z^2. The
 * error stays below two units in the last place, that of the tangent, their quotient, below four. */
#ifndef MPCGEN_SINCOS_H
#define MPCGEN_SINCOS_H

#if MPCGEN_PRECISION == 64
#define ROUND_BY R(6755399441055744) /* 1.5 2^52: adding it rounds to an integer, in the lowest bits */
#define LARGEST_ANGLE R(1e6)
#define HALF_PI_1 R(1.5707963267948966)
#define HALF_PI_2 R(6.123233995736766e-17)
#define HALF_PI_3 R(-1.4973849048591698e-33)
#else
#define ROUND_BY R(12582912) /* 1.5 2^23 */
#define LARGEST_ANGLE R(1e3)
#define HALF_PI_1 R(1.57079637)
#define HALF_PI_2 R(-4.37113883e-8)
#define HALF_PI_3 R(-1.71512451e-15)
#endif

/* sin r and cos r for |r| <= pi/4. */
INLINE void sincos_near_zero(real r, real *sine, real *cosine) {
  const real z = r * r, z2 = z * z;
#if MPCGEN_PRECISION == 64
  const real s = (R(-0.16666666666666632) + z * R(0.008333333333322418)) +
                 z2 * ((R(-0.00019841269829812394) + z * R(2.7557313693577104e-06)) +
                       z2 * (R(-2.5050758384975888e-08) + z * R(1.5896811829077067e-10)));
  const real c = (R(0.0416666666666666) + z * R(-0.0013888888888874131)) +
                 z2 * ((R(2.4801587289487016e-05) + z * R(-2.7557314353790694e-07)) +
                       z2 * (R(2.08757234793361e-09) + z * R(-1.1359658863271683e-11)));
#else
  const real s = R(-0.1666665494019949) + z * R(0.008332177916358393) + z2 * R(-0.00019517266840903414);
  const real c = R(0.0416666468605255) + z * R(-0.0013887367212940052) + z2 * R(2.4438415537795276e-05);
#endif
  *sine = r + r * z * s;
  *cosine = (R(1) - R(0.5) * z) + z2 * c;
}

/* a - k b, rounded once; the compiler makes this loop one instruction. */
INLINE real fused_difference(real a, real k, scalar b) {
#ifdef X86_LANES
  return X86_FUSED(-k, ALL(b), a);
#else
  real result = a;
  for (int lane = 0; lane < LANES; lane++) result[lane] = LIBM(__builtin_fma)(-k[lane], b, a[lane]);
  return result;
#endif
}

/* A quarter turn more makes a sine of a cosine: cos x = sin(x + pi/2). */
INLINE real sine_of_turned(real x, scalar_bits quarters) {
  const real shifted = x * R(0.63661977236758134) + ROUND_BY;
  const real k = shifted - ROUND_BY;
  const real r = fused_difference(fused_difference(fused_difference(x, k, HALF_PI_1), k, HALF_PI_2), k, HALF_PI_3);
  const mask quadrant = (mask)shifted + quarters;
  real sine, cosine;
  sincos_near_zero(r, &sine, &cosine);
  const mask odd = -(quadrant & 1), negative = (quadrant & 2) << (8 * LANE_BYTES - 2);
  return (real)((mask)lane_select(odd, cosine, sine) ^ negative);
}

/* Where the reduction would lose digits: the C library takes those lanes, and no other, since a result must not depend
 * on a lane's neighbours. Infinities and NaNs give NaN either way. */
INLINE mask large_angles(real x) {
  const real size = lane_abs(x);
  return lane_and(lane_lt(ALL(LARGEST_ANGLE), size), lane_lt(size, ALL(INFINITY)));
}

LANE_BY_LANE_1(sine_by_lanes, LIBM(sin))
LANE_BY_LANE_1(cosine_by_lanes, LIBM(cos))

/* Out of line: gcc would take the lanes' numbers apart before it has found out whether any angle is large. */
#define SINE_OF_TURNED(name, quarters, by_lanes)                                             \
  RARE real name##_by_lanes(real x, mask large, real result) {                               \
    return lane_select(large, by_lanes(x), result);                                          \
  }                                                                                          \
  INLINE real name(real x) {                                                                 \
    const real result = sine_of_turned(x, quarters);                                         \
    const mask large = large_angles(x);                                                      \
    return lane_any(large) ? name##_by_lanes(x, large, result) : result;                     \
  }
SINE_OF_TURNED(lane_sin, 0, sine_by_lanes)
SINE_OF_TURNED(lane_cos, 1, cosine_by_lanes)

INLINE real lane_tan(real x) { return lane_sin(x) / lane_cos(x); }

#endif

/* The lane type: `real` is one number for each of LANES problems solved side by side.
 *
 * With LANES == 1 it is a plain scalar; otherwise a GCC/Clang vector, one problem per element. Kernels are
 * written once over `real` and `mask` and never branch on a single lane: comparisons give masks (all bits set
 * where true) and `lane_select` chooses. This file is the only one that knows of instruction sets.
 *
 * The build defines MPCGEN_PRECISION (64 or 32) and MPCGEN_BATCH (1: as many lanes as a register holds, 0: one), or
 * MPCGEN_CUDA: then LANES is 1, a lane is a thread of a CUDA device, and mpcgen_interleaved.h has what differs; with
 * MPCGEN_WARP besides, a warp works on each problem.
 */
#ifndef MPCGEN_LANE_H
#define MPCGEN_LANE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if MPCGEN_PRECISION == 64
typedef double scalar;
typedef int64_t scalar_bits;
typedef uint64_t scalar_magnitude;
#define SCALAR_EPSILON 2.220446049250313e-16
#define SCALAR_LEAST 2.2250738585072014e-308 /* the least with all digits */
#define SCALAR_HUGE 1e150 /* its square is a number still */
#define ALL_BUT_SIGN INT64_MAX
#define LANE_BYTES 8
#else
typedef float scalar;
typedef int32_t scalar_bits;
typedef uint32_t scalar_magnitude;
#define SCALAR_EPSILON 1.1920929e-07f
#define SCALAR_LEAST 1.17549435e-38f
#define SCALAR_HUGE 1e18f
#define ALL_BUT_SIGN INT32_MAX
#define LANE_BYTES 4
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define REGISTER_BYTES 64
#elif defined(__AVX2__)
#define REGISTER_BYTES 32
#else
#define REGISTER_BYTES 16
#endif

#if MPCGEN_CUDA
#include "mpcgen_interleaved.h"
#elif MPCGEN_BATCH && defined(__GNUC__)
#define LANES (REGISTER_BYTES / LANE_BYTES)
typedef scalar real __attribute__((vector_size(REGISTER_BYTES)));
typedef scalar_bits mask __attribute__((vector_size(REGISTER_BYTES)));
#else
#define LANES 1
typedef scalar real;
typedef scalar_bits mask;
#endif

/* The exported name of this variant of an entry point. */
#if MPCGEN_CUDA && MPCGEN_PRECISION == 64
#define MPCGEN_ENTRY(name) name##_f64_cuda
#elif MPCGEN_CUDA
#define MPCGEN_ENTRY(name) name##_f32_cuda
#elif MPCGEN_PRECISION == 64 && MPCGEN_BATCH
#define MPCGEN_ENTRY(name) name##_f64_batch
#elif MPCGEN_PRECISION == 64
#define MPCGEN_ENTRY(name) name##_f64_single
#elif MPCGEN_BATCH
#define MPCGEN_ENTRY(name) name##_f32_batch
#else
#define MPCGEN_ENTRY(name) name##_f32_single
#endif

#if MPCGEN_PRECISION == 64
#define LIBM(name) name
#else
#define LIBM(name) name##f
#endif

/* A constant of the working precision, and the same constant in every lane. */
#define R(value) ((scalar)(value))
#if LANES > 1
#define ALL(value) ((real){0} + R(value))
#define ALL_COUNTS(value) ((counts){0} + (value))
#else
#define ALL(value) R(value)
#define ALL_COUNTS(value) ((counts)(value))
#endif
typedef mask counts; /* whole numbers; a mask is minus one where it is true */
/* The bits of a `real`. */
#if LANES > 1
typedef scalar_magnitude magnitudes __attribute__((vector_size(REGISTER_BYTES)));
#else
typedef scalar_magnitude magnitudes;
#endif

#if !MPCGEN_CUDA

/* A workspace is an array of `real`; functions take parts of it, and local arrays, as in_reals and out_reals. Where a
 * device interleaves the workspaces of neighbouring problems, these are other types than pointers. */
typedef real *reals;
#define stored_reals const real *
#define in_reals const real *
#define out_reals real *
#define INLINE static inline __attribute__((unused)) /* clang warns of such functions, too */
#define FUNCTION static __attribute__((unused)) /* by some of the parts that are compiled apart */
/* A stage's exact model. One problem's sweep is 2 to 5 % faster without it inside, a batch's up to 8 % slower. */
#if LANES > 1
#define EXPANSION FUNCTION
#else
#define EXPANSION __attribute__((noinline)) FUNCTION
#endif
#define OUTLINED static __attribute__((noinline, unused)) /* several callers, and no hurry: gcc would copy it into each */
/* Off the hot path: small, and soon compiled. To gcc whatever calls it in every pass is off it, too: call it on a condition. */
#define RARE static __attribute__((noinline, cold, unused))
#define COUNT FUNCTION /* how much memory something needs: asked on a device and by its host */
#define TABLE static const

/* Element access: pointers to `real` seen as LANES consecutive scalars (vectors may alias their elements). */
typedef scalar __attribute__((may_alias)) aliased_scalar;
typedef scalar_bits __attribute__((may_alias)) aliased_bits;
INLINE scalar lane_get(const real *value, int lane) { return ((const aliased_scalar *)value)[lane]; }
INLINE void lane_set(real *value, int lane, scalar element) { ((aliased_scalar *)value)[lane] = element; }
INLINE int lane_test(const mask *value, int lane) { return ((const aliased_bits *)value)[lane] != 0; }
INLINE void lane_mark(mask *value, int lane, int on) { ((aliased_bits *)value)[lane] = on ? -1 : 0; }
INLINE int lane_count(const mask *value, int lane) { return (int)((const aliased_bits *)value)[lane]; }
INLINE void lane_recount(mask *value, int lane, int count) { ((aliased_bits *)value)[lane] = count; }

INLINE void zero_reals(reals at, size_t count) { memset((void *)at, 0, count * sizeof(real)); }
INLINE void copy_reals(real *to, const real *from, size_t count) { memcpy(to, from, count * sizeof(real)); }

#endif

#if LANES > 1

INLINE mask lane_lt(real a, real b) { return (mask)(a < b); }
INLINE mask lane_le(real a, real b) { return (mask)(a <= b); }
INLINE mask lane_eq(real a, real b) { return (mask)(a == b); }
INLINE mask lane_more(counts a, counts b) { return (mask)(a > b); }
INLINE real lane_select(mask where, real a, real b) { return (real)(((mask)a & where) | ((mask)b & ~where)); }
INLINE mask lane_none(void) { return (mask){0}; }
INLINE real lane_abs(real a) { return (real)((mask)a & ALL_BUT_SIGN); }

INLINE int lane_any(mask where) {
#if REGISTER_BYTES == 64 && LANE_BYTES == 8
  return __builtin_ia32_cvtq2mask512((long long __attribute__((vector_size(64))))where) != 0;
#elif REGISTER_BYTES == 64
  return __builtin_ia32_cvtd2mask512(where) != 0;
#elif REGISTER_BYTES == 32 && LANE_BYTES == 8
  return __builtin_ia32_movmskpd256((real)where) != 0;
#elif REGISTER_BYTES == 32
  return __builtin_ia32_movmskps256((real)where) != 0;
#elif defined(__SSE2__) && LANE_BYTES == 8
  return __builtin_ia32_movmskpd((real)where) != 0;
#elif defined(__SSE2__)
  return __builtin_ia32_movmskps((real)where) != 0;
#else
  scalar_bits bits = 0;
  for (int lane = 0; lane < LANES; lane++) bits |= where[lane];
  return bits != 0;
#endif
}

/* One call of the C library per lane: what is left where no vector variant exists. */
#define LANE_BY_LANE_1(name, function)                                                   \
  INLINE real name(real a) {                                                      \
    real result = a;                                                                     \
    for (int lane = 0; lane < LANES; lane++) result[lane] = function(a[lane]);           \
    return result;                                                                       \
  }
#define LANE_BY_LANE_2(name, function)                                                   \
  INLINE real name(real a, real b) {                                              \
    real result = a;                                                                     \
    for (int lane = 0; lane < LANES; lane++) result[lane] = function(a[lane], b[lane]);  \
    return result;                                                                       \
  }

#else

INLINE mask lane_lt(real a, real b) { return -(mask)(a < b); }
INLINE mask lane_le(real a, real b) { return -(mask)(a <= b); }
INLINE mask lane_eq(real a, real b) { return -(mask)(a == b); }
INLINE mask lane_more(counts a, counts b) { return -(mask)(a > b); }
INLINE real lane_select(mask where, real a, real b) { return where ? a : b; }
INLINE mask lane_none(void) { return 0; }
INLINE real lane_abs(real a) { return LIBM(fabs)(a); }
INLINE int lane_any(mask where) { return where != 0; }
#define LANE_BY_LANE_1(name, function) \
  INLINE real name(real a) { return function(a); }
#define LANE_BY_LANE_2(name, function) \
  INLINE real name(real a, real b) { return function(a, b); }

#endif

/* A comparison with NaN is false, so minimum and maximum are b when a is NaN. */
#if LANES > 1 && defined(__x86_64__) && !defined(__clang__)
#define X86_LANES 1
/* One instruction, which says the same of NaNs and zeros; of comparison and selection gcc makes three. The 512-bit ones
 * take a mask of lanes, all of them, and a rounding mode, the present one. */
#if REGISTER_BYTES == 64 && LANE_BYTES == 8
#define X86_EXTREME(which) __builtin_ia32_##which##pd512_mask(a, b, a, 255, 4)
#define X86_SQUARE_ROOT(a) __builtin_ia32_sqrtpd512_mask(a, a, -1, 4)
#define X86_FUSED(a, b, c) __builtin_ia32_vfmaddpd512_mask(a, b, c, 255, 4)
#elif REGISTER_BYTES == 64
#define X86_EXTREME(which) __builtin_ia32_##which##ps512_mask(a, b, a, -1, 4)
#define X86_SQUARE_ROOT(a) __builtin_ia32_sqrtps512_mask(a, a, -1, 4)
#define X86_FUSED(a, b, c) __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4)
#elif REGISTER_BYTES == 32 && LANE_BYTES == 8
#define X86_EXTREME(which) __builtin_ia32_##which##pd256(a, b)
#define X86_SQUARE_ROOT(a) __builtin_ia32_sqrtpd256(a)
#define X86_FUSED(a, b, c) __builtin_ia32_vfmaddpd256(a, b, c)
#elif REGISTER_BYTES == 32
#define X86_EXTREME(which) __builtin_ia32_##which##ps256(a, b)
#define X86_SQUARE_ROOT(a) __builtin_ia32_sqrtps256(a)
#define X86_FUSED(a, b, c) __builtin_ia32_vfmaddps256(a, b, c)
#elif LANE_BYTES == 8
#define X86_EXTREME(which) __builtin_ia32_##which##pd(a, b)
#define X86_SQUARE_ROOT(a) __builtin_ia32_sqrtpd(a)
#define X86_FUSED(a, b, c) __builtin_ia32_vfmaddpd(a, b, c)
#else
#define X86_EXTREME(which) __builtin_ia32_##which##ps(a, b)
#define X86_SQUARE_ROOT(a) __builtin_ia32_sqrtps(a)
#define X86_FUSED(a, b, c) __builtin_ia32_vfmaddps(a, b, c)
#endif
INLINE real lane_min(real a, real b) { return X86_EXTREME(min); }
INLINE real lane_max(real a, real b) { return X86_EXTREME(max); }
#else
INLINE real lane_min(real a, real b) { return lane_select(lane_lt(a, b), a, b); }
INLINE real lane_max(real a, real b) { return lane_select(lane_lt(b, a), a, b); }
#endif
/* The same, but NaN where either is: of three numbers, one of them NaN, nothing is left out by its place. */
INLINE real lane_minimum(real a, real b) { return lane_select(lane_eq(a, a), lane_min(a, b), a); }
INLINE real lane_maximum(real a, real b) { return lane_select(lane_eq(a, a), lane_max(a, b), a); }
INLINE real lane_clip(real a, real lower, real upper) { return lane_max(lane_min(a, upper), lower); }
INLINE mask lane_not(mask a) { return ~a; }
INLINE mask lane_all(void) { return lane_not(lane_none()); }
INLINE mask lane_and(mask a, mask b) { return a & b; }
INLINE mask lane_or(mask a, mask b) { return a | b; }
INLINE real lane_sign(real a) {
  return lane_select(lane_lt(ALL(0), a), ALL(1), lane_select(lane_lt(a, ALL(0)), ALL(-1), a));
}
/* True where a is neither infinite nor NaN. */
INLINE mask lane_finite(real a) { return lane_lt(lane_abs(a), ALL(INFINITY)); }


/* What is left of a positive number, of 1 to 2, when the power of two in it is taken out and added to `exponent`. */
INLINE real lane_fraction(real a, counts *exponent) {
  enum { FRACTION_BITS = LANE_BYTES == 8 ? 52 : 23, BIAS = LANE_BYTES == 8 ? 1023 : 127 };
  const scalar_magnitude unit = (scalar_magnitude)BIAS << FRACTION_BITS;
  const scalar_magnitude fraction = ((scalar_magnitude)1 << FRACTION_BITS) - 1;
  magnitudes bits;
  memcpy(&bits, &a, sizeof bits);
  *exponent += (counts)(bits >> FRACTION_BITS) - BIAS;
  bits = (bits & fraction) | unit;
  memcpy(&a, &bits, sizeof bits);
  return a;
}

#if LANES > 1
INLINE real lane_number(counts a) { return __builtin_convertvector(a, real); }
#else
INLINE real lane_number(counts a) { return (real)a; }
#endif

/* libmvec's names: _ZGV, instruction set, N, lanes, v per argument, function. */
#if LANES > 1 && defined(MPCGEN_HAVE_LIBMVEC) && defined(__x86_64__)
#if REGISTER_BYTES == 64 && MPCGEN_PRECISION == 64
#define LIBMVEC(arguments, name) _ZGVeN8##arguments##_##name
#elif REGISTER_BYTES == 64
#define LIBMVEC(arguments, name) _ZGVeN16##arguments##_##name##f
#elif REGISTER_BYTES == 32 && MPCGEN_PRECISION == 64
#define LIBMVEC(arguments, name) _ZGVdN4##arguments##_##name
#elif REGISTER_BYTES == 32
#define LIBMVEC(arguments, name) _ZGVdN8##arguments##_##name##f
#elif MPCGEN_PRECISION == 64
#define LIBMVEC(arguments, name) _ZGVbN2##arguments##_##name
#else
#define LIBMVEC(arguments, name) _ZGVbN4##arguments##_##name##f
#endif
#define LANE_MATH_1(function)                \
  real LIBMVEC(v, function)(real);           \
  INLINE real lane_##function(real a) { return LIBMVEC(v, function)(a); }
#define LANE_MATH_2(function)                \
  real LIBMVEC(vv, function)(real, real);    \
  INLINE real lane_##function(real a, real b) { return LIBMVEC(vv, function)(a, b); }
#else
#define LANE_MATH_1(function) LANE_BY_LANE_1(lane_##function, LIBM(function))
#define LANE_MATH_2(function) LANE_BY_LANE_2(lane_##function, LIBM(function))
#endif

#ifdef X86_LANES
INLINE real lane_sqrt(real a) { return X86_SQUARE_ROOT(a); } /* one instruction, where gcc compiles for size, too */
#else
LANE_BY_LANE_1(lane_sqrt, LIBM(sqrt)) /* the compiler makes this loop one instruction */
#endif
INLINE real lane_pinv(real a) { return lane_select(lane_eq(a, ALL(0)), ALL(0), R(1) / a); }
LANE_MATH_1(exp)
LANE_MATH_1(expm1)
LANE_MATH_1(log)
LANE_MATH_1(log1p)
/* By exp(-|a|), which does not overflow. */
INLINE real lane_sigmoid(real a) {
  const real small = lane_exp(-lane_abs(a));
  return lane_select(lane_lt(a, ALL(0)), small, ALL(1)) / (R(1) + small);
}
INLINE real lane_softplus(real a) { return lane_maximum(a, ALL(0)) + lane_log1p(lane_exp(-lane_abs(a))); }
#if LANES > 1 && (defined(__FMA__) || defined(__ARM_FEATURE_FMA))
#include "mpcgen_tanh.h"
#else
LANE_MATH_1(sin)
LANE_MATH_1(cos)
LANE_MATH_1(tan)
LANE_MATH_1(tanh)
#endif
LANE_MATH_1(asin)
LANE_MATH_1(acos)
LANE_MATH_1(atan)
LANE_MATH_1(sinh)
LANE_MATH_1(cosh)
LANE_MATH_1(asinh)
LANE_MATH_1(acosh)
LANE_MATH_1(atanh)
LANE_MATH_1(erf)
LANE_MATH_2(atan2)
LANE_MATH_2(pow)

#endif

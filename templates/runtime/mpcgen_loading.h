/* Numbers of a batch, which lie problem after problem, into lanes. */
#ifndef MPCGEN_LOADING_H
#define MPCGEN_LOADING_H

#include "mpcgen_problem.h"

OUTLINED void load_array(out_reals destination, int lane, const void *source, int64_t problem, size_t count) {
  const scalar *from = source ? (const scalar *)source + (size_t)problem * count : NULL;
  TEAM_FOR(i, count) lane_set(destination + i, lane, from ? from[i] : 0);
}

#if LANES > 1
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLED __builtin_shufflevector
#endif
#endif

#ifdef SHUFFLED
enum { SQUARE = LANE_BYTES == 4 || REGISTER_BYTES > 16 ? 4 : 2 };

/* Loads SQUARE numbers of each of SQUARE problems, `stride` from problem to problem, into the lanes from k on: a square that
 * is transposed in registers. */
INLINE void load_square(real *destination, int k, const scalar *from, size_t stride) {
  typedef scalar row __attribute__((vector_size(SQUARE * LANE_BYTES)));
  typedef row __attribute__((aligned(LANE_BYTES), may_alias)) row_anywhere;
  row of[SQUARE], number[SQUARE];
  EACH(i, SQUARE) of[i] = *(const row_anywhere *)(from + (size_t)i * stride);
#if LANE_BYTES == 4 || REGISTER_BYTES > 16
  const row even = SHUFFLED(of[0], of[1], 0, 4, 2, 6), odd = SHUFFLED(of[0], of[1], 1, 5, 3, 7);
  const row more_even = SHUFFLED(of[2], of[3], 0, 4, 2, 6), more_odd = SHUFFLED(of[2], of[3], 1, 5, 3, 7);
  number[0] = SHUFFLED(even, more_even, 0, 1, 4, 5);
  number[1] = SHUFFLED(odd, more_odd, 0, 1, 4, 5);
  number[2] = SHUFFLED(even, more_even, 2, 3, 6, 7);
  number[3] = SHUFFLED(odd, more_odd, 2, 3, 6, 7);
#else
  number[0] = SHUFFLED(of[0], of[1], 0, 2);
  number[1] = SHUFFLED(of[0], of[1], 1, 3);
#endif
  EACH(i, SQUARE) *(row_anywhere *)((aliased_scalar *)(destination + i) + k) = number[i];
}
#endif

/* load_array for LANES problems one after the other; gcc before 12 has no shuffles. */
OUTLINED void load_vector(real *destination, const scalar *from, size_t count) {
  size_t begin = 0;
#ifdef SHUFFLED
  for (; begin + SQUARE <= count; begin += SQUARE)
    for (int k = 0; k < LANES; k += SQUARE) load_square(destination + begin, k, from + (size_t)k * count + begin, count);
#endif
  for (int k = 0; k < LANES; k += PIECE)
    for (size_t i = begin; i < count; i++) {
      const piece numbers = piece_of(from + (size_t)k * count + i, count);
      memcpy((aliased_scalar *)(destination + i) + k, &numbers, sizeof numbers);
    }
}
#endif

/* Loads `count` numbers of each problem from `first` on into the lanes of `where`, zeros where there is no source. The
 * other lanes may have any numbers. */
OUTLINED void load_arrays(out_reals destination, mask where, const void *source, int64_t first, size_t count) {
#if LANES > 1
  if (!source) return zero_reals(destination, count);
  if (!lane_any(lane_not(where))) return load_vector(destination, (const scalar *)source + (size_t)first * count, count);
#endif
  KEEP_LOOP for (int k = 0; k < LANES; k++)
    if (lane_test(&where, k)) load_array(destination, k, source, first + k, count);
}

#endif

/* Triangles and register tiles: what products of matrices of lanes are made of.
 *
 * A product is formed tile by tile. A tile's sums stay in registers while the loop runs over the inner dimension, so
 * that each number loaded serves TILE multiplications: a core that loads as many vectors per cycle as it multiplies
 * would otherwise wait for its loads. `rows` and `columns` are constants wherever these functions are inlined.
 */
#ifndef MPCGEN_TILE_H
#define MPCGEN_TILE_H

#include "mpcgen_lane.h"

#define TRIANGLE(i, j) ((i) * ((i) + 1) / 2 + (j))
#define SYMMETRIC(i, j) ((i) >= (j) ? TRIANGLE(i, j) : TRIANGLE(j, i))

/* Sums, one row of factors and one factor of the other side must fit into the registers: 16, or 32 of 64 bytes. */
#if REGISTER_BYTES == 64
#define TILE 4
#else
#define TILE 3
#endif

/* How many of n rows or columns fill tiles; the other n % TILE make a smaller one. */
#define WHOLE_TILES(n) ((n) - (n) % TILE)

#if defined(__clang__) || defined(__CUDACC__)
#define UNROLL _Pragma("unroll")
#define KEEP_LOOP _Pragma("unroll 1")
#else
#define UNROLL _Pragma("GCC unroll 8")
#define KEEP_LOOP _Pragma("GCC unroll 1")
#endif
/* In a loop that asks in each turn whether there is a `pointer`: or gcc makes two loops of it, which may round differently. */
#if MPCGEN_CUDA
#define ONE_LOOP(pointer) (void)(pointer)
#else
#define ONE_LOOP(pointer) __asm__("" : "+r"(pointer))
#endif
#define EACH(i, count) UNROLL for (int i = 0; i < (count); i++)
#define ALWAYS_INLINE INLINE __attribute__((always_inline))

ALWAYS_INLINE void clear_tile(real sums[TILE][TILE], int rows, int columns) {
  EACH(r, rows) EACH(c, columns) sums[r][c] = ALL(0);
}

/* sums += left right' */
ALWAYS_INLINE void add_outer(real sums[TILE][TILE], in_reals left, int rows, in_reals right, int columns) {
  EACH(r, rows) EACH(c, columns) sums[r][c] += left[r] * right[c];
}

#endif

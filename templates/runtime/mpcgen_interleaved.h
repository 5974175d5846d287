/* What the lane type is on a CUDA device: one problem per thread, and workspaces interleaved by warp.
 *
 * This is C++20 (nvcc, or any C++ compiler behind mpcgen_shim.h): in_reals and out_reals make templates of the
 * kernels' functions, which take parts of a workspace and local arrays alike. */
#ifndef MPCGEN_INTERLEAVED_H
#define MPCGEN_INTERLEAVED_H

#include <stddef.h>

#if !defined(__CUDACC__)
#include "mpcgen_shim.h"
#endif

#define restrict
#define INLINE static __device__ __forceinline__
#define FUNCTION [[maybe_unused]] static __device__
#define OUTLINED FUNCTION
#define EXPANSION FUNCTION
#define RARE FUNCTION
#define COUNT [[maybe_unused]] static __host__ __device__ /* how much memory something needs: asked on both sides */
#define TABLE static __device__ const
#define stored_reals const reals
#define in_reals const auto
#define out_reals const auto

#define LANES 1
typedef scalar real;
typedef int mask;

enum {
  WARP = 32,
  INTERLEAVED = MPCGEN_WARP ? 1 : WARP, /* workspaces: those of a warp's threads, or the one that the warp has */
};

/* A thread's part of a workspace: its element i lies beside element i of its neighbours in the warp, so that a
 * warp's accesses are one piece of memory. Where a warp works on a problem, a plain array. */
struct reals {
  scalar *at;
  __device__ __forceinline__ scalar &operator[](ptrdiff_t i) const { return at[i * INTERLEAVED]; }
  __device__ __forceinline__ reals operator+(ptrdiff_t i) const { return reals{at + i * INTERLEAVED}; }
  __device__ __forceinline__ reals &operator+=(ptrdiff_t i) {
    at += i * INTERLEAVED;
    return *this;
  }
};

INLINE scalar lane_get(in_reals value, int) { return value[0]; }
INLINE void lane_set(out_reals value, int, scalar element) { value[0] = element; }
INLINE int lane_test(const mask *value, int) { return *value != 0; }
INLINE void lane_mark(mask *value, int, int on) { *value = on ? -1 : 0; }
INLINE int lane_count(const mask *value, int) { return *value; }
INLINE void lane_recount(mask *value, int, int count) { *value = count; }

INLINE void zero_reals(out_reals at, size_t count) {
  for (size_t i = 0; i < count; i++) at[(ptrdiff_t)i] = 0;
}
INLINE void copy_reals(out_reals to, in_reals from, size_t count) {
  for (size_t i = 0; i < count; i++) to[(ptrdiff_t)i] = from[(ptrdiff_t)i];
}

#endif

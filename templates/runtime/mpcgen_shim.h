/* CUDA's words for a C++ compiler without CUDA: a kernel runs on the host, one thread after the other.
 *
 * For tests on machines without a GPU. Sound only for kernels whose threads do not wait for each other, which those
 * with a thread per problem do not: they meet in an atomic counter and between launches. Those with a warp per problem
 * have a single thread for it here; with MPCGEN_SHIM_LANES=32 they have them all, as threads of the host that run at
 * the same time, so that a sanitizer for threads sees what a race on a device would be. Pointers are the host's. */
#ifndef MPCGEN_SHIM_H
#define MPCGEN_SHIM_H

#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
#define __shared__ static /* blocks run one after the other */

struct dim3 {
  unsigned x;
};
static thread_local dim3 blockIdx, blockDim, threadIdx, gridDim;

typedef int cudaError_t;
typedef void *cudaStream_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };

static inline unsigned long long atomicAdd(unsigned long long *address, unsigned long long value) {
  const unsigned long long before = *address;
  *address = before + value;
  return before;
}

static inline cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t) {
  memset(at, value, bytes);
  return cudaSuccess;
}

static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline const char *cudaGetErrorString(cudaError_t) { return "none: this is the host"; }

/* So few that a batch of some hundred problems makes threads come back for more, as a large one does on a device. */
template <class kernel_type>
static cudaError_t resident_threads(kernel_type, int block, int64_t *threads) {
  *threads = 2 * block;
  return cudaSuccess;
}

#if MPCGEN_SHIM_LANES > 1
#include "mpcgen_shim_warp.h"
#else
template <class task_type>
static void run_block(void (*kernel)(task_type), const task_type &task) {
  for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) kernel(task);
}
#endif

template <class task_type>
static void launch(void (*kernel)(task_type), int64_t blocks, int block, cudaStream_t, const task_type &task) {
  gridDim.x = (unsigned)blocks;
  blockDim.x = (unsigned)block;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) run_block(kernel, task);
}

#endif

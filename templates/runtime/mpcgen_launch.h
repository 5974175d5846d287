/* Launching a kernel whose threads loop over the work there is: how many of them a CUDA device holds at once. */
#ifndef MPCGEN_LAUNCH_H
#define MPCGEN_LAUNCH_H

#include "mpcgen_lane.h"

#ifdef __CUDACC__
/* How many threads of a kernel the current device holds at once. */
template <class kernel_type>
static cudaError_t resident_threads(kernel_type kernel, int block, int64_t *threads) {
  int device = 0, processors = 0, blocks = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (!error) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (!error) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, block, 0);
  *threads = (int64_t)processors * blocks * block;
  return error;
}

template <class task_type>
static void launch(void (*kernel)(task_type), int64_t blocks, int block, cudaStream_t stream, const task_type &task) {
  kernel<<<(unsigned)blocks, (unsigned)block, 0, stream>>>(task);
}
#endif

#endif

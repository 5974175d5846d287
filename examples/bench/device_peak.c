/* Peak rate of multiply-adds of a CUDA device: what the share of peak is a share of.
 *
 * Compiled like the kernels, for CUDA or over its shim, once per precision. Sixteen independent chains in every thread
 * that the device holds at once hide the latency of the multiply-add units; unrolled, the loop costs next to nothing. */
#include "mpcgen_launch.h"
#include "mpcgen_tile.h"

enum { CHAINS = 16, UNROLLED = 8, BLOCK = 256 };

typedef struct {
  int rounds;
  scalar factor, term; /* from the host, so that no compiler works the chains out */
  scalar *sink;
} peak_task;

static __global__ void __launch_bounds__(BLOCK) peak_kernel(const __grid_constant__ peak_task task) {
  scalar chains[CHAINS], sum = 0;
  EACH(i, CHAINS) chains[i] = (scalar)(threadIdx.x + i);
  for (int round = 0; round < task.rounds; round++)
    EACH(k, UNROLLED) EACH(i, CHAINS) chains[i] = chains[i] * task.factor + task.term;
  EACH(i, CHAINS) sum += chains[i];
  if (sum < 0) *task.sink = sum; /* never, but it keeps the chains alive */
}

#pragma GCC visibility push(default)
extern "C" {
int64_t MPCGEN_ENTRY(peak_run)(int32_t rounds, void *stream);
}
#pragma GCC visibility pop

/* Starts `rounds` rounds on `stream`. Returns their operations, two per multiply-add, or minus a cudaError_t. */
int64_t MPCGEN_ENTRY(peak_run)(int32_t rounds, void *stream) {
  int64_t threads = 0;
  cudaError_t error = resident_threads(peak_kernel, BLOCK, &threads);
  if (error) return -(int64_t)error;
  const peak_task task = {rounds, R(0.5), R(1), nullptr};
  launch(peak_kernel, threads / BLOCK, BLOCK, (cudaStream_t)stream, task);
  error = cudaGetLastError();
  return error ? -(int64_t)error : 2 * CHAINS * UNROLLED * threads * rounds;
}

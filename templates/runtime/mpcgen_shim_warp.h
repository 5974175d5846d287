/* A block whose threads run at the same time, on threads of the host: warps that meet, for mpcgen_shim.h. */
#ifndef MPCGEN_SHIM_WARP_H
#define MPCGEN_SHIM_WARP_H

#include <pthread.h>

#include <thread>
#include <vector>

/* Of the one warp that runs. Two by turns: where a lane that leaves a barrier late and one that is at the next already
 * used the same, a sanitizer would take the second's writes for known to the first. */
static pthread_barrier_t warp_barriers[2];
static unsigned warp_votes[2]; /* noes of the present vote, and of the last or the next */

static inline void __syncwarp() {
  static thread_local unsigned number = 0;
  pthread_barrier_wait(&warp_barriers[number++ % 2]);
}

/* Unlike a device's, this vote makes known what the lanes wrote before. */
static inline int __all_sync(unsigned, int yes) {
  static thread_local unsigned number = 0;
  unsigned *noes = &warp_votes[number++ % 2];
  if (!yes) __atomic_fetch_add(noes, 1u, __ATOMIC_RELAXED);
  __syncwarp();
  const int all = __atomic_load_n(noes, __ATOMIC_RELAXED) == 0;
  __syncwarp();
  __atomic_store_n(noes, 0u, __ATOMIC_RELAXED);
  return all;
}

template <class task_type>
static void run_block(void (*kernel)(task_type), const task_type &task) {
  const dim3 block = blockIdx, size = blockDim, grid = gridDim;
  std::vector<std::thread> threads;
  for (pthread_barrier_t &barrier : warp_barriers) pthread_barrier_init(&barrier, NULL, size.x);
  for (unsigned i = 0; i < size.x; i++)
    threads.emplace_back([=, &task] {
      blockIdx = block, blockDim = size, gridDim = grid;
      threadIdx.x = i;
      kernel(task);
    });
  for (std::thread &thread : threads) thread.join();
  for (pthread_barrier_t &barrier : warp_barriers) pthread_barrier_destroy(&barrier);
}

#endif

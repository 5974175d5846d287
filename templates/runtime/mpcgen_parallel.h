/* Sharing a batch among threads: plain POSIX threads made for the call and joined before it returns.
 *
 * No pool outlives a call, so forking is safe and no second OpenMP runtime meets torch's. Workers pull pieces of
 * work from an atomic counter; what a piece computes does not depend on who computes it. */
#ifndef MPCGEN_PARALLEL_H
#define MPCGEN_PARALLEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { MAX_THREADS = 256, CACHE_LINE = 64 };

typedef struct {
  _Atomic int64_t next;
  int64_t count;
  atomic_int out_of_memory;
} work_queue;

/* The next piece of work, or -1 when there is none left. */
static inline int64_t take(work_queue *queue) {
  const int64_t piece = atomic_fetch_add_explicit(&queue->next, 1, memory_order_relaxed);
  return piece < queue->count ? piece : -1;
}

/* Runs `worker(shared)` on `threads` threads, the calling one included. If the system refuses a thread, the
 * others do its work. */
static void run_workers(void *(*worker)(void *), void *shared, int threads) {
  pthread_t handles[MAX_THREADS];
  int started = 0;
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  while (started < threads - 1 && pthread_create(&handles[started], NULL, worker, shared) == 0) started++;
  worker(shared);
  for (int i = 0; i < started; i++) pthread_join(handles[i], NULL);
}

static inline void *allocate(size_t bytes) {
  return aligned_alloc(CACHE_LINE, (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE + CACHE_LINE);
}

#endif

/* One problem at a time on the calling thread, where there are no others: what mpcgen_parallel.h is for batches. */
#ifndef MPCGEN_ALONE_H
#define MPCGEN_ALONE_H

#include "mpcgen_lane.h"

/* A small machine's stack: no frame for the sweep beside its caller's, and none of a stage's policy while the model of the
 * next is made. */
#define RICCATI_FUNCTION INLINE __attribute__((always_inline))
#define BACKWARD_FUNCTION RICCATI_FUNCTION
#define POLICY_FUNCTION OUTLINED

typedef struct {
  int64_t next, count;
} work_queue;

/* The next piece of work, or -1 when there is none left. */
INLINE int64_t take(work_queue *queue) { return queue->next < queue->count ? queue->next++ : -1; }

/* Nobody stops a call. */
INLINE int interrupted(const work_queue *queue, const double *since, double operations) {
  (void)queue, (void)since, (void)operations;
  return 0;
}

FUNCTION int is_stopped(int asks) { return (void)asks, 0; }

#endif

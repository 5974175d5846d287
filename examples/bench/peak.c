/* Peak rate of multiply-adds over the lane type: what the share of peak is a share of.
 *
 * Compiled like the kernels, once for each of their variants. Twelve independent chains hide the latency of the
 * multiply-add units (at most five cycles, two units) and fit sixteen registers with their two constants. */
#include "mpcgen_lane.h"
#include "mpcgen_parallel.h"

enum { CHAINS = 12 };

/* Keeps a chain in a register of its own, lest the compiler fold several chains into one vector. */
#if defined(__x86_64__) || defined(__i386__)
#define IN_REGISTER(value) __asm__ volatile("" : "+x"(value))
#elif defined(__aarch64__)
#define IN_REGISTER(value) __asm__ volatile("" : "+w"(value))
#else
#define IN_REGISTER(value) __asm__ volatile("" : "+m"(value))
#endif

static void *chains(void *shared) {
  const int64_t rounds = *(const int64_t *)shared;
  real a0 = ALL(0), a1 = ALL(1), a2 = ALL(2), a3 = ALL(3), a4 = ALL(4), a5 = ALL(5);
  real a6 = ALL(6), a7 = ALL(7), a8 = ALL(8), a9 = ALL(9), a10 = ALL(10), a11 = ALL(11);
  real factor = ALL(0.5), term = ALL(1);
  IN_REGISTER(factor);
  IN_REGISTER(term);
#define STEP(chain)               \
  chain = chain * factor + term;  \
  IN_REGISTER(chain)
  for (int64_t round = 0; round < rounds; round++) {
    STEP(a0); STEP(a1); STEP(a2); STEP(a3); STEP(a4); STEP(a5);
    STEP(a6); STEP(a7); STEP(a8); STEP(a9); STEP(a10); STEP(a11);
  }
  return NULL;
}

/* Runs `rounds` multiply-adds in each chain of each thread. Returns the operations done, two per multiply-add. */
int64_t peak_run(int64_t rounds, int32_t threads) {
  work_queue queue = {.count = threads};
  run_workers(chains, &rounds, &queue, threads);
  return 2 * CHAINS * LANES * rounds * threads;
}

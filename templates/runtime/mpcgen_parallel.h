/* Sharing a batch among threads: POSIX threads that are kept between calls.
 *
 * To wake one takes 20 to 100 us, to make and join one 90, which is a batch of fifty pendulums. So one that has just
 * worked stays awake for PATIENCE_NS, the time between calls that follow each other, and then sleeps on a condition
 * variable. Meanwhile it yields its core again and again to whoever wants it, torch's threads among them. The caller
 * does not wait for a thread that has not woken when the work is done. Workers pull pieces of work from an atomic
 * counter; what a piece computes does not depend on who computes it: rounding and the flushing of denormals are the
 * caller's everywhere. A fork's child has no threads, and begins with none. Each of an extension's four variants has a
 * pool of its own. */
#ifndef MPCGEN_PARALLEL_H
#define MPCGEN_PARALLEL_H

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

enum { MAX_THREADS = 256, CACHE_LINE = 64, PATIENCE_NS = 200000 };

typedef struct {
  _Atomic int64_t next;
  int64_t count;
} work_queue;

/* The next piece of work, or -1 when there is none left. */
static inline int64_t take(work_queue *queue) {
  const int64_t piece = atomic_fetch_add_explicit(&queue->next, 1, memory_order_relaxed);
  return piece < queue->count ? piece : -1;
}

typedef void *(*work_function)(void *);

static struct {
  pthread_mutex_t lock;
  pthread_cond_t offered, finished;
  int threads;          /* that exist */
  int taken;            /* a call has the pool */
  atomic_int vacancies; /* threads that may still join the call */
  atomic_int working;   /* threads that did */
  work_function work;
  void *shared;
  fenv_t environment; /* of the caller: a thread has its own since it was made */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .offered = PTHREAD_COND_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

static void forget_pool(void) {
  pthread_mutex_init(&pool.lock, NULL);
  pthread_cond_init(&pool.offered, NULL);
  pthread_cond_init(&pool.finished, NULL);
  pool.threads = pool.taken = pool.vacancies = pool.working = 0;
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Yields the core until the number is zero, or until it is not; returns early when patience ends. */
static void yield_until(atomic_int *number, int zero) {
  const int64_t end = nanoseconds() + PATIENCE_NS;
  while ((atomic_load_explicit(number, memory_order_relaxed) == 0) != zero && nanoseconds() < end) sched_yield();
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_pool); }

static void *pool_thread(void *unused) {
  (void)unused;
  pthread_mutex_lock(&pool.lock);
  for (;;) {
    while (pool.vacancies == 0) pthread_cond_wait(&pool.offered, &pool.lock);
    pool.vacancies--;
    pool.working++;
    const work_function work = pool.work;
    void *shared = pool.shared;
    fesetenv(&pool.environment);
    pthread_mutex_unlock(&pool.lock);
    work(shared);
    pthread_mutex_lock(&pool.lock);
    if (--pool.working == 0) pthread_cond_signal(&pool.finished);
    pthread_mutex_unlock(&pool.lock);
    yield_until(&pool.vacancies, 0);
    pthread_mutex_lock(&pool.lock);
  }
  return NULL;
}

/* Offers the call's work to `helpers` threads; returns 0 if another call has them. */
static int take_pool(work_function work, void *shared, int helpers) {
  pthread_once(&pool_once, watch_forks);
  pthread_mutex_lock(&pool.lock);
  const int mine = !pool.taken;
  if (mine) {
    pthread_t handle;
    while (pool.threads < helpers && pthread_create(&handle, NULL, pool_thread, NULL) == 0) {
      pthread_detach(handle);
      pool.threads++;
    }
    pool.taken = 1;
    pool.work = work;
    pool.shared = shared;
    fegetenv(&pool.environment);
    pool.vacancies = helpers < pool.threads ? helpers : pool.threads;
    for (int i = 0; i < pool.vacancies; i++) pthread_cond_signal(&pool.offered);
  }
  pthread_mutex_unlock(&pool.lock);
  return mine;
}

/* Turns away the threads that have not joined the call, and waits for the others. */
static void give_back_pool(void) {
  pthread_mutex_lock(&pool.lock);
  pool.vacancies = 0;
  pthread_mutex_unlock(&pool.lock);
  yield_until(&pool.working, 1);
  pthread_mutex_lock(&pool.lock);
  while (pool.working > 0) pthread_cond_wait(&pool.finished, &pool.lock);
  pool.taken = 0;
  pthread_mutex_unlock(&pool.lock);
}

/* Runs `work(shared)` on up to `threads` threads, the calling one included: fewer if the system refuses one, or while
 * a call from another thread of the program has them. */
static void run_workers(work_function work, void *shared, int threads) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  const int helped = threads > 1 && take_pool(work, shared, threads - 1);
  work(shared);
  if (helped) give_back_pool();
}

#endif

/* Sharing a batch among threads: POSIX threads that are kept between calls.
 *
 * To wake one takes 20 to 100 us, to make and join one 90, which is a batch of fifty pendulums. So one that has just
 * worked stays awake for PATIENCE_NS, the time between calls that follow each other, and then sleeps on a condition
 * variable. Meanwhile it yields its core again and again to whoever wants it, torch's threads among them. The caller
 * does not wait for a thread that has not woken when the work is done. Workers pull pieces of work from an atomic
 * counter; what a piece computes does not depend on who computes it: rounding and the flushing of denormals are the
 * caller's everywhere. A fork's child has no threads, and begins with none. Each of an extension's four variants has a
 * pool of its own.
 *
 * A call that takes long can be stopped: the calling thread, and no other, asks `mpcgen_poll` every ASK_NS whether to go
 * on, and all of the call's threads leave when the answer is no. So a host language can attend to its signals meanwhile.
 * Short calls do not as much as read the clock for that. */
#ifndef MPCGEN_PARALLEL_H
#define MPCGEN_PARALLEL_H

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

enum { MAX_THREADS = 256, CACHE_LINE = 64, PATIENCE_NS = 200000, ASK_NS = 80000000 };
#define ASK_WORK 4e6 /* operations of a vector after which a worker looks at the clock: some milliseconds */

/* Whether a call that takes long is to go on: 0, or 1 to stop it; -1 not to be asked again. NULL: nobody asks. Called
 * with no lock held, and may call the kernels. Weak, since each variant's object file has one: a library has one. */
__attribute__((weak, visibility("hidden"))) int (*mpcgen_poll)(void);

typedef struct {
  _Atomic int64_t next;
  int64_t count;
  atomic_int stopped;
  pthread_t caller;
  int64_t due; /* when the caller asks next; 0 before it first looks at the clock */
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
  pool.threads = pool.taken = 0;
  atomic_store(&pool.vacancies, 0);
  atomic_store(&pool.working, 0);
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* The caller asks whether to go on, if it is time to. */
static void ask_in_time(work_queue *queue) {
  int64_t now = nanoseconds();
  if (queue->due != 0 && now >= queue->due) {
    const int answer = mpcgen_poll();
    if (answer > 0) atomic_store(&queue->stopped, 1);
    now = answer < 0 ? INT64_MAX - ASK_NS : nanoseconds();
  } else if (queue->due != 0) {
    return;
  }
  queue->due = now + ASK_NS;
}

/* Whether a worker is to leave its work undone, asked between pieces of `operations` each. `since` is the worker's own:
 * operations since it last looked at the clock, zero at first. */
static inline int interrupted(work_queue *queue, double *since, double operations) {
  if (atomic_load_explicit(&queue->stopped, memory_order_relaxed)) return 1;
  *since += operations;
  if (*since < ASK_WORK) return 0;
  *since = 0;
  if (!mpcgen_poll || !pthread_equal(queue->caller, pthread_self())) return 0;
  ask_in_time(queue);
  return atomic_load_explicit(&queue->stopped, memory_order_relaxed);
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

/* Waits until a thread has finished, or for half of ASK_NS; the pool is locked. */
static void wait_for_finish(void) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end); /* what a condition variable goes by that is made as the pool's is */
  end.tv_nsec += ASK_NS / 2;
  if (end.tv_nsec >= 1000000000) {
    end.tv_nsec -= 1000000000;
    end.tv_sec += 1;
  }
  pthread_cond_timedwait(&pool.finished, &pool.lock, &end);
}

/* Turns away the threads that have not joined the call, and waits for the others. */
static void give_back_pool(work_queue *queue) {
  pthread_mutex_lock(&pool.lock);
  pool.vacancies = 0;
  pthread_mutex_unlock(&pool.lock);
  yield_until(&pool.working, 1);
  pthread_mutex_lock(&pool.lock);
  while (pool.working > 0) {
    if (!mpcgen_poll) {
      pthread_cond_wait(&pool.finished, &pool.lock);
      continue;
    }
    wait_for_finish();
    pthread_mutex_unlock(&pool.lock);
    ask_in_time(queue);
    pthread_mutex_lock(&pool.lock);
  }
  pool.taken = 0;
  pthread_mutex_unlock(&pool.lock);
}

/* Runs `work(shared)`, which takes its pieces from the queue, on up to `threads` threads, the calling one included:
 * fewer if the system refuses one, or while a call from another thread of the program has them. Returns 0, or STOPPED
 * if it was stopped, with work undone. */
enum { STOPPED = 2 };
static int run_workers(work_function work, void *shared, work_queue *queue, int threads) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  queue->caller = pthread_self();
  const int helped = threads > 1 && take_pool(work, shared, threads - 1);
  work(shared);
  if (helped) give_back_pool(queue);
  return atomic_load(&queue->stopped) ? STOPPED : 0;
}

#endif

/* Sharing a batch among threads: POSIX threads that are kept between calls.
 *
 * To wake one takes 20 to 100 us, to make and join one 90, which is a batch of fifty pendulums. So one that has just
 * worked stays awake for PATIENCE_NS, the time between calls that follow each other, and then sleeps on a condition
 * variable. Meanwhile it yields its core again and again to whoever wants it, torch's threads among them. The caller
 * does not wait for a thread that has not woken when the work is done. Workers pull pieces of work from an atomic
 * counter; what a piece computes does not depend on who computes it: rounding and the flushing of denormals are the
 * caller's everywhere. A fork's child has no threads, and begins with none. A process has one pool, whatever the number of
 * libraries with kernels: `mpcgen_join` makes one use another's.
 *
 * A call that takes long can be stopped: the calling thread, and no other, asks `poll` every ASK_NS whether to go
 * on, and all of the call's threads leave when the answer is no. So a host language can attend to its signals meanwhile.
 * Short calls do not as much as read the clock for that. What may take long within a piece of work asks `is_stopped`. */
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

/* Libraries of one interface share it (ABI in mpcgen.runtime.loading): a change here is a new interface. */
typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t offered, finished;
  pthread_once_t watched; /* forks are */
  int threads;            /* that exist */
  int taken;              /* a call has the pool */
  atomic_int vacancies;   /* threads that may still join the call */
  atomic_int working;     /* threads that did */
  work_function work;
  void *shared;
  fenv_t environment; /* of the caller: a thread has its own since it was made */
  /* Whether a call that takes long is to go on: 0, or 1 to stop it; -1 not to be asked again. NULL: nobody asks.
   * Called with no lock held, and may call the kernels. */
  int (*poll)(void);
} thread_pool;

/* Weak, since each object file has them: a library has one of each. */
#define ONE_PER_LIBRARY __attribute__((weak, visibility("hidden")))
ONE_PER_LIBRARY thread_pool mpcgen_own_pool = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .offered = PTHREAD_COND_INITIALIZER,
    .finished = PTHREAD_COND_INITIALIZER,
    .watched = PTHREAD_ONCE_INIT,
};
ONE_PER_LIBRARY thread_pool *mpcgen_pool = &mpcgen_own_pool;

/* Lets this library's kernels use the pool of another, where one is given, and returns the one that they use. `poll`:
 * who is asked whether a call is to go on, for all that share the pool. Before the first call of a kernel. */
void *mpcgen_join(void *pool, int (*poll)(void));
__attribute__((weak, visibility("protected"))) void *mpcgen_join(void *pool, int (*poll)(void)) {
  if (pool) mpcgen_pool = pool;
  mpcgen_pool->poll = poll;
  return mpcgen_pool;
}

static void forget_pool(void) {
  pthread_mutex_init(&mpcgen_pool->lock, NULL);
  pthread_cond_init(&mpcgen_pool->offered, NULL);
  pthread_cond_init(&mpcgen_pool->finished, NULL);
  mpcgen_pool->threads = mpcgen_pool->taken = 0;
  atomic_store(&mpcgen_pool->vacancies, 0);
  atomic_store(&mpcgen_pool->working, 0);
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
    const int answer = mpcgen_pool->poll();
    if (answer > 0) atomic_store(&queue->stopped, 1);
    now = answer < 0 ? INT64_MAX - ASK_NS : nanoseconds();
  } else if (queue->due != 0) {
    return;
  }
  queue->due = now + ASK_NS;
}

static _Thread_local work_queue *served; /* by this thread; NULL: none that it has asked about */

static inline int is_caller(const work_queue *queue) {
  return mpcgen_pool->poll && pthread_equal(queue->caller, pthread_self());
}

/* Whether the call that this thread works for is stopped: what has begun need not be right then, but has to end. `asks`:
 * the caller does so first, if it is time to. */
static inline int is_stopped(int asks) {
  work_queue *const queue = served; /* what is asked may serve another one */
  if (!queue) return 0;
  if (asks && is_caller(queue)) ask_in_time(queue);
  return atomic_load_explicit(&queue->stopped, memory_order_relaxed);
}

/* Whether a worker is to leave its work undone, asked between pieces of `operations` each. `since` is the worker's own:
 * operations since it last looked at the clock, zero at first. */
static inline int interrupted(work_queue *queue, double *since, double operations) {
  served = queue;
  if (atomic_load_explicit(&queue->stopped, memory_order_relaxed)) return 1;
  *since += operations;
  if (*since < ASK_WORK) return 0;
  *since = 0;
  if (!is_caller(queue)) return 0;
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
  pthread_mutex_lock(&mpcgen_pool->lock);
  for (;;) {
    while (mpcgen_pool->vacancies == 0) pthread_cond_wait(&mpcgen_pool->offered, &mpcgen_pool->lock);
    mpcgen_pool->vacancies--;
    mpcgen_pool->working++;
    const work_function work = mpcgen_pool->work;
    void *shared = mpcgen_pool->shared;
    fesetenv(&mpcgen_pool->environment);
    pthread_mutex_unlock(&mpcgen_pool->lock);
    work(shared);
    served = NULL;
    pthread_mutex_lock(&mpcgen_pool->lock);
    if (--mpcgen_pool->working == 0) pthread_cond_signal(&mpcgen_pool->finished);
    pthread_mutex_unlock(&mpcgen_pool->lock);
    yield_until(&mpcgen_pool->vacancies, 0);
    pthread_mutex_lock(&mpcgen_pool->lock);
  }
  return NULL;
}

/* Offers the call's work to `helpers` threads; returns 0 if another call has them. */
static int take_pool(work_function work, void *shared, int helpers) {
  pthread_once(&mpcgen_pool->watched, watch_forks);
  pthread_mutex_lock(&mpcgen_pool->lock);
  const int mine = !mpcgen_pool->taken;
  if (mine) {
    pthread_t handle;
    while (mpcgen_pool->threads < helpers && pthread_create(&handle, NULL, pool_thread, NULL) == 0) {
      pthread_detach(handle);
      mpcgen_pool->threads++;
    }
    mpcgen_pool->taken = 1;
    mpcgen_pool->work = work;
    mpcgen_pool->shared = shared;
    fegetenv(&mpcgen_pool->environment);
    mpcgen_pool->vacancies = helpers < mpcgen_pool->threads ? helpers : mpcgen_pool->threads;
    for (int i = 0; i < mpcgen_pool->vacancies; i++) pthread_cond_signal(&mpcgen_pool->offered);
  }
  pthread_mutex_unlock(&mpcgen_pool->lock);
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
  pthread_cond_timedwait(&mpcgen_pool->finished, &mpcgen_pool->lock, &end);
}

/* Turns away the threads that have not joined the call, and waits for the others. */
static void give_back_pool(work_queue *queue) {
  pthread_mutex_lock(&mpcgen_pool->lock);
  mpcgen_pool->vacancies = 0;
  pthread_mutex_unlock(&mpcgen_pool->lock);
  yield_until(&mpcgen_pool->working, 1);
  pthread_mutex_lock(&mpcgen_pool->lock);
  while (mpcgen_pool->working > 0) {
    if (!mpcgen_pool->poll) {
      pthread_cond_wait(&mpcgen_pool->finished, &mpcgen_pool->lock);
      continue;
    }
    wait_for_finish();
    pthread_mutex_unlock(&mpcgen_pool->lock);
    ask_in_time(queue);
    pthread_mutex_lock(&mpcgen_pool->lock);
  }
  mpcgen_pool->taken = 0;
  pthread_mutex_unlock(&mpcgen_pool->lock);
}

/* Runs `work(shared)`, which takes its pieces from the queue, on up to `threads` threads, the calling one included:
 * fewer if the system refuses one, or while a call from another thread of the program has them. Returns 0, or STOPPED
 * if it was stopped, with work undone. */
enum { STOPPED = 2 };
RARE int run_workers(work_function work, void *shared, work_queue *queue, int threads) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  queue->caller = pthread_self();
  const int helped = threads > 1 && take_pool(work, shared, threads - 1);
  work(shared);
  served = NULL;
  if (helped) give_back_pool(queue);
  return atomic_load(&queue->stopped) ? STOPPED : 0;
}

#endif

/* The pool of threads, exercised: every piece of work is done once, whoever calls, and in the caller's environment.
 * Exit code 0 if all of it held; else what failed is printed. */
#include <fenv.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define RARE static /* of mpcgen_lane.h, which needs a precision */
#include "mpcgen_parallel.h"

enum { PIECES = 500, CALLERS = 4, CALLS = 200, FORKS = 4, WORKERS = 4 };

typedef struct {
  work_queue queue;
  atomic_int done[PIECES];
} counted;

static void *count(void *shared) {
  counted *work = shared;
  for (int64_t piece; (piece = take(&work->queue)) >= 0;) atomic_fetch_add(&work->done[piece], 1);
  return NULL;
}

static int each_once(int threads) {
  counted work = {.queue.count = PIECES};
  run_workers(count, &work, &work.queue, threads);
  int wrong = 0;
  for (int i = 0; i < PIECES; i++) wrong += work.done[i] != 1;
  return wrong == 0;
}

static void *call_often(void *failed) {
  for (int i = 0; i < CALLS; i++)
    if (!each_once(1 + i % 7)) atomic_store((atomic_int *)failed, 1);
  return NULL;
}

/* Children of a program whose other threads are in the pool at that moment. */
static int children_work(void) {
  int good = 1;
  for (int i = 0; i < FORKS; i++) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(30); /* rather than wait for ever */
      for (int k = 0; k < 20; k++)
        if (!each_once(5)) _exit(1);
      _exit(0);
    }
    int status = 1;
    good &= waitpid(child, &status, 0) == child && status == 0;
  }
  return good;
}

static int concurrent_calls_and_forks(void) {
  pthread_t callers[CALLERS];
  atomic_int failed = 0;
  for (int i = 0; i < CALLERS; i++)
    if (pthread_create(&callers[i], NULL, call_often, &failed)) return 0;
  const int good = children_work();
  for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
  return good && !failed;
}

typedef struct {
  atomic_int arrived, as_told;
  int mode;
} rounded;

/* Waits for the others, so that every thread of the pool is asked. */
static void *ask_rounding(void *shared) {
  rounded *work = shared;
  if (fegetround() == work->mode) atomic_fetch_add(&work->as_told, 1);
  atomic_fetch_add(&work->arrived, 1);
  for (int i = 0; i < 2000 && atomic_load(&work->arrived) < WORKERS; i++) usleep(1000);
  return NULL;
}

static int rounding_is_the_callers(void) {
  const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_TONEAREST};
  int good = 1;
  for (int i = 0; i < 3; i++) {
    rounded work = {.mode = modes[i]};
    fesetround(modes[i]);
    work_queue queue = {.count = WORKERS};
    run_workers(ask_rounding, &work, &queue, WORKERS);
    good &= work.as_told == WORKERS;
  }
  return good;
}

int main(void) {
  const struct { const char *what; int (*holds)(void); } checks[] = {
      {"concurrent calls and forks", concurrent_calls_and_forks}, {"the caller's rounding", rounding_is_the_callers}};
  int failures = 0;
  for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
    if (!checks[i].holds()) failures += printf("%s: failed\n", checks[i].what) > 0;
  return failures;
}

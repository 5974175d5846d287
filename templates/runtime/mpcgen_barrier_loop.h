/* Closed loops by the interior point: a lane that has solved a problem goes on with the problem's next step. */
#ifndef MPCGEN_BARRIER_LOOP_H
#define MPCGEN_BARRIER_LOOP_H

#include "mpcgen_solved_steps.h"

/* Takes the step that an idle lane has ended, if it has one; returns the problem that it goes on with, at s->loop_step[k]:
 * the same, or where that is through the next of the queue; -1 where there is none left. */
FUNCTION int64_t next_of_loops(barrier_state *s, solve_job *job, int k) {
  if (s->has_problem[k]) {
    const int t = take_step_of(job->loop, s->problem[k], s->loop_step[k]);
    s->has_problem[k] = t != PLANT_FAILED && t < job->loop->steps;
    s->loop_step[k] = s->has_problem[k] ? t : 0;
    if (s->has_problem[k]) return s->problem[k];
  }
  const int64_t problem = take(&job->queue);
  s->has_problem[k] = problem >= 0;
  return problem;
}

#endif

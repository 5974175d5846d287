/* A stage by itself: next state and cost. A function of its own wherever it is called, so that all round alike. */
#ifndef MPCGEN_STAGE_ALONE_H
#define MPCGEN_STAGE_ALONE_H

#include "mpcgen_problem.h"

OUTLINED void stage_alone(reals x, reals u, reals theta, reals theta_t, reals next, real *cost) {
  stage_dynamics(x, u, theta, theta_t, next, cost);
}

#endif

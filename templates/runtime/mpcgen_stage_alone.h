/* A stage by itself. Functions of their own wherever they are called, so that all round alike, and there is one of each. */
#ifndef MPCGEN_STAGE_ALONE_H
#define MPCGEN_STAGE_ALONE_H

#include "mpcgen_problem.h"

/* Next state and cost. */
OUTLINED void stage_alone(reals x, reals u, reals theta, reals theta_t, reals next, real *cost) {
  stage_dynamics(x, u, theta, theta_t, next, cost);
}

/* F d, where it is no part of every pass. */
OUTLINED void tangent_alone(stored_reals x, stored_reals u, stored_reals theta, stored_reals theta_t, in_reals d_x, in_reals d_u,
                            out_reals d_next) {
  stage_tangent(x, u, theta, theta_t, d_x, d_u, d_next);
}

#endif

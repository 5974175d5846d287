/* The kernels on a CPU, in memory that a call allocates for itself. */
#ifndef MPCGEN_HOST_H
#define MPCGEN_HOST_H

#include <stdlib.h>

#include "mpcgen_loop_batch.h"

/* Runs an entry point in a workspace of its size; returns 0, 1 if memory was refused, STOPPED or LEFT_OVER. */
#define IN_A_WORKSPACE(verb, kind)                                                  \
  static int verb##_batch(const kind##_arguments *arguments) {                      \
    void *workspace = aligned_alloc(CACHE_LINE, kind##_workspace(arguments));       \
    if (!workspace) return 1;                                                       \
    const int code = run_##verb(arguments, workspace);                              \
    free(workspace);                                                                \
    return code;                                                                    \
  }
#if HAS_BOX_DDP || HAS_INTERIOR_POINT
IN_A_WORKSPACE(solve, solve)
#endif
#if CLOSED_LOOPS
IN_A_WORKSPACE(closed_loop, closed_loop)
#endif
#if HAS_PART(PART_SENSITIVITIES)
IN_A_WORKSPACE(differentiate, gradient)
IN_A_WORKSPACE(tangent, tangent)
IN_A_WORKSPACE(examine, examine)
IN_A_WORKSPACE(evaluate, evaluate)
IN_A_WORKSPACE(differentiate_loop, loop_gradient)
#endif

#endif

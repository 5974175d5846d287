/* The kernels on a CPU, in memory that a call allocates for itself. */
#ifndef MPCGEN_HOST_H
#define MPCGEN_HOST_H

#include <stdlib.h>

#include "mpcgen_batch.h"

/* Runs an entry point in a workspace of its size; returns 0, 1 if memory was refused, or STOPPED. */
#define IN_A_WORKSPACE(verb, kind, entry)                                           \
  static int entry(const kind##_arguments *arguments) {                             \
    void *workspace = aligned_alloc(CACHE_LINE, kind##_workspace(arguments));       \
    if (!workspace) return 1;                                                       \
    const int code = run_##verb(arguments, workspace);                              \
    free(workspace);                                                                \
    return code;                                                                    \
  }
IN_A_WORKSPACE(solve, solve, solve_by_one_method)
IN_A_WORKSPACE(differentiate, gradient, differentiate_batch)
IN_A_WORKSPACE(tangent, tangent, tangent_batch)
IN_A_WORKSPACE(examine, examine, examine_batch)

/* Solves the batch. What box-DDP hands over is for the interior point; what that solves, and what it does not, for
 * box-DDP again. */
static int solve_batch(const solve_arguments *a) {
  solve_arguments run = *a;
  int code = solve_by_one_method(&run);
  while (!code && (run.method = next_run(run.method)) >= 0 && any_handed_over(a)) code = solve_by_one_method(&run);
  return code;
}

#endif

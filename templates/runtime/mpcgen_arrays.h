/* Matrices of the functions that compose derivatives in loops: too large for a thread's stack where there are many states or
 * inputs of networks.
 *
 * They are local arrays; where a problem says that those around its networks are large, and its workspace keeps something for
 * networks, they lie there, each function's at a place of its own (mpcgen_network_memory.h). TAKE_ARRAYS declares those of a
 * list in either way, without a semicolon behind it. */
#ifndef MPCGEN_ARRAYS_H
#define MPCGEN_ARRAYS_H

#include "mpcgen_layout.h"
#include "mpcgen_tile.h"

#ifdef SUBSTEPS
enum { NBOTH = NMOVING + NHELD, NVISIBLE = NMOVING - NHIDDEN };

/* ---- substeps ---- */

#define ARRAYS_OF_SUBSTEPS(ARRAY)         \
  ARRAY(A, NMOVING *NBOTH)                \
  ARRAY(S, TRIANGLE(NBOTH, 0))            \
  ARRAY(both, (NBOTH + NMOVING) * NBOTH)  \
  ARRAY(product, (NBOTH + NMOVING) * NBOTH)
#if !IMPLICIT
#define ARRAYS_OF_SLOPES(ARRAY)        \
  ARRAY(A, NSLOPES *NMOVING *NBOTH)    \
  ARRAY(S, NSLOPES *TRIANGLE(NBOTH, 0))
#define ARRAYS_OF_COMPOSITION(ARRAY) \
  ARRAY(dk, NMOVING *NBOTH)          \
  ARRAY(P, NMOVING *NBOTH)           \
  ARRAY(product, NBOTH *NBOTH)       \
  ARRAY(full, NBOTH *NBOTH)
#endif
#endif

/* ---- networks ---- */

#ifdef NLAYERS
#define ARRAYS_OF_NETWORKS(ARRAY)  \
  ARRAY(J, MOST_SLOPES)            \
  ARRAY(C, TRIANGLE(MOST_INPUTS, 0))
#define ARRAYS_OF_LAYERS(ARRAY)              \
  ARRAY(S, (NSLOPED + 1) * MOST_INPUTS)      \
  ARRAY(G, NSCALED *MOST_INPUTS)
/* Of a function of `width` numbers w and what networks of `inputs` give, `outputs`: `values` numbers. */
#define ARRAYS_AROUND(ARRAY, width, inputs, outputs, values)   \
  ARRAY(P, (inputs) * (width))                                 \
  ARRAY(T, (outputs) * (width))                                \
  ARRAY(all, (values) * ((width) + (outputs)))                 \
  ARRAY(curvature, TRIANGLE((width) + (outputs), 0))           \
  ARRAY(of_inputs, TRIANGLE(width, 0))
#define ARRAYS_OF_MODEL(ARRAY, width, values) \
  ARRAY(F, (values) * (width))                \
  ARRAY(curvature, TRIANGLE(width, 0))
#endif
#ifdef NINPUTS
enum { NALL = NBOTH + NOUTPUTS };
#define ARRAYS_OF_RATES(ARRAY) ARRAYS_AROUND(ARRAY, NBOTH, NINPUTS, NOUTPUTS, NMOVING)
#endif

/* ---- where they lie ---- */

/* A device, and an exported controller, keep nothing for networks. */
#ifndef NLAYERS
#define KEEPS_NETWORK 0
#elif MPCGEN_CUDA || defined(HORIZON)
#define KEEPS_NETWORK 0
#else
#define KEEPS_NETWORK 1
#endif

#define KEEPS_ARRAYS (KEEPS_NETWORK && LARGE_ARRAYS)

#define LOCAL_ARRAY(name, count) \
  real name[count];              \
  (void)name;
#define MEMBER_ARRAY(name, count) real name[count];
#define KEPT_ARRAY(name, count)                    \
  real *restrict const name = arrays_of_it->name; \
  (void)name;

#if KEEPS_ARRAYS
typedef struct {
#ifdef SUBSTEPS
  struct arrays_of_substeps { ARRAYS_OF_SUBSTEPS(MEMBER_ARRAY) } of_substeps;
#if !IMPLICIT
  struct arrays_of_slopes { ARRAYS_OF_SLOPES(MEMBER_ARRAY) } of_slopes;
  struct arrays_of_composition { ARRAYS_OF_COMPOSITION(MEMBER_ARRAY) } of_composition;
#endif
#endif
#ifdef NINPUTS
  struct arrays_of_rates { ARRAYS_OF_RATES(MEMBER_ARRAY) } of_rates;
#endif
#if PRICED_STAGE
  struct arrays_of_stage { ARRAYS_AROUND(MEMBER_ARRAY, NX + NU, STAGE_INPUTS, STAGE_OUTPUTS, 1 + STAGE_ROWS) } of_stage;
  struct arrays_of_stage_model { ARRAYS_OF_MODEL(MEMBER_ARRAY, NX + NU, 1 + STAGE_ROWS) } of_stage_model;
#endif
#if PRICED_END
  struct arrays_of_end { ARRAYS_AROUND(MEMBER_ARRAY, NX, END_INPUTS, END_OUTPUTS, 1 + END_ROWS) } of_end;
  struct arrays_of_end_model { ARRAYS_OF_MODEL(MEMBER_ARRAY, NX, 1 + END_ROWS) } of_end_model;
#endif
  struct arrays_of_networks { ARRAYS_OF_NETWORKS(MEMBER_ARRAY) } of_networks;
  struct arrays_of_layers { ARRAYS_OF_LAYERS(MEMBER_ARRAY) } of_layers;
} kept_arrays;

INLINE kept_arrays *kept_arrays_of(const real *theta);
#define TAKE_ARRAYS(theta, what, LIST) TAKE_FROM(theta, what, LIST)
#define TAKE_FROM(theta, what, LIST)                                       \
  struct arrays_##what *const arrays_of_it = &kept_arrays_of(theta)->what; \
  LIST(KEPT_ARRAY)
#else
#define TAKE_ARRAYS(theta, what, LIST) LIST(LOCAL_ARRAY)
#endif

#endif

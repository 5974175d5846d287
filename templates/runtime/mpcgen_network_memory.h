/* What a network keeps behind the parameters that it reads, in a workspace's `theta`: the weights once for all lanes, where
 * the batch shares them, the matrices of the functions around it, and its units at the points where it was last evaluated.
 *
 * A weight that lies there once takes a LANES-th of the memory, of which otherwise all would come from a slow cache. A
 * sweep asks for the network at the points of the rollout before it, from the last to the first: these are found again,
 * equal to the bit, and not evaluated again. */
#ifndef MPCGEN_NETWORK_MEMORY_H
#define MPCGEN_NETWORK_MEMORY_H

#include "mpcgen_arrays.h"
#include "mpcgen_network.h"

/* Of a site's networks, of all units, at a point p: h, a where derivatives need it, and
 * y = N(p). */
typedef struct {
  real p[NPASSED], h[NUNITS + 1], a[NSUMS + 1], y[NRESULTS];
} network_point;

/* A device, and an exported controller, have no memory for points. */
#if !KEEPS_NETWORK
#define NETWORK_REALS(n) 0
#define shares_weights(theta) ((void)(theta), 0)
#define weight_at(theta, i, shares) ((void)(shares), (theta)[i])
#else

enum {
  MOST_KEPT = 1 << 20, /* bytes of points that a site has */
  MOST_POINTS = MOST_KEPT / (int)sizeof(network_point),
};

typedef struct {
  int first, room, kept, at; /* points: where they begin, for how many there is room, how many are kept, which was asked
                              * for last */
} network_ring;

typedef struct {
  int shares; /* whether the weights are those that all lanes share */
  network_ring rings[NSITES];
} network_memory;

enum {
  MEMORY_AT = NTHETA + NPREPARED + IMPLICIT, /* where all this is in theta */
  MEMORY_REALS = (sizeof(network_memory) + sizeof(real) - 1) / sizeof(real),
  SHARED_REALS = LANES > 1 ? (NTHETA + LANES - 1) / LANES : 0,
#if KEEPS_ARRAYS
  ARRAY_REALS = sizeof(kept_arrays) / sizeof(real),
#else
  ARRAY_REALS = 0,
#endif
  REALS_OF_A_POINT = sizeof(network_point) / sizeof(real),
};

/* Points of a site for which there is room where the horizon is n, and what all takes. */
COUNT size_t network_room(int site, size_t n) {
  const size_t of_a_stage = (size_t)SITES[site].points, wanted = of_a_stage ? n * of_a_stage : 1;
  const size_t most = MOST_POINTS > of_a_stage ? MOST_POINTS : of_a_stage ? of_a_stage : 1;
  return wanted < most ? wanted : most;
}
COUNT size_t network_reals(size_t n) {
  size_t room = 0;
  for (int site = 0; site < NSITES; site++) room += network_room(site, n);
  return MEMORY_REALS + SHARED_REALS + ARRAY_REALS + room * REALS_OF_A_POINT;
}
#define NETWORK_REALS(n) network_reals(n)

INLINE network_memory *network_memory_of(const real *theta) { return (network_memory *)(theta + MEMORY_AT); }
/* theta, of one lane for all. */
INLINE const aliased_scalar *shared_theta(const real *theta) {
  return (const aliased_scalar *)(theta + MEMORY_AT + MEMORY_REALS);
}
#if KEEPS_ARRAYS
INLINE kept_arrays *kept_arrays_of(const real *theta) {
  return (kept_arrays *)(theta + MEMORY_AT + MEMORY_REALS + SHARED_REALS);
}
#endif
INLINE network_point *network_points(const real *theta) {
  return (network_point *)(theta + MEMORY_AT + MEMORY_REALS + SHARED_REALS + ARRAY_REALS);
}
/* Entry i of theta: of all lanes, or of each. */
ALWAYS_INLINE real weight_at(const real *theta, int i, int shares) {
  return shares ? shared_theta(theta)[i] - (real){0} : theta[i];
}
INLINE int shares_weights(const real *theta) { return LANES > 1 && network_memory_of(theta)->shares; }

/* The number of the point that many behind the last one. */
INLINE int kept_point(const network_ring *ring, int distance) {
  const int number = ring->at + distance;
  return number < 0 ? number + ring->room : number >= ring->room ? number - ring->room : number;
}
INLINE int is_kept_point(const network_ring *ring, const network_point *points, int number, const real *p, int inputs) {
  return number >= 0 && number < ring->kept && memcmp(points[number].p, p, (size_t)inputs * sizeof(real)) == 0;
}

INLINE int overlap(int a, int count, int b, int other) { return a < b + other && b < a + count; }

/* Whether a network has a parameter as weights. */
FUNCTION int is_of_network(const parameter_layout *layout) {
  int found = 0;
  for (int l = 0; l < NLAYERS && !layout->per_stage; l++) {
    const network_layer *const layer = &LAYERS[l];
    const int weights = layer->weights < 0 ? 0 : layer->kind == AFFINE ? layer->rows * layer->columns : layer->rows;
    found |= overlap(layout->offset, layout->size, layer->weights, weights);
    found |= layer->bias >= 0 && overlap(layout->offset, layout->size, layer->bias, layer->rows);
  }
  return found;
}

/* Begins with the parameters that have just been loaded into theta, of a batch of problems of n stages. `strides`: of
 * each from one problem to the next, 0 where all share it. */
FUNCTION void begin_network(real *theta, int n, const int64_t *strides) {
  network_memory *const memory = network_memory_of(theta);
  int first = 0;
  for (int site = 0; site < NSITES; site++) {
    const int room = (int)network_room(site, (size_t)n);
    memory->rings[site] = (network_ring){first, room, 0, -1};
    first += room;
  }
  memory->shares = 1;
  for (int p = 0; p < NPARAMETERS; p++)
    if (strides[p] != 0 && is_of_network(&PARAMETERS[p])) memory->shares = 0;
  if (LANES == 1 || !memory->shares) return;
  scalar *const shared = (scalar *)(theta + MEMORY_AT + MEMORY_REALS);
  for (int i = 0; i < NTHETA; i++) shared[i] = lane_get(theta + i, 0);
}

/* Forgets the points where a problem with weights of its own has come. */
INLINE void renew_network(real *theta) {
  network_memory *const memory = network_memory_of(theta);
  for (int site = 0; site < NSITES && !memory->shares; site++) memory->rings[site].kept = 0;
}
#endif

#endif

/* Another model as the plant of closed loops, by the entry point that evaluates stages in that model's library. The structs
 * of its arguments are alike in all libraries of one interface. */
#ifndef MPCGEN_PLANT_H
#define MPCGEN_PLANT_H

enum { PLANT_FAILED = -1 }; /* in the place of a step */

/* The arguments for a step of problems from `first` on, which the caller completes by state, control and what is wanted. */
FUNCTION evaluate_arguments plant_point(const plant_arguments *plant, int64_t first, int64_t count, int t) {
  const void **parameters = plant->pointers + first * plant->count;
  for (int p = 0; p < plant->count; p++)
    parameters[p] = (const scalar *)plant->parameters[p] + first * between_problems(plant->strides[p]) + t * plant->steps[p];
  const evaluate_arguments point = {
      .batch = count,
      .threads = 1,
      .parameters = parameters,
      .parameter_strides = plant->strides,
  };
  return point;
}

/* Whether the batch shares all parameters, at all steps. */
INLINE int shares_parameters(const plant_arguments *plant) {
  int shared = 1;
  for (int p = 0; p < plant->count; p++) shared &= plant->strides[p] == 0;
  return shared;
}

/* Readies memory for the gradients of a step, of one parameter after the other. */
FUNCTION void place_latest(const plant_arguments *plant, evaluate_arguments *point, int64_t first) {
  void **latest = plant->latest_pointers + first * plant->count;
  int64_t size = 0;
  for (int p = 0; p < plant->count; p++) size += plant->sizes[p];
  scalar *at = (scalar *)plant->latest + first * size;
  for (int p = 0; p < plant->count; at += point->batch * plant->sizes[p++]) latest[p] = at;
  point->gradient_parameters = latest;
}

/* Numbers of the parameters that the batch shares. */
COUNT size_t plant_shared_numbers(const plant_arguments *plant) {
  size_t sum = 0;
  for (int p = 0; p < plant->count; p++)
    if (plant->strides[p] == 0) sum += (size_t)plant->sizes[p];
  return sum;
}

/* Adds them to those of the steps after it; of parameters that the batch shares to `sums`, which other problems add to, too. */
FUNCTION void add_latest(const plant_arguments *plant, const evaluate_arguments *point, scalar *sums, int64_t batch,
                         int64_t first, int t) {
  for (int p = 0; p < plant->count; p++) {
    const int64_t size = plant->sizes[p], step = plant->steps[p] ? t * batch : 0;
    const int is_shared = plant->strides[p] == 0;
    const int64_t count = is_shared ? size : point->batch * size;
    scalar *to = is_shared ? sums : (scalar *)plant->gradients[p] + (step + first) * size;
    const scalar *from = point->gradient_parameters[p];
    for (int64_t i = 0; i < count; i++) to[i] += from[i];
    if (is_shared) sums += size;
  }
}

/* Gradients of the parameters that the batch shares, from sums of `blocks` parts of it. */
FUNCTION void sum_plant_gradients(const plant_arguments *plant, const scalar *sums, int64_t blocks) {
  const size_t shared = plant_shared_numbers(plant);
  for (int p = 0; p < plant->count; p++) {
    if (plant->strides[p] != 0) continue;
    scalar *to = plant->gradients[p];
    for (int64_t i = 0; i < plant->sizes[p]; i++)
      for (int64_t b = 0; b < blocks; b++) to[i] += sums[(size_t)b * shared + (size_t)i];
    sums += plant->sizes[p];
  }
}

#endif

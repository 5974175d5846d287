/* Solves one batch from defaults: the process in which `examples.bench.instructions` counts instructions.
 *
 * The build defines HEADER, the controller's, NAME, BATCH, HORIZON, PASSES and SIZES, the numbers of each parameter; inputs.bin has
 * x0 (BATCH, n) and behind it the parameters. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include HEADER

#define JOINED(a, b) a##b
#define MEMBER(name, suffix) JOINED(name, suffix)
#define ROOM ((size_t)BATCH * (HORIZON + 1) * 64) /* numbers: more than any output has */

static void *zeros(void) {
  void *memory = calloc(ROOM, sizeof(double));
  if (memory == NULL) abort();
  return memory;
}

int main(int count, char **words) {
  static const int sizes[] = {SIZES};
  enum { PARAMETERS = sizeof sizes / sizeof sizes[0] };
  double *inputs = zeros();
  FILE *file = count > 1 ? fopen(words[1], "rb") : NULL;
  if (file == NULL) return 1;
  const size_t read = fread(inputs, sizeof(double), ROOM, file);
  fclose(file);
  size_t parameter_numbers = 0;
  for (int i = 0; i < PARAMETERS; i++) parameter_numbers += (size_t)sizes[i];
  const void *parameters[PARAMETERS];
  int64_t strides[PARAMETERS];
  const double *next = inputs + read - parameter_numbers;
  for (int i = 0; i < PARAMETERS; next += sizes[i++]) parameters[i] = next, strides[i] = 0;
  const MEMBER(NAME, _solve_arguments) arguments = {
      .batch = BATCH, .horizon = HORIZON, .max_iterations = PASSES, .exact_hessian = 1, .certify = 1, .threads = 1,
      .constant_parameters = 1, .initial_state = inputs,
      .initial_state_stride = (int64_t)((read - parameter_numbers) / BATCH), .parameters = parameters,
      .parameter_strides = strides, .states = zeros(), .controls = zeros(), .cost = zeros(), .status = zeros(),
      .iterations = zeros(), .residual = zeros(), .costates = zeros(), .gains = zeros(),
#ifdef CONSTRAINED
      .duals = zeros(), .violation = zeros(),
#endif
  };
  return MEMBER(NAME, _solve_f64_batch)(&arguments);
}

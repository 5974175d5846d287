/* A closed loop of an exported controller with its own model and a small disturbance, STEPS steps from each of START_STATES;
 * each step is a line of hexadecimal numbers, status, passes, ticks of a clock (0 where there is none) and the bits of the
 * controls. NAME: what the controller's names begin with. DISTURBANCE: the most that is added to a state. EACH_STEP: an
 * expression, evaluated before each solve. */
#include <stdint.h>
#include <string.h>

#include CONTROLLER_H
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define OF(what) JOIN(NAME, what)

void put(char c);
int finish(void);
void start_clock(void);
uint32_t clock_ticks(void);

enum { N_STATE = OF(_states), N_CONTROL = OF(_controls) };
static const float STARTS[][N_STATE] = {START_STATES};
static struct NAME controller;

static void put_number(uint32_t bits) {
  for (int at = 28; at >= 0; at -= 4) put("0123456789abcdef"[(bits >> at) & 15]);
  put(' ');
}

/* From -1 to 1, the same on all machines. */
static float noise(uint32_t *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return (float)(*seed >> 8) * (1.0f / 8388608.0f) - 1.0f;
}

static void run(const float *start) {
  float x[N_STATE];
  uint32_t seed = 1;
  memcpy(x, start, sizeof x);
  OF(_init)(&controller);
  for (int step = 0; step < STEPS; step++) {
    EACH_STEP;
    start_clock();
    const int status = OF(_solve)(&controller, x);
    const uint32_t ticks = clock_ticks();
    put_number((uint32_t)status);
    put_number((uint32_t)controller.iterations);
    put_number(ticks);
    for (int i = 0; i < N_CONTROL; i++) {
      uint32_t bits;
      memcpy(&bits, &controller.u[0][i], sizeof bits);
      put_number(bits);
    }
    put('\n');
    for (int i = 0; i < N_STATE; i++) x[i] = controller.x[1][i] + DISTURBANCE * noise(&seed);
    OF(_shift)(&controller);
  }
}

int main(void) {
  for (unsigned i = 0; i < sizeof STARTS / sizeof *STARTS; i++) run(STARTS[i]);
  return finish();
}

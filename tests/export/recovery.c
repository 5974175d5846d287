/* A solve from a state that is no number, and the next ones in the same struct; then with a tolerance that is none. NAME and START are put in. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "NAME.h"
static struct NAME first, again;
int main(void) {
  float x0[NAME_states] = {START}, none[NAME_states];
  memcpy(none, x0, sizeof x0);
  none[1] = NAN;
  NAME_init(&first);
  NAME_init(&again);
  int ends[4] = {NAME_solve(&first, x0), NAME_solve(&again, none)};
  const int nothing = isnan(again.u[0][0]) && isnan(again.x[1][0]);
  NAME_shift(&again);
  ends[2] = NAME_solve(&again, x0);
  const int same = !memcmp(first.u, again.u, sizeof first.u) && !memcmp(first.x, again.x, sizeof first.x);
  memset(again.u, 0, sizeof again.u);
  ends[3] = NAME_solve(&again, x0);
  printf("%d %d %d %d ", ends[0], ends[1], ends[2], ends[3]);
  printf("%d %d %d ", nothing, same, first.iterations == again.iterations);
  again.tolerance = NAN;
  printf("%d", NAME_solve(&again, x0));
  return 0;
}

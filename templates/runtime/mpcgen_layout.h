/* One row of the generated table of parameters. */
#ifndef MPCGEN_LAYOUT_H
#define MPCGEN_LAYOUT_H

typedef struct {
  int size;        /* numbers per stage */
  int offset;      /* first column in theta, or in a row of theta_stage */
  int per_stage;   /* one value per stage? */
  int in_terminal; /* then: has a value for stage N too? */
  int only_bounds; /* then an infinite value is legal */
} parameter_layout;

#endif

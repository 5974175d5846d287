/* One row of the generated table of parameters, and sizes that follow from the generated ones. */
#ifndef MPCGEN_LAYOUT_H
#define MPCGEN_LAYOUT_H

typedef struct {
  int size;        /* numbers per stage */
  int offset;      /* first column in theta, or in a row of theta_stage */
  int per_stage;   /* one value per stage? */
  int in_terminal; /* then: has a value for stage N too? */
  int only_bounds; /* then an infinite value is legal */
} parameter_layout;

/* A problem with constraints says how many rows it has. */
#ifndef NMIXED
#define NMIXED 0
#define NREMEMBERED 0
#define NKEPT 0
#define NSTATE 0
#define NTERMINAL 0
#define SOFT_ROWS 0
#define ROW_BOUNDS_VARY 0
#define LINEAR_CONSTRAINTS 0
#define FLAT_COSTS 0
#endif
/* One that is linear-quadratic but for its inequalities says so, and one with states that only accumulate cost, which. */
#ifndef QUADRATIC_PROGRAM
#define QUADRATIC_PROGRAM 0
#endif
#ifndef ONLY_COST
#define ONLY_COST(i) 0
#define ACCUMULATES 0
#else
#define ACCUMULATES 1
#endif
/* One with implicit steps says so. */
#ifndef IMPLICIT
#define IMPLICIT 0
#endif
/* There is kept, behind the parameters, whether steps that Newton's method does not solve are gone through in parts. What
 * networks keep comes next. */
enum { BY_PARTS = NTHETA + NPREPARED };
/* One that solves for rates says how many. */
#ifndef NHIDDEN
#define NHIDDEN 0
#endif
#define NPATH (NMIXED + NSTATE)                      /* rows of a stage with controls, mixed ones first */
#define NEND (NSTATE + NTERMINAL)                    /* rows of the last state, those of states first */
#define NDUAL (NU + NMIXED + NSTATE + NTERMINAL)     /* multipliers of a stage in memory: bounds of controls first */
#define CONSTRAINED (NMIXED + NSTATE + NTERMINAL > 0)

/* An argument that stage functions of problems with constraints have, and others have not. */
#if CONSTRAINED
#define ROWS_OF(argument) argument,
#else
#define ROWS_OF(argument)
#endif
#define SOFT_REALS (SOFT_ROWS ? n * NPATH + NEND : 0) /* what soft rows alone need of a horizon of n stages */

#endif

/* The parts of a controller's kernels that are compiled apart, so that nobody waits for one that he does not call.
 * -DMPCGEN_PART=1 says which; without it one object file has all of them. */
#ifndef MPCGEN_PARTS_H
#define MPCGEN_PARTS_H

#define PART_SOLVE 1          /* the method that a problem starts with */
#define PART_INTERIOR_POINT 2 /* of problems without constraints, which start with box-DDP */
#define PART_SENSITIVITIES 4  /* both modes of differentiation, examination, and stages alone */

#ifndef MPCGEN_PART
#define MPCGEN_PART (PART_SOLVE | PART_INTERIOR_POINT | PART_SENSITIVITIES)
#endif
#define HAS_PART(part) ((MPCGEN_PART & (part)) != 0)

#endif

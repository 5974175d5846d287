/* The Riccati products by loops, for problems too large to unroll: Q = H + F'VF and the offsets F'(v - lambda).
 *
 * F is (NX, NX + NU), row-major; H the lower triangle of the Hessian over (x, u). */
#ifndef MPCGEN_PRODUCTS_H
#define MPCGEN_PRODUCTS_H

#include "mpcgen_stage.h"

enum { NTAU = NX + NU };

/* Where entry (i, j), j <= i, over (x, u) lies in a stage model. */
INLINE real *model_entry(stage_model *q, int i, int j) {
  if (i < NX) return &q->xx[TRIANGLE(i, j)];
  if (j < NX) return &q->ux[(i - NX) * NX + j];
  return &q->uu[TRIANGLE(i - NX, j - NX)];
}

FUNCTION void riccati_products(const real *restrict F, const real *restrict H, const value_model *value,
                               stage_model *q) {
  real VF[NX * NTAU];
  for (int i = 0; i < NX; i++) {
    real row[NTAU];
    for (int j = 0; j < NTAU; j++) row[j] = ALL(0);
    for (int k = 0; k < NX; k++) {
      const real v = value->hessian[SYMMETRIC(i, k)];
      for (int j = 0; j < NTAU; j++) row[j] += v * F[k * NTAU + j];
    }
    for (int j = 0; j < NTAU; j++) VF[i * NTAU + j] = row[j];
  }
  for (int i = 0; i < NTAU; i++) {
    real row[NTAU], offset = ALL(0);
    for (int j = 0; j <= i; j++) row[j] = H[TRIANGLE(i, j)];
    for (int k = 0; k < NX; k++) {
      const real f = F[k * NTAU + i];
      offset += f * value->offset[k];
      for (int j = 0; j <= i; j++) row[j] += f * VF[k * NTAU + j];
    }
    for (int j = 0; j <= i; j++) *model_entry(q, i, j) = row[j];
    *(i < NX ? &q->offset_x[i] : &q->offset_u[i - NX]) = offset;
  }
}

#endif

/* The networks of a site by the chain rule: y = N(p), whose inputs p are functions of a point w.
 *
 * P = dp/dw, of which input i of the site has entries in the columns READ[READ_FROM[i]] to READ[READ_FROM[i + 1]]; the
 * others are never read. What reads y is the body, k(w, y): with T = dy/dw = J P and B the second derivatives of
 * L = lambda'k by (w, y), those of L(w, N(p(w))) by w are [1; T]'B[1; T] + P'(Hessian of m'N)P + the Hessian of pull'p,
 * where m is the gradient of L by y, and pull = J'm. */
#ifndef MPCGEN_NETWORK_CHAIN_H
#define MPCGEN_NETWORK_CHAIN_H

#include "mpcgen_network_loops.h"

/* phi' and phi'' of all units of a site. */
typedef struct {
  real first[NUNITS + 1], second[NUNITS + 1];
} network_bends;

/* Changes of all units of a site. */
typedef struct {
  real h[NUNITS + 1], a[NUNITS + 1];
} network_changes;

/* H += P'C P, a triangle, where C, a triangle, is by the inputs of a network. */
FUNCTION void add_passed_curvature(const network_site *site, const network *net, const real *C, const real *P, real *H) {
  const int width = site->width;
  const int *const from = READ_FROM + site->reads + net->from;
  const real *const rows = P + net->from * width;
  for (int r = 0; r < net->inputs; r++) {
    real row[MOST_WIDTH];
    for (int j = 0; j < width; j++) row[j] = ALL(0);
    for (int s = 0; s < net->inputs; s++)
      for (int e = from[s]; e < from[s + 1]; e++) row[READ[e]] += C[SYMMETRIC(r, s)] * rows[s * width + READ[e]];
    for (int e = from[r]; e < from[r + 1]; e++)
      for (int j = 0; j <= READ[e]; j++) H[TRIANGLE(READ[e], j)] += rows[r * width + READ[e]] * row[j];
  }
}

/* T (outputs, width). With m also pull, and H += P'(Hessian of m'N)P; without, neither. */
FUNCTION void expand_networks(int number, stored_reals theta, const network_point *at, const real *P, const real *m,
                              real *T, real *pull, real *H) {
  const network_site *const site = &SITES[number];
  const int width = site->width;
  TAKE_ARRAYS(theta, of_networks, ARRAYS_OF_NETWORKS)
  int units = 0, outputs = 0;
  for (int i = 0; i < site->outputs * width; i++) T[i] = ALL(0);
  for (int i = 0; m && i < site->inputs; i++) pull[i] = ALL(0);
  KEEP_LOOP for (int k = 0; k < site->count; k++) {
    const network *const net = &NETWORKS[site->first + k];
    const int begins = k == 0 || net[-1].from != net->from, ends = k == site->count - 1 || net[1].from != net->from;
    const int *const from = READ_FROM + site->reads + net->from;
    real first[NUNITS + 1], second[NUNITS + 1];
    for (int i = 0; begins && i < TRIANGLE(net->inputs, 0); i++) C[i] = ALL(0);
    bend_units(net, at->h + units, at->a, first, second);
    expand_network(net, theta, at->h + units, first, second, m ? m + outputs : 0, J, C);
    for (int o = 0; o < net->outputs; o++) {
      real *const row = T + (outputs + o) * width;
      for (int c = 0; c < net->inputs; c++) {
        const real slope = J[o * net->inputs + c];
        if (m) pull[net->from + c] += slope * m[outputs + o];
        for (int e = from[c]; e < from[c + 1]; e++) row[READ[e]] += slope * P[(net->from + c) * width + READ[e]];
      }
    }
    if (m && ends) add_passed_curvature(site, net, C, P, H);
    units += net->units;
    outputs += net->outputs;
  }
}

/* The change of all units and of y along a change of p and, if `moves`, of theta; and phi' and phi''. */
FUNCTION void move_networks(int number, const network_point *at, const real *d_p, stored_reals theta,
                            stored_reals d_theta, int moves, network_bends *bends, network_changes *changes, real *d_y) {
  const network_site *const site = &SITES[number];
  int units = 0, outputs = 0;
  KEEP_LOOP for (int k = 0; k < site->count; k++) {
    const network *const net = &NETWORKS[site->first + k];
    bend_units(net, at->h + units, at->a, bends->first + units, bends->second + units);
    network_line(net, at->p + net->from, at->h + units, bends->first + units, d_p + net->from, theta, d_theta, moves,
                 changes->h + units, changes->a + units, d_y + outputs);
    units += net->units;
    outputs += net->outputs;
  }
}

/* Along such a line in p alone: adds the gradient by theta of bar_y'y + bar_d_y'(change of y); gives that by p, and by
 * the change of p. */
FUNCTION void networks_gradient(int number, const network_point *at, const network_bends *bends, const real *d_p,
                                stored_reals theta, const network_changes *changes, const real *bar_y,
                                const real *bar_d_y, reals g_theta, real *bar_p, real *bar_d_p) {
  const network_site *const site = &SITES[number];
  int units = 0, outputs = 0;
  for (int i = 0; i < site->inputs; i++) bar_p[i] = bar_d_p[i] = ALL(0);
  KEEP_LOOP for (int k = 0; k < site->count; k++) {
    const network *const net = &NETWORKS[site->first + k];
    real part[MOST_INPUTS], d_part[MOST_INPUTS];
    network_gradient(net, at->p + net->from, at->h + units, bends->first + units, bends->second + units, d_p + net->from,
                     theta, changes->h + units, changes->a + units, bar_y + outputs, bar_d_y + outputs, g_theta, part,
                     d_part);
    for (int i = 0; i < net->inputs; i++) bar_p[net->from + i] += part[i], bar_d_p[net->from + i] += d_part[i];
    units += net->units;
    outputs += net->outputs;
  }
}

/* The gradient of m'y by p, and its change along such a line, a change of theta and one of m. */
FUNCTION void networks_forward(int number, const network_point *at, stored_reals theta, stored_reals d_theta,
                               const network_bends *bends, const network_changes *changes, const real *m,
                               const real *d_m, real *slope, real *d_slope) {
  const network_site *const site = &SITES[number];
  int units = 0, outputs = 0;
  for (int i = 0; i < site->inputs; i++) slope[i] = d_slope[i] = ALL(0);
  KEEP_LOOP for (int k = 0; k < site->count; k++) {
    const network *const net = &NETWORKS[site->first + k];
    real part[MOST_INPUTS], d_part[MOST_INPUTS];
    network_forward(net, at->h + units, theta, d_theta, bends->first + units, bends->second + units,
                    changes->h + units, changes->a + units, m + outputs, d_m + outputs, part, d_part);
    for (int i = 0; i < net->inputs; i++) slope[net->from + i] += part[i], d_slope[net->from + i] += d_part[i];
    units += net->units;
    outputs += net->outputs;
  }
}

/* ---- what a body is by w alone, given what it is by (w, y); `width` numbers w, `outputs` numbers y ---- */

/* Rows of slopes. Row i reads the outputs reads[from[i]] to reads[from[i + 1]], or any where it does not say so. */
ALWAYS_INLINE void chain_slopes(int width, int outputs, int rows, const int *from, const int *reads, const real *all,
                                const real *T, real *F) {
  for (int i = 0; i < rows; i++) {
    const real *const row = all + i * (width + outputs);
    const int end = from ? from[i + 1] : outputs;
    EACH(j, width) F[i * width + j] = row[j];
    for (int e = from ? from[i] : 0; e < end; e++) {
      const int o = reads ? reads[e] : e;
      EACH(j, width) F[i * width + j] += row[width + o] * T[o * width + j];
    }
  }
}

/* H += [1; T]'B[1; T], triangles. `bent`: whether B has entries by y. */
ALWAYS_INLINE void chain_curvature(int width, int outputs, int bent, const real *B, const real *T, real *H) {
  for (int i = 0; i < TRIANGLE(width, 0); i++) H[i] += B[i];
  for (int o = 0; bent && o < outputs; o++) {
    real row[MOST_WIDTH]; /* by y_o and w: half of what is by y alone comes from either side */
    EACH(j, width) row[j] = B[TRIANGLE(width + o, j)];
    for (int e = 0; e < outputs; e++) {
      const real half = R(0.5) * B[SYMMETRIC(width + o, width + e)];
      EACH(j, width) row[j] += half * T[e * width + j];
    }
    for (int i = 0; i < width; i++)
      for (int j = 0; j <= i; j++) H[TRIANGLE(i, j)] += T[o * width + i] * row[j] + row[i] * T[o * width + j];
  }
}

#endif

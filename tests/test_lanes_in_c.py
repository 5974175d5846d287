"""Loads of a batch into the kernels' lanes and stores from them, in every variant and instruction set here."""

import shutil
import subprocess

import pytest
from test_box_qp_in_c import BUILDS
from test_generated_c import SANITIZE, STRICT, links_with

from mpcgen.build import Toolchain, find_toolchain
from mpcgen.build.extension import HEADER_FOLDER, VARIANTS
from mpcgen.build.toolchain import COMPILERS

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler on this machine")

# Every array has its exact size, so that the sanitizer sees a read or a write beyond its end.
PROGRAM = """
enum { NX = 1, NU = 1, NTHETA = 1, NTHETA_STAGE = 1, NPREPARED = 0, NPARAMETERS = 1 };
#define LOOPED_PRODUCTS 0
#include "mpcgen_layout.h"
static const parameter_layout PARAMETERS[] = {{.size = 1}};
#include "mpcgen_loading.h"
#include <stdlib.h>

enum { MOST = 19, FIRST = 2 };

static void *memory(size_t bytes) {
  void *at = NULL;
  if (posix_memalign(&at, 64, bytes ? bytes : 64)) exit(2);
  return at;
}

/* Problem p has the numbers 100 p + i; what lanes hold before is negative. */
static int is_loaded(size_t count, int lanes) {
  scalar *given = (scalar *)malloc((size_t)(FIRST + lanes) * count * sizeof(scalar));
  scalar *stored = (scalar *)malloc(count * sizeof(scalar));
  real *numbers = (real *)memory(count * sizeof(real));
  int right = 1;
  for (int p = 0; p < FIRST + lanes; p++)
    for (size_t i = 0; i < count; i++) given[(size_t)p * count + i] = (scalar)(100 * p + (int)i);
  for (size_t i = 0; i < count; i++) numbers[i] = ALL(-1);
  mask where = lane_none();
  for (int k = 0; k < LANES; k++) lane_mark(&where, k, k < lanes);
  load_arrays(numbers, where, given, FIRST, count);
  for (int k = 0; k < LANES; k++) {
    store_row(stored, numbers, k, count);
    for (size_t i = 0; i < count; i++)
      right &= stored[i] == (k < lanes ? (scalar)(100 * (FIRST + k) + (int)i) : (scalar)-1);
  }
  load_arrays(numbers, where, NULL, FIRST, count);
  for (int k = 0; k < lanes; k++)
    for (size_t i = 0; i < count; i++) right &= lane_get(numbers + i, k) == 0;
  free(given), free(stored), free(numbers);
  return right;
}

int main(void) {
  for (size_t count = 0; count <= MOST; count++)
    for (int lanes = 1; lanes <= LANES; lanes++)
      if (!is_loaded(count, lanes)) return 1;
  return 0;
}
"""


@pytest.mark.parametrize(
    ("variant", "target"), BUILDS, ids=[f"{variant}-{target.name}" for variant, target in BUILDS]
)
def test_lanes_hold_the_numbers_of_their_problems(variant, target, tmp_path):
    """Of any count, for whole vectors of problems and parts of them; nothing is read beyond an array's end."""
    found = find_toolchain()
    if not links_with(SANITIZE, found, tmp_path):
        pytest.skip("this compiler has no sanitizers")
    toolchain = Toolchain(found.compiler, target, found.libmvec)
    (tmp_path / "lanes.c").write_text(PROGRAM)
    flags = [*toolchain.compile_flags, *dict(VARIANTS)[variant], *STRICT, *SANITIZE]
    command = [*toolchain.compiler.command, *flags, f"-I{HEADER_FOLDER}", "-Wno-unused-function", "lanes.c"]
    subprocess.run([*command, "-o", "lanes", *toolchain.libraries], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "lanes"]).returncode == 0

#!/usr/bin/env bash
# Build sdist and wheel, install the wheel in fresh environments, and use it there: build a controller, solve, differentiate.
#
#   tests/wheels.sh [PYTHON ...]      # default: python3.11 python3.12 python3.13, those that are there
#
# The first environment gets the oldest torch that pyproject.toml allows, the others the newest. TORCH_INDEX names an index
# of torch's wheels, by default that of the CPU builds; an empty one leaves torch to pip's own index, whose builds for
# Linux are CUDA's and run on the CPU as well. Each takes minutes and a gigabyte or more, so `make test` leaves it out.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
oldest=$(sed -n 's/^ *"torch>=\([0-9.]*\)".*/\1/p' "$root/pyproject.toml")

# From what git knows, so that no file of the checkout's build folders gets in.
mkdir "$folder/source" && git -C "$root" archive HEAD | tar -x -C "$folder/source"
python3 -m venv "$folder/build"
"$folder/build/bin/pip" install --quiet build
"$folder/build/bin/python" -m build --outdir "$folder/dist" "$folder/source" > "$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
for file in "$folder"/dist/*; do
  names=$(case $file in *.whl) unzip -Z1 "$file" ;; *) tar -tf "$file" ;; esac)
  count=$(grep -c -E 'templates/(c|export|python|runtime)/[^/]+$' <<< "$names") || true
  expected=$(find "$folder"/source/templates/{c,export,python,runtime} -maxdepth 1 -type f | wc -l)
  [ "$count" = "$expected" ] || { echo "$file has $count templates of $expected"; exit 1; }
  echo "$(basename "$file"): all $count templates"
done

cat > "$folder/use.py" <<'PYTHON'
import platform
import sys

import torch

import mpcgen
from mpcgen.compat import mpc

sys.path.insert(0, sys.argv[2])
import pendulum

assert "site-packages" in mpcgen.__file__ and "site-packages" in mpc.__file__, mpcgen.__file__
x0 = torch.tensor([[-1.0, 0.0, 0.5]], dtype=torch.float64, requires_grad=True)
solution = pendulum.MPC(on_unconverged="raise")(x0)
(found,) = torch.autograd.grad(solution.cost.sum(), x0)
assert torch.allclose(found, solution.costates[:, 0], rtol=1e-6), (found, solution.costates[:, 0])
compiled = mpcgen.compile(mpcgen.load_problem(sys.argv[1]), dtypes="float64")
assert torch.equal(compiled.MPC()(x0).u, solution.u)
print(f"Python {platform.python_version()}, torch {torch.__version__}: mpcgen {mpcgen.__version__} builds, solves, differentiates")
PYTHON

[ $# -gt 0 ] || set -- python3.11 python3.12 python3.13
wanted="torch==$oldest"
for python in "$@"; do
  if ! "$python" --version > /dev/null 2>&1; then echo "$python is not installed, and left out"; continue; fi
  place="$folder/$(basename "$python")-$RANDOM"
  "$python" -m venv "$place"
  "$place/bin/pip" install --quiet ${index:+--extra-index-url "$index"} "$wanted" "$folder"/dist/*.whl
  cd "$folder"
  MPCGEN_CACHE_DIR="$place/cache" "$place/bin/mpcgen" build "$folder/source/examples/pendulum.py" --dtypes float64 -o "$place/out" > "$place/log"
  MPCGEN_CACHE_DIR="$place/cache" "$place/bin/mpcgen" doctor > "$place/log"
  MPCGEN_CACHE_DIR="$place/cache" "$place/bin/python" "$folder/use.py" "$folder/source/examples/pendulum.py" "$place/out"
  rm -rf "$place"
  wanted=torch
done

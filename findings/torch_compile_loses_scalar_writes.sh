#!/usr/bin/env bash
# torch 2.13: a compiled function that writes in place to a float64 tensor without dimensions on the CPU leaves it as it was.
#
# Behaviour: torch.compile of `x.add_(y)` leaves x unchanged, without error or warning, if x is float64, has no dimensions
# and is not returned; with backend "aot_eager" as with the default, but not with "eager". float32 is written to, and so
# are float64 tensors with a dimension, and this one where the function returns it. Optimisers write so: under a compiled
# Adam.step such a parameter never moves; under RMSprop.step its average of squares stays 0, and each step is lr / eps,
# 1e7 here, beside other parameters that are stepped as they should be.
# Why a good guess is wrong: losses of writes to inputs would be expected of odd aliases, not of the plainest case; that
# neither shape (1,) nor float32 shows it makes it look like a mistake in one's own gradient.
# Whom it hits: identification and other scientific training, whose learned numbers (a mass, a rate) are 0-dimensional
# float64 parameters, and who compiles the optimiser's step, as torch's tutorials do.
# Source: seen by running it, first as a mass that would not be learned.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu numpy==2.4.6
cat > "$folder/write.py" <<'PYTHON'
import torch

print("torch", torch.__version__)


def write(x, y):
    x.add_(y)


def write_and_return(x, y):
    return x.add_(y)


def after(function, dtype, shape, backend):
    torch.compiler.reset()
    x = torch.zeros(shape, dtype=dtype)
    torch.compile(function, backend=backend)(x, torch.ones(shape, dtype=dtype))
    return x.item()


for backend in ("eager", "aot_eager"):
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (1,)):
            print(f"0 + 1 in place: {backend}, {dtype}, shape {shape}: {after(write, dtype, shape, backend)}")
print(f"the same, returned: {after(write_and_return, torch.float64, (), 'aot_eager')}")
assert after(write, torch.float64, (), "aot_eager") == 0, "the behaviour has changed"
assert after(write, torch.float64, (), "eager") == 1
assert after(write, torch.float64, (1,), "aot_eager") == after(write, torch.float32, (), "aot_eager") == 1
assert after(write_and_return, torch.float64, (), "aot_eager") == 1


def trained(optimizer, compiled):
    torch.compiler.reset()
    parameters = [torch.nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in ((), (1,))]
    chosen = optimizer(parameters, lr=0.1)
    step = torch.compile(chosen.step, backend="aot_eager") if compiled else chosen.step
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        step()
    return [round(parameter.item(), 4) for parameter in parameters]


for optimizer in (torch.optim.Adam, torch.optim.RMSprop):
    for compiled in (False, True):
        found = trained(optimizer, compiled)
        print(f"{optimizer.__name__}, {'compiled' if compiled else 'eager'}: shape () {found[0]}, shape (1,) {found[1]}")
frozen, moved = trained(torch.optim.Adam, True)
assert frozen == 1 and abs(moved - 0.7) < 1e-3, "the behaviour has changed"
assert trained(torch.optim.RMSprop, True)[0] < -1e6, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/write.py"

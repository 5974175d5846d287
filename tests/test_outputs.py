"""What a solve computes is one table: the struct, the kernels, fake tensors and solutions agree with it."""

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import mpcgen
from mpcgen.compiler import render_spec
from mpcgen.runtime.outputs import DIFFERENTIABLE, OUTPUTS, sizes_of

BATCH, HORIZON = (2, 3), 5
EXAMPLES = Path(__file__).parent.parent / "examples"


def expected(example, dtype):
    controller = example.module.CONTROLLER
    sizes = sizes_of(HORIZON, len(controller.states), len(controller.controls))
    return [(row.shape(BATCH, sizes), torch.int32 if row.integer else dtype) for row in OUTPUTS]


def solved(example, dtype):
    x0 = torch.zeros(*BATCH, len(example.module.CONTROLLER.states), dtype=dtype)
    return example.module.MPC(on_unconverged="ignore")(x0, horizon=HORIZON)


def of(solution):
    return [(tuple(value.shape), value.dtype) for value in vars(solution).values()]


def test_a_solution_has_the_tables_rows_in_its_order(car):
    for dtype in (torch.float64, torch.float32):
        solution = solved(car, dtype)
        assert list(vars(solution)) == [row.name for row in OUTPUTS]
        assert of(solution) == expected(car, dtype)


def test_fake_tensors_have_the_same_shapes(car):
    with FakeTensorMode():
        assert of(solved(car, torch.float64)) == expected(car, torch.float64)


@pytest.mark.parametrize("name", ["car", "safe_cartpole"])
def test_the_struct_points_to_every_row_in_order(name):
    spec = mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()
    struct = render_spec(spec).header.partition(f"}} {name}_solve_arguments;")[0]
    expected = [row.member for row in OUTPUTS if bool(spec.constraints) or not row.constrained]
    found = re.findall(r"\*(\w+);\s+/\* out: ", struct)
    assert [member for member in found if member != "history"] == expected


def test_the_differentiable_rows():
    assert [OUTPUTS[place].name for place in DIFFERENTIABLE] == ["x", "u", "cost", "row_duals"]

"""`mpcgen compare` on a controller that is CasADi itself, so that what it must report is known."""

import io
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_problems import EXAMPLES, example
from rich.console import Console

from mpcgen.baseline import Baseline, KktGradient, kkt_gradient
from mpcgen.baseline.compare import Comparison, _compare_solver, _find_spec, compare, gradient_differences
from mpcgen.baseline.problems import Problems
from mpcgen.baseline.report import print_comparison
from mpcgen.errors import BuildError, ParameterError, SpecError


class Solve(torch.autograd.Function):
    """IPOPT in the forward pass, the KKT system in the backward pass, one pendulum after the other."""

    @staticmethod
    def forward(ctx, baseline, factor, x0, names, *values):
        parameters = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        ctx.baseline, ctx.factor, ctx.parameters = baseline, factor, parameters
        ctx.solution = solution = baseline.solve_batch(x0.numpy(), parameters)
        return tuple(torch.tensor(part) for part in (solution.x, solution.u, solution.cost))

    @staticmethod
    def backward(ctx, *cotangents):
        gradients = []
        for b, (x, u) in enumerate(zip(ctx.solution.x, ctx.solution.u, strict=True)):
            parameters = {name: value[b] for name, value in ctx.parameters.items()}
            parts = {
                "grad_x": cotangents[0][b],
                "grad_u": cotangents[1][b],
                "grad_cost": float(cotangents[2][b]),
            }
            gradients.append(kkt_gradient(ctx.baseline.functions, x, u, parameters, **parts))
        x0 = torch.tensor(np.array([gradient.x0 for gradient in gradients]))
        rest = [torch.tensor(np.array([g.parameters[name] for g in gradients])) for name in ctx.parameters]
        return None, None, x0, None, ctx.factor * rest[0], *rest[1:]


def controller(factor: float = 1.0, shift: float = 0.0) -> types.ModuleType:
    """Return a module as `mpcgen build` makes it, with a gravity gradient or controls that may be wrong."""
    spec = example("pendulum")
    shapes = {parameter.name: parameter.shape for parameter in spec.parameters}

    class MPC:
        def __init__(self, tol, on_unconverged):
            self.baseline = Baseline(spec, tol=tol / 100)

        def __call__(self, x0, **parameters):
            values = [value.expand(len(x0), *shapes[name]) for name, value in parameters.items()]
            x, u, cost = Solve.apply(self.baseline, factor, x0, list(parameters), *values)
            status = torch.zeros(len(x0), dtype=torch.int32)
            return types.SimpleNamespace(x=x, u=u + shift, cost=cost, status=status, iterations=status + 7)

    module = types.ModuleType("pendulum")
    module.__file__ = str(EXAMPLES.parent / "generated" / "pendulum" / "__init__.py")
    module.MPC = MPC
    return module


def test_a_correct_controller_differs_in_nothing():
    comparison = compare(controller(), count=3, seed=1)
    ipopt, fatrop = comparison.rows
    assert (comparison.solved, ipopt.same, fatrop.same, comparison.differentiable) == (3, 3, 3, 3)
    assert ipopt.x_difference == ipopt.u_difference == ipopt.cost_difference == 0
    assert max(comparison.gradients.values()) == 0


def test_a_wrong_gradient_is_reported_by_name_and_size():
    gradients = compare(controller(factor=1.01), count=2).gradients
    assert gradients.pop("gravity") == pytest.approx(0.01, rel=1e-9)
    assert max(gradients.values()) == 0


def test_controls_of_another_basin_are_not_counted_as_differences():
    ipopt = compare(controller(shift=1.0), count=2).rows[0]
    assert ipopt.same == 0 and np.isnan(ipopt.u_difference)


def test_gradients_that_cancel_to_zero_are_measured_against_the_others():
    witness = KktGradient(np.array([3.0, 4.0]), {"mass": np.zeros(())}, np.zeros((1, 1)), 1.0, True, 0.0)
    differences = gradient_differences({"x0": witness.x0, "mass": np.array(1e-12)}, witness)
    assert differences["mass"] == pytest.approx(1e-12 / (5 * np.sqrt(np.finfo(float).eps)))


def test_the_table_names_every_solver_and_gradient():
    comparison = compare(controller(), count=1)
    console = Console(record=True, width=80, quiet=False, file=io.StringIO())
    print_comparison(comparison, console)
    text = console.export_text()
    for word in ("mpcgen", "ipopt", "fatrop", *comparison.gradients):
        assert word in text


def test_a_solver_that_solves_nothing_has_no_time_and_says_why():
    spec = example("pendulum")
    x0 = np.array([[1.0, 0.0, 0.0], [np.nan, 0.0, 0.0]])
    defaults = {p.name: np.reshape(p.default, p.shape) for p in spec.parameters}
    own = {name: getattr(Baseline(spec).solve_batch(x0, defaults), name) for name in ("x", "u", "cost")}
    row = _compare_solver("ipopt", Problems(spec, x0, defaults), {**own, "converged": np.ones(2, bool)}, 1e-8)
    assert (row.solved, row.failures) == (1, {"start is not finite": 1})

    lost = replace(row, solved=0, seconds=0.0, failures={"start is not finite": 2})
    comparison = Comparison("pendulum", 2, 1e-8, 1, 1, 7.0, 1e-3, (lost,), 0, {}, {"STALLED": 1}, False)
    console = Console(record=True, width=200, file=io.StringIO())
    print_comparison(comparison, console)
    text = console.export_text()
    assert "none solved" in text and " 0 ms" not in text
    assert "Of what ipopt did not solve it says: start is not finite (2)." in text
    assert "Of what mpcgen did not solve it says: STALLED (1)." in text
    assert "initial_states(count, seed)" in text


def test_a_folder_without_a_package_is_refused(tmp_path):
    with pytest.raises(BuildError, match="mpcgen build"):
        compare(tmp_path)


def test_a_specification_that_is_not_found_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = controller()
    module.__file__ = str(tmp_path / "generated" / "boat" / "__init__.py")
    with pytest.raises(SpecError, match="--spec FILE"):
        compare(module)


def test_a_specification_is_found_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = controller()
    module.__file__ = str(tmp_path / "elsewhere" / "generated" / "boat" / "__init__.py")
    (tmp_path / "boat.py").write_text("")
    assert _find_spec(module, None) == tmp_path / "boat.py"


def test_parameters_without_defaults_are_asked_for(tmp_path):
    file = tmp_path / "lqr.py"
    file.write_text("import mpcgen\nproblem = mpcgen.lqr(2, 1)\n")
    with pytest.raises(ParameterError, match=r"C, F .*parameter_values\(seed\)"):
        compare(controller(), spec=file)

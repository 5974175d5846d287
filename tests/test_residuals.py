"""Dynamics as residuals that read rates, F(dx/dt, x, u) = 0: accuracy, solutions, rest, mistakes.

Values and derivatives of single stages are compared with CasADi's in `test_rows_in_c.py`.
"""

import numpy as np
import pytest
import sympy as sp
import torch
from controllers import compiled
from test_radau import exact

import mpcgen
from mpcgen import rate
from mpcgen.baseline.functions import Functions
from mpcgen.problem.lowering import lower_spec

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def robertson():
    """Robertson's kinetics with the conservation of mass in place of a rate."""
    problem = mpcgen.Problem("conserved", horizon=10)
    a, b, c = problem.states("a b c")
    (u,) = problem.controls("u", lower=0, upper=2)
    fast, slow, supply = 1e4 * b * c, 3e7 * b**2, 0.04 * (1 + u)
    residual = [rate(a) + supply * a - fast, rate(a) + rate(b) + slow, a + b + c - 1]
    problem.dynamics = mpcgen.radau(problem, None, dt=0.1, residual=residual)
    problem.stage_cost = 1e3 * (a - 0.9) ** 2 + u**2
    problem.terminal_cost = 1e3 * (a - 0.9) ** 2
    return problem


def circuit(name="circuit"):
    """A source, a resistor, a capacitor with the charge v + v³/3 and another resistor to the ground, in a row.

    Of the rates at the two nodes the residuals determine a difference, and beside that an equation.
    """
    problem = mpcgen.Problem(name, horizon=10)
    first, second = problem.states("first second")  # V, at the nodes
    (source,) = problem.controls("source", lower=-3, upper=3)  # V
    across = first - second
    current = (1 + across**2) * (rate(first) - rate(second))
    residual = [current - (source - first), current - second / 2]
    problem.dynamics = mpcgen.radau(problem, None, dt=0.2, residual=residual)
    problem.stage_cost = (across - 1) ** 2 + source**2 / 100
    problem.terminal_cost = 10 * (across - 1) ** 2
    return problem


def rollout(controller, x0, u):
    mpc = controller.MPC(method="ddp", max_iterations=0, on_unconverged="ignore")
    return mpc(
        torch.tensor(x0, dtype=torch.float64), u_init=torch.full((10, 1), u, dtype=torch.float64)
    ).x.numpy()


@pytest.fixture(scope="module")
def controller():
    return compiled(circuit())


def test_an_equation_in_place_of_a_rate_is_as_accurate_as_the_rate():
    found = rollout(compiled(robertson()), [1.0, 0.0, 0.0], 0.3)
    assert np.abs(found[-1] / exact("robertson", [1.0, 0.0, 0.0], 0.3)[-1] - 1).max() < 1e-6
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-15)


def test_rates_that_residuals_determine_in_part_are_integrated(controller):
    """The capacitor's voltage obeys 3 (1 + v²) v' = source - v, which integrates to a time as a function of v."""
    source, start = 2.0, 0.5
    found = rollout(controller, [start, 0.0], source)
    across = found[:, 0] - found[:, 1]

    def time(v):  # of 3 ∫ (1 + v²)/(source - v) dv
        left = source - v
        return -3 * ((1 + source**2) * np.log(left) - 2 * source * left + left**2 / 2)

    np.testing.assert_allclose(time(across) - time(start), 0.2 * np.arange(11), atol=1e-7)
    np.testing.assert_allclose(found[1:, 1], 2 * (source - across[1:]) / 3, rtol=1e-12)


def test_solutions_obey_the_residuals(controller):
    x0 = torch.tensor([[0.5, 0.0], [-1.0, 0.3], [2.0, 1.0]], dtype=torch.float64)
    functions = Functions(circuit().spec())
    for method in ("ddp", "interior_point"):
        solution = controller.MPC(method=method, tol=1e-9, on_unconverged="raise")(x0)
        for x, u in zip(solution.x.numpy(), solution.u.numpy(), strict=True):
            following = functions.f(x[:-1].T, u.T, np.zeros((0, 10))).full().T
            np.testing.assert_allclose(x[1:], following, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_comes_to_rest_stays_a_solution(dtype):
    """At rest all rates are rounding, and last what dies away has no digits left."""
    problem = mpcgen.Problem("rest", horizon=60)
    x, v, y = problem.states("x v y")
    (u,) = problem.controls("u")
    home = problem.parameter("home", default=0.0)
    residual = [
        (2 + sp.sin(x)) * rate(x) - v * (1 + y**2),
        rate(v) * (1 + 0.1 * rate(v) ** 2) + 50 * (x - home) + 5 * v - u + rate(x),
        y - sp.cos(x) * v - 0.1 * rate(x),
    ]
    problem.dynamics = mpcgen.radau(problem, None, dt=0.5, residual=residual)
    problem.stage_cost = x**2 + u**2
    problem.terminal_cost = x**2
    mpc = mpcgen.compile(problem, dtypes=dtype).MPC(method="ddp", max_iterations=0, on_unconverged="ignore")
    home = torch.tensor([0, 5, 1e3, 1e-6], dtype=dtype)
    for away in (0.5, 1e-3, 3e-8, 1e-12, 0.0):
        x0 = torch.zeros(4, 3, dtype=dtype)
        x0[:, 0] = home + away
        solution = mpc(x0, home=home)
        assert (solution.status != mpcgen.Status.MODEL).all()
        # of 60 steps, each with a rounding of the state, the last ten or so are not damped yet
        assert torch.allclose(solution.x[:, -1, 0], home, rtol=10 * torch.finfo(dtype).eps, atol=1e-12)


def test_more_rates_than_a_step_can_solve_for_are_refused():
    problem = mpcgen.Problem("many", horizon=3)
    states = problem.states([f"x{i}" for i in range(16)])
    (u,) = problem.controls("u")
    problem.dynamics = mpcgen.radau(problem, None, dt=0.1, residual=[rate(x) - u for x in states])
    problem.stage_cost = u**2
    with pytest.raises(mpcgen.SpecError, match="96 unknowns for 16 states that move and 16 of their rates"):
        lower_spec(problem.spec())


def test_a_rate_is_that_of_a_state():
    with pytest.raises(mpcgen.SpecError, match=r"mpcgen.rate was given 'x'; expected the symbol of a state"):
        rate("x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"residual": [1]}, r"residual= of radau5 has 1 row for the 3 states \(x, y, z\)"),
        ({"rhs": ["y"]}, "1 row for the 0 states that discrete= and residual= leave"),
        ({"residual": ["rate(x) - y", "y - x", "y + x"]}, "do not determine state 'z' beside the others"),
        ({"residual": ["rate(x) - y", "rate(x) - z", "rate(x) + u"]}, None),
        (
            {"residual": ["rate(x) - y", "y - z", "rate(y) - rate(u)"]},
            r"row 2 .* uses rate\(u\), the rate of no state: only states have rates, which are x, y, z",
        ),
        ({"residual": ["rate(u) - y", "y - x", "z"]}, r"row 0 .* uses rate\(u\), the rate of no state"),
        (
            {"residual": "rate(x)"},
            r"expected a mapping, such as {y: y\*\*2 - x}, what is zero, by state, or a list",
        ),
        ({"rhs": ["rate(y)"], "residual": {"y": "y - x", "z": "z"}}, "dynamics row 0 .* depends on the rate"),
        ({"discrete": {"z": "u"}, "residual": ["rate(x) - rate(z)", "y"]}, "z has a discrete row"),
        ({"cost": "rate(x)**2"}, "the stage cost depends on the rate 'rate"),
    ],
)
def test_mistakes_are_named(change, said):
    problem = mpcgen.Problem("mistaken", horizon=3)
    x, y, z = problem.states("x y z")
    (u,) = problem.controls("u")
    names = {"x": x, "y": y, "z": z, "u": u, "rate": rate}

    def read(value):
        if isinstance(value, dict):
            return {names[key]: read(row) for key, row in value.items()}
        return [read(row) for row in value] if isinstance(value, list) else eval(str(value), names)

    given = {"residual": ["rate(x) - y", "y - x", "z - u"]} | change
    cost = read(given.pop("cost", "z**2 + u**2"))

    def spec():
        rhs = read(given["rhs"]) if "rhs" in given else None
        more = {key: read(value) for key, value in given.items() if key != "rhs"}
        problem.dynamics = mpcgen.radau(problem, rhs, dt=0.1, **more)
        problem.stage_cost, problem.terminal_cost = cost, x**2
        return problem.spec()

    if said is None:
        assert lower_spec(spec()).substeps is not None
        return
    with pytest.raises(mpcgen.SpecError, match=said):
        spec()


def test_residuals_are_a_list_a_matrix_or_an_array():
    problem = mpcgen.Problem("listed", horizon=3)
    x, y = problem.states("x y")
    rows = [rate(x) - y, y + x]
    expected = mpcgen.radau(problem, None, dt=0.1, residual=rows)
    for given in (sp.Matrix(rows), np.array(rows), tuple(rows)):
        assert mpcgen.radau(problem, None, dt=0.1, residual=given) == expected

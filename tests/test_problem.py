"""What a well-formed specification becomes."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import mpcgen
from mpcgen.problem.fingerprint import fingerprint

EXAMPLES = Path(__file__).parents[1] / "examples"


def double_integrator() -> mpcgen.Problem:
    problem = mpcgen.Problem("double_integrator", horizon=10)
    x, v = problem.states("x v")
    (force,) = problem.controls("force", lower=-1, upper=1)
    (mass,) = problem.parameters("mass", default=2.0)
    problem.dynamics = [x + v / 10, v + force / mass / 10]
    problem.stage_cost = x**2 + force**2
    return problem


def test_spec_holds_what_was_declared():
    spec = double_integrator().spec()
    assert (spec.name, spec.horizon) == ("double_integrator", 10)
    assert [str(state) for state in spec.states] == ["x", "v"]
    assert [(str(c.symbol), c.lower, c.upper) for c in spec.controls] == [("force", -1, 1)]
    assert spec.dynamics.scheme == "discrete"
    assert spec.stage_cost == sp.sympify(
        "x**2 + force**2", locals={s.name: s for s in spec.stage_cost.free_symbols}
    )


def test_symbols_are_real():
    x, v = mpcgen.Problem("p", horizon=1).states("x, v")
    assert x.is_real and v.is_real


def test_terminal_cost_defaults_to_zero():
    assert double_integrator().spec().terminal_cost == 0


def test_spec_is_cached_until_the_problem_changes():
    problem = double_integrator()
    first = problem.spec()
    assert problem.spec() is first
    problem.terminal_cost = problem.spec().states[0] ** 2
    assert problem.spec() is not first
    assert problem.spec().terminal_cost == first.states[0] ** 2


def test_default_bounds_are_infinite():
    problem = mpcgen.Problem("p", horizon=1)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    problem.dynamics, problem.stage_cost = [x + u], u**2
    (control,) = problem.spec().controls
    assert (control.lower, control.upper) == (-sp.oo, sp.oo)


def test_bounds_may_be_numbers_infinities_parameters_and_expressions():
    problem = mpcgen.Problem("p", horizon=3)
    x, y, z = problem.states("x y z")
    (limit,) = problem.parameters("limit", default=1.0)
    pair = problem.parameter("pair", shape=2, default=[2.0, 3.0])
    a, b = problem.controls("a b", lower=np.array([-2, -np.inf]), upper=pair)
    (c,) = problem.controls("c", lower=-limit, upper=2 * limit)
    problem.dynamics, problem.stage_cost = [x + a, y + b, z + c], a**2 + b**2 + c**2
    bounds = [(control.lower, control.upper) for control in problem.spec().controls]
    assert bounds == [(-2.0, pair[0]), (-sp.oo, pair[1]), (-limit, 2 * limit)]


def test_equal_bounds_are_allowed():
    problem = mpcgen.Problem("p", horizon=3)
    (x,), (u,) = problem.states("x"), problem.controls("u", lower=0.5, upper=0.5)
    problem.dynamics, problem.stage_cost = [x + u], x**2
    assert problem.spec().controls[0].lower == problem.spec().controls[0].upper


@pytest.mark.parametrize(
    ("shape", "default", "sizes", "flat"),
    [
        ((), 2, (), (2.0,)),
        ((), sp.Rational(1, 4), (), (0.25,)),
        ((), np.array(2.0), (), (2.0,)),
        (3, [1, 2, 3], (3,), (1.0, 2.0, 3.0)),
        ((3,), np.array([1.0, 2.0, 3.0]), (3,), (1.0, 2.0, 3.0)),
        (2, sp.Matrix([1, 2]), (2,), (1.0, 2.0)),
        (2, 0, (2,), (0.0, 0.0)),
        ((2, 3), [[1, 2, 3], [4, 5, 6]], (2, 3), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),
        ((2, 2), sp.eye(2), (2, 2), (1.0, 0.0, 0.0, 1.0)),
        ((2, 1), [[1], [2]], (2, 1), (1.0, 2.0)),
        (2, None, (2,), None),
    ],
)
def test_parameter_defaults_are_flat_and_row_major(shape, default, sizes, flat):
    problem = double_integrator()
    problem.parameter("extra", shape=shape, default=default)
    parameter = problem.spec().parameters[-1]
    assert (parameter.shape, parameter.default) == (sizes, flat)


def test_vector_and_matrix_parameters_are_matrices_of_named_symbols():
    problem = mpcgen.Problem("p", horizon=1)
    assert problem.parameter("q", shape=2) == sp.Matrix(sp.symbols("q_0 q_1", real=True))
    matrix = problem.parameter("A", shape=(2, 2))
    assert matrix == sp.Matrix(2, 2, sp.symbols("A_0_0 A_0_1 A_1_0 A_1_1", real=True))


def test_scalar_parameters_share_one_default_or_take_a_list():
    problem = double_integrator()
    problem.parameters("a b", default=3)
    problem.parameters("c d", default=[4, 5])
    problem.parameters("e")
    defaults = {parameter.name: parameter.default for parameter in problem.spec().parameters}
    assert defaults == {"mass": (2.0,), "a": (3.0,), "b": (3.0,), "c": (4.0,), "d": (5.0,), "e": None}


def test_parameter_uses_tell_the_length_of_a_stage_axis_and_where_infinity_is_legal():
    problem = mpcgen.Problem("p", horizon=4)
    (x,) = problem.states("x")
    limit = problem.parameter("limit", default=sp.oo, per_stage=True)
    weight, goal, dt, unused = problem.parameters("weight goal dt unused", per_stage=True)
    (u,) = problem.controls("u", lower=-limit, upper=limit)
    problem.dynamics = mpcgen.euler(problem, [u], dt=dt)
    problem.stage_cost = weight * u**2 + (x - goal) ** 2
    problem.terminal_cost = (x - goal) ** 2
    uses = {p.name: (p.stages(4), p.in_terminal, p.only_bounds) for p in problem.spec().parameters}
    assert uses == {
        "limit": (4, False, True),
        "weight": (4, False, False),
        "goal": (5, True, False),
        "dt": (4, False, False),
        "unused": (4, False, False),
    }
    assert unused not in problem.spec().stage_cost.free_symbols


def test_costs_and_dynamics_may_be_matrices():
    problem = mpcgen.Problem("p", horizon=1)
    state, control = sp.Matrix(problem.states("x y")), sp.Matrix(problem.controls("a b"))
    Q = problem.parameter("Q", shape=(2, 2), default=np.eye(2))
    problem.dynamics = state + control
    problem.stage_cost = state.T * Q * state + control.T * control
    spec = problem.spec()
    assert spec.dynamics.expressions == tuple(state + control)
    assert sp.expand(spec.stage_cost - (state.T * Q * state + control.T * control)[0]) == 0


@pytest.mark.parametrize("scheme", ["euler", "midpoint", "rk4"])
def test_integrators_keep_the_right_hand_side_unexpanded(scheme):
    problem = mpcgen.Problem("p", horizon=1)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    step = problem.parameter("step", default=0.1)
    problem.dynamics = getattr(mpcgen, scheme)(problem, [sp.sin(x) + u], dt=step / 2, substeps=3)
    problem.stage_cost = u**2
    dynamics = problem.spec().dynamics
    assert (dynamics.scheme, dynamics.dt, dynamics.substeps) == (scheme, step / 2, 3)
    assert dynamics.expressions == (sp.sin(x) + u,)


def with_cost(make) -> sp.Expr:
    problem = mpcgen.Problem("p", horizon=1)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    a = problem.parameter("a", default=0.5)
    problem.dynamics, problem.stage_cost = [x + u], u**2 + make(x, a)
    return problem.spec().stage_cost - u**2


@pytest.mark.parametrize(
    "make",
    [
        lambda x, a: sp.Abs(x) + sp.Min(x, a) + sp.Max(x, 0, a),
        lambda x, a: sp.sqrt(x**2 + 1) + (x**2 + 1) ** 1.3 + (x**2 + 1) ** a,
        lambda x, a: sp.exp(x) + sp.log(1 + x**2) + sp.sin(x) * sp.cos(x) + sp.tan(x),
        lambda x, a: sp.asin(x) + sp.acos(x) + sp.atan(x) + sp.atan2(x, a),
        lambda x, a: sp.sinh(x) + sp.cosh(x) + sp.tanh(x) + sp.asinh(x) + sp.acosh(x) + sp.atanh(x),
        lambda x, a: sp.erf(x) * sp.pi,
        lambda x, a: sp.Piecewise((x**2 / 2, sp.Abs(x) < a), (a * (sp.Abs(x) - a / 2), True)),
        lambda x, a: sp.Piecewise((x**2, (x > 0) & (x < 1)), (2 * x - 1, x >= 1), (0, True)),
        lambda x, a: sp.Piecewise((1 - x**2 / 6, sp.Abs(x) < 1e-4), (sp.sin(x) / x, True)),
        lambda x, a: sp.Piecewise((0, x < 0), (sp.sqrt(x), True)),
        lambda x, a: sp.Piecewise((0.05, x**3 + x < 0.1), ((x**3 + x) * 0.5, True)),
    ],
)
def test_supported_expressions_are_taken_as_they_are(make):
    symbols = sp.symbols("x a", real=True)
    assert with_cost(make) == make(*symbols)


def test_shared_subexpressions_cost_nothing():
    """2**40 terms if expanded to a tree; the check walks some 120 nodes."""

    def chain(x, a):
        for _ in range(40):
            x = sp.sin(x) * sp.cos(x)
        return x

    began = time.perf_counter()
    with_cost(chain)
    assert time.perf_counter() - began < 5


def test_lqr_is_the_papers_quadratic_cost_and_affine_map():
    n, m = 2, 1
    spec = mpcgen.lqr(n, m, horizon=4).spec()
    parameters = {p.name: sp.Matrix(*(*p.shape, 1)[:2], p.symbols) for p in spec.parameters}
    tau = sp.Matrix([*spec.states, *(control.symbol for control in spec.controls)])
    C, c = parameters["C"], parameters["c"]
    assert sp.expand(spec.stage_cost - ((tau.T * C * tau) / 2 + c.T * tau)[0]) == 0
    x = tau[:n, :]
    assert sp.expand(spec.terminal_cost - ((x.T * C[:n, :n] * x) / 2 + c[:n, :].T * x)[0]) == 0
    expected = parameters["F"] * tau + parameters["f"]
    assert sp.expand(sp.Matrix(spec.dynamics.expressions) - expected) == sp.zeros(n, 1)
    assert [(c.lower, c.upper) for c in spec.controls] == [(parameters["lower"][0], parameters["upper"][0])]


def test_lqr_parameters_are_per_stage_and_need_only_the_cost_and_the_dynamics():
    spec = mpcgen.lqr(3, 2, horizon=4).spec()
    assert (spec.name, spec.horizon) == ("lqr_3_2", 4)
    stages = {p.name: (p.shape, p.stages(4), p.default and p.default[0]) for p in spec.parameters}
    assert stages == {
        "C": ((5, 5), 5, None),
        "c": ((5,), 5, 0.0),
        "F": ((3, 5), 4, None),
        "f": ((3,), 4, 0.0),
        "lower": ((2,), 4, -float("inf")),
        "upper": ((2,), 4, float("inf")),
    }


def test_large_lqr_is_validated_quickly():
    began = time.process_time()
    mpcgen.lqr(37, 12).spec()
    assert time.process_time() - began < 5  # 0.3 s alone on the machine; CI runs several tests at once


@pytest.mark.parametrize(
    ("name", "n", "m", "horizon"),
    [
        ("pendulum", 3, 1, 19),
        ("cartpole", 5, 1, 24),
        ("car", 4, 2, 60),
        ("quadrotor", 13, 4, 40),
        ("lqr", 3, 3, 5),
    ],
)
def test_examples_are_valid(name, n, m, horizon):
    spec = mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()
    assert (spec.name, len(spec.states), len(spec.controls), spec.horizon) == (name, n, m, horizon)


@pytest.mark.parametrize("name", ["pendulum", "cartpole", "car", "quadrotor", "lqr"])
def test_initial_states_of_the_examples_are_reproducible(name):
    namespace: dict = {}
    exec((EXAMPLES / f"{name}.py").read_text(), namespace)
    import torch

    first = namespace["initial_states"](7, seed=1)
    assert first.shape == (7, len(namespace["problem"].spec().states)) and first.dtype == torch.float64
    assert torch.equal(first, namespace["initial_states"](7, seed=1))
    assert not torch.equal(first, namespace["initial_states"](7, seed=2))
    assert namespace["initial_states"](2, dtype=torch.float32).dtype == torch.float32


def test_hovering_quadrotor_stays_and_costs_nothing():
    spec = mpcgen.load_problem(EXAMPLES / "quadrotor.py").spec()
    point = {
        symbol: value for p in spec.parameters for symbol, value in zip(p.symbols, p.default, strict=True)
    }
    point.update(dict.fromkeys(spec.states, 0))
    point[spec.states[3]] = 1
    hover = point[sp.Symbol("mass", real=True)] * point[sp.Symbol("gravity", real=True)] / 4
    point.update((control.symbol, hover) for control in spec.controls)
    assert [abs(row.subs(point)) < 1e-14 for row in spec.dynamics.expressions] == [True] * 13
    assert abs(spec.stage_cost.subs(point)) < 1e-30 and spec.terminal_cost.subs(point) == 0


def test_a_specification_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_spec.py").write_text("HORIZON = 3\n")
    (tmp_path / "spec.py").write_text(
        "import mpcgen\nfrom neighbour_of_spec import HORIZON\n"
        "it = mpcgen.Problem('p', horizon=HORIZON)\nagain = it\n"
    )
    before = list(sys.path)
    assert mpcgen.load_problem(tmp_path / "spec.py").horizon == 3
    assert sys.path == before


def test_import_loads_neither_sympy_nor_torch_nor_casadi():
    code = textwrap.dedent(
        """
        import sys
        import mpcgen
        assert "Problem" in dir(mpcgen)
        print([name for name in ("sympy", "torch", "casadi", "numpy") if name in sys.modules])
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.sep
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_exists():
    assert [name for name in mpcgen.__all__ if getattr(mpcgen, name, None) is None] == []


def test_the_lqr_function_is_not_hidden_by_a_module():
    code = "import mpcgen.problem, mpcgen; assert callable(mpcgen.lqr); from mpcgen import lqr; lqr(1, 1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mpcgen.no_such_name


def test_one_control_is_declared_as_several_are():
    problem = mpcgen.Problem("one", horizon=2)
    force = problem.control("force", lower=-2, upper=sp.oo)
    other = mpcgen.Problem("one", horizon=2)
    (same,) = other.controls("force", lower=-2, upper=sp.oo)
    assert force == same and problem.control_symbols == (force,)
    for each in (problem, other):
        x = each.state("x")
        each.dynamics, each.stage_cost, each.terminal_cost = [x + force], x**2 + force**2, x**2
    assert problem.spec() == other.spec()
    with pytest.raises(mpcgen.SpecError, match="two words"):
        problem.control("two words")


def test_a_pickle_of_a_problem_says_the_same():
    problem = mpcgen.Problem("kept", horizon=3)
    x, y = problem.states("x y", lower=[-1, -sp.oo])
    u = problem.control("u", lower=-1, upper=1)
    bent = mpcgen.lookup(x, [0, 1, 2, 3], [0, 1, 0, 2], degree=3)
    problem.dynamics = [x + sp.Piecewise((y, y > 0), (y / 2, True)), y + sp.atan2(u, 2) * sp.exp(-sp.Abs(x))]
    problem.stage_cost = bent**2 + sp.Max(u, 0) ** 2 + sp.sqrt(1 + y**2)
    problem.constraint("row", x * u, upper=1)
    loaded = pickle.loads(pickle.dumps(problem))
    assert loaded.spec() == problem.spec()
    assert copy.copy(problem).spec().stage_cost is problem.spec().stage_cost
    assert fingerprint(loaded.spec()) == fingerprint(problem.spec())
    loaded.state("z")
    assert problem.state_names == ("x", "y")

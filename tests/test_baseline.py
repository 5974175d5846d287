"""The CasADi baseline: translation, derivatives, optima and gradients against independent calculations."""

import subprocess
import sys

import numpy as np
import pytest
import sympy as sp
from baseline_problems import bounded_pendulum, example, random_lqr

import mpcgen
from mpcgen.baseline import (
    Baseline,
    Functions,
    Translator,
    kkt_residual,
    pack_parameters,
    unpack_gradient,
)
from mpcgen.errors import ParameterError, ShapeError, SpecError, UnsupportedExpressionError
from mpcgen.problem.spec import Spec

ca = pytest.importorskip("casadi")

EPS = np.finfo(float).eps

a, b = sp.symbols("a b", real=True)
POINTS = [(0.3, 0.7), (0.7, 0.3), (0.45, 0.45)]
UNIT_INTERVAL = [
    *(
        a + 2 * b - 3,
        a * b / 7,
        a**2,
        a**-3,
        a**b,
        sp.sqrt(a),
        1 / sp.sqrt(a),
        sp.cbrt(a),
        a ** sp.Rational(-5, 2),
    ),
    *(sp.exp(-a * b), sp.log(a), sp.sin(a), sp.cos(a), sp.tan(a), sp.sec(a), sp.csc(a), sp.cot(a)),
    *(sp.asin(a), sp.acos(a), sp.atan(a), sp.atan2(a - b, b), sp.atan2(a, -b), sp.acot(a)),
    *(sp.sinh(a), sp.cosh(a), sp.tanh(a), sp.sech(a), sp.csch(a), sp.coth(a)),
    *(sp.asinh(a), sp.acosh(1 + a), sp.atanh(a), sp.asech(a), sp.acsch(a), sp.acoth(1 + a)),
    *(sp.erf(a), sp.erfc(a), sp.sinc(a), sp.sign(a - b)),
    *(sp.Abs(a - b), sp.Min(a, b, 0.4), sp.Max(a, b, 0.4), (a - b) * sp.Heaviside(a - b), sp.pi * a + sp.E),
    sp.Piecewise((a, a < b), (b**2, sp.Gt(a, b)), (5, True)),
    sp.Piecewise((1, (a <= b) & ~(a < 0.4)), (2, (a >= 0.6) | sp.Eq(a, b)), (3, True)),
    sp.Piecewise((1, sp.Xor(a < 0.5, b < 0.5)), (2, sp.Ne(a, b)), (3, True)),
]


def translated(expression: sp.Expr) -> ca.Function:
    symbols = ca.SX.sym("a"), ca.SX.sym("b")
    return ca.Function("f", list(symbols), [Translator(dict(zip((a, b), symbols, strict=True)))(expression)])


@pytest.mark.parametrize("expression", UNIT_INTERVAL, ids=str)
def test_a_translated_function_has_the_value_that_sympy_gives_it(expression):
    function = translated(expression)
    for point in POINTS:
        exact = float(sp.N(expression.subs(dict(zip((a, b), map(sp.Float, point), strict=True))), 30))
        # a handful of roundings, each of one unit in the last place, and arguments of moderate condition
        assert float(function(*point)) == pytest.approx(exact, rel=16 * EPS, abs=16 * EPS)


def test_a_branch_that_is_not_taken_may_be_undefined():
    function = translated(sp.Piecewise((sp.log(a), a > 0), (b, True)))
    assert float(function(-1.0, 2.0)) == 2.0


def test_shared_subexpressions_are_translated_once():
    expression = a
    for _ in range(40):  # 2^40 nodes as a tree
        expression = sp.sin(expression) + sp.cos(expression)
    assert translated(expression).n_nodes() < 200


def test_an_undeclared_symbol_is_named():
    with pytest.raises(SpecError, match="symbol c "):
        translated(a + sp.Symbol("c"))


@pytest.mark.parametrize("expression", [sp.gamma(a), sp.I * a, sp.Function("drag")(a)], ids=str)
def test_an_expression_without_a_real_counterpart_is_named(expression):
    name = {sp.gamma(a): "gamma", sp.I * a: "ImaginaryUnit"}.get(expression, "drag")
    with pytest.raises(UnsupportedExpressionError, match=name):
        translated(expression)


def ode(scheme, substeps):
    problem = mpcgen.Problem("decay", horizon=3)
    (x,) = problem.states("x")
    (u,) = problem.controls("u")
    rate = problem.parameter("rate", default=-0.7)
    problem.dynamics = scheme(problem, [rate * x], dt=0.4, substeps=substeps)
    problem.stage_cost = x**2 + u**2
    return problem.spec()


@pytest.mark.parametrize("substeps", [1, 3])
@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_an_integrator_of_order_k_is_the_kth_taylor_polynomial_on_linear_dynamics(scheme, order, substeps):
    functions = Functions(ode(getattr(mpcgen, scheme), substeps))
    z = -0.7 * 0.4 / substeps
    growth = sum(z**k / float(sp.factorial(k)) for k in range(order + 1)) ** substeps
    assert float(functions.f(2.0, 0.0, -0.7)) == pytest.approx(2.0 * growth, rel=32 * EPS)


@pytest.fixture(scope="module")
def pendulum() -> Spec:
    return bounded_pendulum(np.inf)


def sympy_at_point(spec: Spec, rng: np.random.Generator):
    """Return the symbols (tau, theta), values for them, and an evaluator of sympy expressions there."""
    tau = [*spec.states, *(control.symbol for control in spec.controls)]
    theta = [symbol for parameter in spec.parameters for symbol in parameter.symbols]
    values = rng.uniform(0.5, 1.5, len(tau) + len(theta))
    table = dict(zip([*tau, *theta], values, strict=True))

    def evaluate(matrix) -> np.ndarray:
        return np.array(sp.Matrix(matrix).evalf(30, subs=table).tolist(), dtype=float)

    return tau, theta, values, evaluate


def test_derivatives_agree_with_sympys(pendulum):
    tau, theta, values, exact = sympy_at_point(pendulum, np.random.default_rng(1))
    functions = Functions(pendulum)
    x, u, parameters = np.split(values, [3, 4])
    lam = np.array([0.3, -1.1, 0.7])
    f, cost = sp.Matrix(pendulum.dynamics.expressions), pendulum.stage_cost
    lagrangian = cost + sum(value * row for value, row in zip(lam, f, strict=True))
    gradient = sp.Matrix([lagrangian]).jacobian(tau)
    terminal = sp.Matrix([pendulum.terminal_cost]).jacobian(tau[:3])
    stage, last = (x, u, parameters), (x, parameters)
    pairs = [
        (functions.f(*stage), f),
        (functions.f_D_tau(*stage), f.jacobian(tau)),
        (functions.f_D_theta(*stage), f.jacobian(theta)),
        (functions.stage_cost_D_tau(*stage), sp.Matrix([cost]).jacobian(tau).T),
        (functions.stage_cost_D_theta(*stage), sp.Matrix([cost]).jacobian(theta).T),
        (functions.stage_cost_hessian(*stage), sp.hessian(cost, tau)),
        (functions.lagrangian_hessian(*stage, lam), gradient.jacobian(tau)),
        (functions.lagrangian_D_tau_theta(*stage, lam), gradient.jacobian(theta)),
        (functions.terminal_cost_D_x(*last), terminal.T),
        (functions.terminal_cost_hessian(*last), terminal.jacobian(tau[:3])),
        (functions.terminal_cost_D_x_theta(*last), terminal.jacobian(theta)),
    ]
    for ours, theirs in pairs:
        # entries of order 1 to 100 from fewer than 100 operations
        np.testing.assert_allclose(ours.full(), exact(theirs), rtol=1e-12, atol=1e-12)


def test_parameters_are_packed_row_major_by_stage_and_gradients_unpacked_alike():
    spec = mpcgen.lqr(1, 1, horizon=2).spec()
    rng = np.random.default_rng(0)
    values = {
        "C": rng.normal(size=(3, 2, 2)),
        "F": rng.normal(size=(2, 1, 2)),
        "upper": np.array([[1.0], [2.0]]),
    }
    theta = pack_parameters(spec, values, 2)
    names = [str(symbol) for parameter in spec.parameters for symbol in parameter.symbols]
    place = names.index(str(next(p for p in spec.parameters if p.name == "C").symbols[0]))
    np.testing.assert_array_equal(theta[place : place + 4, 1], values["C"][1].ravel())
    unpacked = unpack_gradient(spec, theta)
    for name, value in values.items():
        np.testing.assert_array_equal(unpacked[name], value)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"mas": 1.0}, ParameterError, "'mas'"),
        ({"weight": np.ones(3)}, ShapeError, r"\(3,\), expected \(4,\)"),
    ],
)
def test_a_wrong_parameter_is_named(pendulum, parameters, error, message):
    with pytest.raises(error, match=message):
        pack_parameters(pendulum, parameters, 5)


def test_a_parameter_without_default_must_be_given():
    with pytest.raises(ParameterError, match="'C' has no default"):
        pack_parameters(mpcgen.lqr(2, 1).spec(), {}, 3)


def dense_lqr(x0: np.ndarray, p: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Solve min ½zᵀHz + cᵀz, Az = b over z = (τ_0, ..., τ_{N-1}, x_N) by one linear system."""
    N, n, width = p["F"].shape
    size = N * width + n
    H, c = np.zeros((size, size)), np.zeros(size)
    A, rhs = np.zeros((n * (N + 1), size)), np.zeros(n * (N + 1))
    A[:n, :n], rhs[:n] = np.eye(n), x0
    for t in range(N + 1):
        block = slice(t * width, min((t + 1) * width, size))
        own = block.stop - block.start
        H[block, block], c[block] = p["C"][t, :own, :own], p["c"][t, :own]
        if t < N:
            rows = slice(n * (t + 1), n * (t + 2))
            A[rows, block], rhs[rows] = -p["F"][t], p["f"][t]
            A[rows, (t + 1) * width : (t + 1) * width + n] = np.eye(n)
    matrix = np.block([[H, A.T], [A, np.zeros((len(A), len(A)))]])
    z = np.linalg.solve(matrix, np.concatenate([-c, rhs]))[:size]
    stages = z[: N * width].reshape(N, width)
    return np.vstack([stages[:, :n], z[N * width :]]), stages[:, n:]


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_lqr_is_solved_as_one_linear_system_solves_it(solver):
    spec, x0, parameters = random_lqr(3)
    solution = Baseline(spec, solver=solver, tol=1e-10).solve(x0, parameters)
    x, u = dense_lqr(x0, parameters)
    # C >= 1, so that an error in the solution is at most that in the gradient times the dynamics' growth
    np.testing.assert_allclose(solution.u, u, atol=1e-8)
    np.testing.assert_allclose(solution.x, x, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "x0"),
    [("pendulum", [0.0, 1.0, 0.5]), ("cartpole", [0.1, -0.2, np.cos(0.9), np.sin(0.9), 0.3])],
)
def test_ipopt_and_fatrop_find_the_same_optimum(name, x0):
    spec = example(name)
    ipopt, fatrop = (Baseline(spec, solver=solver, tol=1e-10).solve(x0) for solver in ("ipopt", "fatrop"))
    assert ipopt.success and fatrop.success
    assert fatrop.cost == pytest.approx(ipopt.cost, rel=1e-9)
    # a gradient of 1e-10 over a curvature of at least 1e-3
    np.testing.assert_allclose(fatrop.u, ipopt.u, atol=1e-7 * max(1.0, float(np.abs(ipopt.u).max())))


@pytest.mark.parametrize("name", ["_p", "two__underscores", "null", "jac"])
def test_a_problem_may_have_a_name_that_casadi_refuses_for_a_function(name):
    problem = mpcgen.Problem(name, horizon=3)
    (x,), (u,) = problem.states("x"), problem.controls("u", lower=-1, upper=1)
    problem.dynamics = [x + u]
    problem.stage_cost = (x - 5) ** 2 + u**2
    assert Baseline(problem.spec()).solve([4.0]).success


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_solutions_stay_within_bounds_and_are_stationary(solver):
    baseline = Baseline(example("pendulum"), solver=solver, tol=1e-12)
    solution = baseline.solve([0.0, 1.0, 0.5])
    assert np.abs(solution.u).max() <= 2.0
    assert (np.abs(solution.u) > 2 - 1e-9).any()
    assert kkt_residual(baseline.functions, solution.x, solution.u) < 1e-9


def test_a_horizon_can_differ_from_the_specs():
    solution = Baseline(example("pendulum"), horizon=7).solve([1.0, 0.0, 0.1])
    assert solution.x.shape == (8, 3) and solution.u.shape == (7, 1)


def test_a_problem_does_as_its_spec_does():
    problem = mpcgen.Problem("creep", horizon=3)
    x, u = problem.state("x"), problem.control("u", lower=-1, upper=1)
    problem.dynamics, problem.stage_cost, problem.terminal_cost = [x + u], x**2 + u**2, x**2
    given, frozen = (Baseline(what).solve([2.0]) for what in (problem, problem.spec()))
    assert given.success and np.array_equal(given.u, frozen.u)
    with pytest.raises(SpecError, match=r"an mpcgen.Problem is expected"):
        Baseline("examples/cartpole.py")


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_a_start_that_is_not_finite_fails_without_reaching_the_solver(solver):
    solution = Baseline(example("pendulum"), solver=solver).solve([np.nan, 0.0, 0.0])
    assert not solution.success and solution.status == "start is not finite"


def test_where_the_rollout_overflows_all_stages_begin_at_x0():
    problem = mpcgen.Problem("tank", horizon=5)
    level, pump = problem.state("level", lower=0.1), problem.control("pump", lower=0.0, upper=3.0)
    problem.dynamics = [level - sp.sqrt(level) + pump]
    problem.stage_cost = (level - 4) ** 2 + pump**2
    problem.terminal_cost = (level - 4) ** 2
    baseline = Baseline(problem, tol=1e-10)
    solution = baseline.solve([1.5])  # empties to a root of less than nothing
    again = baseline.solve([1.5], u_init=np.ones((5, 1)))
    assert solution.success and solution.iterations > 0
    np.testing.assert_allclose(solution.u, again.u, atol=1e-6)


def test_a_batch_is_its_problems_one_by_one():
    baseline = Baseline(example("pendulum"))
    x0 = np.array([[1.0, 0.0, 0.4], [0.0, 1.0, -0.3]])
    mass = np.array([0.8, 1.3])
    batch = baseline.solve_batch(x0, {"mass": mass})
    for i in range(2):
        single = baseline.solve(x0[i], {"mass": mass[i]})
        np.testing.assert_array_equal(batch.u[i], single.u)
    assert batch.seconds > 0


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_states_to_begin_at_replace_the_rollout(solver):
    baseline = Baseline(example("pendulum"), solver=solver, tol=1e-10)
    x0 = np.array([1.0, 0.0, 0.4])
    found = baseline.solve(x0)
    again = baseline.solve_batch(np.stack([x0, x0]), u_init=found.u, x_init=found.x)
    assert again.success.all() and again.iterations.max() < found.iterations
    np.testing.assert_allclose(again.u[1], found.u, atol=1e-6)
    assert baseline.solve(x0, x_init=np.full_like(found.x, np.nan)).status == "start is not finite"
    with pytest.raises(ShapeError, match="x_init has shape"):
        baseline.solve(x0, x_init=found.x[1:])


def test_a_missing_casadi_is_named_with_its_remedy():
    code = "import sys; sys.modules['casadi'] = None; import mpcgen.baseline"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BaselineUnavailableError" in done.stderr and "pip install 'mpcgen[baseline]'" in done.stderr

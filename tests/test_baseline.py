"""The CasADi baseline: translation, derivatives, optima and gradients against independent calculations."""

from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import mpcgen
from mpcgen.baseline import (
    Baseline,
    Functions,
    Translator,
    finite_difference_gradient,
    kkt_gradient,
    kkt_residual,
    pack_parameters,
    unpack_gradient,
)
from mpcgen.errors import ParameterError, ShapeError, SpecError, UnsupportedExpressionError
from mpcgen.problem.spec import Spec

ca = pytest.importorskip("casadi")

EXAMPLES = Path(__file__).parent.parent / "examples"
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
    *(sp.erf(a), sp.erfc(a), sp.sinc(a), sp.sign(a - b), sp.floor(3 * a), sp.ceiling(3 * a), sp.Mod(-a, b)),
    *(sp.Abs(a - b), sp.Min(a, b, 0.4), sp.Max(a, b, 0.4), sp.Heaviside(a - b), sp.pi * a + sp.E),
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


def example(name: str) -> Spec:
    return mpcgen.load_problem(EXAMPLES / f"{name}.py").spec()


@pytest.fixture(scope="module")
def pendulum() -> Spec:
    return bounded_pendulum(np.inf)


def bounded_pendulum(limit: float) -> Spec:
    """Return the pendulum with its torque limits as parameters, one of them inside an expression."""
    problem = mpcgen.Problem("pendulum", horizon=12)
    cos, sin, rate = problem.states("c s w")
    low = problem.parameter("low", default=-limit)
    high = problem.parameter("high", shape=2, default=[limit, 0.0])
    (u,) = problem.controls("u", lower=low, upper=high[0] + 2 * high[1])
    mass, length = problem.parameters("mass length", default=[1.0, 1.2])
    weight = problem.parameter("weight", shape=4, default=[1.0, 0.8, 0.1, 0.05])
    next_rate = rate + sp.Rational(1, 10) * (15 / length * sin + 3 * u / (mass * length**2))
    angle = sp.atan2(sin, cos) + next_rate / 10
    problem.dynamics = [sp.cos(angle), sp.sin(angle), next_rate]
    cost = weight[0] * (cos - 1) ** 2 + weight[1] * sin**2 + weight[2] * rate**2
    problem.stage_cost = (cost + weight[3] * u**2) / 2
    problem.terminal_cost = 2 * cost
    return problem.spec()


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


def random_lqr(seed: int, n: int = 3, m: int = 2, horizon: int = 5):
    """Return a time-varying convex LQ problem: its spec, x0 and parameters."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(horizon + 1, n + m, n + m))
    parameters = {
        "C": root @ root.transpose(0, 2, 1) / 4 + np.eye(n + m),
        "c": rng.normal(size=(horizon + 1, n + m)),
        "F": rng.normal(size=(horizon, n, n + m)) / 2,
        "f": rng.normal(size=(horizon, n)) / 4,
    }
    return mpcgen.lqr(n, m, horizon=horizon).spec(), rng.normal(size=n), parameters


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


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_a_start_that_is_not_finite_fails_without_reaching_the_solver(solver):
    solution = Baseline(example("pendulum"), solver=solver).solve([np.nan, 0.0, 0.0])
    assert not solution.success and solution.status == "start is not finite"


def test_a_batch_is_its_problems_one_by_one():
    baseline = Baseline(example("pendulum"))
    x0 = np.array([[1.0, 0.0, 0.4], [0.0, 1.0, -0.3]])
    mass = np.array([0.8, 1.3])
    batch = baseline.solve_batch(x0, {"mass": mass})
    for i in range(2):
        single = baseline.solve(x0[i], {"mass": mass[i]})
        np.testing.assert_array_equal(batch.u[i], single.u)
    assert batch.seconds > 0


def swing(limit: float, rate: float):
    """Return the baseline, start and solution of a pendulum falling at ``rate``."""
    baseline = Baseline(bounded_pendulum(limit), tol=1e-12)
    x0 = np.array([np.cos(1.1), np.sin(1.1), rate])
    return baseline, x0, baseline.solve(x0)


def assert_close_to_differences(baseline, x0, parameters, solution, names=None):
    rng = np.random.default_rng(5)
    cotangents = {
        "grad_x": rng.normal(size=solution.x.shape),
        "grad_u": rng.normal(size=solution.u.shape),
        "grad_cost": 0.7,
    }
    gradient = kkt_gradient(baseline.functions, solution.x, solution.u, parameters, **cotangents)
    assert gradient.second_order and gradient.complementarity > 1e-3
    for name in names or ("x0", *gradient.parameters):
        exact = np.ravel(gradient.x0 if name == "x0" else gradient.parameters[name])
        differences = finite_difference_gradient(
            baseline, x0, parameters, name, u_init=solution.u, **cotangents
        )
        # truncation as the differences tell it, and solutions good to 1e-11 over steps of 1e-4 or less
        bound = differences.error + 1e-6 * np.maximum(1.0, np.abs(exact))
        assert (np.abs(exact - differences.value) <= bound).all(), name
        assert np.linalg.norm(exact - differences.value) <= 1e-4 * max(1.0, np.linalg.norm(exact)), name


@pytest.mark.parametrize(
    ("limit", "rate", "signs"), [(50.0, -0.4, {0}), (0.9, -0.4, {0, 1}), (0.9, -3.0, {-1, 0, 1})]
)
def test_gradients_with_and_without_active_bounds_agree_with_central_differences(limit, rate, signs):
    baseline, x0, solution = swing(limit, rate)
    active = kkt_gradient(baseline.functions, solution.x, solution.u).active
    assert set(active.ravel().tolist()) == signs
    assert_close_to_differences(baseline, x0, {}, solution)


def test_gradients_of_per_stage_parameters_and_bounds_agree_with_central_differences():
    spec, x0, parameters = random_lqr(7, n=2, m=2, horizon=3)
    parameters |= {"lower": np.full((3, 2), -0.4), "upper": np.full((3, 2), 0.3)}
    baseline = Baseline(spec, tol=1e-12)
    solution = baseline.solve(x0, parameters)
    active = kkt_gradient(baseline.functions, solution.x, solution.u, parameters).active
    assert set(active.ravel().tolist()) == {-1, 0, 1}
    assert_close_to_differences(baseline, x0, parameters, solution)


def test_the_gradient_of_the_cost_is_its_envelope():
    baseline, _, solution = swing(0.9, -3.0)
    functions, theta = baseline.functions, pack_parameters(baseline.spec, {}, 12)
    stages = np.zeros_like(theta)
    for t in range(12):
        point = solution.x[t], solution.u[t], theta[:, t]
        stages[:, t] = functions.stage_cost_D_theta(*point).full().ravel()
        stages[:, t] += functions.f_D_theta(*point).full().T @ solution.costates[t + 1]
    stages[:, 12] = functions.terminal_cost_D_theta(solution.x[12], theta[:, 12]).full().ravel()
    envelope = unpack_gradient(baseline.spec, stages)
    gradient = kkt_gradient(functions, solution.x, solution.u, grad_cost=1.0)
    # the solver's costates are good to its tolerance over the distance to the nearest inactive bound
    np.testing.assert_allclose(gradient.x0, solution.costates[0], rtol=1e-7, atol=1e-8)
    for name in ("mass", "length", "weight"):
        np.testing.assert_allclose(gradient.parameters[name], envelope[name], rtol=1e-7, atol=1e-8)


def test_the_gradient_of_the_cost_by_a_bound_is_the_sum_of_its_multipliers():
    baseline, _, solution = swing(0.9, -3.0)
    functions, theta = baseline.functions, pack_parameters(baseline.spec, {}, 12)
    gradient = kkt_gradient(functions, solution.x, solution.u, grad_cost=1.0)
    multipliers = np.zeros(12)
    for t in range(12):
        point = solution.x[t], solution.u[t], theta[:, t]
        by_tau = functions.stage_cost_D_tau(*point) + functions.f_D_tau(*point).T @ solution.costates[t + 1]
        multipliers[t] = float(by_tau[3])
    upper = multipliers[gradient.active[:, 0] == 1].sum()
    assert gradient.parameters["low"] == pytest.approx(
        multipliers[gradient.active[:, 0] == -1].sum(), rel=1e-7
    )
    # the upper bound is high[0] + 2 high[1]
    np.testing.assert_allclose(gradient.parameters["high"], [upper, 2 * upper], rtol=1e-7)


def hill() -> Spec:
    """Return one state, two stages, and a cost that is stationary at zero but largest there in u."""
    problem = mpcgen.Problem("hill", horizon=2)
    (x,) = problem.states("x")
    limit = problem.parameter("limit", default=2.0)
    (u,) = problem.controls("u", lower=-limit, upper=limit)
    problem.dynamics = [x]
    problem.stage_cost = u**4 - u**2 + x**2
    return problem.spec()


def test_a_stationary_point_that_is_no_minimum_is_told_apart():
    zero = np.zeros((3, 1)), np.zeros((2, 1))
    assert not kkt_gradient(Functions(hill()), *zero).second_order
    minimum = np.zeros((3, 1)), np.full((2, 1), np.sqrt(0.5))
    assert kkt_gradient(Functions(hill()), *minimum).second_order


def test_a_control_whose_bounds_coincide_is_active_without_a_multiplier():
    gradient = kkt_gradient(Functions(hill()), np.zeros((3, 1)), np.zeros((2, 1)), {"limit": 0.0})
    assert (gradient.active == -1).all()


def test_complementarity_is_the_distance_to_a_weakly_active_bound():
    edge = np.sqrt(0.5)
    gradient = kkt_gradient(
        Functions(hill()), np.zeros((3, 1)), np.full((2, 1), edge), {"limit": edge + 1e-5}
    )
    assert gradient.complementarity == pytest.approx(1e-5, rel=1e-9)


def test_differences_of_unconverged_solutions_are_refused():
    baseline = Baseline(example("pendulum"), max_iterations=1)
    with pytest.raises(ParameterError, match="Maximum_Iterations_Exceeded"):
        finite_difference_gradient(baseline, [0.0, 1.0, 0.0], {}, "mass", grad_cost=1.0)

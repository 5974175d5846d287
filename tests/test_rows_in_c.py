"""The generated C functions of constrained problems, against CasADi's derivatives of the specification."""

import shutil
from pathlib import Path

import casadi as ca
import constrained_problems as problems
import numpy as np
import pytest
import sympy as sp
from row_cases import Case, Compiled

import mpcgen
from examples.links import links
from mpcgen.build.toolchain import COMPILERS
from mpcgen.compiler import Compilation

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler on this machine")
CHAIN = Path(__file__).parent.parent / "examples" / "chain.py"
TOLERANCE = 1e-9  # of numbers of size one after at most a thousand operations


def everything():
    """Rows of every kind: mixed, state bounds, curved, soft, terminal; bounds per stage, absent, in parameters."""
    problem = mpcgen.Problem("everything", horizon=4)
    reach, price = problem.parameters("reach price", default=[2.0, 3.0])
    limit = problem.parameter("limit", shape=2, default=[0.5, 0.7], per_stage=True)
    x, v = problem.states("x v", lower=[-reach, -sp.oo], upper=[reach**2, limit[0]])
    a, b = problem.controls("a b", lower=-1, upper=1)
    problem.dynamics = [x + 0.1 * sp.sin(v) * reach, v + 0.1 * (a * b + limit[1] * sp.cos(x))]
    problem.stage_cost = x**2 + a**2 + b**2 + v * a / 10
    problem.terminal_cost = v**4
    problem.constraint("power", a * v * reach, upper=limit[1])
    problem.constraint("coupling", a - 2 * b + b**3, equals=limit[0] / 10)
    problem.constraint(
        "ring", [x**2 + v**2, x * v * reach], lower=[0.1, -price], soft=price, soft_quadratic=[0, 2]
    )
    problem.terminal_constraint("goal", [sp.sin(x) + v, limit[0] * x], equals=[0, reach])
    problem.terminal_constraint("near", sp.exp(x), upper=price, soft_quadratic=reach)
    return problem


def linear_with_a_ring():
    """Dynamics without second derivatives, and a row that has some."""
    problem = mpcgen.Problem("linear_with_a_ring", horizon=4)
    x, v = problem.states("x v")
    (a,) = problem.controls("a")
    problem.dynamics = [x + v, v + a]
    problem.stage_cost = x**2 + a**2
    problem.constraint("ring", x**2 + v**2, upper=1)
    return problem


def substeps(running=True):
    """Integration in so many steps that they are a loop, beside states that are held or change once a stage."""
    problem = mpcgen.Problem("substeps", horizon=4)
    rate, price = problem.parameters("rate price", default=[1.0, 0.5])
    load = problem.parameter("load", default=0.3, per_stage=True)
    x, last, v, T, seen = problem.states("x last v T seen", upper=[2, sp.oo, rate, sp.oo, sp.oo])
    a, b = problem.controls("a b", lower=-1, upper=1)
    rhs = [v * sp.cos(x), a * sp.exp(-rate * v) + last * sp.sin(x * v) - load * x / (1 + v**2), 0 * T]
    held = {last: a * b + x * v, seen: sp.sin(x) + 0.1 * seen}
    problem.dynamics = mpcgen.rk4(problem, rhs, dt=T * rate / 3, substeps=12, discrete=held)
    problem.stage_cost = x**2 * a + b**2 + seen**2 + last * v
    if running:
        effort = mpcgen.running_cost(a**2 + sp.sin(v) * load)
        problem.stage_cost = problem.stage_cost + price * effort + load * mpcgen.running_cost(x**4)
    problem.terminal_cost = v**4
    problem.constraint("power", a * v * rate, upper=load, soft=price)
    return problem


def implicit(scheme="radau", running=True):
    """Implicit steps, whose equations are solved, beside states that are held, change once a stage or are algebraic."""
    problem = mpcgen.Problem("implicit", horizon=4)
    rate, price = problem.parameters("rate price", default=[1.0, 0.5])
    load = problem.parameter("load", default=0.3, per_stage=True)
    x, last, v, y = problem.states("x last v y", upper=[2, sp.oo, rate, sp.oo])
    (a,) = problem.controls("a", lower=-1, upper=1)
    rates = {x: v * sp.cos(x) + y, v: a * sp.exp(-rate * v) + last * sp.sin(x * v) - 30 * (v - load * x)}
    equation = {y: y + y**3 - x * rate - a}
    more = {"substeps": 1 if scheme == "radau" else 2, "discrete": {last: a * x}}
    if scheme == "radau":
        problem.dynamics = mpcgen.radau(problem, [*rates.values()], dt=rate / 3, residual=equation, **more)
    else:
        rhs = [*rates.values(), -10 * equation[y]]
        problem.dynamics = mpcgen.implicit_midpoint(problem, rhs, dt=rate / 3, **more)
    problem.stage_cost = x**2 * a + last * v
    if running:
        problem.stage_cost = problem.stage_cost + price * mpcgen.running_cost(a**2 + sp.sin(v) * y * load)
    problem.terminal_cost = v**4 + y**2
    problem.constraint("power", a * v * rate, upper=load, soft=price)
    return problem


def residual():
    """The same, its rates in residuals, one of them cubic, each with another state's; two of them are explicit."""
    problem = mpcgen.Problem("residual", horizon=4)
    rate, price = problem.parameters("rate price", default=[1.0, 0.5])
    load = problem.parameter("load", default=0.3, per_stage=True)
    x, last, v, w, y, z = problem.states("x last v w y z", upper=[2, sp.oo, rate, sp.oo, sp.oo, sp.oo])
    (a,) = problem.controls("a", lower=-1, upper=1)
    dx, dv, dw, dz = map(mpcgen.rate, (x, v, w, z))
    equations = {
        x: (1 + x**2) * dv + 0.1 * dv**3 * rate - a - last * sp.sin(x * v) + dx / 4,
        v: rate * dx - v * sp.cos(x) - y + 0.3 * dw + dz * load,
        w: dw + dw**3 / 5 + w - x * a,
        y: y + y**3 - x * rate - a + dv,
    }
    problem.dynamics = mpcgen.radau(
        problem,
        [sp.cos(z) * w + a],
        dt=rate / 3,
        order=3,
        substeps=2,
        discrete={last: a * x},
        residual=equations,
    )
    effort = mpcgen.running_cost(a**2 + sp.sin(v) * y * load)
    problem.stage_cost = x**2 * a + last * v + price * effort
    problem.terminal_cost = v**4 + y**2 + z
    problem.constraint("power", a * v * rate, upper=load, soft=price)
    return problem


def one_dense_step():
    """Four links on a cart: one step of rk4, whose slopes are a loop."""
    problem = links(4, horizon=4)
    rate, force = problem.state_symbols[5], problem.control_symbols[0]
    problem.constraint("power", rate * force, upper=50)
    return problem


CASES = {
    "one dense step": (one_dense_step, False),
    "residual": (residual, False),
    "radau": (implicit, False),
    "implicit midpoint": (lambda: implicit("implicit_midpoint", running=False), False),
    "substeps": (substeps, False),
    "substeps without a running cost": (lambda: substeps(running=False), False),
    "everything": (everything, False),
    "everything by loops": (everything, True),
    "a ring": (linear_with_a_ring, False),
    "car": (problems.car_among_discs, False),
    "walls": (problems.safe_cartpole, False),
    "terminal rows alone": (problems.pendulum_swing_up, False),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    make, looped = CASES[request.param]
    return Case(Compiled(make, looped, tmp_path_factory.mktemp("functions")))


def close(got, expected):
    """Compare flat arrays, infinities included."""
    np.testing.assert_allclose(got, np.asarray(expected).ravel(), rtol=TOLERANCE, atol=TOLERANCE)


def triangle(matrix):
    return matrix[np.tril_indices(len(matrix))]


def dot(vector, expression):
    return ca.dot(ca.DM(vector), expression) if len(vector) else ca.SX(0)


def test_values_and_bounds_of_the_rows(case):
    w = case.witness
    for place, rows, witness, state in (
        ("stage", case.path, w.path, (case.x, case.u)),
        ("terminal", case.end, w.end, (case.x,)),
    ):
        k = len(rows)
        values, lower, upper, linear, quadratic = w.at(
            case.point, *(witness[field] for field in ("rows", "lower", "upper", "soft", "soft_quadratic"))
        )
        (got,) = case.call(f"{place}_rows", *state, case.theta, case.theta_t, sizes=[k])
        close(got, values)
        got = case.call(f"{place}_row_bounds", case.theta, case.theta_t, sizes=[k, k])
        close(got[0], lower)
        close(got[1], upper)
        if case.call.model.path_rows.soft or case.call.model.end_rows.soft:
            got = case.call(f"{place}_row_weights", case.theta, case.theta_t, sizes=[k, k])
            close(got[0], linear)
            close(got[1], quadratic)


def test_next_state_and_cost(case):
    w = case.witness
    inputs = (case.x, case.u, case.theta, case.theta_t)
    for part, expected in zip(
        case.call("stage_dynamics", *inputs, sizes=[case.n, 1]), w.at(case.point, w.f, w.cost), strict=True
    ):
        close(part, expected)
    d_x, d_u = case.draw(case.n), case.draw(case.m)
    (F,) = w.at(case.point, ca.jacobian(w.f, w.tau))
    (got,) = case.call("stage_tangent", *inputs, d_x, d_u, sizes=[case.n])
    close(got, F @ np.concatenate([d_x, d_u]))


def test_tangents_of_the_rows(case):
    w = case.witness
    d_x, d_u = case.draw(case.n), case.draw(case.m)
    (J,) = w.at(case.point, ca.jacobian(w.path["rows"], w.tau))
    inputs = (case.x, case.u, case.theta, case.theta_t, d_x, d_u)
    (got,) = case.call("stage_rows_tangent", *inputs, sizes=[len(case.path)])
    close(got, J @ np.concatenate([d_x, d_u]))
    (J,) = w.at(case.point, ca.jacobian(w.end["rows"], w.x))
    (got,) = case.call("terminal_rows_tangent", case.x, case.theta, case.theta_t, d_x, sizes=[len(case.end)])
    close(got, J @ d_x)


@pytest.mark.parametrize("kind", ["exact", "gauss_newton"])
def test_the_quadratic_model_of_a_stage(case, kind):
    """Q = Hessian of l + weight (lambda'f + dual'c) + J'DJ + F'VF, gradient of l + lambda'f + dual'c, offsets."""
    w, k, n, m = case.witness, len(case.path), case.n, case.m
    costate, offset, dual, force = case.draw(n), case.draw(n), case.draw(k), case.draw(k)
    stiffness, weight = np.abs(case.draw(k)), 0.7
    V = case.draw((n, n))
    V = V @ V.T
    multiplied = dot(costate, w.f) + dot(dual, w.path["rows"])
    F, J, H, curvature, gradient = w.at(
        case.point,
        ca.jacobian(w.f, w.tau),
        ca.jacobian(w.path["rows"], w.tau),
        ca.hessian(w.cost, w.tau)[0],
        ca.hessian(multiplied, w.tau)[0],
        ca.gradient(w.cost + multiplied, w.tau),
    )
    Q = H + F.T @ V @ F + J.T @ np.diag(stiffness) @ J
    if kind == "exact":
        Q = Q + weight * curvature
    offsets = F.T @ offset + J.T @ force
    size = n + m
    inputs = (
        case.x,
        case.u,
        case.theta,
        case.theta_t,
        weight,
        costate,
        triangle(V),
        offset,
        dual,
        stiffness,
        force,
    )
    got = case.call(kind, *inputs, sizes=[size * (size + 1) // 2, n, m, n, m])
    for part, expected in zip(
        got, (triangle(Q), gradient[:n], gradient[n:], offsets[:n], offsets[n:]), strict=True
    ):
        close(part, expected)


def test_gradients_of_a_stage_alone(case):
    """Of l + lambda'f + dual'c, without the model; implicit steps have no function of them."""
    implicit = bool(case.call.kernels.loop and case.call.kernels.loop.substeps.implicit)
    assert hasattr(case.call.library, "call_adjoint") is not implicit
    if implicit:
        return
    costate, dual = case.draw(case.n), case.draw(len(case.path))
    lagrangian = stage_lagrangian(case, costate, dual)
    (gradient,) = case.witness.at(case.point, ca.gradient(lagrangian, case.witness.tau))
    inputs = (case.x, case.u, case.theta, case.theta_t, costate, dual)
    by_x, by_u = case.call("adjoint", *inputs, sizes=[case.n, case.m])
    close(by_x, gradient[: case.n])
    close(by_u, gradient[case.n :])


def test_the_quadratic_model_of_the_end(case):
    w, k, n = case.witness, len(case.end), case.n
    dual, force, stiffness, weight = case.draw(k), case.draw(k), np.abs(case.draw(k)), 0.7
    multiplied = dot(dual, w.end["rows"])
    J, H, curvature, gradient = w.at(
        case.point,
        ca.jacobian(w.end["rows"], w.x),
        ca.hessian(w.terminal_cost, w.x)[0],
        ca.hessian(multiplied, w.x)[0],
        ca.gradient(w.terminal_cost + multiplied, w.x),
    )
    inputs = (case.x, case.theta, case.theta_t, weight, dual, stiffness, force)
    hessian, costate, offset = case.call("terminal_expand", *inputs, sizes=[n * (n + 1) // 2, n, n])
    close(hessian, triangle(H + weight * curvature + J.T @ np.diag(stiffness) @ J))
    close(costate, gradient)
    close(offset, J.T @ force)


def stage_lagrangian(case, costate, dual):
    w = case.witness
    return w.cost + dot(costate, w.f) + dot(dual, w.path["rows"])


def end_lagrangian(case, dual):
    w = case.witness
    return w.terminal_cost + dot(dual, w.end["rows"])


def test_parameter_gradients(case):
    """Of d'grad(L) + d_lambda'f + d_dual'c + loss_cost L, with L = l + lambda'f + dual'c."""
    w, n, m, k = case.witness, case.n, case.m, len(case.path)
    costate, d_costate, dual, d_dual = case.draw(n), case.draw(n), case.draw(k), case.draw(k)
    d_x, d_u, loss = case.draw(n), case.draw(m), 0.3
    lagrangian = stage_lagrangian(case, costate, dual)
    scalar = dot(np.concatenate([d_x, d_u]), ca.gradient(lagrangian, w.tau)) + loss * lagrangian
    scalar = scalar + dot(d_costate, w.f) + dot(d_dual, w.path["rows"])
    by_theta, by_u = w.at(case.point, ca.gradient(scalar, w.theta), ca.gradient(scalar, w.u))
    inputs = (case.x, case.u, case.theta, case.theta_t, costate, dual, d_x, d_u, d_costate, d_dual, loss)
    got = case.call("stage_gradient", *inputs, sizes=[*case.parameter_sizes, m])
    for part, expected in zip(got, (*case.by_parameters(by_theta.ravel()), by_u), strict=True):
        close(part, expected)

    dual, d_dual = case.draw(len(case.end)), case.draw(len(case.end))
    lagrangian = end_lagrangian(case, dual)
    scalar = dot(d_x, ca.gradient(lagrangian, w.x)) + loss * lagrangian + dot(d_dual, w.end["rows"])
    (by_theta,) = w.at(case.point, ca.gradient(scalar, w.theta))
    inputs = (case.x, case.theta, case.theta_t, dual, d_x, d_dual, loss)
    got = case.call("terminal_gradient", *inputs, sizes=case.parameter_sizes)
    for part, expected in zip(got, case.by_parameters(by_theta.ravel()), strict=True):
        close(part, expected)


def test_changes_along_the_parameters(case):
    w, n, m, k = case.witness, case.n, case.m, len(case.path)
    costate, dual, change = case.draw(n), case.draw(k), case.draw(len(case.all_theta))
    changes = case.by_parameters(change)

    def along(expression):
        (slopes,) = w.at(case.point, ca.jacobian(expression, w.theta))
        return slopes @ change if len(change) else np.zeros(expression.numel())

    lagrangian = stage_lagrangian(case, costate, dual)
    expected = [ca.gradient(lagrangian, w.x), ca.gradient(lagrangian, w.u), w.f, w.path["rows"], lagrangian]
    inputs = (case.x, case.u, case.theta, case.theta_t, costate, dual, *changes)
    got = case.call("stage_forward", *inputs, sizes=[n, m, n, k, 1])
    for part, expression in zip(got, expected, strict=True):
        close(part, along(expression))

    dual = case.draw(len(case.end))
    lagrangian = end_lagrangian(case, dual)
    inputs = (case.x, case.theta, case.theta_t, dual, *changes)
    got = case.call("terminal_forward", *inputs, sizes=[n, len(case.end), 1])
    for part, expression in zip(got, (ca.gradient(lagrangian, w.x), w.end["rows"], lagrangian), strict=True):
        close(part, along(expression))


def finite(expression):
    """Infinite entries as zeros, whose derivatives are known to be zero."""
    rows = [
        ca.SX(0) if entry.is_constant() and not np.isfinite(float(entry)) else entry
        for entry in ca.vertsplit(expression)
    ]
    return ca.vertcat(*rows) if rows else ca.SX(0, 1)


@pytest.mark.parametrize(
    ("what", "fields"), [("bounds", ("lower", "upper")), ("weights", ("soft", "soft_quadratic"))]
)
def test_differentials_of_bounds_and_weights(case, what, fields):
    w, change = case.witness, case.draw(len(case.all_theta))
    soft = case.path.soft or case.end.soft
    if what == "weights" and not soft:
        assert f"row_{what}_gradient" not in [function.name for function in case.call.kernels.functions]
        return
    for prefix, rows, witness in (("", case.path, w.path), ("terminal_", case.end, w.end)):
        k = len(rows)
        first, second = (finite(witness[field]) for field in fields)
        a, b = case.draw(k), case.draw(k)
        by_theta, d_first, d_second = w.at(
            case.point,
            ca.gradient(dot(a, first) + dot(b, second), w.theta),
            ca.jacobian(first, w.theta) @ ca.DM(change),
            ca.jacobian(second, w.theta) @ ca.DM(change),
        )
        inputs = (case.theta, case.theta_t, a, b)
        got = case.call(f"{prefix}row_{what}_gradient", *inputs, sizes=case.parameter_sizes)
        for part, expected in zip(got, case.by_parameters(by_theta.ravel()), strict=True):
            close(part, expected)
        inputs = (case.theta, case.theta_t, *case.by_parameters(change))
        got = case.call(f"{prefix}row_{what}_forward", *inputs, sizes=[k, k])
        close(got[0], d_first)
        close(got[1], d_second)


def test_slopes_of_a_dense_step_are_a_loop_and_of_a_sparse_one_are_not():
    dense, sparse = (
        Compilation(spec).derived.loop
        for spec in (one_dense_step().spec(), mpcgen.load_problem(CHAIN).spec())
    )
    assert dense.substeps.count == 1 and sparse is None


def test_a_bound_of_a_state_costs_three_additions_in_the_quadratic_model():
    """Its Jacobian is a unit vector: stiffness, dual and force are added to one entry each."""

    def operations(**bounds):
        problem = mpcgen.Problem("counted", horizon=3)
        x, v = problem.states("x v", **bounds)
        (a,) = problem.controls("a")
        problem.dynamics = [x + sp.sin(v), v + a * x]
        problem.stage_cost = x**2 + a**2
        sizes = dict(Compilation(problem.spec()).rendered.sizes)
        return sizes["operations of stage_expand_exact"]

    assert operations(upper=[1, sp.oo]) - operations() == 3
    assert operations(upper=[1, 2]) - operations() == 6

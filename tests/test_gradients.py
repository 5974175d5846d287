"""Gradients through the solver: against CasADi's KKT system, central differences and the paper's formulas."""

import numpy as np
import pytest
import torch
from controllers import (
    EPS,
    NONLINEAR,
    Differentiated,
    Example,
    differentiate,
    example,
    leaves,
    random_lq,
    with_bound_parameters,
    witness,
)

import mpcgen
from mpcgen.baseline import Baseline, finite_difference_gradient, pack_parameters, unpack_gradient

COUNT = {"pendulum": 24, "cartpole": 12, "car": 8, "lqr": 12, "quadrotor": 3}


def relative_errors(own: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative Euclidean error of each gradient.

    A gradient below a millionth of all of them together counts as that: it has lost to cancellation the digits
    that a relative error would measure, in the witness's dense solve too.
    """
    whole = np.sqrt(sum(float(np.sum(value**2)) for value in expected.values()))
    return {
        name: float(np.linalg.norm(own[name] - value))
        / max(float(np.linalg.norm(value)), 1e-6 * whole, 1e-300)
        for name, value in expected.items()
    }


def compare_with_casadi(case: Example, count: int, cost: bool, **options) -> tuple[int, int]:
    """Assert 1e-7 for every problem with a gradient; return how many had one, and how many active bounds."""
    given = case.values(1)
    done = differentiate(case.mpc(**options), case.starts(count, 1), leaves(case, count, given), cost=cost)
    compared = with_active = 0
    for b in range(count):
        expected = witness(case, done, b)
        assert expected.second_order
        # nearer than this to switching, which bounds are active is the residual's choice
        if expected.complementarity <= 10 * expected.residual:
            continue
        own = {name: gradient[b].numpy() for name, gradient in done.gradients.items()}
        errors = relative_errors(own, {"x0": expected.x0, **expected.parameters})
        assert max(errors.values()) <= 1e-7, (case.spec.name, b, errors)
        compared += 1
        with_active += bool((expected.active != 0).any())
    return compared, with_active


@pytest.mark.parametrize("name", [*NONLINEAR, "lqr", "quadrotor"])
def test_gradients_of_trajectories_equal_casadis_at_the_same_solution(name):
    compared, _ = compare_with_casadi(example(name), COUNT[name], cost=False)
    assert compared >= 0.9 * COUNT[name]


@pytest.mark.parametrize("name", [*NONLINEAR, "lqr"])
def test_gradients_of_cost_and_trajectories_together_equal_casadis(name):
    # The envelope theorem and the KKT system differ by the residual times the trajectory's sensitivity.
    compared, _ = compare_with_casadi(example(name), COUNT[name] // 2, cost=True, tol=1e-11)
    assert compared >= 0.9 * (COUNT[name] // 2)


@pytest.mark.parametrize("name", ["pendulum", "car"])
def test_gradients_with_bounds_as_parameters_equal_casadis(name):
    case = with_bound_parameters(name)
    compared, with_active = compare_with_casadi(case, COUNT[name], cost=False)
    assert compared >= 0.9 * COUNT[name]
    assert with_active >= COUNT[name] // 2


def test_gradients_by_the_bounds_of_a_linear_quadratic_problem_equal_casadis(lqr):
    count = 12
    given = random_lq(3, 3, lqr.spec.horizon, 5, batch=(count,))
    given |= {
        "lower": torch.tensor(-0.4, dtype=torch.float64),
        "upper": torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64),
    }
    given["lower"] = given["lower"].expand(3)
    done = differentiate(lqr.mpc(), lqr.starts(count, 3), leaves(lqr, count, given), cost=False)
    sides = set()
    for b in range(count):
        expected = witness(lqr, done, b)
        assert expected.complementarity > 10 * expected.residual
        own = {name: gradient[b].numpy() for name, gradient in done.gradients.items()}
        errors = relative_errors(own, {"x0": expected.x0, **expected.parameters})
        assert max(errors.values()) <= 1e-7, errors
        sides |= set(expected.active.ravel().tolist())
    assert sides == {-1, 0, 1}


@pytest.mark.parametrize("name", NONLINEAR)
def test_gradients_equal_central_differences_of_ipopt_solutions(name):
    case = example(name)
    horizon = {"pendulum": 19, "cartpole": 12, "car": 10}[name]
    x0 = case.starts(1, 4)
    start = x0.clone().requires_grad_()
    values = leaves(case, 1, {}, horizon)
    solution = case.mpc(tol=1e-11)(start, horizon=horizon, **values)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(solution.u.shape, generator=generator, dtype=torch.float64)
    (solution.u * weight).sum().backward()
    baseline = Baseline(case.spec, horizon, tol=1e-12)
    for parameter in ("x0", *values):
        difference = finite_difference_gradient(
            baseline,
            x0[0].numpy(),
            {},
            parameter,
            grad_u=weight[0].numpy(),
            u_init=solution.u[0].detach().numpy(),
        )
        own = (start if parameter == "x0" else values[parameter]).grad[0].numpy()
        scale = max(np.linalg.norm(difference.value), 1e-6)
        assert np.linalg.norm(own.ravel() - difference.value) <= 1e-4 * scale, parameter


@pytest.mark.parametrize("name", NONLINEAR)
def test_directional_derivatives_equal_central_differences_over_a_batch(name):
    """Differences of the solver's own tight solutions, so that a whole batch is affordable."""
    case, count = example(name), 64
    mpc = case.mpc(tol=1e-11)
    x0 = case.starts(count, 6)
    values = leaves(case, count, {})
    done = differentiate(mpc, x0, values, cost=False)
    generator = torch.Generator().manual_seed(1)
    inputs = {"x0": x0, **{name: value.detach() for name, value in values.items()}}
    direction = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64) * value.abs().clamp(min=0.1)
        for name, value in inputs.items()
    }
    slope = sum((done.gradients[n] * direction[n]).reshape(count, -1).sum(1) for n in inputs)
    ends = {}
    for step in (-1e-5, 1e-5):
        moved = {n: value + step * direction[n] for n, value in inputs.items()}
        ends[step] = mpc(moved.pop("x0"), u_init=done.solution.u.detach(), **moved)
    g_x, g_u, _ = done.cotangents
    low, high = ((e.x * g_x).sum((1, 2)) + (e.u * g_u).sum((1, 2)) for e in (ends[-1e-5], ends[1e-5]))
    difference = (high - low) / 2e-5
    # A control that reaches or leaves its bound in between puts a kink there: not differentiable, not counted.
    bounds = {bound for c in case.spec.controls for bound in (float(c.lower), float(c.upper))}
    held = [torch.stack([(e.u == bound) for bound in bounds]) for e in ends.values()]
    smooth = (held[0] == held[1]).all(0).flatten(1).all(1)
    assert smooth.sum() >= 0.9 * count
    error = (slope - difference).abs() / difference.abs().clamp(min=1e-2 * float(difference.abs().median()))
    # Truncation grows with the square of the step, 1e-10, times ratios of derivatives that reach 1e4 where a
    # solution is nearly singular.
    assert (error[smooth] <= 1e-4).all(), error[smooth].max()


GRADCHECK_HORIZON = {"pendulum": 5, "cartpole": 4, "car": 4, "lqr": 3, "quadrotor": 2}


@pytest.mark.parametrize("name", GRADCHECK_HORIZON)
def test_gradcheck(name):
    """Every input in units of its value, so that one step of 1e-5 suits 0.0032 kg m² as it suits 9.81 m/s².

    Differences then err by 1e-10 times ratios of derivatives below 1e3, and by the solutions' 1e-12 / 1e-5.
    """
    case, horizon = example(name), GRADCHECK_HORIZON[name]
    given = random_lq(3, 3, horizon, 0) if name == "lqr" else {}
    finite = {n: v.detach() for n, v in leaves(case, 2, given, horizon).items() if v.isfinite().all()}
    mpc = case.mpc(tol=1e-12)
    inputs = (case.starts(2, 2), *finite.values())
    units = [torch.where(value == 0, 1.0, value.abs()) for value in inputs]

    def solve(*scaled):
        x0, *values = (value * unit for value, unit in zip(scaled, units, strict=True))
        solution = mpc(x0, horizon=horizon, **dict(zip(finite, values, strict=True)))
        return solution.x, solution.u, solution.cost

    scaled = [(value / unit).requires_grad_() for value, unit in zip(inputs, units, strict=True)]
    assert torch.autograd.gradcheck(solve, scaled, eps=1e-5, atol=1e-6, rtol=1e-6)


def dense_lq(C, F, loss, held=None):
    """Minimise Σ ½ d'Cd + loss'd over d with d_x0 = 0, d_x(t+1) = F_t d_t and held controls at 0: one dense solve.

    C: (N+1, k, k), F: (N, n, k), loss: (N+1, k), held: (N, m) or none, k = n + m; the last control does not
    exist. Returns d (N+1, k) and the multipliers d_lambda (N+1, n) of d_x0 = 0 and of the dynamics.
    """
    stages, k = loss.shape
    n = F.shape[1]
    moves = np.ones((stages, k), dtype=bool)
    moves[-1, n:] = False
    if held is not None:
        moves[:-1, n:] = ~held
    hessian = np.zeros((stages * k, stages * k))
    dynamics = np.zeros((stages * n, stages * k))
    for t in range(stages):
        hessian[t * k : (t + 1) * k, t * k : (t + 1) * k] = C[t]
        dynamics[t * n : (t + 1) * n, t * k : t * k + n] = -np.eye(n)
        if t < stages - 1:
            dynamics[(t + 1) * n : (t + 2) * n, t * k : (t + 1) * k] = F[t]
    moves = moves.ravel()
    hessian, dynamics = hessian[np.ix_(moves, moves)], dynamics[:, moves]
    kkt = np.block([[hessian, dynamics.T], [dynamics, np.zeros((stages * n, stages * n))]])
    solution = np.linalg.solve(kkt, np.concatenate([-loss.ravel()[moves], np.zeros(stages * n)]))
    d = np.zeros(stages * k)
    d[moves] = solution[: moves.sum()]
    return d.reshape(stages, k), solution[moves.sum() :].reshape(stages, n)


def test_linear_quadratic_gradients_are_equation_8_of_the_paper(lqr):
    """With d and d_lambda from a dense solve: dC = ½(d⊗τ + τ⊗d), dc = d, dF = d_λ⊗τ + λ⊗d, df = d_λ, dx0 = d_λ0."""
    n, N, count = 3, lqr.spec.horizon, 6
    given = random_lq(n, n, N, 9, batch=(count,))
    done = differentiate(lqr.mpc(), lqr.starts(count, 9), leaves(lqr, count, given), cost=False)
    solution = done.solution
    for b in range(count):
        x, u, costates = (v[b].detach().numpy() for v in (solution.x, solution.u, solution.costates))
        tau = np.hstack([x, np.vstack([u, np.zeros(n)])])
        g_x, g_u = (g[b].numpy() for g in done.cotangents[:2])
        loss = np.hstack([g_x, np.vstack([g_u, np.zeros(n)])])
        d, d_lambda = dense_lq(given["C"][b].numpy(), given["F"][b].numpy(), loss)
        outer = np.einsum("ti,tj->tij", d, tau)
        mixed = np.einsum("ti,tj->tij", d_lambda[1:], tau[:-1])
        expected = {
            "C": (outer + outer.transpose(0, 2, 1)) / 2,
            "c": d,
            "F": mixed + np.einsum("ti,tj->tij", costates[1:], d[:-1]),
            "f": d_lambda[1:],
            "x0": d_lambda[0],
        }
        errors = relative_errors({name: done.gradients[name][b].numpy() for name in expected}, expected)
        assert max(errors.values()) <= 1e-10, errors


def papers_gradient(case: Example, done: Differentiated, b: int, held: np.ndarray) -> dict[str, np.ndarray]:
    """Module 2 by one dense solve: the stage costs' Hessians alone, the derivatives by theta complete."""
    functions, N, n = case.functions, case.spec.horizon, len(case.spec.states)
    solution = done.solution
    x, u, costates = (v[b].detach().numpy() for v in (solution.x, solution.u, solution.costates))
    theta = pack_parameters(case.spec, {k: v[b].detach().numpy() for k, v in done.parameters.items()}, N)
    points = [(x[t], u[t], theta[:, t]) for t in range(N)]
    k = n + u.shape[1]
    C = np.zeros((N + 1, k, k))
    C[:N] = [np.array(functions.stage_cost_hessian(*point)) for point in points]
    C[N, :n, :n] = np.array(functions.terminal_cost_hessian(x[N], theta[:, N]))
    F = np.array([np.array(functions.f_D_tau(*point)) for point in points])
    g_x, g_u = (g[b].numpy() for g in done.cotangents[:2])
    d, d_lambda = dense_lq(C, F, np.hstack([g_x, np.vstack([g_u, np.zeros((1, k - n))])]), held)
    stages = np.zeros_like(theta)
    for t, point in enumerate(points):
        stages[:, t] = np.array(functions.lagrangian_D_tau_theta(*point, costates[t + 1])).T @ d[t]
        stages[:, t] += np.array(functions.f_D_theta(*point)).T @ d_lambda[t + 1]
    stages[:, N] = np.array(functions.terminal_cost_D_x_theta(x[N], theta[:, N])).T @ d[N, :n]
    return {"x0": d_lambda[0], **unpack_gradient(case.spec, stages)}


@pytest.mark.parametrize("name", NONLINEAR)
def test_the_papers_gradient_is_the_one_without_the_curvature_of_the_dynamics(name):
    case, count = example(name), {"pendulum": 16, "cartpole": 6, "car": 4}[name]
    x0, values = case.starts(count, 0), leaves(case, count, {})
    # the costates of the solver and those under a policy are one at the solution only
    done = differentiate(case.mpc(gradient="gauss_newton", tol=1e-10), x0, values, cost=False)
    exact = differentiate(case.mpc(tol=1e-10), x0, values, cost=False)
    differences = []
    for b in range(count):
        expected = papers_gradient(case, done, b, witness(case, exact, b).active != 0)
        own = {key: value[b].numpy() for key, value in done.gradients.items()}
        assert max(relative_errors(own, expected).values()) <= 1e-7
        other = {key: value[b].numpy() for key, value in exact.gradients.items()}
        differences.append(max(relative_errors(other, expected).values()))
    # otherwise an option that does nothing would pass
    assert max(differences) > 1e-2


@pytest.mark.parametrize("name", [*NONLINEAR, "lqr"])
def test_the_gradient_of_a_shared_parameter_is_the_sum_over_the_batch(name):
    case, count = example(name), 37
    x0, given = case.starts(count, 2), case.values(2)
    apart = leaves(case, count, given)
    done = differentiate(case.mpc(), x0, apart)
    shared = {n: value.detach()[:1].clone().requires_grad_() for n, value in apart.items()}
    solution = case.mpc()(x0, **shared)
    torch.autograd.backward((solution.x, solution.u, solution.cost), done.cotangents)
    for n, value in shared.items():
        terms = done.gradients[n]
        # the terms are the same bits; only the order of the sum of `count` of them differs
        bound = count * EPS * terms.abs().sum(0, keepdim=True)
        assert ((value.grad - terms.sum(0, keepdim=True)).abs() <= bound).all(), n


def spoiled(case: Example, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Starts of which every third cannot be solved, and which those are."""
    x0 = case.starts(count, 3)
    bad = torch.arange(count) % 3 == 0
    x0[bad, 0] = float("nan")
    return x0, bad


@pytest.mark.parametrize("name", ["cartpole", "car"])
def test_what_cannot_be_solved_contributes_exactly_nothing(name):
    case, count = example(name), 24
    x0, bad = spoiled(case, count)
    shared = {n: v.detach()[:1].clone().requires_grad_() for n, v in leaves(case, 1, {}).items()}
    start = x0.clone().requires_grad_()
    solution = case.mpc(on_unconverged="ignore")(start, **shared)
    assert ((solution.status != 0) == bad).all()
    # the loss of an unsolved problem is NaN, and so would its cotangent be: neither may reach the others
    (solution.u**2).sum().backward()
    alone = differentiate_sum(case, x0[~bad])
    assert (start.grad[bad] == 0).all()
    assert torch.equal(start.grad[~bad], alone["x0"])
    for n, value in shared.items():
        assert value.grad.isfinite().all()
        torch.testing.assert_close(
            value.grad[0], alone[n], rtol=1e-12, atol=1e-12 * float(value.grad.abs().max())
        )


def differentiate_sum(case: Example, x0: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of Σu² with parameters shared by the batch."""
    start = x0.clone().requires_grad_()
    shared = {n: v.detach()[0].clone().requires_grad_() for n, v in leaves(case, 1, {}).items()}
    (case.mpc()(start, **shared).u ** 2).sum().backward()
    return {"x0": start.grad, **{n: v.grad for n, v in shared.items()}}


def gradients_after(
    case: Example, passes: int, mode: str, x0: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Status, and gradient of Σu by x0, after at most ``passes`` passes."""
    mpc = case.mpc(max_iterations=passes, unconverged_gradient=mode, on_unconverged="ignore")
    start = x0.clone().requires_grad_()
    solution = mpc(start)
    solution.u.sum().backward()
    return solution.status, start.grad


def test_the_gradient_of_an_unconverged_problem_is_what_was_asked_for(cartpole):
    x0 = cartpole.starts(64, 0)
    status, zero = gradients_after(cartpole, 8, "zero", x0)
    late = status == mpcgen.Status.MAX_ITERATIONS
    assert 8 <= late.sum() <= 56
    _, kept = gradients_after(cartpole, 8, "keep", x0)
    _, nan = gradients_after(cartpole, 8, "nan", x0)
    assert (zero[late] == 0).all()
    assert nan[late].isnan().all()
    assert (kept[late] != 0).any(1).sum() >= 0.5 * late.sum()
    for other in (kept, nan):
        assert torch.equal(zero[~late], other[~late])

"""Smoothed gradients: the bounds' log-barrier at mu in place of the bounds, in either mode."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from controllers import Example, differentiate, leaves, random_lq, with_bound_parameters
from torch import Tensor
from torch.func import jacfwd, jacrev

from mpcgen.calls import kernels
from mpcgen.errors import ParameterError

# torch's own decompositions for forward mode are scripted at their first use
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

N, HORIZON = 3, 4


def problem(lqr: Example) -> dict[str, Tensor]:
    """A random convex LQ problem of 3 states, 3 controls and 4 stages within finite bounds, some of them active."""
    values = random_lq(N, N, HORIZON, 8) | {"x0": lqr.starts(1, 8)[0]}
    bound = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64).expand(HORIZON, N)
    return values | {"lower": -bound, "upper": bound.clone()}


def controls(mpc: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return u (N, m) as a function of x0 and the parameters."""
    return mpc(inputs["x0"], horizon=HORIZON, **{k: v for k, v in inputs.items() if k != "x0"}).u


def condensed(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Hessian (Nm, Nm) and linear term (Nm,) of the cost as a function of the controls alone, f and x0 included."""

    def cost(u: Tensor) -> Tensor:
        x, total = inputs["x0"], torch.zeros((), dtype=torch.float64)
        for t in range(HORIZON):
            tau = torch.cat([x, u[t * N : (t + 1) * N]])
            total = total + tau @ inputs["C"][t] @ tau / 2 + inputs["c"][t] @ tau
            x = inputs["F"][t] @ tau + inputs["f"][t]
        return total + x @ inputs["C"][HORIZON, :N, :N] @ x / 2 + inputs["c"][HORIZON, :N] @ x

    zero = torch.zeros(HORIZON * N, dtype=torch.float64)
    return torch.func.hessian(cost)(zero), torch.func.grad(cost)(zero)


def barrier_solution(inputs: dict[str, Tensor], mu: float) -> np.ndarray:
    """(Nm,) minimiser of the cost - mu Σ log slack, by damped Newton in numpy; to rounding."""
    H, h = (value.numpy() for value in condensed(inputs))
    lower, upper = inputs["lower"].numpy().ravel(), inputs["upper"].numpy().ravel()
    u = (lower + upper) / 2

    def value(v: np.ndarray) -> float:
        inside = (v > lower).all() and (v < upper).all()
        barrier = np.log(v - lower).sum() + np.log(upper - v).sum() if inside else 0.0
        return v @ H @ v / 2 + h @ v - mu * barrier if inside else math.inf

    for _ in range(200):
        gradient = H @ u + h - mu / (u - lower) + mu / (upper - u)
        newton = np.linalg.solve(H + np.diag(mu / (u - lower) ** 2 + mu / (upper - u) ** 2), -gradient)
        size = 1.0
        while value(u + size * newton) > value(u) + 1e-4 * size * (gradient @ newton) and size > 1e-10:
            size /= 2
        u = u + size * newton
        if np.abs(newton).max() < 1e-14:
            break
    assert np.abs(newton).max() < 1e-10
    return u


def barrier_jacobians(inputs: dict[str, Tensor], mu: float) -> dict[str, np.ndarray]:
    """(Nm, Nm) derivatives of the barrier problem's solution: by the linear term, and by either bound."""
    H, _ = (value.numpy() for value in condensed(inputs))
    lower, upper = inputs["lower"].numpy().ravel(), inputs["upper"].numpy().ravel()
    u = barrier_solution(inputs, mu)
    low, high = mu / (u - lower) ** 2, mu / (upper - u) ** 2
    inverse = np.linalg.inv(H + np.diag(low + high))
    return {"h": -inverse, "lower": inverse * low, "upper": inverse * high}


def stated_jacobians(lqr: Example, inputs: dict[str, Tensor], mu: float) -> dict[str, np.ndarray]:
    """What smoothing says it is: the stiffness z/s at the hard solution moved along s - z = const to s z = mu."""
    H, h = (value.numpy() for value in condensed(inputs))
    u = controls(lqr.mpc(tol=1e-12), inputs).numpy().ravel()
    gradient = H @ u + h
    stiffness = {}
    for side, sign in (("lower", 1.0), ("upper", -1.0)):
        gap = sign * (u - inputs[side].numpy().ravel()) - np.maximum(sign * gradient, 0)
        root = np.sqrt(gap**2 + 4 * mu)
        # s = (gap + root) / 2 and z = (root - gap) / 2, each without cancellation
        s = np.where(gap > 0, (gap + root) / 2, 2 * mu / (root - np.minimum(gap, 0)))
        stiffness[side] = mu / s**2
    inverse = np.linalg.inv(H + np.diag(stiffness["lower"] + stiffness["upper"]))
    return {"h": -inverse, **{side: inverse * value for side, value in stiffness.items()}}


def smoothed_jacobians(
    lqr: Example, inputs: dict[str, Tensor], mu: float, mode=jacrev
) -> dict[str, np.ndarray]:
    """The same three matrices from the controller; h is moved through the stages' c by u."""
    mpc = lqr.mpc(smoothing=mu, tol=1e-12)
    full = mode(functools.partial(controls, mpc))(inputs)
    size = HORIZON * N
    return {
        "h": full["c"][..., :HORIZON, N:].reshape(size, size).numpy(),
        "lower": full["lower"].reshape(size, size).numpy(),
        "upper": full["upper"].reshape(size, size).numpy(),
    }


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference by name."""
    return {name: float(np.abs(a[name] - b[name]).max()) for name in b}


@pytest.mark.parametrize("mode", [jacrev, jacfwd])
@pytest.mark.parametrize("mu", [1e-1, 1e-3, 1e-6, 1e-10])
def test_smoothing_is_the_stiffness_of_the_barrier_that_the_documentation_states(lqr, mu, mode):
    inputs = problem(lqr)
    found = smoothed_jacobians(lqr, inputs, mu, mode)
    errors = distance(found, stated_jacobians(lqr, inputs, mu))
    # The entries are of order one. A stiffness of up to 1/mu times the unit roundoff is lost against H.
    assert max(errors.values()) <= 1e-10, errors


def test_it_approaches_the_derivative_of_the_barrier_problems_own_solution_to_second_order(lqr):
    """On an LQ problem; its distance to the hard gradient shrinks to first order only.

    Both for mu well below the square of the margin, which is 0.019 here.
    """
    inputs = problem(lqr)
    levels = (1e-6, 1e-7, 1e-8)
    hard = smoothed_jacobians(lqr, inputs, 0.0)
    found = [smoothed_jacobians(lqr, inputs, mu) for mu in levels]
    to_barrier = [
        max(distance(f, barrier_jacobians(inputs, mu)).values()) for f, mu in zip(found, levels, strict=True)
    ]
    to_hard = [max(distance(f, hard).values()) for f in found]
    for a, b in itertools.pairwise(to_barrier):
        assert 90 <= a / b <= 110
    for a, b in itertools.pairwise(to_hard):
        assert 9.5 <= a / b <= 10.5
    assert to_barrier[-1] <= 1e-3 * to_hard[-1]


def limited(name: str, count: int, bound: float) -> tuple[Example, Tensor, dict[str, Tensor]]:
    """An example within +-bound times its own limits, with bounds as parameters."""
    case = with_bound_parameters(name)
    limit = torch.tensor([float(b) for b in case.spec.parameters[-1].default], dtype=torch.float64) * bound
    return case, case.starts(count, 3), leaves(case, count, {"lower": -limit, "upper": limit})


SETTINGS = {"pendulum": 0.5, "cartpole": 0.05, "car": 0.4}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("mu", [1e-1, 1e-4, 1e-8])
def test_forward_and_reverse_mode_agree_under_smoothing(name, mu):
    case, x0, values = limited(name, 12, SETTINGS[name])
    mpc = case.mpc(smoothing=mu, on_unconverged="ignore")
    done = differentiate(mpc, x0, values)
    generator = torch.Generator().manual_seed(0)
    inputs = {"x0": x0, **{k: v.detach() for k, v in values.items()}}
    direction = {
        k: torch.randn(v.shape, generator=generator, dtype=torch.float64) * v.abs().clamp(min=0.1)
        for k, v in inputs.items()
    }

    def outputs(given: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        solution = mpc(given["x0"], **{k: v for k, v in given.items() if k != "x0"})
        return solution.x, solution.u, solution.cost

    _, changes = torch.func.jvp(outputs, (inputs,), (direction,))
    forward = sum((w * d).reshape(12, -1).sum(1) for w, d in zip(done.cotangents, changes, strict=True))
    terms = torch.cat([(done.gradients[k] * d).reshape(12, -1) for k, d in direction.items()], 1)
    assert ((forward - terms.sum(1)).abs() <= 1e-10 * terms.abs().sum(1)).all()


def margins(case: Example, solution, values: dict[str, Tensor]) -> Tensor:
    """Strict-complementarity margin of each problem."""
    u = solution.u.detach()
    parameters = tuple(values[p.name].detach() for p in case.spec.parameters)
    slope, lower, upper, *_ = kernels.examine(
        case.module.CONTROLLER, solution.x.detach(), u, solution.status, parameters
    )
    held = (u - slope <= lower) | (u - slope >= upper)
    return torch.where(held, slope.abs(), torch.minimum(u - lower, upper - u)).amin((1, 2))


@pytest.mark.parametrize("name", SETTINGS)
def test_as_mu_vanishes_the_hard_gradient_returns_where_no_bound_is_about_to_switch(name):
    """The difference is of the order of mu over the squared margin: a tenth of mu, a tenth of it."""
    case, x0, values = limited(name, 96, SETTINGS[name])
    hard = differentiate(case.mpc(), x0, values)
    clear = margins(case, hard.solution, values) > 1e-2
    assert clear.sum() >= 8

    def difference(mu: float) -> Tensor:
        soft = differentiate(case.mpc(smoothing=mu), x0, values).gradients
        pairs = [(soft[k] - g).reshape(96, -1) for k, g in hard.gradients.items()]
        return torch.linalg.vector_norm(torch.cat(pairs, 1), dim=1)[clear]

    size = torch.linalg.vector_norm(
        torch.cat([g.reshape(96, -1) for g in hard.gradients.values()], 1), dim=1
    )[clear]
    coarse, fine = difference(1e-8), difference(1e-9)
    assert (fine <= 1e-4 * size).all()
    measurable = fine > 1e-10 * size
    assert measurable.sum() >= 4
    ratio = (coarse / fine)[measurable]
    assert (ratio > 8).all() and (ratio < 12).all(), ratio


def largest_step(case: Example, mu: float, points: int) -> tuple[float, float]:
    """Largest change of du_0/ds between neighbours of a sweep in which s moves the start, and the range of it."""
    s = torch.linspace(0.2, 1.0, points, dtype=torch.float64)
    mpc = case.mpc(smoothing=mu, tol=1e-11)

    def efforts(value: Tensor) -> Tensor:
        x0 = torch.stack([value.cos(), value.sin(), torch.zeros_like(value)], dim=-1)
        limit = torch.full((1,), 1.0, dtype=torch.float64)
        return mpc(x0, lower=-limit, upper=limit.clone()).u.sum((1, 2))

    _, slope = torch.func.jvp(efforts, (s,), (torch.ones_like(s),))
    return float(slope.diff().abs().max()), float(slope.max() - slope.min())


def test_along_a_sweep_the_hard_gradient_jumps_and_the_smoothed_one_does_not():
    """The start turns a pendulum until bounds become active one after the other."""
    case = with_bound_parameters("pendulum")
    (coarse, whole), (fine, _) = (largest_step(case, 0.0, points) for points in (1601, 12801))
    # a jump does not shrink with the step
    assert fine > 0.95 * coarse
    assert fine > 0.95 * whole
    (coarse, whole), (fine, _) = (largest_step(case, 1e-2, points) for points in (1601, 12801))
    # a differentiable slope's changes do in proportion, to an eighth
    assert fine < coarse / 6
    assert fine < 0.02 * whole


def test_the_solution_and_the_gradient_of_the_cost_are_those_of_the_hard_bounds():
    case, x0, values = limited("pendulum", 8, 0.5)
    inputs = [x0.clone().requires_grad_(), *values.values()]
    found = []
    for mu in (0.0, 1e-2):
        solution = case.mpc(smoothing=mu, tol=1e-11)(inputs[0], **values)
        gradients = torch.autograd.grad(solution.cost.sum(), inputs)
        found.append((solution.x, solution.u, solution.cost, *gradients))
    for hard, soft in zip(*found, strict=True):
        # as multipliers of free controls the smoothed mode counts what the solver left of dL/du
        torch.testing.assert_close(soft, hard, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("mu", [-1e-3, math.nan, math.inf, "1e-3", True])
def test_a_smoothing_that_is_no_number_of_at_least_zero_is_refused(lqr, mu):
    with pytest.raises(ParameterError, match="smoothing"):
        lqr.mpc(smoothing=mu)

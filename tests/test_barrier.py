"""`smooth="solve"`: the solver minimises the cost with the log-barrier, and its differentials are those of that."""

import functools
import math

import pytest
import torch
from controllers import compiled, differentiate, leaves, with_bound_parameters
from test_smoothing import (
    HORIZON,
    SETTINGS,
    N,
    barrier_jacobians,
    barrier_solution,
    controls,
    distance,
    limited,
)
from test_smoothing import problem as lq_problem
from torch import Tensor
from torch.func import jacfwd, jacrev

import mpcgen
from mpcgen import Status
from mpcgen.errors import ParameterError

# torch's own decompositions for forward mode are scripted at their first use
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

COUNT = 24


def barrier(case, mu: float, **options) -> torch.nn.Module:
    return case.mpc(smoothing=mu, smooth="solve", **options)


@pytest.mark.parametrize("mu", [1.0, 1e-2, 1e-4, 1e-6])
def test_an_lq_problem_is_solved_and_differentiated_as_newtons_method_does_it(lqr, mu):
    inputs = lq_problem(lqr)
    # a control of order one, rounded, leaves the force of a slack mu / z uncertain by 1e-16 / slack of itself
    tol = max(1e-11, 1e-15 / mu)
    mpc = barrier(lqr, mu, tol=tol)
    u = controls(mpc, inputs)
    # curvatures and forces are of order one
    assert abs(u.numpy().ravel() - barrier_solution(inputs, mu)).max() <= 10 * tol
    expected = barrier_jacobians(inputs, mu)
    for mode in (jacrev, jacfwd):
        full, size = mode(functools.partial(controls, mpc))(inputs), HORIZON * N
        found = {
            "h": full["c"][..., :HORIZON, N:].reshape(size, size).numpy(),
            "lower": full["lower"].reshape(size, size).numpy(),
            "upper": full["upper"].reshape(size, size).numpy(),
        }
        # the entries are of order one; the slacks' relative errors are of the order of the residual
        assert max(distance(found, expected).values()) <= 100 * tol


def bounded(name: str, mu: float) -> tuple[torch.nn.Module, Tensor, dict[str, Tensor]]:
    """A controller with the barrier, random starts, and every parameter, the bounds among them, as leaves."""
    case, x0, values = limited(name, COUNT, SETTINGS[name])
    return barrier(case, mu, tol=1e-11), x0, values


def along(inputs: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A random direction, of the inputs' sizes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(v.shape, generator=generator, dtype=torch.float64) * v.abs().clamp(min=0.1)
        for name, v in inputs.items()
    }


@pytest.mark.parametrize("mu", [1e-1, 1e-3])
@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_the_differences_of_the_smoothed_solutions(name, mu):
    mpc, x0, values = bounded(name, mu)
    done = differentiate(mpc, x0, values)
    inputs = {"x0": x0, **{k: v.detach() for k, v in values.items()}}
    direction = along(inputs, 1)

    def loss(step: float) -> Tensor:
        moved = {k: v + step * direction[k] for k, v in inputs.items()}
        solution = mpc(moved.pop("x0"), u_init=done.solution.u.detach(), **moved)
        parts = (solution.x, solution.u, solution.cost)
        return sum((w * p).reshape(COUNT, -1).sum(1) for w, p in zip(done.cotangents, parts, strict=True))

    h = 1e-5
    # Richardson's extrapolation of central differences: the error is of the order of h^4
    differences = (8 * (loss(h / 2) - loss(-h / 2)) - (loss(h) - loss(-h))) / (6 * h)
    exact = sum((done.gradients[k] * d).reshape(COUNT, -1).sum(1) for k, d in direction.items())
    error = (differences - exact).abs() / exact.abs().clamp(min=1e-2 * exact.abs().mean())
    assert error.median() <= 1e-6
    assert torch.cosine_similarity(differences, exact, dim=0) >= 0.999999


@pytest.mark.parametrize("name", SETTINGS)
def test_forward_and_reverse_mode_agree(name):
    mpc, x0, values = bounded(name, 1e-2)
    done = differentiate(mpc, x0, values)
    inputs = {"x0": x0, **{k: v.detach() for k, v in values.items()}}
    direction = along(inputs, 0)

    def outputs(given: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        solution = mpc(given["x0"], **{k: v for k, v in given.items() if k != "x0"})
        return solution.x, solution.u, solution.cost

    _, changes = torch.func.jvp(outputs, (inputs,), (direction,))
    forward = sum((w * d).reshape(COUNT, -1).sum(1) for w, d in zip(done.cotangents, changes, strict=True))
    terms = torch.cat([(done.gradients[k] * d).reshape(COUNT, -1) for k, d in direction.items()], 1)
    assert ((forward - terms.sum(1)).abs() <= 1e-10 * terms.abs().sum(1)).all()


@pytest.mark.parametrize("mu", [1e-4, 1e-2, 1.0])
def test_cold_starts_converge_strictly_inside_the_bounds(nonlinear, mu):
    solution = barrier(nonlinear, mu)(nonlinear.starts(256, 5))  # raises where one does not converge
    assert (solution.lower < solution.u).all()
    assert (solution.u < solution.upper).all()


def test_the_cost_is_that_of_the_trajectory_without_the_barrier(nonlinear):
    x0 = nonlinear.starts(16, 6)
    solution = barrier(nonlinear, 1e-2, history=True)(x0)
    rolled = nonlinear.mpc(max_iterations=0, on_unconverged="ignore")(x0, u_init=solution.u)
    # the barrier, added to the cost and taken away again, leaves its rounding
    torch.testing.assert_close(solution.cost, rolled.cost, rtol=1e-12, atol=1e-12)
    last = solution.history.cost.gather(-1, solution.iterations.long()[:, None])[:, 0]
    torch.testing.assert_close(last, solution.cost, rtol=1e-7, atol=1e-9)


def test_a_solution_is_its_own_warm_start(nonlinear):
    x0 = nonlinear.starts(16, 7)
    mpc = barrier(nonlinear, 1e-3)
    assert mpc(x0, u_init=mpc(x0).u).iterations.max() == 0


def test_as_mu_vanishes_the_hard_solution_returns(nonlinear):
    x0 = nonlinear.starts(8, 8)
    hard = nonlinear.mpc()(x0)
    soft = barrier(nonlinear, 1e-7)(x0, u_init=hard.u)
    # each of the 2 N m logarithms costs at most mu in the optimum (Boyd and Vandenberghe 2004, section 11.2.2)
    gap = soft.cost - hard.cost
    assert (gap <= 2 * 1e-7 * hard.u[0].numel() + 1e-9 * hard.cost.abs()).all()


def test_bounds_without_room_between_them_are_invalid_and_neighbours_do_not_notice():
    case = with_bound_parameters("pendulum")
    x0, values = case.starts(5, 2), leaves(case, 5, {})
    lower, upper = (values[name].detach() for name in ("lower", "upper"))
    mpc = barrier(case, 1e-2, on_unconverged="ignore")
    good = mpc(x0, lower=lower, upper=upper)
    narrow = upper.clone()
    narrow[2, 3] = lower[2]
    found = mpc(x0, lower=lower, upper=narrow)
    assert found.status.tolist() == [0, 0, Status.INVALID_INPUT, 0, 0]
    others = [0, 1, 3, 4]
    assert torch.equal(found.u[others], good.u[others])


@pytest.mark.parametrize("bound", [{"lower": 2000.0}, {"upper": -2000.0}], ids=str)
def test_a_start_at_a_bound_far_from_zero_has_slack_in_single_precision(bound):
    """The numbers next to 2000 are 1e-4 away, more than the 1e-8 that mu alone would ask for."""
    problem = mpcgen.Problem("far_bound", horizon=3)
    (x,) = problem.states("x")
    (u,) = problem.controls("u", **bound)
    problem.dynamics = [u / 1000]
    problem.stage_cost = problem.terminal_cost = (x**2 - 4.04) ** 2
    mpc = compiled(problem, ("float32",)).MPC(smoothing=1e-6, smooth="solve", on_unconverged="raise")
    solution = mpc(torch.zeros(2, 1))
    assert (solution.u.abs() > 2000).all()


def test_unbounded_controls_are_solved_as_without_a_barrier(lqr):
    values = lqr.values(3)
    x0 = lqr.starts(4, 3)
    plain = {k: v for k, v in values.items() if k not in ("lower", "upper")}
    hard, soft = lqr.mpc(tol=1e-10)(x0, **plain), barrier(lqr, 1e-2, tol=1e-10)(x0, **plain)
    torch.testing.assert_close(soft.u, hard.u, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"smooth": "solve"}, {"smooth": "both", "smoothing": 1e-2}, {"smooth": "solve", "smoothing": math.nan}],
)
def test_a_barrier_without_mu_and_other_words_are_refused(lqr, options):
    with pytest.raises(ParameterError, match="smooth"):
        lqr.mpc(**options)

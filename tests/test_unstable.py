"""Dynamics that magnify a rounding error to the size of the solution over the horizon have exact differentials.

Costates found backwards along such a trajectory are as wrong as a state rolled out along it, so that free controls seem
to push on bounds; those under the policy are right.
"""

import functools

import pytest
import sympy as sp
import torch

import mpcgen
from tests.controllers import compiled

# what torch itself does when it is first asked for forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def fast_pendulum_problem():
    """From upright it falls e times as far in 0.16 s: e^37 over 6 s; controls alone do not hold a trajectory."""
    problem = mpcgen.Problem("fast_pendulum", horizon=60)
    angle, rate = problem.states("angle rate")
    (torque,) = problem.controls("torque", lower=-6, upper=6)
    problem.dynamics = mpcgen.rk4(problem, [rate, 40 * sp.sin(angle) + 8 * torque], dt=0.1)
    problem.stage_cost = 5 * (1 - sp.cos(angle)) + rate**2 / 10 + torque**2 / 100
    problem.terminal_cost = 50 * (1 - sp.cos(angle)) + rate**2
    return problem


@functools.cache
def fast_pendulum():
    return compiled(fast_pendulum_problem())


def falling():
    """Starts of which the second is not solved in 200 passes, and the last two mirror the third and the first.

    Passes amplify a last bit, so that whether a start is solved in 200 is luck for most. These are solved
    with passes to spare, in as many as their mirror images, within two.
    """
    angles = torch.linspace(-3.1, 3.1, 24, dtype=torch.float64)[[0, 7, 2, 21, 23]]
    return torch.stack([angles, torch.zeros_like(angles)], -1)


def compiled_for(target):
    if target == "cpu":
        return fast_pendulum()
    spec = fast_pendulum_problem().spec()
    return mpcgen.compile(spec, targets=("cuda-host",), cuda_kernel=target, dtypes=torch.float64)


@pytest.mark.parametrize("target", ["cpu", "thread", "warp"])
def test_gradients_are_the_differences_of_the_solutions(target):
    mpc = compiled_for(target).MPC()
    x0 = falling()[[0, 2, 3, 4]].requires_grad_()
    weight = torch.linspace(-1, 1, 60, dtype=torch.float64)

    def measure(x):
        sol = mpc(x)
        return sol.cost, sol.u[:, :, 0] @ weight

    sol = mpc(x0)
    (cost_slope,) = torch.autograd.grad(sol.cost.sum(), x0)
    torch.testing.assert_close(cost_slope, sol.costates[:, 0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(cost_slope[:2], -cost_slope[[3, 2]], rtol=1e-7, atol=1e-7)
    (control_slope,) = torch.autograd.grad(measure(x0)[1].sum(), x0)
    direction = torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(x0).contiguous()
    changes = torch.func.jvp(measure, (x0.detach(),), (direction,))[1]
    near = {"x_init": sol.x.detach(), "u_init": sol.u.detach()}
    with torch.no_grad():
        above, below = (mpc(x0 + step * direction, **near) for step in (1e-6, -1e-6))
    for slope, change, difference in (
        (cost_slope, changes[0], above.cost - below.cost),
        (control_slope, changes[1], (above.u - below.u)[:, :, 0] @ weight),
    ):
        torch.testing.assert_close(change, slope[:, 0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(difference / 2e-6, slope[:, 0], rtol=1e-6, atol=1e-6)


def test_no_free_control_pushes():
    sol = fast_pendulum().MPC()(falling()[[0, 2, 3, 4]])
    assert (sol.multipliers.abs()[sol.active == 0] < 1e-7).all()
    assert torch.equal(sol.active, torch.sign(sol.u) * (sol.u.abs() == 6))
    assert sol.active.abs().sum(1).flatten().tolist() == [2, 3, 3, 2]


def growing_problem():
    """Linear dynamics that grow 5 to 20 fold a stage, and small controls: rollouts are 1e15 times the solution."""
    problem = mpcgen.Problem("growing", horizon=15)
    x, u = problem.states("a b c"), problem.controls("u v", lower=-1, upper=1)
    A, B = (problem.parameter(name, shape=(3, k)) for name, k in (("A", 3), ("B", 2)))
    problem.dynamics = [
        sum(A[i, j] * x[j] for j in range(3)) + sum(B[i, j] * u[j] for j in range(2)) for i in range(3)
    ]
    problem.stage_cost = sum(v**2 for v in x) + sum(v**2 for v in u) / 10
    problem.terminal_cost = sum(v**2 for v in x)
    return problem


def test_linear_quadratic_problems_that_grow_are_solved_and_no_other_point_is_called_a_solution():
    """Box-DDP alone rests at points that cost 1e3 times the least, and more, where rounding hides every way on."""
    count, options = 2048, {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    turn = torch.linalg.qr(torch.randn(count, 3, 3, **options))[0]
    growth = torch.cat([5 + 15 * torch.rand(count, 1, **options), torch.rand(count, 2, **options)], 1)
    matrices = {
        "A": turn @ torch.diag_embed(growth) @ turn.mT,
        "B": torch.randn(count, 3, 2, **options),
    }
    x0 = 0.03 * torch.randn(count, 3, **options)
    module = compiled(growing_problem())
    found = module.MPC()(x0, **matrices)
    assert found.converged.all()
    for method in ("ddp", "interior_point"):
        other = module.MPC(method=method, on_unconverged="ignore")(x0, **matrices)
        assert other.converged.sum() > count / 3
        # convex: one minimum
        torch.testing.assert_close(
            other.cost[other.converged], found.cost[other.converged], rtol=1e-6, atol=1e-12
        )

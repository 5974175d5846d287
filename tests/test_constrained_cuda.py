"""CUDA's kernels of problems with constraints, on the host over the shim, beside the CPU's."""

import functools

import constrained_problems as problems
import pytest
import sympy as sp
import torch
from controllers import assert_workspace_is_not_read
from torch.autograd import forward_ad

import mpcgen
from mpcgen import Status
from mpcgen.build.cuda_kernel import KERNELS

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
BATCH = 140  # more than the shim's 128 threads, so that some of them come back for more


def rows_of_every_kind():
    """Mixed, curved and linear rows, states' bounds and rows of the end; bounds per stage, and in parameters."""
    problem = mpcgen.Problem("rows_of_every_kind", horizon=9)
    reach, power = problem.parameters("reach power", default=[1.2, 0.4])
    limit = problem.parameter("limit", default=0.7, per_stage=True)
    x, v = problem.states("x v", lower=[-reach, -limit], upper=[reach, limit])
    a, b = problem.controls("a b", lower=-2, upper=2)
    problem.dynamics = [x + 0.3 * sp.sin(v), v + 0.3 * (a + b + reach * x * b / 5)]
    problem.stage_cost = (x - 2) ** 2 + 0.1 * (a**2 + b**2)
    problem.constraint("output", a * v, upper=power)
    problem.constraint("tie", a - 2 * b + b**3 / 10, equals=limit / 10)
    problem.terminal_constraint("rest", v, equals=0)
    problem.terminal_constraint("near", sp.exp(x), upper=3)
    return problem


def linear():
    """Dynamics without second derivatives; a row that has some."""
    problem = mpcgen.Problem("linear_in_a_ring", horizon=9)
    radius = problem.parameter("radius", default=1.0)
    x, v = problem.states("x v")
    (a,) = problem.controls("a", lower=-1, upper=1)
    problem.dynamics = [x + 0.3 * v, v + 0.3 * a]
    problem.stage_cost = (x - 2) ** 2 + 0.1 * a**2
    problem.constraint("ring", x**2 + v**2, upper=radius**2)
    return problem


CASES = {
    "rows_of_every_kind": (rows_of_every_kind, [0.0, 0.0], [0.3, 0.3]),
    "linear": (linear, [0.0, 0.0], [0.3, 0.3]),
    "safe_cartpole": (problems.safe_cartpole, [0.0] * 4, [0.3, 0.2, 0.1, 0.1]),
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=KERNELS)
def host(request):
    """Compile a case's CUDA kernels of one kind for the host."""
    return functools.partial(compiled, kernel=request.param)


@functools.cache
def compiled(name, kernel=None):
    problem = CASES[name][0]()
    if kernel is None:
        return mpcgen.compile(problem, dtypes=("float64",))
    return mpcgen.compile(problem, targets=("cuda-host",), cuda_kernel=kernel, dtypes=("float64",))


def inputs(name, count=BATCH):
    """x0 (count, n), and the parameters with defaults, by turns one value for all problems and one for each."""
    make, middle, spread = CASES[name]
    generator = torch.Generator().manual_seed(0)
    draws = 2 * torch.rand(count, len(middle), generator=generator, dtype=torch.float64) - 1
    given = {
        "x0": torch.tensor(middle, dtype=torch.float64) + draws * torch.tensor(spread, dtype=torch.float64)
    }
    for i, p in enumerate(make().spec().parameters):
        value = torch.tensor(p.default, dtype=torch.float64).reshape(p.shape)
        given[p.name] = value.expand(count, *p.shape).clone() if i % 2 else value
    return given


def solve(module, given, **options):
    mpc = module.MPC(on_unconverged="ignore", max_iterations=500, **options)
    return mpc(**given)


def relative(a, b):
    """‖a - b‖ beside ‖b‖."""
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


@every_case
def test_every_problem_ends_as_on_the_cpu(name, host):
    given = inputs(name)
    here, there = solve(compiled(name), given), solve(host(name), given)
    assert (here.status == Status.CONVERGED).double().mean() > 0.9
    assert torch.equal(here.status, there.status)
    assert relative(there.cost, here.cost) <= 1e-8
    size = torch.cat([dual.flatten() for dual in here.duals.values()]).norm()  # some rows hold nowhere
    for row, expected in here.duals.items():
        assert (there.duals[row] - expected).norm() <= 1e-6 * size, row
    assert there.violation.max() <= 1e-8


@every_case
def test_the_order_of_the_cpus_batch_is_of_no_account(name):
    # lanes with equalities, and multipliers that shorten the step, beside others
    given = inputs(name)
    turned = {
        key: value.flip(0) if len(value.shape) and len(value) == BATCH else value
        for key, value in given.items()
    }
    here, there = solve(compiled(name), given), solve(compiled(name), turned)
    for part in ("x", "u", "cost", "iterations", "row_duals"):
        assert torch.equal(getattr(here, part), getattr(there, part).flip(0)), part


@every_case
def test_the_same_problems_have_the_cpus_gradients(name, host):
    found = []
    for module in (compiled(name), host(name)):
        given = {k: v.clone().requires_grad_() for k, v in inputs(name).items()}
        sol = solve(module, given, tol=1e-10)
        weights = torch.linspace(-1, 1, sol.u.numel(), dtype=torch.float64).reshape(sol.u.shape)
        ((weights * sol.u).sum() + sol.x[:, -1].sum() + 0.3 * sol.cost.sum()).backward()
        found.append({k: v.grad for k, v in given.items()})
    here, there = found
    for k in here:
        assert relative(there[k], here[k]) <= 1e-6, k


@every_case
def test_the_same_problems_have_the_cpus_tangents(name, host):
    changes = []
    for module in (compiled(name), host(name)):
        given = inputs(name)
        with forward_ad.dual_level():
            moved = {k: forward_ad.make_dual(v, torch.ones_like(v)) for k, v in given.items()}
            sol = solve(module, moved, tol=1e-10)
            changes.append([forward_ad.unpack_dual(part).tangent for part in (sol.x, sol.u, sol.cost)])
    for here, there in zip(*changes, strict=True):
        assert relative(there, here) <= 1e-6


@every_case
def test_the_rows_of_a_solution_are_the_cpus(name, host):
    given = inputs(name)
    here, there = solve(compiled(name), given).rows, solve(host(name), given).rows
    for row in here:
        for part in ("values", "lower", "upper"):
            expected, got = getattr(here[row], part), getattr(there[row], part)
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@every_case
def test_nothing_is_read_from_memory_before_it_is_written(name, monkeypatch, host):
    def results():
        leaves = {k: v.clone().requires_grad_() for k, v in given.items()}
        sol = solve(host(name), leaves)
        (sol.u.square().sum() + sol.cost.sum()).backward()
        found = (
            sol.x,
            sol.u,
            sol.cost,
            sol.residual,
            sol.costates,
            sol.status,
            sol.row_duals,
            sol.row_violation,
        )
        return [part.detach() for part in found] + [v.grad for v in leaves.values()]

    given = inputs(name, 8)
    assert_workspace_is_not_read(results, monkeypatch)


def test_a_bad_problem_does_not_change_its_neighbours(host):
    name = "rows_of_every_kind"
    given = inputs(name, 8)
    alone = solve(host(name), given)
    given["x0"][3] = torch.nan
    beside = solve(host(name), given)
    assert beside.status[3] == Status.INVALID_INPUT
    others = [0, 1, 2, 4, 5, 6, 7]
    for part in ("x", "u", "cost", "iterations", "row_duals"):
        assert torch.equal(getattr(alone, part)[others], getattr(beside, part)[others]), part

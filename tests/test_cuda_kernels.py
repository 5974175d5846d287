"""The CUDA kernels, run on the host over the shim, beside the CPU's: what a batch gives on either is the same.

Those with a thread per problem and those with a warp, which has one lane here; tests/test_warp.py has them all. `make
test` also runs the tests of solver and gradients on both, with MPCGEN_TEST_KERNELS=cuda-host.
"""

import functools
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from controllers import (
    NONLINEAR,
    Example,
    assert_workspace_is_not_read,
    example,
    leaves,
    with_bound_parameters,
)
from torch import Tensor
from torch.autograd import forward_ad

import mpcgen
from mpcgen import Status
from mpcgen.build.cuda_kernel import KERNELS
from mpcgen.calls import kernels
from mpcgen.calls.options import Options
from mpcgen.runtime.controller import Controller
from mpcgen.runtime.loading import DTYPES

# torch's own decompositions for forward mode are scripted at their first use
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

CASES = {
    **{name: functools.partial(example, name) for name in (*NONLINEAR, "lqr")},
    "car_bounds": functools.partial(with_bound_parameters, "car", DTYPES),
}
COST = {torch.float64: 1e-9, torch.float32: 1e-4}
GRADIENT = {torch.float64: 1e-7, torch.float32: 1e-3}
BATCH = 200  # more than the shim's 128 threads, so that some of them come back for more
SMALL_BATCH = 140

both_precisions = pytest.mark.parametrize("dtype", COST, ids=["f64", "f32"])
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=KERNELS)
def host(request) -> Callable[[str], ModuleType]:
    """Compile a case's CUDA kernels of one kind for the host."""
    return functools.partial(_host, kernel=request.param)


@functools.cache
def _host(name: str, kernel: str) -> ModuleType:
    return mpcgen.compile(CASES[name]().spec, targets=("cuda-host",), cuda_kernel=kernel)


def inputs(case: Example, dtype: torch.dtype, count: int = BATCH) -> dict[str, Tensor]:
    """x0 (count, n), and every parameter, by turns shared by the batch and each problem's own."""
    values = leaves(case, count, case.values(0))
    parts = {k: (v[:1] if i % 2 == 0 else v).detach() for i, (k, v) in enumerate(values.items())}
    return {"x0": case.starts(count, 0).to(dtype), **{k: v.to(dtype) for k, v in parts.items()}}


def solve(module: ModuleType, given: dict[str, Tensor], **options):
    """Solve with one module's kernels; no word on those that do not converge."""
    parameters = {k: v for k, v in given.items() if k not in ("x0", "u_init")}
    mpc = module.MPC(on_unconverged="ignore", **options)
    return mpc(given["x0"], u_init=given.get("u_init"), **parameters)


def relative(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ beside ‖b‖."""
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def flat(controller: Controller, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Parameters as the kernels take them."""
    return tuple(given[p.name].contiguous() for p in controller.parameters)


@every_case
@both_precisions
def test_every_problem_of_a_batch_ends_as_on_the_cpu(name, dtype, host):
    given = inputs(CASES[name](), dtype)
    here, there = solve(CASES[name]().module, given), solve(host(name), given)
    assert (here.status == Status.CONVERGED).all()
    assert torch.equal(here.status, there.status)
    error = (here.cost - there.cost).abs() / here.cost.abs().clamp(min=1e-3)
    assert error.max() <= COST[dtype]
    assert there.residual.max() <= Options().tolerance(dtype)


def gradients(module: ModuleType, given: dict[str, Tensor], sol) -> tuple[Tensor, ...]:
    """Reverse mode at a solution, for random cotangents of x, u and cost."""
    generator = torch.Generator().manual_seed(3)
    cotangents = tuple(
        torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part.dtype)
        for part in (sol.x, sol.u, sol.cost)
    )
    parameters = flat(module.CONTROLLER, given)
    options = Options(on_unconverged="ignore")
    return kernels.differentiate(module.CONTROLLER, options, sol.x, sol.u, sol.status, parameters, cotangents)


def tangents(module: ModuleType, given: dict[str, Tensor], sol) -> tuple[Tensor, ...]:
    """Forward mode at a solution, along random changes of x0 and the parameters."""
    generator = torch.Generator().manual_seed(4)
    parameters = flat(module.CONTROLLER, given)
    change, *changes = (
        0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        for p in (given["x0"], *parameters)
    )
    solution = (module.CONTROLLER, Options(on_unconverged="ignore"), sol.x, sol.u, sol.status)
    return kernels.tangent(*solution, parameters, change, tuple(changes))


@every_case
@both_precisions
@pytest.mark.parametrize("mode", [gradients, tangents])
def test_the_same_solution_has_the_cpus_differentials(name, dtype, mode, host):
    case = CASES[name]()
    given = inputs(case, dtype)
    sol = solve(case.module, given)
    for here, there in zip(mode(case.module, given, sol), mode(host(name), given, sol), strict=True):
        assert here.shape == there.shape
        assert relative(there, here) <= GRADIENT[dtype]


@every_case
def test_nothing_is_read_from_memory_before_it_is_written(name, monkeypatch, host):
    def results() -> list[Tensor]:
        sol = solve(host(name), given)
        parameters = flat(host(name).CONTROLLER, given)
        examined = kernels.examine(host(name).CONTROLLER, sol.x, sol.u, sol.status, parameters)
        found = (sol.x, sol.u, sol.cost, sol.residual, sol.costates, sol.gains, sol.status)
        return [*found, *gradients(host(name), given, sol), *tangents(host(name), given, sol), *examined]

    given = inputs(CASES[name](), torch.float64, SMALL_BATCH)
    assert_workspace_is_not_read(results, monkeypatch)


@every_case
def test_backward_through_the_module_is_the_sum_of_its_problems(name, host):
    given = inputs(CASES[name](), torch.float64, SMALL_BATCH)
    shared = [k for k, v in given.items() if v.shape[0] == 1]
    assert shared
    own = {k: v.expand(SMALL_BATCH, *v.shape[1:]).clone().requires_grad_() for k, v in given.items()}
    one = {k: v.clone().requires_grad_() for k, v in given.items()}
    for values in (own, one):
        solution = solve(host(name), values)
        ((solution.u**2).sum() + solution.cost.sum()).backward()
    for k in given:
        expected = own[k].grad.sum(0, keepdim=True) if k in shared else own[k].grad
        assert relative(one[k].grad, expected) <= 1e-12


def test_a_shared_gradient_is_the_same_bits_every_time(pendulum, host):
    found = []
    for _ in range(2):
        given = inputs(pendulum, torch.float32, 3000)
        leaf = {k: v.clone().requires_grad_() for k, v in given.items()}
        solve(host("pendulum"), leaf).u.sum().backward()
        found.append([v.grad for v in leaf.values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_problems_result_does_not_depend_on_the_others(cartpole, host):
    given = inputs(cartpole, torch.float64)
    whole = solve(host("cartpole"), given)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(5))[:40]
    some = {k: v if v.shape[0] == 1 else v[order] for k, v in given.items()}
    part = solve(host("cartpole"), some)
    for name in ("x", "u", "cost", "status", "iterations", "residual", "gains", "costates"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[order])


@every_case
@pytest.mark.parametrize(
    "options",
    [{"max_iterations": 2}, {"max_iterations": 0}, {"hessian": "gauss_newton", "max_iterations": 20}],
    ids=str,
)
def test_every_problem_ends_with_the_cpus_status(name, options, host):
    given = inputs(CASES[name](), torch.float64, SMALL_BATCH)
    given["x0"][7, 1] = torch.nan
    given["x0"][11, 0] = torch.inf
    here, there = (solve(module, given, **options) for module in (CASES[name]().module, host(name)))
    assert torch.equal(here.status, there.status)
    assert torch.equal(here.iterations, there.iterations)
    assert there.status[7] == there.status[11] == Status.INVALID_INPUT
    assert there.u[7].isnan().all()


def test_a_rollout_that_overflows_diverges_on_both(pendulum, host):
    gravity = torch.full((SMALL_BATCH,), 10.0, dtype=torch.float64)
    gravity[20] = 1e300
    given = {"x0": pendulum.starts(SMALL_BATCH, 2), "gravity": gravity}
    here, there = (solve(module, given) for module in (pendulum.module, host("pendulum")))
    assert torch.equal(here.status, there.status)
    assert there.status[20] == Status.DIVERGED


@every_case
@both_precisions
def test_the_cpus_solution_is_a_warm_start(name, dtype, host):
    given = inputs(CASES[name](), dtype, SMALL_BATCH)
    # in float32 the interior point, to which a problem may be left, ends at a coarser cost than box-DDP
    cold = solve(CASES[name]().module, given, method="ddp")
    warm = solve(host(name), {**given, "u_init": cold.u}, method="ddp")
    assert (warm.status == Status.CONVERGED).all()
    assert warm.iterations.double().mean() <= cold.iterations.double().mean()
    error = (warm.cost - cold.cost).abs() / cold.cost.abs().clamp(min=1e-3)
    assert error.max() <= COST[dtype]


def test_history_and_active_set_are_the_cpus(pendulum, host):
    given = inputs(pendulum, torch.float64, 140)
    here, there = (solve(m, given, history=True) for m in (pendulum.module, host("pendulum")))
    known = ~here.history.cost.isnan()
    assert torch.equal(known, ~there.history.cost.isnan())
    assert relative(there.history.cost[known], here.history.cost[known]) <= 1e-9
    assert torch.equal(here.active, there.active)
    assert (here.active != 0).any()
    assert relative(there.multipliers, here.multipliers) <= 1e-6


def test_smoothed_gradients_are_the_cpus(pendulum, host):
    given = inputs(pendulum, torch.float64, 70)
    found = []
    for module in (pendulum.module, host("pendulum")):
        leaf = {k: v.clone().requires_grad_() for k, v in given.items()}
        solve(module, leaf, smoothing=1e-2).u.sum().backward()
        found.append([v.grad for v in leaf.values()])
    for here, there in zip(*found, strict=True):
        assert relative(there, here) <= 1e-7


def test_a_stage_by_itself_and_its_derivatives_are_the_cpus(pendulum, host):
    found = []
    for module in (pendulum.module, host("pendulum")):
        x = pendulum.starts(140, 0).requires_grad_()
        u = torch.linspace(-3, 3, 140, dtype=torch.float64)[:, None].requires_grad_()
        gravity = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
        mpc = module.MPC()
        step, last = mpc.step(x, u, gravity=gravity), mpc.terminal_cost(x)
        ((step.x**2).sum() + step.cost.sum() + last.sum()).backward()
        forward = functools.partial(mpc.dynamics, u=u.detach())
        _, change = torch.func.jvp(forward, (x.detach(),), (x.detach(),))
        values = (step.x.detach(), step.cost.detach(), last.detach())
        found.append([*values, x.grad, u.grad, gravity.grad, change])
    for here, there in zip(*found, strict=True):
        assert relative(there, here) <= 1e-12


def test_forward_mode_runs_through_the_module(pendulum, host):
    x0 = pendulum.starts(3, 1)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x0, torch.ones_like(x0))
        changes = [
            forward_ad.unpack_dual(solve(m, {"x0": dual}).u).tangent
            for m in (pendulum.module, host("pendulum"))
        ]
    assert relative(changes[1], changes[0]) <= 1e-7


def test_a_batch_of_none_and_one_of_one(pendulum, host):
    assert solve(host("pendulum"), {"x0": pendulum.starts(3, 0)[:0]}).u.shape == (0, 19, 1)
    one = pendulum.starts(1, 0)[0]
    assert relative(solve(host("pendulum"), {"x0": one}).u, solve(pendulum.module, {"x0": one}).u) <= 1e-9

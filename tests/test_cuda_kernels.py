"""The CUDA kernels, run on the host over the shim, beside the CPU's: what a batch gives on either is the same."""

import functools
from types import ModuleType

import pytest
import torch
from controllers import NONLINEAR, Example, example, leaves, with_bound_parameters
from torch import Tensor
from torch.autograd import forward_ad

import mpcgen
from mpcgen import Status
from mpcgen.autograd import kernels
from mpcgen.autograd.options import Options
from mpcgen.runtime.controller import Controller

# torch's own decompositions for forward mode are scripted at their first use
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

CASES = {
    **{name: functools.partial(example, name) for name in (*NONLINEAR, "lqr", "quadrotor")},
    "car_bounds": functools.partial(with_bound_parameters, "car"),
}
COST = {torch.float64: 1e-9, torch.float32: 1e-4}
GRADIENT = {torch.float64: 1e-7, torch.float32: 1e-3}
BATCH = 200  # more than the shim's 128 threads, so that some of them come back for more

both_precisions = pytest.mark.parametrize("dtype", COST, ids=["f64", "f32"])
every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def host(name: str) -> ModuleType:
    """Compile a case's CUDA kernels for the host."""
    return mpcgen.compile(CASES[name]().spec, targets=("cuda-host",))


def inputs(case: Example, dtype: torch.dtype, count: int = BATCH) -> dict[str, Tensor]:
    """x0 (count, n), and every parameter, the first of them shared and each other one's own."""
    values = leaves(case, count, case.values(0))
    parts = {k: (v[:1] if i == 0 else v).detach() for i, (k, v) in enumerate(values.items())}
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
def test_a_batch_ends_as_on_the_cpu(name, dtype):
    given = inputs(CASES[name](), dtype)
    here, there = solve(CASES[name]().module, given), solve(host(name), given)
    assert (here.status == there.status).float().mean() > 0.98
    solved = (here.status == Status.CONVERGED) & (there.status == Status.CONVERGED)
    assert solved.float().mean() > 0.9
    error = (here.cost - there.cost).abs() / here.cost.abs().clamp(min=1e-3)
    # Rounding decides which of two optima a start near the ridge between them goes to.
    assert (error[solved] <= COST[dtype]).float().mean() > 0.98
    assert there.residual[solved].max() <= Options().tolerance(dtype)


@every_case
@both_precisions
def test_the_same_solution_has_the_cpus_gradient(name, dtype):
    case = CASES[name]()
    given = inputs(case, dtype)
    sol = solve(case.module, given)
    generator = torch.Generator().manual_seed(3)
    cotangents = tuple(
        torch.randn(part.shape, generator=generator, dtype=torch.float64).to(dtype)
        for part in (sol.x, sol.u, sol.cost)
    )
    found = []
    for module in (case.module, host(name)):
        parameters = flat(module.CONTROLLER, given)
        options = Options(on_unconverged="ignore")
        arguments = (module.CONTROLLER, options, sol.x, sol.u, sol.status, parameters, cotangents)
        found.append(kernels.differentiate(*arguments))
    for here, there in zip(*found, strict=True):
        assert here.shape == there.shape
        assert relative(there, here) <= GRADIENT[dtype]


@every_case
@both_precisions
def test_the_same_solution_has_the_cpus_tangent(name, dtype):
    case = CASES[name]()
    given = inputs(case, dtype)
    sol = solve(case.module, given)
    generator = torch.Generator().manual_seed(4)
    found = []
    parameters = flat(case.module.CONTROLLER, given)
    changes = [
        torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype) * 0.1
        for p in (given["x0"], *parameters)
    ]
    for module in (case.module, host(name)):
        options = Options(on_unconverged="ignore")
        solution = (module.CONTROLLER, options, sol.x, sol.u, sol.status)
        found.append(kernels.tangent(*solution, parameters, changes[0], tuple(changes[1:])))
    for here, there in zip(*found, strict=True):
        assert relative(there, here) <= GRADIENT[dtype]


@pytest.mark.parametrize("name", ["pendulum", "car_bounds"])
def test_backward_through_the_module_is_the_sum_of_its_problems(name):
    given = inputs(CASES[name](), torch.float64, 150)
    shared = [k for k, v in given.items() if v.shape[0] == 1]
    assert shared
    own = {k: v.expand(150, *v.shape[1:]).clone().requires_grad_() for k, v in given.items()}
    one = {k: v.clone().requires_grad_() for k, v in given.items()}
    for values in (own, one):
        solution = solve(host(name), values)
        ((solution.u**2).sum() + solution.cost.sum()).backward()
    for k in given:
        expected = own[k].grad.sum(0, keepdim=True) if k in shared else own[k].grad
        assert relative(one[k].grad, expected) <= 1e-12


def test_a_shared_gradient_is_the_same_bits_every_time(pendulum):
    found = []
    for _ in range(2):
        given = inputs(pendulum, torch.float32, 3000)
        leaf = {k: v.clone().requires_grad_() for k, v in given.items()}
        solve(host("pendulum"), leaf).u.sum().backward()
        found.append([v.grad for v in leaf.values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_problems_result_does_not_depend_on_the_others(cartpole):
    given = inputs(cartpole, torch.float64)
    whole = solve(host("cartpole"), given)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(5))[:40]
    some = {k: v if v.shape[0] == 1 else v[order] for k, v in given.items()}
    part = solve(host("cartpole"), some)
    for name in ("x", "u", "cost", "status", "iterations", "residual", "gains", "costates"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[order])


def test_every_problem_ends_with_the_cpus_status(pendulum):
    x0 = pendulum.starts(150, 2)
    x0[7, 1] = torch.nan
    x0[11, 0] = torch.inf
    gravity = torch.full((150,), 10.0, dtype=torch.float64)
    gravity[20] = 1e300
    for options in ({}, {"max_iterations": 2}, {"max_iterations": 0}, {"hessian": "gauss_newton"}):
        given = {"x0": x0, "gravity": gravity}
        here, there = solve(pendulum.module, given, **options), solve(host("pendulum"), given, **options)
        assert torch.equal(here.status, there.status)
        assert there.status[7] == there.status[11] == Status.INVALID_INPUT
        assert there.u[7].isnan().all()


def test_a_solution_is_its_own_warm_start(cartpole):
    given = inputs(cartpole, torch.float64, 100)
    cold = solve(host("cartpole"), given)
    warm = solve(host("cartpole"), {**given, "u_init": cold.u})
    solved = cold.status == Status.CONVERGED
    assert solved.any()
    assert (warm.iterations[solved] <= 1).all()
    assert cold.iterations[solved].float().mean() > 3


def test_history_and_active_set_are_the_cpus(pendulum):
    given = inputs(pendulum, torch.float64, 140)
    here, there = (solve(m, given, history=True) for m in (pendulum.module, host("pendulum")))
    known = ~here.history.cost.isnan()
    assert torch.equal(known, ~there.history.cost.isnan())
    assert relative(there.history.cost[known], here.history.cost[known]) <= 1e-9
    assert torch.equal(here.active, there.active)
    assert (here.active != 0).any()
    assert relative(there.multipliers, here.multipliers) <= 1e-6


def test_smoothed_gradients_are_the_cpus(pendulum):
    given = inputs(pendulum, torch.float64, 70)
    found = []
    for module in (pendulum.module, host("pendulum")):
        leaf = {k: v.clone().requires_grad_() for k, v in given.items()}
        solve(module, leaf, smoothing=1e-2).u.sum().backward()
        found.append([v.grad for v in leaf.values()])
    for here, there in zip(*found, strict=True):
        assert relative(there, here) <= 1e-7


def test_forward_mode_runs_through_the_module(pendulum):
    x0 = pendulum.starts(3, 1)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x0, torch.ones_like(x0))
        changes = [
            forward_ad.unpack_dual(solve(m, {"x0": dual}).u).tangent
            for m in (pendulum.module, host("pendulum"))
        ]
    assert relative(changes[1], changes[0]) <= 1e-7


def test_a_batch_of_none_and_one_of_one(pendulum):
    assert solve(host("pendulum"), {"x0": pendulum.starts(3, 0)[:0]}).u.shape == (0, 19, 1)
    one = pendulum.starts(1, 0)[0]
    assert relative(solve(host("pendulum"), {"x0": one}).u, solve(pendulum.module, {"x0": one}).u) <= 1e-9

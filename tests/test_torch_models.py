"""Torch modules as models: equal to torch in value and derivatives, or refused with the operation and its line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_models import (
    Gru,
    Joined,
    Residual,
    activated,
    by_graph,
    by_torch,
    ensemble,
    functional,
    modules,
    points,
    problem_of,
)

import mpcgen
from mpcgen.derivative import jacobian
from mpcgen.ir import evaluate
from mpcgen.problem.fingerprint import fingerprint
from mpcgen.problem.lowering import lower_spec

MODULES = modules()
HERE = Path(__file__).parent


@pytest.mark.parametrize("name", MODULES)
def test_modules_have_torchs_values_and_derivatives(name):
    module, n = MODULES[name]
    problem, weights = problem_of(module, n), mpcgen.torch_parameters(module)
    for x, u in points(n, count=2):
        found = zip(
            by_graph(problem, weights, x, u), by_torch(module, x, u), (1e-12, 1e-9, 1e-9), strict=True
        )
        for own, exact, tolerance in found:
            torch.testing.assert_close(own, exact, rtol=tolerance, atol=tolerance)


TIES = {
    "relu": (torch.relu, [0.0]),
    "abs": (torch.abs, [0.0]),
    "clamp": (lambda x: x.clamp(-1, 1), [-1.0, 1.0]),
    "hardtanh": (nn.functional.hardtanh, [-1.0, 1.0]),
    "hardswish": (nn.functional.hardswish, [-3.0, 3.0]),
    "hardsigmoid": (nn.functional.hardsigmoid, [-3.0, 3.0]),
    "relu6": (nn.functional.relu6, [0.0, 6.0]),
    "leaky_relu": (nn.functional.leaky_relu, [0.0]),
    "elu": (lambda x: nn.functional.elu(x, 0.3), [0.0]),
    "softshrink": (nn.functional.softshrink, [-0.5, 0.5]),
    "softplus": (nn.functional.softplus, [19.9, 20.1]),
    "maximum": (lambda x: torch.maximum(x[:1], x[1:]), [0.4, 0.4]),
    "minimum": (lambda x: torch.minimum(x[:1], x[1:]), [0.4, 0.4]),
    "amax": (lambda x: x.amax(0), [0.4, 0.4]),
    "max": (lambda x: x.max(0).values, [0.4, 0.4]),
    "min": (lambda x: x.min(0).values, [0.4, 0.4]),
    "norm": (torch.linalg.vector_norm, [0.0, 0.0]),
    "norm of order 1": (lambda x: torch.linalg.vector_norm(x, 1), [0.0, 0.3]),
    "where": (lambda x: torch.where(x > 0, x**2, 3 * x), [0.0]),
}


@pytest.mark.parametrize("name", TIES)
def test_slopes_at_ties_are_torchs(name):
    function, point = TIES[name]
    tau = torch.tensor(point, dtype=torch.float64)
    problem = mpcgen.Problem("tie", horizon=2)
    states = problem.states([f"x{i}" for i in range(len(point))])
    problem.controls("force")
    rows = mpcgen.torch_expressions(problem, function, controls=False)
    problem.dynamics, problem.stage_cost = [*states], sum(rows) + problem.control_symbols[0] ** 2
    model = lower_spec(problem.spec())
    cost = [model.stage_cost, *jacobian([model.stage_cost], model.states)[0]]
    own = evaluate(cost, dict(zip(model.states, point, strict=True)) | {model.controls[0]: 0.0})
    slope = torch.func.grad(lambda x: function(x).sum())(tau)
    assert own == pytest.approx([function(tau).sum().item(), *slope.tolist()], abs=1e-15, rel=1e-15)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x, u):
        self.count += 1
        return x


class Remembering(nn.Module):
    def forward(self, x, u):
        self.last = 2 * x
        return x


class WithItsOwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, gradient):
        return gradient


def branching(x, u):
    if x[0] > 0:
        return x
    return -x


def writing(x, u):
    x[0] = u[0]
    return x


def without_gradient(x, u):
    with torch.no_grad():
        return 2 * x


def differentiating_once(x, u):
    z = x.requires_grad_()
    return torch.autograd.grad((z**3).sum(), z)[0]


stray = nn.Linear(2, 2).double()
REFUSED = {
    "a buffer that counts": (Counting(), r"aten\.add_.*self\.count \+= 1.*did not make"),
    "memory": (Remembering(), "keeps a tensor .* 'last'.*state of the problem"),
    "a write to the input": (writing, r"aten\.copy_.*x\[0\] = u\[0\].*did not make"),
    "a branch": (branching, r"_local_scalar_dense.*if x\[0\] > 0:.*torch\.where"),
    "no_grad": (without_gradient, r"aten\.mul.*return 2 \* x.*no_grad"),
    "no create_graph": (differentiating_once, "create_graph=True"),
    "an autograd.Function": (lambda x, u: WithItsOwnBackward.apply(x), "return 2 \\* x.*autograd.Function"),
    "dropout": (lambda x, u: nn.functional.dropout(x), r"random.*module\.eval\(\)"),
    "random numbers": (lambda x, u: x + torch.rand(2), r"aten\.rand.*random"),
    "floor": (lambda x, u: torch.floor(x), r"aten\.floor.*jumps"),
    "floor in place": (lambda x, u: (x + 1).floor_(), r"aten\.floor_.*jumps"),
    "an equality": (lambda x, u: torch.where(x == 0, x, -x), r"aten\.eq.*single points"),
    "a position": (lambda x, u: x * x.max(0).indices, "position of a maximum"),
    "a place": (lambda x, u: x[(x > 0).long()], r"aten\.index.*depend on the input"),
    "detach": (lambda x, u: x.detach(), r"detach\(\) takes a tensor out"),
    "numpy": (lambda x, u: torch.tensor(x.numpy()), r"numpy\(\) takes a tensor out"),
    "less precision": (lambda x, u: x.float(), r"computes in torch\.float32"),
    "rounding": (lambda x, u: x * x.long(), "rounds to torch.int64"),
    "singular values": (lambda x, u: torch.linalg.svdvals(torch.outer(x, x)), "_linalg_svd.*no counterpart"),
    "a learned constant": (lambda x, u: stray(x), r"requires gradients.*weights=\{"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_with_its_line(name):
    module, message = REFUSED[name]
    problem = mpcgen.Problem("refused", horizon=2)
    problem.states("a b")
    problem.controls("force")
    with pytest.raises(mpcgen.UnsupportedExpressionError, match=message) as refused:
        mpcgen.torch_model(problem, module)
    assert name == "memory" or __file__ in str(refused.value)
    assert not problem.parameter_specs


def test_wrong_results_names_and_weights_are_refused():
    problem = mpcgen.Problem("wrong", horizon=2)
    problem.states("a b")
    problem.controls("force")
    for module, message in (
        (lambda x, u: x[:1], "1 row for the 2 states"),
        (lambda x, u: x[None], r"shape \(1, 2\)"),
        (lambda x, u: (x, u), "returned tuple"),
        (lambda x, u: x @ u, r"failed on x of shape \(2,\) and u of shape \(1,\)"),
        (lambda x, u: x * float("nan"), "constant nan"),
        (3, "given int"),
        (nn.Linear(2, 2).half(), "weights of torch.float16"),
        (Joined(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).double())), "torch.float32, torch.float64"),
    ):
        with pytest.raises(mpcgen.SpecError, match=message):
            mpcgen.torch_model(problem, module)
    with pytest.raises(mpcgen.SpecError, match=r"weights of .* is 'frozen'"):
        mpcgen.torch_model(problem, stray, weights="frozen")
    mpcgen.torch_model(problem, Joined(activated(nn.Tanh())))
    with pytest.raises(mpcgen.SpecError, match="of another module; call this one otherwise"):
        mpcgen.torch_cost(problem, Joined(activated(nn.Tanh())))


def problem_with_gru():
    return problem_of(Gru().double(), 3)


def test_weights_are_no_part_of_what_is_built_and_architectures_are():
    known = {fingerprint(problem_with_gru().spec()) for _ in range(2)}
    code = (
        "import sys, mpcgen; from torch import nn; mpcgen.torch_parameters(nn.Linear(1, 1)); "
        "assert 'sympy' not in sys.modules; import test_torch_models as t; "
        "print(t.fingerprint(t.problem_with_gru().spec()))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "5"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, env=environment, capture_output=True, text=True, check=True
    )
    assert known == {found.stdout.strip()}
    assert fingerprint(problem_of(Gru().double(), 3, weights="constants").spec()) not in known


@pytest.fixture(scope="module")
def residual():
    """A problem, its module and its controller."""
    torch.manual_seed(1)
    module = Residual().double()
    problem = problem_of(module, 2, horizon=4)
    return problem, module, mpcgen.compile(problem, dtypes=torch.float64).MPC(tol=1e-10)


def losses(mpc, x0, weights):
    """Gradients of a loss by the start and the weights."""
    given = {name: tensor.detach().clone().requires_grad_() for name, tensor in weights.items()}
    start = x0.clone().requires_grad_()
    solution = mpc(start, **given)
    (solution.u.square().sum() + solution.x.sum() + solution.cost.sum()).backward()
    return solution, [start.grad, *(tensor.grad for tensor in given.values())]


def test_gradients_reach_the_weights_as_through_an_unrolled_solve(residual):
    problem, module, mpc = residual
    x0 = torch.tensor([[0.4, -0.7], [1.1, 0.3]], dtype=torch.float64)
    weights = mpcgen.torch_parameters(module)
    solution, own = losses(mpc, x0, weights)
    _, unrolled = losses(mpcgen.reference.MPC(problem, tol=1e-12), x0, weights)
    assert bool(solution.converged.all())
    for found, exact in zip(own, unrolled, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)
    mpc(x0, **weights).u.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_an_ensemble_gives_each_problem_its_weights(residual):
    _, _, mpc = residual
    torch.manual_seed(2)
    members = [Residual().double() for _ in range(3)]
    weights, _ = torch.func.stack_module_state(members)
    x0 = torch.tensor([0.4, -0.7], dtype=torch.float64)
    together = mpc(x0.expand(3, 2), **mpcgen.torch_parameters(weights))
    for index, member in enumerate(members):
        alone = mpc(x0, **mpcgen.torch_parameters(member))
        torch.testing.assert_close(together.u[index], alone.u, rtol=1e-9, atol=1e-9)


def test_functions_take_their_weights_by_name_and_may_bake_them_in():
    function, weights = functional()
    x, u = next(iter(points(2)))
    for option, given in ((weights, mpcgen.torch_parameters(weights)), ("constants", {})):
        problem = problem_of(function, 2, weights=option)
        torch.testing.assert_close(by_graph(problem, given, x, u)[1], by_torch(function, x, u)[1])
    member, stacked = ensemble()
    assert set(mpcgen.torch_parameters(stacked)) == set(mpcgen.torch_parameters(member))


def test_integrated_costs_constraints_and_further_arguments():
    torch.manual_seed(3)
    rate, value = (
        activated(nn.Tanh()),
        nn.Sequential(nn.Linear(2, 3), nn.Softplus(), nn.Linear(3, 1)).double(),
    )
    problem = mpcgen.Problem("whole", horizon=3)
    problem.states("a b")
    (last,) = problem.states("last")
    (force,) = problem.controls("force")
    problem.parameter("gain", shape=2, default=[1.0, 2.0])
    problem.dynamics = mpcgen.torch_model(
        problem,
        _Rate(rate),
        scheme="rk4",
        dt=0.1,
        discrete={last: force},
        parameters=["gain"],
    )
    problem.stage_cost = force**2 + last**2
    problem.terminal_cost = mpcgen.torch_cost(
        problem, lambda x: value(x[:2]), dict(value.named_parameters()), controls=False, name="value"
    )
    problem.constraint("limit", mpcgen.torch_expressions(problem, lambda x, u: x[:2] * u), upper=3)
    model = lower_spec(problem.spec())
    assert len(model.mixed) == 2
    assert {"model_net_0_weight", "value_0_weight", "gain"} <= {p.name for p in model.signature.parameters}
    numbers = {symbol: 0.1 * index for index, symbol in enumerate((*model.states, *model.controls))}
    given = {**mpcgen.torch_parameters(_Rate(rate)), **mpcgen.torch_parameters(value, "value")}
    flat = [
        entry
        for p in model.signature.parameters
        for entry in (p.default or given[p.name].detach().reshape(-1).tolist())
    ]
    numbers |= dict(zip(model.parameters, flat, strict=True))
    x = torch.tensor([0.0, 0.1], dtype=torch.float64)
    own = evaluate([*model.next_state, model.terminal_cost], numbers)
    slope = lambda x: torch.tensor([1.0, 2.0]) * rate(torch.cat([x, x.new_tensor([0.3])]))  # noqa: E731
    k1 = slope(x)
    k2 = slope(x + 0.05 * k1)
    k3 = slope(x + 0.05 * k2)
    after = x + 0.1 / 6 * (k1 + 2 * k2 + 2 * k3 + slope(x + 0.1 * k3))
    assert own == pytest.approx([*after.tolist(), 0.3, value(x).item()], rel=1e-12)


class _Rate(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, u, gain):
        return gain * self.net(torch.cat([x[:2], u]))

"""Networks in dynamics: loops over their layers have the values and derivatives of what is written out."""

import contextlib
import copy
import pickle
import shutil
import subprocess

import network_layouts
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch_models import Joined, problem_of

import mpcgen
from examples import learned_model, lstm
from mpcgen.codegen import network_text
from mpcgen.codegen.network_layers import KINDS, layer_tables
from mpcgen.compiler import Compilation
from mpcgen.export import export
from mpcgen.ir import evaluate
from mpcgen.ir.network import ACTIVATIONS
from mpcgen.problem import networks, torch_layers
from mpcgen.problem.fingerprint import fingerprint
from mpcgen.problem.lowering import lower_spec

# torch imports its own deprecated parts when it differentiates forwards.
OF_TORCH = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


class Elementwise(nn.Module):
    """An activation that torch has no module for."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


HIDDEN = [
    [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.Softplus(), nn.SiLU(), nn.GELU(), nn.ELU()],
    [nn.LeakyReLU(0.2), nn.Hardtanh(-0.8, 0.9), Elementwise(torch.sin)],
    [nn.Hardsigmoid(), nn.GELU("tanh"), Elementwise(torch.exp)],
    [nn.Hardswish(), nn.SELU(), Elementwise(torch.cos)],
    [nn.CELU(0.5), nn.Softplus(2, 1)],
]


class Deep(nn.Module):
    """Chains of layers with each activation, one layer without a bias, and what is around them."""

    def __init__(self):
        super().__init__()
        self.chains = nn.ModuleList(map(self.chain, HIDDEN))
        self.gain = nn.Parameter(torch.tensor([0.4, 0.7]))

    @staticmethod
    def chain(hidden):
        layers = [nn.Linear(3, 7)]
        for index, activation in enumerate(hidden):
            rows = 2 if index == len(hidden) - 1 else 7
            layers += [activation, nn.Linear(7, rows, bias=index != 2 or rows == 2)]
        return nn.Sequential(*layers)

    def forward(self, x, u):
        y = sum(chain(torch.cat([x, u])) for chain in self.chains)
        return torch.stack(
            [x[0] + 0.1 * x[1], x[1] + self.gain[0] * torch.sin(y[0]) + self.gain[1] * y[1] * u[0]]
        )


def layered(module, n, **options):
    problem = problem_of(module, n, horizon=3, **options)
    problem.terminal_cost = 3 * sum(x**2 for x in problem.state_symbols)
    return problem


@pytest.fixture(scope="module")
def levels():
    """The weights of a network in levels, its problem and its controller."""
    torch.manual_seed(4)
    module = Levels().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    problem = layered(module, 6)
    with small_loops():
        (network,) = lower_spec(problem.spec()).substeps.networks
        assert {layer.kind for layer in network.layers} == set(KINDS) - {"given"} | {"join"}
        package = mpcgen.compile(problem, dtypes=torch.float64)
    weights = mpcgen.torch_parameters(module)
    return module, weights, problem, package.MPC(tol=1e-10, method="ddp")


@pytest.fixture(scope="module")
def deep():
    """The weights of a module, its problem and its controller."""
    torch.manual_seed(0)
    module = Deep().double()
    with torch.no_grad():
        for parameter in module.chains[0].parameters():
            parameter.mul_(2.0)
    problem = layered(module, 2)
    weights = mpcgen.torch_parameters(module)
    return weights, problem, mpcgen.compile(problem, dtypes=torch.float64).MPC(tol=1e-10, method="ddp")


class Levels(nn.Module):
    """An encoder, a gated step of what it gives, residual blocks and two heads on these, and a cell's memory (4).

    All kinds of layers are there: joined ones, sums with numbers, products, norms with and without weights or a mean.
    """

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 5), nn.LayerNorm(5), nn.ELU())
        self.step = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 10))
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.RMSNorm(5), nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 5))]
        )
        self.last = nn.LayerNorm(5, elementwise_affine=False, eps=0.1)
        self.heads = nn.ModuleList([nn.Linear(5, 2), nn.Linear(5, 1, bias=False)])
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x, u):
        z = self.encoder(x[:2])
        change, gate = self.step(torch.cat([z, u])).chunk(2)
        gate = torch.sigmoid(gate)
        z = (1 - gate) * z + gate * (0.5 * torch.tanh(change) - 0.3)
        for block in self.blocks:
            z = z / 2 - block(z)
        mean, spread = (head(self.last(z)) for head in self.heads)
        memory = self.cell(torch.cat([u, mean]), x[2:])
        return torch.cat([x[:2] + 0.3 * mean * torch.cos(spread), memory])


def assembled():
    """Rates of (a, b) by an ensemble on features and another network, and the weights of both."""
    torch.manual_seed(1)
    members = [
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 2)).double()
        for _ in range(3)
    ]
    drag = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    stacked, _ = stack_module_state(members)
    gain = torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True)

    def rates(x, u, goal):
        features = torch.cat([torch.sin(x[:1]), gain[0] * torch.cos(x[:1]), (x[1:2] - goal) / 2, u])
        y = vmap(lambda weights: functional_call(members[0], weights, (features,)))(stacked).mean(0)
        slowed = drag(torch.stack([x[1] ** 2 * u[0], x[0] + goal * x[1]]))[0]
        return torch.stack([x[1] - 0.3 * torch.sin(3 * y[0]), gain[1] * y[1] * u[0] - slowed * x[1]])

    named = {f"members.{name}": tensor for name, tensor in stacked.items()}
    return rates, {**named, **{f"drag.{name}": w for name, w in drag.named_parameters()}, "gain": gain}


def scalar(inputs, width=2):
    """A network with one output."""
    net = nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
    )
    return net.double()


@contextlib.contextmanager
def small_loops():
    """Small networks are loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "LOOPED_FROM", 8)
        patch.setattr(networks, "LEAST", 8)
        patch.setattr(torch_layers, "LEAST", 8)
        yield


@contextlib.contextmanager
def large_arrays():
    """Matrices of small networks lie in the workspace, as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_text, "LARGE", 0)
        yield


def with_costs(problem, x, u):
    """Add costs by networks of features to those of a problem of a goal and two states x; return their weights."""
    price, value = scalar(4, width=4), scalar(3)

    def stage(x, u, goal):
        return price(torch.cat([torch.sin(x[:1]), goal * torch.cos(x[:1]), x[1:2], u])).squeeze() ** 2

    def end(x, goal):
        return value(torch.stack([torch.sin(x[0]), x[1], x[0] - goal])).squeeze()

    given = {"parameters": ["goal"]}
    found = mpcgen.torch_cost(problem, stage, dict(price.named_parameters()), name="price", **given)
    problem.stage_cost += 0.5 * found * (1 + x[1] ** 2) + 0.1 * u**2
    problem.terminal_cost += mpcgen.torch_cost(
        problem, end, dict(value.named_parameters()), controls=False, name="value", **given
    )
    return {**mpcgen.torch_parameters(price, "price"), **mpcgen.torch_parameters(value, "value")}


@pytest.fixture(scope="module")
def integrated():
    """Such rates, in two steps, with a cost of a network that is integrated and a state that stays discrete.

    And with networks in the costs of stages and of the end. Matrices lie in the workspace, as large ones do.
    """
    rates, weights = assembled()
    price = scalar(2)
    weights |= {f"rate.{name}": weight for name, weight in price.named_parameters()}
    problem = mpcgen.Problem("integrated", horizon=2)
    a, b, last = problem.states("a b last")
    (force,) = problem.controls("force")
    problem.parameter("goal", per_stage=True)
    everything = lambda x, u, goal: torch.cat([rates(x, u, goal), price(x[:2])])  # noqa: E731
    rows = mpcgen.torch_expressions(problem, everything, weights, parameters=["goal"])
    problem.dynamics = mpcgen.midpoint(problem, rows[:2], 0.2, substeps=2, discrete={last: force})
    problem.stage_cost = mpcgen.running_cost(a**2 + b**2 + rows[2]) + 0.3 * (force - last) ** 2
    problem.terminal_cost = a**2 + 2 * b**2
    given = {**mpcgen.torch_parameters(weights), **with_costs(problem, (a, b), force)}
    given["goal"] = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
    with small_loops():
        model = lower_spec(problem.spec())
        assert len(model.substeps.networks) == 5
        assert [len(priced.networks) for priced in model.priced] == [1, 1]
        with large_arrays():
            assert "#define LARGE_ARRAYS 1" in Compilation(problem.spec()).rendered.c_text
            package = mpcgen.compile(problem, dtypes=torch.float64)
    return given, problem, package.MPC(tol=1e-10, method="ddp")


def losses(mpc, x0, weights):
    given = {name: tensor.detach().clone().requires_grad_() for name, tensor in weights.items()}
    start = x0.clone().requires_grad_()
    solution = mpc(start, **given)
    (solution.u.square().sum() + solution.x.sum() + solution.cost.sum()).backward()
    return solution, [start.grad, *(tensor.grad for tensor in given.values())]


@pytest.mark.parametrize("which", ["deep", "integrated", "levels"])
def test_solutions_and_gradients_are_those_of_the_reference(which, request):
    weights, problem, mpc = request.getfixturevalue(which)[-3:]
    if which == "deep":
        chains = lower_spec(problem.spec()).substeps.networks
        assert [len(chain.layers) for chain in chains] == [len(hidden) + 1 for hidden in HIDDEN]
        assert {layer.activation for chain in chains for layer in chain.layers} == set(ACTIVATIONS)
    n = len(problem.state_symbols)
    x0 = torch.linspace(-0.9, 0.8, 2 * n, dtype=torch.float64).reshape(2, n)
    solution, own = losses(mpc, x0, weights)
    reference, implicit = losses(mpcgen.reference.MPC(problem, tol=1e-12, differentiable="last"), x0, weights)
    assert bool(solution.converged.all())
    torch.testing.assert_close(solution.x, reference.x, rtol=1e-8, atol=1e-8)
    for found, exact in zip(own, implicit, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9 * float(exact.abs().max()))


def test_values_and_derivatives_of_levels_are_torchs(levels):
    module, weights, _, mpc = levels
    x, u = torch.linspace(-0.9, 0.8, 6, dtype=torch.float64), torch.full((1,), 0.3, dtype=torch.float64)
    given = {"x": x, "u": u, **{name: tensor.detach() for name, tensor in weights.items()}}
    names = dict(zip(weights, dict(module.named_parameters()), strict=True))

    def by_torch(x, u, **found):
        return functional_call(module, {names[name]: tensor for name, tensor in found.items()}, (x, u))

    def values_and_slopes(function):
        inputs = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        rows = function(**inputs)
        return rows.detach(), [
            torch.autograd.grad(row, [*inputs.values()], retain_graph=True) for row in rows
        ]

    values, slopes = values_and_slopes(lambda x, u, **of: mpc.dynamics(x[None], u[None], **of)[0])
    exact, exact_slopes = values_and_slopes(by_torch)
    torch.testing.assert_close(values, exact, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(slopes, exact_slopes, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("which", "kernel"), [("integrated", "warp"), ("levels", "thread")])
def test_a_device_finds_what_the_cpu_finds(which, kernel, request):
    weights, problem, mpc = request.getfixturevalue(which)[-3:]
    n = len(problem.state_symbols)
    x0 = torch.linspace(-0.9, 0.8, 3 * n, dtype=torch.float64).reshape(3, n)
    with small_loops():
        package = mpcgen.compile(problem, targets=("cuda-host",), cuda_kernel=kernel)
    device = package.MPC(tol=1e-10, method="ddp")
    (solution, own), (found, others) = (losses(module, x0, weights) for module in (mpc, device))
    torch.testing.assert_close(found.x, solution.x, rtol=1e-9, atol=1e-9)
    for gradient, other in zip(own, others, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-7, atol=1e-7 * float(gradient.abs().max()))


def with_rows(problem, x, u):
    """Add rows of constraints by networks, of each group, hard and soft; return their weights."""
    safe, near = scalar(4), scalar(2)

    def control_row(x, u, goal):
        return safe(torch.cat([torch.sin(x[:1]), x[1:] - goal, u, x[:1]]))

    given = {"parameters": ["goal"]}
    (mixed,) = mpcgen.torch_expressions(
        problem, control_row, dict(safe.named_parameters()), name="safe", **given
    )
    problem.constraint("safe", mixed * (1 + x[0] ** 2) + u, upper=-0.1)
    state_row = lambda x: near(torch.sin(x))  # noqa: E731
    (state,) = mpcgen.torch_expressions(
        problem, state_row, dict(near.named_parameters()), controls=False, name="near"
    )
    problem.constraint("plain", x[0] + x[1] ** 2, lower=-1)
    problem.constraint("near", state + x[0], lower=0.8, soft=2.0)
    problem.terminal_constraint("last", state**2 + x[1], upper=0.3)
    return {**mpcgen.torch_parameters(safe, "safe"), **mpcgen.torch_parameters(near, "near")}


def assert_slope_is_that_of_differences(mpc, x0, given):
    """The derivative of the states' sum along a change of what is given."""
    along = {name: torch.randn_like(tensor) for name, tensor in given.items()}
    ends = [
        mpc(x0, **{name: tensor.detach() + step * along[name] for name, tensor in given.items()}).x.sum()
        for step in (-1e-5, 1e-5)
    ]
    slopes = torch.autograd.grad(mpc(x0, **given).x.sum(), list(given.values()))
    slope = sum((g * along[name]).sum() for g, name in zip(slopes, given, strict=True))
    torch.testing.assert_close(slope, (ends[1] - ends[0]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_networks_in_implicit_steps_and_costs_beside_them():
    rates, weights = assembled()
    problem = mpcgen.Problem("implicit_networks", horizon=3)
    x, (u,) = problem.states("a b"), problem.controls("u", lower=-1, upper=1)
    problem.parameter("goal", default=0.3)
    problem.dynamics = mpcgen.torch_model(
        problem, rates, "implicit_midpoint", 0.2, weights, parameters=["goal"]
    )
    problem.stage_cost = problem.terminal_cost = x[0] ** 2 + x[1] ** 2
    every = {**mpcgen.torch_parameters(weights), **with_costs(problem, x, u)}
    given = {name: tensor.detach().requires_grad_() for name, tensor in every.items()}
    with small_loops():
        assert len(lower_spec(problem.spec()).substeps.networks) == 4
        with large_arrays():
            mpc = mpcgen.compile(problem, dtypes=torch.float64).MPC(tol=1e-11, method="ddp")
    x0 = torch.tensor([[0.5, -0.3], [0.4, 0.1]], dtype=torch.float64)
    solution = mpc(x0, **given)
    goal = torch.tensor(0.3, dtype=torch.float64)
    for path, controls in zip(solution.x.detach(), solution.u.detach(), strict=True):
        for before, after, control in zip(path, path[1:], controls, strict=False):
            reached = before + 0.2 * rates((before + after) / 2, control, goal)
            torch.testing.assert_close(after, reached, rtol=1e-11, atol=1e-11)
    assert_slope_is_that_of_differences(mpc, x0, given)


@OF_TORCH
def test_costs_and_rows_by_networks_are_those_of_the_reference():
    torch.manual_seed(2)
    problem = mpcgen.Problem("priced_rows", horizon=3)
    x, (u,) = problem.states("a b"), problem.controls("u", lower=-1, upper=1)
    problem.parameter("goal", default=0.3)
    problem.dynamics = [x[0] + 0.3 * x[1], x[1] + 0.3 * u]
    problem.stage_cost = problem.terminal_cost = x[0] ** 2 + x[1] ** 2
    weights = {**with_costs(problem, x, u), **with_rows(problem, x, u)}
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    with small_loops():
        assert [len(priced.rows) for priced in lower_spec(problem.spec()).priced] == [2, 2]
        with large_arrays():
            mpc = mpcgen.compile(problem, dtypes=torch.float64).MPC(tol=1e-11)
    x0 = torch.tensor([[0.5, -0.3], [0.4, 0.1]], dtype=torch.float64)
    solution = mpc(x0, **weights)
    reference = mpcgen.reference.InteriorPoint(problem, tol=1e-11)(x0, **weights)
    assert bool(solution.converged.all())
    assert all(float(solution.duals[name].abs().max()) > 1e-3 for name in ("safe", "near"))
    torch.testing.assert_close(solution.x, reference.x, rtol=1e-7, atol=1e-7)
    assert_slope_is_that_of_differences(
        mpc, x0, {name: tensor.requires_grad_() for name, tensor in weights.items()}
    )


def test_each_problem_of_a_batch_may_have_weights_of_its_own(deep):
    weights, _, mpc = deep
    shared = {name: tensor.detach() for name, tensor in weights.items()}
    other = {name: 0.7 * tensor for name, tensor in shared.items()}
    own = {
        name: torch.stack([shared[name], other[name]] * 10) for name in shared
    }  # more than there are lanes
    starts = torch.linspace(-0.9, 0.8, 40, dtype=torch.float64).reshape(20, 2)
    together = mpc(starts, **own)
    for k, alike in enumerate((shared, other)):
        torch.testing.assert_close(together.x[k::2], mpc(starts[k::2], **alike).x, rtol=1e-12, atol=1e-12)


def test_a_horizon_with_more_points_than_are_kept(deep):
    module, _, mpc = deep
    first = ("model_gain", "model_chains_0_")  # 300 stages of all chains do not converge
    weights = {name: tensor.detach() * name.startswith(first) for name, tensor in module.items()}
    start, controls = (torch.full(shape, 0.3, dtype=torch.float64) for shape in ((1, 2), (1, 300, 1)))
    one = mpc(start, u_init=controls, **weights)
    many = mpc(start.repeat(9, 1), u_init=controls, **weights)
    assert bool(many.converged.all())
    torch.testing.assert_close(many.x, one.x.expand(9, -1, -1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("compiler", "dtype", "which"),
    [("gcc", "float32", "deep"), ("clang", "float64", "integrated"), ("gcc", "float32", "levels")],
)
def test_exported_networks_are_strict_c(compiler, dtype, which, request, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} not installed")
    with small_loops():
        out = export(request.getfixturevalue(which)[-2], tmp_path, dtype=dtype, gradient=True)
    command = [
        compiler,
        "-std=c99",
        "-pedantic",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wdouble-promotion",
        "-Werror",
    ]
    done = subprocess.run(
        [*command, "-c", out.source, "-o", tmp_path / "strict.o"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@OF_TORCH
@pytest.mark.parametrize("which", ["deep", "integrated", "levels"])
def test_forward_mode_is_the_transpose_of_reverse_mode(which, request):
    learned, problem, mpc = request.getfixturevalue(which)[-3:]
    n = len(problem.state_symbols)
    torch.manual_seed(3)
    weights = {name: tensor.detach() for name, tensor in learned.items()}
    inputs = {"x0": torch.linspace(-0.9, 0.8, 2 * n, dtype=torch.float64).reshape(2, n), **weights}
    along = {name: torch.randn_like(tensor) for name, tensor in inputs.items()}

    def controls(given):
        return mpc(given["x0"], **{name: tensor for name, tensor in given.items() if name != "x0"}).u

    u, change = torch.func.jvp(controls, (inputs,), (along,))
    seed = torch.randn_like(u)
    (back,) = torch.func.vjp(controls, inputs)[1](seed)
    total = sum((back[name] * along[name]).sum() for name in inputs)
    torch.testing.assert_close((seed * change).sum(), total, rtol=1e-9, atol=1e-9)


def test_the_text_does_not_grow_with_the_width():
    torch.manual_seed(0)
    texts = []
    for width in (16, 32):
        net = nn.Sequential(
            nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )
        texts.append(Compilation(layered(Joined(net.double()), 2).spec()).rendered.c_text)
    assert abs(len(texts[0]) - len(texts[1])) < 200
    assert len(texts[1]) < 52_000  # a third of it is the interface, the same for all problems


def test_the_text_grows_with_the_memory_of_a_cell_and_not_with_its_square():
    torch.manual_seed(0)
    texts = []
    for memory in (24, 40):
        cell = nn.GRUCell(1, memory).double()
        text = Compilation(
            layered(lambda x, u, cell=cell: cell(u, x), memory, weights=dict(cell.named_parameters())).spec()
        ).rendered.c_text
        texts.append(len(text))
    assert texts[1] - texts[0] < 16 * 2500
    assert texts[1] < 150_000


def test_copies_of_a_problem_are_not_evaluated_anew_and_share_nothing_that_changes():
    problem = mpcgen.Problem("copied", horizon=3)
    x, (u,) = problem.states("a b"), problem.controls("u", lower=-1, upper=1)
    block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4)).double()
    ends = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)]).double()

    def deep(x, u):
        h = ends[0](torch.cat([x, u]))
        for _ in range(3):  # of which sympy would evaluate a copy for minutes
            h = h + block(h)
        return ends[1](h)

    weights = {**dict(block.named_parameters()), **{f"ends_{k}": w for k, w in ends.named_parameters()}}
    problem.dynamics = mpcgen.torch_model(problem, deep, weights=weights)
    problem.stage_cost = x[0] ** 2 + u**2
    found = copy.deepcopy(problem)
    assert found.spec() == problem.spec()
    assert copy.deepcopy(problem.spec()) == problem.spec()
    loaded, spec = pickle.loads(pickle.dumps((problem, problem.spec())))
    assert fingerprint(loaded.spec()) == fingerprint(spec) == fingerprint(problem.spec())
    found.state("c")
    found.constraint("row", x[0], upper=1)
    assert problem.state_names == ("a", "b")
    assert found.state_names == ("a", "b", "c")
    assert not problem.spec().constraints
    problem.state("c")


def made_with(function, weights, n=2, **options):
    """A problem whose dynamics a function of tensors gives."""
    return layered(function, n, weights=weights, **options)


def looped(function, weights, **options):
    """Of the networks that loops evaluate there, how many inputs they have."""
    substeps = lower_spec(made_with(function, weights, **options).spec()).substeps
    return [len(network.inputs) for network in substeps.networks] if substeps else []


def test_networks_are_looped_on_what_they_read_together_and_after_one_another():
    net = nn.Sequential(nn.Linear(3, 14), nn.Tanh(), nn.Linear(14, 14), nn.Tanh(), nn.Linear(14, 2)).double()
    weights = dict(net.named_parameters())
    plain = lambda x, u: net(torch.cat([x, u]))  # noqa: E731
    bent = lambda x, u: net(torch.cat([torch.sin(x), u]))  # noqa: E731
    twice = lambda x, u: plain(x, u) + plain(2 * x, u)  # noqa: E731
    assert looped(plain, weights) == [3]
    assert looped(bent, weights) == [3]
    assert looped(twice, weights) == [3, 3]
    many = lambda x, u: sum(plain(k * x, u) for k in range(1, 31)) / 30  # noqa: E731
    assert looped(many, weights) == [3] * 30
    assert looped(lambda x, u: net[0](torch.cat([x, u]))[:2], weights) == []


def layers_of(function, weights, n=2):
    """Of each network that loops evaluate in dynamics, its layers, and which of them give outputs."""
    with small_loops():
        substeps = lower_spec(made_with(function, weights, n).spec()).substeps
    kinds = [
        [layer.kind + f" {layer.activation}" * (layer.activation != "none") for layer in network.layers]
        for network in substeps.networks
    ]
    return list(zip(kinds, [network.ends for network in substeps.networks], strict=True))


def test_members_of_an_ensemble_with_norms_have_each_their_part_of_a_product():
    member = lambda: nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.SiLU(), nn.Linear(6, 2))  # noqa: E731
    members = [member().double() for _ in range(3)]
    stacked, _ = stack_module_state(members)

    def function(x, u):
        each = lambda weights: functional_call(members[0], weights, (torch.cat([x, u]),))  # noqa: E731
        return vmap(each)(stacked).mean(0)

    assert layers_of(function, stacked) == [(["affine", "norm silu", "affine"], (2,))] * 3


def test_a_network_that_is_applied_again_and_heads_on_one_trunk_are_one_network():
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    head = nn.Linear(6, 2).double()
    weights = {**dict(net.named_parameters()), "head": head.weight}

    def twice(x, u):
        for _ in range(2):
            x = x + 0.1 * net(torch.cat([x, u]))
        return x

    def heads(x, u):
        features = net[:2](torch.cat([x, u]))
        return net[2](features) * torch.exp(head.weight @ features)

    step = ["affine tanh", "affine"]
    assert layers_of(twice, weights) == [([*step, "sum", "sum", "join", *step, "sum"], (7, 6))]

    def gated(x, u):
        return x + net(torch.cat([x, torch.sin(u)])) * u

    assert layers_of(gated, weights) == [(step, (1,))]
    assert layers_of(heads, weights) == [(["affine tanh", "affine", "affine"], (1, 2))]


def test_what_torch_takes_apart_is_put_together():
    for middle, kinds in (
        (nn.RMSNorm(6, eps=1e-3), ["affine", "norm"]),
        (nn.Mish(), ["affine", "sum softplus", "sum tanh", "product"]),
        (nn.GLU(), ["affine", "sum sigmoid", "product"]),
    ):
        width = 3 if isinstance(middle, nn.GLU) else 6
        net = nn.Sequential(nn.Linear(3, 6), middle, nn.Linear(width, 2)).double()
        function = lambda x, u, net=net: net(torch.cat([x, u]))  # noqa: E731
        assert layers_of(function, dict(net.named_parameters())) == [([*kinds, "affine"], (len(kinds),))]


def test_a_cell_has_its_memory_and_what_reads_it_from_one_network():
    cell, last = nn.LSTMCell(2, 4).double(), nn.Linear(4, 1).double()

    def function(x, u):
        hidden, memory = cell(torch.cat([x[:1], u]), (x[1:5], x[5:]))
        return torch.cat([x[:1] + last(hidden), hidden, memory])

    weights = {**dict(cell.named_parameters()), **{f"last_{k}": w for k, w in last.named_parameters()}}
    ((kinds, ends),) = layers_of(function, weights, 9)
    assert kinds[:2] == ["affine", "affine"]
    assert sorted(kinds[2:9]) == ["product"] * 2 + ["sum"] + ["sum sigmoid"] * 3 + ["sum tanh"]
    assert len(ends) == 3


def test_layers_of_random_modules_give_what_these_do():
    x, u = torch.tensor([0.4, -0.3], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    kinds, shares_room = set(), False
    for seed in range(25):
        torch.manual_seed(seed)
        module = network_layouts.Random(seed)
        with small_loops():
            model = lower_spec(layered(module, 2).spec())
        weights = mpcgen.torch_parameters(module)
        flat = [entry for p in model.signature.parameters for entry in weights[p.name].reshape(-1).tolist()]
        symbols = (*model.states, *model.controls, *model.parameters)
        values = dict(zip(symbols, [*x.tolist(), *u.tolist(), *flat], strict=True))
        for network in model.substeps.networks if model.substeps else ():
            found = network_layouts.outputs_of(network, values)
            values |= dict(zip(network.outputs, found.tolist(), strict=True))
            kinds |= {layer.kind for layer in network.layers}
            (table,) = layer_tables([network], {symbol: i for i, symbol in enumerate(model.parameters)})
            assert all(unit == there for unit, there in network_layouts.derivatives_read(table))
            shares_room |= table.sloped < table.units
        rows = model.next_state
        if model.substeps:
            pairs = zip(model.states, model.substeps.changes, strict=True)
            rows = [state + change for state, change in pairs]
        found = torch.tensor(evaluate(rows, values), dtype=torch.float64)
        torch.testing.assert_close(found, module(x, u).detach(), rtol=1e-12, atol=1e-13)
    assert kinds == {"affine", "join", "sum", "product", "norm"}
    assert shares_room


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("constants", "its weights are not parameters that all stages share"),
        ("nested", "what it reads of another network is no array that loops know"),
        ("wide", "what reads it reads 168 outputs of networks, too many for their size"),
        ("residual", "residuals of dynamics read it"),
        ("product", "a cost multiplies it with a running cost"),
    ],
)
def test_who_reads_a_large_network_that_is_written_out_is_told_why(where, reason):
    net = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2)).double()
    weights = dict(net.named_parameters())
    plain = lambda x, u: net(torch.cat([x, u]))  # noqa: E731
    row = lambda x, u: plain(x, u).sum()  # noqa: E731
    problem = mpcgen.Problem("large", horizon=3)
    states, (u,) = problem.states("x_0 x_1"), problem.controls("u")
    problem.dynamics = [state + u for state in states]
    problem.stage_cost = u**2
    if where == "constants":
        problem.dynamics = mpcgen.torch_model(problem, plain, weights="constants")
    elif where == "nested":
        problem.dynamics = mpcgen.torch_model(
            problem, lambda x, u: plain(plain(x, u).sinh(), u), weights=weights
        )
    elif where == "wide":
        wide = lambda x, u: net[:3](torch.cat([x, u])).square()  # noqa: E731
        function = lambda x, u: wide(x, u)[:2] + sum(wide(k * x, u).sum() for k in range(1, 8))  # noqa: E731
        problem.dynamics = mpcgen.torch_model(problem, function, weights=weights)
    elif where == "residual":
        read = mpcgen.torch_expressions(problem, plain, weights)
        problem.dynamics = mpcgen.radau(problem, [u], 0.1, residual={states[1]: states[1] - read[0]})
    else:
        problem.dynamics = mpcgen.rk4(problem, [states[1], u], 0.1)
        price = mpcgen.torch_cost(problem, row, name="cost", weights=weights)
        problem.stage_cost = mpcgen.running_cost(u**2) * price
    with pytest.warns(UserWarning, match=rf"a network of [\d,]+ weights is written out.*: {reason}"):
        lower_spec(problem.spec())


def test_the_example_lowers_its_closed_loop_cost():
    torch.manual_seed(0)
    model = learned_model.Model(16).double()
    learned_model.fit(model, steps=150)
    mpc, x0 = learned_model.controller(model, horizon=8), learned_model.random_states(6, 0.4, seed=1)
    cost, path = learned_model.closed_loop(mpc, model, x0, stages=8)
    assert path.shape == (9, 6, 5)
    cost.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
        lower, _ = learned_model.closed_loop(mpc, model, x0, stages=8)
    assert lower < cost


def test_a_plan_moves_the_memory_of_a_cell():
    torch.manual_seed(0)
    model = lstm.Remembering(2).double()
    mpc, x0 = lstm.controller(model), 0.3 * torch.rand(4, 5, dtype=torch.float64)
    plan = mpc(x0, target=0.5, **mpcgen.torch_parameters(model))
    assert plan.converged.all()
    path = [x0]
    for u in plan.u.detach().unbind(1):
        path.append(model(path[-1], u))
    torch.testing.assert_close(plan.x, torch.stack(path, 1))
    plan.cost.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())

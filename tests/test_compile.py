"""A controller under torch.compile and torch.export, and its operators under torch's own checks."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from controllers import Example
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import config as inductor_config

from mpcgen.autograd import library
from mpcgen.errors import SecondDerivativeError, UnconvergedError

# torch scripts parts of itself at the first use of its compilers
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled before this test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Policy(torch.nn.Module):
    """A network that chooses where to start from and how heavy the pendulum is; a training step's forward."""

    def __init__(self, mpc: torch.nn.Module) -> None:
        super().__init__()
        self.net = torch.nn.Linear(3, 3, dtype=torch.float64)
        with torch.no_grad():
            self.net.weight.copy_(torch.eye(3) * 0.1)
            self.net.bias.fill_(0.05)
        self.log_mass = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.mpc = mpc

    def forward(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states, controls and costs from x0 (B, 3)."""
        solution = self.mpc(x0 + self.net(x0), mass=self.log_mass.exp())
        return solution.x, solution.u, solution.cost


def loss_of(policy: torch.nn.Module, x0: Tensor) -> Tensor:
    """A loss in all three outputs."""
    x, u, cost = policy(x0)
    return (u**2).sum() + x[..., 0].sum() + cost.mean()


def step(policy: torch.nn.Module, x0: Tensor, compiled=loss_of) -> tuple[Tensor, dict[str, Tensor]]:
    """Value and gradients of one training step."""
    policy.zero_grad()
    loss = compiled(policy, x0)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in policy.named_parameters()}


def assert_same_step(found, expected, rtol: float) -> None:
    """Equal values and gradients; ``rtol`` of zero where the compiler may not reorder sums."""
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=0)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=rtol, atol=rtol * float(gradient.abs().max())
        )


# Sums of 4 to 20 numbers in another order, through a solver that amplifies rounding by its conditioning.
REORDERED = 1e-10


def test_a_compiled_training_step_equals_the_eager_one(pendulum):
    policy, x0 = Policy(pendulum.mpc()), pendulum.starts(4, 0)
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    found = step(policy, x0, compiled)
    assert_same_step(found, step(policy, x0), REORDERED)
    assert all((gradient != 0).any() for gradient in found[1].values())


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_a_step_compiled_to_machine_code_equals_the_eager_one(pendulum):
    """Small, because inductor takes seconds of g++ for each kernel around the solver."""
    mpc, x0 = pendulum.mpc(), pendulum.starts(4, 0)
    mass = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)

    def loss(value: Tensor) -> Tensor:
        return mpc(x0, mass=value).u.square().sum()

    # its scalar code compiles soonest
    with inductor_config.patch({"cpp.simdlen": 1, "cpp_cache_precompile_headers": False}):
        compiled = torch.compile(loss, fullgraph=True, backend="inductor")
        found = torch.autograd.grad(compiled(mass), mass)[0]
    expected = torch.autograd.grad(loss(mass), mass)[0]
    torch.testing.assert_close(found, expected, rtol=REORDERED, atol=0)


def test_other_batch_sizes_and_new_weights_need_no_second_graph_break(pendulum):
    policy = Policy(pendulum.mpc())
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss_of, fullgraph=True, backend=counter)
    for batch in (4, 7, 12, 4):
        x0 = pendulum.starts(batch, batch)
        assert_same_step(step(policy, x0, compiled), step(policy, x0), REORDERED)
        with torch.no_grad():
            policy.log_mass += 0.01
    # the second size makes the batch symbolic; after that nothing is compiled again
    assert counter.frame_count == 2


def test_an_optimiser_learns_the_same_weights_compiled_and_eager(pendulum):
    weights = []
    for compiled in (loss_of, torch.compile(loss_of, fullgraph=True, backend="aot_eager")):
        policy = Policy(pendulum.mpc())
        optimiser = torch.optim.SGD(policy.parameters(), lr=1e-4)
        for seed in range(3):
            step(policy, pendulum.starts(4, seed), compiled)
            optimiser.step()
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=REORDERED, atol=0)


def test_options_reach_the_compiled_solver(cartpole):
    x0 = cartpole.starts(3, 0)

    def gradient(options: dict[str, object], backend: str | None) -> Tensor:
        mpc = cartpole.mpc(**options)

        def function(start: Tensor) -> Tensor:
            return mpc(start).u.square().sum()

        start = x0.clone().requires_grad_()
        call = torch.compile(function, fullgraph=True, backend=backend) if backend else function
        return torch.autograd.grad(call(start), start)[0]

    exact = gradient({}, None)
    for options in ({"gradient": "gauss_newton"}, {"smoothing": 1.0}):
        eager = gradient(options, None)
        assert not torch.allclose(eager, exact, rtol=1e-3)
        torch.testing.assert_close(gradient(options, "aot_eager"), eager, rtol=REORDERED, atol=1e-8)


def test_a_compiled_call_still_says_that_it_did_not_converge(cartpole):
    mpc = cartpole.mpc(max_iterations=1)
    compiled = torch.compile(lambda s: mpc(s).u, fullgraph=True, backend="aot_eager")
    with pytest.raises(UnconvergedError, match="max_iterations"):
        compiled(cartpole.starts(3, 0))


def test_without_gradients_a_compiled_call_returns_the_same_bits(cartpole):
    mpc, x0 = cartpole.mpc(), cartpole.starts(5, 1)
    with torch.no_grad():
        found = torch.compile(lambda s: mpc(s).u, fullgraph=True, backend="aot_eager")(x0)
    assert torch.equal(found, mpc(x0).u)


def test_the_second_derivative_of_the_registered_operator_is_refused(pendulum):
    arguments = operator_inputs(pendulum, 3)
    x0 = arguments[3]
    u = library.solve(*arguments)[1]
    first = torch.autograd.grad(u.square().sum(), x0, create_graph=True)[0]
    with pytest.raises(SecondDerivativeError, match="second derivative"):
        first.sum().backward()


def operator_inputs(case: Example, batch: int, warm: bool = False) -> tuple:
    """Inputs of `library.solve`: own values for half of the parameters, shared ones for the others."""
    mpc, horizon = case.mpc(), case.spec.horizon
    parameters = []
    for i, p in enumerate(mpc.controller.parameters):
        value = torch.tensor(p.default, dtype=torch.float64).reshape(1, *p.shape)
        parameters.append(value.expand(batch if i % 2 else 1, *p.shape).clone().requires_grad_())
    x0 = case.starts(batch, 0).requires_grad_()
    u_init = torch.zeros(batch, horizon, len(case.spec.controls), dtype=torch.float64) if warm else None
    return mpc.key, mpc.options_text, horizon, x0, u_init, None, None, None, parameters


@pytest.mark.parametrize("batch, warm", [(1, False), (5, True)])
def test_torchs_checks_of_the_solve_operator_pass(pendulum, batch, warm):
    torch.library.opcheck(library.solve, operator_inputs(pendulum, batch, warm))


def test_torchs_checks_of_the_differentiate_operator_pass(pendulum):
    key, options, *_, parameters = arguments = operator_inputs(pendulum, 5)
    with torch.no_grad():
        x, u, cost, status, *_ = library.solve(*arguments)
    parameters = [p.detach() for p in parameters]
    torch.library.opcheck(
        library.differentiate, (key, options, x, u, status, x, None, cost, None, None, parameters)
    )


def test_torchs_checks_of_the_tangent_operator_pass(pendulum):
    key, options, _, x0, *_, parameters = arguments = operator_inputs(pendulum, 5)
    with torch.no_grad():
        x, u, _, status, *_ = library.solve(*arguments)
    parameters = [p.detach() for p in parameters]
    changes = [None, *parameters[1:]]
    torch.library.opcheck(
        library.tangent, (key, options, x, u, status, x0.detach(), None, parameters, changes)
    )


def test_the_registered_operator_gives_what_the_direct_way_gives(car):
    _, _, _, x0, *_, parameters = arguments = operator_inputs(car, 6)
    _, u, *_ = library.solve(*arguments)
    found = torch.autograd.grad(u.square().sum(), (x0, *parameters))
    names = [p.name for p in car.module.CONTROLLER.parameters]
    solution = car.mpc()(x0, **dict(zip(names, parameters, strict=True)))
    expected = torch.autograd.grad(solution.u.square().sum(), (x0, *parameters))
    assert torch.equal(u, solution.u)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_exported_program_solves_batches_of_any_size(pendulum):
    policy = Policy(pendulum.mpc())
    program = torch.export.export(
        policy, (pendulum.starts(4, 0),), dynamic_shapes={"x0": {0: torch.export.Dim("batch")}}
    )
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "mpcgen.solve.default" in operators
    exported = program.module()
    for batch in (4, 9):
        x0 = pendulum.starts(batch, 1)
        for a, b in zip(exported(x0), policy(x0), strict=True):
            torch.testing.assert_close(a, b, rtol=REORDERED, atol=1e-9)


def test_an_exported_program_survives_saving(pendulum, tmp_path):
    policy, x0 = Policy(pendulum.mpc()), pendulum.starts(3, 0)
    program = torch.export.export(policy, (x0,))
    torch.export.save(program, tmp_path / "policy.pt2")
    again = torch.export.load(tmp_path / "policy.pt2").module()
    assert torch.equal(again(x0)[1], policy(x0)[1])

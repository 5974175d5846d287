"""The controller as an ordinary torch module: learned parameters, copies, dtypes, autocast, functional use."""

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mpcgen.autograd import copying
from mpcgen.errors import DeviceError, DtypeError, ParameterError, StaleBuildError

MASS = {"mass": "positive"}
EVERY_KIND = {"mass": "positive", "length": ("interval", 0.1, 5.0), "p": None}


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def starts(count: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Near upright, where the controls are free, so that every parameter has a gradient."""
    angle = torch.linspace(-0.2, 0.25, count, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin(), 0.1 * angle], dim=-1).to(dtype)


def loss(mpc: nn.Module, x0: torch.Tensor, **parameters: torch.Tensor) -> torch.Tensor:
    return mpc(x0, **parameters).u.square().sum()


def gradient(
    mpc: nn.Module, x0: torch.Tensor, *wanted: torch.Tensor, **parameters
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss(mpc, x0, **parameters), wanted)


class Policy(nn.Module):
    """A controller behind a layer."""

    def __init__(self, mpc: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.mpc = mpc

    def forward(self, x0: torch.Tensor) -> torch.Tensor:
        weights = nn.functional.softplus(self.layer(x0)) + 0.01
        return self.mpc(x0, q=weights).u


class Doubled(nn.Module):
    def forward(self, z):
        return 2 * z

    def right_inverse(self, value):
        return value / 2


def test_learned_parameters_start_at_their_defaults(pendulum):
    mpc = pendulum.mpc(learn=["mass", "q"])
    assert {name: p.dtype for name, p in mpc.named_parameters()} == dict.fromkeys(
        ("mass", "q"), torch.float64
    )
    assert mpc.mass.item() == 1.0
    assert mpc.q.tolist() == [1.0, 1.0, 0.1, 0.001]
    assert torch.equal(mpc(starts()).u, pendulum.mpc()(starts()).u)


def test_gradient_of_a_learned_parameter_is_that_of_the_same_value_passed(pendulum):
    mpc = pendulum.mpc(learn=["mass", "q"], initial={"mass": 1.25})
    learned = gradient(mpc, starts(), mpc.mass, mpc.q)
    mass, q = (p.detach().clone().requires_grad_() for p in (mpc.mass, mpc.q))
    passed = gradient(pendulum.mpc(), starts(), mass, q, mass=mass, q=q)
    assert all(map(torch.equal, learned, passed))
    assert all(g.abs().max() > 0 for g in learned)


def test_constraints_differentiate_by_the_chain_rule(pendulum):
    mpc = pendulum.mpc(learn={"mass": "positive", "length": ("interval", 0.5, 2.0)}, initial={"mass": 1.25})
    lists = mpc.parametrizations
    g_mass, g_length = gradient(mpc, starts(), lists.mass.original, lists.length.original)
    mass, length = tensor(1.25).requires_grad_(), tensor(1.0).requires_grad_()
    by_mass, by_length = gradient(pendulum.mpc(), starts(), mass, length, mass=mass, length=length)
    # exp' = value; the sigmoid's derivative is (v - lower)(upper - v)/(upper - lower)
    torch.testing.assert_close(g_mass, by_mass * 1.25, rtol=1e-9, atol=0)
    torch.testing.assert_close(g_length, by_length * (0.5 * 1.0 / 1.5), rtol=1e-9, atol=0)


def test_keyword_of_a_call_replaces_the_learned_value(pendulum):
    mpc = pendulum.mpc(learn=["mass"])
    mass = tensor(1.5).requires_grad_()
    loss(mpc, starts(), mass=mass).backward()
    assert mpc.mass.grad is None
    assert mass.grad is not None
    assert torch.equal(mpc(starts(), mass=1.5).u, pendulum.mpc()(starts(), mass=1.5).u)
    assert torch.equal(mpc(starts(), mass=None).u, mpc(starts()).u)


@pytest.mark.parametrize("value", [1e-9, 0.3, 4.999])
def test_constrained_parameters_are_assignable(pendulum, value):
    mpc = pendulum.mpc(learn={"mass": "positive", "length": ("interval", 0.0, 5.0)})
    mpc.mass = mpc.length = tensor(value)
    torch.testing.assert_close(mpc.mass.detach(), tensor(value), rtol=1e-12, atol=0)
    torch.testing.assert_close(mpc.length.detach(), tensor(value), rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_assignment_outside_the_constraint_is_refused(pendulum, value):
    mpc = pendulum.mpc(learn={"mass": "positive", "length": ("interval", 0.0, 5.0)})
    for name in ("mass", "length"):
        with pytest.raises(ParameterError, match="strictly between"):
            setattr(mpc, name, tensor(value))
    assert (mpc.mass.item(), mpc.length.item()) == pytest.approx((1.0, 1.0))
    with pytest.raises(DtypeError, match=r"torch\.tensor"):
        mpc.mass = 2.0


def test_any_step_of_an_optimiser_keeps_the_constraint(pendulum):
    mpc = pendulum.mpc(learn={"mass": "positive", "length": ("interval", 0.5, 1.5)})
    loss(mpc, starts()).backward()
    torch.optim.SGD(mpc.parameters(), lr=0.5).step()
    assert mpc.mass.item() > 0
    assert 0.5 < mpc.length.item() < 1.5
    assert mpc.mass.item() != 1.0 and mpc.length.item() != 1.0


def test_module_as_constraint(pendulum):
    mpc = pendulum.mpc(learn={"mass": Doubled()})
    assert mpc.mass.item() == 1.0
    assert mpc.parametrizations.mass.original.item() == 0.5


def test_per_stage_parameter_learns_one_value_for_each_stage(lqr):
    given = lqr.values(3)
    mpc = lqr.mpc(learn=["c", "f", "F"], initial={"F": given["F"], "c": given["c"]})
    horizon, n = lqr.spec.horizon, len(lqr.spec.states)
    assert mpc.f.shape == (horizon, n)
    solution = mpc(lqr.starts(2, 0), C=given["C"])
    solution.cost.sum().backward()
    assert mpc.F.grad.shape == given["F"].shape
    # the cost is ½ xᵀCx + cᵀx at the last stage: dL/dc there is x
    torch.testing.assert_close(mpc.c.grad[-1, :n], solution.x[:, -1].sum(0), rtol=1e-9, atol=1e-12)


def test_parameter_without_default_needs_an_initial_value(lqr):
    with pytest.raises(ParameterError, match=r"'C'.* no default.* initial=\{'C': \.\.\.\}"):
        lqr.mpc(learn=["C"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"learn": ["masss"]}, ParameterError, "did you mean 'mass'"),
        ({"learn": ["mass", "mass"]}, ParameterError, "twice"),
        ({"learn": [3]}, ParameterError, "names of parameters"),
        ({"learn": {"mass": "negative"}}, ParameterError, 'expected one of None, "positive"'),
        ({"learn": {"mass": ("interval", 2, 1)}}, ParameterError, "lower < upper"),
        ({"learn": {"mass": ("interval", 0, float("inf"))}}, ParameterError, "finite"),
        ({"learn": {"mass": ("interval", "a", 1)}}, ParameterError, "numbers"),
        ({"learn": {"mass": ("interval", 2, 3)}}, ParameterError, "strictly between 2.0 and 3.0"),
        ({"learn": MASS, "initial": {"mass": -1.0}}, ParameterError, "cannot start there"),
        ({"learn": MASS, "initial": {"length": 1.0}}, ParameterError, "'length', which is not learned"),
        ({"learn": ["q"], "initial": {"q": [1.0, 2.0]}}, ParameterError, r"has shape \(2,\)"),
        ({"learn": ["q"], "initial": {"q": "heavy"}}, ParameterError, "'heavy'"),
        ({"learn": ["mass"], "initial": {"mass": torch.tensor(1)}}, DtypeError, "int64"),
    ],
)
def test_what_cannot_be_learned_is_refused(pendulum, options, error, words):
    with pytest.raises(error, match=words):
        pendulum.mpc(**options)


def test_parameter_named_like_an_attribute_of_modules_is_refused(pendulum):
    controller = pendulum.module.CONTROLLER
    first, *others = controller.parameters
    renamed = dataclasses.replace(controller, parameters=(dataclasses.replace(first, name="half"), *others))
    subclass = type("MPC", (pendulum.module.MPC,), {"controller": renamed})
    with pytest.raises(ParameterError, match="'half' cannot be learned"):
        subclass(learn=["half"])


def test_parameter_named_like_what_constraints_bring_is_refused(pendulum):
    controller = pendulum.module.CONTROLLER
    first, *others = controller.parameters
    parameters = (dataclasses.replace(first, name="parametrizations"), *others)
    renamed = dataclasses.replace(controller, parameters=parameters)
    subclass = type("MPC", (pendulum.module.MPC,), {"controller": renamed})
    for learn in (["parametrizations"], {"mass": "positive", "parametrizations": None}):
        with pytest.raises(ParameterError, match="'parametrizations' cannot be learned under its name"):
            subclass(learn=learn)
    with pytest.raises(ParameterError, match="no parameter 'parametrizations'"):
        pendulum.mpc(learn={"parametrizations": "positive"})


def test_printed_module_names_what_it_learns(pendulum):
    assert "learn=['mass', 'length', 'p']" in repr(pendulum.mpc(learn=EVERY_KIND))
    assert "learn" not in repr(pendulum.mpc())


def test_state_dict_round_trip_through_a_file_of_weights(pendulum, tmp_path):
    mpc, other = (pendulum.mpc(learn=EVERY_KIND) for _ in range(2))
    loss(mpc, starts()).backward()
    torch.optim.Adam(mpc.parameters(), lr=0.01).step()
    torch.save(mpc.state_dict(), tmp_path / "weights.pt")
    assert not torch.equal(mpc(starts()).u, other(starts()).u)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(mpc(starts()).u, other(starts()).u)


def pickled(module):
    return pickle.loads(pickle.dumps(module))


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("learn", [(), EVERY_KIND], ids=["nothing", "learned"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved])
def test_copies_solve_alike_and_are_independent(pendulum, duplicate, learn):
    policy = Policy(pendulum.mpc(learn=learn, max_iterations=77)).double()
    twin = duplicate(policy)
    assert torch.equal(twin(starts()), policy(starts()))
    assert (twin.mpc.options, repr(twin)) == (policy.mpc.options, repr(policy))
    twin(starts()).sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert all(p.grad is None for p in policy.parameters())
    assert not any(map(torch.equal, twin.parameters(), policy.parameters()))


def test_shallow_copies_share_their_tensors(pendulum):
    mpc = pendulum.mpc(learn=EVERY_KIND)
    twin = copy.copy(mpc)
    assert all(a is b for a, b in zip(twin.parameters(), mpc.parameters(), strict=True))
    assert len(list(mpc.parameters())) == len(EVERY_KIND)
    assert torch.equal(twin(starts()).u, mpc(starts()).u)


def test_copies_keep_ties_hooks_and_what_is_frozen(pendulum):
    mpc = pendulum.mpc(learn=EVERY_KIND).eval()
    mpc.parametrizations.mass.original.requires_grad_(False)
    tied = nn.ModuleList([mpc, mpc])
    twin = pickled(tied)
    assert twin[0] is twin[1]
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in tied.parameters()]
    assert not twin[0].training
    assert parametrize.is_parametrized(twin[0], "mass")
    twin[0].length = tensor(2.0)
    torch.testing.assert_close(twin[0].length.detach(), tensor(2.0))


def test_copy_without_its_package_says_what_to_do(tmp_path):
    gone = copying.Compiled("mpcgen_compiled.gone_01234567", str(tmp_path / "gone"), "MPC")
    with pytest.raises(StaleBuildError, match="compile the same problem"):
        copying.blank(gone)


def test_learned_values_follow_to_another_dtype(pendulum):
    mpc = pendulum.mpc(learn=EVERY_KIND)
    with pytest.raises(DtypeError, match=r"learned mass is torch.float64.*\.to\(torch.float32\)"):
        mpc(starts(dtype=torch.float32))
    mpc.float()
    assert mpc(starts(dtype=torch.float32)).u.dtype == torch.float32
    mpc.to(torch.float64)
    assert mpc(starts()).u.dtype == torch.float64
    with pytest.raises(DtypeError, match="bfloat16"):
        mpc.bfloat16()(starts())


def test_initial_tensors_keep_their_dtype(pendulum):
    mpc = pendulum.mpc(learn=["mass"], initial={"mass": torch.tensor(1.5)})
    assert mpc(starts(dtype=torch.float32)).u.dtype == torch.float32


def test_learned_values_on_another_device_are_refused(pendulum):
    mpc = pendulum.mpc(learn=MASS).to("meta")
    with pytest.raises(DeviceError, match=r"learned mass is on meta, but x0 is on cpu.*\.to\('cpu'\)"):
        mpc(starts())
    with pytest.raises(DeviceError, match=r"x0 is on meta"):
        mpc(starts().to("meta"))


def test_autocast_trains_with_the_solver_in_float32(pendulum):
    torch.manual_seed(0)
    layer, mpc, x0 = nn.Linear(3, 4), pendulum.mpc(learn=MASS).float(), starts(dtype=torch.float32)
    weights = [*layer.parameters(), *mpc.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = nn.functional.softplus(layer(x0)) + 0.01
        assert q.dtype == torch.bfloat16
        solution = mpc(x0, q=q)
        assert solution.u.dtype == torch.float32
        inside = torch.autograd.grad(solution.u.square().sum(), weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = (nn.functional.softplus(layer(x0)) + 0.01).float()
    outside = gradient(mpc, x0, *weights, q=q)
    assert all(map(torch.equal, inside, outside))
    assert all(g.abs().max() > 0 for g in inside)


def test_autocast_takes_learned_float64_and_low_precision_states(pendulum):
    mpc = pendulum.mpc(learn=MASS)
    low = starts(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solution = mpc(low, u_init=torch.zeros(19, 1, dtype=torch.bfloat16))
        assert mpc(starts()).u.dtype == torch.float64
    assert torch.equal(solution.u, pendulum.mpc()(low.float()).u)
    with pytest.raises(DtypeError, match="bfloat16"):
        mpc(low)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(pendulum, mode):
    mpc, kept = pendulum.mpc(learn=EVERY_KIND), []

    def keep(value):
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        with mode():
            solution = mpc(starts().requires_grad_())
        assert not kept
        assert not solution.u.requires_grad
        assert torch.equal(mpc(starts()).u, solution.u)
        assert kept


def test_gradients_of_states_only_or_parameters_only(pendulum):
    mpc, x0 = pendulum.mpc(learn=["mass"]), starts().requires_grad_()
    by_x0, by_mass = gradient(mpc, x0, x0, mpc.mass)
    assert torch.equal(gradient(mpc, starts(), mpc.mass)[0], by_mass)
    mpc.requires_grad_(False)
    assert torch.equal(gradient(mpc, x0, x0)[0], by_x0)
    assert not mpc(starts()).u.requires_grad


def test_functional_call_replaces_learned_values(pendulum):
    mpc = pendulum.mpc(learn={"mass": "positive", "length": None})
    names = {"parametrizations.mass.original": tensor(1.5).log(), "length": tensor(1.2)}
    solution = torch.func.functional_call(mpc, names, (starts(),))
    assert torch.equal(solution.u, pendulum.mpc()(starts(), mass=tensor(1.5).log().exp(), length=1.2).u)
    assert mpc.length.item() == 1.0


def test_ensembles_of_controllers_by_vmap(pendulum):
    # copies, since torch gives each module with a parametrization a class of its own, and stacks only like classes
    original = pendulum.mpc(learn=MASS)
    members = [copy.deepcopy(original) for _ in range(3)]
    for member, mass in zip(members, (0.8, 1.0, 1.3), strict=True):
        member.mass = tensor(mass)
    parameters, buffers = torch.func.stack_module_state(members)

    def member_loss(values, buffers):
        return torch.func.functional_call(members[0], (values, buffers), (starts(),)).u.square().sum()

    together = torch.func.vmap(torch.func.grad(member_loss))(parameters, buffers)
    (name,) = together
    for found, mpc in zip(together[name], members, strict=True):
        (alone,) = gradient(mpc, starts(), *mpc.parameters())
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=0)


def test_compiled_policies_train_learned_parameters(pendulum):
    policy = Policy(pendulum.mpc(learn=MASS)).double()
    parameters = list(policy.parameters())
    compiled = torch.compile(policy, fullgraph=True, backend="aot_eager")
    plain = torch.autograd.grad(policy(starts()).square().sum(), parameters)
    traced = torch.autograd.grad(compiled(starts()).square().sum(), parameters)
    for found, expected in zip(traced, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_exported_policies_carry_learned_parameters(pendulum):
    policy = Policy(pendulum.mpc(learn=MASS)).double()
    exported = torch.export.export(policy, (starts(),))
    assert "mpc.parametrizations.mass.original" in exported.state_dict
    assert torch.equal(exported.module()(starts()), policy(starts()))

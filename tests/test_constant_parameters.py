"""Parameters per stage that come with one value for all stages: kept once, with the gradient summed over the stages."""

from dataclasses import dataclass

import pytest
import torch
from controllers import example

import mpcgen
from mpcgen.problem.spec import Spec

# torch's own warning, at the first use of forward mode in a process
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

HORIZON, BATCH = 7, 12


@dataclass(frozen=True)
class ReferenceExample:
    """The plain-PyTorch algorithm in the place of a compiled controller."""

    spec: Spec

    def mpc(self, **options):
        return mpcgen.reference.MPC(self.spec, **options)


@pytest.fixture(scope="module")
def lq():
    """A controller of x' = F (x, u), N = 7; starts; the parameters, each one value for all stages."""
    case = example("lqr")
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    values = {
        "C": torch.eye(6, dtype=torch.float64) + 0.1,
        "c": torch.linspace(-0.3, 0.2, 6, dtype=torch.float64),
        "F": torch.cat([torch.eye(3, dtype=torch.float64), torch.zeros(3, 3)], dim=1) + 0.2 * normal,
        "f": torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64),
        "lower": torch.full((3,), -0.4, dtype=torch.float64),
        "upper": torch.full((3,), 0.4, dtype=torch.float64),
    }
    return case, case.starts(BATCH, 5), values


def with_stages(case, values):
    """The same values with an axis of stages."""
    stages = {p.name: p.stages(HORIZON) for p in case.spec.parameters}
    return {name: value.expand(stages[name], *value.shape).clone() for name, value in values.items()}


def loss_and_gradients(case, x0, values, **options):
    """A random linear loss in x, u and cost, and its gradients."""
    leaves = {"x0": x0.clone().requires_grad_()} | {k: v.clone().requires_grad_() for k, v in values.items()}
    given = {name: leaf for name, leaf in leaves.items() if name != "x0"}
    solution = case.mpc(tol=1e-11, **options)(leaves["x0"], horizon=HORIZON, **given)
    generator = torch.Generator().manual_seed(9)
    parts = [solution.x, solution.u, solution.cost]
    loss = sum((torch.randn(p.shape, generator=generator, dtype=p.dtype) * p).sum() for p in parts)
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return solution, dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize("batch", [1, BATCH])
def test_one_value_for_all_stages_is_the_same_value_at_each(lq, batch):
    case, x0, values = lq
    once, gradients = loss_and_gradients(case, x0[:batch], values)
    each, gradients_each = loss_and_gradients(case, x0[:batch], with_stages(case, values))
    assert torch.equal(once.u, each.u) and torch.equal(once.cost, each.cost)
    assert (once.u.abs() == 0.4).any() and (once.u.abs() < 0.4).any()
    assert torch.equal(gradients["x0"], gradients_each["x0"])
    for name in values:
        expected = gradients_each[name].sum(0)
        assert gradients[name].shape == values[name].shape
        assert gradients[name].numpy() == pytest.approx(expected.numpy(), rel=1e-10, abs=1e-11), name


def test_a_cold_start_goes_to_the_policy_without_bounds_clipped_to_them(lq):
    case, x0, values = lq
    bounds = {name: values[name] for name in ("lower", "upper")}
    free = case.mpc()(x0, horizon=HORIZON, **{k: v for k, v in values.items() if k not in bounds})
    x, controls = x0, []
    for t in range(HORIZON):
        u = free.u[:, t] + torch.einsum("bij,bj->bi", free.gains[:, t], x - free.x[:, t])
        controls.append(u.clamp(-0.4, 0.4))
        x = torch.cat([x, controls[-1]], 1) @ values["F"].T + values["f"]
    clipped = torch.stack(controls, 1)
    assert (clipped.abs() == 0.4).any(dim=(1, 2)).sum() > BATCH / 2
    once = case.mpc(max_iterations=1, on_unconverged="ignore")
    first = once(x0, horizon=HORIZON, **values)
    share = (first.u * clipped).sum((1, 2)) / clipped.square().sum(
        (1, 2)
    )  # of the way, beyond whose end is no more
    assert first.u.numpy() == pytest.approx((share[:, None, None] * clipped).numpy(), abs=1e-12)
    assert (share <= 1 + 1e-12).all() and (share > 1 - 1e-12).sum() > BATCH / 2
    zeros = torch.zeros(HORIZON, 3, dtype=torch.float64)
    assert torch.equal(once(x0, u_init=zeros, horizon=HORIZON, **values).u, first.u)
    none = case.mpc(max_iterations=0, on_unconverged="ignore")(x0, horizon=HORIZON, **values)
    held = none.gains.abs().sum(-1) == 0
    assert held.any()  # of a call without iterations gains are those within the bounds


def test_a_policy_without_bounds_that_overflows_is_found_within_them(lq):
    case, _, _ = lq
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(32, 2, 2, generator=generator, dtype=torch.float64)
    F = torch.zeros(32, 3, 6, dtype=torch.float64)
    F[:, :2, :2] = (
        8 * A / torch.linalg.eigvals(A).abs().amax(-1)[:, None, None]
    )  # 8^20 squared: float32 ends at 1e38
    F[:, :2, 3] = torch.randn(32, 2, generator=generator, dtype=torch.float64)
    C = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1e-3, 1.0, 1.0]))  # the farther the better
    x0 = torch.randn(32, 3, generator=generator, dtype=torch.float64).float()
    one = torch.ones(3)
    systems = F.float()[:, None].expand(32, 20, 3, 6)
    solution = case.mpc(on_unconverged="ignore")(x0, horizon=20, C=C, F=systems, lower=-one, upper=one)
    assert solution.converged.all() and (solution.u[..., 0].abs() == 1).all()


def test_a_single_parameter_with_stages_gives_them_to_all(lq):
    case, x0, values = lq
    mixed = values | {"c": with_stages(case, values)["c"]}
    once, gradients = loss_and_gradients(case, x0, values)
    some, gradients_mixed = loss_and_gradients(case, x0, mixed)
    assert torch.equal(once.u, some.u)
    assert gradients_mixed["c"].shape == (HORIZON + 1, 6)
    assert gradients_mixed["F"].numpy() == pytest.approx(gradients["F"].numpy(), rel=1e-10, abs=1e-11)


@pytest.mark.parametrize("way", ["unrolled", "smoothed", "barrier", "reference"])
def test_every_other_way_to_a_gradient_reads_one_value_at_every_stage(lq, way):
    case, x0, values = lq
    options = {
        "unrolled": {"gradient": "unrolled", "unroll": 2, "problem": case.spec},
        "smoothed": {"smoothing": 1e-2},
        "barrier": {"smoothing": 1e-2, "smooth": "solve"},
        "reference": {},
    }[way]
    if way == "reference":
        case = ReferenceExample(case.spec)
    _, gradients = loss_and_gradients(case, x0[:3], values, **options)
    _, gradients_each = loss_and_gradients(case, x0[:3], with_stages(case, values), **options)
    for name in values:
        expected = gradients_each[name].sum(0)
        assert gradients[name].numpy() == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-9), name


def test_forward_mode_along_one_value_is_that_along_the_same_value_at_each_stage(lq):
    case, x0, values = lq
    generator = torch.Generator().manual_seed(2)
    changes = {name: torch.randn(v.shape, generator=generator, dtype=v.dtype) for name, v in values.items()}
    controller = case.mpc(tol=1e-11)

    def controls(given):
        return controller(x0, horizon=HORIZON, **given).u

    _, once = torch.func.jvp(controls, (values,), (changes,))
    _, each = torch.func.jvp(controls, (with_stages(case, values),), (with_stages(case, changes),))
    assert torch.equal(once, each)
    assert once.abs().max() > 0.1


def test_vmap_over_values_gives_each_problem_its_own(lq):
    case, x0, values = lq
    scales = torch.linspace(0.7, 1.1, 3, dtype=torch.float64)
    systems = scales[:, None, None] * values["F"]
    controller = case.mpc(tol=1e-11)

    def controls(system):
        return controller(x0, horizon=HORIZON, **values | {"F": system}).u

    expected = torch.stack([controls(system) for system in systems])
    found, jacobian = torch.vmap(controls)(systems), torch.vmap(torch.func.jacrev(controls))(systems)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-9)
    assert jacobian[1].numpy() == pytest.approx(torch.func.jacrev(controls)(systems[1]).numpy(), abs=1e-7)


def test_what_is_computed_from_a_solution_reads_one_value_at_every_stage(lq):
    case, x0, values = lq
    controller = case.mpc()
    once = controller(x0, horizon=HORIZON, **values)
    each = controller(x0, horizon=HORIZON, **with_stages(case, values))
    assert torch.equal(once.multipliers, each.multipliers)
    assert torch.equal(once.active, each.active)
    assert once.multipliers.shape == (BATCH, HORIZON, 3)


def test_a_value_without_an_axis_of_stages_goes_the_short_way_unchanged(lq):
    """No copy per stage is made: the kernel reads the tensor that was given."""
    case, x0, values = lq
    controller = case.mpc()
    with torch.no_grad():
        controller(x0, horizon=HORIZON, **values)
    assert any(known is not None for known in controller.direct._known.values())

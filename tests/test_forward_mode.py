"""Forward mode: beside reverse mode, beside differences of solutions, and as a feedback gain."""

import functools

import pytest
import torch
from controllers import (
    NONLINEAR,
    Example,
    differentiate,
    example,
    leaves,
    random_lq,
    scalar_problem,
    with_bound_parameters,
)
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jacfwd, jacrev, jvp, vmap

from mpcgen.calls import kernels

# torch's own decompositions for forward mode are scripted at their first use
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

STEP = 1e-6  # of central differences; their truncation is of the order of its square
MARGIN = 1e-4  # a hundred steps: nearer to switching, the two ends may not have the same active set

CASES = {
    **{name: functools.partial(example, name) for name in (*NONLINEAR, "lqr", "quadrotor")},
    **{f"{name}_bounds": functools.partial(with_bound_parameters, name) for name in NONLINEAR},
    "scalar_problem": scalar_problem,
}
TIGHT = {"pendulum_bounds": 2.0, "cartpole_bounds": 5.0, "car_bounds": torch.tensor([0.7, 0.12])}


def problem_inputs(name: str, count: int, seed: int = 0) -> tuple[Example, dict[str, Tensor]]:
    """A case and its x0 and parameters, each (count, ...); bounds tight enough that some are active."""
    case = CASES[name]()
    given = case.values(seed)
    if name in TIGHT:
        bound = torch.as_tensor(TIGHT[name], dtype=torch.float64).expand(len(case.spec.controls))
        given |= {"lower": -bound, "upper": bound}
    if name == "lqr":
        wide = torch.ones(3, dtype=torch.float64)
        given |= {"lower": -0.4 * wide, "upper": torch.tensor([0.1, 0.4, 0.7], dtype=torch.float64)}
    values = leaves(case, count, given)
    return case, {"x0": case.starts(count, seed), **{k: v.detach() for k, v in values.items()}}


def outputs(mpc: torch.nn.Module, inputs: dict[str, Tensor], **options) -> tuple[Tensor, Tensor, Tensor]:
    """x, u and cost as a function of x0 and parameters by name."""
    solution = mpc(inputs["x0"], **{k: v for k, v in inputs.items() if k != "x0"}, **options)
    return solution.x, solution.u, solution.cost


def random_like(inputs: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A random direction: N(0, 1) times each entry's size, or a tenth; zero for an infinite bound."""
    generator = torch.Generator().manual_seed(seed)
    scale = {k: v.abs().clamp(min=0.1).where(v.isfinite(), 0.0) for k, v in inputs.items()}
    return {k: s * torch.randn(s.shape, generator=generator, dtype=torch.float64) for k, s in scale.items()}


def active_shares(case: Example, mpc: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Per problem: the share of controls at a bound, and the strict-complementarity margin.

    The margin is the least of the multipliers at bounds and of the distances of the others from their bounds.
    """
    solution = mpc(inputs["x0"], **{k: v for k, v in inputs.items() if k != "x0"})
    parameters = tuple(inputs[p.name] for p in case.spec.parameters)
    slope, lower, upper, *_ = kernels.examine(
        mpc.controller, solution.x, solution.u, solution.status, parameters
    )
    low, high = (solution.u - slope <= lower), (solution.u - slope >= upper)
    slack = torch.minimum(solution.u - lower, upper - solution.u)
    margin = torch.where(low | high, slope.abs(), slack)
    return (low | high).double().mean((1, 2)), margin.amin((1, 2))


@pytest.mark.parametrize("name", CASES)
def test_forward_and_reverse_mode_give_the_same_jacobian(name):
    """Full Jacobians of x, u and cost by x0 and every parameter, bounds and per-stage ones included."""
    case, batch = problem_inputs(name, 1)
    one = {k: v[0] for k, v in batch.items()}
    function = functools.partial(outputs, case.mpc())
    forward, reverse = jacfwd(function)(one), jacrev(function)(one)
    for label, ahead, back in zip(("x", "u", "cost"), forward, reverse, strict=True):
        whole = max(float(torch.linalg.vector_norm(v)) for v in back.values())
        for key in one:
            error = torch.linalg.vector_norm(ahead[key] - back[key])
            # below 1e-6 of the whole a gradient has cancelled the digits that a relative error would measure
            scale = max(float(torch.linalg.vector_norm(back[key])), 1e-6 * whole)
            assert error <= 1e-10 * scale, (label, key, float(error), scale)


@pytest.mark.parametrize("name", CASES)
def test_a_tangent_and_a_cotangent_meet_in_the_same_number_in_either_mode(name):
    """<w, J v> of forward mode is <J' w, v> of reverse mode, problem by problem in a batch."""
    count = 2 if name == "quadrotor" else 21
    case, inputs = problem_inputs(name, count, seed=3)
    direction = random_like(inputs, 1)
    found, changes = jvp(functools.partial(outputs, case.mpc()), (inputs,), (direction,))
    given = {k: v.clone().requires_grad_() for k, v in inputs.items() if k != "x0"}
    done = differentiate(case.mpc(), inputs["x0"], given)
    assert torch.equal(found[1], done.solution.u)
    forward = sum((w * d).reshape(count, -1).sum(1) for w, d in zip(done.cotangents, changes, strict=True))
    terms = torch.cat([(done.gradients[k] * v).reshape(count, -1) for k, v in direction.items()], 1)
    assert ((forward - terms.sum(1)).abs() <= 1e-10 * terms.abs().sum(1)).all()


@pytest.mark.parametrize("name", ["car_bounds", "lqr"])
def test_a_tangent_of_some_inputs_only_is_one_with_zeros_for_the_others(name):
    case, inputs = problem_inputs(name, 9, seed=1)
    mpc, direction = case.mpc(), random_like(inputs, 2)
    total = None
    for key in inputs:
        with forward_ad.dual_level():
            dual = inputs | {key: forward_ad.make_dual(inputs[key], direction[key])}
            parts = [forward_ad.unpack_dual(out) for out in outputs(mpc, dual)]
            alone = [torch.zeros_like(p.primal) if p.tangent is None else p.tangent for p in parts]
        zeros = {k: torch.zeros_like(v) for k, v in inputs.items()}
        _, same = jvp(functools.partial(outputs, mpc), (inputs,), (zeros | {key: direction[key]},))
        assert all(torch.equal(a, b) for a, b in zip(alone, same, strict=True)), key
        total = alone if total is None else [a + b for a, b in zip(total, alone, strict=True)]
    _, together = jvp(functools.partial(outputs, mpc), (inputs,), (direction,))
    for a, b in zip(total, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


def test_a_problem_without_a_solution_has_a_tangent_of_zero_and_leaves_its_neighbours_alone(cartpole):
    x0 = cartpole.starts(11, 0)
    spoiled = x0.clone()
    spoiled[4, 1] = float("nan")
    mpc = cartpole.mpc(on_unconverged="ignore")
    _, changes = jvp(lambda s: outputs(mpc, {"x0": s}), (spoiled,), (torch.ones_like(x0),))
    _, clean = jvp(lambda s: outputs(mpc, {"x0": s}), (x0,), (torch.ones_like(x0),))
    others = torch.arange(11) != 4
    for change, whole in zip(changes, clean, strict=True):
        assert (change[4] == 0).all()
        assert torch.equal(change[others], whole[others])


@pytest.mark.parametrize("name", [*NONLINEAR, "lqr", "pendulum_bounds", "car_bounds"])
def test_the_first_feedback_gain_is_the_derivative_of_the_first_control_by_the_start(name):
    case, inputs = problem_inputs(name, 16, seed=2)
    mpc = case.mpc(tol=1e-11)
    parameters = {k: v for k, v in inputs.items() if k != "x0"}

    def first_control(x0: Tensor, values: dict[str, Tensor]) -> Tensor:
        return mpc(x0, **values).u[0]

    slope = vmap(jacfwd(first_control))(inputs["x0"], parameters)
    gain = mpc(inputs["x0"], **parameters).gains[:, 0]
    _, margin = active_shares(case, mpc, inputs)
    clear = margin > MARGIN
    assert clear.sum() >= 12
    difference = torch.linalg.matrix_norm(slope - gain)[clear]
    assert (difference <= 1e-6 * torch.linalg.matrix_norm(gain)[clear].clamp(min=1e-3)).all(), (
        difference.max()
    )


def random_bounded(name: str, count: int) -> tuple[Example, dict[str, Tensor]]:
    """Random starts, with physical parameters and weights varied by up to a tenth, within tight bounds."""
    case, inputs = problem_inputs(name, count, seed=11)
    generator = torch.Generator().manual_seed(12)
    for key, value in inputs.items():
        if key not in ("x0", "lower", "upper"):
            spread = 2 * torch.rand(value.shape, generator=generator, dtype=torch.float64) - 1
            inputs[key] = value * (1 + 0.1 * spread)
    return case, inputs


@pytest.mark.parametrize(
    "name, count", [("pendulum_bounds", 500), ("cartpole_bounds", 250), ("car_bounds", 250)]
)
def test_tangents_point_where_differences_of_solutions_point(name, count, record_property):
    """1,000 random problems in all, a fifth of the controls or more at bounds; cosine at least 0.999999."""
    case, inputs = random_bounded(name, count)
    mpc = case.mpc(tol=1e-11, on_unconverged="ignore", max_iterations=400)
    share, margin = active_shares(case, mpc, inputs)
    direction = random_like(inputs, 13)
    (_, u, _), (d_x, d_u, _) = jvp(functools.partial(outputs, mpc), (inputs,), (direction,))
    ends = []
    for sign in (-1, 1):
        moved = {k: v + sign * STEP * direction[k] for k, v in inputs.items()}
        ends.append(mpc(moved.pop("x0"), u_init=u, **moved))
    solved = (ends[0].status == 0) & (ends[1].status == 0) & (d_u != 0).any(2).any(1)
    weak = ~(margin > MARGIN)
    record_property("weakly_active", int(weak.sum()))
    record_property("active_share", float(share.mean()))
    assert share.mean() >= 0.2
    assert (solved & ~weak).sum() >= 0.8 * count
    own = torch.cat([d_x.flatten(1), d_u.flatten(1)], 1)
    high, low = (torch.cat([end.x.flatten(1), end.u.flatten(1)], 1) for end in reversed(ends))
    cosine = torch.cosine_similarity(own, high - low, dim=1)[solved & ~weak]
    assert cosine.min() >= 0.999999, (float(cosine.min()), int((cosine < 0.999999).sum()))


def test_changes_of_a_linear_quadratic_solution_are_those_of_its_batch_of_one(lqr):
    """The single and the vector kernel of forward mode, and shared changes beside changes of each problem's own."""
    values = random_lq(3, 3, lqr.spec.horizon, 4)
    x0 = lqr.starts(9, 4)
    direction = random_like(values, 5)
    mpc = lqr.mpc()
    _, (d_x, d_u, d_cost) = jvp(lambda v: outputs(mpc, {"x0": x0, **v}), (values,), (direction,))
    for b in range(9):
        _, one = jvp(lambda v, b=b: outputs(mpc, {"x0": x0[b], **v}), (values,), (direction,))
        for whole, single in zip((d_x, d_u, d_cost), one, strict=True):
            torch.testing.assert_close(whole[b], single, rtol=1e-10, atol=1e-12)

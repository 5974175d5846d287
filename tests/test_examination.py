"""What a solution tells about itself: multipliers, bounds, active set, margin, convergence history."""

import math
import pickle

import pytest
import torch
from controllers import Example, scalar_problem, with_bound_parameters
from torch import Tensor

import mpcgen
from mpcgen.autograd.origin import ExaminationError
from mpcgen.errors import ParameterError
from mpcgen.runtime.status import UnconvergedWarning

Status = mpcgen.Status


@pytest.fixture(scope="module")
def scalar() -> Example:
    return scalar_problem()


def start(*values: float) -> Tensor:
    """(len(values), 1) initial states of the scalar problem."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bits, NaN being NaN."""
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


# --- multipliers, bounds, active set, margin ---------------------------------------------------------------------


def test_the_multiplier_of_an_active_bound_is_the_gradient_of_the_cost(car):
    case = with_bound_parameters("car")
    x0 = car.starts(32, 0)
    lower = torch.tensor([-1.0, -0.3], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([0.8, 0.2], dtype=torch.float64).expand(32, 60, 2).clone().requires_grad_()
    solution = case.mpc(tol=1e-12)(x0, lower=lower, upper=upper)
    g_lower, g_upper = torch.autograd.grad(solution.cost.sum(), (lower, upper))
    active, force = solution.active, solution.multipliers
    assert (active == 1).sum() > 100 and (active == -1).sum() > 100
    assert torch.equal(g_upper != 0, active == 1)
    # the gradient adds dL/du du/dbound of the free controls: the residual times slopes of up to 1e3
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(g_upper, force.where(active == 1, 0), **close)
    torch.testing.assert_close(g_lower, force.where(active == -1, 0).sum((0, 1)), **close)
    assert (force[active == 0].abs() <= 1e-8).all()


def test_the_active_set_is_where_controls_sit_on_their_bounds(car):
    solution = car.mpc()(car.starts(64, 0))
    assert solution.active.dtype == torch.int8
    assert torch.equal(solution.lower, torch.tensor([-2.0, -0.5], dtype=torch.float64).expand(64, 60, 2))
    assert torch.equal(solution.upper, -solution.lower)
    # strictly complementary but for the tolerance: nothing here is both at a bound and without a force
    assert solution.margin.min() > 1e-5
    assert torch.equal(solution.active == -1, solution.u == solution.lower)
    assert torch.equal(solution.active == 1, solution.u == solution.upper)


def test_the_margin_vanishes_where_the_active_set_switches(car):
    mpc, ends = car.mpc(tol=1e-12), car.starts(64, 0)
    actives = mpc(ends).active.flatten(1)
    first = next(b for b in range(1, 64) if not torch.equal(actives[b], actives[0]))
    near, far = ends[0], ends[first]
    for _ in range(45):  # halvings: the switch lies between the two, which end 2^-45 of their distance apart
        middle = (near + far) / 2
        if torch.equal(mpc(middle).active.flatten(), mpc(near).active.flatten()):
            near = middle
        else:
            far = middle
    assert mpc(near).margin < 1e-9
    assert mpc(ends[0]).margin > 1e-3


def test_the_margin_is_the_least_force_or_distance(pendulum):
    solution = pendulum.mpc()(pendulum.starts(64, 0))
    force, distance = solution.multipliers.abs(), 2 - solution.u.abs()
    expected = force.where(solution.active != 0, distance).amin((1, 2))
    assert torch.equal(solution.margin, expected)
    assert (solution.active != 0).any() and (solution.active == 0).any()


def test_controls_without_bounds_or_without_room_have_no_margin(scalar, lqr):
    solution = scalar.mpc()(start(0.1, -0.2))
    assert (solution.lower[..., 1] == -torch.inf).all() and (solution.upper[..., :2] == torch.inf).all()
    assert (solution.active[..., 2] != 0).all()  # w is fixed
    assert (solution.margins[..., 1:] == torch.inf).all()
    assert torch.equal(solution.margins[..., 0], solution.u[..., 0] + 1)
    free = lqr.mpc()(lqr.starts(3, 0), **lqr.values(0), lower=[-torch.inf] * 3, upper=[torch.inf] * 3)
    assert (free.margin == torch.inf).all() and (free.active == 0).all()


def test_problems_without_a_trajectory_have_no_margin(scalar):
    mpc = scalar.mpc(on_unconverged="ignore")
    solution = mpc(start(0.1, math.nan, 30.0), growth=torch.tensor([0, 0, 1], dtype=torch.float64))
    assert solution.margin.isnan().tolist() == [False, True, True]
    assert solution.multipliers[1:].isnan().all() and (solution.active[1:] == 0).all()
    assert torch.equal(solution.margin[0], mpc(start(0.1, 0.1)).margin[0])


def test_nothing_is_computed_unless_asked_for(car, monkeypatch):
    calls = []
    from mpcgen.calls import kernels

    examine = kernels.examine
    monkeypatch.setattr(kernels, "examine", lambda *a: calls.append(1) or examine(*a))
    solution = car.mpc()(car.starts(4, 0).requires_grad_())
    solution.cost.sum().backward()
    assert not calls
    for name in ("multipliers", "lower", "upper", "active", "margin"):
        assert not getattr(solution, name).requires_grad
    assert calls == [1]


# --- through transforms, compilation, pickling ---------------------------------------------------------------------


def test_a_solution_answers_inside_and_outside_of_vmap(car):
    mpc, x0 = car.mpc(history=True), car.starts(12, 0)
    base = torch.tensor([1.8, 2.0, 2.2], dtype=torch.float64)
    direct = mpc(x0.reshape(3, 4, 4), wheelbase=base[:, None])
    mapped = torch.vmap(lambda x, b: mpc(x, wheelbase=b))(x0.reshape(3, 4, 4), base)
    inside = torch.vmap(lambda x, b: mpc(x, wheelbase=b).margin)(x0.reshape(3, 4, 4), base)
    assert torch.equal(mapped.margin, direct.margin) and torch.equal(inside, direct.margin)
    assert torch.equal(mapped.active, direct.active)
    assert same(mapped.history.residual, direct.history.residual)
    other = torch.vmap(lambda x, b: mpc(x, wheelbase=b), out_dims=1)(x0.reshape(3, 4, 4), base)
    assert torch.equal(other.margin, direct.margin.T)
    shared = torch.vmap(mpc)(x0)
    assert torch.equal(shared.margin, mpc(x0).margin)


def test_a_solution_answers_under_grad(car):
    mpc, x0 = car.mpc(), car.starts(5, 0)

    def loss(x: Tensor) -> tuple[Tensor, object]:
        solution = mpc(x)
        return solution.u.square().sum(), (solution.margin, solution)

    _, (inside, solution) = torch.func.grad(loss, has_aux=True)(x0)
    assert torch.equal(inside, mpc(x0).margin) and torch.equal(solution.margin, inside)


def test_a_compiled_function_may_return_or_ask_a_solution(car):
    mpc, x0 = car.mpc(history=True), car.starts(5, 0)
    direct = mpc(x0)
    compiled = torch.compile(mpc, fullgraph=True, backend="eager")(x0)
    assert torch.equal(compiled.margin, direct.margin)
    assert same(compiled.history.cost, direct.history.cost)
    asked = torch.compile(lambda x: mpc(x).margin, fullgraph=True, backend="aot_eager")
    assert torch.equal(asked(x0), direct.margin)


def test_the_operators_keep_the_rules_of_torch(car):
    from mpcgen.autograd.examination import examine_flat, record_flat

    # too few passes to converge: padding of NaN would not equal itself
    mpc = car.mpc(max_iterations=2, on_unconverged="ignore")
    solution = mpc(car.starts(3, 0))
    parameters = list(solution.origin.parameters)
    found = (solution.x, solution.u, solution.status, solution.row_duals)
    torch.library.opcheck(examine_flat, (mpc.key, *found, parameters))
    start = solution.x[:, 0].clone()
    torch.library.opcheck(record_flat, (mpc.key, mpc.options_text, 60, start, *[None] * 4, parameters))


def test_a_solution_can_be_pickled(car):
    x0 = car.starts(5, 0).requires_grad_()
    solution = car.mpc(history=True)(x0, wheelbase=torch.tensor(2.1, dtype=torch.float64))
    again = pickle.loads(pickle.dumps(solution.detach()))
    assert torch.equal(again.u, solution.u) and torch.equal(again.margin, solution.margin)
    assert same(again.history.cost, solution.history.cost)
    assert not again.u.requires_grad


def test_a_batch_of_none_and_a_single_problem_answer_too(car):
    mpc = car.mpc(history=True)
    none, one = mpc(car.starts(2, 0)[:0]), mpc(car.starts(1, 0)[0])
    assert (
        none.margin.shape == (0,) and none.active.shape == (0, 60, 2) and none.history.cost.shape == (0, 201)
    )
    assert one.margin.shape == () and one.active.shape == (60, 2) and one.history.cost.shape == (201,)


def test_a_parameter_changed_in_place_is_noticed(car):
    base = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    early, late = (car.mpc()(car.starts(3, 0), wheelbase=base) for _ in range(2))
    margin = early.margin
    optimizer = torch.optim.SGD([base], lr=0.1)
    early.cost.sum().backward()
    optimizer.step()
    assert torch.equal(early.margin, margin)  # found before the step
    for broken in (late, late.detach()):
        with pytest.raises(ExaminationError, match="changed in place after the solve"):
            broken.margin  # noqa: B018


def test_a_solution_made_in_inference_mode_answers(car):
    with torch.inference_mode():
        solution = car.mpc()(car.starts(3, 0), wheelbase=torch.tensor(2.0, dtype=torch.float64))
    assert torch.equal(solution.margin, car.mpc()(car.starts(3, 0)).margin)


def test_the_reference_solver_does_not_know_its_bounds(pendulum):
    solution = mpcgen.reference.MPC(pendulum.spec, tol=1e-4)(pendulum.starts(2, 0))
    with pytest.raises(ExaminationError, match="only solutions of a generated controller"):
        solution.active  # noqa: B018
    report = mpcgen.diagnose(solution)
    assert "generated controller" in report.unexamined and "bounds: not examined" in str(report)


# --- history -------------------------------------------------------------------------------------------------------


def test_the_history_ends_at_the_solution(cartpole):
    x0 = cartpole.starts(32, 0)
    solution = cartpole.mpc(history=True, max_iterations=60)(x0)
    cost, residual = solution.history.cost, solution.history.residual
    assert cost.shape == residual.shape == (32, 61)
    passes = torch.arange(61) <= solution.iterations[:, None]
    assert torch.equal(cost.isfinite(), passes) and torch.equal(residual.isfinite(), passes)
    last = solution.iterations[:, None].long()
    assert torch.equal(residual.gather(1, last)[:, 0], solution.residual)
    assert torch.equal(cost.gather(1, last)[:, 0], solution.cost)
    assert (residual[:, 0] > 1e-8).all()
    rest = cartpole.mpc(max_iterations=0, on_unconverged="ignore")(x0)
    assert torch.equal(cost[:, 0], rest.cost) and torch.equal(residual[:, 0], rest.residual)


def test_recording_changes_nothing_and_says_nothing_twice(cartpole):
    x0, u_init = cartpole.starts(8, 0), torch.full((8, 24, 1), 0.5, dtype=torch.float64)
    plain = cartpole.mpc(max_iterations=3, on_unconverged="ignore")(x0, u_init=u_init)
    mpc = cartpole.module.MPC(max_iterations=3, history=True)
    with pytest.warns(UnconvergedWarning) as record:
        solution = mpc(x0.requires_grad_(), u_init=u_init)
    assert len(record) == 1
    assert plain.history is None
    assert torch.equal(plain.u, solution.u) and not solution.history.cost.requires_grad
    assert torch.equal(solution.history.residual[:, 3], plain.residual)


def test_history_is_true_or_false(car):
    with pytest.raises(ParameterError, match="history='yes'; True or False is expected"):
        car.module.MPC(history="yes")


# --- solutions that were changed, problems that were not solved ----------------------------------------------------


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("part", ["x", "u", "status"])
def test_a_solution_changed_in_place_is_noticed(car, part, grad):
    early, late = (car.mpc()(car.starts(3, 0).requires_grad_(grad)) for _ in range(2))
    margin = early.margin
    for solution in (early, late):
        getattr(solution, part).detach()[0] += 1
    assert torch.equal(early.margin, margin)  # found before the change
    with pytest.raises(ExaminationError, match=rf"sol\.{part} was changed in place after the solve"):
        late.multipliers  # noqa: B018
    with pytest.raises(ExaminationError, match="changed in place"):
        late.detach().active  # noqa: B018


def test_what_a_solution_hands_out_of_its_parameters_is_a_copy(pendulum):
    """Those of omitted parameters serve every later call of the process."""
    mpc, x0 = pendulum.mpc(), pendulum.starts(3, 0)
    for start in (x0, x0.clone().requires_grad_()):
        solution = mpc(start)
        expected, multipliers = solution.u.detach().clone(), mpc(start).multipliers
        leaves = torch.utils._pytree.tree_leaves(solution)[len(vars(solution)) :]
        for handed_out in (solution.origin.parameters, solution.detach().origin.parameters, leaves):
            assert len(handed_out) == 5
            for parameter in handed_out:
                parameter.mul_(3)
        assert torch.equal(mpc(start).u, expected)
        assert torch.equal(solution.multipliers, multipliers)


def test_a_mean_over_the_problems_that_were_solved(scalar):
    x0 = start(0.1, 30.0, math.nan, -0.2).requires_grad_()
    solution = scalar.mpc(on_unconverged="ignore")(x0, growth=1.0)
    assert solution.converged.tolist() == [True, False, False, True]
    assert solution.u.mean().isnan()
    alone = scalar.mpc()(x0[::3], growth=1.0)
    (expected,) = torch.autograd.grad(alone.u.mean(), x0)
    for mean in (solution.u[solution.converged].mean(), 2 * solution.where_converged().u.mean()):
        torch.testing.assert_close(mean, alone.u.mean(), rtol=1e-12, atol=0)
        (found,) = torch.autograd.grad(mean, x0, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_where_converged_keeps_shapes_and_flags_and_leaves_solved_problems_alone(scalar):
    solution = scalar.mpc(on_unconverged="ignore")(start(0.1, 30.0, -0.2), growth=1.0)
    masked = solution.where_converged(7.0)
    for name, value in vars(masked).items():
        before = getattr(solution, name)
        assert torch.equal(value[::2], before[::2]) and value.shape == before.shape
        assert not value.is_floating_point() or (value[1] == 7).all()
    assert torch.equal(masked.status, solution.status)
    with pytest.raises(ExaminationError, match="where_converged has put numbers in that solve nothing"):
        masked.multipliers  # noqa: B018
    with pytest.raises(ExaminationError):
        pickle.loads(pickle.dumps(masked)).multipliers  # noqa: B018

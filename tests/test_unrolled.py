"""``gradient="unrolled"``: against the exact gradient, the reference solver's own unrolling, and its refusals."""

import dataclasses
import pickle

import pytest
import torch
from controllers import Example, differentiate, leaves

from mpcgen import reference
from mpcgen.autograd.solution import Solution
from mpcgen.errors import ParameterError
from mpcgen.problem.spec import Spec

COUNT = 4
TIGHT = 1e-11  # KKT residual


@pytest.fixture(autouse=True)
def one_thread():
    """Nothing here is large enough to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unrolled(case: Example, k: int, **options) -> torch.nn.Module:
    return case.mpc(gradient="unrolled", unroll=k, problem=case.spec, **options)


def errors(own: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> torch.Tensor:
    """Relative Euclidean error of each problem's gradient, (count,)."""
    mine, theirs = (
        torch.cat([g.reshape(len(g), -1) for g in gradients.values()], dim=1) for gradients in (own, expected)
    )
    return (mine - theirs).norm(dim=1) / theirs.norm(dim=1)


def same_numbers(one: Solution, other: Solution) -> bool:
    names = ("x", "u", "cost", "status", "iterations", "residual", "costates", "gains")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


# ---- problems with a fixed point ----


@pytest.mark.parametrize("bound", [float("inf"), 0.2])
@pytest.mark.parametrize("k", [1, 3])
def test_iterations_of_a_linear_quadratic_problem_have_the_exact_gradient(lqr, k, bound):
    given = lqr.values(3) | {"lower": torch.tensor(-bound), "upper": torch.tensor(bound)}
    x0, parameters = lqr.starts(COUNT, 3), leaves(lqr, COUNT, {n: v.double() for n, v in given.items()})
    exact = differentiate(lqr.mpc(tol=TIGHT), x0, parameters)
    own = differentiate(unrolled(lqr, k, tol=TIGHT), x0, parameters)
    assert same_numbers(own.solution, exact.solution)
    assert exact.solution.active.any() == (bound < 1)
    assert errors(own.gradients, exact.gradients).max() < 1e-9


def test_every_pass_more_multiplies_the_error_by_that_of_its_controls(cartpole):
    # E_{j+1} = c e_j E_j with c of order one for Newton's method, so the controls' error e one pass before the end
    # bounds the error of k = 1, and the controls' error two passes before it, below 0.1 here, the next factor.
    x0, parameters = cartpole.starts(COUNT, 3), leaves(cartpole, COUNT, {})
    exact = differentiate(cartpole.mpc(tol=TIGHT), x0, parameters, cost=False)
    passes = exact.solution.iterations
    before = torch.stack(
        [
            cartpole.mpc(tol=TIGHT, max_iterations=int(i) - 1, on_unconverged="ignore")(start).u
            for i, start in zip(passes, x0, strict=True)
        ]
    )
    e = (before - exact.solution.u.detach()).flatten(1).norm(dim=1)
    one, two, three = (
        errors(
            differentiate(unrolled(cartpole, k, tol=TIGHT), x0, parameters, cost=False).gradients,
            exact.gradients,
        )
        for k in (1, 2, 3)
    )
    assert (one < e).all() and (one > 1e-12).all()
    assert (two < 0.1 * one).all()
    assert (three < two).all()


def test_one_iteration_at_a_solution_is_the_implicit_function_theorem(nonlinear):
    x0, parameters = nonlinear.starts(COUNT, 3), leaves(nonlinear, COUNT, {})
    u_init = nonlinear.mpc(tol=TIGHT)(x0).u
    exact = differentiate(nonlinear.mpc(tol=TIGHT), x0, parameters)
    module = unrolled(nonlinear, 1, tol=TIGHT)
    own = differentiate(lambda *args, **given: module(*args, u_init=u_init, **given), x0, parameters)
    assert not own.solution.iterations.any()
    # A residual of r leaves an error of r / (smallest curvature, 1e-4 here) in the controls.
    assert errors(own.gradients, exact.gradients).max() < TIGHT / 1e-4


# ---- problems without one ----


@pytest.mark.parametrize("passes", [1, 2])
def test_stopped_early_it_is_the_derivative_of_the_reference_solvers_iterations(cartpole, passes):
    x0, parameters = cartpole.starts(16, 5), leaves(cartpole, 16, {})
    start = torch.full((16, 24, 1), 0.1, dtype=torch.float64, requires_grad=True)
    options = {"max_iterations": passes, "hessian": "gauss_newton", "on_unconverged": "ignore"}
    own = unrolled(cartpole, passes, **options)(x0, u_init=start, **parameters)
    expected = reference.MPC(cartpole.spec, **options)(x0, u_init=start, **parameters)
    same = ((own.u - expected.u).abs().flatten(1).amax(1) < 1e-9).nonzero()[:, 0]
    assert own.status.all() and len(same) >= 4
    weights = torch.randn(own.u[same].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = {"u_init": start, **parameters}
    found = [
        dict(
            zip(
                inputs,
                torch.autograd.grad(
                    (weights * sol.u[same]).sum() + sol.cost[same].sum(), list(inputs.values())
                ),
                strict=True,
            )
        )
        for sol in (own, expected)
    ]
    mine, theirs = ({name: g[same] for name, g in gradients.items()} for gradients in found)
    assert theirs["u_init"].abs().max() > 1e-3
    assert errors(mine, theirs).max() < 1e-7


def test_u_init_has_a_gradient_only_if_the_iterations_reach_it(cartpole):
    x0 = cartpole.starts(1, 5)
    start = torch.full((24, 1), 0.1, dtype=torch.float64, requires_grad=True)
    for k, reached in ((2, False), (3, True)):
        solution = unrolled(cartpole, k, max_iterations=3, on_unconverged="ignore")(x0, u_init=start)
        assert int(solution.iterations) == 3
        gradient = torch.autograd.grad(solution.u.sum(), start)[0]
        assert gradient.any() == reached


def test_a_problem_without_a_trajectory_leaves_a_shared_gradient_alone(cartpole):
    x0, mass = cartpole.starts(COUNT, 3), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    module = unrolled(cartpole, 1, on_unconverged="ignore")
    healthy = torch.autograd.grad((module(x0, mass_pole=mass).u ** 2).sum(), mass)[0]
    x0 = torch.cat([x0, torch.full_like(x0[:1], torch.nan)])
    solution = module(x0, mass_pole=mass)
    assert solution.u[-1].isnan().all()
    both = torch.autograd.grad((solution.u[:-1] ** 2).sum() + solution.u[-1].nan_to_num().sum(), mass)[0]
    torch.testing.assert_close(both, healthy, rtol=1e-12, atol=0)


# ---- refusals ----


def other_cartpole(spec: Spec) -> Spec:
    """The same names, but the cart moves twice as far."""
    rows = (spec.dynamics.expressions[0] * 2, *spec.dynamics.expressions[1:])
    return dataclasses.replace(spec, dynamics=dataclasses.replace(spec.dynamics, expressions=rows))


def test_the_options_are_checked(cartpole, pendulum):
    for given, message in (
        ({"unroll": 1}, "not carry; pass problem"),
        ({"unroll": 0, "problem": cartpole.spec}, "unroll=0"),
        ({"unroll": 1, "problem": pendulum.spec}, "not what cartpole was compiled from"),
        ({"unroll": 1, "problem": cartpole.spec, "smoothing": 1e-3}, "smoothing"),
        ({"unroll": 1, "problem": cartpole.spec, "unconverged_gradient": "keep"}, "unconverged_gradient"),
        ({"gradient": "exact", "unroll": 1}, "gradient='exact'"),
    ):
        with pytest.raises(ParameterError, match=message):
            cartpole.mpc(**{"gradient": "unrolled", **given})


def test_a_problem_of_the_same_names_but_other_dynamics_is_refused(cartpole):
    module = cartpole.mpc(gradient="unrolled", unroll=1, problem=other_cartpole(cartpole.spec))
    with pytest.raises(ParameterError, match="other dynamics"):
        module(cartpole.starts(2, 0).requires_grad_())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_and_forward_mode_are_refused(cartpole):
    module, x0 = unrolled(cartpole, 1), cartpole.starts(1, 0)[0]
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        with pytest.raises(ParameterError, match=r"torch\.func"):
            transform(lambda x: module(x).cost)(x0)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ParameterError, match="forward mode"):
        module(torch.autograd.forward_ad.make_dual(x0, x0))


# torch.compile looks at .grad of what a graph break hands on, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_it_survives_pickling_and_torch_compile_and_has_the_same_numbers_without_a_gradient(cartpole):
    module, x0 = unrolled(cartpole, 2), cartpole.starts(COUNT, 1)
    again = pickle.loads(pickle.dumps(module))
    assert again.unrolled == module.unrolled
    with torch.no_grad():
        assert same_numbers(module(x0), cartpole.mpc()(x0))
    gradients = []
    for each in (module, again, torch.compile(module, backend="eager")):
        start = x0.clone().requires_grad_()
        gradients += torch.autograd.grad(each(start).u.sum(), start)
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])

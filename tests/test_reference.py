"""The plain-PyTorch solver: against dense linear algebra and the generated controllers."""

import os
import subprocess
import sys
from functools import partial

import pytest
import sympy as sp
import torch
from controllers import EXAMPLES, Example, differentiate, example, leaves, random_lq, with_bound_parameters

import mpcgen
from mpcgen import Status, reference
from mpcgen.errors import ParameterError, ShapeError, UnconvergedError
from mpcgen.runtime import UnconvergedWarning

TIGHT = 1e-11  # KKT residual
# A residual of r leaves an error of at most about r / (smallest curvature) in the controls; the smallest weight
# of a control in the examples is 1e-3, and a tenth of that allows for the other curvature that a stage has.
CONTROL_ERROR = TIGHT / 1e-4


@pytest.fixture(autouse=True)
def one_thread():
    """Nothing here is large enough to share, and threads that wait for each other keep the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def twin(case: Example, **options) -> reference.MPC:
    """The reference solver of a compiled example; raises where anything does not converge, unless told so."""
    return reference.MPC(case.spec, **{"tol": TIGHT, "on_unconverged": "raise", **options})


def relative(own: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest relative Euclidean error of the gradients; one below 1e-6 of all of them counts as that."""
    whole = torch.cat([value.flatten() for value in expected.values()]).norm()
    return max(
        float((own[name] - value).norm() / value.norm().clamp(min=1e-6 * whole))
        for name, value in expected.items()
    )


def scalar_problem(name: str, stage_cost, dynamics=lambda x, u, w: x + u, terminal=None) -> mpcgen.Problem:
    """One state x, one control u, one parameter w = 1, bounds low = -1 and high = 1 as parameters, N = 3."""
    problem = mpcgen.Problem(name, horizon=3)
    (x,) = problem.states("x")
    low = problem.parameter("low", default=-1.0)
    high = problem.parameter("high", default=1.0)
    (u,) = problem.controls("u", lower=low, upper=high)
    w = problem.parameter("w", default=1.0)
    problem.dynamics = [dynamics(x, u, w)]
    problem.stage_cost = stage_cost(x, u, w)
    problem.terminal_cost = w * x**2 if terminal is None else terminal(x, w)
    return problem


def wavy(name: str = "wavy") -> mpcgen.Problem:
    return scalar_problem(
        name, lambda x, u, w: w * sp.cos(x) + u**2 / 2, lambda x, u, w: x + sp.sin(x + w * u) / 2
    )


# ---- solutions ----


@pytest.mark.parametrize(
    ("name", "hessian", "count"),
    [
        ("lqr", "exact", 16),
        ("lqr", "gauss_newton", 16),
        ("pendulum", "exact", 16),
        ("pendulum", "gauss_newton", 16),
        ("cartpole", "exact", 16),
        ("car", "exact", 8),
        ("quadrotor", "exact", 2),
    ],
)
def test_solutions_equal_those_of_the_generated_controller(name, hessian, count):
    case = example(name)
    x0, given = case.starts(count, 3), case.values(3)
    generated = case.mpc(tol=TIGHT)(x0, **given)
    own = twin(case, hessian=hessian, differentiable="none")(x0, **given)
    same = (own.cost - generated.cost).abs() <= 1e-8 * (1 + generated.cost.abs())
    assert same.double().mean() >= 0.9  # the others have found another local minimum
    assert (own.u - generated.u)[same].abs().max() <= CONTROL_ERROR
    for part in ("x", "costates"):
        ours, theirs = getattr(own, part)[same], getattr(generated, part)[same]
        assert (ours - theirs).abs().max() <= 10 * CONTROL_ERROR * (1 + theirs.abs().max())
    if hessian == "exact":
        assert (own.gains - generated.gains)[same].abs().max() <= 1e-6 * (1 + generated.gains.abs().max())


def dense_lqr(x0, C, c, F, f):
    """The unconstrained LQ problem (2) of the paper, controls eliminated, solved as one dense system."""
    N, n = F.shape[:2]
    m = F.shape[2] - n
    x, X = x0, x0.new_zeros(n, N * m)  # x_t = x + X u
    H, h = x0.new_zeros(N * m, N * m), x0.new_zeros(N * m)
    for t in range(N + 1):
        pick = torch.eye(N * m, dtype=x0.dtype)[t * m : (t + 1) * m]
        tau, T = torch.cat([x, x0.new_zeros(m)]), torch.cat([X, pick])
        size = n + m if t < N else n
        tau, T, C_t = tau[:size], T[:size], C[t, :size, :size]
        H, h = H + T.mT @ C_t @ T, h + T.mT @ (C_t @ tau + c[t, :size])
        if t < N:
            x, X = F[t] @ tau + f[t], F[t] @ T
    return -torch.linalg.solve(H, h).reshape(N, m)


@pytest.mark.parametrize("differentiable", ["unroll", "last"])
def test_one_iteration_solves_an_lq_problem_with_its_gradients(differentiable):
    problem = mpcgen.lqr(3, 2, horizon=4)
    data = {name: value.requires_grad_() for name, value in random_lq(3, 2, 4, seed=5).items()}
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    solution = reference.MPC(problem, differentiable=differentiable, hessian="gauss_newton")(x0, **data)
    dense = dense_lqr(x0, **data)
    inputs = [x0, *data.values()]
    own = torch.autograd.grad((weight * solution.u).sum(), inputs)
    expected = torch.autograd.grad((weight * dense).sum(), inputs)
    assert solution.iterations.item() == 1
    assert (solution.u - dense).abs().max() <= 1e-10
    for ours, theirs, value in zip(own, expected, inputs, strict=True):
        if value is data["C"]:  # a quadratic form sees the symmetric part only, and so do its derivatives
            ours, theirs = ours + ours.mT, theirs + theirs.mT
        assert (ours - theirs).norm() <= 1e-10 * (1 + theirs.norm())


def test_batches_horizons_stages_and_warm_starts_are_as_in_the_generated_controller():
    case = example("lqr")
    x0 = case.starts(2, 0)[:, None]  # (2, 1, 3)
    data = random_lq(3, 3, 7, seed=2, batch=(4,))
    lower = torch.full((3,), -0.4, dtype=torch.float64)
    start = torch.zeros(7, 3, dtype=torch.float64)
    upper = torch.full((4, 7, 3), 0.3, dtype=torch.float64)
    own, generated = (
        mpc(x0, **data, lower=lower, upper=upper, u_init=start) for mpc in (twin(case), case.mpc(tol=TIGHT))
    )
    assert own.x.shape == generated.x.shape == (2, 4, 8, 3)
    assert own.gains.shape == (2, 4, 7, 3, 3) and own.status.shape == (2, 4)
    assert (own.u - generated.u).abs().max() <= CONTROL_ERROR
    assert (own.u == -0.4).any() and (own.u == 0.3).any()
    with pytest.raises(ShapeError, match="lower"):
        twin(case)(x0, **data, lower=torch.zeros(2, dtype=torch.float64))


def test_float32_solves_to_its_own_precision():
    case = example("pendulum")
    x0 = case.starts(4, 0)
    single = reference.MPC(case.spec, on_unconverged="raise", differentiable="none")(x0.float())
    double = twin(case, differentiable="none")(x0)
    assert single.u.dtype == torch.float32
    assert (single.cost.double() - double.cost).abs().max() <= 1e-3 * (1 + double.cost.abs().max())


# ---- gradients ----


def gradients_beside(case: Example, count: int, gradient: str, warm: bool = False, **options) -> float:
    """Largest relative difference between the gradients of the two solvers, every parameter of each problem's.

    ``warm``: the reference starts from the generated controller's solution.
    """
    x0, given = case.starts(count, 2), case.values(2)
    theirs = differentiate(case.mpc(tol=TIGHT, gradient=gradient), x0, leaves(case, count, given))
    start = theirs.solution.u.detach() if warm else None
    ours = differentiate(partial(twin(case, **options), u_init=start), x0, leaves(case, count, given))
    assert (ours.solution.u - theirs.solution.u).abs().max() <= CONTROL_ERROR
    return relative(ours.gradients, theirs.gradients)


@pytest.mark.parametrize(("name", "count"), [("pendulum", 8), ("cartpole", 8), ("car", 3)])
def test_the_last_approximation_has_the_exact_gradient(name, count):
    """The bounds' too. Its error is the controls', 1e-7 at most."""
    assert gradients_beside(with_bound_parameters(name), count, "exact", differentiable="last") <= 1e-7


@pytest.mark.parametrize(("name", "count"), [("pendulum", 8), ("cartpole", 4), ("car", 3)])
def test_with_the_hessian_of_the_cost_the_last_approximation_is_the_papers_module_2(name, count):
    options = {"warm": True, "hessian": "gauss_newton", "differentiable": "last"}
    assert gradients_beside(example(name), count, "gauss_newton", **options) <= 1e-7


@pytest.mark.parametrize(("name", "count"), [("pendulum", 8), ("cartpole", 4)])
def test_unrolling_newtons_iterations_gives_the_exact_gradient(name, count):
    """Run to the limit of precision: the gradient's error E follows the controls' e, E_k = O(e_{k-1} E_{k-1}).

    One iteration after the residual has reached TIGHT, hence e <= 1e-7, that leaves 1e-7 of any E of order one.
    """
    options = {"differentiable": "unroll", "tol": 1e-300, "on_unconverged": "ignore"}
    assert gradients_beside(with_bound_parameters(name), count, "exact", **options) <= 1e-7


def unrolling_errors(case: Example, hessian: str, iterations: list[int]) -> tuple[list[float], list[float]]:
    """Errors of the controls and of the unrolled gradient after so many iterations from one start."""
    x0, parameters = case.starts(1, 1), leaves(case, 1, {})
    exact = differentiate(case.mpc(tol=TIGHT), x0, parameters)
    of_controls, of_gradient = [], []
    for k in iterations:
        mpc = twin(case, hessian=hessian, max_iterations=k, tol=1e-300, on_unconverged="ignore")
        found = differentiate(mpc, x0, parameters)
        of_controls.append(float((found.solution.u - exact.solution.u).detach().norm()))
        own, best = (torch.cat([g.flatten() for g in d.gradients.values()]) for d in (found, exact))
        of_gradient.append(float((own - best).norm() / best.norm()))
    return of_controls, of_gradient


def test_unrolled_gauss_newton_lags_behind_by_the_number_of_iterations():
    """The map z -> Phi(z, theta) contracts by rho: e_k ~ rho^k, but E_k = Phi_z E_{k-1} + O(e_{k-1}) ~ k rho^k."""
    iterations = [6, 9, 12]
    controls, gradient = unrolling_errors(example("pendulum"), "gauss_newton", iterations)
    ratios = [E / (k * e) for k, e, E in zip(iterations, controls, gradient, strict=True)]
    assert controls[2] < 1e-3 * controls[0]  # there is something to see: e_k falls by orders of magnitude
    assert max(ratios) <= 2 * min(ratios)


def test_unrolled_newton_converges_quadratically():
    """Phi_z = 0 at every solution, hence Phi_ztheta = -Phi_zz z', and E_k = O(e_{k-1} E_{k-1} + e_{k-1}²)."""
    _, (first, second, third) = unrolling_errors(example("cartpole"), "exact", [4, 5, 6])
    assert first < 1e-2 and second <= first**1.5 and third <= second**1.5  # no linear rate does that


@pytest.mark.parametrize("hessian", ["exact", "gauss_newton"])
def test_unrolling_is_the_derivative_of_the_iterations(hessian):
    """Stopped after two iterations, far from convergence: only the iterations' own derivative can match."""
    mpc = reference.MPC(wavy(), hessian=hessian, max_iterations=2, tol=1e-300, on_unconverged="ignore")

    def solve(x0, w, low, high, u_init):
        solution = mpc(x0, w=w, low=low, high=high, u_init=u_init)
        assert (solution.residual > 1e-4).all()
        assert (solution.u == low).any() and (solution.u == high).any()
        return solution.x, solution.u, solution.cost

    numbers = ([[1.2], [-0.4], [-1.1]], [1.3, 0.9, 1.5], -0.6, 0.9, [[0.1], [0.1], [-0.1]])
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in numbers]
    assert torch.autograd.gradcheck(solve, inputs)


def test_the_way_of_differentiating_does_not_change_the_numbers():
    case = example("pendulum")
    x0 = case.starts(4, 0).requires_grad_()
    unrolled, last, none = (twin(case, differentiable=how)(x0) for how in ("unroll", "last", "none"))
    assert torch.equal(unrolled.u, none.u) and torch.equal(last.u, none.u) and torch.equal(last.x, none.x)
    assert unrolled.u.requires_grad and last.u.requires_grad and not none.u.requires_grad


# ---- how problems end ----


def test_bad_members_of_a_batch_leave_the_others_alone():
    mpc = reference.MPC(wavy(), tol=1e-10, on_unconverged="ignore")
    nan, inf = torch.nan, torch.inf
    x0 = torch.tensor([[0.5], [nan], [0.3], [0.2], [-0.7]], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([1.0, 1.0, -2.0, 1.0, inf], dtype=torch.float64)  # the third is below the lower bound
    infinite = torch.tensor([False, False, False, True, False])
    w = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    solution = mpc(x0, high=high, w=torch.where(infinite, inf, w))
    bad = Status.INVALID_INPUT
    assert solution.status.tolist() == [0, bad, bad, bad, 0]
    assert solution.u[1:4].isnan().all() and solution.cost[1:4].isnan().all()
    good = [0, 4]
    alone = mpc(x0[good], high=high[good], w=w)
    assert (solution.u[good] - alone.u).abs().max() <= 1e-12
    grads, alone_grads = (
        torch.autograd.grad(loss, [x0, w]) for loss in (solution.u[good].sum(), alone.u.sum())
    )
    assert (grads[0] - alone_grads[0]).abs().max() <= 1e-12 and (grads[0][1:4] == 0).all()
    assert (grads[1] - alone_grads[1]).abs() <= 1e-12


@pytest.mark.parametrize("differentiable", ["unroll", "last"])
def test_a_shared_parameters_gradient_does_not_see_bad_members(differentiable):
    mpc = reference.MPC(wavy(), differentiable=differentiable, on_unconverged="ignore")
    w = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    sums = []
    for starts in ([0.5, torch.nan, 0.2], [0.5, 0.2]):
        solution = mpc(torch.tensor(starts, dtype=torch.float64)[:, None], w=w)
        sums.append(torch.autograd.grad(torch.where(solution.status == 0, solution.cost, 0.0).sum(), w)[0])
    assert sums[0].isfinite() and (sums[0] - sums[1]).abs() <= 1e-12


ENDS = {
    Status.DIVERGED: scalar_problem("overflows", lambda x, u, w: u**2, lambda x, u, w: sp.exp(1000 + x) + u),
    Status.NOT_A_MINIMUM: scalar_problem("saddle", lambda x, u, w: u**4 - u**2, terminal=lambda x, w: 0 * w),
}


@pytest.mark.parametrize("status", list(ENDS))
def test_status_says_what_went_wrong(status):
    x0 = torch.zeros(2, 1, dtype=torch.float64)
    with pytest.warns(UnconvergedWarning, match=status.name):
        solution = reference.MPC(ENDS[status])(x0)
    assert solution.status.tolist() == [status, status]


def test_a_slope_without_end_is_divergence():
    mpc = reference.MPC(
        scalar_problem("steep", lambda x, u, w: w * sp.sqrt(x) + u**2), on_unconverged="ignore"
    )
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    solution = mpc(torch.tensor([[0.0], [4.0]], dtype=torch.float64), w=w)
    assert solution.status.tolist() == [Status.DIVERGED, Status.CONVERGED]
    assert torch.autograd.grad(solution.u[1].sum(), w)[0].isfinite()


def test_too_few_iterations_are_reported_as_asked():
    x0 = torch.ones(1, dtype=torch.float64)
    with pytest.raises(UnconvergedError, match="MAX_ITERATIONS"):
        reference.MPC(wavy(), max_iterations=1, on_unconverged="raise")(x0)
    solution = reference.MPC(wavy(), max_iterations=0, on_unconverged="ignore")(x0)
    assert solution.iterations == 0 and (solution.u == 0).all() and solution.residual > 0


def test_an_empty_batch_has_an_empty_solution():
    solution = reference.MPC(wavy())(torch.empty(0, 1, dtype=torch.float64))
    assert solution.u.shape == (0, 3, 1) and solution.status.shape == (0,)


@pytest.mark.parametrize(
    "options", [{"hessian": "bfgs"}, {"differentiable": "yes"}, {"tol": -1.0}, {"max_iterations": 1.5}]
)
def test_options_outside_their_choices_are_refused(options):
    with pytest.raises(ParameterError, match=next(iter(options))):
        reference.MPC(wavy(), **options)


# ---- where there is no compiler ----

WITHOUT_COMPILER = """
import runpy, sys, torch, mpcgen
sys.modules["ziglang"] = None  # pip's compiler
example = runpy.run_path(sys.argv[1])
try:
    mpcgen.compile(example["problem"])
except mpcgen.CompilerNotFoundError:
    x0 = example["initial_states"](3).requires_grad_()
    solution = mpcgen.reference.MPC(example["problem"])(x0)
    solution.cost.sum().backward()
    print(solution.status.tolist(), x0.grad.isfinite().all().item())
"""


def test_no_compiler_is_needed(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "PATH")}
    environment |= {"PATH": "", "MPCGEN_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_COMPILER, str(EXAMPLES / "pendulum.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[0] == "[0, 0, 0] True", done.stderr

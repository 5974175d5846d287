"""Random convex linear-quadratic problems with random bounds against a dense box QP."""

import functools

import numpy as np
import pytest
import torch
from controllers import EPS, compiled, random_lq
from hypothesis import assume, given
from hypothesis import strategies as st

import mpcgen

SIZES = [(1, 2), (2, 1), (3, 2)]
TOL = 1e-9


@functools.cache
def controller(n: int, m: int) -> torch.nn.Module:
    return compiled(mpcgen.lqr(n, m)).MPC(tol=TOL, on_unconverged="raise")


def condense(values: dict[str, np.ndarray], x0: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Eliminate the states of one problem: cost = ½ u'Hu + g'u + constant over the stacked controls (N m,)."""
    C, c, F, f = (values[name] for name in ("C", "c", "F", "f"))
    N, n, k = F.shape
    m = k - n
    slope, offset = np.zeros((n, N * m)), x0.copy()
    hessian, gradient, constant = np.zeros((N * m, N * m)), np.zeros(N * m), 0.0
    for t in range(N + 1):
        control = np.zeros((m, N * m))
        if t < N:
            control[:, t * m : (t + 1) * m] = np.eye(m)
        tau, rest = np.vstack([slope, control]), np.concatenate([offset, np.zeros(m)])
        hessian += tau.T @ C[t] @ tau
        gradient += tau.T @ (C[t] @ rest + c[t])
        constant += rest @ C[t] @ rest / 2 + c[t] @ rest
        if t < N:
            slope, offset = F[t] @ tau, F[t] @ rest + f[t]
    return hessian, gradient, constant


def box_qp(H: np.ndarray, g: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Minimise ½ u'Hu + g'u over lower <= u <= upper, H positive definite, by projected Newton steps."""
    u = np.clip(np.zeros_like(g), lower, upper)
    for _ in range(200):
        slope = H @ u + g
        held = ((u <= lower) & (slope > 0)) | ((u >= upper) & (slope < 0))
        free = ~held
        if np.linalg.norm(slope[free]) <= 1e-13 * (1 + np.linalg.norm(g)):
            break
        step = np.zeros_like(u)
        step[free] = -np.linalg.solve(H[np.ix_(free, free)], slope[free])
        length = 1.0
        while length > 1e-12:
            moved = np.clip(u + length * step, lower, upper)
            change = moved - u
            if slope @ change + change @ H @ change / 2 <= 0.1 * slope @ change:
                break
            length /= 2
        u = moved
    return u


def error_bound(H: np.ndarray, residual: float) -> float:
    """Distance to the minimum of a box QP that a projected gradient of this norm allows: (1 + L) / μ times it."""
    eigenvalues = np.linalg.eigvalsh(H)
    return (1 + eigenvalues[-1]) / eigenvalues[0] * residual


def projected(H: np.ndarray, g: np.ndarray, u: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    return float(np.linalg.norm(u - np.clip(u - (H @ u + g), lower, upper)))


def random_bounds(horizon: int, m: int, seed: int, width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, m) each: intervals of about ``width`` of which a fifth is open on a side and a tenth is a point."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(horizon, m)) * width / 4
    half = width * rng.uniform(0.1, 1, size=(horizon, m)) * (rng.uniform(size=(horizon, m)) > 0.1)
    lower, upper = middle - half, middle + half
    lower[rng.uniform(size=lower.shape) < 0.2] = -np.inf
    upper[rng.uniform(size=upper.shape) < 0.2] = np.inf
    return torch.tensor(lower), torch.tensor(upper)


problems = given(
    seed=st.integers(0, 2**32 - 1),
    horizon=st.integers(1, 12),
    width=st.sampled_from([0.05, 0.5, 2.0, 1e3]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)


@pytest.mark.parametrize("size", SIZES)
@problems
def test_box_constrained_problems_are_solved_like_a_dense_qp(size, seed, horizon, width, scale):
    n, m = size
    values = random_lq(n, m, horizon, seed)
    lower, upper = random_bounds(horizon, m, seed, width)
    x0 = scale * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    solution = controller(n, m)(x0, horizon=horizon, **values, lower=lower, upper=upper)
    assert solution.status == mpcgen.Status.CONVERGED
    u = solution.u.numpy().ravel()
    low, high = lower.numpy().ravel(), upper.numpy().ravel()
    assert (low <= u).all() and (u <= high).all()
    H, g, constant = condense({name: value.numpy() for name, value in values.items()}, x0.numpy())
    best = box_qp(H, g, low, high)
    rounding = 1e3 * EPS * (np.abs(H).sum() * max(1.0, np.abs(u).max()) + np.abs(g).max())
    assert projected(H, g, best, low, high) <= 1e-10 * (1 + np.linalg.norm(g)), "the witness did not converge"
    reached = TOL * np.sqrt(u.size) + rounding + 1e-10 * (1 + np.linalg.norm(g))
    assert np.linalg.norm(u - best) <= error_bound(H, reached)
    cost = best @ H @ best / 2 + g @ best + constant
    assert abs(float(solution.cost) - cost) <= reached * np.linalg.norm(u - best) + rounding * max(
        1, np.abs(u).max()
    )


@pytest.mark.parametrize("size", SIZES)
@problems
def test_the_gradient_by_every_input_is_that_of_the_qp(size, seed, horizon, width, scale):
    """Du of the QP with its active set held: du_free = -H_ff⁻¹ (dg_f + H_fh du_h); dx0 enters through g."""
    n, m = size
    values = random_lq(n, m, horizon, seed)
    lower, upper = (bound.requires_grad_() for bound in random_bounds(horizon, m, seed, width))
    generator = torch.Generator().manual_seed(seed)
    x0 = (scale * torch.randn(n, generator=generator, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(horizon, m, generator=generator, dtype=torch.float64)
    solution = controller(n, m)(x0, horizon=horizon, **values, lower=lower, upper=upper)
    (solution.u * weight).sum().backward()
    numbers = {name: value.numpy() for name, value in values.items()}
    H, g, _ = condense(numbers, x0.detach().numpy())
    u = solution.u.detach().numpy().ravel()
    low, high = lower.detach().numpy().ravel(), upper.detach().numpy().ravel()
    slope = H @ u + g
    held = (u - slope <= low) | (u - slope >= high)
    margin = np.where(held, np.abs(slope), np.minimum(u - low, high - u))
    # where a bound is about to switch there is no derivative to compare
    assume(margin[low < high].min(initial=np.inf) > 1e3 * TOL)
    free, w = ~held, weight.numpy().ravel()
    adjoint = np.zeros_like(u)
    adjoint[free] = -np.linalg.solve(H[np.ix_(free, free)], w[free])
    unit = [condense(numbers, x0.detach().numpy() + e)[1] - g for e in np.eye(n)]
    by_x0 = np.array([adjoint @ change for change in unit])
    by_bound = np.where(held, w + H @ adjoint, 0.0)
    at_low = held & (u - slope <= low) & (slope >= 0)
    condition = np.linalg.cond(H[np.ix_(free, free)]) if free.any() else 1.0
    size_of_all = max(np.linalg.norm(by_x0), np.linalg.norm(by_bound), np.linalg.norm(w))
    bound = 1e3 * EPS * condition * np.abs(H).sum() * size_of_all
    assert np.linalg.norm(x0.grad.numpy() - by_x0) <= bound * max(1.0, scale)
    assert np.linalg.norm(lower.grad.numpy().ravel() - np.where(at_low, by_bound, 0)) <= bound
    assert np.linalg.norm(upper.grad.numpy().ravel() - np.where(held & ~at_low, by_bound, 0)) <= bound


@pytest.mark.parametrize("size", SIZES)
def test_every_step_of_a_bounded_problem_lowers_its_cost(size):
    """None is refused: one that goes too far ends at the minimum of the way, which the cost's values tell."""
    n, m = size
    x0 = 10 * torch.randn(64, n, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    mpc = compiled(mpcgen.lqr(n, m)).MPC(tol=TOL, history=True, on_unconverged="raise")
    bound = torch.full((m,), 0.5, dtype=torch.float64)
    history = mpc(x0, horizon=30, **random_lq(n, m, 30, 7), lower=-bound, upper=bound).history
    before, after = history.cost[:, :-1], history.cost[:, 1:]
    tried = ~after.isnan() & (history.residual[:, :-1] > 1e-3)
    assert (after < before)[tried].all()


@pytest.mark.parametrize("size", SIZES)
def test_a_random_batch_without_bounds_is_the_linear_solution(size):
    n, m = size
    values = random_lq(n, m, 10, 3, batch=(20,))
    x0 = torch.randn(20, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    solution = controller(n, m)(x0, horizon=10, **values)
    for b in range(20):
        H, g, _ = condense({name: value[b].numpy() for name, value in values.items()}, x0[b].numpy())
        exact = -np.linalg.solve(H, g)
        u = solution.u[b].numpy().ravel()
        assert np.linalg.norm(u - exact) <= error_bound(H, TOL * np.sqrt(u.size))

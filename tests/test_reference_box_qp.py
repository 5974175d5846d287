"""The box QP of the plain-PyTorch solver against enumeration of its active sets."""

import itertools

import pytest
import torch

from mpcgen.reference.box_qp import find_active_set, solve_held

EPS = torch.finfo(torch.float64).eps


def random_box_qps(m: int, count: int = 200):
    generator = torch.Generator().manual_seed(m)
    draw = torch.randn(count, m, m + 4, generator=generator, dtype=torch.float64)
    root, q = draw[..., :m], 3 * draw[..., m]
    Q = torch.eye(m, dtype=torch.float64) + root @ root.mT
    lower, upper = -draw[..., m + 1].abs(), draw[..., m + 2].abs()
    infinite = draw[..., m + 3] > 0.8
    return Q, q, torch.where(infinite, -torch.inf, lower), torch.where(infinite, torch.inf, upper)


def best_of_all_active_sets(Q, q, lower, upper):
    """Try all 3^m active sets; (m,) the feasible stationary point of the lowest cost."""
    best, lowest = None, torch.inf
    for where in itertools.product((-1, 0, 1), repeat=len(q)):
        where = torch.tensor(where)
        fixed = torch.where(where < 0, lower, upper)
        if fixed[where != 0].isinf().any():
            continue
        du = torch.where(where == 0, 0.0, fixed)
        f = where == 0
        if f.any():
            du[f] = -torch.linalg.solve(Q[f][:, f], (q + Q @ du)[f])
        cost = 0.5 * du @ Q @ du + q @ du
        if (du >= lower).all() and (du <= upper).all() and cost < lowest:
            best, lowest = du, cost
    return best


@pytest.mark.parametrize("m", [1, 2, 3])
def test_projected_newton_finds_the_best_of_all_active_sets(m):
    Q, q, lower, upper = random_box_qps(m)
    held = find_active_set(Q, q, lower, upper)
    k, K = solve_held(Q, q, Q, lower, upper, held)
    expected = torch.stack(
        [best_of_all_active_sets(*parts) for parts in zip(Q, q, lower, upper, strict=True)]
    )
    assert held.convex.all()
    assert 0.2 < held.free.double().mean() < 0.9  # the cases are worth their name
    tolerance = 100 * m * EPS * torch.linalg.cond(Q) * (1 + expected.abs().amax(-1))
    assert ((k - expected).abs().amax(-1) <= tolerance).all()
    # With Q for Q_ux the gain of the free block is minus its identity, and that of held components zero.
    assert (K[~held.free] == 0).all()
    rows, columns = held.free[..., :, None], held.free[..., None, :]
    wanted = -torch.eye(m, dtype=torch.float64).expand_as(K)[rows & columns]
    assert (K[rows & columns] - wanted).abs().max() <= 100 * m * EPS * torch.linalg.cond(Q).max()


def test_only_the_free_block_has_to_be_convex():
    Q = torch.diag(torch.tensor([-1.0, 2.0], dtype=torch.float64)).expand(2, 2, 2)
    q = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    lower = torch.tensor([[0.0, -5.0], [-1.0, -5.0]], dtype=torch.float64)  # in the first, row 0 is held
    assert find_active_set(Q, q, lower, lower + 10).convex.tolist() == [True, False]

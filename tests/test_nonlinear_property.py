"""Random smooth nonlinear problems: honest statuses, gradients beside CasADi's, optima beside IPOPT's."""

import functools
import random

import numpy as np
import pytest
import sympy as sp
import torch
from controllers import EPS, Example, compiled, differentiate, leaves, witness
from hypothesis import given
from hypothesis import strategies as st

import mpcgen
from mpcgen.baseline import Baseline, kkt_residual
from mpcgen.baseline.compare import BASIN

# states, controls, coefficients, integrator
FAMILIES = {
    "one_control": (2, 1, 6, None),
    "two_controls": (3, 2, 8, None),
    "ode": (2, 2, 6, mpcgen.midpoint),
}
TOL = 1e-9
ROUNDING = 1e5 * EPS  # a residual sums 8 stages of some hundred operations, over terms of the costates' size


def random_expression(rng: random.Random, leaves: list[sp.Expr], depth: int) -> sp.Expr:
    """A smooth function of the leaves, of moderate growth."""
    if depth == 0:
        return rng.choice(leaves)
    z, y = (random_expression(rng, leaves, depth - 1) for _ in range(2))
    choices = [
        lambda: sp.sin(z),
        lambda: sp.cos(z + y),
        lambda: sp.tanh(z * y),
        lambda: sp.atan(z - y),
        lambda: sp.exp(-(z**2)),
        lambda: sp.sqrt(1 + z**2) - y,
        lambda: z / (1 + y**2),
        lambda: sp.log(1 + z**2) * sp.cos(y),
        lambda: z * y / 4,
    ]
    return rng.choice(choices)()


def random_problem(name: str) -> mpcgen.Problem:
    """Dynamics and costs of random functions with coefficients ``a``; per-stage reference, parametric bounds."""
    n, m, count, scheme = FAMILIES[name]
    rng = random.Random(f"family {name}")
    problem = mpcgen.Problem(f"random_{name}", horizon=8)
    x = list(problem.states([f"x_{i}" for i in range(n)]))
    limit = problem.parameter("limit", shape=m, default=1.0)
    u = list(
        problem.controls([f"u_{i}" for i in range(m)], lower=[-bound for bound in limit], upper=list(limit))
    )
    a = list(problem.parameter("a", shape=count, default=0.5))
    reference = problem.parameter("reference", default=0.0, per_stage=True)

    def term(k: int) -> sp.Expr:
        return a[k % count] * random_expression(rng, [*x, *u, *x, a[(k + 1) % count] * x[k % n]], 2)

    rates = [x[(i + 1) % n] / 2 - x[i] / 4 + u[i % m] + term(i) for i in range(n)]
    if scheme is None:
        problem.dynamics = [x[i] + rate / 5 for i, rate in enumerate(rates)]
    else:
        problem.dynamics = scheme(problem, rates, dt=0.2, substeps=2)
    state_cost = (x[0] - reference) ** 2 + sum(z**2 for z in x[1:]) / 2 + term(n)
    problem.stage_cost = state_cost + sum(w**2 for w in u) / 5
    problem.terminal_cost = 3 * state_cost.subs(dict.fromkeys(u, 0)) + term(n + 1).subs(dict.fromkeys(u, 0))
    return problem


@functools.cache
def family(name: str) -> Example:
    spec = random_problem(name).spec()

    def starts(count: int, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return 2 * torch.randn(count, len(spec.states), generator=generator, dtype=torch.float64)

    return Example(spec, compiled(spec), starts, lambda seed: random_values(name, 1, seed, 1.0, 0.6))


def random_values(name: str, count: int, seed: int, strength: float, limit: float) -> dict[str, torch.Tensor]:
    """Parameters of ``count`` random problems; ``strength`` scales the nonlinear terms."""
    _, m, coefficients, _ = FAMILIES[name]
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "a": strength * normal(count, coefficients),
        "reference": normal(count, 9),
        "limit": limit * (0.5 + torch.rand(count, m, generator=generator, dtype=torch.float64)),
    }


def check_honesty(case: Example, done, b: int) -> bool:
    """A problem that counts as solved is a strict local minimum by CasADi's word, with CasADi's gradient.

    Returns whether a gradient was there to compare.
    """
    solution = done.solution
    x, u = (part[b].detach().numpy() for part in (solution.x, solution.u))
    parameters = {name: value[b].detach().numpy() for name, value in done.parameters.items()}
    slack = ROUNDING * max(1.0, float(solution.costates[b].abs().max()))
    assert kkt_residual(case.functions, x, u, parameters) <= TOL + slack
    assert (np.abs(u) <= parameters["limit"]).all()
    expected = witness(case, done, b)
    assert expected.second_order
    if expected.complementarity <= 1e3 * TOL:
        return False
    own = {name: gradient[b].numpy() for name, gradient in done.gradients.items()}
    for name, value in {"x0": expected.x0, **expected.parameters}.items():
        scale = np.sqrt(sum(float(np.sum(v**2)) for v in expected.parameters.values()))
        assert np.linalg.norm(own[name] - value) <= 1e-7 * max(np.linalg.norm(value), 1e-6 * scale), name
    return True


@pytest.mark.parametrize("name", FAMILIES)
@given(
    seed=st.integers(0, 2**32 - 1),
    strength=st.sampled_from([0.2, 0.7, 1.5]),
    limit=st.sampled_from([0.1, 0.6, 50.0]),
)
def test_what_counts_as_solved_is_a_minimum_with_the_right_gradient(name, seed, strength, limit):
    case, count = family(name), 3
    values = {n: v.requires_grad_() for n, v in random_values(name, count, seed, strength, limit).items()}
    mpc = case.mpc(tol=TOL, on_unconverged="ignore")
    done = differentiate(mpc, case.starts(count, seed), values, seed=seed, cost=False)
    solved = done.solution.status == mpcgen.Status.CONVERGED
    for gradient in done.gradients.values():
        assert (gradient[~solved] == 0).all()
    for b in torch.nonzero(solved).flatten().tolist():
        check_honesty(case, done, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_most_random_problems_are_solved_and_most_have_a_gradient_to_compare(name):
    """So that the property above is not true of nothing."""
    case, count = family(name), 200
    values = random_values(name, count, 0, 1.0, 0.6)
    mpc = case.mpc(tol=TOL, on_unconverged="ignore")
    solution = mpc(case.starts(count, 0), **values)
    assert (solution.status == mpcgen.Status.CONVERGED).double().mean() >= 0.98
    few = 24
    done = differentiate(
        mpc, case.starts(few, 0), {n: v[:few].requires_grad_() for n, v in values.items()}, cost=False
    )
    compared = sum(check_honesty(case, done, b) for b in range(few) if done.solution.status[b] == 0)
    assert compared >= 0.8 * few


@pytest.mark.parametrize("name", FAMILIES)
def test_optima_are_as_good_as_ipopts(name):
    case, count = family(name), 200
    values = random_values(name, count, 1, 1.0, 0.6)
    x0 = case.starts(count, 1)
    own = case.mpc(tol=1e-10, on_unconverged="ignore")(x0, **values)
    ipopt = Baseline(case.spec, tol=1e-10).solve_batch(x0.numpy(), {n: v.numpy() for n, v in values.items()})
    both = (own.status.numpy() == 0) & ipopt.success
    assert both.mean() >= 0.98
    relative = (own.cost.numpy() - ipopt.cost) / np.maximum(1.0, np.abs(ipopt.cost))
    same = both & (np.abs(own.u.numpy() - ipopt.u).max((1, 2)) <= BASIN)
    assert same.mean() >= 0.8
    assert relative[same].max() <= 1e-7
    # a nonconvex problem has several minima, but the worse one must not be found as a rule
    assert np.mean(relative[both] > 1e-7) <= 0.1
    assert relative[both].mean() <= 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_default_coefficients_are_used_where_none_are_given(name):
    case = family(name)
    x0 = case.starts(4, 2)
    spelt_out = {n: v.detach() for n, v in leaves(case, 4, {}).items()}
    assert torch.equal(case.mpc()(x0).u, case.mpc()(x0, **spelt_out).u)

"""The LQR problem as an ordinary specification: the paper's Module 1, and box LQR where bounds are given."""

import sympy as sp

from mpcgen.problem.problem import Problem
from mpcgen.problem.values import as_integer


def lqr(n_state: int, n_ctrl: int, horizon: int = 20, name: str | None = None) -> Problem:
    """Return the time-varying linear-quadratic problem of the paper's equation (2), τ = (x, u).

        minimise  sum_{t<N} ½ τ_tᵀ C_t τ_t + c_tᵀ τ_t  +  ½ x_Nᵀ C_N,xx x_N + c_N,xᵀ x_N
        subject to x_{t+1} = F_t τ_t + f_t, lower_t <= u_t <= upper_t, x_0 given

    with n = ``n_state``, m = ``n_ctrl``, N = ``horizon``. The paper's T is N+1; its last control, which acts
    on no state, is not ours, so that only the state's blocks of C_N and c_N count.

    The parameters, per stage, each batched or not at the call:

        C      (N+1, n+m, n+m)  symmetric, u-block positive definite; no default
        c      (N+1, n+m)       default 0
        F      (N, n, n+m)      no default
        f      (N, n)           default 0
        lower  (N, m)           default -oo
        upper  (N, m)           default +oo

    A value without the axis of stages holds at all of them. If that is true of every one, as for a time-invariant
    system, the kernels keep one stage's numbers instead of N+1.

    Args:
        n_state: n >= 1.
        n_ctrl: m >= 1.
        horizon: N >= 1; a call may use another.
        name: of the generated package; ``lqr_<n>_<m>`` if not given.

    """
    n, m = as_integer(n_state, "n_state", 1), as_integer(n_ctrl, "n_ctrl", 1)
    problem = Problem(f"lqr_{n}_{m}" if name is None else name, horizon)
    x = problem.states([f"x_{i}" for i in range(n)])
    lower = problem.parameter("lower", shape=m, default=-sp.oo, per_stage=True)
    upper = problem.parameter("upper", shape=m, default=sp.oo, per_stage=True)
    u = problem.controls([f"u_{i}" for i in range(m)], lower=lower, upper=upper)
    C = problem.parameter("C", shape=(n + m, n + m), per_stage=True)
    c = problem.parameter("c", shape=n + m, default=0, per_stage=True)
    F = problem.parameter("F", shape=(n, n + m), per_stage=True)
    f = problem.parameter("f", shape=n, default=0, per_stage=True)
    problem.dynamics = [sp.Add(dot(list(F[i, :]), (*x, *u)), f[i]) for i in range(n)]
    problem.stage_cost = quadratic(C, list(c), (*x, *u))
    problem.terminal_cost = quadratic(C, list(c), x)
    return problem


def quadratic(C: sp.Matrix, c: list[sp.Symbol], tau: tuple[sp.Symbol, ...]) -> sp.Expr:
    """½ τᵀCτ + cᵀτ with the leading blocks of C and c. Row by row: half the products of the expanded form."""
    rows = [
        sp.Mul(sp.S.Half, tau_i, dot(list(C[i, : len(tau)]), tau), evaluate=True)
        for i, tau_i in enumerate(tau)
    ]
    return sp.Add(*rows, *map(sp.Mul, c, tau))


def dot(left: list[sp.Symbol], right: tuple[sp.Symbol, ...]) -> sp.Expr:
    """The sum of products, as one sum."""
    return sp.Add(*map(sp.Mul, left, right))

"""The baseline on implicit integrators: derivatives of the solution, and programs that solve for its points."""

import casadi as ca
import numpy as np
import pytest
import sympy as sp

import mpcgen
from examples import cstr
from mpcgen.baseline import Baseline, Functions, discretise, kkt_residual


def cascade():
    """A decay whose rate an algebraic state has, with a cost that is integrated, in two steps a stage."""
    problem = mpcgen.Problem("cascade", horizon=3)
    speed = problem.parameter("speed", default=3.0)
    x, last, y = problem.states("x last y")
    (u,) = problem.controls("u")
    problem.dynamics = mpcgen.radau(
        problem,
        [-speed * y * x + u],
        dt=0.2 * (1 + last**2),
        substeps=2,
        discrete={last: last},
        residual={y: y + y**3 - x**2},
    )
    problem.stage_cost = mpcgen.running_cost(x**2 * y) + u**2
    problem.terminal_cost = x**2
    return problem


def test_derivatives_are_those_of_newton_steps_that_are_written_out():
    functions = Functions(cascade().spec())
    x, u, speed = ca.SX.sym("x", 3), ca.SX.sym("u"), ca.SX.sym("speed")
    z = ca.SX.sym("z", 4)  # x, last, y and the integral of the cost
    rates = ca.vertcat(-speed * z[2] * z[0] + u, 0, z[2] + z[2] ** 3 - z[0] ** 2, z[0] ** 2 * z[2])
    rate = ca.Function("rate", [z, u, speed], [rates])
    end = discretise(rate, "radau5", ca.vertcat(x, 0), u, speed, 0.2 * (1 + x[1] ** 2), 2, [2])
    following, cost = ca.vertcat(end[0], x[1], end[2]), end[3] + u**2
    costate = [0.3, -0.7, 0.4]
    lagrangian, tau = cost + ca.dot(costate, following), ca.vertcat(x, u)
    gradient = ca.gradient(lagrangian, tau)
    expected = {
        "f": following,
        "stage_cost": cost,
        "f_D_tau": ca.jacobian(following, tau),
        "f_D_theta": ca.jacobian(following, speed),
        "stage_cost_hessian": ca.hessian(cost, tau)[0],
        "lagrangian_hessian": ca.jacobian(gradient, tau),
        "lagrangian_D_tau_theta": ca.jacobian(gradient, speed),
    }
    point = ([0.8, 0.3, 0.5], 0.4, 3.0)
    for name, expression in expected.items():
        own = getattr(functions, name)(*point, *([costate] if name.startswith("lagrangian") else []))
        witness = ca.Function(name, [x, u, speed], [expression])(*point)
        np.testing.assert_allclose(own.full(), witness.full(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("solver", ["ipopt", "fatrop"])
def test_a_stiff_reactor_is_solved_to_its_own_optimum(solver):
    """What the program has besides, points inside of the steps, leaves states, controls and costates what they are."""
    spec = cstr.problem.spec()
    functions, theta = Functions(spec), mpcgen.baseline.pack_parameters(spec, {}, spec.horizon)
    solution = Baseline(spec, solver=solver, tol=1e-9).solve(cstr.initial_states(1)[0].numpy())
    assert solution.success
    x, u, costates = solution.x, solution.u, solution.costates
    np.testing.assert_allclose(x, functions.rollout(x[0], u, theta), rtol=1e-8)
    assert kkt_residual(functions, x, u) <= 1e-6
    for t in range(spec.horizon):
        F = functions.f_D_tau(x[t], u[t], theta[:, t]).full()[:, :2]
        slope = functions.stage_cost_D_tau(x[t], u[t], theta[:, t]).full().ravel()[:2]
        np.testing.assert_allclose(costates[t], slope + F.T @ costates[t + 1], rtol=1e-6, atol=1e-7)


def test_rows_and_soft_rows_stand_beside_the_equations_of_an_integrator():
    problem = cascade()
    x, _, y = problem.state_symbols
    problem.constraint("pull", problem.control_symbols[0] + y, upper=0.3)
    problem.constraint("low", x, lower=0.6, soft=0.05)
    problem.terminal_cost = sp.S(5) * (x - 1) ** 2
    answers = [
        Baseline(problem.spec(), solver=solver, tol=1e-9).solve([0.9, 0.0, 0.5])
        for solver in ("ipopt", "fatrop")
    ]
    assert all(answer.success for answer in answers)
    np.testing.assert_allclose(answers[0].x, answers[1].x, atol=1e-6)
    for name in ("pull", "low"):
        np.testing.assert_allclose(answers[0].duals[name], answers[1].duals[name], atol=1e-5)
    assert answers[0].duals["pull"].max() > 1e-3
    assert answers[0].duals["low"].min() < -1e-3

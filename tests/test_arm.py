"""The arm of six joints: its equations of motion, what they cost, and its reaching tasks."""

import re
from pathlib import Path

import casadi as ca
import numpy as np
import pytest
from controllers import compiled

from examples import arm

TASKS = 64
TEXT = Path(__file__).parent.parent / "generated" / "arm" / "arm.c"


def lagrangian():
    """(q, v) -> kinetic minus potential energy, and the flange's place, of homogeneous transformations."""
    q, v = ca.SX.sym("q", 6), ca.SX.sym("v", 6)
    frame, energy = ca.SX.eye(4), ca.SX(0)
    for joint, angle, rate in zip(arm.NUMBERS["joints"], ca.vertsplit(q), ca.vertsplit(v), strict=True):
        twist = joint["twist"] * np.pi / 2
        about_x = ca.diagcat(1, ca.DM([[np.cos(twist), -np.sin(twist)], [np.sin(twist), np.cos(twist)]]), 1)
        c, s = ca.cos(angle), ca.sin(angle)
        about_z = ca.diagcat(ca.vertcat(ca.horzcat(c, -s), ca.horzcat(s, c)), 1, 1)
        along_x, along_z = ca.SX.eye(4), ca.SX.eye(4)
        along_x[0, 3], along_z[2, 3] = joint["length"], joint["offset"]
        frame = frame @ about_x @ along_x @ about_z @ along_z
        centre = (frame @ ca.vertcat(ca.DM(joint["centre"]), 1))[:3]
        turn = frame[:3, :3]
        spin = turn.T @ ca.reshape(ca.jtimes(ca.vec(turn), q, v), 3, 3)  # of the angular rate in the body
        turning = ca.vertcat(spin[2, 1], spin[0, 2], spin[1, 0])
        energy += joint["mass"] * ca.sumsqr(ca.jtimes(centre, q, v)) / 2
        energy += ca.dot(turning, ca.DM(joint["inertia"]) * turning) / 2 + joint["rotor"] * rate**2 / 2
        energy -= joint["mass"] * arm.NUMBERS["gravity"] * centre[2]
    return q, v, energy, frame[:3, 3]


def test_the_equations_of_motion_are_lagranges():
    q, v, energy, place = lagrangian()
    matrix, momentum = ca.hessian(energy, v)
    bias = ca.jtimes(momentum, q, v) - ca.gradient(energy, q)
    witness = ca.Function("witness", [ca.vertcat(q, v)], [matrix, bias, place])
    numbers = np.random.default_rng(0)
    for _ in range(5):
        x = numbers.uniform(-3, 3, 12)
        for own, expected in zip(arm.equations()(x), witness(x), strict=True):
            np.testing.assert_allclose(own.full(), expected.full(), rtol=1e-12, atol=1e-12)


def test_a_stage_takes_few_operations():
    """`test_golden` compares the committed text with what is rendered."""
    counts = dict(re.findall(r"^ \*   (stage_\w+) +(\d+)$", TEXT.read_text(encoding="utf-8"), re.MULTILINE))
    assert int(counts["stage_dynamics"]) + int(counts["stage_derivatives_exact"]) <= 16_500


@pytest.fixture(scope="module")
def solution():
    x0 = arm.initial_states(TASKS)
    mpc = compiled(arm.problem).MPC(on_unconverged="raise")
    return mpc(x0, goal=arm.goals(TASKS), u_init=arm.holding_torques(x0))


def test_every_task_is_solved_soon(solution):
    assert solution.residual.max() <= 1e-8
    assert solution.iterations.double().mean() <= 15


def test_the_flange_reaches_its_goal_within_the_limits(solution):
    place = arm.equations()(solution.x[:, -1].T.numpy())[2].full().T
    assert np.linalg.norm(place - arm.goals(TASKS).numpy(), axis=1).mean() < 0.01
    assert (solution.u.abs().amax((0, 1)).numpy() <= np.array(arm.most) + 1e-6).all()
    lower, upper = (np.array(bounds, dtype=float) for bounds in (arm.lowest, arm.highest))
    angles, rates = solution.x[..., :6].numpy(), solution.x[..., 6:].numpy()
    assert (angles >= lower - 1e-6).all() and (angles <= upper + 1e-6).all()
    assert abs(rates).max() == pytest.approx(np.pi, abs=1e-6)
    assert solution.u.abs().max() == pytest.approx(150, abs=1e-3)
    assert (angles[..., 1] > upper[1] - 1e-6).any()


def test_trajectories_are_those_of_the_casadi_function(solution):
    x = ca.SX.sym("x", 12)
    u = ca.SX.sym("u", 6)
    matrix, bias, _ = arm.equations()(x)
    rates = x[6:] + arm.DT * ca.solve(matrix, u - bias)
    step = ca.Function("step", [x, u], [ca.vertcat(x[:6] + arm.DT * rates, rates)])
    states, controls = solution.x.numpy(), solution.u.numpy()
    following = step(states[:, :-1].reshape(-1, 12).T, controls.reshape(-1, 6).T).full().T
    np.testing.assert_allclose(states[:, 1:].reshape(-1, 12), following, rtol=1e-12, atol=1e-12)

"""Reach for a place with an arm of six joints: n = 12, m = 6, its equations of motion a CasADi Function.

The numbers are in arm.json: lengths, masses, centres of mass and torque limits are those that Universal Robots publish
of the UR5; the moments of inertia are those of its URDF for ROS, but for wrists and flange, which are solid cylinders;
the rotors' inertia, as the joints feel it, is an assumption.

The function gives M(q) and h(q, q') of M(q) q'' + h(q, q') = u: the mass matrix by composite rigid bodies, the rest by
recursive Newton-Euler (Featherstone 2008, Rigid Body Dynamics Algorithms, chapters 5 and 6). `mpcgen.solve` makes
accelerations of them. Joints turn about their frame's z. From a frame to the next, after Craig: a turn by ``twist``
quarters about x and ``length`` along it, then by the joint's angle about z and ``offset`` along it. Units are m, kg,
kg m², N m and rad.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import casadi as ca
import sympy as sp

import mpcgen

DT = 0.05  # s, one stage
JOINTS = range(1, 7)
HOME = (0.0, -1.5, 1.5, -1.5, -1.5, 0.0)  # rad: the elbow up, the flange in front of the arm

NUMBERS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Body:
    """Mass, first moment (3,) and inertia (3, 3) about the origin of its frame."""

    mass: float
    moment: ca.SX
    inertia: ca.SX

    def force(self, acceleration: ca.SX, turning: ca.SX, rate: ca.SX) -> tuple[ca.SX, ca.SX]:
        """Force and torque at the origin, (3,) each, for its acceleration, angular acceleration and angular rate."""
        force = self.mass * acceleration + ca.cross(turning, self.moment)
        force += ca.cross(rate, ca.cross(rate, self.moment))
        torque = self.inertia @ turning + ca.cross(rate, self.inertia @ rate)
        return force, torque + ca.cross(self.moment, acceleration)

    def seen_from(self, turn: ca.SX, place: ca.SX) -> "Body":
        """The body in a frame where its own is turned by ``turn`` (3, 3) and lies at ``place`` (3,)."""
        moment = turn @ self.moment
        inertia = turn @ self.inertia @ turn.T + lever(place, moment) + lever(moment, place)
        return Body(self.mass, moment + self.mass * place, inertia + self.mass * lever(place, place))

    def __add__(self, other: "Body") -> "Body":
        return Body(self.mass + other.mass, self.moment + other.moment, self.inertia + other.inertia)


def lever(a: ca.SX, b: ca.SX) -> ca.SX:
    """(3, 3) (a.b) I - b a': with a = b the inertia of a unit mass at a."""
    return ca.dot(a, b) * ca.SX.eye(3) - b @ a.T


def body(joint: dict) -> Body:
    """The link behind a joint."""
    centre = ca.SX(joint["centre"])
    inertia = ca.diag(ca.SX(joint["inertia"])) + joint["mass"] * lever(centre, centre)
    return Body(joint["mass"], joint["mass"] * centre, inertia)


def placed(joint: dict, angle: ca.SX) -> tuple[ca.SX, ca.SX]:
    """Turn (3, 3) and place (3,) of a joint's frame in the one before."""
    cos, sin = {0: (1, 0), 1: (0, 1), -1: (0, -1)}[joint["twist"]]
    twist = ca.SX([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    c, s = ca.cos(angle), ca.sin(angle)
    turn = twist @ ca.vertcat(ca.horzcat(c, -s, 0), ca.horzcat(s, c, 0), ca.SX([[0, 0, 1]]))
    return turn, ca.SX([joint["length"], 0, 0]) + twist @ ca.SX([0, 0, joint["offset"]])


def mass_matrix(frames: list[tuple[ca.SX, ca.SX]]) -> ca.SX:
    """(n, n) of arms whose frames have these turns and places, in the ones before."""
    n = len(frames)
    bodies, still, axis = [body(joint) for joint in NUMBERS["joints"]], ca.SX(3, 1), ca.SX([0, 0, 1])
    matrix, beyond = ca.SX(n, n), bodies[-1]
    for i in reversed(range(n)):
        force, torque = beyond.force(still, axis, still)
        matrix[i, i] = torque[2] + NUMBERS["joints"][i]["rotor"]
        for j in reversed(range(i)):
            turn, place = frames[j + 1]
            force = turn @ force
            torque = turn @ torque + ca.cross(place, force)
            matrix[i, j] = matrix[j, i] = torque[2]
        if i > 0:
            beyond = beyond.seen_from(*frames[i]) + bodies[i - 1]
    return matrix


def bias(frames: list[tuple[ca.SX, ca.SX]], rates: list[ca.SX]) -> ca.SX:
    """(n,) torques without which the joints accelerate: what holds the weight, and centrifugal and Coriolis terms."""
    rate, turning, acceleration = ca.SX(3, 1), ca.SX(3, 1), ca.SX([0, 0, NUMBERS["gravity"]])
    forces = []
    for joint, (turn, place), own in zip(NUMBERS["joints"], frames, rates, strict=True):
        acceleration += ca.cross(turning, place) + ca.cross(rate, ca.cross(rate, place))
        rate, turning, acceleration = (turn.T @ vector for vector in (rate, turning, acceleration))
        spin = ca.vertcat(0, 0, own)
        turning += ca.cross(rate, spin)
        rate += spin
        forces.append(body(joint).force(acceleration, turning, rate))
    torques = []
    force, torque = ca.SX(3, 1), ca.SX(3, 1)
    for (turn, place), (own_force, own_torque) in zip(reversed(frames), reversed(forces), strict=True):
        force, torque = force + own_force, torque + own_torque
        torques.append(torque[2])
        force = turn @ force
        torque = turn @ torque + ca.cross(place, force)
    return ca.vertcat(*reversed(torques))


def equations() -> ca.Function:
    """Of x (12), angles and rates: mass matrix (6, 6), bias (6), and the flange's place (3)."""
    q, v = ca.SX.sym("q", 6), ca.SX.sym("v", 6)
    frames = [placed(*pair) for pair in zip(NUMBERS["joints"], ca.vertsplit(q), strict=True)]
    flange = ca.SX(3, 1)
    for turn, place in reversed(frames):
        flange = place + turn @ flange
    outputs = [mass_matrix(frames), bias(frames, ca.vertsplit(v)), flange]
    return ca.Function("arm", [ca.vertcat(q, v)], outputs, ["x"], ["mass_matrix", "bias", "flange"])


problem = mpcgen.Problem("arm", horizon=20)
lowest, highest = [-sp.pi, -sp.pi, -2.8, -sp.pi, -sp.pi, -sp.pi], [sp.pi, -1.0, 2.8, sp.pi, sp.pi, sp.pi]
angles = problem.states([f"angle_{i}" for i in JOINTS], lower=lowest, upper=highest)  # rad
rates = problem.states([f"rate_{i}" for i in JOINTS], lower=-sp.pi, upper=sp.pi)  # rad/s
most = [joint["torque"] for joint in NUMBERS["joints"]]
torques = problem.controls([f"torque_{i}" for i in JOINTS], lower=[-t for t in most], upper=most)  # N m
goal = problem.parameter("goal", shape=3, default=[-0.5, -0.1, 0.4])  # m
miss, motion, effort = problem.parameters("miss motion effort", default=[10.0, 0.1, 0.1])

M, h, flange = (
    mpcgen.casadi_expressions(problem, equations(), u=None, output=output)
    for output in ("mass_matrix", "bias", "flange")
)
accelerations = mpcgen.solve(sp.Matrix(6, 6, M), [u - entry for u, entry in zip(torques, h, strict=True)])
after = [v + DT * a for v, a in zip(rates, accelerations, strict=True)]
problem.dynamics = [*(q + DT * v for q, v in zip(angles, after, strict=True)), *after]
distance = miss * sum((place - wanted) ** 2 for place, wanted in zip(flange, goal, strict=True))  # 10 of 1 m
speed = sum(v**2 for v in rates)
load = sum((u / largest) ** 2 for u, largest in zip(torques, most, strict=True))
problem.stage_cost = DT * (distance + motion * speed + effort * load)
problem.terminal_cost = distance + speed


def initial_states(count, seed=0, dtype=None):
    """(count, 12) float64 or ``dtype``: at rest, angles within 0.4 rad of `HOME`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    x0 = torch.zeros(count, 12, dtype=torch.float64)
    x0[:, :6] = (
        torch.tensor(HOME) + 0.8 * torch.rand(count, 6, generator=generator, dtype=torch.float64) - 0.4
    )
    return x0.to(torch.float64 if dtype is None else dtype)


def goals(count, seed=0, dtype=None):
    """(count, 3) float64 or ``dtype``: places for the flange, in a box of 0.4 by 0.6 by 0.4 m around the default's."""
    import torch

    generator = torch.Generator().manual_seed(seed + 1)
    draws = 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1
    box = torch.tensor([0.2, 0.3, 0.2], dtype=torch.float64)
    place = torch.tensor([-0.5, -0.1, 0.4], dtype=torch.float64) + box * draws
    return place.to(torch.float64 if dtype is None else dtype)


def holding_torques(x0):
    """(..., 20, 6) controls for ``u_init``: the torques that hold the arm where it is, x0 (..., 12)."""
    import torch

    flat = x0.detach().double().reshape(-1, 12)
    held = torch.tensor(equations()(flat.T.numpy())[1].full()).T
    return held.reshape(*x0.shape[:-1], 1, 6).expand(*x0.shape[:-1], problem.horizon, 6).to(x0.dtype)

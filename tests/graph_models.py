"""Models whose dynamics are made on the graph: networks and mechanisms, larger than what sympy is convenient for."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import sympy as sp

import mpcgen
from mpcgen.ir import flops
from mpcgen.problem.lowering import lower_spec


def model(name, n, m, rows, parameters=()):
    """A `Model` with quadratic costs whose next state is ``rows(graph, x, u, parameters)``.

    x (n,), u (m,) and each of the parameters, pairs of a name and a shape, are arrays of nodes.
    """
    problem = mpcgen.Problem(name, horizon=20)
    x = problem.states(" ".join(f"x{i}" for i in range(n)))
    u = problem.controls(" ".join(f"u{i}" for i in range(m)))
    declared = [problem.parameter(p, shape=shape, default=0.1) for p, shape in parameters]
    everything = sp.Add(*u, *(symbol for p in declared for symbol in p))
    problem.dynamics = [state + everything for state in x]
    problem.stage_cost = sum(state**2 for state in x) + 0.1 * sum(control**2 for control in u)
    problem.terminal_cost = 10 * sum(state**2 for state in x)
    lowered = lower_spec(problem.spec())
    entries = iter(lowered.parameters)
    arrays = {}
    for p, shape in parameters:
        flat = [next(entries) for _ in range(int(np.prod(shape)))]
        arrays[p] = np.array(flat, dtype=object).reshape(shape)
    x, u = (np.array(symbols, dtype=object) for symbols in (lowered.states, lowered.controls))
    following = [lowered.graph.const(0.0) + row for row in rows(lowered.graph, x, u, arrays)]
    return replace(lowered, next_state=tuple(following))


def network(width, n=4, m=1):
    """Next state x + W2 tanh(W1 tanh(W0 (x, u) + b0) + b1) + b2, all weights parameters of the problem."""
    sizes = (n + m, width, width, n)
    shapes = {f"W{i}": (below, above) for i, (above, below) in enumerate(pairwise(sizes))}
    shapes |= {f"b{i}": (size,) for i, size in enumerate(sizes[1:])}

    def rows(graph, x, u, p):
        values = np.concatenate([x, u])
        for i in range(2):
            values = np.array([graph.tanh(z) for z in p[f"W{i}"] @ values + p[f"b{i}"]], dtype=object)
        return x + (p["W2"] @ values + p["b2"])

    return model(f"network_{width}", n, m, rows, list(shapes.items()))


def van_der_pol(newton_steps=3):
    """One step of backward Euler, its equation solved by ``newton_steps`` steps of Newton's method, unrolled."""

    def rows(graph, x, u, _):
        h, damping = 0.1, 2.0
        position, velocity = x
        for _ in range(newton_steps):
            stretch = damping * (1.0 - position * position)
            first = position - x[0] - h * velocity
            second = velocity - x[1] - h * (stretch * velocity - position + u[0])
            below, diagonal = h * (2.0 * damping * (position * velocity) + 1.0), 1.0 - h * stretch
            determinant = diagonal + h * below
            position, velocity = (
                position - (diagonal * first + h * second) / determinant,
                velocity - (second - below * first) / determinant,
            )
        return [position, velocity]

    return model("van_der_pol", 2, 1, rows)


def random_model(seed, operations=100):
    """A next state of up to that many operations of every kind, more or less entangled."""
    numbers = random.Random(seed)
    n, m = numbers.choice([1, 2, 3, 4, 6, 8, 12]), numbers.choice([1, 1, 2, 3, 4])
    shapes = numbers.choice([[], [("p", (3,))]])

    def one(graph, pool):
        a, b = (numbers.choice(pool[-numbers.choice([3, 8, 20, 100]) :]) for _ in range(2))
        return numbers.choice(
            (
                lambda: a + b,
                lambda: a - b,
                lambda: a * b,
                lambda: a * b,
                lambda: a * a,
                lambda: a / (1.5 + b * b),
                lambda: (1.0 + a * a) ** numbers.choice([1.5, -0.5, 3.0, 0.3]),
                lambda: graph.sqrt(1.0 + a * a),
                lambda: graph.select(graph.lt(a, b), a * b, b),
                lambda: graph.apply(numbers.choice(["atan2", "min", "max"]), a, b),
                lambda: graph.apply(numbers.choice(["sin", "cos", "exp", "tanh"]), a),
            )
        )()

    def rows(graph, x, u, p):
        pool, following = [*x, *u, *p.get("p", ())], list(x)
        while flops(following) < operations - 3 and len(pool) < 4 * operations:
            pool.append(one(graph, pool))
            following = [pool[-1 - i] if len(pool) > n + m + i else x[i] for i in range(n)]
        while flops(following) > operations:
            following[numbers.randrange(n)] = x[0]
        return following

    return model(f"random_{seed}", n, m, rows, shapes)


# --- an arm of six joints ------------------------------------------------------------------------

LIGHT, HEAVY = (0.1, 0.0, 0.01), (1.0, 0.5, 1.0)
ARM = (
    ("x", 0.0, LIGHT),
    ("y", 0.0, LIGHT),
    ("z", 0.0, HEAVY),
    ("y", 1.0, HEAVY),
    ("x", 1.0, LIGHT),
    ("y", 0.0, HEAVY),
)
"""pinocchio's sample manipulator: each joint's axis, its distance from the last one along that one's z, and the link:
mass, distance of the centre of mass, and moment of inertia about it. Links hang on one another in a row."""


def arm(dt=0.05):
    """The arm's equations of motion by the articulated-body algorithm, one step of Euler; x = (angles, rates)."""

    def rows(graph, x, u, _):
        accelerations = articulated_body(graph, x[:6], x[6:], u)
        return [*(x[:6] + dt * x[6:]), *(x[6:] + dt * accelerations)]

    return model("arm", 12, 6, rows)


def articulated_body(functions, q, v, torques, gravity=9.81):
    """Joint accelerations (6,); ``functions`` has sin and cos.

    Featherstone, Rigid Body Dynamics Algorithms, 2008, table 7.1, with the linear part of spatial vectors first.
    """
    motions, axes, velocities, biases, inertias, forces = [], [], [], [], [], []
    velocity = _zeros(6)
    for (axis, offset, link), angle, rate in zip(ARM, q, v, strict=True):
        motion = _motion(functions, axis, angle, offset)
        unit = _zeros(6)
        unit[3 + "xyz".index(axis)] = 1.0
        velocity = motion @ velocity + unit * rate
        inertia = _spatial_inertia(*link)
        motions.append(motion)
        axes.append(unit)
        velocities.append(velocity)
        biases.append(_cross(velocity) @ (unit * rate))
        inertias.append(inertia)
        forces.append(-_cross(velocity).T @ (inertia @ velocity))
    columns, pivots, drives = {}, {}, {}
    for i in reversed(range(6)):
        columns[i] = inertias[i] @ axes[i]
        pivots[i] = axes[i] @ columns[i]
        drives[i] = torques[i] - axes[i] @ forces[i]
        if i > 0:
            remaining = inertias[i] - np.outer(columns[i], columns[i]) / pivots[i]
            force = forces[i] + remaining @ biases[i] + columns[i] * (drives[i] / pivots[i])
            inertias[i - 1] = inertias[i - 1] + _symmetric(motions[i].T @ (remaining @ motions[i]))
            forces[i - 1] = forces[i - 1] + motions[i].T @ force
    acceleration = _zeros(6)
    acceleration[2] = gravity
    found = []
    for i in range(6):
        acceleration = motions[i] @ acceleration + biases[i]
        found.append((drives[i] - columns[i] @ acceleration) / pivots[i])
        acceleration = acceleration + axes[i] * found[-1]
    return np.array(found, dtype=object)


def _zeros(*shape):
    return np.full(shape, 0.0, dtype=object)


def _skew(vector):
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=object)


def _motion(functions, axis, angle, offset):
    """Of spatial velocities: from the frame below the joint to that behind it."""
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    back = _zeros(3, 3)
    back[i, i] = 1.0
    back[j, j] = back[k, k] = functions.cos(angle)
    back[j, k] = functions.sin(angle)
    back[k, j] = -back[j, k]
    motion = _zeros(6, 6)
    motion[:3, :3] = motion[3:, 3:] = back
    motion[:3, 3:] = -back @ _skew((0.0, 0.0, offset))
    return motion


def _spatial_inertia(mass, distance, moment):
    lever = _skew((0.0, 0.0, distance))
    inertia = _zeros(6, 6)
    inertia[:3, :3] = mass * np.eye(3)
    inertia[:3, 3:], inertia[3:, :3] = -mass * lever, mass * lever
    inertia[3:, 3:] = moment * np.eye(3) - mass * (lever @ lever)
    return inertia


def _cross(velocity):
    linear, angular = _skew(velocity[:3]), _skew(velocity[3:])
    matrix = _zeros(6, 6)
    matrix[:3, :3] = matrix[3:, 3:] = angular
    matrix[:3, 3:] = linear
    return matrix


def _symmetric(matrix):
    """A symmetric matrix's upper triangle, mirrored."""
    upper = np.triu_indices(len(matrix))
    matrix = matrix.copy()
    matrix[upper[1], upper[0]] = matrix[upper]
    return matrix

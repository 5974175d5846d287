"""Links on a cart from sympy's Lagrange object: how many operations their motion takes, and a controller that balances.

python -m examples.links 1
"""

import sys

import sympy as sp
import torch
from sympy.physics.mechanics import (
    LagrangesMethod,
    Lagrangian,
    Particle,
    Point,
    ReferenceFrame,
    dynamicsymbols,
)
from sympy.simplify.fu import TR8

import mpcgen


def equations(count: int) -> tuple[LagrangesMethod, list[sp.Expr], sp.Expr]:
    """Equations of point masses on massless rods, one on another, on a cart; the coordinates; the force on the cart.

    Coordinates are the cart's position and each rod's angle from the upright. Constants: `m0` the cart's mass in kg,
    `m1`, ... those at the ends of the rods, `l1`, ... the lengths in m, `g`.
    """
    q = list(dynamicsymbols(f"q:{count + 1}"))
    force = dynamicsymbols("F")
    frame, joint = ReferenceFrame("N"), Point("cart")
    joint.set_vel(frame, q[0].diff() * frame.x)
    bodies, height, loads = [Particle("cart", joint, sp.Symbol("m0"))], sp.S.Zero, [(joint, force * frame.x)]
    for i in range(1, count + 1):
        length, rate = sp.Symbol(f"l{i}"), q[i].diff()
        end = Point(f"end{i}")
        end.set_vel(
            frame,
            joint.vel(frame) + length * rate * (sp.cos(q[i]) * frame.x - sp.sin(q[i]) * frame.y),
        )
        height += length * sp.cos(q[i])
        body = Particle(f"body{i}", end, sp.Symbol(f"m{i}"))
        body.potential_energy = sp.Symbol(f"m{i}") * sp.Symbol("g") * height
        bodies.append(body)
        joint = end
    # cos(a) cos(b) + sin(a) sin(b) as cos(a - b): the equations have half the operations
    lagrangian = sp.expand(TR8(sp.expand(Lagrangian(frame, *bodies))))
    method = LagrangesMethod(lagrangian, q, forcelist=loads, frame=frame)
    method.form_lagranges_equations()
    return method, q, force


def links(count: int, horizon: int = 30) -> mpcgen.Problem:
    """Balance ``count`` links on a cart, 0.05 s a stage, with at most 50 N."""
    method, q, force = equations(count)
    problem = mpcgen.Problem(f"links_{count}", horizon=horizon)
    position = problem.states([f"q{i}" for i in range(count + 1)])  # m, rad
    rate = problem.states([f"v{i}" for i in range(count + 1)])  # m/s, rad/s
    push = problem.control("force", lower=-50, upper=50)  # N
    problem.parameters([f"m{i}" for i in range(count + 1)], default=[1.0] + [0.2] * count)
    problem.parameters([f"l{i + 1}" for i in range(count)], default=0.5)
    problem.dynamics = mpcgen.mechanics(
        problem,
        method,
        q=dict(zip(q, position, strict=True)),
        v={coordinate.diff(): v for coordinate, v in zip(q, rate, strict=True)},
        inputs={force: push},
        constants={"g": 9.81},
        dt=0.05,
    )
    upright = sum(10 * (1 - sp.cos(angle)) for angle in position[1:])
    problem.stage_cost = position[0] ** 2 + upright + 0.1 * sum(v**2 for v in rate) + 0.01 * push**2
    problem.terminal_cost = 10 * (position[0] ** 2 + upright + sum(v**2 for v in rate))
    return problem


def main() -> None:
    """Build the controller and balance from random starts."""
    count = int(sys.argv[1]) if sys.argv[1:] else 1
    mpc = mpcgen.compile(links(count), dtypes=("float64",)).MPC(
        method="interior_point", on_unconverged="ignore"
    )
    x0 = 0.1 * torch.randn(64, 2 * count + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mpcgen.diagnose(mpc(x0))


if __name__ == "__main__":
    main()

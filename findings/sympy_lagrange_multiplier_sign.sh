#!/usr/bin/env bash
# sympy 1.14: LagrangesMethod with a holonomic constraint gives its multiplier two signs, and mass_matrix_full is not symmetric.
#
# Behaviour: for a pendulum in Cartesian coordinates, the last entry of rhs() (the multiplier) is -41/8 where
# solve_multipliers() says lam1 = +41/8, for the same state. mass_matrix_full carries -J' above and +J below its diagonal.
# The accelerations agree.
# Why a good guess is wrong: both are documented as the multiplier of the same equations of motion, and a mass matrix is
# expected to be symmetric, so that a Cholesky or LDL' factorisation seems right, and tension read from rhs() has the
# wrong sign.
# Whom it hits: those who read constraint forces (contact, cable tension) from rhs(), and code generators that factor
# the full mass matrix as a symmetric one.
# Source: seen by running it; sympy.physics.mechanics.lagrange.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
import sympy as sp
from sympy.physics.mechanics import Lagrangian, LagrangesMethod, Particle, Point, ReferenceFrame, dynamicsymbols

print("sympy", sp.__version__)
x, y = dynamicsymbols("x y")
dx, dy = dynamicsymbols("x y", 1)
m, g, length = sp.symbols("m g l", positive=True)
frame, point = ReferenceFrame("N"), Point("P")
point.set_vel(frame, dx * frame.x + dy * frame.y)
bob = Particle("bob", point, m)
bob.potential_energy = m * g * y
method = LagrangesMethod(Lagrangian(frame, bob), [x, y], hol_coneqs=[x**2 + y**2 - length**2], frame=frame)
method.form_lagranges_equations()
hanging = {x: 0, y: -1, dx: sp.Rational(1, 2), dy: 0, m: 1, g: 10, length: 1}
by_rhs = method.rhs()[-1].subs(hanging)
(by_multipliers,) = (value.subs(hanging) for value in method.solve_multipliers().values())
full = method.mass_matrix_full
print("multiplier by rhs():              ", by_rhs)
print("multiplier by solve_multipliers():", by_multipliers)
print("mass_matrix_full - its transpose: ", (full - full.T).tolist())
assert by_rhs == -by_multipliers == sp.Rational(-41, 8), "the behaviour has changed"
assert full != full.T, "the behaviour has changed"
PYTHON

#!/usr/bin/env bash
# CasADi 3.8.2: the sensitivity of an IPOPT solution is zero for every variable that has a finite bound, unless min_lam is set.
#
# Behaviour: minimise (x - p)^2 with -1 <= x <= 1. At p = 0.3 no bound is active and dx/dp = 1. Differentiating the
# nlpsol object gives 0. With the option min_lam = 1e-6 it gives 1.
# Why a good guess is wrong: an interior point leaves every bound a multiplier of about mu / slack (1.7e-9 here), and
# CasADi takes a bound for active as soon as its multiplier is larger than min_lam, whose default is 0. Nothing warns;
# the same problem without bounds is differentiated correctly, so a check on an unbounded toy passes.
# Whom it hits: everybody who differentiates through nlpsol with IPOPT and boxes: parameter estimation, bilevel design,
# and those who validate their own gradients against CasADi's.
# Source: seen by running it; CasADi's option list of nlpsol names min_lam without this consequence.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet casadi==3.8.2
"$folder/venv/bin/python" - <<'PYTHON'
import casadi as ca

print("casadi", ca.__version__)
x, p = ca.SX.sym("x"), ca.SX.sym("p")
problem = {"x": x, "p": p, "f": (x - p) ** 2}
quiet = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes"}
slopes = {}
for name, options in (("default", {}), ("min_lam=1e-6", {"min_lam": 1e-6})):
    solver = ca.nlpsol("solver", "ipopt", problem, quiet | options)
    P = ca.MX.sym("P")
    solution = solver(p=P, lbx=-1, ubx=1, x0=0)
    slope = ca.Function("slope", [P], [ca.jacobian(solution["x"], P), solution["x"], solution["lam_x"]])
    slopes[name], place, multiplier = (float(value) for value in slope(0.3))
    print(f"{name:<13} x = {place:.6f}  multiplier = {multiplier:.1e}  dx/dp = {slopes[name]:g}   (right: 1)")
assert slopes == {"default": 0.0, "min_lam=1e-6": 1.0}, "the behaviour has changed"
PYTHON

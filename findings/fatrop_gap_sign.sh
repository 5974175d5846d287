#!/usr/bin/env bash
# CasADi 3.8.2 with fatrop: a shooting gap is accepted as x_next - f(x, u) and as nothing else, not even as f(x, u) - x_next.
#
# Behaviour: one double integrator, three ways to write the same gap. x_next - f solves in one iteration; f - x_next and
# 2 (x_next - f) raise "An exception was raised in the solver", with the structure given by hand and with
# structure_detection="auto" alike.
# Why a good guess is wrong: an equality constraint has no sign and no scale for IPOPT and every other CasADi solver, and
# f - x_next is the form that most multiple-shooting tutorials write. The structure that is asked for (N, nx, nu, ng) is
# the same in all three; that the block of the next state must be the identity with coefficient +1 is not said.
# Whom it hits: everybody who tries fatrop by changing the solver's name in a working IPOPT script, and generators of
# multiple-shooting problems that scale their gaps.
# Source: seen by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet casadi==3.8.2
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import casadi as ca

print("casadi", ca.__version__)
N, n, m = 4, 2, 1
GAPS = {
    "x_next - f": lambda following, f: following - f,
    "f - x_next": lambda following, f: f - following,
    "2 (x_next - f)": lambda following, f: 2 * (following - f),
}


def problem(gap):
    x = [ca.MX.sym(f"x{k}", n) for k in range(N + 1)]
    u = [ca.MX.sym(f"u{k}", m) for k in range(N)]
    rows, cost = [], ca.sumsqr(x[N])
    for k in range(N):
        rows.append(gap(x[k + 1], ca.vertcat(x[k][0] + 0.1 * x[k][1], x[k][1] + 0.1 * u[k])))
        if k == 0:
            rows.append(x[0] - ca.DM([1, 0]))
        cost += ca.sumsqr(x[k]) + ca.sumsqr(u[k])
    variables = [v for pair in zip(x, u) for v in pair] + [x[N]]
    return {"x": ca.vertcat(*variables), "f": cost, "g": ca.vertcat(*rows)}


sizes = {"N": N, "nx": [n] * (N + 1), "nu": [m] * N + [0], "ng": [n] + [0] * N}
solved = {}
for detection in ("manual", "auto"):
    for name, gap in GAPS.items():
        options = {"print_time": False, "fatrop.print_level": 0, "structure_detection": detection}
        options |= {"equality": [True] * (n * (N + 1))} | (sizes if detection == "manual" else {})
        try:
            solver = ca.nlpsol("solver", "fatrop", problem(gap), options)
            solution = solver(lbg=0, ubg=0, x0=0)
            outcome = f"solved, cost {float(solution['f']):.4f}"
        except RuntimeError as error:
            outcome = "raises: " + str(error).splitlines()[-1].split(": ")[-1]
        solved[detection, name] = outcome.startswith("solved")
        print(f"{detection:<7} {name:<15} {outcome}")
assert all(good == (name == "x_next - f") for (_, name), good in solved.items()), "the behaviour has changed"
PYTHON

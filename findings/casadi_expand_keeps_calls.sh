#!/usr/bin/env bash
# CasADi 3.8.2: Function.expand() of an MX function with a rootfinder succeeds and leaves a call inside the SXFunction.
#
# Behaviour: expand() returns an SXFunction whose instructions contain OP_CALL; it evaluates correctly, but it is not
# scalar code. A dense linear solve in MX, on the other hand, makes expand() raise ("eval_sx not defined"), except with
# the solver "symbolicqr", which expands to scalar operations.
# Why a good guess is wrong: "it expanded, so it is a list of scalar operations" is what the word and the class name
# promise, and what it is for functions without callees; a reader of the instructions that maps operation codes one by
# one meets a code with several inputs and outputs.
# Whom it hits: importers and code generators that walk SX instructions (converters to other graphs, C or GPU
# printers), and users who take expand() for a test of whether a model can be exported.
# Source: seen by running it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet casadi==3.8.2
"$folder/venv/bin/python" - <<'PYTHON'
import casadi as ca

print("casadi", ca.__version__)
z, q = ca.SX.sym("z"), ca.SX.sym("q")
root = ca.rootfinder("root", "newton", {"x": z, "p": q, "g": z**3 + z - q})
x = ca.MX.sym("x", 2)
expanded = ca.Function("f", [x], [root(x0=0, p=x[0])["x"] + x[1]]).expand()
codes = [expanded.instruction_id(k) for k in range(expanded.n_instructions())]
print(f"rootfinder: expand() gives {expanded.class_name()}, codes {codes}, OP_CALL = {ca.OP_CALL}")
assert expanded.class_name() == "SXFunction" and ca.OP_CALL in codes, "the behaviour has changed"

A, b = ca.MX.sym("A", 2, 2), ca.MX.sym("b", 2)
outcomes = {}
for name, solution in (("default", ca.solve(A, b)), ("symbolicqr", ca.solve(A, b, "symbolicqr"))):
    try:
        ca.Function("g", [A, b], [solution]).expand()
        outcomes[name] = "expands"
    except RuntimeError as error:
        outcomes[name] = "raises: " + str(error).splitlines()[-1].split(": ", 1)[-1]
    print(f"solve, {name}: {outcomes[name]}")
assert outcomes["symbolicqr"] == "expands" and "eval_sx" in outcomes["default"], "the behaviour has changed"
PYTHON

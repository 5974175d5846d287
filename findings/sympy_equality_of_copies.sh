#!/usr/bin/env bash
# sympy 1.14: comparing two equal expressions that were built apart takes time that doubles with every shared level.
#
# Behaviour: e_{k+1} = sin(e_k) + e_k x, a graph of 3 nodes a level. Built twice while sympy's cache still knows the first,
# both are one object and == is immediate. Built twice with the cache cleared in between, as it is by itself once a
# thousand other calls have passed, == takes 4 times as long for every two levels: 20 levels take seconds, 60 nodes in
# all. Dictionaries and sets keyed by expressions call ==, so the second copy need only be looked up.
# Why a good guess is wrong: hashes are kept with each node and agree, the cache makes small experiments immediate, and
# expressions are immutable, so that one takes them for hash-consed and == for a comparison of pointers or of hashes.
# Whom it hits: importers that make sympy expressions from other graphs (CasADi, torch, ONNX) and meet the same function
# twice; code generators and differentiators that keep a table of expressions.
# Source: seen by running it; Basic.__eq__ compares arguments without remembering pairs, and the cache holds 1,000 calls.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
import time

import sympy as sp
from sympy.core.cache import clear_cache

print("sympy", sp.__version__)
x = sp.Symbol("x")


def shared(levels):
    expression = x
    for _ in range(levels):
        expression = sp.sin(expression) + sp.Mul(expression, x, evaluate=False)
    return expression


def seconds(levels, forget):
    first = shared(levels)
    if forget:
        clear_cache()
    second = shared(levels)
    start = time.perf_counter()
    assert first == second
    return time.perf_counter() - start


for levels in (10, 12, 14, 16):
    print(f"{levels} levels: {seconds(levels, False):9.6f} s while cached, {seconds(levels, True):9.6f} s built apart")
assert seconds(14, False) < 1e-3, "the behaviour has changed"
assert seconds(16, True) > 4 * seconds(12, True), "the behaviour has changed"
PYTHON

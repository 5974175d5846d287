"""Every operation of the graph through the C back end: value and derivatives in all four variants.

One function computes them all, printed by the code generator and compiled as a controller would be. A new row in
the table of operations is tested without a new line here.
"""

import ctypes
import itertools
import math
import random
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from mpcgen.build.extension import HEADER_FOLDER, VARIANTS
from mpcgen.build.toolchain import COMPILERS, find_toolchain
from mpcgen.codegen import c_function as c_text
from mpcgen.codegen.c_expression import CALLS
from mpcgen.derivative import gradient
from mpcgen.derivative.rules import RULES
from mpcgen.ir import OPERATIONS, Backend, Graph, evaluate, operation_count, topological
from mpcgen.ir.function import Function, Input, Output
from mpcgen.ir.schedule import schedule
from mpcgen.stages import Slot, StageFunction

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler on this machine")

POINTS = 320
"""Points per operation: full vectors of every width."""
GRID = (0.0, -0.0, 1.0, -1.0, 0.5, -0.7, 2.0, -3.0, 1e-3, 20.3, -20.3, 800.0, math.inf, -math.inf, math.nan)
LIBRARY_ULP = 4 + 1
"""Errors in units of the last place: glibc's libmvec promises 4, the witness's own libm is within 1."""
ARITHMETIC_ULP = 1
DTYPES = {"f64": np.float64, "f32": np.float32}
BATCH = [variant for variant, _ in VARIANTS if variant.endswith("batch")]


@dataclass(frozen=True)
class Case:
    """An operation on symbols of its own: its value, then its derivative by each real argument."""

    name: str
    symbols: tuple
    outputs: tuple


def make_case(graph, operation):
    symbols = tuple(graph.symbol(f"{operation.name}_{i}") for i in range(operation.arity))
    flags = operation.boolean_args or (False,) * operation.arity
    args = [graph.lt(0.0, symbol) if flag else symbol for symbol, flag in zip(symbols, flags, strict=True)]
    value = graph.apply(operation.name, *args)
    if operation.boolean:
        # with a further condition, or else the select would take over a negation
        further = graph.symbol(f"{operation.name}_further")
        symbols += (further,)
        value = graph.select(graph.logical_and(value, graph.lt(0.0, further)), 1.0, 0.0)
    return Case(operation.name, symbols, (value, *gradient(value, symbols)))


@cache
def cases():
    graph = Graph()
    return {name: make_case(graph, operation) for name, operation in OPERATIONS.items()}


def points(arity, dtype):
    """(POINTS, arity) numbers: the grid's combinations, then random ones of both signs and many sizes."""
    rng = random.Random(arity)
    combinations = list(itertools.product(GRID, repeat=arity))
    if len(combinations) > POINTS // 2:
        combinations = rng.sample(combinations, POINTS // 2)
    while len(combinations) < POINTS:
        combinations.append(tuple(rng.choice((-1, 1)) * 10 ** rng.uniform(-2, 1.3) for _ in range(arity)))
    return np.array(combinations, dtype=dtype)


# ---- the C side ----

HARNESS = """
#include "mpcgen_lane.h"

{function}

int MPCGEN_ENTRY(lanes)(void);
int MPCGEN_ENTRY(lanes)(void) {{ return LANES; }}

/* in: (vectors, {reads}, LANES), out: (vectors, {writes}, LANES) */
void MPCGEN_ENTRY(operations)(const scalar *in, scalar *out, int vectors);
void MPCGEN_ENTRY(operations)(const scalar *in, scalar *out, int vectors) {{
  for (int v = 0; v < vectors; v++) {{
    real arguments[{reads}], results[{writes}];
    memcpy(arguments, in + v * {reads} * LANES, sizeof arguments);
    every_operation(arguments, results);
    memcpy(out + v * {writes} * LANES, results, sizeof results);
  }}
}}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The shared library with all variants of the function, compiled as a controller's kernels are."""
    return compiled(tmp_path_factory.mktemp("operations"), source(), VARIANTS)


def compiled(folder, text, variants):
    """The shared library of some variants of a text."""
    (folder / "operations.c").write_text(text)
    toolchain = find_toolchain()
    command = toolchain.compiler.command
    flags = [*toolchain.compile_flags, "-O1", "-Werror", "-fvisibility=default", f"-I{HEADER_FOLDER}"]
    for variant, definitions in variants:
        compile_one = [*command, *flags, *definitions, "-c", "operations.c", "-o", f"{variant}.o"]
        subprocess.run(compile_one, cwd=folder, check=True)
    objects = [f"{variant}.o" for variant, _ in variants]
    link = [*command, *toolchain.link_flags, *objects, "-o", "operations.so", *toolchain.libraries]
    subprocess.run(link, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "operations.so"))


def source():
    symbols = tuple(symbol for case in cases().values() for symbol in case.symbols)
    outputs = tuple(output for case in cases().values() for output in case.outputs)
    labels = tuple(f"{case.name} {i}" for case in cases().values() for i in range(len(case.outputs)))
    return source_of(symbols, outputs, labels)


def source_of(symbols, outputs, labels):
    """The text of a function of symbols."""
    function = Function(
        "every_operation", "all of them", (Input("a", symbols),), (Output("b", outputs, labels),)
    )
    reads = Slot("a", str(len(symbols)), "arguments", "in_reals restrict a", "a")
    writes = Slot("b", str(len(outputs)), "results", "out_reals restrict b", "b")
    stage = StageFunction(function.name, function.purpose, (reads,), (writes,), inline=False)
    (printed,) = c_text.c_functions(schedule(function, {}, c_text.RESERVED), {function.name: stage})
    body = "\n".join(f"  {line}" for line in printed.body)
    text = f"{printed.comment}\n{printed.signature} {{\n{body}\n}}"
    return HARNESS.format(function=text, reads=len(symbols), writes=len(outputs))


def run(library, variant, arguments, writes=None):
    """(count, all arguments) -> (count, all results); count a multiple of the lanes, lane after lane."""
    writes = writes or sum(len(case.outputs) for case in cases().values())
    lanes = getattr(library, f"lanes_{variant}")()
    count, reads = arguments.shape
    into = np.ascontiguousarray(arguments.reshape(count // lanes, lanes, reads).transpose(0, 2, 1))
    out = np.empty((count // lanes, writes, lanes), dtype=arguments.dtype)
    pointer = ctypes.c_void_p
    getattr(library, f"operations_{variant}")(
        pointer(into.ctypes.data), pointer(out.ctypes.data), count // lanes
    )
    return out.transpose(0, 2, 1).reshape(count, writes)


def all_points(variant):
    dtype = DTYPES[variant[:3]]
    return np.concatenate([points(len(case.symbols), dtype) for case in cases().values()], axis=1)


@pytest.fixture(scope="module")
def results(library):
    """For each variant, every operation at all its points."""
    return {variant: run(library, variant, all_points(variant)) for variant, _ in VARIANTS}


@pytest.fixture(scope="module")
def shuffled(library):
    """For each batch variant, pairs of an order of the points and the results in that order."""
    orders = [np.random.default_rng(seed).permutation(POINTS) for seed in range(8)]
    return {
        variant: [(order, run(library, variant, all_points(variant)[order])) for order in orders]
        for variant in BATCH
    }


def columns(name):
    """Where an operation's results lie."""
    at = 0
    for case in cases().values():
        if case.name == name:
            return slice(at, at + len(case.outputs))
        at += len(case.outputs)
    raise KeyError(name)


# ---- the witness ----


def rounded(dtype):
    """Python's floats, each result rounded to ``dtype``."""

    def operation(function):
        return lambda *args: float(dtype(function(*args)))

    table = {name: operation(row.evaluate) for name, row in OPERATIONS.items()}
    return Backend(f"python rounded to {dtype.__name__}", table, lambda values: float)


@cache
def expected(name, precision):
    """(POINTS, outputs) values and the errors they may have, to first order in the roundings of all operations."""
    case, dtype = cases()[name], DTYPES[precision]
    nodes = topological(case.outputs)
    slopes = [[rule(node, *node.args) for rule in RULES[node.op]] if node.args else [] for node in nodes]
    flat = [slope for row in slopes for slope in row]
    values, errors = [], []
    with np.errstate(all="ignore"):
        for point in points(len(case.symbols), dtype):
            known = dict(zip(case.symbols, map(float, point), strict=True))
            computed = evaluate([*nodes, *flat], known, rounded(dtype))
            value = dict(zip(nodes, computed, strict=False))
            error = running_error(nodes, slopes, value, iter(computed[len(nodes) :]), np.finfo(dtype))
            values.append([value[output] for output in case.outputs])
            errors.append([error[output] for output in case.outputs])
    return np.array(values), np.array(errors)


def running_error(nodes, slopes, value, slope_values, kind):
    """Each node's own rounding, plus its arguments' errors times its slopes.

    A result below the smallest normal number may be flushed to zero. Where a value or a slope is not finite it
    allows nothing, which is the stricter way: infinities are exact, and a power of a negative number has no slope
    by its exponent, which is then an integer and exact.
    """
    error = {}
    for node, row in zip(nodes, slopes, strict=True):
        ulp = LIBRARY_ULP if node.op in CALLS else ARITHMETIC_ULP
        total = ulp * float(kind.eps) * abs(value[node]) + float(kind.tiny) if node.args else 0.0
        for arg in node.args[: len(row)]:
            slope = next(slope_values)
            term = abs(slope) * error[arg]
            total += term if math.isfinite(term) else 0.0
        error[node] = total if math.isfinite(total) else 0.0
    return error


# ---- the facts ----


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_function_holds_the_operation_itself(name):
    """Simplification must not have replaced what this file means to test."""
    assert name in operation_count(cases()[name].outputs[:1])


@pytest.mark.parametrize("variant", [variant for variant, _ in VARIANTS])
@pytest.mark.parametrize("name", OPERATIONS)
def test_value_and_derivatives_agree_with_python(results, name, variant):
    values, errors = expected(name, variant[:3])
    got = results[variant][:, columns(name)].astype(np.float64)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(got[~finite], values[~finite])
    off = np.abs(got[finite] - values[finite]) > errors[finite]
    where = points(len(cases()[name].symbols), DTYPES[variant[:3]])[np.nonzero(finite)[0][off]]
    assert not off.any(), f"{where[:5]} give {got[finite][off][:5]}, expected {values[finite][off][:5]}"


@pytest.mark.parametrize("variant", BATCH)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_result_does_not_depend_on_the_lane_nor_on_its_neighbours(results, shuffled, name, variant):
    """Bit for bit, with NaN, infinite and out-of-domain points among the neighbours."""
    base = np.ascontiguousarray(results[variant][:, columns(name)])
    for order, moved in shuffled[variant]:
        again = np.ascontiguousarray(moved[:, columns(name)])
        np.testing.assert_array_equal(again.view(np.uint8), base[order].view(np.uint8))


# ---- machine code ----

ROOT = '#include "mpcgen_lane.h"\nreal root(real a);\nreal root(real a) { return lane_sqrt(a); }\n'


@pytest.mark.parametrize("precision", [64, 32])
def test_square_roots_of_all_lanes_are_one_instruction_where_code_is_compiled_for_size(tmp_path, precision):
    """As rare functions are, and what soft rows ask in each pass: a loop over lanes stays one there, through memory."""
    toolchain = find_toolchain()
    if toolchain.compiler.is_clang or not toolchain.compiler.triple.startswith("x86_64"):
        pytest.skip("other compilers and processors have the loop")
    (tmp_path / "root.c").write_text(ROOT)
    definitions = ("-DMPCGEN_BATCH=1", f"-DMPCGEN_PRECISION={precision}")
    command = [
        *toolchain.compiler.command,
        *toolchain.compile_flags,
        "-Os",
        f"-I{HEADER_FOLDER}",
        *definitions,
    ]
    subprocess.run([*command, "-S", "root.c"], cwd=tmp_path, check=True)
    words = [line.split() for line in (tmp_path / "root.s").read_text().splitlines()]
    roots = [line[0].lstrip("v") for line in words if line and "sqrt" in line[0]]
    assert roots == ["sqrtpd" if precision == 64 else "sqrtps"]
    assert not any(line and line[0].startswith("j") for line in words)


# ---- matrices of zeros ----


def test_a_matrix_that_is_mostly_zeros_is_written_by_loops(tmp_path):
    """Zeros at once, constants at even distances by a loop each, and the rest entry by entry."""
    graph, n, rng = Graph(), 40, np.random.default_rng(0)
    x, y = symbols = (graph.symbol("x"), graph.symbol("y"))
    entries = [graph.const(0.0)] * n**2
    for i in range(n):
        entries[i * (n + 1)] = graph.const(1.0) if i != 20 else x * y  # a diagonal with a gap
        entries[i * n + (n - 1 - i)] = graph.const(-0.5)  # the other one
    for place in rng.choice(n**2, 30, replace=False):
        entries[place] = graph.const(2.0) if place % 2 else x + y
    text = source_of(symbols, tuple(entries), tuple(f"{i // n}, {i % n}" for i in range(n**2)))
    stores = [line for line in text.splitlines() if line.startswith("  b[")]
    assert len(stores) < 60
    single = [variant for variant in VARIANTS if variant[0] == "f64_single"]
    given = np.array([[0.3, -1.7], [2.0, 5.0]])
    found = run(compiled(tmp_path, text, single), "f64_single", given, n**2)
    for values, row in zip(given.tolist(), found, strict=True):
        known = dict(zip(symbols, values, strict=True))
        assert row.tolist() == evaluate(tuple(entries), known)

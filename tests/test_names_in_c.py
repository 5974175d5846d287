"""Names that C, its libraries or our headers use for something else: a problem is the same under them."""

import re
import shutil
import subprocess
import unicodedata

import pytest
import sympy as sp
import torch

import mpcgen
from mpcgen.build.cuda import find_shim_toolchain
from mpcgen.build.digest import HEADER_FOLDER
from mpcgen.build.extension import VARIANTS, write_sources
from mpcgen.build.toolchain import COMPILERS, find_toolchain
from mpcgen.codegen.c_function import RESERVED
from mpcgen.compiler import render_spec
from mpcgen.ir.schedule import _Names
from mpcgen.runtime.naming import ascii_name, c_stem

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler on this machine")

_STRANGE = """
    OUTLINED M_PI_2 INT32_MAX ROUND_BY floor fmax double \u03b8 theta _x __x _X real linux errno isnan F q ALL
    mpcgen_cuda lane_exp t0 u\u0308 I self_ restrict
"""
STRANGE = unicodedata.normalize("NFKC", _STRANGE).split()


def problem(name, names):
    """A ring of states, each with a control and weights, all named in order."""
    made = mpcgen.Problem(name, horizon=4)
    count = max(len(names) // 8, 2)
    states, controls = made.states(names[:count]), made.controls(names[count : 2 * count], lower=-1, upper=1)
    rate, *weights = made.parameters(names[2 * count :], default=1.5)
    made.dynamics = [
        x + rate * sp.sin(following) / 10 + u / 10
        for x, u, following in zip(states, controls, (*states[1:], states[0]), strict=True)
    ]
    squares = [weight * states[i % count] ** 2 for i, weight in enumerate(weights)]
    made.stage_cost = sum(squares) + sum(u**2 for u in controls)
    return made


def solved(name, names):
    mpc = mpcgen.compile(problem(name, names), dtypes=("float64",)).MPC()
    return mpc(torch.linspace(-1.0, 1.0, len(mpc.controller.states), dtype=torch.float64))


@pytest.fixture(scope="module")
def plain():
    return solved("plain", [f"n{index}" for index in range(len(STRANGE))])


def test_symbols_of_any_name_give_the_same_controls(plain):
    assert torch.equal(solved("strange", STRANGE).u, plain.u)


@pytest.mark.parametrize("name", ["LANE", "limits", "mpcgen_cuda", "\u03b8"])
def test_a_problem_of_any_name_compiles(name):
    """Two states suffice: the name is in the files and the functions' names."""
    solution = solved(name, ["x", "y", "u", "v", "a", "b"])
    assert solution.status.item() == 0
    assert name in repr(solution.controller) or c_stem(name) in repr(solution.controller)


def macros(command, folder, source):
    done = subprocess.run(
        [*command, f"-I{HEADER_FOLDER}", "-dM", "-E", source],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"^#define (\w+)", done.stdout, re.MULTILINE))


def test_the_preprocessor_knows_no_name_that_is_not_reserved(tmp_path):
    """Macros of all variants, of the host's C and of the C++ in which kernels for devices are compiled."""
    rendered = render_spec(problem("plain", ["x", "y", "u", "v", "a", "b"]).spec())
    write_sources(rendered, tmp_path)
    toolchain = find_toolchain()
    compiler = [*toolchain.compiler.command, *toolchain.compile_flags]
    found = set()
    for _, definitions in VARIANTS:
        found |= macros([*compiler, *definitions], tmp_path, "plain.c")
    shim = find_shim_toolchain()
    flags = [flag for flag in (*shim.command, *shim.compile_flags) if flag != "-c"]
    found |= macros([*flags, "-DMPCGEN_PRECISION=64"], tmp_path, "plain.c")
    assert "INT32_MAX" in found
    names = _Names(RESERVED)
    kept = {name for name in found if names.claim(name) == name and not name.startswith("MPCGEN_")}
    assert not kept, "add them to mpcgen/codegen/c_words.py"


def test_headers_of_one_unit_name_no_functions_alike():
    """Of those in a set a unit has one, or C++ tells their functions apart by the arguments."""
    alternatives = (
        {"thread_kernels", "warp_kernels"},
        {"interleaved", "lane"},
        {"arrays", "network_memory"},
        {"interior_point_sweep", "warp_differentials"},
        {"launch", "shim", "shim_warp"},
        {"alone", "batch", "cuda", "parallel", "stage_equations"},
        {"implicit", "runge_kutta"},
    )
    definition = re.compile(r"^[A-Z][\w *]*?\b([a-z]\w*)\([^;{}#]*\) \{", re.MULTILINE)
    headers = {}
    for path in HEADER_FOLDER.glob("mpcgen_*.h"):
        for name in definition.findall(path.read_text()):
            headers.setdefault(name, set()).add(path.stem.removeprefix("mpcgen_"))
    assert headers["slopes_of_costs"] == {"control"}
    clashes = {n: h for n, h in headers.items() if len(h) > 1 and not any(h <= some for some in alternatives)}
    assert not clashes


def test_a_name_stays_itself_where_it_collides_with_nothing():
    names = _Names(RESERVED)
    kept = ["x", "floor", "fmax", "_x", "x__", "M", "C_0_0", "E1", "LANE"]
    assert [names.claim(name) for name in kept] == kept
    changed = [
        names.claim(name) for name in ("\u03b8", "theta", "double", "M_PI_2", "__x", "u\u0308", "\u4f4d")
    ]
    assert changed == ["theta_", "theta__", "double_", "M_PI_2_", "__x_", "u", "u4f4d"]


def test_names_in_ascii():
    assert [ascii_name(name) for name in ("x_1", "\u03b8_1", "\u0398", "\u00e9t\u00e9", "\u03b1\u03b2")] == [
        "x_1",
        "theta_1",
        "Theta",
        "ete",
        "alphabeta",
    ]
    assert [c_stem(name) for name in ("car", "LANE", "Mpcgen_x", "\u03b8")] == [
        "car",
        "LANE_",
        "Mpcgen_x_",
        "theta",
    ]

"""The text of an exported controller: C99 of one problem, one precision, one method and one horizon."""

from __future__ import annotations

import re
import struct
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan

from mpcgen.codegen.c_words import c_words
from mpcgen.codegen.filling import fill
from mpcgen.codegen.problem_text import dual_count, problem_text
from mpcgen.codegen.render import descriptions, gradient_members, solve_members
from mpcgen.derivative.kernels import Kernels
from mpcgen.ir.schedule import Schedules
from mpcgen.passes.economy import Economy
from mpcgen.runtime.controller import Parameter
from mpcgen.runtime.naming import ascii_name, c_stem
from mpcgen.runtime.parts import BITS
from mpcgen.runtime.status import Status

NUMBERS = {"float64": "double", "float32": "float"}
_BITS = {"float64": 64, "float32": 32}
_TOLERANCES = {"float64": 1e-8, "float32": 1e-4}
_BEARABLE = 1e-3
"""A violation that the use shown in a header allows: plants are not known to more digits as a rule."""
MOST_LISTED = 16
"""Entries of a parameter up to which its defaults are set one by one, where all are the same."""
MAX_ITERATIONS = 200
"""Passes of a solve, by default; as of the torch module."""
UNKNOWN_WORKSPACE = 1 << 20
"""A workspace that is large enough, where its size is yet to be found."""
_C_HEADERS = """
assert complex ctype errno fenv float inttypes iso646 limits locale malloc math setjmp signal stdalign stdarg stdatomic
stdbit stdbool stdckdint stddef stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar unistd wchar
wctype
"""
"""Headers of C libraries, without the ".h"."""
_OF_DIFFERENTIALS = re.compile(r"_(gradient|forward)(_\d+)?$")


@dataclass(frozen=True)
class ExportOptions:
    """What an exported controller is made for.

    dtype: "float32" or "float64". horizon: N. method: "ddp" or "interior_point". hessian: "exact" or "gauss_newton".
    constants: names of the parameters that are their defaults. prefix: what its files and functions begin with.
    gradient: whether it differentiates solutions, in reverse mode. max_iterations: passes of a solve, by default.
    """

    dtype: str
    horizon: int
    method: str
    hessian: str
    constants: tuple[str, ...]
    prefix: str
    gradient: bool = False
    max_iterations: int = MAX_ITERATIONS


def export_text(
    kernels: Kernels,
    economy: Economy,
    schedules: Schedules,
    options: ExportOptions,
    workspace: int,
    constants: Sequence[tuple[str, str]] = (),
    start: Sequence[float] | None = None,
) -> dict[str, str]:
    """Return the exported files by name, but for the headers that the source includes.

    workspace: numbers that a solve works in. constants: names and values of parameters that the text has no more, for
    people. start: the state that the example begins at; zero by default.
    """
    stem, number = options.prefix, NUMBERS[options.dtype]
    members = struct_members(kernels.model.signature.parameters)
    parameters = [
        _parameter(p, members[p.name], number, options.horizon) for p in kernels.model.signature.parameters
    ]
    by_barrier = options.method == "interior_point"
    shared = {
        "stem": stem,
        "name": kernels.model.signature.name,
        "number": number,
        "horizon": options.horizon,
        "n_state": len(kernels.model.states),
        "n_control": len(kernels.model.controls),
        "gradient": options.gradient,
        "parameters": parameters,
    }
    rows = descriptions(kernels)
    header = fill(
        "export/controller.h.j2",
        shared
        | {key: rows[key] for key in ("state_rows", "control_rows", "constraint_rows")}
        | {
            "guard": f"{stem.upper()}_H",
            "constants": [f"{name}: {text}" for name, text in constants],
            "statuses": list(status_lines()),
            "bearable": literal(_BEARABLE, options.dtype) if kernels.model.constrained else "",
            "members": [line and f"  {line}" for line in _struct(kernels, options, parameters, workspace)],
            "required": any(p.default is None for p in kernels.model.signature.parameters),
        },
    )
    source = fill(
        "export/controller.c.j2",
        shared
        | {
            "algorithm": "mpcgen_interior_point.h and what it includes"
            if by_barrier
            else "mpcgen_solver.h and what it includes",
            "precision": _BITS[options.dtype],
            "part": _part(kernels, options),
            "method": "interior point" if by_barrier else "box-DDP",
            "exact": int(options.hessian == "exact"),
            "constraint_rows": rows["constraint_rows"],
            "problem_text": problem_text(kernels, economy, schedules, _wanted(kernels, options)),
            "solve_members": solve_members(kernels, "scalar"),
            "gradient_members": gradient_members(kernels, "scalar"),
            "tolerance": literal(_TOLERANCES[options.dtype], options.dtype),
            "max_iterations": options.max_iterations,
            "defaults": [
                line
                for p in kernels.model.signature.parameters
                for line in _defaults(p, members[p.name], options)
            ],
        },
    )
    example = fill(
        "export/example.c.j2",
        {key: shared[key] for key in ("stem", "name", "number", "n_state")}
        | {
            "n_control": len(kernels.model.controls),
            "start": ", ".join(literal(x, options.dtype) for x in start or [0.0] * len(kernels.model.states)),
            "required": [
                f"/* {p.name} has no default: set controller.parameters.{members[p.name]} */"
                for p in kernels.model.signature.parameters
                if p.default is None
            ],
        },
    )
    makefile = fill("export/Makefile.j2", {"stem": stem, "name": shared["name"]})
    return {f"{stem}.h": header, f"{stem}.c": source, "example.c": example, "Makefile": makefile}


def default_prefix(name: str) -> str:
    """What the files and functions of a problem begin with: its name, where that may be one."""
    stem = c_stem(name).lstrip("_") or "controller"
    if stem.startswith("mpcgen"):
        stem = f"problem_{stem}"
    return f"{stem}_" if is_taken(stem) else stem


def is_taken(prefix: str) -> bool:
    """Whether C, or a file beside the controller's, has the name: its header would hide one of C's."""
    return prefix in c_words() or prefix in _C_HEADERS.split() or prefix == "example"


def _part(kernels: Kernels, options: ExportOptions) -> int:
    """The parts of the kernels that are in it, of `mpcgen.runtime.parts`."""
    by_barrier = options.method == "interior_point" and not kernels.model.constrained
    part = BITS["interior_point" if by_barrier else "solve"]
    return part | BITS["sensitivities"] if options.gradient else part


def _wanted(kernels: Kernels, options: ExportOptions) -> Callable[[str], bool]:
    """Which stage functions a solve calls: not those of derivatives. Loops are composed of all."""
    if kernels.loop is not None or kernels.priced or options.gradient:
        return lambda name: True
    return lambda name: not _OF_DIFFERENTIALS.search(name)


def status_lines() -> Iterator[Mapping[str, object]]:
    """Of each status its name, its number, what follows it in an enumeration, and a comment's lines."""
    for status in Status:
        last = status == len(Status) - 1
        lines = textwrap.wrap(f"/* {status.meaning} */", 112, subsequent_indent=" * ")
        yield {
            "name": status.name.lower(),
            "value": int(status),
            "comma": "" if last else ",",
            "meaning": lines,
        }


def _struct(
    kernels: Kernels, options: ExportOptions, parameters: Sequence[Mapping[str, str]], workspace: int
) -> Iterator[str]:
    """The lines of the caller's struct."""
    number, n, horizon = NUMBERS[options.dtype], len(kernels.model.states), options.horizon
    m, stem = len(kernels.model.controls), options.prefix
    if parameters:
        yield "struct {"
        yield from _commented([("  " + p["declaration"], p["meaning"]) for p in parameters])
        yield "} parameters;"
    yield from _commented(
        [
            (f"{number} tolerance;", "on the residual"),
            ("int32_t max_iterations;", "passes of one rollout and one backward sweep"),
        ]
    )
    yield ""
    yield "/* What a solve leaves; it begins at the controls that are in u. */"
    rows: list[tuple[str, str]] = [
        (f"{number} x[{horizon + 1}][{n}];", "states; the first is the one given"),
        (f"{number} u[{horizon}][{m}];", "controls; the first is to be applied"),
        (f"{number} costate[{horizon + 1}][{n}];", "multipliers of the dynamics, dL/dx"),
        (f"{number} gain[{horizon}][{m}][{n}];", "du/dx of the optimal policy, between two solves"),
    ]
    if kernels.model.constrained:
        duals = dual_count(kernels)
        rows += [
            (
                f"{number} dual[{horizon + 1}][{duals}];",
                "multipliers: bounds of controls, then rows in order",
            ),
            (f"{number} violation;", "the largest, of dynamics and rows"),
        ]
    rows += [
        (f"{number} cost;", ""),
        (f"{number} residual;", "of the first-order conditions"),
        ("int32_t status;", "how the solve ended"),
        ("int32_t iterations;", ""),
    ]
    if options.method == "interior_point":
        rows.append(
            ("int32_t near_solution;", f"the next solve begins near this solution: set by {stem}_shift")
        )
    yield from _commented([*rows, (f"{number} workspace[{workspace}];", "of a solve")])


def _commented(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Declarations with what they mean, in columns."""
    width = max(len(declaration) for declaration, _ in rows)
    for declaration, meaning in rows:
        yield f"{declaration:<{width}} /* {meaning} */" if meaning else declaration


def struct_members(parameters: tuple[Parameter, ...], others: Collection[str] = ()) -> dict[str, str]:
    """Return what each parameter is called in the struct, by its name: that, where C takes it and no other has it.

    others: names that the struct's declaration uses itself.
    """
    members: dict[str, str] = {}
    for parameter in parameters:
        member = ascii_name(parameter.name)
        while member in c_words() or member in members.values() or member in others:
            member += "_"
        members[parameter.name] = member
    return members


def _parameter(parameter: Parameter, member: str, number: str, horizon: int) -> Mapping[str, str]:
    stages = (parameter.stages(horizon),) if parameter.per_stage else ()
    dims = "".join(f"[{size}]" for size in (*stages, *parameter.shape))
    what = [parameter.name] if parameter.name != member else []
    what += ["for each stage"] if parameter.per_stage else []
    what += ["no default: NaN until it is set"] if parameter.default is None else []
    return {"member": member, "declaration": f"{number} {member}{dims};", "meaning": ", ".join(what)}


def _defaults(parameter: Parameter, member: str, options: ExportOptions) -> Iterator[str]:
    """C statements that set a parameter."""
    values = parameter.default or (nan,) * parameter.size
    at = f"controller->parameters.{member}"
    stage = "[t]" if parameter.per_stage else ""
    loop = f"for (int t = 0; t < {parameter.stages(options.horizon)}; t++) " if parameter.per_stage else ""
    places = [""]
    if parameter.size > MOST_LISTED and len(set(map(repr, values))) == 1:
        loop += "".join(f"for (int i{k} = 0; i{k} < {n}; i{k}++) " for k, n in enumerate(parameter.shape))
        places, values = ["".join(f"[i{k}]" for k in range(len(parameter.shape)))], values[:1]
    else:
        for size in parameter.shape:
            places = [f"{place}[{index}]" for place in places for index in range(size)]
    for place, value in zip(places, values, strict=True):
        if value != 0:
            yield f"{loop}{at}{stage}{place} = {literal(value, options.dtype)};"


def literal(value: float, dtype: str) -> str:
    """A number as a C constant of a precision, to the bit."""
    double = "(double)" if dtype == "float64" else ""  # the macros are floats
    if value != value:
        return f"{double}NAN"
    rounded = float(value) if dtype == "float64" else struct.unpack("f", struct.pack("f", value))[0]
    if abs(rounded) == inf:
        return f"{double}INFINITY" if value > 0 else f"-{double}INFINITY"
    if dtype == "float64":
        return repr(rounded)
    text = f"{rounded:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"

"""The text of a controller as a library for batches: a CMake package with a C++17 header."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mpcgen.codegen.c_words import c_words
from mpcgen.codegen.export import literal, status_lines, struct_members
from mpcgen.codegen.filling import fill
from mpcgen.codegen.problem_text import dual_count
from mpcgen.derivative.kernels import Kernels
from mpcgen.errors import SpecError
from mpcgen.runtime.controller import Parameter
from mpcgen.runtime.naming import c_stem
from mpcgen.runtime.parts import BITS

_TARGETS = """
all clean depend edit_cache help install list_install_components package package_source rebuild_cache test
"""
"""What CMake and the tools that it writes for call targets of their own."""
SOLVES = BITS["solve"] | BITS["interior_point"]
"""Both methods in one object file."""


def library_text(kernels: Kernels, version: str, start: Sequence[float] | None = None) -> dict[str, str]:
    """Return the files around a package's C text, by their places in the folder.

    version: of mpcgen. start: the state that the example begins at; zero by default.
    """
    model = kernels.model
    name, stem = model.signature.name, c_stem(model.signature.name)
    if stem in c_words() or stem in _TARGETS.split():
        raise SpecError(
            f"problem name {name!r} is a word of C++'s or a target of CMake's, and no library can have it; "
            f"rename the problem, for example {stem + '_mpc'!r}"
        )
    members = struct_members(model.signature.parameters, {"Number", "std", "Parameters"})
    parameters = [_parameter(p, members[p.name]) for p in model.signature.parameters]
    header = fill(
        "export/batch.hpp.j2",
        {
            "stem": stem,
            "name": name,
            "guard": f"{stem.upper()}_HPP",
            "n_state": len(model.states),
            "n_control": len(model.controls),
            "n_dual": dual_count(kernels),
            "horizon": model.signature.horizon,
            "constrained": model.constrained,
            "statuses": list(status_lines()),
            "parameters": parameters,
            "per_stage": any(p.per_stage for p in model.signature.parameters),
            "entries": {"double": f"{stem}_solve_f64_batch", "float": f"{stem}_solve_f32_batch"},
            "method": 1 if model.constrained else 2,
        },
    )
    part = BITS["solve"] if model.constrained else SOLVES
    macro = stem.upper()
    cmake = fill(
        "export/CMakeLists.txt.j2",
        {"stem": stem, "name": name, "version": version, "macro": macro, "part": part},
    )
    example = fill(
        "export/example.cpp.j2",
        {
            "stem": stem,
            "name": name,
            "start": ", ".join(literal(x, "float64") for x in start or [0.0] * len(model.states)),
            "required": [
                f"// {p.name} has no default: parameters.{members[p.name]} = ...;"
                for p in model.signature.parameters
                if p.default is None
            ],
        },
    )
    return {
        f"include/{stem}.hpp": header,
        "CMakeLists.txt": cmake,
        f"cmake/{stem}Config.cmake.in": fill("export/Config.cmake.in.j2", {"stem": stem}),
        "example.cpp": example,
    }


def _parameter(parameter: Parameter, member: str) -> Mapping[str, object]:
    return {
        "member": member,
        "size": parameter.size,
        "stages": _stages(parameter),
        "default": _default(parameter),
        "meaning": "; ".join(_meanings(parameter, member)),
    }


def _stages(parameter: Parameter) -> str:
    """Length of the axis of stages, in the header's words; empty where there is none."""
    if not parameter.per_stage:
        return ""
    return "horizon + 1" if parameter.in_terminal else "horizon"


def _default(parameter: Parameter) -> str:
    if parameter.default is None:
        return ""
    numbers = ", ".join(f"Number({_cpp(value)})" for value in parameter.default)
    return " = {" + numbers + "}"


def _cpp(value: float) -> str:
    text = literal(value, "float64")
    return text.replace("INFINITY", "std::numeric_limits<double>::infinity()")


def _meanings(parameter: Parameter, member: str) -> Iterator[str]:
    if parameter.name != member:
        yield parameter.name
    if parameter.size > 1:
        yield f"{' x '.join(map(str, parameter.shape))} numbers"
    if parameter.per_stage:
        yield f"at {'N+1' if parameter.in_terminal else 'N'} stages, or one for all"
    if parameter.default is None:
        yield "has no default"

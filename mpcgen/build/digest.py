"""Digests: what a build depends on, as sha256.

`build_digest` names a compiled package by its text, headers and toolchain. `spec_key` names it by what
its text is derived from, and thus tells without rendering that nothing changed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import _cffi_backend
import sympy as sp

import mpcgen
import mpcgen.templates
from mpcgen.build.toolchain import Toolchain
from mpcgen.codegen.rendered import Rendered
from mpcgen.problem.spec import Spec
from mpcgen.runtime.loading import ABI, EXT_SUFFIX

PACKAGE_FOLDER = Path(mpcgen.__file__).parent
TEMPLATE_FOLDER = Path(mpcgen.templates.__file__).parent
HEADER_FOLDER = TEMPLATE_FOLDER / "runtime"
# The parts of mpcgen that stand between a spec and its compiled package.
_PIPELINE = ("problem", "graph", "derivative", "codegen", "build")


def build_digest(rendered: Rendered, toolchain: Toolchain, headers: Path = HEADER_FOLDER) -> str:
    """Sha256 (hex) over rendered text, bundled headers, toolchain, Python ABI, cffi and our interface."""
    parts = [f"{file}\n{text}" for file, text in rendered.files]
    parts += _folder_parts(headers, "*")
    parts += _machine_parts(toolchain)
    return _sha256(parts)


def spec_key(spec: Spec, toolchain: Toolchain) -> str:
    """Sha256 (hex) over a specification, mpcgen's own sources and templates, and the toolchain."""
    parts = list(canonical_lines(spec))
    for name in _PIPELINE:
        parts += _folder_parts(PACKAGE_FOLDER / name, "*.py")
    parts += _folder_parts(TEMPLATE_FOLDER, "*")
    parts += [sp.__version__, version("jinja2")]
    parts += _machine_parts(toolchain)
    return _sha256(parts)


def canonical_lines(spec: Spec) -> Iterator[str]:
    """A specification as text that is the same in every process.

    Each distinct subexpression takes one line, so that shared ones cost nothing.
    """
    dynamics = spec.dynamics
    yield f"{spec.name} horizon {spec.horizon}"
    yield f"states {spec.states} controls {tuple(control.symbol for control in spec.controls)}"
    for parameter in spec.parameters:
        yield repr(parameter)
    yield f"{dynamics.scheme} substeps {dynamics.substeps}"
    expressions = [spec.stage_cost, spec.terminal_cost, *dynamics.expressions]
    for control in spec.controls:
        expressions += [control.lower, control.upper]
    if dynamics.dt is not None:
        expressions.append(dynamics.dt)
    yield from _expression_lines(expressions)


def _expression_lines(expressions: Iterable[sp.Basic]) -> Iterator[str]:
    numbers: dict[sp.Basic, int] = {}
    outputs = [sp.sympify(expression) for expression in expressions]
    for output in outputs:
        stack = [output]
        while stack:
            node = stack[-1]
            waiting = [argument for argument in node.args if argument not in numbers]
            if node not in numbers and waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if node not in numbers:
                numbers[node] = len(numbers)
                text = " ".join(str(numbers[argument]) for argument in node.args)
                yield f"{numbers[node]} = {type(node).__name__} {text}" if node.args else sp.srepr(node)
    yield f"outputs {[numbers[output] for output in outputs]}"


def _machine_parts(toolchain: Toolchain) -> list[str]:
    return [toolchain.identity, EXT_SUFFIX, f"cffi {_cffi_backend.__version__}", f"interface {ABI}"]


def _folder_parts(folder: Path, pattern: str) -> list[str]:
    files = sorted(path for path in folder.rglob(pattern) if path.is_file() and path.suffix != ".pyc")
    return [f"{path.relative_to(folder).as_posix()}\n{path.read_text(encoding='utf-8')}" for path in files]


def _sha256(parts: Iterable[str]) -> str:
    # Hashing the parts' own digests keeps ("ab", "c") and ("a", "bc") apart.
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode()).digest())
    return total.hexdigest()

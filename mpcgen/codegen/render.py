"""Render a problem: contexts made of names, integers and printed expressions, handed to the templates."""

from __future__ import annotations

from collections.abc import Iterator

from mpcgen.codegen.filling import fill
from mpcgen.codegen.problem_text import SMALL_STAGE, dual_count, problem_text, stage_operations
from mpcgen.codegen.rendered import Rendered, source_digest
from mpcgen.derivative.kernels import Kernels
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model
from mpcgen.ir.printer import number
from mpcgen.ir.schedule import Schedules
from mpcgen.ir.walk import flops
from mpcgen.passes.economy import Economy
from mpcgen.runtime.naming import c_stem
from mpcgen.runtime.outputs import OUTPUTS
from mpcgen.runtime.parts import OF_LOOPS, PARTS, parts_of

C_KERNELS = "c/kernels.c.j2"
C_HEADER = "c/interface.h.j2"
C_SOLVE_ARGUMENTS = "c/solve_arguments.h.j2"
C_GRADIENT_ARGUMENTS = "c/gradient_arguments.h.j2"
PYTHON_PACKAGE = "python/package.py.j2"
ARGUMENTS = {
    "solve": "solve",
    "closed_loop": "closed_loop",
    "interior_point": "solve",
    "differentiate": "gradient",
    "differentiate_loop": "loop_gradient",
    "tangent": "tangent",
    "examine": "examine",
    "evaluate": "evaluate",
}
"""Of each entry point the name of its argument struct."""
VERBS = tuple(
    {"name": verb, "arguments": ARGUMENTS[verb]}
    for verb in ARGUMENTS
    if verb not in ("interior_point", *OF_LOOPS)
)
"""The entry points for CUDA, which has both methods in one, and no closed loops."""


def render(kernels: Kernels, economy: Economy, schedules: Schedules) -> Rendered:
    """Render the C text, the header and the Python package of a problem."""
    name = kernels.model.signature.name
    stem = c_stem(name)
    shared = _sizes(kernels) | descriptions(kernels)
    header = fill(C_HEADER, shared | _header_context(kernels) | {"stem": stem})
    text = {"stem": stem, "problem_text": problem_text(kernels, economy, schedules)}
    source = fill(C_KERNELS, _kernel_context(kernels, economy) | text)
    package = fill(PYTHON_PACKAGE, shared | _package_context(kernels, source_digest(header, source)))
    texts = ((f"{stem}.h", header), (f"{stem}.c", source), ("__init__.py", package))
    parts = parts_of(kernels.model.constrained)
    return Rendered(
        name,
        texts,
        header,
        source,
        stage_operations(kernels, economy) <= SMALL_STAGE,
        _figures(kernels, economy),
        parts,
    )


def _header_context(kernels: Kernels) -> dict[str, object]:
    return {
        "n_dual": dual_count(kernels),
        "has_soft_rows": kernels.model.has_soft_rows,
        "verbs": VERBS,
        "solve_members": solve_members(kernels, "double"),
        "gradient_members": gradient_members(kernels, "double"),
    }


def solve_members(kernels: Kernels, number: str) -> str:
    """The members of the solver's argument struct; number: the C type of those that are numbers."""
    context = {
        "number": number,
        "n_state": len(kernels.model.states),
        "n_control": len(kernels.model.controls),
        "n_parameters": len(kernels.model.signature.parameters),
        "n_dual": dual_count(kernels),
        "constraint_rows": kernels.model.signature.rows,
        "output_rows": list(_output_rows(kernels)),
    }
    return fill(C_SOLVE_ARGUMENTS, context)


def gradient_members(kernels: Kernels, number: str) -> str:
    """The members of the argument struct of reverse mode; number: the C type of those that are numbers."""
    context = {
        "number": number,
        "n_state": len(kernels.model.states),
        "n_control": len(kernels.model.controls),
        "n_dual": dual_count(kernels),
        "constraint_rows": kernels.model.signature.rows,
    }
    return fill(C_GRADIENT_ARGUMENTS, context)


def _output_rows(kernels: Kernels) -> Iterator[str]:
    """The pointers of the solver's argument struct to what it writes, with their shapes."""
    sizes = {"n": len(kernels.model.states), "m": len(kernels.model.controls), "duals": dual_count(kernels)}
    sizes |= {"violations": 1}
    for output in OUTPUTS:
        if output.constrained and not kernels.model.constrained:
            continue
        declaration = f"{'int32_t' if output.integer else 'void'} *{output.member};"
        dims = [str(sizes.get(dim, dim)).replace("dual stages", "N+1") for dim in output.dims]
        shape = ", ".join(["batch", *dims])
        meaning = f": {output.meaning}" if output.meaning else ""
        yield f"{declaration:<35}/* out: ({shape}){meaning} */"


def _sizes(kernels: Kernels) -> dict[str, object]:
    model = kernels.model
    return {"name": model.signature.name, "n_state": len(model.states), "n_control": len(model.controls)}


def descriptions(kernels: Kernels) -> dict[str, object]:
    """Lines for people about states, controls, constraints and parameters."""
    problem = kernels.model.signature
    width = max(map(len, problem.controls))
    pairs = zip(problem.controls, problem.bound_texts, strict=True)
    return {
        "state_rows": [f"{i}  {state}" for i, state in enumerate(problem.states)],
        "control_rows": [f"{control:<{width}}  {bounds}" for control, bounds in pairs],
        "constraint_rows": list(problem.rows),
        "parameter_rows": list(_parameter_rows(kernels)),
    }


def _parameter_rows(kernels: Kernels) -> Iterator[str]:
    parameters = kernels.model.signature.parameters
    width = max((len(p.name) for p in parameters), default=0)
    for p in parameters:
        stages = ("N+1 stages" if p.in_terminal else "N stages") + " of " if p.per_stage else ""
        default = "required" if p.default is None else f"default {_short(p.default)}"
        yield f"{p.name:<{width}}  {stages}{p.shape}, {default}"


def _short(values: tuple[float, ...]) -> str:
    if len(set(values)) == 1:
        return number(values[0]) if abs(values[0]) != float("inf") else repr(values[0])
    return "[" + ", ".join(number(v) if abs(v) != float("inf") else repr(v) for v in values) + "]"


def _kernel_context(kernels: Kernels, economy: Economy) -> dict[str, object]:
    model = kernels.model
    return _sizes(kernels) | {
        "states": ", ".join(model.signature.states),
        "controls": ", ".join(model.signature.controls),
        "horizon": model.signature.horizon,
        "operations": [_operations_row(function) for function in economy.functions],
        "verbs": VERBS,
        "parts": _parts(model.constrained),
    }


def _operations_row(function: Function) -> str:
    return f"{function.name:<32} {flops(function.expressions()):>7}"


def _parts(constrained: bool) -> list[dict[str, object]]:
    """The parts that are compiled apart: the macro of each, and its entry points with the runs that they are."""
    return [
        {
            "macro": f"PART_{part.upper()}",
            "verbs": [
                {
                    "name": verb,
                    "arguments": ARGUMENTS[verb],
                    "run": "solve" if verb == "interior_point" else verb,
                }
                for verb in PARTS[part]
            ],
        }
        for part in parts_of(constrained)
    ]


def _package_context(kernels: Kernels, digest: str) -> dict[str, object]:
    problem = kernels.model.signature
    parameters = [
        {
            "arguments": f"{p.name!r}, {p.shape!r}, {_default(p.default)}, "
            f"{p.per_stage}, {p.in_terminal}, {p.only_bounds}"
        }
        for p in problem.parameters
    ]
    constraints = [
        f"{c.name!r}, {c.group!r}, {c.first}, {c.rows}, {c.vector}, {c.soft}" for c in problem.constraints
    ]
    return {
        "source_digest": digest,
        "horizon": problem.horizon,
        "state_names": repr(problem.states),
        "control_names": repr(problem.controls),
        "parameters": parameters,
        "constraints": constraints,
    }


def _default(default: tuple[float, ...] | None) -> str:
    if default is None:
        return "None"
    if len(default) > 1 and len(set(default)) == 1:
        return f"({_literal(default[0])},) * {len(default)}"
    return "(" + "".join(f"{_literal(value)}, " for value in default).strip() + ")"


def _literal(value: float) -> str:
    return f'float("{value}")' if abs(value) == float("inf") else repr(value)


def _row_figures(model: Model) -> list[tuple[str, int | float | str]]:
    groups = (("mixed", model.mixed), ("state", model.state_rows), ("terminal", model.terminal))
    return [(f"{name} constraint rows", len(rows)) for name, rows in groups if rows]


def _figures(kernels: Kernels, economy: Economy) -> tuple[tuple[str, int | float | str], ...]:
    model = kernels.model
    nonzero = sum(not entry.is_zero for row in kernels.F for entry in row)
    figures: list[tuple[str, int | float | str]] = [
        ("states", len(model.states)),
        ("controls", len(model.controls)),
        ("parameters", len(model.parameters)),
        ("nonzero entries of F", nonzero),
        ("entries of F", sum(len(row) for row in kernels.F)),
        *_row_figures(model),
        ("Riccati products", "unrolled" if kernels.fused else "loops"),
        *((("substeps in a loop", kernels.loop.substeps.count),) if kernels.loop else ()),
    ]
    figures += [(f"operations of {f.name}", flops(f.expressions())) for f in economy.functions]
    return tuple(figures)

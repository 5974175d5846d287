"""Render a problem: contexts made of names, integers and printed expressions, handed to the templates."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jinja2
import jinja2.meta

from mpcgen.codegen.c_function import CFunction, c_functions, linear_alias
from mpcgen.codegen.c_substeps import composed_functions
from mpcgen.codegen.rendered import Rendered, source_digest
from mpcgen.codegen.template_folder import TEMPLATE_FOLDER
from mpcgen.derivative.kernels import Kernels
from mpcgen.derivative.matrices import product_count
from mpcgen.errors import InternalError
from mpcgen.ir.function import Function
from mpcgen.ir.model import Implicit, Model
from mpcgen.ir.printer import number
from mpcgen.ir.schedule import Schedules
from mpcgen.ir.walk import degree, flops
from mpcgen.passes.economy import Economy
from mpcgen.runtime.naming import c_stem
from mpcgen.runtime.outputs import OUTPUTS
from mpcgen.runtime.parts import PARTS, parts_of
from mpcgen.stages import StageFunction, contract
from mpcgen.stages.contract import DERIVE, DYNAMICS, EXPAND, ROWS

C_KERNELS = "c/kernels.c.j2"
C_HEADER = "c/interface.h.j2"
PYTHON_PACKAGE = "python/package.py.j2"
SMALL_STAGE = 500
"""Operations of a stage's rollout and backward sweep up to which the sweep keeps a stage's model in registers and the
compiler is asked for all that it can do.

The registers bring 7 % on pendulum (174 operations), 6 % on car (361) and 2 to 5 % on cartpole (456), where half of the
stores go. Above, there are too few. For the compiler see `LARGE_FLAGS` in `mpcgen.build.toolchain`.
"""
ARGUMENTS = {
    "solve": "solve",
    "interior_point": "solve",
    "differentiate": "gradient",
    "tangent": "tangent",
    "examine": "examine",
}
"""Of each entry point the name of its argument struct."""
VERBS = tuple({"name": verb, "arguments": ARGUMENTS[verb]} for verb in ARGUMENTS if verb != "interior_point")
"""The entry points for CUDA, which has both methods in one."""


@dataclass(frozen=True)
class LayoutRow:
    """A parameter in the kernels: ``size`` numbers from ``offset`` on, in theta or in a row of theta_stage."""

    name: str
    size: int
    offset: int
    per_stage: int
    in_terminal: int
    only_bounds: int


def render(kernels: Kernels, economy: Economy, schedules: Schedules) -> Rendered:
    """Render the C text, the header and the Python package of a problem."""
    name = kernels.model.signature.name
    stem = c_stem(name)
    shared = _sizes(kernels) | _descriptions(kernels)
    header = _fill(C_HEADER, shared | _header_context(kernels) | {"stem": stem})
    context = _kernel_context(kernels, economy, schedules) | {"stem": stem}
    source = _fill(C_KERNELS, context)
    package = _fill(PYTHON_PACKAGE, shared | _package_context(kernels, source_digest(header, source)))
    texts = ((f"{stem}.h", header), (f"{stem}.c", source), ("__init__.py", package))
    parts = parts_of(kernels.model.constrained)
    return Rendered(name, texts, header, source, bool(context["small"]), _figures(kernels, economy), parts)


def _header_context(kernels: Kernels) -> dict[str, object]:
    n_parameters = len(kernels.model.signature.parameters)
    rows = list(_output_rows(kernels))
    return {
        "n_parameters": n_parameters,
        "n_dual": _dual_count(kernels),
        "has_soft_rows": kernels.model.has_soft_rows,
        "verbs": VERBS,
        "output_rows": rows,
    }


def _dual_count(kernels: Kernels) -> int:
    """Multipliers of a stage, those of the controls' bounds included."""
    sizes = _row_sizes(kernels.model) or {}
    return len(kernels.model.controls) + sum(sizes.get(group, 0) for group in ("mixed", "state", "terminal"))


def _output_rows(kernels: Kernels) -> Iterator[str]:
    """The pointers of the solver's argument struct to what it writes, with their shapes."""
    sizes = {"n": len(kernels.model.states), "m": len(kernels.model.controls), "duals": _dual_count(kernels)}
    sizes |= {"violations": 1}
    for output in OUTPUTS:
        if output.constrained and not kernels.model.constrained:
            continue
        declaration = f"{'int32_t' if output.integer else 'void'} *{output.member};"
        dims = [str(sizes.get(dim, dim)).replace("dual stages", "N+1") for dim in output.dims]
        shape = ", ".join(["batch", *dims])
        meaning = f": {output.meaning}" if output.meaning else ""
        yield f"{declaration:<35}/* out: ({shape}){meaning} */"


@functools.lru_cache(maxsize=16)
def _template(text: str) -> tuple[jinja2.Template, frozenset[str]]:
    """A template of this text, and the variables that it reads."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    wanted = jinja2.meta.find_undeclared_variables(environment.parse(text))
    return environment.from_string(text), frozenset(wanted)


def _fill(template: str, context: dict[str, object]) -> str:
    """Render a template; a variable that it lacks or that it does not use is our mistake."""
    found, wanted = _template((TEMPLATE_FOLDER / template).read_text(encoding="utf-8"))
    if wanted != set(context):
        raise InternalError(
            f"template {template}: missing {sorted(wanted - set(context))}, unused {sorted(set(context) - wanted)}"
        )
    return found.render(context)


def _sizes(kernels: Kernels) -> dict[str, object]:
    model = kernels.model
    return {"name": model.signature.name, "n_state": len(model.states), "n_control": len(model.controls)}


def _descriptions(kernels: Kernels) -> dict[str, object]:
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


def _kernel_context(kernels: Kernels, economy: Economy, schedules: Schedules) -> dict[str, object]:
    model = kernels.model
    stage_operations = _stage_operations(kernels, economy)
    functions = list(_printed_functions(kernels, schedules, contract(model.constrained)))
    return _sizes(kernels) | {
        "states": ", ".join(model.signature.states),
        "controls": ", ".join(model.signature.controls),
        "horizon": model.signature.horizon,
        "operations": [_operations_row(function) for function in economy.functions],
        "n_parameters": len(model.signature.parameters),
        "n_static": len(kernels.static),
        "n_prepared": economy.prepared,
        "n_per_stage": len(kernels.per_stage),
        "bounds_vary": int(any(not b.is_const for b in (*model.lower, *model.upper))),
        "stage_operations": stage_operations,
        "small": int(stage_operations <= SMALL_STAGE),
        "row_sizes": _row_sizes(model),
        "linear": int(not kernels.curved),
        "quadratic": kernels.quadratic,
        "looped": int(not kernels.fused),
        "stage_header": "mpcgen_stage.h" if kernels.fused else "mpcgen_products.h",
        "layout": layout(kernels),
        "verbs": VERBS,
        "parts": _parts(model.constrained),
        "loop": _loop_sizes(kernels),
        "rate_functions": [function for function in functions if function.name.startswith("rate_")],
        "functions": [function for function in functions if not function.name.startswith("rate_")],
    }


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


def _loop_sizes(kernels: Kernels) -> dict[str, object] | None:
    """Of a loop over substeps: how many, the scheme, what moves, what is held, and where in (x, u) both are."""
    loop = kernels.loop
    if loop is None:
        return None
    substeps = loop.substeps
    return {
        "count": substeps.count,
        "slopes": len(substeps.share),
        "reach": ", ".join(map(repr, substeps.reach)),
        "share": ", ".join(map(repr, substeps.share)),
        "moving": substeps.width,
        "hidden": len(substeps.hidden),
        "held": len(loop.held),
        "costs": int(loop.costs),
        "carried": ", ".join(str(int(state)) for state in loop.carried),
        "places": ", ".join(map(str, (*substeps.moving, *(-1 for _ in substeps.hidden), *loop.held))),
        "implicit": _implicit(substeps.implicit),
    }


def _implicit(implicit: Implicit | None) -> dict[str, int | str] | None:
    """The stage equations of an implicit scheme."""
    if implicit is None:
        return None
    return {
        "newton": implicit.newton,
        "matrix": ", ".join(repr(entry) for row in implicit.matrix for entry in row),
        "start": repr(1 - sum(implicit.final)),
        "final": ", ".join(map(repr, implicit.final)),
        "mass": ", ".join(str(int(not zero)) for zero in implicit.algebraic),
    }


def _row_sizes(model: Model) -> dict[str, int] | None:
    """Numbers of rows by group, and what is known of them beforehand; None without constraints."""
    if not model.constrained:
        return None
    rows = model.path_rows + model.terminal
    varying = (*rows.lower, *rows.upper, *rows.linear, *rows.quadratic)
    return {
        "mixed": len(model.mixed),
        "state": len(model.state_rows),
        "terminal": len(model.terminal),
        "soft": int(model.has_soft_rows),
        "vary": int(any(not value.is_const for value in varying)),
        "linear": int(
            not (model.substeps and model.substeps.implicit)
            and degree((*model.next_state, *rows.values), (*model.states, *model.controls)) <= 1
        ),
    }


def _printed_functions(
    kernels: Kernels, schedules: Schedules, table: Mapping[str, StageFunction]
) -> Iterator[CFunction]:
    names = {plan.function.name for plan in schedules.plans}
    for plan in schedules.plans:
        yield from c_functions(plan, table)
        for names_by_kind in (EXPAND, DERIVE):
            if plan.function.name == names_by_kind["gauss_newton"] and names_by_kind["exact"] not in names:
                yield linear_alias(table)
    if kernels.loop is not None:
        yield from composed_functions(table, names)


def _stage_operations(kernels: Kernels, economy: Economy) -> int:
    """Roughly what a rollout and a backward sweep do per stage: functions, and products that are loops."""
    functions = {function.name: function for function in economy.functions}
    if kernels.loop is not None:
        return kernels.loop.operations({name: flops(f.expressions()) for name, f in functions.items()})

    def count(name: str) -> int:
        return flops(functions[name].expressions()) if name in functions else 0

    expansion = max(count(name) for name in (*EXPAND.values(), *DERIVE.values()))
    products = 0 if kernels.fused else 2 * product_count(kernels.F)
    return count(DYNAMICS) + count(ROWS) + expansion + products


def _operations_row(function: Function) -> str:
    return f"{function.name:<32} {flops(function.expressions()):>7}"


def layout(kernels: Kernels) -> list[LayoutRow]:
    """Where each parameter lies in the kernels' arrays."""
    offsets = {False: 0, True: 0}
    rows = []
    for p in kernels.model.signature.parameters:
        size = p.size
        rows.append(
            LayoutRow(
                p.name, size, offsets[p.per_stage], int(p.per_stage), int(p.in_terminal), int(p.only_bounds)
            )
        )
        offsets[p.per_stage] += size
    return rows


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

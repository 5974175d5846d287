"""What `mpcgen inspect` prints: sizes, parameter layout, sparsity, operations, text sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpcgen.codegen.problem_text import layout
from mpcgen.codegen.rendered import Rendered
from mpcgen.derivative.kernels import FUSED_LIMIT, Kernels
from mpcgen.derivative.matrices import Matrix, hessian, jacobian, product_count
from mpcgen.ir import Expr, flops, operation_count
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model
from mpcgen.passes.economy import Economy

WIDTH = 100
_MOST_SPACED = 24
"""Most columns of a matrix that still get room for a number each."""
_SMALL = 8
"""Most rows of a diagonal or dense matrix that is still drawn."""


def overview(kernels: Kernels, economy: Economy, rendered: Rendered) -> str:
    """Return sizes, parameter layout, sparsity, operation counts and text sizes, laid out for a terminal."""
    sections = (
        ("", _sizes(kernels.model, kernels.carried)),
        ("Parameters", _parameters(kernels)),
        ("Sparsity", _sparsity(kernels)),
        ("Operations", _operations(economy)),
        ("Riccati products", _products(kernels)),
        ("Text", _text_sizes(rendered)),
    )
    blocks = []
    for title, lines in sections:
        heading = [title, "-" * len(title)] if title else []
        blocks.append("\n".join(line.rstrip() for line in (*heading, *lines)))
    return "\n\n".join(blocks)


def _sizes(model: Model, carried: Sequence[str]) -> Iterator[str]:
    problem = model.signature
    yield f"problem {problem.name}"
    yield ""
    yield from _wrapped("states", len(problem.states), problem.states)
    yield from _wrapped("controls", len(problem.controls), problem.bound_texts)
    if problem.constraints:
        yield f"  {'constraints':<12}{len(problem.constraints)} named, {len(problem.rows)} rows"
        yield from (f"    {text}" for text in problem.rows)
    count = f"{len(problem.parameters)} named, {len(model.parameters)} numbers"
    yield f"  {'parameters':<12}{count}"
    yield f"  {'horizon':<12}{problem.horizon} controls, {problem.horizon + 1} states by default"
    yield f"  {'dynamics':<12}{problem.dynamics}"
    if carried:
        yield f"  {'costs':<12}{', '.join(carried)}: accumulated by the dynamics, solved like terms of the stage cost"


def _wrapped(title: str, count: int, items: Sequence[str]) -> Iterator[str]:
    """Lines of "  title  count  item, item, ..." no wider than `WIDTH`."""
    line, indent = f"  {title:<12}{count:<4}", " " * 18
    for position, item in enumerate(items):
        piece = item + (", " if position < len(items) - 1 else "")
        if len(line) + len(piece) > WIDTH and line.strip():
            yield line
            line = indent
        line += piece
    yield line


def _names(symbols: Sequence[Expr]) -> list[str]:
    return [str(symbol.value) for symbol in symbols]


def _parameters(kernels: Kernels) -> Iterator[str]:
    specs = kernels.model.signature.parameters
    if not specs:
        yield "  none"
        return
    width = max(len(p.name) for p in specs)
    yield f"  {'':<{width}}  shape      where"
    for p, row in zip(specs, layout(kernels), strict=True):
        array = "theta_stage" if p.per_stage else "theta"
        span = f"{row.offset}" if row.size == 1 else f"{row.offset}:{row.offset + row.size}"
        notes = _notes(p.per_stage, p.in_terminal, p.only_bounds, p.default is None)
        yield f"  {p.name:<{width}}  {p.shape!s:<9}  {f'{array}[{span}]':<24}{notes}"
    yield f"  theta holds {len(kernels.static)} numbers, each stage's theta_stage {len(kernels.per_stage)}"


def _notes(per_stage: bool, in_terminal: bool, only_bounds: bool, required: bool) -> str:
    notes = []
    if per_stage:
        notes.append("N+1 stages" if in_terminal else "N stages")
    if only_bounds:
        notes.append("may be infinite")
    if required:
        notes.append("required")
    return ", ".join(notes)


def _sparsity(kernels: Kernels) -> Iterator[str]:
    model = kernels.model
    tau = (*model.states, *model.controls)
    yield "  x varies or is constant, 1 is the constant one, . is zero"
    yield ""
    next_states = [f"{name}_next" for name in _names(model.states)]
    yield from _drawing("F = df/d(x, u)", kernels.F, next_states, len(model.states))
    if model.path_rows:
        yield ""
        rows = jacobian(model.path_rows.values, tau)
        yield from _drawing("J = d rows/d(x, u)", rows, model.path_rows.labels, len(model.states))
    if model.terminal:
        yield ""
        rows = jacobian(model.terminal.values, model.states)
        yield from _drawing("J of the terminal rows", rows, model.terminal.labels, len(model.states))
    for title, function, variables, split in _curved(kernels, tau):
        yield ""
        yield from _drawing(title, hessian(function, variables), _names(variables), split)


def _curved(kernels: Kernels, tau: Sequence[Expr]) -> Iterator[tuple[str, Expr, Sequence[Expr], int]]:
    """What has second derivatives: a title, the function, its variables, and how many of them are states."""
    model, n = kernels.model, len(kernels.model.states)
    if kernels.loop is None:
        yield "Hessian of the stage cost", model.stage_cost, tau, n
        lagrangian = model.stage_cost + _multiplied(model)
        yield "Hessian of the Lagrangian, stage cost + lambda'f", lagrangian, tau, n
    else:
        outer, rates = kernels.loop.outer.model, kernels.loop.rates
        yield "Hessian of the stage cost without running costs", outer.stage_cost, tau, n
        rate = rates.model.stage_cost + _multiplied(rates.model)
        title = "Hessian of lambda'k + running costs, k the change in a substep"
        yield title, rate, rates.tau, len(rates.x_names)
    yield "Hessian of the terminal cost", model.terminal_cost, model.states, n


def _multiplied(model: Model) -> Expr:
    """Return lambda'f."""
    total = model.graph.const(0.0)
    for state, row in zip(model.states, model.next_state, strict=True):
        total = total + model.graph.symbol(f"lambda.{state.value}") * row
    return total


def _drawing(title: str, matrix: Matrix, labels: Sequence[str], split: int) -> Iterator[str]:
    """A title with the number of nonzero entries, and the matrix unless it is large and words do."""
    entries = [entry for row in matrix for entry in row]
    nonzero = sum(not entry.is_zero for entry in entries)
    line = f"  {title}: {nonzero} of {len(entries)} entries nonzero"
    large = len(matrix) > _SMALL
    if large and _is_diagonal(matrix):
        yield f"{line}, all on the diagonal"
    elif large and nonzero == len(entries):
        yield f"{line}: dense"
    else:
        yield line
        yield from _matrix(matrix, labels, split)


def _is_diagonal(matrix: Matrix) -> bool:
    return all(entry.is_zero for i, row in enumerate(matrix) for j, entry in enumerate(row) if i != j)


def _matrix(matrix: Matrix, labels: Sequence[str], split: int) -> Iterator[str]:
    """Rows of marks under numbered columns; a bar after ``split`` columns parts states from controls."""
    columns = len(matrix[0])
    spaced = columns <= _MOST_SPACED
    cell = len(str(columns - 1)) + 1 if spaced else 1
    numbers = [f"{j if spaced else j % 10:>{cell}}" for j in range(columns)]
    width = max(len(label) for label in labels)
    number_width = len(str(len(matrix) - 1))
    yield f"    {'':<{number_width + 2 + width}} {_parted(numbers, split)}"
    for i, (label, row) in enumerate(zip(labels, matrix, strict=True)):
        marks = [f"{_mark(entry):>{cell}}" for entry in row]
        yield f"    {i:>{number_width}}  {label:<{width}} {_parted(marks, split)}"


def _parted(cells: Sequence[str], split: int) -> str:
    left, right = "".join(cells[:split]), "".join(cells[split:])
    return f"{left} |{right}" if right else left


def _mark(entry: Expr) -> str:
    if entry.is_zero:
        return "."
    return "1" if entry.is_const and entry.value == 1.0 else "x"


def _operations(economy: Economy) -> Iterator[str]:
    counts = {function: flops(function.expressions()) for function in economy.functions}
    for function, count in counts.items():
        yield f"  {function.name:<32}{count:>8,}"
    largest = max(counts, key=lambda function: counts[function])
    yield ""
    yield f"  {largest.name} by kind:"
    yield from _by_kind(largest)


def _by_kind(function: Function) -> Iterator[str]:
    kinds = [f"{count:,} {op}" for op, count in operation_count(function.expressions()).items()]
    line = "   "
    for kind in kinds:
        if len(line) + len(kind) > WIDTH:
            yield line
            line = "   "
        line += f" {kind} "
    yield line


def _products(kernels: Kernels) -> Iterator[str]:
    count = product_count(kernels.F)
    if kernels.loop is not None:
        yield f"  by loops over dense F and H, which loops over {kernels.loop.substeps.count} substeps have made"
    elif kernels.fused:
        yield f"  unrolled into the stage functions: F'VF takes {count:,} products, and up to {FUSED_LIMIT:,}"
        yield "  are unrolled; zeros and ones of F cost nothing"
    else:
        yield f"  by loops over dense F and H: F'VF would take {count:,} products, and only up to"
        yield f"  {FUSED_LIMIT:,} are unrolled, so that code size and compile time stay sane"


def _text_sizes(rendered: Rendered) -> Iterator[str]:
    width = max(len(file) for file, _ in rendered.files)
    for file, text in rendered.files:
        yield f"  {file:<{width}}{text.count(chr(10)):>9,} lines{len(text.encode()) / 1024:>9,.1f} KiB"

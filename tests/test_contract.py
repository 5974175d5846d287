"""The contract of the stage functions: the runtime headers, the derivation and the text agree with one table."""

import re
from pathlib import Path

import pytest
import sympy as sp

import mpcgen
from mpcgen.compiler import Compilation
from mpcgen.derivative.symbols import Symbols
from mpcgen.errors import InternalError
from mpcgen.ir.evaluate import evaluate
from mpcgen.stages import contract
from mpcgen.stages.network import PRICED, PRICED_INPUTS

HEADERS = sorted((Path(__file__).parent.parent / "templates" / "runtime").glob("*.h"))
NAMES = {*contract(False), *contract(True)}
CALL = re.compile(rf"\b({'|'.join(sorted(NAMES, key=len, reverse=True))})\(")


def arguments(text, start):
    """Number of arguments of the call whose opening bracket is at ``start``."""
    depth, count = 0, 1
    for character in text[start:]:
        depth += (character in "([{") - (character in ")]}")
        count += character == "," and depth == 1
        if not depth:
            return count
    raise AssertionError("a call that does not end")


def calls():
    """(name, number of arguments, header) of each call of a stage function."""
    for path in HEADERS:
        template = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for body, inputs in zip(PRICED.values(), PRICED_INPUTS.values(), strict=True):
            text = re.sub(r"\bBODY\((\w+)\)", rf"{body.prefix}_\1", template)
            text = re.sub(r"\bINPUT\((\w+)\)", rf"{inputs.prefix}_\1", text)
            for match in CALL.finditer(text):
                yield match[1], arguments(text, match.end() - 1), path.name


def test_headers_call_stage_functions_with_as_many_arguments_as_the_contract_says():
    found = list(calls())
    for name, count, header in found:
        tables = (table for table in (contract(False), contract(True)) if name in table)
        assert count in {len(table[name].parameters) for table in tables}, (name, count, header)
    assert len(found) > 20


def test_every_function_of_a_problem_without_constraints_is_called_by_the_headers():
    called = {name for name, _, _ in calls()}
    # the generated file itself calls these, from what loops complete
    own = {name for name in contract(False) if name.startswith(("stage_derivatives_", "outer_"))}
    assert set(contract(False)) - own - called == set()


@pytest.mark.parametrize("constrained", [False, True])
def test_an_argument_has_one_declaration_in_a_function(constrained):
    for stage in contract(constrained).values():
        assert len(stage.parameters) == len(stage.arguments), str(stage)


def steps():
    problem = mpcgen.Problem("contract", horizon=2)
    (x,) = problem.states("x")
    (u,) = problem.controls("u")
    problem.dynamics = [x + u]
    problem.stage_cost = x**2 + u**2
    return Compilation(problem.spec())


def test_derived_functions_read_and_write_what_the_contract_says():
    table = contract(False)
    for function in steps().derived.functions:
        stage = table[function.name]
        assert [group.name for group in function.inputs] == [slot.group for slot in stage.reads]
        assert [group.name for group in function.outputs] == [slot.group for slot in stage.writes]


def bounded(row=lambda x, u: x + 2 * u, next_state=lambda x, u: 3 * x + 5 * u, **options):
    problem = mpcgen.Problem("bounded", horizon=2)
    x = problem.state("x", lower=-1)
    u = problem.control("u")
    problem.dynamics = [next_state(x, u)]
    problem.stage_cost = x**2 + u**2
    problem.constraint("row", row(x, u), upper=1, **options)
    return {function.name: function for function in Compilation(problem.spec()).derived.functions}


def test_a_problem_that_is_linear_quadratic_but_for_its_rows_has_the_pullback_of_forces():
    function = bounded()["stage_pullback"]
    read = {group.name: group.symbols for group in function.inputs}
    assert (len(read["offset"]), len(read["force"])) == (1, 2)
    numbers = dict(zip((*read["offset"], *read["force"]), (7.0, 11.0, 13.0), strict=True))
    # F'offset + J'force, of the row that reads the control and of the bound of the state
    assert evaluate(function.expressions(), numbers) == [3 * 7 + 11 + 13, 5 * 7 + 2 * 11]


def test_forces_of_an_end_without_rows_are_none():
    problem = mpcgen.Problem("open_end", horizon=2)
    (x,), (u,) = problem.states("x"), problem.controls("u")
    problem.dynamics = [x + u]
    problem.stage_cost = x**2 + u**2
    problem.constraint("row", x + u, upper=1)
    functions = {function.name: function for function in Compilation(problem.spec()).derived.functions}
    assert evaluate(functions["terminal_pullback"].expressions(), {}) == [0]


@pytest.mark.parametrize(
    "options",
    [
        {"row": lambda x, u: x * u},
        {"next_state": lambda x, u: sp.sin(x) + u},
        {"soft": 1},
    ],
    ids=["curved row", "curved dynamics", "soft row"],
)
def test_others_have_none(options):
    assert "stage_pullback" not in bounded(**options)


def test_the_adjoint_of_a_stage_is_the_gradient_of_its_lagrangian():
    x, u, price, bound, row = sp.symbols("x u price bound row")
    options = {"row": lambda x, u: x * u**2, "next_state": lambda x, u: sp.sin(x * u) + x}
    function = bounded(**options)["stage_adjoint"]
    lagrangian = x**2 + u**2 + price * options["next_state"](x, u) + row * x * u**2 + bound * x
    numbers = {x: 0.3, u: -0.7, price: 1.1, row: -0.4, bound: 0.6}
    symbols = {group.name: group.symbols for group in function.inputs}
    read = (*symbols["x"], *symbols["u"], *symbols["costate"], *symbols["dual"])
    values = dict(zip(read, (numbers[name] for name in (x, u, price, row, bound)), strict=True))
    expected = [float(sp.diff(lagrangian, name).subs(numbers)) for name in (x, u)]
    assert evaluate(function.expressions(), values) == pytest.approx(expected, rel=1e-14)


def test_a_problem_without_constraints_has_no_adjoint():
    assert "stage_adjoint" not in {function.name for function in steps().derived.functions}


def test_a_derivation_that_writes_something_else_is_a_bug_that_says_so():
    symbols = Symbols(steps().graph)
    with pytest.raises(InternalError, match=r"terminal_cost writes \{'cost': 1\}.*made \{'costs': 0\}"):
        symbols.function("terminal_cost", costs=())

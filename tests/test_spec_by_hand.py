"""A Spec made by hand is checked as one from a Problem is: nothing in it becomes code."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from drafts import refused

import mpcgen
from mpcgen.compiler import render_spec
from mpcgen.problem.spec import ControlSpec, DynamicsSpec, ParameterSpec

EVIL = 'm"""\nimport os; os.abort()\n"""*/ int main(void) {'


@pytest.fixture
def spec(draft):
    return draft.problem.spec()


def test_a_copy_is_as_good_as_the_original(spec):
    assert replace(spec, name="other") == replace(spec, name="other")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda spec: {"name": EVIL}, ("problem name", "identifier")),
        (lambda spec: {"name": "torch"}, ("hide the Python module",)),
        (lambda spec: {"horizon": 0}, ("horizon", "0")),
        (lambda spec: {"horizon": 2.5}, ("horizon", "2.5")),
        (lambda spec: {"states": ()}, ("no states",)),
        (lambda spec: {"states": (sp.Symbol(EVIL), *spec.states[1:])}, ("state name", "identifier")),
        (lambda spec: {"states": spec.states[:1] * 2}, ("used twice",)),
        (lambda spec: {"states": ("x", "v")}, ("a state", "'x'", "sympy Symbol")),
        (lambda spec: {"states": list(spec.states)}, ("states", "tuple")),
        (lambda spec: {"controls": (ControlSpec(spec.controls[0].symbol, -1, sp.oo),)}, ("lower", "sympy")),
        (
            lambda spec: {"controls": (replace(spec.controls[0], lower=sp.Integer(2)),)},
            ("lower bound 2", ">"),
        ),
        (
            lambda spec: {"dynamics": DynamicsSpec(spec.dynamics.expressions, "ab2")},
            ("scheme", "'ab2'", "rk4"),
        ),
        (lambda spec: {"dynamics": DynamicsSpec(spec.dynamics.expressions, "rk4")}, ("dt", "None")),
        (
            lambda spec: {"dynamics": DynamicsSpec(spec.dynamics.expressions, "rk4", sp.Float(0.1), 0)},
            ("substeps", "0"),
        ),
        (lambda spec: {"dynamics": DynamicsSpec(spec.dynamics.expressions[:1])}, ("1 rows for 2 states",)),
        (lambda spec: {"stage_cost": "x**2"}, ("stage cost", "sympy expression")),
        (lambda spec: {"stage_cost": spec.stage_cost + sp.Symbol("y")}, ("stage cost", "'y'")),
        (lambda spec: {"terminal_cost": sp.nan}, ("terminal cost", "nan")),
        (lambda spec: {"terminal_cost": spec.controls[0].symbol}, ("terminal cost", "control 'force'")),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(spec, changes, words):
    changed = changes(spec)
    with refused(*words):
        replace(spec, **changed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": EVIL}, ("parameter name", "identifier")),
        ({"name": "x0"}, ("'x0' is reserved",)),
        ({"shape": (2,)}, ("symbols of parameter 'mass'", "2 different symbols")),
        ({"shape": [1]}, ("shape of parameter 'mass'",)),
        ({"symbols": (sp.Symbol(EVIL),)}, ("parameter name", "identifier")),
        ({"default": (float("nan"),)}, ("default of parameter 'mass'",)),
        ({"default": ("os.abort()",)}, ("default of parameter 'mass'", "floats")),
        ({"default": (1.0, 2.0)}, ("default of parameter 'mass'", "1 floats")),
        ({"default": (float("inf"),)}, ("infinite default",)),
        ({"default": (0.0,), "per_stage": 1}, ("per_stage", "True or False")),
        ({"in_terminal": True}, ("in_terminal of parameter 'mass' is True", "False")),
        ({"only_bounds": True}, ("only_bounds of parameter 'mass' is True", "False")),
    ],
)
def test_what_is_wrong_with_a_parameter_is_said(spec, changes, words):
    (mass,) = spec.parameters
    with refused(*words):
        replace(spec, parameters=(replace(mass, **changes),))


def test_numpys_integers_are_integers():
    assert mpcgen.Problem("counted", np.int64(4)).horizon == 4


def test_a_specification_made_by_hand_renders_as_the_problem_does(spec):
    again = type(spec)(**{field: getattr(spec, field) for field in spec.__dataclass_fields__})
    assert render_spec(again).files == render_spec(spec).files
    assert isinstance(spec.parameters[0], ParameterSpec)

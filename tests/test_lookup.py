"""Tables as splines: against sympy's own, with parameters for values, outside, and in a problem."""

import pytest
import sympy as sp
from drafts import refused

import mpcgen

x = sp.Symbol("x", real=True)
KNOTS = [-1.0, 0.0, 0.5, 2.0, 3.0, 4.5, 6.0]
VALUES = [0.3, 1.0, -0.5, 2.0, 2.5, 1.0, 0.0]


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_it_is_sympys_spline_and_goes_on_outside(degree):
    own = mpcgen.lookup(x, KNOTS, VALUES, degree)
    other = sp.interpolating_spline(degree, x, list(map(sp.Rational, KNOTS)), list(map(sp.Rational, VALUES)))
    for knot, value in zip(KNOTS, VALUES, strict=True):
        assert own.subs(x, knot) == pytest.approx(value, abs=1e-13)
    for at in (-0.9, 0.2, 1.1, 2.7, 4.0, 5.9):
        assert own.subs(x, at) == pytest.approx(other.subs(x, sp.Rational(at)), rel=1e-12)
    for at, piece in ((-4, other.args[0].expr), (9, other.args[-1].expr)):
        assert own.subs(x, at) == pytest.approx(piece.subs(x, at), rel=1e-11)


@pytest.mark.parametrize("degree", [1, 3])
def test_values_may_be_parameters(degree):
    heights = sp.symbols("h:7", real=True)
    own = mpcgen.lookup(2 * x, KNOTS, heights, degree).subs(dict(zip(heights, VALUES, strict=True)))
    assert own.subs(x, 0.6) == pytest.approx(mpcgen.lookup(1.2, KNOTS, VALUES, degree), rel=1e-12)


def test_many_knots_are_quick():
    """Degree 3 through 200 points of a sine: the interpolation error is h^4/384 times the fourth derivative."""
    knots = [i / 20 for i in range(200)]
    own = mpcgen.lookup(4.321, knots, [sp.sin(knot).evalf() for knot in knots], 3)
    assert abs(own - sp.sin(4.321)) < 0.05**4 / 384


def test_a_table_and_sympys_spline_in_a_problem(draft):
    table = draft.problem.parameter("table", shape=7, default=VALUES)
    spline = sp.interpolating_spline(3, draft.v, KNOTS, VALUES)
    draft.problem.dynamics = [draft.x + draft.v, draft.u + mpcgen.lookup(draft.x, KNOTS, table, 3) + spline]
    (_, row) = draft.problem.spec().dynamics.expressions
    at = dict(zip((*table, draft.u, draft.x), (*VALUES, 0, 0.2), strict=True))
    inside = mpcgen.lookup(0.2, KNOTS, VALUES, 3) + mpcgen.lookup(1.5, KNOTS, VALUES, 3)
    assert row.subs(at).subs(draft.v, 1.5) == pytest.approx(inside, rel=1e-12)
    # beyond the last knot sympy's own is NaN
    outside = mpcgen.lookup(0.2, KNOTS, VALUES, 3) + mpcgen.lookup(7.5, KNOTS, VALUES, 3)
    assert row.subs(at).subs(draft.v, 7.5) == pytest.approx(outside, rel=1e-11)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((x, [0, 1, 1], [1, 2, 3]), ("knots", "1.0 follows 1.0", "increasing")),
        ((x, [0, 1], [1, 2, 3]), ("2 knots and 3 values",)),
        ((x, [0, 1, 2], [1, 2, 3], 3), ("degree 3 has 3 knots", "at least 4")),
        ((x, [0, 1], [1, 2], 0), ("degree", "0", "integer >= 1")),
        ((x, [0, float("nan")], [1, 2]), ("knot", "NaN")),
        ((x, [0, float("inf")], [1, 2]), ("infinite",)),
        (("x", [0, 1], [1, 2]), ("x of lookup", "'x'")),
    ],
)
def test_what_is_no_table(arguments, words):
    with refused(*words):
        mpcgen.lookup(*arguments)

"""Random problems: every supported function, pieces, vectors, per-stage parameters, odd names, bounds and costs."""

import random

import sympy as sp
from sympy.codegen import cfunctions

import mpcgen
from mpcgen.problem.functions import MEANINGS

NAMES = """
    x v theta omega p_1 C F R u force θ é _x __y M_PI INT32_MAX floor double real linux LANE NX state cost q t0
    t1 sin mpcgen_z Q lower self_ restrict class_ isnan ALL weight value hessian V I E oo pi S N beta gamma zeta
""".split()  # noqa: SIM905
PROBLEMS = ("plain", "LANE", "limits", "\u03b8", "_p", "double", "mpcgen_solver", "x", "STAGE", "main")
SCHEMES = (mpcgen.rk4, mpcgen.midpoint, mpcgen.euler)
NUMBERS = (0, 1, -1, 2, 3, sp.Rational(1, 3), 0.5, -1.7, 1e-3, 20.0, sp.pi)
EXPONENTS = (2, 2, 3, 4, 5, -1, -2, sp.Rational(1, 2), sp.Rational(3, 2), sp.Rational(-1, 2), 1.7)

_UNIT = (sp.asin, sp.acos, sp.atanh)
_ABOVE_ONE = (sp.acosh, sp.asec, sp.acsc, sp.acoth)
_POSITIVE = (sp.log, sp.asech, cfunctions.log2, cfunctions.log10, cfunctions.Sqrt, cfunctions.log1p)
_UNARY = [
    function
    for function in MEANINGS
    if issubclass(function, sp.Function)
    and function not in (sp.atan2, sp.Min, sp.Max, sp.Piecewise, sp.Heaviside)
    and function not in (cfunctions.hypot, cfunctions.fma, sp.sign)
]


class Expressions:
    """Draws expressions in given symbols."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def any(self, symbols: list, depth: int) -> sp.Expr:
        """An expression of at most this depth; about a third of the functions get an argument that suits them."""
        if depth == 0 or not symbols:
            return sp.sympify(self.rng.choice([*symbols, *symbols, self.rng.choice(NUMBERS)]))
        kind = self.rng.random()
        if kind < 0.45:
            return self.rng.choice((sp.Add, sp.Mul))(
                self.any(symbols, depth - 1), self.any(symbols, depth - 1)
            )
        if kind < 0.6:
            return sp.Pow(self.any(symbols, depth - 1), self.rng.choice(EXPONENTS))
        if kind < 0.85:
            return self.unary(self.any(symbols, depth - 1))
        return self.several(symbols, depth - 1)

    def unary(self, argument: sp.Expr) -> sp.Expr:
        function = self.rng.choice(_UNARY)
        if self.rng.random() < 0.7:
            bounded = argument / (1 + argument**2)
            if function in _UNIT:
                argument = bounded
            elif function in _ABOVE_ONE:
                argument = 2 + bounded
            elif function in _POSITIVE:
                argument = sp.Rational(3, 5) + bounded
            elif function in (sp.exp, sp.sinh, sp.cosh, cfunctions.exp2, cfunctions.expm1):
                argument = 4 * bounded
        return function(argument)

    def several(self, symbols: list, depth: int) -> sp.Expr:
        a, b, c = (self.any(symbols, depth) for _ in range(3))
        make = self.rng.choice(
            (
                lambda: sp.Min(a, b),
                lambda: sp.Max(a, b, c),
                lambda: sp.atan2(a, b),
                lambda: cfunctions.hypot(a, b),
                lambda: cfunctions.fma(a, b, c),
                lambda: sp.sqrt(a**2 + b**2) * c,
                lambda: 1 / (1 + sp.exp(-3 * a)),
                lambda: sp.log(1 + sp.exp(a)),
                lambda: sp.sign(a) * a * b,
                lambda: 2 * sp.Max(0, a) * sp.Heaviside(a),
                lambda: sp.Piecewise((a * b, a < 0), (a**2, True)),
                lambda: sp.Piecewise((b, sp.And(a > b, c < 1)), (c, True)),
                lambda: sp.Piecewise((a, sp.Or(a > b, c > 1)), (a + 0 * b, True)),
                lambda: mpcgen.lookup(a, [-1, 0, 0.5, 2], [0.3, 1, -1, 0.5], self.rng.choice((1, 2, 3))),
                lambda: sp.UnevaluatedExpr(a) * b,
            )
        )
        return make()


def random_problem(seed: int) -> mpcgen.Problem:
    """Return a problem, valid or not; the same for the same seed. May raise what sympy or mpcgen raise."""
    rng = random.Random(seed)
    names = rng.sample(NAMES, len(NAMES))
    draw = Expressions(rng)
    problem = mpcgen.Problem(rng.choice(PROBLEMS), rng.choice((1, 2, 3, 7)))
    parameters, terminal = _declare_parameters(rng, problem, names)
    limits = [*parameters, *NUMBERS]
    states = list(problem.states([names.pop() for _ in range(rng.choice((1, 1, 2, 3)))]))
    controls = []
    for _ in range(rng.choice((1, 1, 2))):
        lower = rng.choice((-sp.oo, -sp.oo, -1, -0.3, -sp.Abs(sp.sympify(rng.choice(limits))) - 1))
        upper = rng.choice((sp.oo, sp.oo, 1, 2.5, sp.Abs(sp.sympify(rng.choice(limits)))))
        controls += problem.controls([names.pop()], lower=lower, upper=upper)
    symbols = [*states, *controls, *parameters]
    depth = rng.choice((1, 2, 3, 4))
    rows = [draw.any(symbols, depth) + rng.choice((0, x / 2, rng.choice(controls))) for x in states]
    if rng.random() < 0.5:
        problem.dynamics = rows
    else:
        dt = rng.choice((0.1, sp.Rational(1, 20), 0.05 + sp.Abs(sp.sympify(rng.choice(limits))) / 100))
        problem.dynamics = rng.choice(SCHEMES)(problem, rows, dt=dt, substeps=rng.choice((1, 1, 2)))
    quadratic = rng.choice((0, 0.1, 1))
    problem.stage_cost = quadratic * sum(s**2 for s in (*states, *controls)) + rng.choice(
        (0, draw.any(symbols, depth), draw.any(symbols, depth) ** 2)
    )
    problem.terminal_cost = rng.choice((0, sum(x**2 for x in states), draw.any([*states, *terminal], depth)))
    return problem


def _declare_parameters(
    rng: random.Random, problem: mpcgen.Problem, names: list[str]
) -> tuple[list[sp.Symbol], list[sp.Symbol]]:
    """The symbols of all parameters, and of those that a terminal cost may read."""
    found: list[sp.Symbol] = []
    for _ in range(rng.choice((0, 1, 2, 3))):
        shape = rng.choice(((), (), 2, (2, 2)))
        default = rng.choice((None, 0.7, 1.3, -0.4))
        declared = problem.parameter(names.pop(), shape, default, per_stage=rng.random() < 0.25)
        found += list(declared) if isinstance(declared, sp.MatrixBase) else [declared]
    return found, found[:3]

"""Sympy expressions to CasADi, and the integration schemes written on CasADi functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import casadi as ca
import sympy as sp

from mpcgen.baseline.collocation import SCHEMES, Collocation
from mpcgen.errors import SpecError, UnsupportedExpressionError
from mpcgen.problem.functions import MEANINGS, arguments
from mpcgen.problem.imported import Call, Imported
from mpcgen.problem.linear_system import Solution, split


def _power(base: ca.SX, exponent: ca.SX) -> ca.SX:
    if ca.SX(exponent).is_constant():
        value = float(exponent)
        if value == 0.5:
            return ca.sqrt(base)
        if value == -0.5:
            return 1 / ca.sqrt(base)
        if value < 0 and value.is_integer():
            return 1 / ca.power(base, -value)
    return ca.power(base, exponent)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": _power,
    "abs": ca.fabs,
    "length": ca.sqrt,
    "min": ca.fmin,
    "max": ca.fmax,
    "select": ca.if_else,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "and": ca.logic_and,
    "or": ca.logic_or,
    "not": ca.logic_not,
}
"""What the meanings of `mpcgen.problem.functions` are written in, for CasADi."""
_SAME_NAME = (
    "sqrt exp expm1 log log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf sign"
)
OPERATIONS |= {name: getattr(ca, name) for name in _SAME_NAME.split()}


def _applied(operation: str, *arguments: Any) -> Any:
    return OPERATIONS[operation](*arguments)


class Translator:
    """Maps scalar sympy expressions to CasADi SX, each shared subexpression once.

    ``symbols`` gives the SX scalar of every sympy symbol that may occur. Raises `SpecError` for another
    symbol and `UnsupportedExpressionError` for a function or number without a real counterpart.
    """

    def __init__(self, symbols: Mapping[sp.Symbol, ca.SX]) -> None:
        self._memo: dict[sp.Basic, ca.SX] = dict(symbols)
        self._calls: dict[Call, list[ca.SX]] = {}
        self._solutions: dict[tuple[sp.Basic, ...], ca.SX] = {}

    def __call__(self, expression: sp.Basic) -> ca.SX:
        """Translate one scalar expression, without recursion: composed models may nest deeply."""
        root = sp.sympify(expression)
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self._memo:
                stack.pop()
                continue
            children = node.arguments if _is_call(node) else arguments(node)
            missing = [child for child in children if child not in self._memo]
            if missing:
                stack.extend(missing)
                continue
            self._memo[node] = self._apply(node, [self._memo[child] for child in children])
            stack.pop()
        return self._memo[root]

    def know(self, expression: sp.Basic, value: ca.SX) -> None:
        """Give an expression its value."""
        self._memo[expression] = value

    def vector(self, expressions: Sequence[sp.Basic]) -> ca.SX:
        """Translate a list of expressions to a column."""
        return ca.vertcat(*(self(expression) for expression in expressions)) if expressions else ca.SX(0, 1)

    def _apply(self, node: sp.Basic, values: list[ca.SX]) -> ca.SX:
        if _is_call(node):
            return self._called(node, values)
        if isinstance(node, Solution):
            return self._solved(node, values)
        meaning = MEANINGS.get(type(node))
        return _leaf(node) if meaning is None else ca.SX(meaning(_applied, *values))

    def _solved(self, node: Solution, values: list[ca.SX]) -> ca.SX:
        """A component of the solution of a linear system, by CasADi's own solver (QR)."""
        if node.args[1:] not in self._solutions:
            matrix, right = split(values[1:])
            rows = [ca.horzcat(*row) for row in matrix]
            self._solutions[node.args[1:]] = ca.solve(ca.vertcat(*rows), ca.vertcat(*right))
        return self._solutions[node.args[1:]][int(node.args[0])]

    def _called(self, node: Imported, values: list[ca.SX]) -> ca.SX:
        """What came from CasADi is called there: the function itself is the witness of what was made of it."""
        call = node.call
        if call not in self._calls:
            numbers = iter(values)
            inputs = []
            for index, entries in enumerate(call.arguments):
                column = ca.vertcat(*(next(numbers) for _ in entries)) if entries else ca.SX(0, 1)
                inputs.append(ca.SX(call.function.sparsity_in(index), column))
            self._calls[call] = call.function.call(inputs)
        return self._calls[call][node.output].nz[node.index]


def _is_call(node: sp.Basic) -> TypeGuard[Imported]:
    """Whether this comes from a function of CasADi; what comes from elsewhere is read as what it has become."""
    return isinstance(node, Imported) and isinstance(node.call.function, ca.Function)


def _leaf(node: sp.Basic) -> ca.SX:
    if node in (sp.true, sp.false):
        return ca.SX(1.0 if node == sp.true else 0.0)
    if isinstance(node, sp.Symbol):
        raise SpecError(
            f"the symbol {node} is not a state, control or parameter of the problem; "
            "declare it, or use the symbol object that the declaration returned"
        )
    if isinstance(node, (sp.Number, sp.NumberSymbol)) and node is not sp.nan:
        return ca.SX(float(node))
    raise UnsupportedExpressionError(
        f"CasADi has no real counterpart of {node.func.__name__} (in {node}); "
        "rewrite it with elementary real functions"
    )


def discretise(
    rate: ca.Function,
    scheme: str,
    x: ca.SX,
    u: ca.SX,
    theta: ca.SX,
    dt: ca.SX,
    substeps: int,
    algebraic: Sequence[int] = (),
) -> ca.SX:
    """State after ``dt`` under dx/dt = rate(x, u, theta), by ``substeps`` equal steps with u held.

    ``scheme`` is one of `mpcgen.problem.spec.SCHEMES`. ``algebraic``: rows that are zero in place of a rate,
    which implicit schemes know. Raises `SpecError` for another scheme.
    """
    steps = {"euler": _euler, "midpoint": _midpoint, "rk4": _rk4}
    h = dt / substeps
    if scheme in SCHEMES:
        step = Collocation(rate, scheme, algebraic)
        for _ in range(substeps):
            x = step.end(step.solved(x, u, theta, h), x)
        return x
    if scheme not in steps:
        known = ", ".join((*steps, *SCHEMES))
        raise SpecError(f"unknown integration scheme {scheme!r}; expected one of {known}")
    for _ in range(substeps):
        x = steps[scheme](lambda state: rate(state, u, theta), x, h)
    return x


def _euler(rate: Callable[[ca.SX], ca.SX], x: ca.SX, h: ca.SX) -> ca.SX:
    return x + h * rate(x)


def _midpoint(rate: Callable[[ca.SX], ca.SX], x: ca.SX, h: ca.SX) -> ca.SX:
    return x + h * rate(x + h / 2 * rate(x))


def _rk4(rate: Callable[[ca.SX], ca.SX], x: ca.SX, h: ca.SX) -> ca.SX:
    k1 = rate(x)
    k2 = rate(x + h / 2 * k1)
    k3 = rate(x + h / 2 * k2)
    k4 = rate(x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

"""Expressions as an imported function computes them: sympy nodes that nothing evaluates, equal ones one object.

So an expression shares what the function shares, and comparing two of them stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp
from sympy.codegen import cfunctions
from sympy.logic.boolalg import Boolean

from mpcgen.errors import SpecError

Known = dict[tuple[Any, ...], sp.Basic]
"""Nodes by operation and what it reads."""


class Joined(sp.Expr):
    """``args`` are a condition and two values, of which the first where it holds; they meet where it switches.

    What an operation of a model is made of, where the operation itself is known not to jump.
    """

    is_commutative = True
    is_real = True
    is_number = False

    def doit(self, **hints: Any) -> sp.Expr:
        """The same as a Piecewise."""
        condition, then, other = (part.doit(**hints) for part in self.args)
        return sp.Piecewise((then, condition), (other, True))

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        condition, then, other = self.args
        return sp.Piecewise((then.diff(symbol), condition), (other.diff(symbol), True))

    def _eval_evalf(self, precision: int) -> sp.Expr:
        return self.doit()._eval_evalf(precision)


def as_written(function: Any) -> Callable[..., Any]:
    """Apply a sympy class without evaluation."""
    return lambda *args: function(*args, evaluate=False)


def extreme(function: Any) -> Callable[[sp.Expr, sp.Expr], sp.Expr]:
    """Min or Max of two in the order given: sympy would sort them, which takes ages where much is shared."""

    def build(a: sp.Expr, b: sp.Expr) -> sp.Expr:
        if a == b:
            return a
        made = sp.Expr.__new__(function, a, b)
        made._argset = frozenset((a, b))
        return made

    return build


def constant(value: float, what: str) -> sp.Expr:
    """A number of a function; SpecError for one that is not finite. ``what``: the function, for the message."""
    if not math.isfinite(value):
        raise SpecError(
            f"{what} contains the constant {value}, as 0/0 or log(0) leave one; expected finite numbers"
        )
    return sp.Integer(int(value)) if float(value).is_integer() else sp.Float(value)


_add, _mul, _pow = as_written(sp.Add), as_written(sp.Mul), as_written(sp.Pow)
_SAME_NAME = "exp log sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf sign"
_BUILDERS: dict[str, Callable[..., sp.Basic]] = {
    name: as_written(getattr(sp, name)) for name in _SAME_NAME.split()
}
_BUILDERS |= {
    "add": _add,
    "mul": _mul,
    "pow": _pow,
    "abs": as_written(sp.Abs),
    "min": extreme(sp.Min),
    "max": extreme(sp.Max),
    "log1p": as_written(cfunctions.log1p),
    "expm1": as_written(cfunctions.expm1),
    "lt": as_written(sp.Lt),
    "le": as_written(sp.Le),
    "not": as_written(sp.Not),
    "and": lambda a, b: sp.ITE(a, b, sp.false, evaluate=False),
    "or": lambda a, b: sp.ITE(a, sp.true, b, evaluate=False),
    "where": lambda c, a, b: sp.Piecewise((a, c), (b, sp.true), evaluate=False),
    "joined": Joined,
}


class Nodes:
    """Builds nodes from numbers, truth values and nodes; ``known``: those that other functions of a problem share."""

    def __init__(self, known: Known, what: str) -> None:
        self.known = known
        self.what = what

    def apply(self, operation: str, *args: Any) -> Any:
        """The node of an operation; without what 0 and 1 leave as it is."""
        values = tuple(self.value(arg) for arg in args)
        key = (operation, *values)
        if key not in self.known:
            self.known[key] = _BUILDERS[operation](*values)
        return self.known[key]

    def value(self, arg: Any) -> sp.Basic:
        """A number as a node; nodes as they are."""
        if isinstance(arg, sp.Basic):
            return arg
        if isinstance(arg, bool):
            return sp.true if arg else sp.false
        return constant(arg, self.what)

    def number(self, arg: Any) -> sp.Basic:
        """The same, truth values as 1 and 0."""
        node = self.value(arg)
        if not isinstance(node, Boolean) or isinstance(node, sp.Symbol):
            return node
        if node in (sp.true, sp.false):
            return sp.S.One if node == sp.true else sp.S.Zero
        return self.apply("where", node, sp.S.One, sp.S.Zero)

    def condition(self, arg: Any) -> sp.Basic:
        """A truth value; a number says that it is not 0, and only constants may."""
        node = self.value(arg)
        if isinstance(node, sp.Number):
            return sp.false if node == 0 else sp.true
        return node

    def add(self, *terms: Any) -> sp.Basic:
        """The sum of some terms."""
        kept = [term for term in map(self.number, terms) if term is not sp.S.Zero]
        if len(kept) < 2:
            return kept[0] if kept else sp.S.Zero
        return self.apply("add", *kept)

    def mul(self, a: Any, b: Any) -> sp.Basic:
        """A product, which is 0 where a factor is the number 0."""
        left, right = self.number(a), self.number(b)
        if left is sp.S.Zero or right is sp.S.Zero:
            return sp.S.Zero
        if left is sp.S.One or right is sp.S.One:
            return right if left is sp.S.One else left
        if isinstance(right, sp.Number) or ("mul", right, left) in self.known:
            left, right = right, left
        return self.apply("mul", left, right)

    def neg(self, a: Any) -> sp.Basic:
        """-a."""
        return self.mul(-1, a)

    def sub(self, a: Any, b: Any) -> sp.Basic:
        """A difference."""
        return self.add(a, self.neg(b))

    def power(self, a: Any, b: Any) -> sp.Basic:
        """A power; of an exponent 1, the base."""
        base, exponent = self.number(a), self.number(b)
        return base if exponent is sp.S.One else self.apply("pow", base, exponent)

    def div(self, a: Any, b: Any) -> sp.Basic:
        """A quotient."""
        divisor = self.number(b)
        return self.number(a) if divisor is sp.S.One else self.mul(a, self.power(divisor, -1))

    def sqrt(self, a: Any) -> sp.Basic:
        """The square root."""
        return self.power(a, sp.S.Half)

    def dot(self, a: Sequence[Any], b: Sequence[Any]) -> sp.Basic:
        """The sum of the products of pairs."""
        return self.add(*(self.mul(x, y) for x, y in zip(a, b, strict=True)))

    def call(self, name: str, *args: Any) -> sp.Basic:
        """A function of numbers, by name."""
        return self.apply(name, *map(self.number, args))

    def less(self, a: Any, b: Any) -> sp.Basic:
        """The condition a < b."""
        return self.call("lt", a, b)

    def at_most(self, a: Any, b: Any) -> sp.Basic:
        """The condition a <= b."""
        return self.call("le", a, b)

    def where(self, condition: Any, then: Any, other: Any) -> sp.Basic:
        """``then`` where the condition holds, else ``other``: what may jump, and is looked at for that."""
        return self._choice("where", condition, then, other)

    def joined(self, condition: Any, then: Any, other: Any) -> sp.Basic:
        """The same of two values that meet."""
        return self._choice("joined", condition, then, other)

    def _choice(self, kind: str, condition: Any, then: Any, other: Any) -> sp.Basic:
        decided, yes, no = self.condition(condition), self.number(then), self.number(other)
        if decided in (sp.true, sp.false):
            return yes if decided == sp.true else no
        return yes if yes is no else self.apply(kind, decided, yes, no)

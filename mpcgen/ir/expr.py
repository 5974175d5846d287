"""Scalar expressions as a hash-consed graph: equal expressions are one node, built once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mpcgen.errors import InternalError
from mpcgen.ir.linear import by_factors, mirrored
from mpcgen.ir.ops import OPERATIONS
from mpcgen.ir.simplify import RULES

BOOLEAN = frozenset(name for name, operation in OPERATIONS.items() if operation.boolean)
WITH_CONDITIONS = frozenset(name for name, operation in OPERATIONS.items() if any(operation.boolean_args))
COMMUTATIVE = frozenset(name for name, operation in OPERATIONS.items() if operation.commutative)


class Expr:
    """One node of a `Graph`; made by the graph's builders only, immutable, compared by identity.

    ``op`` is "const", "symbol", a name of `ops.OPERATIONS`, or "solve" or "entry", see `Graph.solve`; ``args`` are the
    nodes it reads; ``value`` is the float of a const, the name of a symbol, the size of a solve, the position of an
    entry, else None; ``index`` is the order of creation in the graph,
    so that arguments always have smaller indices than the nodes that read them.

    ``is_const`` says whether this is a constant, ``is_zero`` whether it is the constant 0, which stands for a
    structural zero, and ``is_boolean`` whether it is a truth value (constants are not: in a condition they stand
    for true and false). A derivation asks millions of times, so each is a field.
    """

    __slots__ = ("args", "graph", "index", "is_boolean", "is_const", "is_zero", "op", "value")

    def __init__(self, graph: Graph, op: str, args: tuple[Expr, ...], value: Any, index: int) -> None:
        self.graph = graph
        self.op = op
        self.args = args
        self.value = value
        self.index = index
        self.is_const = op == "const"
        self.is_zero = self.is_const and value == 0.0
        self.is_boolean = op in BOOLEAN

    def __add__(self, other: Expr | float) -> Expr:
        return self.graph._binary("add", self, other)

    def __radd__(self, other: float) -> Expr:
        return self.graph._binary("add", other, self)

    def __sub__(self, other: Expr | float) -> Expr:
        return self.graph._binary("sub", self, other)

    def __rsub__(self, other: float) -> Expr:
        return self.graph._binary("sub", other, self)

    def __mul__(self, other: Expr | float) -> Expr:
        return self.graph._binary("mul", self, other)

    def __rmul__(self, other: float) -> Expr:
        return self.graph._binary("mul", other, self)

    def __truediv__(self, other: Expr | float) -> Expr:
        return self.graph._binary("div", self, other)

    def __rtruediv__(self, other: float) -> Expr:
        return self.graph._binary("div", other, self)

    def __pow__(self, other: Expr | float) -> Expr:
        return self.graph.apply("pow", self, other)

    def __rpow__(self, other: float) -> Expr:
        return self.graph.apply("pow", other, self)

    def __neg__(self) -> Expr:
        return self.graph.apply("neg", self)

    def __repr__(self) -> str:
        if self.op in ("const", "symbol"):
            return f"{self.value}"
        return f"{self.op}({', '.join(_brief(arg) for arg in self.args)})"


def _brief(expr: Expr) -> str:
    return f"{expr.value}" if expr.op in ("const", "symbol") else f"%{expr.index}"


class Graph:
    """The table of all nodes, and one builder per operation; builders simplify what they build."""

    def __init__(self) -> None:
        self._leaves: dict[Any, Expr] = {}
        self._nodes: dict[tuple[Any, ...], Expr] = {}
        self._simplified: dict[tuple[Any, ...], Expr] = {}
        self.solves = False
        """Whether there are linear systems on the graph."""
        self.unrolled: dict[Expr, Expr] = {}
        """Nodes as they are with linear systems written out, see `mpcgen.ir.walk.unrolled`."""

    def __len__(self) -> int:
        return len(self._leaves) + len(self._nodes)

    def symbol(self, name: str) -> Expr:
        """Return the symbol of this name, the same node for the same name."""
        return self._leaves.get(name) or self._leaf("symbol", name)

    def const(self, value: float) -> Expr:
        """Return the constant ``value``, which may be infinite but not NaN; -0.0 is taken as 0.0."""
        number = float(value)
        known = self._leaves.get(number)
        if known is not None:
            return known
        if math.isnan(number):
            raise InternalError("a constant of the graph is NaN; constants must be real numbers or ±inf")
        return self._leaf("const", number + 0.0)

    def _leaf(self, op: str, value: str | float) -> Expr:
        leaf = self._leaves[value] = Expr(self, op, (), value, len(self))
        return leaf

    def apply(self, op: str, *args: Expr | float) -> Expr:
        """Return ``op`` of ``args``, simplified; numbers among the arguments become constants.

        Raises `InternalError` for an unknown operation, a wrong number of arguments, arguments of another
        graph, or a truth value in place of a number and vice versa.
        """
        operation = OPERATIONS.get(op)
        if operation is None or len(args) != operation.arity:
            raise _misused(op, len(args))
        if operation.arity == 2:
            return self._binary(op, *args)
        nodes = tuple([arg if isinstance(arg, Expr) else self.const(arg) for arg in args])
        return self._nodes.get((op, *nodes)) or self._build((op, *nodes))

    def _binary(self, op: str, first: Expr | float, second: Expr | float) -> Expr:
        """`apply` for two arguments, which is nearly all of them.

        a + b is b + a, though it reads as it was written first, constants in front.
        """
        a = first if isinstance(first, Expr) else self.const(first)
        b = second if isinstance(second, Expr) else self.const(second)
        if op not in COMMUTATIVE:
            return self._nodes.get((op, a, b)) or self._build((op, a, b))
        if b.is_const and not a.is_const:
            a, b = b, a
        return self._nodes.get((op, a, b)) or self._nodes.get((op, b, a)) or self._build((op, a, b))

    def _build(self, key: tuple[Any, ...]) -> Expr:
        """The node of an operation that the table lacks, or what it simplifies to."""
        known = self._simplified.get(key)
        if known is not None:
            return known
        op, nodes = key[0], key[1:]
        constant, doubtful = True, op in WITH_CONDITIONS
        for node in nodes:
            if not node.is_const:
                constant = False
                if node.is_boolean:
                    doubtful = True
            if node.graph is not self:
                doubtful = True
        if doubtful:
            self._check(op, nodes)
        if constant:
            return self._fold(key)
        rule = RULES.get(op)
        simplified = rule(self, *nodes) if rule is not None else None
        if simplified is None:
            return self._intern(key)
        self._simplified[key] = simplified
        return simplified

    def _fold(self, key: tuple[Any, ...]) -> Expr:
        """Fold an operation on constants, unless that would hide a pole or a domain error."""
        op, *nodes = key
        values = [node.value for node in nodes]
        result = OPERATIONS[op].evaluate(*values)
        if math.isfinite(result) or (math.isinf(result) and any(math.isinf(value) for value in values)):
            return self.const(result)
        return self._intern(key)

    def _check(self, op: str, nodes: Sequence[Expr]) -> None:
        expected = OPERATIONS[op].boolean_args
        for position, node in enumerate(nodes):
            if node.graph is not self:
                raise InternalError(f"argument {position} of {op}, {node!r}, belongs to another graph")
            boolean = bool(expected) and expected[position]
            if node.op != "const" and node.is_boolean != boolean:
                kind = "truth value" if boolean else "number"
                raise InternalError(f"argument {position} of {op} must be a {kind}, {node!r} given")

    def _intern(self, key: tuple[Any, ...]) -> Expr:
        node = self._nodes[key] = Expr(self, key[0], key[1:], None, len(self._leaves) + len(self._nodes))
        return node

    def solve(self, matrix: Sequence[Expr], right: Sequence[Expr]) -> tuple[Expr, ...]:
        """(n,) the solution of M x = r, M symmetric and positive definite: `matrix` is its lower triangle by rows.

        One node, "solve", for the system and one, "entry", for each component. They have derivatives of their own,
        see `mpcgen.ir.linear`, and are written out before anything is evaluated or printed.
        """
        n = len(right)
        if len(matrix) != n * (n + 1) // 2:
            raise InternalError(f"a lower triangle of {len(matrix)} entries was given for {n} equations")
        if all(entry.is_zero for entry in right):
            return tuple(right)
        if n == 1 or all(node.is_const for node in (*matrix, *right)):
            return tuple(by_factors(mirrored(matrix, n), right))
        node = self._structure("solve", (*matrix, *right), n)
        self.solves = True
        return tuple(self.entry(node, i) for i in range(n))

    def entry(self, solve: Expr, index: int) -> Expr:
        """Component of a solution."""
        return self._structure("entry", (solve,), index)

    def _structure(self, op: str, args: tuple[Expr, ...], value: int) -> Expr:
        key = (op, value, *args)
        known = self._nodes.get(key)
        if known is None:
            known = self._nodes[key] = Expr(self, op, args, value, len(self))
        return known

    def rebuilt(self, node: Expr, args: tuple[Expr, ...]) -> Expr:
        """The operation of a node on other arguments, simplified."""
        if node.op in ("solve", "entry"):
            return self._structure(node.op, args, node.value)
        return self.apply(node.op, *args)

    def add(self, a: Expr | float, b: Expr | float) -> Expr:
        """Sum a + b."""
        return self._binary("add", a, b)

    def sub(self, a: Expr | float, b: Expr | float) -> Expr:
        """Difference a - b."""
        return self._binary("sub", a, b)

    def mul(self, a: Expr | float, b: Expr | float) -> Expr:
        """Product a * b."""
        return self._binary("mul", a, b)

    def div(self, a: Expr | float, b: Expr | float) -> Expr:
        """Quotient a / b, built as a*(1/b): every div node has the numerator 1."""
        return self._binary("div", a, b)

    def neg(self, a: Expr | float) -> Expr:
        """Negation -a."""
        return self.apply("neg", a)

    def pow(self, a: Expr | float, b: Expr | float) -> Expr:
        """Power a**b, NaN for a negative base and an exponent that is not an integer."""
        return self.apply("pow", a, b)

    def sqrt(self, a: Expr | float) -> Expr:
        """Square root."""
        return self.apply("sqrt", a)

    def length(self, a: Expr | float) -> Expr:
        """Square root of a sum of squares, with slope 0 where it is zero."""
        return self.apply("length", a)

    def pinv(self, a: Expr | float) -> Expr:
        """1/a, and 0 for a = 0."""
        return self.apply("pinv", a)

    def sigmoid(self, a: Expr | float) -> Expr:
        """1/(1 + exp(-a)) without an overflow."""
        return self.apply("sigmoid", a)

    def softplus(self, a: Expr | float) -> Expr:
        """log(1 + exp(a)) without an overflow."""
        return self.apply("softplus", a)

    def exp(self, a: Expr | float) -> Expr:
        """Exponential."""
        return self.apply("exp", a)

    def expm1(self, a: Expr | float) -> Expr:
        """exp(a) - 1, precise near 0."""
        return self.apply("expm1", a)

    def log1p(self, a: Expr | float) -> Expr:
        """log(1 + a), precise near 0."""
        return self.apply("log1p", a)

    def log(self, a: Expr | float) -> Expr:
        """Natural logarithm."""
        return self.apply("log", a)

    def sin(self, a: Expr | float) -> Expr:
        """Sine, radians."""
        return self.apply("sin", a)

    def cos(self, a: Expr | float) -> Expr:
        """Cosine, radians."""
        return self.apply("cos", a)

    def tan(self, a: Expr | float) -> Expr:
        """Tangent, radians."""
        return self.apply("tan", a)

    def asin(self, a: Expr | float) -> Expr:
        """Arc sine, in [-pi/2, pi/2]."""
        return self.apply("asin", a)

    def acos(self, a: Expr | float) -> Expr:
        """Arc cosine, in [0, pi]."""
        return self.apply("acos", a)

    def atan(self, a: Expr | float) -> Expr:
        """Arc tangent, in [-pi/2, pi/2]."""
        return self.apply("atan", a)

    def atan2(self, y: Expr | float, x: Expr | float) -> Expr:
        """Angle of the point (x, y), in [-pi, pi]."""
        return self.apply("atan2", y, x)

    def sinh(self, a: Expr | float) -> Expr:
        """Hyperbolic sine."""
        return self.apply("sinh", a)

    def cosh(self, a: Expr | float) -> Expr:
        """Hyperbolic cosine."""
        return self.apply("cosh", a)

    def tanh(self, a: Expr | float) -> Expr:
        """Hyperbolic tangent."""
        return self.apply("tanh", a)

    def asinh(self, a: Expr | float) -> Expr:
        """Inverse hyperbolic sine."""
        return self.apply("asinh", a)

    def acosh(self, a: Expr | float) -> Expr:
        """Inverse hyperbolic cosine, of a >= 1."""
        return self.apply("acosh", a)

    def atanh(self, a: Expr | float) -> Expr:
        """Inverse hyperbolic tangent, of |a| < 1."""
        return self.apply("atanh", a)

    def erf(self, a: Expr | float) -> Expr:
        """Error function."""
        return self.apply("erf", a)

    def abs(self, a: Expr | float) -> Expr:
        """Absolute value."""
        return self.apply("abs", a)

    def sign(self, a: Expr | float) -> Expr:
        """-1, 0 or 1."""
        return self.apply("sign", a)

    def min(self, a: Expr | float, b: Expr | float) -> Expr:
        """Return the smaller of two; NaN where one is."""
        return self.apply("min", a, b)

    def max(self, a: Expr | float, b: Expr | float) -> Expr:
        """Return the larger of two; NaN where one is."""
        return self.apply("max", a, b)

    def select(self, condition: Expr, then: Expr | float, other: Expr | float) -> Expr:
        """``then`` where the condition holds, else ``other``."""
        return self.apply("select", condition, then, other)

    def lt(self, a: Expr | float, b: Expr | float) -> Expr:
        """Condition a < b."""
        return self.apply("lt", a, b)

    def le(self, a: Expr | float, b: Expr | float) -> Expr:
        """Condition a <= b."""
        return self.apply("le", a, b)

    def eq(self, a: Expr | float, b: Expr | float) -> Expr:
        """Condition a == b."""
        return self.apply("eq", a, b)

    def logical_and(self, a: Expr, b: Expr) -> Expr:
        """Both conditions."""
        return self.apply("and", a, b)

    def logical_or(self, a: Expr, b: Expr) -> Expr:
        """Either condition."""
        return self.apply("or", a, b)

    def logical_not(self, a: Expr) -> Expr:
        """The condition's negation."""
        return self.apply("not", a)


def _misused(op: str, count: int) -> InternalError:
    if op not in OPERATIONS:
        return InternalError(f"unknown operation {op!r}; known are {', '.join(OPERATIONS)}")
    return InternalError(f"{op} takes {OPERATIONS[op].arity} arguments, {count} given")

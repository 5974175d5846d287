"""Derivatives pulled back by elimination, against the matrices that they replace."""

import random
from itertools import combinations

import pytest
from baseline_problems import example

from mpcgen.derivative import gradient, hessian, jacobian
from mpcgen.derivative.curvature import forward_over_reverse, gram
from mpcgen.derivative.effort import Effort
from mpcgen.derivative.elimination import Choice, Elimination
from mpcgen.derivative.kernels import derive
from mpcgen.derivative.pullback import Pullback
from mpcgen.derivative.search import shortest, ways
from mpcgen.ir import Graph, evaluate, flops
from mpcgen.passes.angles import without_angles
from mpcgen.problem.lowering import lower_spec


class Case:
    """A map with what is pulled back through it, and numbers for all symbols."""

    def __init__(self, build, inputs, seed=0):
        graph = Graph()
        self.wrt = tuple(graph.symbol(f"x{i}") for i in range(inputs))
        self.outputs = tuple(build(graph, *self.wrt))
        n = len(self.outputs)
        self.V = [[graph.symbol(f"V{max(i, j)}{min(i, j)}") for j in range(n)] for i in range(n)]
        self.c = tuple(graph.symbol(f"c{i}") for i in range(n))
        self.d = tuple(graph.symbol(f"d{i}") for i in range(n))
        self.weight = graph.symbol("w")
        numbers = random.Random(seed)
        symbols = {*self.wrt, *self.c, *self.d, self.weight, *(v for row in self.V for v in row)}
        self.values = {s: numbers.uniform(0.4, 1.6) for s in sorted(symbols, key=lambda s: s.index)}

    def pullback(self, V=True, weight=True):
        return Pullback(
            self.outputs, self.wrt, self.V if V else None, (self.c, self.d), self.weight if weight else None
        )

    def at(self, expressions):
        return evaluate(list(expressions), self.values)

    def expected(self, V=True, weight=True):
        """The sum of w c_i d2f_i over i plus F'VF, then F'c and F'd, from matrices of numbers."""
        k, n = len(self.wrt), len(self.outputs)
        F = [self.at(row) for row in jacobian(self.outputs, self.wrt)]
        c, d = self.at(self.c), self.at(self.d)
        w = self.values[self.weight] if weight else 0.0
        curvature = [[self.at(row) for row in hessian(output, self.wrt)] for output in self.outputs]
        numbers = [self.at(row) for row in self.V]
        H = [
            [
                w * sum(c[i] * curvature[i][a][b] for i in range(n))
                + (sum(F[i][a] * numbers[i][j] * F[j][b] for i in range(n) for j in range(n)) if V else 0.0)
                for b in range(k)
            ]
            for a in range(k)
        ]
        flat = [H[a][b] for a in range(k) for b in range(a + 1)]
        return flat + [sum(F[i][a] * e[i] for i in range(n)) for e in (c, d) for a in range(k)]

    def agrees(self, pulled, **terms):
        return self.at(pulled.expressions()) == pytest.approx(self.expected(**terms), rel=1e-12, abs=1e-12)


def turning(graph, c, s, w, u):
    angle = graph.atan2(s, c) + 0.1 * (w + u * s)
    return graph.cos(angle), graph.sin(angle), w + u * s, c


def shared_products(graph, a, b, c, d):
    p = a * b * c
    q = p * d + graph.exp(p)
    return q * a, p / q, graph.sqrt(q), b


def twice_and_constant(graph, a, b, c, d):
    square = a * a * b
    return square, square, graph.const(2.0), c * d * a


def through_roots(graph, a, b, c, d):
    """Where a simplification looks into a leaf: atan2 differentiates to 1/(r r + y y) with r = sqrt(q)."""
    root = graph.sqrt(a * a + b)
    return graph.atan2(c, root), root * d, root * root * root


CASES = {f.__name__: f for f in (turning, shared_products, twice_and_constant, through_roots)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shortest_first", [False, True])
def test_every_choice_of_cuts_gives_the_same_derivatives(name, shortest_first):
    case = Case(CASES[name], 4)
    elimination = Elimination(case.pullback())
    inner = elimination.inner
    for size in (0, 1, 2, len(inner)):
        for cuts in combinations(inner, size):
            assert case.agrees(elimination.run(Choice(frozenset(cuts), shortest_first)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("V", [True, False])
@pytest.mark.parametrize("weight", [True, False])
def test_every_way_gives_the_same_derivatives(name, V, weight):
    case = Case(CASES[name], 4)
    found = ways(case.pullback(V, weight))
    assert len(found) == 3
    for pulled in found:
        assert case.agrees(pulled, V=V, weight=weight)


def test_the_search_is_no_worse_than_its_starts():
    case = Case(turning, 4)
    best = flops(shortest(ways(case.pullback())).expressions())
    elimination = Elimination(case.pullback())
    for cuts in (frozenset(), elimination.shared):
        for shortest_first in (False, True):
            assert best <= flops(elimination.run(Choice(cuts, shortest_first)).expressions())


@pytest.mark.parametrize(("left", "answers"), [(0, 2), (100, 2), (20_000, 3)])
def test_a_search_keeps_within_its_effort(left, answers):
    """With too little for any elimination there are still the rivals."""
    case = Case(turning, 4)
    effort = Effort(left)
    found = ways(case.pullback(), effort)
    assert effort.spent <= left
    assert len(found) == answers
    assert case.agrees(shortest(found))


def test_more_effort_never_means_more_operations():
    works = [
        flops(shortest(ways(Case(turning, 4).pullback(), Effort(left))).expressions()) for left in (0, 20_000)
    ]
    assert works[1] < works[0]


def one_branch(graph, a, b):
    root = graph.sqrt(a)
    return graph.select(graph.lt(0.0, a), root * root * root, b * a), b


def one_root_in_two_branches(graph, a, b):
    root, positive = graph.sqrt(a), graph.lt(0.0, a)
    return graph.select(positive, root * root * root, b * a), graph.select(positive, root * b, b)


@pytest.mark.parametrize("build", [one_branch, one_root_in_two_branches])
@pytest.mark.parametrize("shortest_first", [False, True])
def test_a_branch_not_taken_leaves_no_nan(build, shortest_first):
    """The slope of the square root is infinite at 0, where the other branch is taken."""
    case = Case(build, 2)
    case.values[case.wrt[0]] = 0.0
    elimination = Elimination(case.pullback())
    for size in range(len(elimination.inner) + 1):
        for cuts in combinations(elimination.inner, size):
            assert case.agrees(elimination.run(Choice(frozenset(cuts), shortest_first)))


@pytest.mark.parametrize("build", [one_branch, one_root_in_two_branches])
@pytest.mark.parametrize("way", [forward_over_reverse, gram])
def test_the_rivals_leave_no_nan_either(build, way):
    case = Case(build, 2)
    case.values[case.wrt[0]] = 0.0
    assert case.agrees(way(case.pullback()))


@pytest.mark.parametrize("name", ["pendulum", "cartpole", "car", "lqr"])
def test_no_more_operations_than_with_products(name):
    """At least as few as forming F, its products with V, and the Hessian, each on its own."""
    model = lower_spec(example(name))
    tau = (*model.states, *model.controls)
    kernels = derive(model)
    names = ("stage_expand_gauss_newton", "stage_matrices", "stage_slopes")
    found = [expression for f in kernels.functions if f.name in names for expression in f.expressions()]
    F = jacobian(model.next_state, tau)
    graph, n = model.graph, len(model.states)
    V = [[graph.symbol(f"V.{max(i, j)}.{min(i, j)}") for j in range(n)] for i in range(n)]
    columns = list(zip(*F, strict=True))

    def dot(a, b):
        total = graph.const(0.0)
        for left, right in zip(a, b, strict=True):
            total = total + left * right
        return total

    VF = [[dot(row, column) for row in V] for column in columns]
    H = hessian(model.stage_cost, tau)
    Q = [H[a][b] + dot(columns[a], VF[b]) for a in range(len(tau)) for b in range(a + 1)]
    g = gradient(model.stage_cost, tau)
    vectors = [[graph.symbol(f"{v}.{i}") for i in range(n)] for v in "cd"]
    slopes = [[dot(column, v) for column in columns] for v in vectors]
    total = [a + b for a, b in zip(g, slopes[0], strict=True)]
    assert flops(found) <= flops([*Q, *total, *slopes[1]])


def test_an_angle_is_turned_without_its_arc_tangent():
    graph = Graph()
    x, y, d = (graph.symbol(name) for name in "xyd")
    angle = graph.atan2(y, x)
    outputs = [graph.sin(d + angle), graph.cos(angle - d), graph.cos(d - angle) * x]
    turned = without_angles(outputs)
    assert "atan2" not in repr([*map(str, turned)]) and flops(turned) > 0
    numbers = random.Random(1)
    for _ in range(20):
        values = {s: numbers.uniform(-2, 2) for s in (x, y, d)}
        assert evaluate(turned, values) == pytest.approx(evaluate(outputs, values), rel=1e-13, abs=1e-13)


def test_an_angle_that_is_needed_stays():
    graph = Graph()
    x, y = graph.symbol("x"), graph.symbol("y")
    angle = graph.atan2(y, x)
    outputs = [graph.sin(angle), angle * angle]
    assert without_angles(outputs) == outputs

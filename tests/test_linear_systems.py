"""Linear systems in a model: values, derivatives by the equation itself, and what a user meets."""

import random

import numpy as np
import pytest
import sympy as sp
import torch
from mechanisms import links, operations_of_links

import mpcgen
from mpcgen.baseline.functions import Functions
from mpcgen.derivative import gradient, hessian, jacobian, tangents
from mpcgen.derivative.curvature import forward_over_reverse, gram
from mpcgen.derivative.matrices import lower_triangle
from mpcgen.derivative.pullback import Pullback
from mpcgen.derivative.search import ways
from mpcgen.ir import Graph, degree, evaluate, operation_count, substitute, unrolled
from mpcgen.problem.lowering import lower, lower_spec

a, b, c, d = sp.symbols("a b c d", real=True)
SYSTEMS = {
    "dense": ([[3 + a**2, b, a * c], [b, 4, c], [a * c, c, 5 + sp.cos(b)]], [a * b, sp.sin(c), d]),
    "sparse": ([[2 + a, 0, b], [0, 3 + c * c, 0], [b, 0, 4]], [0, d, a]),
    "constant matrix": ([[2, 1], [1, 3]], [a * b, c * d]),
    "two equations": ([[2 + a * a, b * c], [b * c, 3 + d]], [a, a * b]),
}


def on_graph(system):
    """Nodes of the solution, and the symbols a, b, c and d."""
    graph = Graph()
    table = {symbol: graph.symbol(symbol.name) for symbol in (a, b, c, d)}
    return lower(list(mpcgen.solve(*SYSTEMS[system])), graph, table), list(table.values())


def at(symbols, seed=0):
    numbers = random.Random(seed)
    return {symbol: numbers.uniform(-0.6, 0.6) for symbol in symbols}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_solution_solves(system):
    nodes, symbols = on_graph(system)
    point = at(symbols)
    numbers = dict(zip((a, b, c, d), point.values(), strict=True))
    M, right = (np.array(sp.Matrix(part).subs(numbers), dtype=float) for part in SYSTEMS[system])
    assert M @ np.array(evaluate(nodes, point))[:, None] == pytest.approx(right, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("system", SYSTEMS)
def test_derivatives_of_the_equation_are_those_of_the_elimination_written_out(system):
    nodes, symbols = on_graph(system)
    plain = unrolled(nodes)
    assert set(operation_count(plain)) <= {"add", "sub", "mul", "div", "neg", "sin", "cos"}
    graph = nodes[0].graph
    weights = [graph.symbol(f"lambda.{i}") for i in range(len(nodes))]
    sums = [
        sum((w * node for w, node in zip(weights, of, strict=True)), graph.const(0)) for of in (nodes, plain)
    ]
    exact = [e for row in jacobian(plain, symbols, "reverse") for e in row]
    point = at([*symbols, *weights])

    def values(outputs):
        return pytest.approx(np.array(evaluate(outputs, point)), rel=1e-12, abs=1e-13)

    for mode in ("forward", "reverse"):
        assert np.array(
            evaluate([e for row in jacobian(nodes, symbols, mode) for e in row], point)
        ) == values(exact)
    second = lower_triangle(hessian(sums[1], symbols))
    pullback = Pullback(tuple(nodes), tuple(symbols), None, (tuple(weights),), graph.const(1.0))
    found = [gram(pullback), forward_over_reverse(pullback), *ways(pullback)]
    assert len(found) == 5
    for pulled in found:
        assert np.array(evaluate(lower_triangle(pulled.hessian), point)) == values(second)
        assert np.array(evaluate(pulled.gradients[0], point)) == values(gradient(sums[1], symbols))
    third = [tangents([entry], {symbols[0]: graph.const(1.0)})[0] for entry in second]
    again = [
        tangents([e], {symbols[0]: graph.const(1.0)})[0] for e in lower_triangle(hessian(sums[0], symbols))
    ]
    assert np.array(evaluate(again, point)) == values(third)


def test_a_result_that_reads_one_entry_has_the_curvature_of_the_whole_system():
    nodes, symbols = on_graph("dense")
    pullback = Pullback(
        (nodes[1],), tuple(symbols), None, ((nodes[0].graph.const(1.0),),), nodes[0].graph.const(1.0)
    )
    point = at(symbols)
    exact = np.array(evaluate(lower_triangle(hessian(unrolled(nodes)[1], symbols)), point))
    assert np.array(evaluate(lower_triangle(gram(pullback).hessian), point)) == pytest.approx(
        exact, rel=1e-13
    )


def test_systems_survive_substitution():
    nodes, symbols = on_graph("dense")
    moved = substitute(nodes, {symbols[0]: symbols[1] * 2.0})
    assert "entry" in {node.op for node in moved}
    point = at(symbols)
    there = point | {symbols[0]: 2.0 * point[symbols[1]]}
    assert evaluate(moved, point) == pytest.approx(evaluate(nodes, there), rel=1e-15)


def test_solutions_are_linear_in_the_right_hand_side_alone():
    graph = Graph()
    x, p = graph.symbol("x"), graph.symbol("p")
    linear = graph.solve((p, graph.const(0.5), p), (x, 3.0 * x))
    assert degree(linear, [x]) == 1
    assert degree(graph.solve((p, x, p), (p, p)), [x]) == float("inf")
    assert degree(linear, [p]) == float("inf")


def test_constants_fold_and_nothing_stays_nothing():
    graph = Graph()
    assert [
        node.value
        for node in graph.solve(tuple(map(graph.const, (2, 0, 4))), (graph.const(1), graph.const(2)))
    ] == [
        0.5,
        0.5,
    ]
    zero, p = graph.const(0), graph.symbol("p")
    assert all(node.is_zero for node in graph.solve((p, p, p), (zero, zero)))
    assert not graph.solves


@pytest.mark.parametrize(("count", "most"), [(2, 420), (3, 1060), (4, 2120)])
def test_operations_of_links_on_a_cart(count, most):
    """Accelerations f, F and second derivatives of lambda'f."""
    assert operations_of_links(count)[-1] <= most


# --- in a problem -------------------------------------------------------------------------------------


def cart(length=0.5):
    """A pole on a cart: singular where the length is 0."""
    problem = mpcgen.Problem("cart_by_mass", horizon=12)
    problem.states("q0 q1 v0 v1")
    problem.controls("force", lower=-10, upper=10)
    problem.parameters("m0 m1 l1", default=[1.0, 0.2, length])
    (q, v, force, _), M, right = links(1)
    problem.dynamics = mpcgen.rk4(problem, [*v, *mpcgen.solve(M, right)], dt=0.05)
    problem.stage_cost = q[0] ** 2 + q[1] ** 2 + 0.1 * (v[0] ** 2 + v[1] ** 2) + 0.01 * force**2
    problem.terminal_cost = 10 * (q[0] ** 2 + q[1] ** 2)
    return problem


def test_the_baseline_solves_by_itself_to_the_same():
    spec = cart().spec()
    model, witness = lower_spec(spec), Functions(spec)
    point = np.array([0.3, 0.4, -0.5, 0.6, 1.0, 1.2, 0.3, 0.7])
    values = dict(zip((*model.states, *model.controls, *model.parameters), point, strict=True))
    exact = np.asarray(witness.f(point[:4], point[4:5], point[5:])).ravel()
    assert np.array(evaluate(model.next_state, values)) == pytest.approx(exact, rel=1e-14)


def test_a_singular_matrix_is_that_problems_status_and_gradients_are_exact():
    problem = cart()
    mpc = mpcgen.compile(problem, dtypes=("float64",)).MPC(tol=1e-10, on_unconverged="ignore")
    x0 = torch.tensor([[0.0, 0.3, 0, 0], [0, 0.1, 0, 0], [0.5, -0.2, 0, 0]], dtype=torch.float64)
    lengths = torch.tensor([0.5, 0.0, 0.6], dtype=torch.float64, requires_grad=True)
    solution = mpc(x0, l1=lengths)
    assert solution.status.tolist() == [
        mpcgen.Status.CONVERGED,
        mpcgen.Status.DIVERGED,
        mpcgen.Status.CONVERGED,
    ]
    alone = mpc(x0[::2], l1=lengths[::2])
    assert torch.equal(alone.u, solution.u[::2])
    alone.u.square().sum().backward()
    exact, step = lengths.grad[::2].clone(), 1e-6
    for i in range(2):
        change = step * torch.eye(2, dtype=torch.float64)[i]
        with torch.no_grad():
            up, down = (mpc(x0[::2], l1=lengths[::2] + s * change).u.square().sum() for s in (1, -1))
        # an error of 1e-10 in the losses, of 2e-6 between them
        assert exact[i].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-5)


def test_what_sympy_can_do_with_a_solution():
    M, right = sp.Matrix(SYSTEMS["two equations"][0]), sp.Matrix(SYSTEMS["two equations"][1])
    solution = mpcgen.solve(M, right)
    formula = M.LUsolve(right)
    point = {a: 0.3, b: 0.4, c: 0.5, d: 0.6}
    assert float(solution[1].evalf(subs=point)) == pytest.approx(float(formula[1].subs(point)), rel=1e-14)
    slope = solution[0].diff(b).subs(point).doit()
    assert float(slope) == pytest.approx(float(formula[0].diff(b).subs(point)), rel=1e-14)
    assert solution[0].free_symbols == {a, b, c, d}
    assert mpcgen.solve([[2]], [4]) == sp.Matrix([2])
    both = mpcgen.solve(M, [[a, 0], [b, 0]])
    assert both.shape == (2, 2) and both[:, 1] == sp.zeros(2, 1)


def test_steps_inside_a_system_are_judged_like_others():
    problem = mpcgen.Problem("steps", horizon=3)
    x, y = problem.states("x y")
    (u,) = problem.controls("u")
    problem.stage_cost = x**2 + y**2 + u**2
    step = sp.Piecewise((1, x < 0), (2, True))
    problem.dynamics = list(mpcgen.solve([[2 + x**2, 0.5], [0.5, 3]], [u + y, step]))
    with pytest.raises(mpcgen.UnsupportedExpressionError, match=r"dynamics row 0 .* Piecewise"):
        problem.spec()
    problem.dynamics = list(mpcgen.solve([[2 + x**2, 0.5], [0.5, 3]], [u + y, x * step]))
    problem.spec()


@pytest.mark.parametrize(
    ("M", "right", "message"),
    [
        ([[2, a], [b, 3]], [1, 2], r"not symmetric: entry \(1, 0\) is b, and \(0, 1\) is a"),
        ([[2, a, 1], [a, 3, 1]], [1, 2], r"has shape \(2, 3\); expected a square one"),
        (
            [[2, a], [a, 3]],
            [1, 2, 3],
            r"right-hand side of solve has shape \(3, 1\); expected \(2,\) or \(2, k\)",
        ),
        ([[2, a], [a]], [1, 2], r"rows of different lengths: \[2, 1\]"),
        (a, [1], "the matrix of solve is a; expected a matrix"),
    ],
)
def test_mistakes_in_a_system_are_told(M, right, message):
    with pytest.raises(mpcgen.SpecError, match=message):
        mpcgen.solve(M, right)


def test_matrices_that_are_symmetric_in_other_words_are_taken():
    entry = sp.sin(2 * a)
    assert mpcgen.solve([[2, entry], [2 * sp.sin(a) * sp.cos(a), 3]], [1, 2]).shape == (2, 1)

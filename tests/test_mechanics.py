"""Kane and Lagrange objects of sympy.physics.mechanics as dynamics."""

import numpy as np
import pytest
import sympy as sp
from mechanisms import links, operations
from sympy.physics.mechanics import (
    KanesMethod,
    LagrangesMethod,
    Lagrangian,
    Particle,
    Point,
    ReferenceFrame,
    dynamicsymbols,
)
from sympy.physics.mechanics.models import n_link_pendulum_on_cart

import mpcgen
from examples import links as links_example
from mpcgen.ir import evaluate
from mpcgen.problem.lowering import lower_spec

t = dynamicsymbols._t


def rates(problem, values):
    """dx/dt (n) at the values of states, controls and parameters, by name."""
    model = lower_spec(problem.spec())
    names = {s: values[s.value] for s in (*model.states, *model.controls, *model.parameters)}
    return (np.array(evaluate(model.next_state, names)) - [values[s.value] for s in model.states]) / 1e-3


def finished(problem):
    problem.stage_cost = sum(x**2 for x in problem.state_symbols) + sum(u**2 for u in problem.control_symbols)
    return problem


def pole_on_cart(kane):
    """A point mass on a rod on a cart, and the words of its equations."""
    x, a, u1, u2, F = dynamicsymbols("x a u1 u2 F")
    m, M, l, g = sp.symbols("m1 m0 l g", positive=True)
    N, cart, bob = ReferenceFrame("N"), Point("cart"), Point("bob")
    v1, v2 = (u1, u2) if kane else (x.diff(), a.diff())
    cart.set_vel(N, v1 * N.x)
    bob.set_vel(N, (v1 + l * v2 * sp.cos(a)) * N.x - l * v2 * sp.sin(a) * N.y)
    bodies = [Particle("cart", cart, M), Particle("bob", bob, m)]
    loads = [(cart, F * N.x), (bob, -m * g * N.y)]
    if kane:
        method = KanesMethod(N, q_ind=[x, a], u_ind=[u1, u2], kd_eqs=[x.diff() - u1, a.diff() - u2])
        method.kanes_equations(bodies, loads)
    else:
        bodies[1].potential_energy = m * g * l * sp.cos(a)
        method = LagrangesMethod(Lagrangian(N, *bodies), [x, a], forcelist=loads[:1], frame=N)
        method.form_lagranges_equations()
    return method, (x, a), (v1, v2), F, (m, M, l, g)


@pytest.mark.parametrize("kane", [True, False])
def test_kane_and_lagrange_give_the_equations_by_hand(kane):
    method, (x, a), (v1, v2), F, (_, _, l, g) = pole_on_cart(kane)
    problem = mpcgen.Problem("cart", horizon=5)
    rate, angle, position, velocity = problem.states("rate angle position velocity")
    (force,) = problem.controls("force")
    problem.parameters("m1 m0 length", default=[0.2, 1.0, 0.5])
    length = problem.find_parameter("length").symbols[0]
    problem.dynamics = mpcgen.mechanics(
        problem,
        method,
        q={x: position, a: angle},
        v={v1: velocity, v2: rate},
        inputs={F: force},
        constants={l: length, g: 9.81},  # masses are the parameters of their names
        scheme="euler",
        dt=1e-3,
    )
    values = {"position": 0.3, "angle": 0.7, "velocity": -0.4, "rate": 1.1, "force": 2.0}
    values |= {"m1": 0.3, "m0": 1.2, "length": 0.6}
    (q, v, f, p), mass, right = links(1)
    point = dict(zip((*q, *v, f, *p), (0.3, 0.7, -0.4, 1.1, 2.0, 1.2, 0.3, 0.6), strict=True))
    exact = [float(entry) for entry in mass.LUsolve(right).subs(point)]
    assert rates(finished(problem), values) == pytest.approx([exact[1], 1.1, -0.4, exact[0]], rel=1e-11)


@pytest.mark.parametrize(("count", "most"), [(2, 420), (3, 1060)])
def test_the_example_of_links_moves_as_by_hand_in_as_few_operations(count, most):
    problem = links_example.links(count)
    (q, v, force, p), mass, right = links(count)
    numbers = np.random.default_rng(count).uniform(0.3, 1.2, len(q) + len(v) + 1 + len(p))
    point = dict(zip((*q, *v, force, *p), map(float, numbers), strict=True))
    expected = [float(entry) for entry in mass.subs(point).LUsolve(right.subs(point))]
    values = {symbol.name: value for symbol, value in point.items()}
    model = lower_spec(problem.spec())
    accelerations = problem.dynamics.expressions[len(q) :]
    declared = {s.name: s for s in sp.Tuple(*accelerations).free_symbols}
    found = [float(a.evalf(subs={declared[n]: values[n] for n in declared})) for a in accelerations]
    assert found == pytest.approx(expected, rel=1e-11)
    tau = (*problem.state_symbols, *problem.control_symbols)
    parameters = sorted((symbol for symbol in declared.values() if symbol not in tau), key=str)
    assert operations(accelerations, tau, parameters)[-1] <= most
    assert len(model.next_state) == len(tau) - 1


@pytest.mark.parametrize(("count", "most"), [(2, 420), (3, 1060), (4, 2120)])
def test_sympys_own_links_take_half_the_operations_of_their_accelerations_written_out(count, most):
    """Written out, the same derivatives take 774, 2,224 and 4,930 operations."""
    kane = n_link_pendulum_on_cart(count, cart_force=True, joint_torques=False)
    problem = mpcgen.Problem("links", horizon=3)
    q = problem.states([f"p{i}" for i in range(count + 1)])
    v = problem.states([f"w{i}" for i in range(count + 1)])
    (force,) = problem.controls("force")
    constants = sorted(kane.mass_matrix.free_symbols | kane.forcing.free_symbols, key=str)
    parameters = problem.parameters([symbol.name for symbol in constants if symbol != t])
    words = {"q": dict(zip(kane.q, q, strict=True)), "v": dict(zip(kane.u, v, strict=True))}
    dynamics = mpcgen.mechanics(problem, kane, **words, inputs={dynamicsymbols("F"): force}, dt=0.05)
    assert operations(dynamics.expressions[count + 1 :], (*q, *v, force), parameters)[-1] <= most


def pendulum_by_constraint():
    """A point mass in the plane on a rod of fixed length."""
    x, y, F = dynamicsymbols("x y F")
    m, g, length = sp.symbols("m g length", positive=True)
    N, point = ReferenceFrame("N"), Point("P")
    point.set_vel(N, x.diff() * N.x + y.diff() * N.y)
    bob = Particle("bob", point, m)
    bob.potential_energy = m * g * y
    method = LagrangesMethod(
        Lagrangian(N, bob),
        [x, y],
        hol_coneqs=[x**2 + y**2 - length**2],
        forcelist=[(point, F * N.x)],
        frame=N,
    )
    method.form_lagranges_equations()
    return method, (x, y), F, (m, g)


def test_holonomic_constraints_hold_and_pull_the_right_way():
    method, (x, y), F, (m, g) = pendulum_by_constraint()
    problem = mpcgen.Problem("pendulum", horizon=5)
    px, py, vx, vy = problem.states("px py vx vy")
    (force,) = problem.controls("force")
    words = {"q": {x: px, y: py}, "v": {x.diff(): vx, y.diff(): vy}, "inputs": {F: force}}
    words["constants"] = {m: 2.0, g: 10}
    problem.dynamics = mpcgen.mechanics(problem, method, **words, scheme="euler", dt=1e-3)
    angle, speed, push = 0.4, 1.5, 3.0
    s, c = np.sin(angle), np.cos(angle)
    values = {"px": s, "py": -c, "vx": speed * c, "vy": speed * s, "force": push}
    along = -10 * s + push / 2 * c  # tangential acceleration of a pendulum of length 1
    exact = [speed * c, speed * s, along * c - speed**2 * s, along * s + speed**2 * c]
    assert rates(finished(problem), values) == pytest.approx(exact, rel=1e-11)


def test_inputs_and_their_derivatives_are_mapped_each():
    a, base = dynamicsymbols("a base")
    m, length = sp.symbols("m length")
    N, point = ReferenceFrame("N"), Point("P")
    point.set_vel(N, (base.diff() + length * a.diff()) * N.x)
    method = LagrangesMethod(Lagrangian(N, Particle("p", point, m)), [a], frame=N)
    method.form_lagranges_equations()
    problem = mpcgen.Problem("base", horizon=5)
    angle, rate, current = problem.states("angle rate current")
    (u,) = problem.controls("u")
    words = {"q": {a: angle}, "v": {a.diff(): rate}, "constants": {m: 1.5, length: 0.5}, "dt": 1e-3}
    with pytest.raises(mpcgen.SpecError, match=r"contain Derivative\(base\(t\), \(t, 2\)\), for which"):
        mpcgen.mechanics(problem, method, **words, rates={current: u - current})
    words |= {"inputs": {base.diff(t, 2): current}, "scheme": "euler"}
    problem.dynamics = mpcgen.mechanics(problem, method, **words, rates={current: u - current})
    values = {"angle": 0.1, "rate": 0.2, "current": 3.0, "u": 0.5}
    assert rates(finished(problem), values) == pytest.approx([0.2, -6.0, -2.5], rel=1e-11)


def test_velocity_and_position_are_replaced_at_once():
    """Replaced first, the position would leave the derivative of a symbol: 0."""
    method, (x, a), (v1, v2), F, (m, M, l, g) = pole_on_cart(kane=False)
    problem = mpcgen.Problem("cart", horizon=5)
    states = problem.states("p a v w")
    (force,) = problem.controls("f")
    dynamics = mpcgen.mechanics(
        problem,
        method,
        q=dict(zip((x, a), states[:2], strict=True)),
        v=dict(zip((v1, v2), states[2:], strict=True)),
        inputs={F: force},
        constants={m: 0.2, M: 1, l: 0.5, g: 9.81},
        dt=0.05,
    )
    assert dynamics.scheme == "rk4" and dynamics.expressions[:2] == states[2:]
    assert states[3] in dynamics.expressions[2].free_symbols


BAD = {
    "q": ({"q": {}}, r"q= lacks x\(t\), a\(t\); expected a state for each of x\(t\), a\(t\)"),
    "v": ({"v": {"w": "p"}}, r"v= lacks Derivative\(x\(t\), t\)"),
    "inputs": (
        {"inputs": {}},
        r"contain F\(t\), for which nothing is given: say what stands for it in inputs=",
    ),
    "constants": (
        {"constants": {}},
        r"contain the constant \w+, for which nothing is given: name it in constants=",
    ),
    "scheme": (
        {"scheme": "discrete", "dt": None},
        "is 'discrete'; expected one of euler, midpoint, rk4, radau3, radau5, implicit_midpoint: a mechanism moves in",
    ),
    "no q": ({"q": None}, r"q= of mechanics is None; expected a mapping, such as \{q1: angle\}"),
    "list": (
        {"constants": [1]},
        r"constants= of mechanics is \[1\] \(list\); expected a mapping, such as \{g: 9",
    ),
    "rates": ({"rates": {"current": 1}}, "rates= has 'current'; expected states of the problem"),
    "dt": ({"dt": None}, "mechanics with scheme 'rk4' needs dt"),
    "method": ({"method": 3}, "mechanics was given int; expected a KanesMethod or LagrangesMethod"),
}


@pytest.mark.parametrize("what", BAD)
def test_mistakes_are_told(what):
    method, (x, a), (v1, v2), F, (m, M, l, g) = pole_on_cart(kane=False)
    problem = mpcgen.Problem("cart", horizon=5)
    p, angle, v, w = problem.states("p angle v w")
    (force,) = problem.controls("force")
    given = {"method": method, "q": {x: p, a: angle}, "v": {v1: v, v2: w}, "inputs": {F: force}, "dt": 0.05}
    given["constants"] = {m: 0.2, M: 1, l: 0.5, g: 9.81}
    change, message = BAD[what]
    with pytest.raises(mpcgen.SpecError, match=message):
        mpcgen.mechanics(problem, **(given | change))


def test_states_are_used_once_and_all():
    method, (x, a), (v1, v2), F, (m, M, l, g) = pole_on_cart(kane=False)
    problem = mpcgen.Problem("cart", horizon=5)
    p, angle, v, w, _ = problem.states("p angle v w other")
    (force,) = problem.controls("force")
    words = {"inputs": {F: force}, "constants": {m: 0.2, M: 1, l: 0.5, g: 9.81}, "dt": 0.05}
    with pytest.raises(mpcgen.SpecError, match="nothing says how other change"):
        mpcgen.mechanics(problem, method, q={x: p, a: angle}, v={v1: v, v2: w}, **words)
    with pytest.raises(mpcgen.SpecError, match="name state p twice"):
        mpcgen.mechanics(problem, method, q={x: p, a: p}, v={v1: v, v2: w}, **words)
    with pytest.raises(mpcgen.SpecError, match=r"q= maps x\(t\) to force; expected a state"):
        mpcgen.mechanics(problem, method, q={x: force, a: angle}, v={v1: v, v2: w}, **words)
    with pytest.raises(mpcgen.SpecError, match="rates= has state p, which is one of the mechanism's"):
        mpcgen.mechanics(problem, method, q={x: p, a: angle}, v={v1: v, v2: w}, rates={p: v}, **words)
    with pytest.raises(mpcgen.SpecError, match="discrete= of mechanics has w, whose rates are given already"):
        mpcgen.mechanics(problem, method, q={x: p, a: angle}, v={v1: v, v2: w}, discrete={w: v}, **words)


def test_equations_may_contain_the_problems_own_symbols():
    problem = mpcgen.Problem("cart", horizon=5)
    p, v, last = problem.states("p v last")
    (force,) = problem.controls("force")
    drag = problem.parameter("drag", shape=2, default=0.5)
    x, N = dynamicsymbols("x"), ReferenceFrame("N")
    point = Point("P")
    point.set_vel(N, x.diff() * N.x)

    def accelerated(load):
        method = LagrangesMethod(x.diff() ** 2, [x], forcelist=[(point, load * N.x)], frame=N)
        method.form_lagranges_equations()
        return mpcgen.mechanics(
            problem, method, q={x: p}, v={x.diff(): v}, discrete={last: force}, scheme="euler", dt=1
        )

    dynamics = accelerated(force + last - drag[0] * x.diff() - drag[1] * v**3)
    assert dynamics.is_discrete == (False, False, True)
    assert sp.expand(2 * dynamics.expressions[1] - (force + last - drag[0] * v - drag[1] * v**3)) == 0
    with pytest.raises(mpcgen.SpecError, match="a symbol force that is not the problem's force"):
        accelerated(sp.Symbol("force"))


def test_objects_without_equations_or_with_dependent_speeds_are_told():
    x, y, u1, u2 = dynamicsymbols("x y u1 u2")
    N, point = ReferenceFrame("N"), Point("P")
    point.set_vel(N, u1 * N.x + u2 * N.y)
    bodies = [Particle("p", point, sp.Symbol("m"))]
    problem = mpcgen.Problem("point", horizon=5)
    px, py, v, w = problem.states("px py v w")
    words = {"q": {x: px, y: py}, "v": {u1: v, u2: w}, "dt": 0.1}
    kinematics = [x.diff() - u1, y.diff() - u2]
    free = KanesMethod(N, q_ind=[x, y], u_ind=[u1, u2], kd_eqs=kinematics)
    with pytest.raises(mpcgen.SpecError, match=r"call its kanes_equations\(bodies, loads\) first"):
        mpcgen.mechanics(problem, free, **words)
    slope = {"u_dependent": [u2], "velocity_constraints": [u2 - x * u1]}
    bound = KanesMethod(N, q_ind=[x, y], u_ind=[u1], kd_eqs=kinematics, **slope)
    bound.kanes_equations(bodies, [])
    with pytest.raises(mpcgen.SpecError, match="has dependent speeds; choose"):
        mpcgen.mechanics(problem, bound, **words)
    lagrange = LagrangesMethod(x.diff() ** 2, [x])
    with pytest.raises(mpcgen.SpecError, match=r"call its form_lagranges_equations\(\) first"):
        mpcgen.mechanics(problem, lagrange, q={x: px}, v={x.diff(): v}, dt=0.1)


def test_explicit_time_is_refused():
    x = dynamicsymbols("x")
    method = LagrangesMethod(x.diff() ** 2 / 2 - sp.sin(t) * x, [x])
    method.form_lagranges_equations()
    problem = mpcgen.Problem("driven", horizon=5)
    p, v = problem.states("p v")
    with pytest.raises(
        mpcgen.SpecError, match="depend on time itself; make what depends on it a parameter per stage"
    ):
        mpcgen.mechanics(problem, method, q={x: p}, v={x.diff(): v}, dt=0.1)


def closed_loop():
    """Two constraints among three coordinates, with constants that are parameters."""
    a, b, c = q = dynamicsymbols("a b c")
    m, n, length = sp.symbols("m n l")
    kinetic = (
        m * (a.diff() ** 2 + 2 * length * sp.cos(a - b) * a.diff() * b.diff() + length**2 * b.diff() ** 2) / 2
    )
    method = LagrangesMethod(
        kinetic + n * c.diff() ** 2 / 2,
        q,
        hol_coneqs=[a + length * sp.sin(b) - c, length * sp.cos(b) + a * c],
    )
    method.form_lagranges_equations()
    problem = mpcgen.Problem("loop", horizon=3)
    x, v = problem.states("x y z"), problem.states("vx vy vz")
    problem.controls("u")
    return problem, method, dict(zip(q, x, strict=True)), {k.diff(): w for k, w in zip(q, v, strict=True)}


def test_several_constraints_with_parameters_are_those_of_sympys_full_system():
    problem, method, q, v = closed_loop()
    problem.parameters("m n l", default=1.5)
    dynamics = mpcgen.mechanics(problem, method, q=q, v=v, scheme="euler", dt=1)
    numbers = dict(zip([*q.values(), *v.values()], [0.3, 0.4, -0.2, 0.5, 0.1, 0.7], strict=True))
    known = {key: numbers[state] for key, state in {**v, **q}.items()}
    known |= dict.fromkeys(sp.symbols("m n l"), 1.5)
    full = method.mass_matrix_full.xreplace(known), method.forcing_full.xreplace(known)
    expected = sp.Matrix(full[0]).LUsolve(sp.Matrix(full[1]))[3:6]
    numbers |= {parameter: 1.5 for spec in problem._parameters for parameter in spec.symbols}
    rows = [sp.N(row.doit().xreplace(numbers)) for row in dynamics.expressions[3:]]
    assert [float(row) for row in rows] == pytest.approx([float(value) for value in expected], rel=1e-9)


def test_a_constant_is_named_by_its_symbol_or_by_its_name_alone():
    problem, method, q, v = closed_loop()
    problem.parameter("m", default=9.0)
    dynamics = mpcgen.mechanics(
        problem, method, q=q, v=v, constants={"m": 1, "n": 2, "l": 3}, scheme="euler", dt=1
    )
    assert not {s for row in dynamics.expressions for s in row.free_symbols} - set(problem.state_symbols)
    with pytest.raises(mpcgen.SpecError, match=r"'k', and no symbol of the equations of motion .* l, m, n"):
        mpcgen.mechanics(problem, method, q=q, v=v, constants={"k": 1}, dt=1)
    with pytest.raises(mpcgen.SpecError, match="other assumptions"):
        mpcgen.mechanics(problem, method, q=q, v=v, constants={sp.Symbol("m", positive=True): 1}, dt=1)
    with pytest.raises(mpcgen.SpecError, match="has m, and another"):
        mpcgen.mechanics(problem, method, q=q, v=v, inputs={"m": 1}, constants={sp.Symbol("m"): 1}, dt=1)


@pytest.mark.parametrize("above", ["2*x", "2*Abs(x)", "2*Max(x, 0)"])
def test_matrices_are_compared_at_points_of_either_sign(above):
    x = sp.Symbol("x", real=True)
    entry = sp.sympify(above, locals={"x": x})
    mpcgen.solve([[3, entry], [entry + 0.1 * x + 0.2 * x - 0.3 * x, 4]], [1, x])  # rounding is no difference
    with pytest.raises(mpcgen.SpecError, match="not symmetric"):
        mpcgen.solve([[3, entry], [2 * sp.Abs(x) if above != "2*Abs(x)" else 2 * x, 4]], [1, x])


@pytest.mark.parametrize("nothing", [sp.Matrix(0, 0, []), [], [[]]])
def test_an_empty_matrix_is_called_empty(nothing):
    with pytest.raises(mpcgen.SpecError, match="the matrix of solve is empty"):
        mpcgen.solve(nothing, [])

"""What large models may cost: operations of a stage, and the effort of deriving it."""

import math
import random

import casadi as ca
import numpy as np
import pytest
from casadi_backend import CASADI
from graph_models import arm, articulated_body, network, random_model, van_der_pol

from mpcgen.derivative.curvature import forward_over_reverse, gram
from mpcgen.derivative.kernels import derive
from mpcgen.derivative.pullback import Pullback
from mpcgen.ir import evaluate, flops

PRODUCTS_BY_LOOPS = 0


def operations(kernels, name):
    return next(flops(f.expressions()) for f in kernels.functions if f.name == name)


@pytest.mark.parametrize(("width", "most"), [(16, 6_024), (32, 19_208)])
def test_a_network_takes_no_more_operations_than_by_hand(width, most):
    """By hand: tangents forward, adjoints backward, and sum over neurons of their products, w^2 (inputs + 2)."""
    kernels = derive(network(width), PRODUCTS_BY_LOOPS)
    assert operations(kernels, "stage_derivatives_exact") <= most


def test_an_arm_of_six_joints_takes_a_third_of_what_elimination_takes():
    kernels = derive(arm())
    assert not kernels.fused
    assert operations(kernels, "stage_derivatives_exact") <= 20_000
    assert operations(kernels, "stage_derivatives_gauss_newton") <= 8_500


@pytest.mark.parametrize("seed", [6, 13, 14])
def test_a_hundred_operations_are_derived_within_bounds(seed):
    """Nodes that are built are what a derivation takes its time for: 120,000 take less than 3 s."""
    model = random_model(seed)
    assert flops(model.next_state) <= 100
    derive(model)
    assert len(model.graph) <= 120_000


def test_an_unrolled_implicit_step_is_derived_within_bounds():
    """Unlimited, the search took 29 s; without, the exact stage takes 1,130 operations."""
    model = van_der_pol()
    kernels = derive(model)
    assert len(model.graph) <= 120_000
    assert operations(kernels, "stage_expand_exact") <= 800


@pytest.mark.parametrize("build", [van_der_pol, lambda: random_model(3)], ids=["van der Pol", "random"])
def test_a_second_derivation_on_the_same_graph_is_the_same(build):
    """What a search may spend does not depend on what the graph holds already."""
    model = build()
    first, second = derive(model), derive(model)
    for one, other in zip(first.functions, second.functions, strict=True):
        assert flops(one.expressions()) == flops(other.expressions())


def test_the_arm_moves_as_pinocchio_says():
    """`pinocchio.aba` 4.1.0 of `buildSampleModelManipulator()`."""
    q, v, torques = np.linspace(0.1, 0.6, 6), np.linspace(-0.5, 0.5, 6), np.linspace(1.0, -2.0, 6)
    expected = [
        1.1270527143002758, 0.09873125715115955, -0.023284151365963263,
        3.983535104510719, -1.2163663502041366, -3.0867787735164693,
    ]  # fmt: skip
    assert articulated_body(math, q, v, torques) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("build", [lambda: network(8), arm], ids=["network", "arm"])
def test_the_rivals_agree_with_casadi(build):
    model = build()
    tau = (*model.states, *model.controls)
    graph, numbers = model.graph, random.Random(2)
    costate = tuple(graph.symbol(f"c{i}") for i in range(len(model.states)))
    weight = graph.symbol("w")
    values = {s: numbers.uniform(-1.0, 1.0) for s in (*tau, *costate, *model.parameters, weight)}
    inputs = ca.SX.sym("tau", len(tau))
    at = values | {symbol: inputs[i] for i, symbol in enumerate(tau)}
    lagrangian = ca.dot(
        ca.vertcat(*(values[c] for c in costate)), ca.vertcat(*evaluate(model.next_state, at, CASADI))
    )
    witness = ca.Function("witness", [inputs], ca.hessian(lagrangian, inputs))
    H, g = (entry.full() for entry in witness([values[symbol] for symbol in tau]))
    for way in (forward_over_reverse, gram):
        pulled = way(Pullback(model.next_state, tau, None, (costate,), weight))
        lower, gradient = np.split(np.array(evaluate(pulled.expressions(), values)), [-len(tau)])
        assert gradient == pytest.approx(g.ravel(), rel=1e-12, abs=1e-12)
        expected = values[weight] * H[np.tril_indices(len(tau))]
        assert lower == pytest.approx(expected, rel=1e-11, abs=1e-11 * abs(expected).max())

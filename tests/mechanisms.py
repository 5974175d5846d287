"""Equations of motion M(q) dv/dt = r(q, v, force) of mechanisms, in symbols that a problem may declare."""

import sympy as sp

import mpcgen
from mpcgen.derivative import jacobian
from mpcgen.derivative.curvature import gram
from mpcgen.derivative.matrices import lower_triangle
from mpcgen.derivative.pullback import Pullback
from mpcgen.ir import Graph, flops
from mpcgen.problem.lowering import lower


def links(count, gravity=9.81):
    """Point masses on massless rods of length l, one below the other, on a cart.

    Returns (q, v, force, parameters), M and r. q: position of the cart and angles of the rods from the upright; every
    term of the kinetic energy is a product of two rates, so that M and the terms of r follow by hand.
    """
    q = sp.symbols(f"q:{count + 1}", real=True)
    v = sp.symbols(f"v:{count + 1}", real=True)
    force = sp.Symbol("force", real=True)
    masses, lengths = sp.symbols(f"m:{count + 1}", real=True), sp.symbols(f"l1:{count + 1}", real=True)
    below = [sum(masses[i:]) for i in range(count + 1)]
    M, right = sp.zeros(count + 1), sp.zeros(count + 1, 1)
    M[0, 0], right[0] = below[0], force
    for i in range(1, count + 1):
        arm = below[i] * lengths[i - 1]
        M[0, i] = M[i, 0] = arm * sp.cos(q[i])
        right[0] += arm * sp.sin(q[i]) * v[i] ** 2
        right[i] += arm * gravity * sp.sin(q[i])
        for j in range(1, count + 1):
            both = below[max(i, j)] * lengths[i - 1] * lengths[j - 1]
            M[i, j] = both * (sp.cos(q[i] - q[j]) if i != j else 1)
            right[i] -= both * sp.sin(q[i] - q[j]) * v[j] ** 2
    return (q, v, force, (*masses, *lengths)), M, right


def operations(accelerations, tau, parameters):
    """Operations of accelerations f, of f and F, and of these and the second derivatives of lambda'f by ``tau``."""
    graph = Graph()
    table = {symbol: graph.symbol(symbol.name) for symbol in (*tau, *parameters)}
    outputs = tuple(lower(list(accelerations), graph, table))
    wrt = tuple(table[symbol] for symbol in tau)
    costates = tuple(graph.symbol(f"lambda.{i}") for i in range(len(outputs)))
    pulled = gram(Pullback(outputs, wrt, None, (costates,), graph.const(1.0)))
    F = [entry for row in jacobian(outputs, wrt, "forward") for entry in row]
    return flops(outputs), flops([*outputs, *F]), flops([*outputs, *F, *lower_triangle(pulled.hessian)])


def operations_of_links(count):
    """`operations` of the links' accelerations, by `mpcgen.solve`."""
    (q, v, force, parameters), M, right = links(count)
    return operations(mpcgen.solve(M, right), (*q, *v, force), parameters)

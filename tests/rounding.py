"""How far two orders of the same work may differ: a running error analysis on the graph."""

from mpcgen.derivative.rules import RULES
from mpcgen.ir import evaluate, topological

EPS = 2.0**-52


def rounding(nodes, values):
    """Bound the rounding error of each node, to first order, times 8 for the witness's own order of work.

    Every operation adds 4 ulp of its result to its arguments' errors times its slopes. Terms that cancel
    structurally here but only numerically there leave an ulp of the largest intermediate value.
    """
    order = topological(nodes)
    computed = dict(zip(order, evaluate(order, values), strict=True))
    bound = {}
    for node in order:
        bound[node] = 4 * EPS * abs(computed[node]) if node.op != "symbol" else 0.0
        for arg, rule in zip(node.args, RULES.get(node.op, ()), strict=True):
            if bound[arg]:
                bound[node] += abs(evaluate([rule(node, *node.args)], values)[0]) * bound[arg]
    floor = EPS * max(1.0, *(abs(value) for value in computed.values()))
    return [8 * (bound[node] + floor) for node in nodes]

"""The networks that loops evaluate: which these are of those that expressions read, and why others are written out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sympy as sp

from mpcgen.problem.network import LEAST, Net, outermost
from mpcgen.problem.spec import Spec

LOOPED_FROM = 150
"""Products of all networks at a place from which on loops are worth it.

Two hidden layers on four states and a control, in the dynamics and, on as many, with costs; µs a stage and pass, text:

    width   products   written out                       loops
    6             90   0.09, 163 kB and 0.18, 362 kB     0.14, 58 kB and 0.24, 84 kB
    9            162   0.15, 271 kB and 0.32, 662 kB     0.16, 58 kB and 0.29, 84 kB
    12           252   0.24, 436 kB and 0.57, 1,093 kB   0.20, 58 kB and 0.39, 84 kB
"""
LONG_FROM = 600
"""Products of a network from which on a compiler takes long for it where it is written out."""
MOST_OUTPUTS = 160
"""Outputs of all networks at a place: what reads them is derived by each, and has a matrix of second derivatives.

That is worth it where networks take more products than that matrix has entries. Of a layer of 64 on five inputs whose
outputs are normalised, loops make 2.6 MB of C, and it has 1.5 written out; the mean of 36 networks of 16 with four
outputs has 0.7 MB by loops, and 10.7 written out.
"""


class Networks:
    """The networks of a problem: which loops evaluate, and why not the others."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        static = [s for parameter in spec.parameters if not parameter.per_stage for s in parameter.symbols]
        self._places = {symbol: i for i, symbol in enumerate(static)}
        self._fit: dict[Net, bool] = {}

    def of_dynamics(self, expressions: Sequence[sp.Expr]) -> list[Net]:
        """The networks that loops evaluate of those that the dynamics and running costs read."""
        return [] if any(self.spec.dynamics.is_algebraic) else self.looped(expressions)

    def looped(self, expressions: Sequence[sp.Expr]) -> list[Net]:
        """The networks that loops evaluate of those that expressions read."""
        read = self._read(expressions)
        if sum(net.products for net in read) < LOOPED_FROM or self._has_many_outputs(read):
            return []
        return read

    def written_out(
        self, expressions: Sequence[sp.Expr], looped: Sequence[Net], reader: str
    ) -> Iterator[str]:
        """Say of each large network that expressions read and loops do not evaluate why that is: or who reads it."""
        known = set(looped)
        inside = [entry for net in looped for entry in net.inputs]
        large = lambda net: net in known or net.products >= LONG_FROM  # noqa: E731
        for net in dict.fromkeys(output.net for output in outermost([*expressions, *inside], large)):
            if net not in known:
                yield (
                    f"a network of {net.products:,} weights is written out, operation by operation, for which a "
                    f"compiler takes minutes: {self._reason(net, expressions) or reader} "
                    "(docs/torch_models.md, Large networks)"
                )

    def _reason(self, net: Net, expressions: Sequence[sp.Expr]) -> str | None:
        if not self._has_ordered_weights(net):
            return "its weights are not parameters that all stages share, one by one"
        if not self._fits(net):
            return "what it reads of another network is no array that loops know"
        read = self._read(expressions)
        if self._has_many_outputs(read):
            return f"what reads it reads {_outputs(read)} outputs of networks, too many for their size"
        return None

    def _has_many_outputs(self, nets: Sequence[Net]) -> bool:
        """Whether the second derivatives of what reads their outputs are more than what loops save."""
        outputs = _outputs(nets)
        width = outputs + len(self.spec.states) + len(self.spec.controls)
        products = sum(net.products * (len(net.inputs) + 2) for net in nets)
        return outputs > MOST_OUTPUTS or width**2 > 2 * products

    def _read(self, expressions: Sequence[sp.Expr]) -> list[Net]:
        return list(dict.fromkeys(output.net for output in outermost(expressions, self._fits)))

    def _fits(self, net: Net) -> bool:
        """Whether loops can evaluate a network, and it is large enough."""
        if net not in self._fit:
            fits = net.products >= LEAST and self._has_ordered_weights(net)
            self._fit[net] = fits and next(outermost(net.inputs, self._fits), None) is None
        return self._fit[net]

    def _has_ordered_weights(self, net: Net) -> bool:
        """Whether weights and biases lie in theta one after the other."""
        for layer in net.layers:
            for symbols in (layer.weights, layer.bias):
                found = [self._places.get(symbol, -1) for symbol in symbols]
                if found and (found[0] < 0 or found != list(range(found[0], found[0] + len(found)))):
                    return False
        return True


def _outputs(nets: Sequence[Net]) -> int:
    return sum(net.outputs for net in nets)

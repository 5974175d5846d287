"""Derivatives of the right-hand side of dynamics, alone or around a network, for the loops that integrate it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain

from mpcgen.derivative.derivation import Derivation
from mpcgen.derivative.forward import tangents
from mpcgen.derivative.maps import MapDerivation
from mpcgen.derivative.matrices import dot, lower_triangle, triangle_labels
from mpcgen.derivative.reverse import gradient
from mpcgen.ir import Expr, flops, symbols_of
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model
from mpcgen.ir.network import Network
from mpcgen.stages import network as around
from mpcgen.stages import substeps as table


class RateDerivation(Derivation):
    """The functions of the right-hand side."""

    sizes = (table.MOVING, table.HELD)
    both = table.BOTH
    composed = False
    """Whether headers make the functions, that of Newton's method of values and slopes."""

    def own_name(self, name: str) -> str:
        """What a function of rates is called here."""
        return name

    @property
    def before(self) -> tuple[Expr, ...]:
        """By what the gradient of share c + lambda'k is wanted beside that of its change."""
        return self.model.states

    @property
    def changing(self) -> tuple[Expr, ...]:
        """What of the held changes with the parameters."""
        return ()

    @property
    def d_changing(self) -> tuple[Expr, ...]:
        """Its changes."""
        return ()

    @property
    def pattern(self) -> tuple[tuple[bool, ...], ...]:
        """Whether the change of each moving state reads each of the moving and held ones."""
        return tuple(tuple(not entry.is_zero for entry in row) for row in self.F)

    def _groups(self) -> dict[tuple[str, str], tuple[Expr, ...]]:
        return {**super()._groups(), ("share", "1"): (self.graph.symbol("share.cost"),)}

    def _labels(self) -> dict[str, tuple[str, ...]]:
        both = (*self.x_names, *self.u_names)
        return {
            **super()._labels(),
            self.sizes[0]: self.x_names,
            self.sizes[1]: self.u_names,
            self.both: both,
            f"TRIANGLE({self.both}, 0)": triangle_labels(both),
            f"NMOVING * ({self.both})": tuple(f"{x}, {name}" for x in self.x_names for name in both),
            f"{table.MOVING} * {table.MOVING}": tuple(
                f"{x}, {z}" for x in self.x_names for z in self.x_names
            ),
        }

    def functions(
        self, costs: bool = False, implicit: bool = False, adjoint: bool = False
    ) -> tuple[Function, ...]:
        """The functions of the right-hand side that a scheme calls, in the order of the text.

        ``costs``, ``adjoint``: see `Loop`.
        """
        seeds = dict(zip(self.tau, (*self.d_x, *self.d_u), strict=True))
        return (
            # An implicit scheme knows its slopes, and their changes, from the equations that it has solved.
            *((self._values(),) if costs or not implicit or self.composed else ()),
            *((self._newton(len(self.x_names)),) if implicit and not self.composed else ()),
            # The Gauss-Newton model of costs has curvature.
            *((self._first(),) if implicit or not costs else ()),
            self.second,
            *((self._adjoint(),) if adjoint else ()),
            *(() if implicit else (self._tangent(seeds),)),
            self._gradient(seeds),
            self._change(),
            self._forward(),
        )

    def _values(self) -> Function:
        model = self.model
        return self.function(self.own_name(table.VALUES), change=model.next_state, cost=(model.stage_cost,))

    def _tangent(self, seeds: dict[Expr, Expr]) -> Function:
        return self.function(self.own_name("rate_tangent"), d_change=tangents(self.model.next_state, seeds))

    def _newton(self, n: int) -> Function:
        square = tuple(chain(*(row[:n] for row in self.F)))
        return self.function(self.own_name(table.NEWTON), change=self.model.next_state, J=square)

    def _first(self) -> Function:
        return self.function(
            self.own_name(table.SLOPES), F=tuple(chain(*self.FJ)), slope=self._lagrangian_gradient()
        )

    def _adjoint(self) -> Function:
        return self.function(self.own_name(table.ADJOINT), slope=self._shortest_gradient())

    @cached_property
    def second(self) -> Function:
        """First and second derivatives."""
        F, H, slopes = self._curvature(self.graph.const(1.0))
        return self.function(
            self.own_name(table.CURVATURE), F=tuple(chain(*F)), H=lower_triangle(H), slope=slopes
        )

    def _gradient(self, seeds: dict[Expr, Expr]) -> Function:
        lagrangian = self._lagrangian()
        (along,) = tangents((lagrangian,), seeds)
        scalar = along + dot(self.graph, self.d_costate, self.images) + self.weight * lagrangian
        return self.function(
            self.own_name("rate_gradient"),
            **self.by_parameters(scalar),
            g=gradient(scalar, self.tau),
            before=gradient(lagrangian, self.before),
        )

    def _changes(self, outputs: Sequence[Expr], d_costate: bool) -> list[Expr]:
        """Tangents along changes of z and the parameters, and of lambda if asked for."""
        seeds = dict(zip((*self.static, *self.per_stage), (*self.d_static, *self.d_per_stage), strict=True))
        seeds |= dict(zip((*self.model.states, *self.changing), (*self.d_x, *self.d_changing), strict=True))
        if d_costate:
            seeds |= dict(zip(self.costate, self.d_costate, strict=True))
        return tangents(outputs, seeds)

    def _change(self) -> Function:
        *d_change, d_cost = self._changes((*self.model.next_state, self.model.stage_cost), d_costate=False)
        return self.function(self.own_name("rate_change"), d_change=d_change, d_cost=(d_cost,))

    def _forward(self) -> Function:
        ways = (
            (slopes[: len(self.before)], self._changes(slopes, d_costate=True))
            for slopes in (self._lagrangian_gradient(), gradient(self._lagrangian(), self.tau))
        )
        before, change = min(ways, key=lambda way: flops([*way[0], *way[1]]))
        return self.function(self.own_name("rate_forward"), before=before, d_slope=change)


class BodyDerivation(RateDerivation):
    """The same of what is around networks, whose outputs are the last of the held."""

    sizes = (table.MOVING, around.INNER)
    both = around.ALL
    composed = True

    def __init__(self, model: Model, fused_limit: int, networks: Sequence[Network]) -> None:
        self.networks = networks
        super().__init__(model, fused_limit)
        inputs = dict.fromkeys(network.inputs for network in networks)
        self.inputs = MapDerivation(model, around.INPUTS, self.point, list(chain(*inputs)))

    def own_name(self, name: str) -> str:
        """What a function of rates is called here."""
        return around.body_name(name)

    @property
    def before(self) -> tuple[Expr, ...]:
        """The gradient by the outputs is what multiplies them."""
        return self.tau

    @property
    def changing(self) -> tuple[Expr, ...]:
        """All that is held counts as changing; what does not has a change of 0."""
        return self.model.controls

    @property
    def d_changing(self) -> tuple[Expr, ...]:
        """Its changes."""
        return self.d_u

    @property
    def width(self) -> int:
        """Numbers of the point that is no output."""
        return len(self.tau) - sum(len(network.outputs) for network in self.networks)

    @property
    def point(self) -> tuple[Expr, ...]:
        """What moves, and what is held beside the outputs."""
        return self.tau[: self.width]

    @property
    def pattern(self) -> tuple[tuple[bool, ...], ...]:
        """Whoever reads an output reads all inputs of its network."""
        width, found = self.width, []
        reads = [{*symbols_of(network.inputs)} for network in self.networks for _ in network.outputs]
        for row in self.F:
            through = set().union(
                *(of for entry, of in zip(row[width:], reads, strict=True) if not entry.is_zero)
            )
            found.append(
                tuple(not row[j].is_zero or symbol in through for j, symbol in enumerate(self.point))
            )
        return tuple(found)

    @property
    def is_bent(self) -> bool:
        """Whether there are second derivatives by outputs."""
        (H,) = (output for output in self.second.outputs if output.name == "H")
        return any(not entry.is_zero for entry in H.expressions[self.width * (self.width + 1) // 2 :])

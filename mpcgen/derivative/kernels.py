"""What the kernels need of a model: the functions of design and paper, derived on the graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from mpcgen.derivative.derivation import Derivation
from mpcgen.derivative.matrices import Matrix
from mpcgen.derivative.priced import PricedLoop, priced_loops
from mpcgen.derivative.substeps import Loop, loop_of
from mpcgen.ir import Expr, unrolled
from mpcgen.ir.function import Function
from mpcgen.ir.model import Model
from mpcgen.stages.contract import ADJOINT, COMPOSED, DERIVE, ENDED, EXPAND, ROWED, WHOLE
from mpcgen.stages.substeps import outer_name

FUSED_LIMIT = 2000
"""Largest number of products in F'VF that is unrolled into the stage functions; above it, loops over register tiles.

Unrolled, zeros and ones of F cost nothing, but each product is an instruction that the compiler must place, in the
Gauss-Newton and in the exact model. Loops take every product of a dense F, at a good share of the machine's peak.
Measured with gcc 12 -O3 and AVX-512 in float64 (microseconds of a core per problem and iteration, with the exact
Hessian, batches of 256 and 512; the compiler's seconds for one of the four variants, on a machine that others used):

    problem          products   if dense   unrolled          loops
    chain, 1 mass       1,194      1,674   12.8 us, 3.7 s    12.7 us, 3.2 s
    lqr(8, 4)           1,488      1,392    8.1 us, 3.5 s     8.4 us, 3.2 s
    quadrotor           3,337      4,862   39.0 us, 9.0 s    34.1 us, 5.3 s
    lqr(13, 4)          5,083      4,862   22.8 us, 4.9 s    25.9 us, 5.0 s

The quadrotor's unrolled stage, 13,939 operations, is five times what the instruction cache holds. That does not decide
alone: lqr(13, 4) would gain 12 % unrolled, with 11,968. The limit serves the problems whose F is computed.
"""


@dataclass(frozen=True)
class Kernels:
    """All functions of a problem. ``fused`` says that the Riccati products are part of the stage functions.

    Fused, `stage_expand_*` gives Q directly from V. Otherwise it gives F and H, and loops form Q. Of dynamics
    without second derivatives there is no exact model beside the Gauss-Newton one: it is the same.
    ``quadratic``: the dynamics are linear in states and controls, and the costs quadratic. ``loop``: over substeps, of
    which the functions then are; those of stages are composed of them. ``carried``: the states that only accumulate
    cost, and are solved like terms of the stage cost. ``priced``: costs that read networks, beside those functions.
    """

    model: Model
    static: tuple[Expr, ...]
    per_stage: tuple[Expr, ...]
    fused: bool
    F: Matrix
    cost_gradient: tuple[Expr, ...]
    quadratic: bool
    functions: tuple[Function, ...]
    loop: Loop | None = None
    carried: tuple[str, ...] = ()
    priced: tuple[PricedLoop, ...] = ()

    @property
    def curved(self) -> bool:
        """Whether there is an exact model beside the Gauss-Newton one."""
        exact = (EXPAND["exact"], DERIVE["exact"], outer_name(DERIVE["exact"]))
        rows = any(price.rows for price in self.priced)
        return self.loop is not None or rows or any(function.name in exact for function in self.functions)

    def __str__(self) -> str:
        return "\n\n".join(str(function) for function in self.functions)


def derive(model: Model, fused_limit: int = FUSED_LIMIT) -> Kernels:
    """Derive every function that the solver and the sensitivities of ``model`` need."""
    priced = priced_loops(model)
    sites = {price.site: bool(price.rows) for price in priced}
    left = model.by_loops
    loop = loop_of(left)
    stage = loop.outer if loop else Derivation(left, -1 if "stage" in sites else fused_limit)
    F = loop.F if loop else tuple(tuple(unrolled(row)) for row in stage.F)
    return Kernels(
        model.unrolled if loop else stage.model.unrolled,
        stage.static,
        stage.per_stage,
        stage.fused,
        F,
        tuple(unrolled(stage.cost_gradient)),
        not loop and stage.is_linear_quadratic,
        (
            *chain.from_iterable(price.functions() for price in priced),
            *_named_apart(loop.functions() if loop else stage.functions(), sites),
        ),
        loop,
        tuple(stage.x_names[i] for i in sorted((*(loop.accumulators if loop else ()), *stage.accumulators))),
        priced,
    )


def _named_apart(functions: Iterable[Function], sites: Mapping[str, bool]) -> Iterator[Function]:
    """The functions, those of ``sites`` whose costs are loops as what is outside of these; True: rows are, too."""
    composed = [*(COMPOSED if "stage" in sites else ()), *(ENDED if "end" in sites else ())]
    composed += [name for site, rows in sites.items() if rows for name in ROWED[site]]
    left_out = (*WHOLE, ADJOINT) if "stage" in sites else ()
    for function in functions:
        if function.name not in left_out:
            yield replace(function, name=outer_name(function.name)) if function.name in composed else function

"""The networks of a problem that loops evaluate, as tables in C."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mpcgen.codegen.network_layers import LayerTable, layer_tables
from mpcgen.derivative.kernels import Kernels
from mpcgen.derivative.maps import MapDerivation
from mpcgen.derivative.priced import PricedLoop
from mpcgen.derivative.rates import BodyDerivation
from mpcgen.derivative.substeps import Loop
from mpcgen.ir.expr import Expr
from mpcgen.ir.network import Network

LARGE = 4096
"""Numbers of a network's derivatives and of matrices around it from which on they lie in the workspace.

Where they are local arrays, which the compiler knows better, a stage of a network of width 64 takes 4 % less. A number
takes 64 bytes of the stack with AVX-512.
"""


@dataclass(frozen=True)
class Site:
    """Where a problem reads networks, and what their inputs are; ``points``: at which a stage reads them."""

    name: str
    networks: Sequence[Network]
    inputs: MapDerivation
    points: int


def _sites(kernels: Kernels) -> Iterator[Site]:
    loop = kernels.loop
    if loop is not None and isinstance(loop.rates, BodyDerivation):
        points = loop.substeps.count * len(loop.substeps.share)
        yield Site("RATES", loop.rates.networks, loop.rates.inputs, points)
    for price in kernels.priced:
        yield Site(f"{price.site.upper()}S", price.networks, price.inputs, int(price.site == "stage"))


def network_tables(kernels: Kernels) -> dict[str, object] | None:
    """Tables of the networks, of their layers and of the sites that read them, and their largest sizes."""
    sites = list(_sites(kernels))
    if not sites:
        return None
    offsets = {symbol: i for i, symbol in enumerate(kernels.static)}
    every: list[list[LayerTable]] = []
    networks: list[tuple[int, ...]] = []
    reads: list[int] = []
    first_layer = 0
    ends, rows = [0], []
    for site in sites:
        groups: dict[tuple[Expr, ...], int] = {}
        at = (len(networks), len(ends) - 1)
        tables = list(layer_tables(site.networks, offsets))
        every.append(tables)
        for table in tables:
            network, count = table.network, len(table.rows)
            begin = groups.setdefault(network.inputs, sum(map(len, groups)))
            networks.append(
                (first_layer, count, len(network.inputs), len(network.outputs), begin, table.units)
            )
            first_layer += count
        for row in site.inputs.slopes:
            reads.extend(_places(row))
            ends.append(len(reads))
        outputs = sum(len(network.outputs) for network in site.networks)
        rows.append(
            (
                at[0],
                len(site.networks),
                site.inputs.count,
                outputs,
                len(site.inputs.x_names),
                at[1],
                site.points,
            )
        )
    tables = [table for of_site in every for table in of_site]
    widths = [row[4] + row[3] for row in rows]
    matrices = max((table.sloped + table.scaled) * len(table.network.inputs) for table in tables)
    return {
        "large": int(matrices + max(widths) ** 2 > LARGE),
        "sites": [site.name for site in sites],
        "priced": [_priced(price) for price in kernels.priced],
        "count": len(tables),
        "layer_count": first_layer,
        "layers": ", ".join(row for table in tables for row in table.rows),
        "networks": _rows(networks),
        "site_rows": _rows(rows),
        "reads": ", ".join(map(str, reads)) or "0",
        "read_count": max(len(reads), 1),
        "ends": ", ".join(map(str, ends)),
        "end_count": len(ends),
        "passed": max(site.inputs.count for site in sites),
        "results": max(row[3] for row in rows),
        "units": max(sum(table.units for table in of_site) for of_site in every),
        "sums": max(sum(table.sums for table in of_site) for of_site in every),
        "sloped": max(table.sloped for table in tables),
        "widest": max(table.widest for table in tables),
        "scaled": max(table.scaled for table in tables),
        "parts": int(not all(table.is_chain for table in tables)),
        "width": max(row[4] for row in rows),
        "input_counts": sorted({len(table.network.inputs) for table in tables}),
        "slopes": max(len(table.network.inputs) * len(table.network.outputs) for table in tables),
    }


def _priced(price: PricedLoop) -> dict[str, int | str]:
    return {
        "site": price.site.upper(),
        "inputs": price.inputs.count,
        "outputs": sum(len(network.outputs) for network in price.networks),
        "bent": int(price.body.is_bent),
        "inputs_bent": int(price.inputs.is_bent),
        "rows": len(price.rows),
        "places": ", ".join(map(str, price.rows)),
    }


def _rows(rows: Sequence[Sequence[int]]) -> str:
    """Initialisers of structs."""
    return ", ".join("{" + ", ".join(map(str, row)) + "}" for row in rows)


def _places(row: Sequence[Expr]) -> list[int]:
    """Where entries are that are not always zero."""
    return [i for i, entry in enumerate(row) if not entry.is_zero]


def read_networks(loop: Loop) -> dict[str, int | str] | None:
    """Of the networks that rates read: inputs, outputs, who reads these, and whether there are second derivatives."""
    rates = loop.rates
    if not isinstance(rates, BodyDerivation):
        return None
    reads = [_places(row[rates.width :]) for row in rates.F]
    places = ", ".join(str(place) for row in reads for place in row)
    return {
        "ends": ", ".join(map(str, accumulate(map(len, reads), initial=0))),
        "reads": places or "0",
        "read_count": max(sum(map(len, reads)), 1),
        "inputs": rates.inputs.count,
        "outputs": len(rates.tau) - rates.width,
        "bent": int(rates.is_bent),
        "inputs_bent": int(rates.inputs.is_bent),
    }

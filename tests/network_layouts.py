"""Random modules of what loops know, and the layers that are made of them, evaluated one by one."""

import random

import torch
from torch import nn

from mpcgen.codegen.network_layers import KINDS
from mpcgen.ir import evaluate

NAMES = "tanh sigmoid relu softplus silu gelu elu leaky_relu hardtanh relu6 hardsigmoid hardswish selu celu"
ACTIVATIONS = [
    *(getattr(nn.functional, name) for name in NAMES.split()),
    *(torch.sin, torch.cos),
    lambda a: nn.functional.gelu(a, approximate="tanh"),
    lambda a: nn.functional.softplus(a, 2, 0.5),
]


class Random(nn.Module):
    """Up to twelve operations on vectors before, chosen by a seed; layers of a shape may come again."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        self.parts = nn.ModuleDict()
        with torch.no_grad():
            self(torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))

    def part(self, name, make):
        if name not in self.parts:
            self.parts[name] = make().double()
        return self.parts[name]

    def layer(self, draw, x):
        rows, bias, again = draw.choice([4, 6, 8]), draw.random() < 0.7, draw.randint(0, 2)
        name = f"layer_{len(x)}_{rows}_{bias}_{again}"
        y = self.part(name, lambda: nn.Linear(len(x), rows, bias=bias))(x)
        return draw.choice(ACTIVATIONS)(y) if draw.random() < 0.6 else y

    def norm(self, draw, x, place):
        has_weights, takes_mean = draw.random() < 0.6, draw.random() < 0.6
        kind = nn.LayerNorm if takes_mean else nn.RMSNorm
        make = lambda: kind(len(x), eps=1e-3, elementwise_affine=has_weights)  # noqa: E731
        return self.part(f"norm_{place}", make)(x)

    def forward(self, x, u):
        draw = random.Random(self.seed)
        found = [torch.cat([x, u]), x, torch.cat([torch.sin(x), u])]
        for place in range(draw.randint(4, 12)):
            a = draw.choice(found[-4:])
            b = draw.choice([other for other in found if len(other) == len(a)])
            made = (
                lambda a: self.layer(draw, a),
                lambda a: self.norm(draw, a, place),  # noqa: B023
                lambda a: a + b,  # noqa: B023
                lambda a: torch.sub(a, b, alpha=0.5),  # noqa: B023
                lambda a: a * b,  # noqa: B023
                lambda a: torch.rsub(a, 1, alpha=2),
                lambda a: (2 * a - 1) / 3,
                lambda a: torch.cat([a, draw.choice(found)]),
                lambda a: a.chunk(2)[0] if len(a) > 3 else -a,
                lambda a: draw.choice(ACTIVATIONS)(a.flip(0)),
            )
            found.append(made[max(0, draw.randint(-3, len(made) - 1))](a))
        head = self.part("head", lambda: nn.Linear(len(found[-1]), 2))
        return x + 0.1 * head(found[-1]) + 0.1 * found[-2].sum()


def activated(layer, found):
    """What a layer's activation makes of an array."""
    name, (p, q, r) = layer.activation, layer.options
    if name == "elu":
        return torch.where(found > 0, p * found, q * torch.expm1(r * found))
    if name == "gelu_tanh":
        return nn.functional.gelu(found, approximate="tanh")
    function = getattr(torch, name) if name in ("sin", "cos") else getattr(nn.functional, name, None)
    options = {"softplus": (p, q), "hardtanh": (p, q), "leaky_relu": (p,)}.get(name, ())
    return found if name == "none" else function(found, *options)


def outputs_of(network, values):
    """What a network's layers give, where expressions and symbols have ``values``."""
    given = torch.tensor(evaluate(network.inputs, values), dtype=torch.float64)
    known = []
    for layer in network.layers:
        reads = [
            (given if read.layer < 0 else known[read.layer])[read.begin : read.begin + read.count]
            for read in layer.reads
        ]
        weights, bias = (
            torch.tensor([values[symbol] for symbol in of], dtype=torch.float64)
            for of in (layer.weights, layer.bias)
        )
        a, b, c = layer.constants
        if layer.kind == "affine":
            found = weights.reshape(layer.rows, layer.columns) @ reads[0]
        elif layer.kind == "norm":
            centred = reads[0] - b * reads[0].mean()
            found = centred / torch.sqrt(centred.square().mean() + c) * (weights if len(weights) else 1)
        elif layer.kind == "sum":
            found = a * reads[0] + (b * reads[1] if len(reads) > 1 else 0) + c
        else:
            found = reads[0] * reads[1] if layer.kind == "product" else torch.cat(reads)
        found = found + bias if len(bias) else found
        known.append(activated(layer, found))
    return torch.cat([known[end] for end in network.ends])


FIELDS = "kind rows columns weights bias activation ends at sums slopes from from_slopes other other_slopes"


def derivatives_read(table):
    """Of each unit whose derivatives a table's layers read, the unit, and that whose derivatives lie there by then.

    They are read by the layers behind, and, of what bends and of what products and norms read, after all layers.
    """
    room, found, kept = {}, [], []
    for text in table.rows:
        numbers = map(int, text.strip("{}").split(", ")[: len(FIELDS.split())])
        row = dict(zip(FIELDS.split(), numbers, strict=True))
        reads = [
            (row[f"{name}_slopes"] + i, row[name] + i)
            for name in ("from", "other")
            if row[f"{name}_slopes"] >= 0
            for i in range(row["columns"])
        ]
        has_own = row["slopes"] >= 0 and not row["ends"]
        own = [(row["slopes"] + i, row["at"] + i) for i in range(row["rows"] if has_own else 0)]
        found += [(unit, room.get(place)) for place, unit in reads]
        room |= dict(own)
        kept += own if row["activation"] else []
        kept += reads if KINDS[row["kind"]] in ("product", "norm") else []
    return found + [(unit, room.get(place)) for place, unit in kept]

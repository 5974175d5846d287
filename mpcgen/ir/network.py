"""Networks that loops evaluate: layers, what each of them reads, and the weights that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, TypeVar

from mpcgen.ir.expr import Expr

ACTIVATIONS = (
    *("none", "tanh", "sigmoid", "relu", "softplus", "silu", "gelu", "elu", "leaky_relu", "hardtanh"),
    *("hardsigmoid", "hardswish", "gelu_tanh", "sin", "cos", "exp"),
)
"""What a layer may end with, in the order of `mpcgen_network.h`."""
Options = tuple[float, float, float]
"""What an activation takes: softplus its factor and threshold; elu its slope above 0, the range below and the rate
there; leaky_relu its slope below 0; hardtanh its bounds. Others take none."""


W = TypeVar("W")
V = TypeVar("V")


@dataclass(frozen=True)
class Read:
    """``count`` outputs of an earlier layer from ``begin`` on; of layer -1, inputs."""

    layer: int
    begin: int
    count: int


@dataclass(frozen=True)
class Layer(Generic[W]):
    """An array of ``rows`` numbers, of arrays x, y that it ``reads``, then one of `ACTIVATIONS` with its ``options``.

    ``kind``: "affine", W x + b, W being ``rows`` x ``columns`` ``weights``, row by row, and b the ``bias`` or ();
    "join", what it reads one after the other; with ``constants`` a, b, c "sum", a x + b y + c, or a x + c; "product",
    x y, entry by entry; "norm", (x - b mean(x)) / sqrt(mean square of that + c), times ``weights`` and with a ``bias``
    where there are any. Weights are symbols of parameters that lie one after the other, and so are biases.
    """

    kind: str
    rows: int
    columns: int
    reads: tuple[Read, ...]
    weights: tuple[W, ...] = ()
    bias: tuple[W, ...] = ()
    activation: str = "none"
    constants: tuple[float, float, float] = (1.0, 1.0, 0.0)
    options: Options = (0.0, 0.0, 0.0)

    @property
    def products(self) -> int:
        """Weights of matrices."""
        return self.rows * self.columns if self.kind == "affine" else 0

    def with_weights(self, of: Callable[[W], V]) -> Layer[V]:
        """The same layer with what a function makes of its weights."""
        return Layer(
            self.kind,
            self.rows,
            self.columns,
            self.reads,
            tuple(map(of, self.weights)),
            tuple(map(of, self.bias)),
            self.activation,
            self.constants,
            self.options,
        )


def is_chain(layers: Sequence[Layer[Any]]) -> bool:
    """Whether each layer is affine and reads all of the one before it, the first all inputs."""
    return all(
        layer.kind == "affine" and layer.reads == (Read(i - 1, 0, layer.columns),)
        for i, layer in enumerate(layers)
    ) and all(after.columns == before.rows for before, after in pairwise(layers))


def bent_layers(layers: Sequence[Layer[Any]]) -> tuple[bool, ...]:
    """Of each layer whether second derivatives need the first ones of its rows."""
    read = {read.layer for layer in layers if layer.kind in ("product", "norm") for read in layer.reads}
    return tuple(layer.activation != "none" or index in read for index, layer in enumerate(layers))


@dataclass(frozen=True)
class Network:
    """Layers that are evaluated by loops: expressions of its ``inputs``, symbols of its ``outputs``.

    Outputs are the rows of the layers ``ends``, one after the other; these have no activation, and none reads them.
    """

    inputs: tuple[Expr, ...]
    layers: tuple[Layer[Expr], ...]
    ends: tuple[int, ...]
    outputs: tuple[Expr, ...]

    @property
    def products(self) -> int:
        """Weights of matrices."""
        return sum(layer.products for layer in self.layers)

"""Models from torch: a `torch.nn.Module`, or a function of tensors, as dynamics, cost or constraint of a problem."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp
import torch
from torch import Tensor, nn

from mpcgen.errors import MpcgenError, SpecError, UnsupportedExpressionError
from mpcgen.problem.imported import Call, Imported
from mpcgen.problem.integrators import discrete_rows, dynamics_of
from mpcgen.problem.names import check_identifier, check_parameter_name
from mpcgen.problem.nodes import Nodes
from mpcgen.problem.parameters import parameter_spec
from mpcgen.problem.spec import DynamicsSpec, ParameterSpec
from mpcgen.problem.torch_trace import Trace
from mpcgen.problem.torch_watch import Watch
from mpcgen.runtime.weights import parameter_name, weights_of

if TYPE_CHECKING:
    from mpcgen.problem.problem import Problem

Weights = str | Mapping[str, Tensor]
"""How the weights of a module enter a problem."""


def torch_model(
    problem: Problem,
    module: Any,
    scheme: str = "discrete",
    dt: Any = None,
    weights: Weights = "parameters",
    *,
    substeps: int = 1,
    discrete: Mapping[Any, Any] | None = None,
    name: str = "model",
    parameters: Sequence[str] = (),
) -> DynamicsSpec:
    """Dynamics from a torch module, ``module(x, u)`` -> (n,).

    Args:
        problem: its states and controls are the module's arguments, x (n,) and u (m,), without a batch.
        module: a `torch.nn.Module`, or a function of tensors.
        scheme: "discrete" if it returns the next state; "rk4" or another of `mpcgen.mechanics` if it returns dx/dt.
        dt: duration of a stage, for all but "discrete".
        weights: "parameters": the module's parameters and persistent buffers are parameters of the problem, given at
            each call by `mpcgen.torch_parameters`. "constants": their values of now are part of the solver. Or a
            mapping from names to tensors, for a function that reads them, as by `torch.func.functional_call`.
        substeps: as for `mpcgen.rk4`.
        discrete: the next value of states that the module has no rows for, ``{u_last: u}``; its x has all states.
        name: of the module in this problem, with which the names of its parameters begin.
        parameters: names of the problem's parameters that the module takes as arguments of these names and shapes.

    Returns:
        A value to assign to ``problem.dynamics``.

    Raises:
        SpecError: results of another shape, numbers that are not finite, names that are in use.
        UnsupportedExpressionError: what cannot be traced, with the operation and the line of the user's code.

    """
    reader = _Reader(problem, module, weights, name, parameters)
    held = discrete_rows(problem, discrete, f"discrete= of {reader.what}")
    rows = reader.rows(controls=True)
    dynamics = dynamics_of(problem, rows, scheme, dt, substeps, f"the result of {reader.what}", held)
    reader.declare()
    return dynamics


def torch_cost(
    problem: Problem,
    module: Any,
    weights: Weights = "parameters",
    *,
    controls: bool = True,
    name: str = "model",
    parameters: Sequence[str] = (),
) -> sp.Expr:
    """Return the one number that ``module(x, u)`` gives, for a cost; ``module(x)`` where controls=False.

    A terminal cost reads no controls. Other arguments and errors as for `torch_model`.
    """
    reader = _Reader(problem, module, weights, name, parameters)
    rows = reader.rows(controls)
    if len(rows) != 1:
        raise SpecError(f"the result of {reader.what} has {len(rows)} entries; a cost is one number")
    reader.declare()
    return rows[0]


def torch_expressions(
    problem: Problem,
    module: Any,
    weights: Weights = "parameters",
    *,
    controls: bool = True,
    name: str = "model",
    parameters: Sequence[str] = (),
) -> list[sp.Expr]:
    """Return the entries of what ``module(x, u)`` gives, row by row: for a constraint, or to go on with in sympy.

    Arguments and errors as for `torch_cost`.
    """
    reader = _Reader(problem, module, weights, name, parameters)
    rows = reader.rows(controls)
    reader.declare()
    return rows


@dataclass(frozen=True)
class _Name:
    """What a call of a module is called."""

    text: str

    def name(self) -> str:
        """For people."""
        return self.text


class _Reader:
    """A module, what stands for its inputs, and the parameters that it adds to a problem."""

    def __init__(
        self, problem: Problem, module: Any, weights: Weights, name: str, parameters: Sequence[str]
    ) -> None:
        if not callable(module):
            raise SpecError(
                f"a torch model was given {type(module).__name__}; expected a torch.nn.Module or a function of tensors"
            )
        self.problem, self.module = problem, module
        self.name = check_identifier(name, "torch module")
        self.what = f"torch module {name!r} ({getattr(module, '__name__', type(module).__name__)})"
        self.weights = self._chosen(weights)
        self.frozen = weights == "constants"
        self.dtype = self._dtype()
        self.further = {given: self._parameter(given) for given in parameters}
        self.added: list[ParameterSpec] = []
        self.known = {weight: self._declared(weight, tensor) for weight, tensor in self.weights.items()}

    def _chosen(self, weights: Weights) -> dict[str, Tensor]:
        """The weights that are parameters of the problem."""
        if isinstance(weights, Mapping):
            return weights_of(weights)
        if weights not in ("parameters", "constants"):
            raise SpecError(
                f"weights of {self.what} is {weights!r}; expected 'parameters', 'constants', or a mapping from "
                "names to tensors"
            )
        return weights_of(self.module) if weights == "parameters" else {}

    def _dtype(self) -> torch.dtype:
        """The precision of the module."""
        tensors = [*self.weights.values(), *weights_of(self.module).values()]
        found = {tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}
        if not found:
            return torch.float64
        if len(found) > 1 or not found <= {torch.float32, torch.float64}:
            listed = ", ".join(sorted(map(str, found)))
            raise SpecError(
                f"{self.what} has weights of {listed}; expected all of torch.float64 or of torch.float32"
            )
        return found.pop()

    def _parameter(self, name: str) -> ParameterSpec:
        known = self.problem.find_parameter(name)
        if known is None:
            raise SpecError(
                f"parameters= of {self.what} has {name!r}, which is no parameter of the problem: declare it with "
                "problem.parameter first"
            )
        return known

    def _declared(self, weight: str, tensor: Tensor) -> ParameterSpec:
        """The parameter that stands for a weight."""
        name, shape = parameter_name(self.name, weight), tuple(tensor.shape)
        if len(shape) > 3 or 0 in shape:
            raise SpecError(
                f"weight {weight!r} of {self.what} has shape {shape}; expected numbers, vectors, matrices or stacks of "
                "matrices, none empty"
            )
        known = self.problem.find_parameter(name)
        owner = self.problem.modules.get(name)
        if known is None:
            check_parameter_name(name)
            known = parameter_spec(name, shape)
            self.added.append(known)
        elif owner is not tensor:
            raise SpecError(
                f"the problem has a parameter {name!r} already, of another module; call this one otherwise, with name="
            )
        return known

    def declare(self) -> None:
        """Give the problem the parameters that it lacks, last: what failed before has changed nothing."""
        self.problem.add_parameters(self.added)
        for weight, tensor in self.weights.items():
            self.problem.modules[parameter_name(self.name, weight)] = tensor

    def rows(self, controls: bool) -> list[sp.Expr]:
        """The entries of what the module returns."""
        result, trace = self._traced(controls)
        entries = [trace.b.number(entry) for entry in trace.entries(result)]
        call = Call(_Name(self.name), ())
        rows = []
        for index, entry in enumerate(entries):
            imported = Imported(entry, call, 0, index)
            plain = isinstance(entry, sp.Symbol) or not imported.free_symbols
            rows.append(entry if plain else imported)
        return rows

    def _traced(self, controls: bool) -> tuple[Tensor, Trace]:
        trace = Trace(Nodes(self.problem.imported_nodes, self.what), self.what, self.dtype, self.frozen)
        inputs = [self._input(trace, self.problem.state_symbols)]
        if controls:
            inputs.append(self._input(trace, self.problem.control_symbols))
        named = {name: self._input(trace, spec.symbols, spec.shape) for name, spec in self.further.items()}
        for weight, tensor in self.weights.items():
            trace.give(tensor, self.known[weight].symbols)
        for spec in (*self.further.values(), *self.known.values()):
            trace.layers.learned.update(spec.symbols)
        before = _kept_tensors(self.module)
        try:
            with warnings.catch_warnings(), torch.enable_grad(), Watch(trace.is_traced, trace.refusal), trace:
                warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
                result = self.module(*inputs, **named)
        except MpcgenError:
            raise
        except Exception as error:
            raise SpecError(
                f"{self.what} failed on x of shape {tuple(inputs[0].shape)}"
                + (f" and u of shape {tuple(inputs[1].shape)}" if controls else "")
                + f", {self.dtype}: {type(error).__name__}: {error}"
            ) from error
        self._check_kept(before)
        if not isinstance(result, Tensor):
            raise SpecError(f"{self.what} returned {type(result).__name__}; expected one tensor")
        if result.dim() > 1:
            raise SpecError(
                f"{self.what} returned a tensor of shape {tuple(result.shape)}; expected one dimension, without a batch"
            )
        return result, trace

    def _input(
        self, trace: Trace, symbols: Sequence[sp.Symbol], shape: Sequence[int] | None = None
    ) -> Tensor:
        """Numbers for the module to run on, none of them special, for which the symbols stand."""
        values = torch.linspace(0.3, 0.9, max(len(symbols), 1), dtype=self.dtype)[: len(symbols)]
        tensor = values.reshape(tuple(shape) if shape is not None else (len(symbols),))
        trace.give(tensor, symbols)
        return tensor

    def _check_kept(self, before: dict[tuple[int, str], Any]) -> None:
        """Refuse a module that keeps a tensor from one call to the next."""
        for (owner, name), value in _kept_tensors(self.module).items():
            if before.get((owner, name)) is not value:
                raise UnsupportedExpressionError(
                    f"{self.what} keeps a tensor from one call to the next, in its attribute {name!r}; what is to be "
                    "remembered, such as a hidden state, is a state of the problem"
                )


def _kept_tensors(module: Any) -> dict[tuple[int, str], Any]:
    """The tensors that a module and its parts have as attributes."""
    if not isinstance(module, nn.Module):
        return {}
    found: dict[tuple[int, str], Any] = {}
    for part in module.modules():
        for name, value in (*vars(part).items(), *part._buffers.items()):
            if isinstance(value, Tensor):
                found[id(part), name] = value
    return found

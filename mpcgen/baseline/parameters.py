"""Named parameter values to and from the flat stage vectors that the CasADi functions take."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpcgen.errors import ParameterError, ShapeError
from mpcgen.problem.spec import ParameterSpec, Spec

Array = NDArray[np.float64]


def parameter_size(spec: Spec) -> int:
    """Number of scalars in one stage's theta: all parameters, in order, each row-major."""
    return sum(len(parameter.symbols) for parameter in spec.parameters)


def stage_parameters(spec: Spec, parameters: Mapping[str, ArrayLike], horizon: int) -> dict[str, Array]:
    """Every parameter as an array: its own shape, behind a stage axis if it is per stage.

    Omitted parameters take their defaults, and a per-stage parameter given without its stage axis has the
    same value at all stages. Raises `ParameterError` for unknown or missing names, `ShapeError` for shapes.
    """
    known = [parameter.name for parameter in spec.parameters]
    for name in parameters:
        if name not in known:
            raise ParameterError(f"problem {spec.name} has no parameter {name!r}; it has {', '.join(known)}")
    return {p.name: _stage_parameter(p, parameters.get(p.name), horizon) for p in spec.parameters}


def _stage_parameter(parameter: ParameterSpec, given: ArrayLike | None, horizon: int) -> Array:
    if given is None and parameter.default is None:
        raise ParameterError(f"parameter {parameter.name!r} has no default; give its value")
    if given is None:
        value = np.asarray(parameter.default, dtype=float).reshape(parameter.shape)
    else:
        value = np.asarray(given, dtype=float)
    full = (parameter.stages(horizon), *parameter.shape) if parameter.per_stage else parameter.shape
    if parameter.per_stage and value.shape == parameter.shape:
        value = np.broadcast_to(value, full)
    if value.shape != full:
        raise ShapeError(
            f"parameter {parameter.name!r} has shape {value.shape}, expected {full} for horizon {horizon}"
        )
    return value.copy()


def pack_parameters(spec: Spec, parameters: Mapping[str, ArrayLike], horizon: int) -> Array:
    """Theta of every stage as columns: (n_theta, N+1).

    A per-stage parameter that the terminal cost does not read repeats its last value in the last column.
    """
    rows = []
    for parameter, value in zip(
        spec.parameters, stage_parameters(spec, parameters, horizon).values(), strict=True
    ):
        columns = value.reshape(parameter.stages(horizon), len(parameter.symbols)).T
        index = np.minimum(np.arange(horizon + 1), columns.shape[1] - 1)
        rows.append(columns[:, index])
    return np.concatenate(rows) if rows else np.zeros((0, horizon + 1))


def unpack_gradient(spec: Spec, gradient: Array) -> dict[str, Array]:
    """Gradient by parameter name, shaped like the parameter, from (n_theta, N+1) stage gradients.

    Sums over stages where one value serves all of them.
    """
    horizon = gradient.shape[1] - 1
    result = {}
    start = 0
    for parameter in spec.parameters:
        rows = gradient[start : start + len(parameter.symbols)]
        start += len(parameter.symbols)
        if parameter.per_stage:
            stages = parameter.stages(horizon)
            result[parameter.name] = rows[:, :stages].T.reshape(stages, *parameter.shape)
        else:
            result[parameter.name] = rows.sum(axis=1).reshape(parameter.shape)
    return result

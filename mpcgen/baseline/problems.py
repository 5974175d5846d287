"""Random problems of a specification file, for comparisons."""

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpcgen.baseline.parameters import Array, stage_parameters
from mpcgen.errors import ParameterError, ShapeError
from mpcgen.problem.loading import load_problem
from mpcgen.problem.spec import Spec


@dataclass(frozen=True)
class Problems:
    """Random problems of one specification; x0: (count, n), parameters by name, the same for all.

    ``own_states``: whether x0 is of the file's ``initial_states``, not from N(0, 1).
    """

    spec: Spec
    x0: Array
    parameters: dict[str, Array]
    own_states: bool = True


def random_problems(path: Path, count: int, seed: int, horizon: int | None = None) -> Problems:
    """Return ``count`` random problems of the specification file ``path``.

    Its ``initial_states(count, seed)`` gives the starts where it has one, else they are drawn from N(0, 1); its
    ``parameter_values(seed)`` gives values of parameters. horizon: N; default: the problem's. Raises `ShapeError` where
    the starts have another shape, and `ParameterError` for a parameter that has neither a value nor a default.
    """
    spec = load_problem(path).spec()
    names: Mapping[str, Any] = runpy.run_path(str(path), run_name="_mpcgen_compare")
    own_states = "initial_states" in names
    if own_states:
        x0 = np.asarray(names["initial_states"](count, seed), dtype=float)
    else:
        x0 = np.random.default_rng(seed).standard_normal((count, len(spec.states)))
    if x0.shape != (count, len(spec.states)):
        raise ShapeError(
            f"initial_states of {path} gave shape {x0.shape}, expected {(count, len(spec.states))}"
        )
    values = names["parameter_values"](seed) if "parameter_values" in names else {}
    missing = [p.name for p in spec.parameters if p.default is None and p.name not in values]
    if missing:
        raise ParameterError(
            f"parameters {', '.join(missing)} of {spec.name} have no default; define parameter_values(seed) "
            f"in {path} returning a dict with their values"
        )
    values = {name: np.asarray(value, dtype=float) for name, value in values.items()}
    return Problems(spec, x0, stage_parameters(spec, values, horizon or spec.horizon), own_states)

"""Pickling of controllers: the class by where its package lies, the state as of any torch module.

`torch.nn.utils.parametrize` gives a module with constraints a class of its own, with properties, and forbids to
pickle it, since that class exists in one process only. Here the properties are made anew and the state put back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from mpcgen.errors import StaleBuildError
from mpcgen.runtime.importing import COMPILED_PACKAGE, import_folder


@dataclass(frozen=True)
class Compiled:
    """Where the class of a controller made by `mpcgen.compile` is found: in this package in the cache."""

    module: str
    folder: str
    name: str


def reference(cls: type) -> type | Compiled:
    """Return what another process can find a controller's class by."""
    if cls.__module__.partition(".")[0] != COMPILED_PACKAGE:
        return cls
    folder = Path(sys.modules[cls.__module__].__file__ or "").parent
    return Compiled(cls.__module__, str(folder), cls.__qualname__)


def blank(where: type | Compiled) -> Any:
    """Return an empty instance of the class that `reference` named.

    Raises StaleBuildError where its package is not on this machine.
    """
    cls: Any = _find(where) if isinstance(where, Compiled) else where
    return cls.__new__(cls)


def _find(where: Compiled) -> Any:
    folder = Path(where.folder)
    if where.module not in sys.modules and not folder.is_dir():
        raise StaleBuildError(
            f"a controller made by mpcgen.compile was saved, but its package {folder} is not here; compile the same "
            f"problem in this process before loading, or save the state_dict() instead of the module"
        )
    return getattr(import_folder(folder, where.module), where.name)


def make_properties(module: nn.Module, names: Iterable[str]) -> None:
    """Make ``module`` anew, with the properties that parametrized tensors of these names have; values follow."""
    nn.Module.__init__(module)
    for name in names:
        module.register_parameter(name, nn.Parameter(torch.zeros(())))
        parametrize.register_parametrization(module, name, nn.Identity(), unsafe=True)

"""Compile rendered controllers: toolchain, digests, cache, manifest, and the driver over them.

The public names load on first use, so that reading this package costs neither sympy nor cffi.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpcgen.build.driver import BuildResult, build, compile
    from mpcgen.build.extension import compile_extension, compile_variants
    from mpcgen.build.manifest import Manifest
    from mpcgen.build.target import Target, select_target
    from mpcgen.build.toolchain import Compiler, Toolchain, find_toolchain

_HOMES = {
    "BuildResult": "driver",
    "Compiler": "toolchain",
    "Manifest": "manifest",
    "Target": "target",
    "Toolchain": "toolchain",
    "build": "driver",
    "compile": "driver",
    "compile_extension": "extension",
    "compile_variants": "extension",
    "find_toolchain": "toolchain",
    "select_target": "target",
}

__all__ = [
    "BuildResult",
    "Compiler",
    "Manifest",
    "Target",
    "Toolchain",
    "build",
    "compile",
    "compile_extension",
    "compile_variants",
    "find_toolchain",
    "select_target",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

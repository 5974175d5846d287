"""Digests: what a build depends on, as sha256.

`build_digest` names a compiled package by its text, headers and toolchain. `spec_key` names it by what
its text is derived from, and thus tells without rendering that nothing changed.
"""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import _cffi_backend

import mpcgen
from mpcgen.codegen.rendered import Rendered
from mpcgen.codegen.template_folder import TEMPLATE_FOLDER
from mpcgen.runtime.loading import ABI, EXT_SUFFIX

PACKAGE_FOLDER = Path(mpcgen.__file__).parent
HEADER_FOLDER = TEMPLATE_FOLDER / "runtime"
# What reads compiled packages, or none; all else in mpcgen stands between a spec and its package.
_BESIDE = frozenset({"cli.py", "doctor.py", "calls", "autograd", "baseline", "reference", "diagnosis"})


class HasIdentity(Protocol):
    """A toolchain for a CPU or for CUDA."""

    @property
    def identity(self) -> str:
        """Compiler and every flag."""


def build_digest(rendered: Rendered, toolchain: HasIdentity, headers: Path = HEADER_FOLDER) -> str:
    """Sha256 (hex) over rendered text, bundled headers, toolchain, Python ABI, cffi and our interface."""
    parts = [f"{file}\n{text}" for file, text in rendered.files]
    parts += _folder_parts(headers)
    parts += _machine_parts(toolchain)
    return _sha256(parts)


def folder_digest(folder: Path) -> str:
    """Sha256 (hex) over a folder's files."""
    return _sha256(_folder_parts(folder))


def spec_key(fingerprint: str, toolchain: HasIdentity) -> str:
    """Sha256 (hex) over a specification's fingerprint, mpcgen's own sources and templates, and the toolchain."""
    parts = [fingerprint, *_SOURCES]
    parts += _folder_parts(TEMPLATE_FOLDER)
    parts += [version("jinja2")]
    parts += _machine_parts(toolchain)
    return _sha256(parts)


def pipeline_sources() -> list[Path]:
    """Mpcgen's own modules that a package's text may depend on; one in a new folder is among them."""
    files = sorted(PACKAGE_FOLDER.rglob("*.py"))
    return [path for path in files if path.relative_to(PACKAGE_FOLDER).parts[0] not in _BESIDE]


def _machine_parts(toolchain: HasIdentity) -> list[str]:
    return [toolchain.identity, EXT_SUFFIX, f"cffi {_cffi_backend.__version__}", f"interface {ABI}"]


def _folder_parts(folder: Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return _file_parts(folder, files)


def _file_parts(folder: Path, files: Iterable[Path]) -> list[str]:
    return [f"{path.relative_to(folder).as_posix()}\n{path.read_text(encoding='utf-8')}" for path in files]


def _sha256(parts: Iterable[str]) -> str:
    # Hashing the parts' own digests keeps ("ab", "c") and ("a", "bc") apart.
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode()).digest())
    return total.hexdigest()


_SOURCES = _file_parts(PACKAGE_FOLDER, pipeline_sources())
"""mpcgen's own sources, as they were when this process imported them: a process that outlives an update must not file
what its old code renders under the new code's key."""

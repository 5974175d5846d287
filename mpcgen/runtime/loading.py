"""Load the compiled extension of a generated package, or say in a sentence why it does not fit.

Everything that could end in a crash or in wrong numbers is checked before the dynamic linker sees the
extension. This module imports nothing but the standard library and its neighbours here.
"""

import hashlib
import importlib.util
import json
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from typing import Any

from mpcgen.errors import StaleBuildError
from mpcgen.runtime import interrupts
from mpcgen.runtime.cpu import describe_cpu, missing_features
from mpcgen.runtime.naming import c_stem
from mpcgen.runtime.units import Units

ABI = 17
"""Version of the C interface between the generated extensions and this package's runtime."""

MANIFEST_FILES = {"cpu": "build.json", "cuda": "cuda.json", "cuda-host": "cuda-host.json"}
"""The manifest of each kind of library that a package can hold."""
DTYPES = ("float64", "float32")
"""The precisions that a package can be compiled in."""
EXT_SUFFIX = EXTENSION_SUFFIXES[0]
"""What an extension of this Python is called, e.g. ``.cpython-311-x86_64-linux-gnu.so``."""


Function = Callable[[Any], int]
"""An entry point: takes an argument struct, returns 0 or a code."""


@dataclass(frozen=True)
class Library:
    """A loaded library: cffi's ``ffi`` and ``lib``, its manifest, its path, and its kind: cpu, cuda or cuda-host.

    ``units``: kernels that are compiled when they are first called; None where ``lib`` has all.
    """

    name: str
    ffi: Any
    lib: Any
    manifest: Mapping[str, Any]
    path: Path
    kind: str = "cpu"
    units: Units | None = None

    @property
    def prefix(self) -> str:
        """What its C functions and types begin with."""
        return c_stem(self.name)

    def function(self, verb: str, variant: str) -> Function:
        """Return an entry point, for a CPU. variant: such as f64_batch."""
        if self.units is not None:
            return self.units.function(verb, variant)
        function: Function = getattr(self.lib, f"{self.prefix}_{verb}_{variant}")
        return function

    def address(self, verb: str, variant: str) -> int:
        """Return an entry point's address, by which other libraries call it."""
        if self.units is not None:
            return self.units.address(verb, variant)
        function = self.ffi.addressof(self.lib, f"{self.prefix}_{verb}_{variant}")
        return int(self.ffi.cast("uintptr_t", function))


def bits_of(dtype: str) -> int:
    """Bits of a number of one of `DTYPES`, by which C calls a precision."""
    return int(dtype.removeprefix("float"))


def load(package_file: str, name: str, source_digest: str) -> Library:
    """Check and load the extension of a generated package; or, where it has none, its CUDA library.

    package_file: the package's ``__file__``. name: of the problem. source_digest: of the C text, as
    `mpcgen.codegen.rendered.source_digest` computed it when the package was rendered.

    Raises StaleBuildError where the extension is missing, or belongs to another problem, text, version
    of mpcgen, Python or CPU.
    """
    folder = Path(package_file).resolve().parent
    kind = next(iter(kinds_in(folder)), "cpu")
    return load_kind(folder, name, source_digest, kind)


def kinds_in(folder: Path) -> tuple[str, ...]:
    """The kinds of library that a package's folder holds."""
    return tuple(kind for kind, file in MANIFEST_FILES.items() if (folder / file).is_file())


def load_kind(folder: Path, name: str, source_digest: str, kind: str) -> Library:
    """Check and load a package's library of this kind; raises StaleBuildError as `load` does."""
    target = "" if kind == "cpu" else f" --target {kind}"
    remedy = f"run `mpcgen build <the spec file of {name}>{target} -o {folder.parent}`"
    manifest = _read_manifest(folder, name, kind, remedy)
    _check_origin(folder, name, manifest, remedy)
    if kind == "cpu":
        _check_python(folder, name, remedy)
    if manifest["source_digest"] != source_digest:
        raise StaleBuildError(
            f"{folder} is stale: its extension was compiled from other C text than its "
            f"__init__.py expects; {remedy}"
        )
    _check_files(folder, manifest["files"], remedy)
    _check_cpu(folder, manifest, remedy)
    path = folder / library_name(name, kind)
    ffi, lib = _open_extension(path, name, remedy) if kind == "cpu" else _open_cuda(path, name, kind, remedy)
    compiled = ffi.string(lib.mpcgen_build_digest()).decode()
    if compiled != manifest["digest"]:
        # Python keeps an extension for the life of the process, whatever happens to its file.
        raise StaleBuildError(
            f"{path} was rebuilt after this process had loaded it (build {compiled[:12]} is loaded, "
            f"{manifest['digest'][:12]} is on disk); restart Python"
        )
    if kind == "cpu":
        interrupts.watch(ffi, lib)
    units = Units(folder, manifest, ffi, lib) if manifest["on_demand"] else None
    return Library(name, ffi, lib, manifest, path, kind, units)


def file_sha256(path: Path) -> str:
    """Sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_sha256(path: Path, digest: str) -> bool:
    """Whether there is a file whose bytes have this sha256."""
    try:
        return file_sha256(path) == digest
    except OSError:
        return False


def extension_name(name: str) -> str:
    """File name of a problem's extension for this Python."""
    return f"_{c_stem(name)}{EXT_SUFFIX}"


def library_name(name: str, kind: str) -> str:
    """File name of a problem's library of this kind."""
    return extension_name(name) if kind == "cpu" else f"_{c_stem(name)}_{kind.replace('-', '_')}.so"


def interface_name(name: str, kind: str) -> str:
    """File name of the module by which cffi opens a CUDA library."""
    return f"_{c_stem(name)}_{kind.replace('-', '_')}_interface.py"


def _read_manifest(folder: Path, name: str, kind: str, remedy: str) -> dict[str, Any]:
    path = folder / MANIFEST_FILES[kind]
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StaleBuildError(
            f"{name} is not built yet: {folder} holds its text, but no {path.name}, so no extension; {remedy}"
        ) from None
    except OSError as error:
        raise StaleBuildError(f"{path} cannot be read: {error}; {remedy}") from error
    except ValueError as error:
        raise StaleBuildError(
            f"{path} is not the JSON that `mpcgen build` writes ({error}); {remedy}"
        ) from error
    if not isinstance(manifest, dict):
        raise StaleBuildError(
            f"{path} holds a {type(manifest).__name__}, not what `mpcgen build` writes; {remedy}"
        )
    absent = [key for key in _FIELDS if key not in manifest]
    if absent:
        raise StaleBuildError(
            f"{path} lacks {', '.join(absent)}: another version of mpcgen wrote it; {remedy}"
        )
    damaged = damaged_field(manifest)
    if damaged is not None:
        raise StaleBuildError(f"{path} is damaged: {damaged} is {manifest[damaged]!r}; {remedy}")
    return manifest


def damaged_field(manifest: Mapping[str, Any]) -> str | None:
    """Name of a manifest's field that is no such thing as `mpcgen build` writes there; None if all are."""
    return next((name for name, is_right in _FIELDS.items() if not is_right(manifest[name])), None)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _is_files(value: object) -> bool:
    """Hashes by the names of files in the package's own folder."""
    return isinstance(value, dict) and all(Path(k).name == k and _is_text(v) for k, v in value.items())


def _is_dtypes(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(dtype in DTYPES for dtype in value)


_FIELDS: dict[str, Callable[[object], bool]] = {
    "problem": _is_text,
    "abi": lambda value: type(value) is int,
    "mpcgen": _is_text,
    "digest": _is_text,
    "source_digest": _is_text,
    "target": _is_text,
    "cpu_features": _is_names,
    "files": _is_files,
    "dtypes": _is_dtypes,
    "on_demand": lambda value: isinstance(value, dict) and all(map(_is_text, value)),
}
"""What loading reads of a manifest, and whether a value can be that."""


def _check_origin(folder: Path, name: str, manifest: Mapping[str, Any], remedy: str) -> None:
    if manifest["problem"] != name:
        raise StaleBuildError(
            f"{folder} holds a foreign build: its text is of the problem {name!r}, but its extension was "
            f"built for {manifest['problem']!r}; {remedy}"
        )
    if manifest["abi"] != ABI:
        raise StaleBuildError(
            f"{folder} was built by mpcgen {manifest['mpcgen']} with interface {manifest['abi']}, "
            f"this mpcgen speaks interface {ABI}; {remedy}"
        )


def _check_python(folder: Path, name: str, remedy: str) -> None:
    if (folder / extension_name(name)).is_file():
        return
    stem = f"_{c_stem(name)}"
    others = sorted(path.name.removeprefix(stem) for path in folder.glob(f"{stem}.*"))
    if others:
        raise StaleBuildError(
            f"{folder} was built for another Python: its extension is for {', '.join(others)}, "
            f"this Python needs {EXT_SUFFIX}; {remedy} with this Python"
        )
    raise StaleBuildError(f"{name} is not built: {folder} has no {extension_name(name)}; {remedy}")


def _check_files(folder: Path, recorded: Mapping[str, str], remedy: str) -> None:
    for file in sorted(recorded):
        path = folder / file
        if not path.is_file():
            raise StaleBuildError(f"{folder} is incomplete: {file} is missing; {remedy}")
        if file_sha256(path) != recorded[file]:
            raise StaleBuildError(
                f"{path} is not what was built: it was edited or replaced after the extension was compiled. "
                f"Change the spec or the templates instead of the generated text, then {remedy}"
            )


def _check_cpu(folder: Path, manifest: Mapping[str, Any], remedy: str) -> None:
    missing = missing_features(manifest["cpu_features"])
    if missing:
        raise StaleBuildError(
            f"{folder} was built for {manifest['target']}, which needs {', '.join(missing)}; this CPU has "
            f"{describe_cpu()}. To use it here, {remedy}; to build for this CPU on another machine, add "
            f"`--march x86-64-v3` or `--march x86-64`"
        )


def _open_extension(path: Path, name: str, remedy: str) -> tuple[Any, Any]:
    module_name = f"_{c_stem(name)}"
    loader = ExtensionFileLoader(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    if spec is None:
        raise StaleBuildError(f"{path} cannot be imported as a Python extension; {remedy}")
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise StaleBuildError(f"{path} does not load on this machine: {error}; {remedy}") from error
    return module.ffi, module.lib


def _open_cuda(path: Path, name: str, kind: str, remedy: str) -> tuple[Any, Any]:
    interface = runpy.run_path(str(path.parent / interface_name(name, kind)))
    try:
        return interface["ffi"], interface["ffi"].dlopen(str(path))
    except OSError as error:
        raise StaleBuildError(f"{path} does not load on this machine: {error}; {remedy}") from error

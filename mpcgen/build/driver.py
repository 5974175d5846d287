"""Build a problem: render, compile, cache, install or import."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from mpcgen.build import cache
from mpcgen.build.cuda import (
    CudaToolchain,
    Resources,
    compile_cuda_library,
    find_cuda_toolchain,
    find_shim_toolchain,
)
from mpcgen.build.cuda_kernel import choose_kernel
from mpcgen.build.digest import build_digest, spec_key
from mpcgen.build.extension import compile_extension
from mpcgen.build.installing import install, install_lock, require_ours
from mpcgen.build.manifest import Manifest
from mpcgen.build.progress import Report, reporter
from mpcgen.build.toolchain import Toolchain, find_toolchain
from mpcgen.build.units import begin_units, first_variant, obtain_unit, recipe, report_to
from mpcgen.codegen.rendered import Rendered
from mpcgen.errors import BuildError
from mpcgen.garbage import without_collector
from mpcgen.problem.fingerprint import fingerprint
from mpcgen.problem.spec import Spec, SupportsSpec, spec_of
from mpcgen.runtime.importing import COMPILED_PACKAGE, import_folder
from mpcgen.runtime.loading import DTYPES, extension_name, file_sha256, interface_name, library_name

DEFAULT_DIRECTORY = "generated"
_PACKAGE_DOCSTRING = '"""Controllers compiled by mpcgen: one package each."""\n'

_CACHE_REMEDY = "set MPCGEN_CACHE_DIR to a folder that you can write"


@dataclass(frozen=True)
class BuildResult:
    """A finished build.

    ``up_to_date``: nothing had to be done. ``from_cache``: nothing was compiled. ``seconds``: wall time.
    ``others``: of further targets.
    """

    path: Path
    up_to_date: bool
    from_cache: bool
    seconds: float
    manifest: Manifest
    others: tuple["BuildResult", ...] = ()


@dataclass(frozen=True)
class _Entry:
    """A package in the cache."""

    path: Path
    manifest: Manifest
    from_cache: bool


def build(
    problem: SupportsSpec | Spec,
    directory: str | Path = DEFAULT_DIRECTORY,
    *,
    targets: Sequence[str] = ("cpu",),
    march: str | None = None,
    architectures: Sequence[str] | None = None,
    cuda_kernel: str = "auto",
    dtypes: Sequence[Any] = DTYPES,
    force: bool = False,
    report: Report | None = None,
) -> BuildResult:
    """Build ``problem`` into the package ``directory``/<name>/.

    A folder of that name that holds files which mpcgen did not write is left alone, and refused.

    targets: of "cpu" and "cuda" ("cuda-host": CUDA's kernels on the CPU, for tests). march: instruction set to
    build for, e.g. "x86-64-v3"; default: the widest this CPU runs. architectures: of CUDA devices, e.g. "sm_90" or
    "sm_80+PTX"; default: this machine's, else `mpcgen.build.cuda.DEFAULT_ARCHITECTURES`. cuda_kernel: what works on
    a problem on a CUDA device, "thread" or "warp"; "auto": by its size (`mpcgen.build.cuda_kernel`). dtypes: the
    precisions to compile, torch.float64, torch.float32 or both, or their names; one of them takes half the time, and
    the module then refuses tensors of the other. force: compile even if nothing changed. report: called with a line
    of text as each step begins.

    Raises BuildError (with the command and the compiler's words), CompilerNotFoundError, SpecError.
    """
    spec = spec_of(problem)
    toolchains = _toolchains(spec, targets, march, architectures, cuda_kernel, dtypes)
    first, *others = [_build(spec, Path(directory), toolchain, force, report) for toolchain in toolchains]
    return replace(first, others=tuple(others))


def _toolchains(
    spec: Spec,
    targets: Sequence[str],
    march: str | None,
    architectures: Sequence[str] | None,
    cuda_kernel: str,
    dtypes: Sequence[Any] = DTYPES,
    on_demand: bool = False,
) -> list[Toolchain | CudaToolchain]:
    constrained = bool(spec.constraints)
    kernel = choose_kernel(len(spec.states), len(spec.controls), cuda_kernel, constrained)
    find: dict[str, Callable[[], Toolchain | CudaToolchain]] = {
        "cpu": lambda: replace(find_toolchain(march), on_demand=on_demand),
        "cuda": lambda: replace(find_cuda_toolchain(architectures), kernel=kernel),
        "cuda-host": lambda: replace(find_shim_toolchain(), kernel=kernel),
    }
    wanted = _names_of(dtypes)
    for name in targets:
        if name not in find:
            raise BuildError(f"unknown target {name!r}; expected of {', '.join(find)}")
    if not targets:
        raise BuildError(f"no target to build for; expected of {', '.join(find)}")
    return [replace(find[name](), dtypes=wanted) for name in dict.fromkeys(targets)]


def _names_of(dtypes: Sequence[Any]) -> tuple[str, ...]:
    """Names of precisions, in `DTYPES`' order."""
    given = [dtypes] if isinstance(dtypes, str) or not isinstance(dtypes, Iterable) else list(dtypes)
    names = {str(dtype).removeprefix("torch.") for dtype in given}
    if not names or not names.issubset(DTYPES):
        raise BuildError(f"dtypes={dtypes!r}; expected torch.float64, torch.float32 or both, or their names")
    return tuple(name for name in DTYPES if name in names)


def _build(
    spec: Spec, directory: Path, toolchain: Toolchain | CudaToolchain, force: bool, report: Report | None
) -> BuildResult:
    start = time.perf_counter()
    key = spec_key(fingerprint(spec), toolchain)
    destination = directory / spec.name
    installed = Manifest.read(destination, toolchain.kind)
    if not force and installed is not None and installed.spec_key == key and installed.is_intact(destination):
        return BuildResult(destination, True, True, time.perf_counter() - start, installed)
    require_ours(destination)
    # A default folder that is made here is a package; one that the user has, or names, stays what it is.
    makes_package = directory == Path(DEFAULT_DIRECTORY) and not directory.exists()
    entry = _obtain(spec, key, toolchain, force, report)
    manifest = cache.with_spec_key(entry.manifest, key)
    with _written(destination, "choose another directory with -o"):
        with install_lock(destination):
            install(entry.path, destination, manifest)
        package = directory / "__init__.py"
        if makes_package and not package.exists():
            package.write_text(_PACKAGE_DOCSTRING, encoding="utf-8")
    return BuildResult(destination, False, entry.from_cache, time.perf_counter() - start, manifest)


def compile(
    problem: SupportsSpec | Spec,
    *,
    targets: Sequence[str] = ("cpu",),
    march: str | None = None,
    architectures: Sequence[str] | None = None,
    cuda_kernel: str = "auto",
    dtypes: Sequence[Any] = DTYPES,
    on_demand: bool = True,
    report: Report | None = None,
    progress: bool | None = None,
) -> ModuleType:
    """Build ``problem`` into the user's cache and import it; the module's ``MPC`` is the controller.

    It does in a notebook what `build`, whose options it takes, does for the command line. The same problem gives
    the same module. on_demand: for the CPU only the solver for batches is compiled now, in the first of ``dtypes``;
    what else the kernels can (single problems, derivatives, the other precision, the interior point where box-DDP does
    not get on) follows with the first call that asks for it, which then takes some seconds longer, and gives the same
    results; of small problems the interior point is begun now where a core is idle. False compiles all now, as `build`
    does: where later calls must not wait, or find no compiler.
    progress: whether the steps of a build that is not in the cache, and so takes more than a second, are printed to
    standard error, unless ``report`` gets them; by default on a terminal and in a notebook.
    """
    say = reporter(report, progress)
    spec = spec_of(problem)
    entries = [
        _obtain(spec, spec_key(fingerprint(spec), toolchain), toolchain, False, say)
        for toolchain in _toolchains(spec, targets, march, architectures, cuda_kernel, dtypes, on_demand)
    ]
    for entry in entries:
        report_to(entry.manifest.digest, say)
    label = "_".join(entry.manifest.digest[:8] for entry in entries)
    folder = entries[0].path
    if len(entries) > 1:
        folder = (
            cache.cache_root() / "packages" / f"{spec.name}-{'-'.join(e.manifest.digest for e in entries)}"
        )
        with (
            _written(folder, _CACHE_REMEDY),
            install_lock(folder),
        ):
            for entry in entries:
                install(entry.path, folder, entry.manifest)
    return _import_package(folder, f"{spec.name}_{label}")


def cuda_resources(
    problem: SupportsSpec | Spec, architectures: Sequence[str] | None = None, cuda_kernel: str = "auto"
) -> tuple[dict[str, int | str], ...]:
    """Return what each CUDA kernel takes of a multiprocessor (`mpcgen.build.cuda.Resources`); compiles if needed."""
    spec = spec_of(problem)
    (toolchain,) = _toolchains(spec, ("cuda",), None, architectures, cuda_kernel)
    return _obtain(spec, spec_key(fingerprint(spec), toolchain), toolchain, False, None).manifest.resources


def render_spec(spec: Spec, looped: bool = False) -> Rendered:
    """Derive and render a specification; looped: as `mpcgen.compiler.render_spec` has it."""
    with without_collector():
        # Not at the top: an unchanged build needs neither the graph nor jinja2.
        from mpcgen import compiler

        return compiler.render_spec(spec, looped)


def render_for(spec: Spec, toolchain: Toolchain | CudaToolchain) -> Rendered:
    """Derive and render a specification with all text that the toolchain compiles."""
    rendered = render_spec(spec)
    if isinstance(toolchain, CudaToolchain) and toolchain.kernel == "warp":
        return rendered.with_warp_source(render_spec(spec, looped=True).source)
    return rendered


def _obtain(
    spec: Spec, key: str, toolchain: Toolchain | CudaToolchain, force: bool, report: Report | None
) -> _Entry:
    """The compiled package of a specification: from the cache, or made and put there."""
    say = report or (lambda line: None)
    known = None if force else cache.recall_key(key)
    path = cache.find_entry(spec.name, known, toolchain.kind) if known else None
    if path is not None:
        return _read_entry(path, toolchain.kind, from_cache=True)
    say(f"deriving and rendering {spec.name}")
    rendered = render_for(spec, toolchain)
    if isinstance(toolchain, Toolchain) and not rendered.parts:
        toolchain = replace(toolchain, on_demand=False)
    digest = build_digest(rendered, toolchain)
    with _written(cache.cache_root(), _CACHE_REMEDY):
        if force:
            cache.discard_entry(spec.name, digest)
        path = cache.find_entry(spec.name, digest, toolchain.kind)
        from_cache = path is not None
        if path is None:
            path = _make(rendered, toolchain, key, digest, say)
        cache.remember_key(key, digest)
    return _read_entry(path, toolchain.kind, from_cache)


def _make(
    rendered: Rendered, toolchain: Toolchain | CudaToolchain, key: str, digest: str, say: Report
) -> Path:
    """Compile a rendered package into the cache."""
    say(f"compiling {rendered.name} for {toolchain.description}")

    def fill(folder: Path) -> Manifest:
        if isinstance(toolchain, CudaToolchain):
            resources = compile_cuda_library(rendered, folder, digest, toolchain, report=say)
            return _cuda_manifest(folder, rendered, toolchain, key, digest, resources)
        if toolchain.on_demand:
            begin_units(rendered, toolchain, digest)
        compile_extension(rendered, folder, digest, toolchain=toolchain, report=say)
        manifest = _manifest(folder, rendered, toolchain, key, digest)
        if toolchain.on_demand:
            # So that a text that does not compile is known now, and the first call does not wait.
            report_to(digest, None)
            obtain_unit(folder, asdict(manifest), "solve", first_variant(toolchain.dtypes))
        return manifest

    return cache.make_entry(rendered.name, digest, fill)


def _manifest(folder: Path, rendered: Rendered, toolchain: Toolchain, key: str, digest: str) -> Manifest:
    """Describe the package that was compiled in ``folder``."""
    return Manifest(
        problem=rendered.name,
        digest=digest,
        spec_key=key,
        source_digest=rendered.digest,
        mpcgen=version("mpcgen"),
        compiler=toolchain.compiler.identity,
        flags=toolchain.flags_for(rendered.small),
        target=toolchain.target.name,
        cpu_features=toolchain.target.cpu_features,
        lanes=dict(toolchain.target.lanes),
        sizes=dict(rendered.sizes),
        files=_hashes(folder, rendered, extension_name(rendered.name)),
        dtypes=toolchain.dtypes,
        on_demand=recipe(toolchain) if toolchain.on_demand else {},
    )


def _cuda_manifest(
    folder: Path,
    rendered: Rendered,
    toolchain: CudaToolchain,
    key: str,
    digest: str,
    resources: Sequence[Resources],
) -> Manifest:
    """Describe the CUDA library that was compiled in ``folder``."""
    libraries = (library_name(rendered.name, toolchain.kind), interface_name(rendered.name, toolchain.kind))
    return Manifest(
        problem=rendered.name,
        digest=digest,
        spec_key=key,
        source_digest=rendered.digest,
        mpcgen=version("mpcgen"),
        compiler=f"{' '.join(toolchain.command)}; {toolchain.version}",
        flags=toolchain.compile_flags,
        target=toolchain.target,
        cpu_features=(),
        lanes={},
        sizes=dict(rendered.sizes),
        files=_hashes(folder, rendered, *libraries),
        dtypes=toolchain.dtypes,
        kind=toolchain.kind,
        kernel=toolchain.kernel,
        resources=tuple(asdict(row) for row in resources),
    )


def _hashes(folder: Path, rendered: Rendered, *libraries: str) -> dict[str, str]:
    files = sorted([file for file, _ in rendered.files] + list(libraries))
    return {file: file_sha256(folder / file) for file in files}


def _read_entry(path: Path, kind: str, from_cache: bool) -> _Entry:
    manifest = Manifest.read(path, kind)
    if manifest is None:
        raise BuildError(f"the cache entry {path} vanished while it was read; build again")
    return _Entry(path, manifest, from_cache)


@contextlib.contextmanager
def _written(folder: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuildError(f"cannot write the build to {folder}: {error}; {remedy}") from error


def _import_package(folder: Path, name: str) -> ModuleType:
    return import_folder(folder, f"{COMPILED_PACKAGE}.{name}")

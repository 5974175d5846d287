"""The command line: `mpcgen build`, `inspect`, `compare`, `export`, `cache`, `doctor` and `bench`.

Every import that takes time waits until its command runs.
"""

import atexit
import gc
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpcgen.errors import BuildError, CheckoutError, InternalError, MpcgenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcgen.build.driver import BuildResult

BUILD_ERROR = 1
USER_ERROR = 2
KERNEL_HELP = "What works on a problem on a CUDA device: thread or warp; auto: by the problem's size."


class _Group(click.Group):
    """Prints the user's mistakes as a message; a bug of ours keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InternalError:
            raise
        except MpcgenError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(BUILD_ERROR if isinstance(error, BuildError) else USER_ERROR)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mpcgen")
def main() -> None:
    """Compile symbolic MPC problems to differentiable C solvers for PyTorch."""
    atexit.register(gc.freeze)  # at the end of a process nothing is worth collecting


@main.command(short_help="Build the controller of a specification file.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("-o", "--output", default="generated", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--march", metavar="TARGET", help="Instruction set, e.g. x86-64-v3. Default: this CPU's widest."
)
@click.option(
    "--target", default="cpu", show_default=True, help="cpu, cuda or both as cpu,cuda (cuda-host: for tests)."
)
@click.option(
    "--arch", metavar="NAMES", help="CUDA architectures, e.g. sm_90,sm_80+PTX. Default: this machine's GPUs'."
)
@click.option("--cuda-kernel", default="auto", show_default=True, help=KERNEL_HELP)
@click.option(
    "--dtypes", default="float64,float32", show_default=True, help="Precisions; one takes half the time."
)
@click.option("--force", is_flag=True, help="Compile even if nothing changed.")
def build(
    spec: Path,
    output: Path,
    march: str | None,
    target: str,
    arch: str | None,
    cuda_kernel: str,
    dtypes: str,
    force: bool,
) -> None:
    """Build the controller of the specification file SPEC into OUTPUT/<problem name>."""
    from mpcgen.build import unchanged
    from mpcgen.build.observed import watch

    begin = unchanged.begin()
    request = unchanged.Request(
        str(spec.absolute()),
        str(output.absolute()),
        tuple(target.split(",")),
        march,
        tuple(dtypes.split(",")),
        cuda_kernel,
    )
    if not force and (package := unchanged.recall(request)):
        click.echo(f"{package} is up to date ({(unchanged.begin() - begin) / 1e9:.2f} s)")
        return
    from mpcgen import load_problem
    from mpcgen.build.driver import build as build_problem

    gc.freeze()  # what was imported stays
    with watch() as observed:
        frozen = load_problem(spec).spec()
    noted = unchanged.look(request, observed, begin)
    result = build_problem(
        frozen,
        output,
        targets=target.split(","),
        march=march,
        architectures=arch.split(",") if arch else None,
        cuda_kernel=cuda_kernel,
        dtypes=dtypes.split(","),
        force=force,
        report=lambda line: click.echo(f"  {line}"),
    )
    if noted:
        unchanged.remember(request, noted, result)
    for part in (result, *result.others):
        if part.up_to_date:
            click.echo(f"{part.path} is up to date ({part.seconds:.2f} s)")
        else:
            _print_result(part)


@main.command(short_help="Print every stage from specification to C.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--stage", metavar="NAME", help="Print this stage of the pipeline only.")
@click.option("--cuda", is_flag=True, help="Compile for CUDA; print each kernel's registers and spills.")
@click.option("--arch", metavar="NAMES", help="CUDA architectures, as for build.")
@click.option("--cuda-kernel", default="auto", show_default=True, help=KERNEL_HELP)
def inspect(spec: Path, stage: str | None, cuda: bool, arch: str | None, cuda_kernel: str) -> None:
    """Print every stage from the specification file SPEC to the rendered C."""
    if cuda:
        _print_resources(spec, arch, cuda_kernel)
        return
    from mpcgen.compiler import inspect as inspect_spec
    from mpcgen.problem.loading import load_problem

    click.echo(inspect_spec(load_problem(spec).spec(), stage=stage))


@main.command(short_help="Compare a built controller with CasADi.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--count", default=16, show_default=True, type=click.IntRange(min=1), help="Number of problems."
)
@click.option("--seed", default=0, show_default=True, help="Of the random initial states.")
@click.option("--tol", default=1e-8, show_default=True, help="Tolerance of both solvers.")
@click.option(
    "--spec",
    type=click.Path(path_type=Path),
    help="Specification file. Default: <name>.py or examples/<name>.py, here or where generated/ is.",
)
def compare(path: Path, count: int, seed: int, tol: float, spec: Path | None) -> None:
    """Compare the built controller at PATH, e.g. generated/cartpole, with CasADi."""
    from mpcgen.baseline.report import main_compare

    main_compare(path, count=count, seed=seed, tol=tol, spec=spec)


@main.command(short_help="Write a controller as C99 without a heap.")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
@click.option("--horizon", type=int, help="N. Default: the problem's.")
@click.option("--method", help="ddp or interior_point. Default: by the problem's constraints.")
@click.option("--hessian", default="exact", show_default=True, help="gauss_newton: less code, more passes.")
@click.option("--constants", default="", metavar="NAMES", help="Parameters that become their defaults.")
@click.option(
    "--gradient", is_flag=True, help="A function that differentiates a loss through the solution, too."
)
@click.option("--small", is_flag=True, help="Loops in place of long products: less code, some more time.")
@click.option(
    "--prefix", metavar="NAME", help="What files and functions begin with. Default: the problem's name."
)
@click.option("--max-iterations", type=int, help="Most passes of a solve. Default: 200.")
@click.option(
    "--cc",
    metavar="COMMAND",
    help="Compiler and flags whose sizes are shown, e.g. a target's. Default: CC -Os.",
)
@click.option(
    "--cmake",
    is_flag=True,
    help="A CMake package for batches in C++17 instead: SIMD, threads, both precisions.",
)
@click.option("--check", is_flag=True, help="Compare 1,000 solves with the package, to the bit.")
@click.option("--seed", default=0, show_default=True, help="Of the random initial states.")
def export(spec: Path, seed: int, cmake: bool, **options: Any) -> None:
    """Write the controller of SPEC as C99 that needs a C compiler and libm: no heap, no files, no threads."""
    from mpcgen.export.command import main_export, main_library

    if cmake:
        context = click.get_current_context()
        other = [name for name in options if name != "output" and _is_given(context, name)]
        if other:
            raise click.UsageError(
                f"--cmake goes without --{', --'.join(other)}: it has both precisions, all methods and horizons"
            )
        main_library(spec, options["output"], seed, click.echo)
        return
    main_export(spec, seed=seed, say=click.echo, **options)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


@main.command("cache", short_help="Show or clear the cache of packages.")
@click.option("--clear", is_flag=True, help="Delete what mpcgen keeps there.")
def cache_command(clear: bool) -> None:
    """Show the cache of compiled packages: its folder (MPCGEN_CACHE_DIR, if set), packages and size."""
    from mpcgen.build import cache

    found = cache.contents()
    total = sum(found.packages.values())
    click.echo(f"{found.root}: {total} package{'' if total == 1 else 's'}, {found.size / 2**20:.1f} MiB")
    if clear:
        cache.clear()
        click.echo("cleared")
        return
    for name, count in found.packages.items():
        click.echo(f"  {name}" + (f" ({count} builds)" if count > 1 else ""))


@main.command(short_help="Say what mpcgen finds and lacks here.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor(as_json: bool) -> None:
    """Say what mpcgen finds on this machine, and what to do about what is missing; ends with 1 if it cannot work."""
    import json
    from dataclasses import asdict

    from mpcgen.doctor import examine

    found = []
    for part in examine():
        found.append(part)
        if not as_json:
            click.echo(str(part))
    if as_json:
        click.echo(json.dumps([asdict(part) for part in found], indent=1))
    lacking = [part.name for part in found if part.is_lacking]
    if not as_json:
        click.echo(
            f"mpcgen cannot work here for want of: {', '.join(lacking)}"
            if lacking
            else "mpcgen can work here"
        )
    click.get_current_context().exit(BUILD_ERROR if lacking else 0)


@main.command(
    short_help="Time solvers and their peers, in a checkout.",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Time the generated solvers and their peers; in a checkout. `mpcgen bench --help` has the options."""
    _checkout_module("examples.bench.command").main.main(arguments, "mpcgen bench", standalone_mode=False)


def _checkout_module(name: str) -> Any:
    """Import a module that only a checkout of mpcgen has: that of an editable install, or the current folder."""
    folders = [Path(__file__).parents[1], Path.cwd()]
    for folder in folders:
        if folder.joinpath(*name.split(".")).with_suffix(".py").is_file():
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
            return importlib.import_module(name)
    raise CheckoutError(
        f"{name} is not part of the installed package, and neither {folders[0]} nor {folders[1]} is a checkout "
        "of mpcgen; clone its repository and run the command in its top folder"
    )


def _print_resources(spec: Path, arch: str | None, cuda_kernel: str) -> None:
    from mpcgen.build.driver import cuda_resources
    from mpcgen.problem.loading import load_problem

    for row in cuda_resources(load_problem(spec), arch.split(",") if arch else None, cuda_kernel):
        click.echo("{:<28} {}".format(*_resources_row(row)))


def _resources_row(row: "Mapping[str, int | str]") -> tuple[str, str]:
    label = f"{row['kernel']} f{row['precision']} {row['architecture']}"
    spills = f"spills {row['spill_stores']} + {row['spill_loads']}"
    return (
        label,
        f"{row['registers']} registers; bytes: stack {row['stack']}, {spills}, shared {row['shared']}",
    )


def _print_result(result: "BuildResult") -> None:
    manifest = result.manifest
    rows = [("target", manifest.target)]
    if manifest.kernel:
        rows.append(("works on a problem", f"a {manifest.kernel}"))
    if manifest.lanes:
        rows.append(
            ("problems per vector", ", ".join(f"{lanes} ({name})" for name, lanes in manifest.lanes.items()))
        )
    rows += [_resources_row(row) for row in manifest.resources]
    rows += [(label, str(value)) for label, value in manifest.sizes.items()]
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        click.echo(f"  {label:<{width}}    {value}")
    how = "from the cache" if result.from_cache else "compiled"
    click.echo(f"{result.path} {how} in {result.seconds:.2f} s")

"""The compiled packages of the benchmark: compiled here, or made beforehand for a machine that cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mpcgen.build import driver
from mpcgen.build.manifest import Manifest
from mpcgen.errors import ParameterError
from mpcgen.problem.spec import Spec
from mpcgen.runtime.importing import execute_folder
from mpcgen.runtime.loading import extension_name, kinds_in


@dataclass(frozen=True)
class Packages:
    """Where packages come from.

    ``folder``: of what `examples.bench.run.prepare` made, a folder for each kind of device, because of a package with
    several kinds the CPU's would be taken for a tensor on the CPU. None: packages are compiled when they are asked for,
    and cached. ``architectures``: to compile for CUDA; default: this machine's. ``cuda_kernel``: what works on a
    problem there, as for `mpcgen.build.driver.build`.
    """

    folder: Path | None = None
    architectures: tuple[str, ...] | None = None
    cuda_kernel: str = "auto"

    def package(self, spec: Spec, kind: str) -> ModuleType:
        """Return the package with the kernels of ``kind``: cpu, cuda or cuda-host.

        Where the folder has none for this CPU and Python, one is compiled. Raises ParameterError where it has none for
        a device, or one of the other kind of kernel, BuildError where none can be compiled.
        """
        made = None if self.folder is None else self.folder / kind / spec.name
        if made is None or (kind == "cpu" and not (made / extension_name(spec.name)).is_file()):
            return driver.compile(
                spec, targets=(kind,), architectures=self.architectures, cuda_kernel=self.cuda_kernel
            )
        if kind not in kinds_in(made):
            raise ParameterError(
                f"{made} holds no package built for {kind}; make one with `mpcgen bench --device {kind} --packages "
                f"{self.folder} --prepare`, where its compiler is, with the same --problem options"
            )
        manifest = Manifest.read(made, kind)
        if kind != "cpu" and manifest is not None and self.cuda_kernel not in ("auto", manifest.kernel):
            raise ParameterError(
                f"{made} was built with a {manifest.kernel} per problem, and --cuda-kernel {self.cuda_kernel} asks for "
                f"another; leave the option out, or prepare a folder with it"
            )
        return execute_folder(made, f"{spec.name}_prepared_for_{kind.replace('-', '_')}")


COMPILED_HERE = Packages()
"""Compiled when they are asked for, for this machine."""

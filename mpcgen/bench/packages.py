"""The compiled packages of the benchmark: compiled here, or made beforehand for a machine that cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from mpcgen.build import driver
from mpcgen.errors import ParameterError
from mpcgen.problem.spec import Spec
from mpcgen.runtime.importing import execute_folder
from mpcgen.runtime.loading import extension_name, kinds_in


@dataclass(frozen=True)
class Packages:
    """Where packages come from.

    ``folder``: of what `mpcgen.bench.run.prepare` made, a folder for each kind of device, because of a package with
    several kinds the CPU's would be taken for a tensor on the CPU. None: packages are compiled when they are asked for,
    and cached. ``architectures``: to compile for CUDA; default: this machine's.
    """

    folder: Path | None = None
    architectures: tuple[str, ...] | None = None

    def package(self, spec: Spec, kind: str) -> ModuleType:
        """Return the package with the kernels of ``kind``: cpu, cuda or cuda-host.

        Where the folder has none for this CPU and Python, one is compiled. Raises ParameterError where it has none for
        a device, BuildError where none can be compiled.
        """
        made = None if self.folder is None else self.folder / kind / spec.name
        if made is None or (kind == "cpu" and not (made / extension_name(spec.name)).is_file()):
            return driver.compile(spec, targets=(kind,), architectures=self.architectures)
        if kind not in kinds_in(made):
            raise ParameterError(
                f"{made} holds no package built for {kind}; make one with `mpcgen bench --device {kind} --packages "
                f"{self.folder} --prepare`, where its compiler is, with the same --problem options"
            )
        return execute_folder(made, f"{spec.name}_prepared_for_{kind.replace('-', '_')}")


COMPILED_HERE = Packages()
"""Compiled when they are asked for, for this machine."""

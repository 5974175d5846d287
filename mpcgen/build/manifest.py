"""The manifest of a compiled library: `build.json` beside an extension, `cuda.json` beside a CUDA library."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpcgen.runtime.loading import ABI, EXT_SUFFIX, MANIFEST_FILES, damaged_field, has_sha256, library_name


@dataclass(frozen=True)
class Manifest:
    """What was built, from what, with what, and for which machine.

    ``digest`` names the build, ``spec_key`` what it was derived from, ``source_digest`` its C text.
    ``files`` maps every file of the package to its sha256, the library included. ``kind``: cpu, cuda or cuda-host.
    ``dtypes``: the precisions it was compiled in. ``kernel``: of a CUDA library, what works on a problem, a "thread" or
    a "warp".
    ``on_demand``: how kernels are compiled when they are first called (`mpcgen.build.units`); empty where all are.
    ``resources``: of a CUDA library, what each kernel takes of a multiprocessor (`mpcgen.build.cuda.Resources`).
    """

    problem: str
    digest: str
    spec_key: str
    source_digest: str
    mpcgen: str
    compiler: str
    flags: tuple[str, ...]
    target: str
    cpu_features: tuple[str, ...]
    lanes: dict[str, int]
    sizes: dict[str, int | float | str]
    files: dict[str, str]
    dtypes: tuple[str, ...]
    abi: int = ABI
    python: str = EXT_SUFFIX
    kind: str = "cpu"
    kernel: str = ""
    resources: tuple[dict[str, int | str], ...] = ()
    on_demand: dict[str, str | list[str]] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """The manifest as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def write(self, folder: Path) -> None:
        """Write the manifest into ``folder``."""
        (folder / MANIFEST_FILES[self.kind]).write_text(self.text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, kind: str = "cpu") -> "Manifest | None":
        """The manifest of this kind in ``folder``; None where there is none that this version of mpcgen wrote."""
        try:
            fields: dict[str, Any] = json.loads((folder / MANIFEST_FILES[kind]).read_text(encoding="utf-8"))
            for name in ("flags", "cpu_features", "dtypes", "resources"):
                fields[name] = tuple(fields[name])
            found = cls(**fields)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if damaged_field(dataclasses.asdict(found)) is None and found.kind == kind else None

    @property
    def library(self) -> str:
        """File name of the extension or CUDA library."""
        return library_name(self.problem, self.kind)

    def is_intact(self, folder: Path) -> bool:
        """Whether ``folder`` holds every file of this build unchanged, for this Python and interface."""
        if self.abi != ABI or self.python != EXT_SUFFIX or self.library not in self.files:
            return False
        return all(has_sha256(folder / file, digest) for file, digest in self.files.items())

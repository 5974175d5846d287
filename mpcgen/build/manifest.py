"""The manifest of a compiled package: `build.json`, beside the extension."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpcgen.runtime.loading import ABI, EXT_SUFFIX, MANIFEST_FILE, extension_name, file_sha256


@dataclass(frozen=True)
class Manifest:
    """What was built, from what, with what, and for which machine.

    ``digest`` names the build, ``spec_key`` what it was derived from, ``source_digest`` its C text.
    ``files`` maps every file of the package to its sha256, the extension included.
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
    abi: int = ABI
    python: str = EXT_SUFFIX

    def write(self, folder: Path) -> None:
        """Write `build.json` into ``folder``."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest in ``folder``; None where there is none that this version of mpcgen wrote."""
        try:
            fields: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            for name in ("flags", "cpu_features"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def extension(self) -> str:
        """File name of the extension."""
        return extension_name(self.problem)

    def is_intact(self, folder: Path) -> bool:
        """Whether ``folder`` holds every file of this build unchanged, for this Python and interface."""
        if self.abi != ABI or self.python != EXT_SUFFIX or self.extension not in self.files:
            return False
        return all(_has_sha256(folder / file, digest) for file, digest in self.files.items())


def _has_sha256(path: Path, digest: str) -> bool:
    try:
        return file_sha256(path) == digest
    except OSError:
        return False

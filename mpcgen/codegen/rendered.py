"""The rendered text of a controller: what code generation hands to the build."""

import hashlib
from dataclasses import dataclass, replace

from mpcgen.errors import InternalError
from mpcgen.runtime.naming import c_stem

CDEF_BEGIN = "/* cffi: begin */"
CDEF_END = "/* cffi: end */"
CUDA_CDEF_BEGIN = "/* cffi cuda: begin */"
CUDA_CDEF_END = "/* cffi cuda: end */"


def source_digest(header: str, source: str) -> str:
    """Sha256 (hex) of the C text; the generated ``__init__.py`` carries it and asks for its extension by it.

    It depends on no machine, unlike the digest of a build.
    """
    text = hashlib.sha256()
    for part in (header, source):
        text.update(hashlib.sha256(part.encode()).digest())
    return text.hexdigest()


def _warp_file(name: str) -> str:
    return f"_{c_stem(name)}_warp.c"


@dataclass(frozen=True)
class Rendered:
    """All text of one generated package.

    ``files`` pairs file names with their text: ``<stem>.h``, ``<stem>.c``, ``__init__.py``. ``header`` is
    the text of ``<stem>.h``, whose part between `CDEF_BEGIN` and `CDEF_END` is the cdef; ``source`` is the
    text of ``<stem>.c``, compiled once per precision and once each for batches and for single problems.
    ``small``: a stage is few operations (`SMALL_STAGE`), for which the compiler is asked for all that it can do.
    ``sizes`` are figures worth showing (states, controls, operations...); they go to the manifest. ``parts``: what is
    compiled apart, of `mpcgen.runtime.parts.PARTS`; a text of another kind has none, and is compiled whole.
    """

    name: str
    files: tuple[tuple[str, str], ...]
    header: str
    source: str
    small: bool
    sizes: tuple[tuple[str, int | float | str], ...] = ()
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = dict(self.files)
        for file, text in ((f"{self.stem}.h", self.header), (f"{self.stem}.c", self.source)):
            if texts.get(file) != text:
                raise InternalError(
                    f"rendered package {self.name!r}: {file} is missing from its files or differs"
                )
        if "__init__.py" not in texts:
            raise InternalError(f"rendered package {self.name!r} has no __init__.py")

    @property
    def stem(self) -> str:
        """What its C functions and files begin with: its name, if C takes it."""
        return c_stem(self.name)

    @property
    def cdef(self) -> str:
        """The declarations of the header that cffi parses."""
        return self._between(CDEF_BEGIN, CDEF_END)

    @property
    def cuda_cdef(self) -> str:
        """What a CUDA library declares besides."""
        return self._between(CUDA_CDEF_BEGIN, CUDA_CDEF_END)

    def with_warp_source(self, source: str) -> "Rendered":
        """The package with the text for kernels that give a warp to a problem; no file of its own if it is the same.

        source: the C text with F and H apart from the Riccati products (`render_spec` with looped=True).
        """
        if source == self.source:
            return self
        return replace(self, files=(*self.files, (_warp_file(self.name), source)))

    @property
    def warp_file(self) -> str:
        """Name of the file with the text for a warp per problem."""
        own = _warp_file(self.name)
        return own if own in dict(self.files) else f"{self.stem}.c"

    def _between(self, first: str, last: str) -> str:
        _, begin, rest = self.header.partition(first)
        declarations, end, _ = rest.partition(last)
        if not (begin and end):
            raise InternalError(f"{self.stem}.h lacks the lines {first!r} and {last!r}")
        return declarations

    @property
    def c_text(self) -> str:
        """Header and source."""
        return f"{self.header}\n{self.source}"

    @property
    def digest(self) -> str:
        """See `source_digest`."""
        return source_digest(self.header, self.source)

    def __str__(self) -> str:
        lines = [f"rendered package {self.name}:"]
        lines += [f"  {file:<24} {text.count(chr(10)):>7} lines" for file, text in self.files]
        lines += [f"  {label:<24} {value:>7}" for label, value in self.sizes]
        return "\n".join(lines)

"""What a specification reads while it runs, and whether its files are all that it depends on.

A specification is a program. It depends on files alone if its own code and that of the modules of the user's that it
imports names nothing that could read more: the clock, the environment, chance, its input, or what files there are.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import re
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import source_from_cache


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PURE = _names(
    "__future__ abc cmath collections contextlib copy csv dataclasses decimal enum fractions functools itertools json "
    "math mpcgen mpmath numbers numpy operator pathlib re string sympy textwrap types typing warnings"
)
"""Packages whose results depend on their arguments alone, but for what `_ELSEWHERE` names of them."""
_ARITHMETIC = _names("flint gmpy2 mpcgen mpmath numpy sympy")
"""Packages of others that these bring with them."""
_ELSEWHERE = _names(
    "__builtins__ __import__ __loader__ __spec__ _os _sys _time absolute ctypeslib cwd datetime64 environ eval "
    "exec exists expanduser getenv glob globals hash home id import_module importlib input is_dir is_file "
    "is_symlink iterdir lstat mkdir modules os owner readlink rename resolve rglob rmdir samefile stat stats "
    "subprocess sys tempfile unlink urandom vars walk"
)
"""Names by which a program reads what is in no file, or whether there are files, or changes them."""
_CHANCE = re.compile(r"rand\w*|\w*random\w*")
"""Names of what draws numbers, of sympy and numpy, too."""
_OF_TORCH = _names("rand randint randn")
"""Those that torch has, for examples of calls below a specification, and else mpmath and numpy.matlib alone."""
_SEEKING = _names("DataSource fromregex genfromtxt loadtxt")
"""Functions of numpy that look whether there is a file, and else for one with such an end:"""
_COMPRESSED = (".gz", ".bz2", ".xz", ".lzma")
_CATCHING = _names("try suppress")
"""What goes on where there is none."""


@dataclass
class Observed:
    """What ran: modules loaded before and after, files opened, by absolute path, and what else it did.

    ``does_more``: it wrote to a file, or read its standard input.
    """

    before: frozenset[str]
    loaded: frozenset[str] = frozenset()
    opened: set[str] = field(default_factory=set)
    does_more: bool = False

    def note(self, path: object, mode: object, flags: int) -> None:
        """Note a file that is opened."""
        if not isinstance(path, str | bytes | os.PathLike):
            self.does_more |= path == 0  # others are of what was opened before
            return
        name = os.path.abspath(os.fsdecode(path))
        writes = set(mode) & set("wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
        if f"{os.sep}__pycache__{os.sep}" in name:
            if writes:
                return  # byte code, which the module's source stands for
            with contextlib.suppress(ValueError):
                name = source_from_cache(name)
        self.does_more |= bool(writes)
        self.opened.add(name)

    def imported_others(self) -> set[str]:
        """Packages that are neither Python's nor among those whose results are known to depend on arguments alone."""
        known = sys.stdlib_module_names | _ARITHMETIC
        installed = {
            name.partition(".")[0]
            for name in self.loaded - self.before
            if (file := file_of(name)) and is_installed(file) and not name.startswith("_sysconfigdata")
        }
        return installed - known


_watching: list[Observed] = []


@contextlib.contextmanager
def watch() -> Iterator[Observed]:
    """Observe what is run meanwhile; not for two at once."""
    if not _watching:
        sys.addaudithook(_hook)  # for good: no hook can be taken back
    _watching[:] = [Observed(frozenset(sys.modules))]
    observed = _watching[0]
    try:
        yield observed
    finally:
        observed.loaded = frozenset(sys.modules)
        _watching[:] = [Observed(frozenset())]  # which nobody asks


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watching:
        path, mode, flags = arguments
        _watching[0].note(path, mode, flags if isinstance(flags, int) else 0)


def file_of(module: str) -> str | None:
    """The file of a module that is loaded, if it has one."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) else None


@functools.cache
def installed_folders() -> tuple[str, ...]:
    """Where Python and what was installed for it lie."""
    paths = sysconfig.get_paths()
    named = [paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    user = site.getusersitepackages() if site.ENABLE_USER_SITE else None
    return tuple(dict.fromkeys([*named, *site.getsitepackages(), *([user] if user else [])]))


def is_installed(path: str) -> bool:
    """Whether a file is Python's, of an installed package, or mpcgen's."""
    return path.startswith(_places())


@functools.cache
def _places() -> tuple[str, ...]:
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return tuple(folder + os.sep for folder in (*installed_folders(), own))


@dataclass(frozen=True)
class Named:
    """What the text of a program names.

    ``packages``: that it may import; ``others``: what it may look up, in them or elsewhere; ``modules``: every part of
    a name that may be a module's.
    """

    packages: frozenset[str]
    others: frozenset[str]
    modules: frozenset[str]

    def is_harmless(self, loaded: frozenset[str]) -> bool:
        """Whether nothing reads more than files; loaded: packages whose results may depend on more.

        A package that is named and was not loaded has not been asked yet: the statement did not run, or failed.
        """
        return not (self.packages & loaded or self.others & _ELSEWHERE or self._drawing())

    def _drawing(self) -> set[str]:
        """Names by which numbers are drawn."""
        found = {name for name in self.others if _CHANCE.fullmatch(name)}
        return found if {"mpmath", "matlib"} & (self.packages | self.others) else found - _OF_TORCH


def named_by(text: bytes | str) -> Named | None:
    """What a program names, texts in it too that may be programs; None where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    packages: set[str] = set()
    others: set[str] = set()
    modules: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            packages.update(first for first, *_ in names)
            others.update(part for _, *rest in names for part in rest)
            modules.update(part for name in names for part in name)
        elif isinstance(node, ast.ImportFrom):
            first, *rest = (node.module or "").split(".")
            packages.update([] if node.level else [first])
            others.update(rest, (alias.name for alias in node.names))
            modules.update(filter(None, (first, *rest)), (alias.name for alias in node.names))
        elif isinstance(node, ast.Attribute):
            others.add(
                "_time" if node.attr == "time" else node.attr
            )  # by itself it is a fine name of a state
        elif isinstance(node, ast.Try):
            others.add("try")
        elif isinstance(node, ast.Name):
            others.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            others.add(node.value)
            if inner := named_by(node.value):  # which sympy may evaluate
                others |= inner.others
    return Named(frozenset(packages), frozenset(others), frozenset(modules))


def are_harmless(programs: Sequence[Named | None], loaded: frozenset[str], opened: Iterable[str]) -> bool:
    """Whether programs read nothing but the files that they opened; loaded: as for one of them."""
    if any(program is None or not program.is_harmless(loaded) for program in programs):
        return False
    named = frozenset[str]().union(*(program.others for program in programs if program))
    return not (named & _SEEKING) or not (
        named & _CATCHING or any(path.endswith(_COMPRESSED) for path in opened)
    )

"""Reading a specification file: a Python script that builds one `Problem`."""

import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from mpcgen.errors import SpecError
from mpcgen.problem.problem import Problem


def load_problem(path: str | os.PathLike[str]) -> Problem:
    """Run a specification file and return its only `Problem`.

    The file runs as an import would run it: ``__name__`` is not ``"__main__"``, and modules beside it can be
    imported.

    Raises:
        SpecError: no such file, not Python, an exception inside it (chained), none or several Problems.

    """
    file = Path(path)
    if not file.is_file():
        raise SpecError(
            f"specification {str(path)!r} is not a file; expected a Python file with one mpcgen.Problem"
        )
    module = _run(file)
    found: dict[int, tuple[str, Problem]] = {}
    for name, value in vars(module).items():
        if isinstance(value, Problem):
            found.setdefault(id(value), (name, value))
    if not found:
        raise SpecError(
            f"specification {str(path)!r} holds no mpcgen.Problem; expected a module-level one, such as "
            f"problem = mpcgen.Problem({file.stem!r}, horizon=20)"
        )
    if len(found) > 1:
        listed = ", ".join(f"{name} ({problem.name!r})" for name, problem in found.values())
        raise SpecError(
            f"specification {str(path)!r} holds {len(found)} Problems: {listed}; expected one, put the "
            "others in files of their own"
        )
    ((_, problem),) = found.values()
    return problem


def _run(file: Path) -> ModuleType:
    """Execute the file as a module. From its text, because a byte-code cache can lag behind quick edits."""
    try:
        code = compile(file.read_bytes(), str(file), "exec")
    except (SyntaxError, ValueError) as error:
        raise SpecError(f"specification {str(file)!r} is not Python: {error}") from error
    module = ModuleType(f"_mpcgen_spec_{file.stem}")
    module.__file__ = str(file)
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        kind = type(error) if isinstance(error, SpecError) else SpecError
        raise kind(f"{_position(error, file)}: {type(error).__name__}: {error}{_advice(error)}") from error
    finally:
        sys.path.remove(folder)
        del sys.modules[module.__name__]
    return module


def _position(error: BaseException, file: Path) -> str:
    """Return "file:line" of the innermost call in the specification itself."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    return f"{file}:{lines[-1]}" if lines else str(file)


def _advice(error: BaseException) -> str:
    """What to do about sympy's and numpy's refusal of a symbol where they want a number."""
    text = str(error)
    if isinstance(error, TypeError) and ("convert expression to float" in text or "loop of ufunc" in text):
        return "; functions of math and numpy take numbers, for expressions there are sympy's, such as sympy.sin(u)"
    return ""

"""Run the tests of mpc.pytorch, the package of the paper's authors, on `mpcgen.compat`; not part of `make test`.

    python tests/paper_package_suite.py [--file test_mpc.py] [--only NAME]

downloads tests/test_mpc.py of a fixed commit, unless a copy is given, changes its imports of `mpc` to `mpcgen.compat`,
puts back two names that numpy has dropped, and runs each test by itself. It needs cvxpy, numdifftools and psutil, which
the tests import. docs/compat.md says what comes of it.
"""

import argparse
import re
import time
import traceback
import types
import urllib.request
from collections.abc import Callable
from pathlib import Path

COMMIT = "63732fa85ab2a151045493c4e67653210ca3d7ff"
URL = f"https://raw.githubusercontent.com/locuslab/mpc.pytorch/{COMMIT}/tests/test_mpc.py"


def changed(text: str) -> str:
    """The tests' text with other imports, and without the names that numpy has dropped."""
    text = re.sub(r"^from mpc(\.\w+)? import", r"from mpcgen.compat\1 import", text, flags=re.MULTILINE)
    text = text.replace("from numpy.testing import dec\n", "")
    text = text.replace("@dec.skipif(not torch.cuda.is_available())\n", "@needs_cuda\n")
    return text.replace("np.alltrue(", "np.all(")


def loaded(text: str) -> dict[str, Callable[[], None]]:
    """The tests, by name."""
    module = types.ModuleType("paper_package_tests")
    module.__dict__["needs_cuda"] = _needs_cuda
    exec(compile(changed(text), "test_mpc.py", "exec"), module.__dict__)
    return {name: value for name, value in vars(module).items() if name.startswith("test_")}


def _needs_cuda(test: Callable[[], None]) -> Callable[[], None] | None:
    import torch

    return test if torch.cuda.is_available() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="a copy of tests/test_mpc.py, which is not downloaded then")
    parser.add_argument("--only", default="", help="run the tests whose names contain this")
    given = parser.parse_args()
    text = given.file.read_text() if given.file else urllib.request.urlopen(URL).read().decode()
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for name, test in loaded(text).items():
        if given.only not in name:
            continue
        start, outcome = time.perf_counter(), "passed"
        try:
            if test is None:
                outcome = "skipped"
            else:
                test()
        except Exception:
            outcome = "failed"
            traceback.print_exc()
        counts[outcome] += 1
        print(f"{outcome:<8}{name} ({time.perf_counter() - start:.1f} s)", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


if __name__ == "__main__":
    main()

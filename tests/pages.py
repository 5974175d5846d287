"""Pages that run: the Python blocks of a Markdown page, in order, in one namespace.

A block of `text` right after a block of Python is what that prints. `python tests/pages.py docs/page.md` runs pages
and writes what they print into such blocks, those that are there.
"""

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n\s*?^```text\n(?P<printed>.*?)^```$)?", re.DOTALL | re.MULTILINE
)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Ran:
    """A block that has run: what it printed, and what the page says that it prints, None where it says nothing.

    span: of the latter in the page's text.
    """

    line: int
    printed: str
    shown: str | None
    span: tuple[int, int]


def run_page(file: Path, names: dict[str, Any] | None = None) -> list[Ran]:
    """Run all Python blocks of a page. ``names``: what they find defined, and leave behind."""
    text, done = file.read_text(encoding="utf-8"), []
    names = {"__name__": "page"} if names is None else names
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("code"))
        # so that an error's traceback has the line of the page
        code = compile("\n" * line + block["code"], str(file), "exec")
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code, names)
        printed = "\n".join(part.rstrip() for part in output.getvalue().splitlines())
        done.append(Ran(line + 1, printed + "\n", block["printed"], block.span("printed")))
    return done


def says_the_same(printed: str, shown: str) -> bool:
    """Whether texts are equal but for their numbers' last digit, which rounding may turn."""
    if _NUMBER.split(printed) != _NUMBER.split(shown):
        return False
    numbers = zip(_NUMBER.findall(printed), _NUMBER.findall(shown), strict=True)
    return all(abs(float(a) - float(b)) <= 1.01 * _last_digit(b) for a, b in numbers)


def _last_digit(number: str) -> float:
    """What a one in the last digit of a number as it is written is worth."""
    mantissa, _, exponent = number.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def rewrite(file: Path) -> None:
    """Write what a page's blocks print into the blocks of text after them."""
    text = file.read_text(encoding="utf-8")
    for ran in reversed(run_page(file)):
        if ran.shown is not None:
            text = text[: ran.span[0]] + ran.printed + text[ran.span[1] :]
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        rewrite(page)

"""What README and guide promise: their code runs, prints what they say, and the site builds without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest
from pages import run_page, says_the_same

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (ROOT / "docs").rglob("*.md")
    if "_build" not in page.parts and "```python" in page.read_text(encoding="utf-8")
)


# torch imports its own deprecated parts when it compiles.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES)
def test_pages_run_and_print_what_they_say(page, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # `import examples`
    monkeypatch.chdir(tmp_path)
    for block in run_page(ROOT / page):
        if block.shown is not None:
            message = f"{page}, block at line {block.line}, prints\n{block.printed}"
            assert says_the_same(block.printed, block.shown), message


@pytest.mark.parametrize(
    ("shown", "same"),
    [("x: 1.26, 7e-9", True), ("x: 1.27, 7e-9", False), ("y: 1.25, 7e-9", False), ("x: 1.25, 7e-8", False)],
)
def test_numbers_on_pages_may_differ_by_their_last_digit(shown, same):
    assert says_the_same("x: 1.25, 7e-9", shown) is same


def test_the_site_builds_without_a_warning(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "dummy",
        "docs",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

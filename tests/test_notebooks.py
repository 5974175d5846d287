"""What the notebooks show runs, in a kernel of its own, and they are committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "notebooks"
PRINTS = {
    "learn_a_cost": "learned [1.0, 1.0, 0.3, 0.01] expert [1.0, 1.0, 0.3, 0.01]",
    "design_a_controller": "mass + 0.01 %: the derivative is off by",
}


def test_every_notebook_is_run():
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == set(PRINTS)


# zmq asks for another event loop where there is one for Windows, and the kernel's client closes late
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", PRINTS)
def test_notebooks_run_and_find_what_they_say(name, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    assert PRINTS[name] in "".join(output.get("text", "") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2

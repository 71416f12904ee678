"""Every notebook runs, and is committed as it ran."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def kinds(cell):
    """What a cell shows: kinds of its outputs, with the pieces of one stream as one."""
    shown = [sorted(out["data"]) if "data" in out else [out["output_type"]] for out in cell.outputs]
    return [kind for i, kind in enumerate(shown) if kind != ["stream"] or kind not in shown[:i]]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell.outputs]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert all(out.output_type != "error" and out.get("name") != "stderr" for out in outputs)
    text = path.read_text()
    for place in (str(ROOT), "site-packages", "/home/", "/Users/", "/tmp/"):
        assert place not in text, f"{path.name} shows a path of the machine it ran on: {place}"


# zmq warns about event loops on some platforms; a cell that raises is an error all the same.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem == "long_times")) for p in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel has one of its own
    notebook = nbformat.read(path, as_version=4)
    committed = [kinds(cell) for cell in code_cells(notebook)]
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=folder).execute()
    assert [kinds(cell) for cell in code_cells(notebook)] == committed

"""The notebook that leads from two runs to a figure runs from a checkout, and shows what it is committed with."""

import copy
import os
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "paper_figure.ipynb"


def shown(cell):
    """What a cell shows, without pictures."""
    found = []
    for output in (one for one in cell.outputs if one.get("name") != "stderr"):
        data = output.get("data", {})
        found += [output.get("text", "")] if "image/png" in data else [data.get("text/html"), output.get("text")]
    return found


@pytest.fixture(scope="module")
def committed():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_has_ten_cells_with_outputs_and_no_paths_of_a_machine(committed):
    cells = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert len(cells) == 10
    assert all(cell.outputs for cell in cells[1:])
    assert not re.search(r"/(?:home|tmp|root|work|Users)/", NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 300_000


def test_it_runs_to_its_end_and_shows_the_same_numbers(committed, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = tmp_path / "examples"
    folder.mkdir()
    for name in ("tying.yaml", "tying.csv"):
        shutil.copy(NOTEBOOK.with_name(name), folder)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures in the notebook, not in a window or nowhere
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    fresh = copy.deepcopy(committed)
    nbclient.NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for before, after in zip(committed.cells, fresh.cells, strict=True):
        if before.cell_type == "code":
            assert shown(after) == shown(before), before.source
    assert (folder / "runs" / "tying.pdf").read_bytes().startswith(b"%PDF")

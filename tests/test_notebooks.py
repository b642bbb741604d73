"""The notebooks run from top to bottom, and hold text and code alone."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_the_three():
    assert [path.stem for path in NOTEBOOKS] == ["first-reconstruction", "your-checkpoint", "your-sampler"]


@by_name
def test_outputs_are_not_kept(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["source"]


@by_name
def test_the_first_cell_is_a_title_and_says_what_to_install(path):
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    text = "".join(first["source"])
    assert first["cell_type"] == "markdown"
    assert text.startswith("# ")
    assert 'pip install -e ".[' in text


@pytest.mark.slow
@by_name
def test_a_notebook_runs_without_an_error_or_a_warning(path, tmp_path, monkeypatch):
    for name in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    notebook = importlib.import_module("run_notebook").run_notebook(path, tmp_path)
    said = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert said
    warnings = [output["text"] for output in said if output.get("name") == "stderr"]
    assert not warnings

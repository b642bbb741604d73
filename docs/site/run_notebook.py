"""Runs a notebook from top to bottom, for the site and for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_notebook(path: Path, folder: Path) -> Any:
    """Return a notebook with its outputs; it runs in ``folder``, in this Python.

    Raises:
        CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    return notebook

"""The page's modules under Node.js, and scans that they are given."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_scans import TRY

sys.path.insert(0, str(TRY))

from build_page import build, sampler_plan


class Stages:
    """What the page's modules made of a slice."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.told: dict[str, Any] = json.loads((folder / "told.json").read_text())

    def complex(self, name: str) -> Any:
        shape = self.told["shapes"][name]
        return np.fromfile(self._folder / name, np.float64).view(np.complex128).reshape(shape)

    def input(self, name: str) -> Any:
        return np.fromfile(self._folder / f"in_{name}", np.float32).reshape(self.told["shapes"][f"in_{name}"])

    @property
    def mask(self) -> Any:
        rows, columns, *values = self.told["mask"]
        return np.array(values, bool).reshape(rows, columns)


@pytest.fixture(scope="session")
def node() -> str:
    """Node.js that opens files as blobs."""
    found = shutil.which("node")
    version = (
        found and subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    )
    if not version or int(re.findall(r"\d+", version)[0]) < 20:
        pytest.skip("Node.js 20 or later is not installed: the page's modules are not run")
    return found


@pytest.fixture(scope="session")
def built_page(tmp_path_factory) -> Path:
    """The whole page, with its scripts from npm."""
    folder = tmp_path_factory.mktemp("try")
    try:
        build(folder)
    except SystemExit as error:
        pytest.skip(f"the page cannot be built here: {error}")
    return folder


@pytest.fixture
def stages(node, tmp_path):
    """Prepare a slice of a file by the page's modules, those of the documentation or of the built page."""

    def run(file: Path, index: int = 0, seed: int = 0, page: Path = TRY, **told: Any) -> Stages:
        folder = tmp_path / f"stages-{index}"
        folder.mkdir(exist_ok=True)
        request = folder / "request.json"
        asked = {"file": str(file), "slice": index, "seed": seed, "plan": sampler_plan(), "told": told}
        request.write_text(json.dumps(asked))
        command = [node, Path(__file__).with_name("stages.mjs"), page, request, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Stages(folder)

    return run

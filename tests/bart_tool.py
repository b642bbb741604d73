"""BART's program, for tests that compare with it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REASON = "bart is not on the PATH: apt-get install bart"
needs_bart = pytest.mark.skipif(shutil.which("bart") is None, reason=REASON)


def bart(folder: Path, *arguments: object) -> str:
    """Run a command of BART in a folder and return what it prints; skip the test where there is no BART."""
    program = shutil.which("bart")
    if program is None:
        pytest.skip(REASON)
    words = [program, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout

"""Tests are skipped, with a reason, where the packages of extras are missing."""

import os
import subprocess
import sys
from pathlib import Path

from extras import EXTRAS

# Takes the packages away as if they had not been installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def test_the_tests_are_collected_where_no_extra_is_installed(tmp_path):
    names = set(EXTRAS) - {"hypothesis"}  # pytest itself loads its plugin
    (tmp_path / "without_extras.py").write_text(WITHOUT.replace("{names}", repr(names)))
    command = ["-m", "pytest", "-p", "without_extras", "--collect-only", "-q", "-rs"]
    done = subprocess.run(
        [sys.executable, *command, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "error" not in done.stdout.splitlines()[-1]
    assert "torch is not installed" in done.stdout
    assert "distributed is not installed" in done.stdout
    assert "mrd (mrd-python) is not installed" in done.stdout

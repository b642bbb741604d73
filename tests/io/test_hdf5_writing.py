"""HDF5 written where the disk takes nothing, though nothing tells so before."""

import subprocess
import sys

import pytest

WRITE = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import writing
from sbim_deploy.mrd.file import MrdWriter
try:
    with writing(Path(sys.argv[1])) as file:
        MrdWriter(file, b"<ismrmrdHeader/>")
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system makes no room before")
@pytest.mark.parametrize("limit", [0, 1000, 100_000])
def test_a_limit_that_the_first_bytes_meet_is_one_line_and_leaves_nothing(tmp_path, limit):
    done = subprocess.run(
        [sys.executable, "-c", WRITE, tmp_path / "scan.h5", str(limit)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "scan.h5: cannot be written (File too large); free the space" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []

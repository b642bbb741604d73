"""BART's ``pics`` as a peer: the command-line program, its files kept in memory where there is /dev/shm.

Uecker et al., Berkeley Advanced Reconstruction Toolbox, https://mrirecon.github.io/bart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from sbim_deploy.errors import BackendMissingError
from sbim_deploy.io.cfl import write_cfl
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import ComplexArray

PROGRAM = "bart"
MEMORY = "/dev/shm"  # noqa: S108  a private folder is made in it


def bart_version() -> str | None:
    """Return the version of the program on the PATH, or None where there is none."""
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "unknown"


def pics(problem: SliceProblem, options: tuple[str, ...], threads: int = 1) -> ComplexArray:
    """Return BART's reconstruction (rows, columns) of a slice with its own k-space and maps.

    ``-S`` returns it in the units of k-space: BART regularises an image that it has scaled to about 1.

    Raises:
        BackendMissingError: BART is not installed, or failed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise BackendMissingError("BART is not on the PATH: install it (apt-get install bart)")
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        _write_coils(Path(folder) / "kspace", problem.kspace)
        _write_coils(Path(folder) / "maps", problem.maps)
        done = subprocess.run(  # noqa: S603  no shell, and no name in it comes from a file
            [program, "pics", "-S", *options, "kspace", "maps", "image"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = " ".join(done.stderr.split())[:200]
            raise BackendMissingError(f"bart pics {' '.join(options)} failed: {reason}")
        image = np.fromfile(Path(folder) / "image.cfl", dtype=np.complex64)
    return image.reshape(problem.mvue.shape, order="F")


def _write_coils(path: Path, coils: ComplexArray) -> None:
    """Write (coil, rows, columns) with BART's axes: read, phase, slice, coil."""
    write_cfl(path.with_suffix(".cfl"), np.moveaxis(coils, 0, -1)[:, :, None, :])

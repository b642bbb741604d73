"""What it costs that a process of its own reads an HDF5 file first: good files, beside opening them alone.

For each file the trial is timed as a command meets it, with the start of the process, and as a study or a
server meets it, when the process is there; beside them what ``open_source`` takes without a trial. Medians
of ``--repeats``, in milliseconds: by the clock, and for the first trial the computing of both processes too,
which does not depend on what else the machine does. Exit code 1 where that is 0.3 s or more.
Not for Windows, which does not tell of a process's computing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import mock

from sbim_deploy.io import hdf5_trial
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file
from sbim_deploy.runs.simulate_mrd import simulate_mrd

MAX_FIRST_S = 0.3
SCAN = SimulateSettings(n_slices=20, n_coils=16, size=256, acceleration=4.0)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return median(taken)


def computed() -> float:
    """Return the seconds of computing of this process and of those that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def first_trial(path: Path, repeats: int) -> tuple[float, float]:
    """Return the median seconds of a first trial by the clock and of computing, with the process's end."""
    by_clock, computing = [], []
    for _ in range(repeats):
        hdf5_trial._end()
        used, started = computed(), time.perf_counter()
        hdf5_trial.try_hdf5(path)
        by_clock.append(time.perf_counter() - started)
        hdf5_trial._end()
        computing.append(computed() - used)
    return median(by_clock), median(computing)


def open_and_close(path: Path) -> None:
    """Open a file of k-space as every command does."""
    with open_source(path):
        pass


def main() -> None:
    """Print one row a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="HDF5 files of k-space, beside simulated ones")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = list(arguments.files)
        for name, simulate in (("fastMRI", simulate_file), ("MRD", simulate_mrd)):
            files.append(Path(folder) / f"{name}.h5")
            simulate(files[-1], SCAN)
        print("| file | MiB | first trial, ms | of computing, ms | later, ms | opened without one, ms |")
        print("|---|---|---|---|---|---|")
        worst = 0.0
        for path in files:
            first, computing = first_trial(path, arguments.repeats)
            hdf5_trial.try_hdf5(path)
            later = seconds(lambda p=path: hdf5_trial.try_hdf5(p), arguments.repeats)
            with mock.patch("sbim_deploy.io.hdf5.try_hdf5"):
                alone = seconds(lambda p=path: open_and_close(p), arguments.repeats)
            cells = [f"{1e3 * each:.0f}" for each in (first, computing, later, alone)]
            print(f"| {path.name} | {path.stat().st_size / 1024**2:.0f} | {' | '.join(cells)} |")
            worst = max(worst, computing)
    raise SystemExit(worst >= MAX_FIRST_S)


if __name__ == "__main__":
    main()

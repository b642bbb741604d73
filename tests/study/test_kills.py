"""Studies whose workers or client are killed, through the program."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from tiny_study import images

from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file
from sbim_deploy.samplers.choice import SamplerChoice

STEPS = 16
PROGRAM = "from sbim_deploy.cli.app import main; main()"
LIMIT_S = 120


@pytest.fixture(scope="module")
def long_scans(tmp_path_factory) -> Path:
    """Two scans whose slices take long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("long")
    for seed in range(2):
        simulate_file(folder / f"scan{seed}.h5", SimulateSettings(5, 4, 64, 2.0, seed=seed))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(long_scans, tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    settings = ReconSettings(choice=SamplerChoice(steps=STEPS), backend="onnxruntime", threads=1, batch=2)
    for path in long_scans.iterdir():
        reconstruct_file(path, folder / path.name, settings)
    return {path.name: images(path) for path in folder.iterdir()}


def start(scans: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    options = ["--workers", "2", "--steps", str(STEPS), "--backend", "onnxruntime", "--batch", "2", *more]
    command = [sys.executable, "-c", PROGRAM, "recon", str(scans), "-o", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def worker_processes(client_pid: int) -> list[psutil.Process]:
    children = psutil.Process(client_pid).children(recursive=True)
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


def kept_slices(out: Path) -> int:
    return len(list(out.glob(".*.partial/slice_*.npz")))


def check_whole(out: Path, expected: dict[str, np.ndarray]) -> None:
    assert sorted(path.name for path in out.iterdir()) == [*sorted(expected), "study.json"]
    for name, pictures in expected.items():
        np.testing.assert_array_equal(images(out / name), pictures)


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(long_scans, uninterrupted, tmp_path):
    out = tmp_path / "out"
    client = start(long_scans, out)
    wait_until(lambda: kept_slices(out) >= 1, "no slice was kept")
    victim = worker_processes(client.pid)[0]
    os.kill(victim.pid, signal.SIGKILL)
    _, err = client.communicate(timeout=LIMIT_S)
    assert client.returncode == 0, err
    assert "Traceback" not in err
    check_whole(out, uninterrupted)
    report = json.loads((out / "study.json").read_text())
    assert report["counts"] == {"done": 2, "kept": 0, "failed": 0, "pending": 0}


@pytest.mark.slow
def test_a_killed_client_takes_its_workers_along_and_the_study_goes_on(long_scans, uninterrupted, tmp_path):
    out = tmp_path / "out"
    client = start(long_scans, out)
    wait_until(lambda: kept_slices(out) >= 1, "no slice was kept")
    workers = worker_processes(client.pid)
    assert len(workers) == 2
    client.kill()
    client.communicate(timeout=LIMIT_S)
    psutil.wait_procs(workers, timeout=20)
    assert not [worker for worker in workers if worker.is_running()]
    n_kept = kept_slices(out)
    resumed = start(long_scans, out, "--resume", "--json")
    printed, err = resumed.communicate(timeout=LIMIT_S)
    assert resumed.returncode == 0, err
    check_whole(out, uninterrupted)
    made = sum(record["slices_made"] for record in json.loads(printed)["files"])
    assert 0 < made <= 10 - n_kept


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_tells_how_to_go_on(long_scans, tmp_path):
    out = tmp_path / "out"
    client = start(long_scans, out)
    wait_until(lambda: kept_slices(out) >= 1, "no slice was kept")
    workers = worker_processes(client.pid)
    # As a terminal does: to the program and to its workers.
    for pid in (client.pid, *(worker.pid for worker in workers)):
        os.kill(pid, signal.SIGINT)
    _, err = client.communicate(timeout=LIMIT_S)
    assert client.returncode == 130, err
    assert "go on with --resume" in err
    assert "Traceback" not in err
    psutil.wait_procs(workers, timeout=20)
    assert not [worker for worker in workers if worker.is_running()]
    assert json.loads((out / "study.json").read_text())["counts"]["pending"] > 0

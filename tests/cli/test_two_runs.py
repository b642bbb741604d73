"""Two runs on one output, and runs that are ended from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from sbim_deploy.io.locks import owning_file, owning_folder
from sbim_deploy.results.partial import count_finished
from sbim_deploy.results.result_file import open_result

PROGRAM = "from sbim_deploy.cli.app import main; main()"
# Slow enough to be caught between two slices.
OPTIONS = ("--steps", "24", "--backend", "onnxruntime", "--threads", "1")
LIMIT_S = 120


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def images(path: Path) -> np.ndarray:
    with open_result(path) as result:
        return np.stack([result.read_image(place) for place in range(result.n_slices)])


def test_a_run_that_is_killed_leaves_its_slices_and_its_place_to_the_next(cli, simulated, tmp_path) -> None:
    out, straight = tmp_path / "out.h5", tmp_path / "straight.h5"
    assert cli("recon", simulated, "-o", straight, *OPTIONS).code == 0
    process = start("recon", simulated, "-o", out, *OPTIONS)
    wait_until(lambda: count_finished(out), process)
    done = cli("recon", simulated, "-o", out, *OPTIONS, "--resume")
    assert done.code == 2
    assert f"is being written by another run, process {process.pid} on" in done.error_line
    for option in ((), ("--force",)):
        assert cli("recon", simulated, "-o", out, *OPTIONS, *option).code == 2
    process.kill()
    process.communicate()
    assert hidden(tmp_path) == [".out.h5.lock", ".out.h5.partial"]
    assert " of a stopped run; --resume goes on" in cli("recon", simulated, "-o", out, *OPTIONS).error_line
    assert cli("recon", simulated, "-o", out, *OPTIONS, "--resume").code == 0
    np.testing.assert_array_equal(images(out), images(straight))
    assert hidden(tmp_path) == []


def test_sigterm_ends_a_run_as_ctrl_c_does(simulated, tmp_path) -> None:
    out = tmp_path / "out.h5"
    process = start("recon", simulated, "-o", out, *OPTIONS)
    wait_until(lambda: count_finished(out), process)
    process.terminate()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143
    assert err.splitlines()[-1] == "sbim-deploy: terminated"
    assert re.search("kept [0-9]+ finished slices?, go on with --resume", err)
    assert "Traceback" not in err
    assert hidden(tmp_path) == [".out.h5.partial"]
    assert not out.exists()


EXPORT = """
import signal, sys, time
from types import SimpleNamespace
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it as ignored
from sbim_deploy.export import model
def stall(loaded, made, *others):
    (made / "half").write_text("half")
    print("half", flush=True)
    time.sleep(100)
model._write = stall
model.open_checkpoint = lambda *_: SimpleNamespace(file="c.pth")
model.load_opened = lambda opened: SimpleNamespace(ema=True)
model.in_runtime_units = lambda loaded, _image_scale: loaded
model.file_sha256 = str
from sbim_deploy.cli.app import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_export_that_is_ended_leaves_no_half_folder(tmp_path, number, code) -> None:
    arguments = ["export", "c.pth", "--config", "c.yaml", "-o", str(tmp_path / "m")]
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n", process.communicate()
    assert len(hidden(tmp_path)) == 2
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_export_into_a_folder_that_another_writes_is_refused(cli, tmp_path) -> None:
    pytest.importorskip("torch")
    with owning_file(tmp_path / "m"):
        done = cli("export", "c.pth", "--config", "c.yaml", "-o", tmp_path / "m")
    assert done.code == 2
    assert "another run" in done.error_line


def test_an_experiment_in_a_folder_that_another_writes_is_refused(cli, tmp_path) -> None:
    config = tmp_path / "tiny.yaml"
    scan = {"size": 64, "coils": 2, "noise": 0.01}
    zero_filled = {"baseline": "zero-filled", "peers": ["zero-filled"]}
    methods = [{"sampler": "dds", "steps": 1}]
    config.write_text(
        yaml.safe_dump(
            {"title": "t", "accelerations": [2], "simulate": scan, "slices": [0], "tuning_slices": [1]}
            | {"methods": methods, **zero_filled}
        )
    )
    with owning_folder(tmp_path / "out"):
        done = cli("experiment", config, "-o", tmp_path / "out")
    assert done.code == 2
    assert "another run" in done.error_line
    assert list((tmp_path / "out").iterdir()) == []


def test_a_study_in_a_folder_that_another_writes_is_refused(cli, simulated, tmp_path) -> None:
    (tmp_path / "list.txt").write_text(f"{simulated}\n")
    with owning_folder(tmp_path / "out"):
        done = cli("recon", tmp_path / "list.txt", "-o", tmp_path / "out", "--steps", 1, "--workers", 1)
    assert done.code == 2
    assert "another run" in done.error_line
    assert list((tmp_path / "out").iterdir()) == []

"""``sbim-deploy recon`` of many files, by what it prints and the exit codes that it ends with."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest

from sbim_deploy.errors import install_command
from sbim_deploy.results.result_file import open_result

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason='needs "sbim-deploy[cluster]"'
)
FAST = ("--steps", 1, "--backend", "onnxruntime")


@needs_dask
def test_a_study_with_a_truncated_file_is_exit_2_and_the_others_are_whole(cli, simulated, tmp_path):
    shutil.copy(simulated, tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(simulated.read_bytes()[:20_000])
    shutil.copy(simulated, tmp_path / "c.h5")
    np.save(tmp_path / "truth.npy", np.ones((32, 32), np.float32))
    out = tmp_path / "out"
    arguments = ("recon", tmp_path, "-o", out, *FAST, "--slices", "0:1", "--workers", 1)
    done = cli(*arguments)
    assert done.code == 2
    assert "1 of 3 files failed" in done.error_line
    lines = done.out.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["done", "2", "2", lines[1].split()[3]],
        ["kept", "0", "0", "0.0"],
    ]
    assert lines[-1].startswith("failed: b.h5: ")
    assert "truncated" in lines[-1]
    assert "1/3 " in done.err
    assert "b.h5: FAILED: " in done.err
    assert f"left out: {tmp_path / 'truth.npy'}: holds images (NumPy .npy)" in done.err
    report = json.loads((out / "study.json").read_text())
    assert [record["state"] for record in report["files"]] == ["done", "failed", "done"]
    assert report["files"][0]["workers"]
    assert report["left_out"] == {str(tmp_path / "truth.npy"): "holds images (NumPy .npy)"}
    assert report["software"]["engine"]["backend"] == "onnxruntime"
    assert report["settings"]["threads"] == 1
    with open_result(out / "c.h5") as result:
        assert result.n_slices == 1
    shutil.copy(simulated, tmp_path / "b.h5")
    again = cli(*arguments, "--resume", "--json")
    assert again.code == 0
    assert json.loads(again.out)["counts"] == {"done": 1, "kept": 2, "failed": 0, "pending": 0}
    assert "Research use only" in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", 2), "--workers is of a study"),
        (("--scheduler", "tcp://127.0.0.1:1"), "--scheduler is of a study"),
        (("--resources", "GPU=1"), "--resources is of a study"),
    ],
)
def test_options_of_a_study_are_refused_for_one_file(cli, simulated, tmp_path, arguments, message):
    done = cli("recon", simulated, "-o", tmp_path / "out.h5", *arguments)
    assert done.code == 2
    assert message in done.error_line
    assert list(tmp_path.iterdir()) == []


@needs_dask
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--png", "x.png"), "--png is of one file"),
        (("--report", "x.html"), "--report is of one file"),
        (("--maps", "m.h5"), "--maps is of one file"),
        (("--workers", 0), "workers is 0"),
        (("--workers", 1, "--scheduler", "tcp://h:1"), "exclude each other"),
        (("--resources", "GPU=1"), "--resources needs --scheduler"),
        (("--resources", "GPU"), "--resources is 'GPU': expected NAME=AMOUNT"),
        (("--resources", "GPU=-1"), "--resources is 'GPU=-1': expected NAME=AMOUNT"),
        (("--sampler", "sbmi"), "unknown sampler 'sbmi'"),
        (("--model", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_bad_options_of_a_study_are_refused_before_any_work(cli, simulated, tmp_path, arguments, message):
    done = cli("recon", simulated, tmp_path / "other.h5", "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert message in done.error_line
    assert not list(tmp_path.glob("out/*"))


@pytest.fixture
def without_dask(monkeypatch):
    """Dask and its pool of threads as if they were not installed."""
    for name in ("sbim_deploy.study.cluster", "sbim_deploy.study.conduct"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)


@pytest.mark.usefixtures("without_dask")
def test_two_files_without_dask_are_reconstructed_in_one_process(cli, simulated, tmp_path):
    shutil.copy(simulated, tmp_path / "a.h5")
    shutil.copy(simulated, tmp_path / "b.h5")
    out = tmp_path / "out"
    given = (tmp_path / "a.h5", tmp_path / "b.h5", "-o", out, *FAST, "--slices", "0:1")
    done = cli("recon", *given)
    assert done.code == 0, done.err
    assert install_command("cluster") in done.err
    assert "2/2 b.h5: 1 slice, " in done.err
    assert cli("recon", *given, "--resume").out.splitlines()[2].split()[:2] == ["kept", "2"]
    assert cli("recon", tmp_path, "-o", out, *FAST, "--slices", "0:1", "--resume", "-q").code == 0


@pytest.mark.usefixtures("without_dask")
@pytest.mark.parametrize("option", [("--workers", 2), ("--scheduler", "tcp://127.0.0.1:1")])
def test_more_processes_without_dask_are_exit_4(cli, simulated, tmp_path, option):
    done = cli("recon", simulated, tmp_path / "other.h5", "-o", tmp_path / "out", *option)
    assert done.code == 4
    assert install_command("cluster") in done.error_line

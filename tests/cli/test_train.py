"""The train command, on a network small enough for a test."""

import csv
import importlib.util

import pytest
import yaml

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nilearn") is None, reason="nilearn is not installed"
)

CONFIG = {
    "data": {"channels": 2},
    "model": {"ngf": 4, "sigma_begin": 3, "sigma_end": 0.1, "num_classes": 10, "ema": True},
}
FAST = ("--size", 32, "--batch", 2, "--pool", 4, "--no-compile")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.mark.slow
def test_train_resume_and_start_from_a_checkpoint(cli, config, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    done = cli("train", "--config", config, "-o", run, "--iterations", 2, *FAST)
    assert done.code == 0, done.err
    assert "before  held-out" in done.err
    assert f"sbim-deploy export {run / 'checkpoint.pth'}" in done.err
    assert cli("train", "--config", config, "-o", run, "--iterations", 3, "--resume", *FAST).code == 0
    with (run / "held_out.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["step", "0", "2", "3"]
    started = ("--start", run / "checkpoint.pth", "--iterations", 1)
    assert cli("train", "--config", config, "-o", other, *started, *FAST).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "iterations is None and minutes None: expected one of them"),
        (("--iterations", 0), "iterations is 0"),
        (("--iterations", 1, "--size", 30), "size is 30: NCSNv2Deepest needs a multiple of 8"),
        (("--iterations", 1, "--resume"), "no such checkpoint"),
        (("--iterations", 1, "--resume", "--start", "c.pth"), "give one of them"),
        (("--iterations", 1, "--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
    ],
)
def test_train_refuses_bad_options_in_one_line(cli, config, tmp_path, arguments, message):
    done = cli("train", "--config", config, "-o", tmp_path / "run", *arguments)
    assert done.code == 2
    assert message in done.error_line

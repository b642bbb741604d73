"""The train command, on a network small enough for a test."""

import csv
import importlib.util
import json

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
    started = ("--checkpoint", run / "checkpoint.pth", "--iterations", 1)
    assert cli("train", "--config", config, "-o", other, *started, *FAST).code == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
def test_a_variance_preserving_network_is_trained_exported_and_reconstructs(cli, tmp_path, simulated):
    config, run, model = tmp_path / "vp.yaml", tmp_path / "run", tmp_path / "model"
    config.write_text(yaml.safe_dump({"data": {"channels": 2}, "model": {"ngf": 8}}))
    train = ("train", "--schedule", "vp", "--config", config, "-o", run, *FAST)
    assert cli(*train, "--iterations", 2).code == 0
    done = cli(*train, "--iterations", 40, "--resume", "--learning-rate", 3e-3, "--ema-rate", 0.5)
    assert f"sbim-deploy export {run / 'pipeline'} -o" in done.err
    assert cli("export", run / "pipeline", "-o", model).code == 0
    compared = cli("validate", model, "--checkpoint", run / "pipeline", "--backend", "onnxruntime")
    assert compared.out.count(" ok") == 35
    images = tmp_path / "images.h5"
    made = cli("recon", simulated, "-o", images, "--model", model, "--slices", "0:1")
    assert made.code == 0, made.err
    scores = json.loads(cli("evaluate", images, "--reference", simulated, "--json").out)
    assert scores["mean_reconstruction"]["psnr"] > scores["mean_zero_filled"]["psnr"] + 1
    refused = cli(*train, "--iterations", 50, "--resume", "--schedule", "ve", "--config", config)
    assert "sigma_begin" in refused.error_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "iterations is None and minutes None: expected one of them"),
        (("--iterations", 0), "iterations is 0"),
        (("--iterations", 1, "--size", 30), "size is 30: NCSNv2Deepest needs a multiple of 8"),
        (("--iterations", 1, "--schedule", "sde"), "schedule is 'sde', expected 've' or 'vp'"),
        (
            ("--iterations", 1, "--objective", "ssm", "--precision", "fp16"),
            "ssm and precision fp16: expected fp32",
        ),
        (("--iterations", 1, "--objective", "ssm", "--compile"), "ssm and compile is true: expected false"),
        (("--iterations", 1, "--resume"), "no such checkpoint"),
        (("--iterations", 1, "--resume", "--checkpoint", "c.pth"), "give one of them"),
        (("--iterations", 1, "--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
    ],
)
def test_train_refuses_bad_options_in_one_line(cli, config, tmp_path, arguments, message):
    done = cli("train", "--config", config, "-o", tmp_path / "run", *arguments)
    assert done.code == 2
    assert message in done.error_line

"""``sbim-deploy sample``, by what it prints, what it writes and its exit codes."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from sbim_deploy.pages.panels import GAP, MARGIN
from sbim_deploy.runs.sample import DEFAULT_SAMPLER

SMALL = ("--size", 32, "--steps", 2, "--threads", 1)


def test_samples_a_picture_and_their_description(cli, tmp_path):
    path, png = tmp_path / "s.h5", tmp_path / "s.png"
    done = cli("sample", "demo", "-n", 5, *SMALL, "-o", path, "--png", png, "--seed", 3, "--json")
    assert done.code == 0, done.err
    assert f"5 samples, 32 x 32, {DEFAULT_SAMPLER} with 3 network calls" in done.err
    assert "Research use only" in done.err
    assert json.loads(done.out)["seed"] == 3
    with Image.open(png) as picture:
        # Five samples are rows of three and two, a pixel for a pixel.
        assert picture.width == 2 * MARGIN + 3 * 32 + 2 * GAP
        middle = np.asarray(picture.convert("L"))[MARGIN : MARGIN + 32, MARGIN : MARGIN + 32]
    with h5py.File(path) as file:
        expected = 255 * np.clip(abs(file["samples"][0]) / 1.15, 0, 1)
    np.testing.assert_allclose(middle, expected, atol=1)
    described = json.loads(cli("info", path, "--json").out)
    assert (described["kind"], described["samples"], described["network_calls"]) == ("samples", 5, 3)


def test_eta_and_the_langevin_steps_reach_the_plan(cli, tmp_path):
    made = cli(
        "sample", "demo", "-n", 1, *SMALL, "-o", tmp_path / "s.h5", "--sampler", "ddim", "--eta", 1, "--json"
    )
    assert all(row["noise_scale"] > 0 for row in json.loads(made.out)["plan"]["rows"][:2])
    options = ("--sampler", "sbim-ld", "--corrector-steps", 3, "--langevin-step", 0.25)
    made = cli("sample", "demo", "-n", 1, *SMALL, "-o", tmp_path / "s.h5", *options, "--json", "--force")
    rows = json.loads(made.out)["plan"]["rows"]
    assert len(rows) == 2 * 4 + 1
    assert rows[1]["step_size"] == pytest.approx(0.25 * rows[1]["sigma"] ** 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-n", 0), "samples is 0: expected 1 to 100000"),
        (("--size", 100), "such as 96 or 104"),
        (("--sampler", "dds"), "dds solves for data"),
        (("--sampler", "sbmi"), "unknown sampler 'sbmi'"),
        (("--eta", 0.5), "reverse-diffusion has no eta"),
        (("--steps", 500), "the model has 500 noise levels"),
        (("--sampler", "langevin", "--langevin-step", 2.5), "use a smaller Langevin step"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_no_file(cli, tmp_path, options, message):
    done = cli("sample", "demo", "-o", tmp_path / "s.h5", *options)
    assert done.code == 2
    assert message in done.error_line
    assert not list(tmp_path.iterdir())


def test_outputs_are_checked_before_the_work(cli, tmp_path):
    path = tmp_path / "s.h5"
    twice = cli("sample", "demo", *SMALL, "-o", path, "--png", path)
    assert (twice.code, "is named twice" in twice.error_line) == (2, True)
    nowhere = cli("sample", "demo", *SMALL, "-o", path, "--png", tmp_path / "none" / "s.png")
    assert (nowhere.code, "does not exist" in nowhere.error_line) == (2, True)
    nowhere = cli("sample", "demo", *SMALL, "-o", tmp_path / "none" / "s.h5")
    assert (nowhere.code, "does not exist" in nowhere.error_line) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_model_is_named(cli, tmp_path):
    done = cli("sample", tmp_path, "-o", tmp_path / "s.h5")
    assert (done.code, "is not a model folder" in done.error_line) == (2, True)

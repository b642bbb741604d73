"""Scans along a trajectory go through simulate, info, recon and evaluate, as those on a grid do."""

import json

import h5py
import numpy as np
import pytest

from sbim_deploy.kspace.sources import open_source
from sbim_deploy.results.result_file import open_result
from sbim_deploy.results.series import derivation_of, derivation_steps
from sbim_deploy.runs.findings import how_it_was_made

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
FAST = ("--steps", "3", "--threads", "1")


@pytest.fixture
def radial(cli, tmp_path):
    path = tmp_path / "radial.h5"
    options = ("--trajectory", "golden", "--slices", 2, "--size", 48, "--coils", 4, "--undersample", 3)
    assert cli("simulate", "-o", path, *options).code == 0
    return path


def image(path):
    with h5py.File(path) as file:
        return file["image"][:]


def test_a_simulated_scan_is_reconstructed_and_scored(cli, radial, tmp_path):
    done = cli("recon", radial, "-o", tmp_path / "images.h5", "--json", *FAST)
    assert done.code == 0, done.err
    assert "samples along a trajectory run step by step (--graph score)" in done.err
    made = json.loads(done.out)
    assert made["graph"] == "score"
    assert made["prior_orientations"] == 8
    with open_result(tmp_path / "images.h5") as result:
        assert result.identity["prior_orientations"] == 8
        assert "dds, 3 network calls in 8 orientations in turn" in derivation_steps(derivation_of(result))[1]
        assert ("The network sees", "8 orientations in turn") in how_it_was_made(result)["Sampling"]
    assert made["measured"]["scan"]["trajectory"] == "goldenangle"
    assert made["measured"]["acceleration"] == pytest.approx(2.5, abs=0.7)
    scored = cli("evaluate", tmp_path / "images.h5", "--reference", radial, "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["mean_reconstruction"]["psnr"] > 25


def test_info_tells_what_it_is(cli, radial):
    told = json.loads(cli("info", radial, "--json").out)
    assert told["trajectory"] == "goldenangle"
    assert told["noise_source"] == "noise readouts"
    assert told["faults"] is None


def test_samples_and_places_in_arrays_give_the_image_of_the_mrd_file(cli, radial, tmp_path):
    with open_source(radial) as source:
        np.save(tmp_path / "kspace.npy", np.stack([source.read_slice(index) for index in range(2)]))
        np.save(tmp_path / "trajectory.npy", source.read_trajectory(0))
    method = ("--method", "l1-wavelet", "--noise", "1")
    assert cli("recon", radial, "-o", tmp_path / "expected.h5", *method).code == 0
    trajectory = ("-t", tmp_path / "trajectory.npy")
    done = cli("recon", tmp_path / "kspace.npy", *trajectory, "-o", tmp_path / "images.h5", *method)
    assert done.code == 0, done.err
    assert "taken to be in cycles per field of view" in done.err
    np.testing.assert_array_equal(image(tmp_path / "images.h5"), image(tmp_path / "expected.h5"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--graph", "reconstruct"), "take --graph score, and reconstruct is asked for"),
        (("--undersample", "random:2"), "leave --undersample out"),
        (("--map-sets", 2), "leave --map-sets out"),
        (("--matrix", "48x48"), "give --trajectory too"),
    ],
)
def test_what_does_not_go_with_a_trajectory_is_refused(cli, radial, tmp_path, options, said):
    done = cli("recon", radial, "-o", tmp_path / "images.h5", *options)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("matrix", ["48", "48x", "8x8", "4800x48"])
def test_a_matrix_that_is_none_is_refused(cli, radial, tmp_path, matrix):
    trajectory = ("-t", tmp_path / "trajectory.npy", "--matrix", matrix)
    done = cli("recon", radial, *trajectory, "-o", tmp_path / "images.h5")
    assert done.code == 2
    assert "expected ROWSxCOLUMNS" in done.err


def test_a_trajectory_is_simulated_as_mrd_without_lines(cli, tmp_path):
    done = cli("simulate", "-o", tmp_path / "a.h5", "--trajectory", "spiral", "--format", "fastmri")
    assert done.code == 2
    assert "leave --format out" in done.err
    done = cli("simulate", "-o", tmp_path / "a.h5", "--trajectory", "rosette")
    assert done.code == 2
    assert "expected one of radial, golden, spiral" in done.err


def test_without_finufft_the_error_names_the_extra(cli, radial, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "finufft", None)
    done = cli("recon", radial, "-o", tmp_path / "images.h5", "--method", "zero-filled")
    assert done.code == 4
    assert "[noncartesian]" in done.err

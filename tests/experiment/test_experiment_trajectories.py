"""Experiments on samples along trajectories, beside those on lines."""

import json
import re

import numpy as np
import pytest
from tiny_experiment import Page, rows_of, without_seconds

from bart_tool import needs_bart
from sbim_deploy.experiment.peers import PEERS, Peer
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.trajectories import make_trajectory
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.reconstruct import SCORE_GRAPH, Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import (
    SimulateSettings,
    brain_slice,
    sample_along,
    simulate_truth,
)
from sbim_deploy.samplers.choice import SamplerChoice

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")

SIZE, N_SPOKES = 32, 13  # of 51 spokes that leave no gap, at R = 4
SMALL = {
    "accelerations": [4],
    "patterns": ["golden"],
    "simulate": {"size": SIZE, "coils": 3, "noise": 0.01},
    "slices": [0, 2],
    "tuning_slices": [],
    "methods": [{"sampler": "dds", "steps": 2}],
    "peers": ["zero-filled", "cg-sense"],
    "maps": True,
}


def golden_slice(index, size=SIZE, n_spokes=N_SPOKES, n_coils=3):
    """Return a slice along golden-angle spokes with its true maps, and its truth."""
    truth = simulate_truth(brain_slice(index, size), SimulateSettings(n_coils=n_coils, size=size), index)
    places = make_trajectory("golden", size, n_spokes)
    samples = sample_along(truth, places, 0.01)
    return prepare_trajectory_slice(samples, places, (size, size), index, truth.maps), np.abs(truth.reference)


def test_a_row_holds_what_a_slice_along_its_trajectory_gives(cli, write_config, tmp_path):
    done = cli("experiment", write_config(**SMALL), "-o", tmp_path / "out")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "out")
    assert [(row["slice"], row["method"]) for row in rows] == [
        (index, method) for index in "02" for method in ("zero-filled", "cg-sense", "dds")
    ]
    problem, truth = golden_slice(2)
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice("dds", 2), seed=0, graph=SCORE_GRAPH)
    (result,) = reconstruct([problem])
    expected = score(np.abs(result.image), truth)
    row = rows[-1]
    assert row["pattern"] == "golden"
    assert float(row["psnr"]) == pytest.approx(expected.psnr, abs=1e-3)
    assert float(row["residual"]) == pytest.approx(result.residual, rel=1e-3)
    worth = SIZE**2 / problem.trajectory.areas.sum()
    assert float(row["effective_acceleration"]) == pytest.approx(worth, rel=1e-4)
    gridding = score(np.abs(problem.mvue), truth)
    assert float(rows[-3]["psnr"]) == pytest.approx(gridding.psnr, abs=1e-3)


def test_a_trajectory_stands_beside_lines_and_may_be_added(cli, write_config, counted, tmp_path):
    counted_peer = PEERS["bart-l1"]
    PEERS["bart-l1"] = Peer(
        counted_peer.label, counted_peer.solve, (0.01, 0.1), counted_peer.version, "", (0.001, 0.01)
    )
    out = tmp_path / "out"
    changes = {**SMALL, "peers": ["zero-filled", "bart-l1"], "tuning_slices": [5]}
    assert cli("experiment", write_config(**{**changes, "patterns": ["equispaced"]}), "-o", out).code == 0
    lines = without_seconds(out)
    recorded = json.loads((out / "run.json").read_text())
    assert not [name for name in recorded if name.startswith("pattern ")]
    both = write_config(**{**changes, "patterns": ["equispaced", "golden"]})
    done = cli("experiment", both, "-o", out)
    assert done.code == 0, done.err
    assert "going on: 6 of 12 results done" in done.err
    assert without_seconds(out)[:6] == lines
    assert {row["pattern"] for row in rows_of(out)[6:]} == {"golden"}
    decided = json.loads((out / "run.json").read_text())["pattern golden"]
    assert re.fullmatch(r"finufft [\w.]+, networks see 8 orientations in turn", decided)
    choices = json.loads((out / "tuning.json").read_text())["choices"]
    assert [(each["pattern"], each["weights"]) for each in choices] == [
        ("equispaced", [0.01, 0.1]),
        ("golden", [0.001, 0.01]),
    ]
    words = " ".join(Page((out / "index.html").read_text()).words.split())
    assert "Golden-angle spokes method PSNR" in words
    assert "equispaced lines and golden-angle spokes, R = 4" in words
    assert "from 0.01, 0.1 (bart-l1 on equispaced) and 0.001, 0.01 (bart-l1 on golden)" in words
    # Without lines the folder is the same experiment's still.
    assert cli("experiment", write_config(**{**changes, "patterns": ["golden"]}), "-o", out).code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patterns": ["spokes"]}, "patterns has 'spokes': expected one of equispaced, random, radial"),
        (
            {"simulate": None, "kspace": ["scan.h5"]},
            "patterns has 'golden', a trajectory, and kspace files have lines to take away",
        ),
        ({"accelerations": [40]}, "accelerations has 40: expected 1 to 32, the size of simulate"),
        ({"peers": ["zero-filled", "bart-l1"]}, "peers has 'bart-l1', which takes no samples along a traj"),
    ],
)
@pytest.mark.usefixtures("counted")
def test_what_does_not_go_with_a_trajectory_is_named(cli, write_config, tmp_path, changes, message):
    path = write_config(**{**SMALL, **changes})
    done = cli("experiment", path, "-o", tmp_path / "out")
    assert done.code == 2
    assert str(path) in done.error_line
    assert message in done.error_line
    assert not (tmp_path / "out").exists()


def test_without_finufft_the_experiment_says_what_to_install(cli, write_config, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "finufft", None)
    done = cli("experiment", write_config(**SMALL), "-o", tmp_path / "out")
    assert done.code == 4
    assert "noncartesian" in done.error_line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("bart-l2", marks=needs_bart),
        pytest.param(
            "sigpy-sense", marks=pytest.mark.skipif(PEERS["sigpy-sense"].version() is None, reason="no sigpy")
        ),
    ],
)
def test_an_l2_peer_solves_regularised_least_squares_along_a_trajectory(name):
    # Less weight leaves more to directions in which BART's own gridding tells: 2 % off at 0.1.
    size, weight = 16, 1.0
    problem, _ = golden_slice(0, size, 8)
    position = np.arange(size) - size // 2
    rows, columns = (each.ravel() for each in np.meshgrid(position, position, indexing="ij"))
    places = problem.trajectory.places.reshape(-1, 2).astype(np.float64)
    phases = np.outer(places[:, 0], rows) + np.outer(places[:, 1], columns)
    transform = np.exp(-2j * np.pi * phases / size) / size
    matrix = np.concatenate([transform * coil.ravel() for coil in problem.maps])
    normal = matrix.conj().T @ matrix + weight * np.eye(size**2)
    expected = np.linalg.solve(normal, matrix.conj().T @ problem.kspace.ravel()).reshape(size, size)
    image = PEERS[name].solve(problem, weight, 1)
    assert image.dtype == np.complex64
    assert np.linalg.norm(image - expected) < 1e-2 * np.linalg.norm(expected)


@needs_bart
def test_bart_s_wavelets_converge_along_a_trajectory():
    problem, truth = golden_slice(0, 64, 40)
    errors = {
        name: score(np.abs(PEERS[name].solve(problem, 0.0003, 1)), truth).nrmse
        for name in ("zero-filled", "bart-l1")
    }
    assert errors["bart-l1"] < errors["zero-filled"] / 2

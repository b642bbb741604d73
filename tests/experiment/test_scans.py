"""Experiments on given k-space files, and files that will not do."""

import csv
import json

import numpy as np
import pytest
from tiny_experiment import Page, rows_of, without_seconds

from sbim_deploy.runs.simulate import SimulateSettings, simulate_file


@pytest.fixture
def full_file(tmp_path):
    path = tmp_path / "scan.h5"
    simulate_file(path, SimulateSettings(n_slices=3, n_coils=3, size=64, acceleration=1))
    return path


FILES = {"simulate": None, "peers": ["zero-filled"], "tuning_slices": []}


@pytest.mark.slow
def test_files_give_what_the_simulated_scan_gives(cli, write_config, full_file, tmp_path):
    simulated, given = tmp_path / "simulated", tmp_path / "given"
    changes = {"peers": ["zero-filled"], "maps": True, "patterns": ["equispaced", "random"]}
    assert cli("experiment", write_config(**changes), "-o", simulated).code == 0
    done = cli("experiment", write_config(**{**FILES, **changes}, kspace=["scan.h5"]), "-o", given)
    assert done.code == 0, done.err
    rows = without_seconds(given)
    assert {row.pop("scan") for row in rows} == {"scan.h5"}
    assert rows == [
        {key: value for key, value in row.items() if key != "scan"} for row in without_seconds(simulated)
    ]
    page = Page((given / "index.html").read_text())
    for expected in ("scan.h5, slice 0", "Equispaced lines", "Random lines"):
        assert expected in page.words


@pytest.fixture
def ball(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    position = np.linspace(-1, 1, 24)
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(position, position, position)))
    path = tmp_path / "ball.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.float32(radius < 0.8) + np.float32(radius < 0.4), np.eye(4)), path)
    return path


def test_objects_are_scans_with_scores_and_pictures_of_their_own(cli, write_config, ball, tmp_path):
    volume = {"name": "ball", "volume": ball.name, "plane": "sagittal", "volume_slices": [8, 12]}
    simulation = {"size": 64, "coils": 3, "objects": [{"name": "ellipses", "phantom": "shepp-logan"}, volume]}
    changes = {
        "simulate": simulation,
        "peers": ["zero-filled"],
        "accelerations": [2],
        "methods": [{"sampler": "dds", "steps": 2}],
        "slices": [1],
        "tuning_slices": [],
        "maps": True,
    }
    out = tmp_path / "out"
    done = cli("experiment", write_config(**changes), "-o", out)
    assert done.code == 0, done.err
    psnr = {(row["scan"], row["method"]): float(row["psnr"]) for row in rows_of(out)}
    assert list(psnr) == [(scan, name) for scan in ("ellipses", "ball") for name in ("zero-filled", "dds")]
    with (out / "summary.csv").open(newline="") as file:
        summary = {(row["scan"], row["method"]): float(row["psnr_mean"]) for row in csv.DictReader(file)}
    assert {key: value for key, value in summary.items() if key[0]} == psnr
    assert summary["", "dds"] == pytest.approx((psnr["ellipses", "dds"] + psnr["ball", "dds"]) / 2, abs=1e-3)
    page = Page((out / "index.html").read_text())
    for expected in ("ellipses, slice 1", "ball, slice 1", "Scores of ball alone", "of ellipses, ball"):
        assert expected in page.words
    recorded = json.loads((out / "run.json").read_text())["simulate"]["objects"]
    assert recorded[1]["volume"].startswith("ball.nii.gz, SHA 256 ")
    ball.write_bytes(ball.read_bytes() + b" ")
    again = cli("experiment", write_config(**changes), "-o", out)
    assert again.code == 2
    assert "out: was begun by a run that differs in simulate" in again.error_line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kspace": ["scan.h5"], "slices": [0, 3]}, "scan.h5: has 3 slices, the experiment asks for slice 3"),
        ({"kspace": ["undersampled.h5"]}, "undersampled.h5: was undersampled already"),
        ({"kspace": ["nowhere.h5"]}, "nowhere.h5"),
        ({"kspace": ["scan.h5", "scan.h5"]}, "kspace has two files of the name scan.h5"),
        ({"kspace": ["scan.h5"], "accelerations": [100]}, "acceleration is 100"),
    ],
)
def test_files_that_will_not_do_are_named_before_the_work(
    cli, write_config, full_file, tmp_path, changes, message
):
    simulate_file(
        tmp_path / "undersampled.h5", SimulateSettings(n_slices=3, n_coils=3, size=64, acceleration=2)
    )
    done = cli("experiment", write_config(**{**FILES, **changes}), "-o", tmp_path / "out")
    assert done.code == 2
    assert message in done.error_line
    assert not (tmp_path / "out").exists()

"""``--dimensions 3`` of ``simulate`` and ``recon``."""

import json

import h5py
import numpy as np
import pytest

from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, simulate_volume
from simulated_mrd import write_mrd
from stack_scans import make_stack, stack_scan

STACK = ("simulate", "-o", "a.h5", "--dimensions", 3, "--trajectory", "golden")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("volume") / "scan.h5"
    simulate_volume(path, SimulateVolumeSettings(size=32, n_partitions=24, n_coils=4))
    return path


def test_simulate_writes_the_volume_that_it_names(cli, scan, tmp_path):
    path = tmp_path / "scan.h5"
    done = cli("simulate", "-o", path, "--dimensions", 3, "--size", 32, "--slices", 24, "--coils", 4)
    assert done.code == 0, done.err
    assert "32 x 24 x 32 (readout, partitions, lines)" in done.err
    with h5py.File(path) as made, h5py.File(scan) as expected:
        np.testing.assert_array_equal(made["kspace"][:], expected["kspace"][:])


def test_a_simulated_volume_becomes_one_of_as_many_slices_as_its_readout_has(cli, scan, tmp_path):
    out = tmp_path / "out.h5"
    done = cli(
        "recon", scan, "-o", out, "--dimensions", 3, "--method", "cg-sense", "--png", tmp_path / "a.png"
    )
    assert done.code == 0, done.err
    assert "a temporary store of 0.00 GB" in done.err
    assert "32 slices, cg-sense" in done.err
    with h5py.File(out) as file:
        assert file["reconstruction"].shape == (32, 24, 32)
    done = cli("evaluate", out, "--reference", scan)
    assert done.code == 0, done.err
    assert "beside the object" in done.out + done.err
    done = cli("recon", scan, "-o", tmp_path / "out.cfl", "--dimensions", 3, "--method", "cg-sense")
    assert done.code == 0, done.err
    again = cli("evaluate", tmp_path / "out.cfl", "--reference", scan, "--dimensions", 3)
    assert again.code == 0, again.err
    assert "beside the object" in again.err


def test_without_the_option_the_partitions_are_slices_as_ever(cli, scan, tmp_path):
    done = cli("recon", scan, "-o", tmp_path / "out.h5", "--slices", "12:13", "--method", "zero-filled")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["reconstruction"].shape == (1, 32, 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recon", "SCAN", "-o", "out.h5", "--dimensions", 4), "dimensions is 4: expected 2, slices, or 3"),
        (
            ("recon", "SCAN", "-o", "out.h5", "--volume", 0),
            "dimensions is 2, slices: give --dimensions 3 too",
        ),
        (("recon", "SCAN", "-o", "out.h5", "--dimensions", 3, "--volume", 0), "leave --volume out"),
        (("simulate", "-o", "a.h5", "--dimensions", 4), "--dimensions is 4: expected 2 or 3"),
        (("simulate", "-o", "a.h5", "--elliptic"), "--elliptic is of a 3-D scan"),
        (("simulate", "-o", "a.h5", "--undersample", "poisson:4"), "unknown pattern 'poisson'"),
        (("simulate", "-o", "a.h5", "--dimensions", 3, "--format", "mrd"), "--format is of slices"),
        (("simulate", "-o", "a.h5", "--dimensions", 3, "--undersample", 2.5), "expected a whole number"),
        ((*STACK, "--format", "fastmri"), "--format is 'fastmri': a stack is written as mrd"),
        ((*STACK, "--undersample", "poisson:4"), "--undersample has the pattern 'poisson'"),
        ((*STACK, "--elliptic"), "--elliptic is of Cartesian k-space"),
        ((*STACK, "--phantom", "shepp-logan"), "--phantom is of slices"),
        ((*STACK, "--mask-convention", "fastmri"), "--mask-convention is of slices"),
        ((*STACK, "--slices", 8), "partitions is 8: expected 16 to 512"),
        ((*STACK[:-1], "rosette"), "unknown trajectory 'rosette': expected one of radial, golden, spiral"),
    ],
)
def test_what_does_not_go_with_volumes_is_said_in_one_line(cli, scan, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = cli(*(scan if word == "SCAN" else word for word in words))
    assert done.code == 2
    assert said in done.error_line
    assert "Traceback" not in done.err
    assert not (tmp_path / "a.h5").exists()


def test_the_noise_of_a_simulated_volume_is_found(cli, scan, tmp_path):
    out = tmp_path / "out.h5"
    options = ("--dimensions", 3, "--method", "zero-filled", "--slices", "10:20")
    assert cli("recon", scan, "-o", out, *options).code == 0
    with h5py.File(out) as file:
        assert np.isfinite(file["reconstruction"][:]).all()

    with open_result(out) as result:
        levels = {notes.noise for notes in result.provenance.slice_notes.values()}
    assert len(levels) == 1
    assert np.isclose(levels.pop(), 0.01, rtol=0.15)


def test_a_stack_of_stars_becomes_one_volume_of_its_slices(cli, tmp_path):
    pytest.importorskip("finufft")
    write_mrd(tmp_path / "stack.h5", stack_scan(make_stack((5, 32, 24), n_readouts=20)))
    words = ("recon", tmp_path / "stack.h5", "-o", tmp_path / "out.h5", "--method", "zero-filled")
    refused = cli(*words)
    assert refused.code == 2
    assert "a stack with kspace_encode_step_2 of 0 and 1" in refused.err
    assert "--dimensions 3 takes a file of them" in refused.err
    done = cli(*words, "--dimensions", 3, "--png", tmp_path / "a.png", "--nifti", tmp_path / "v.nii")
    assert done.code == 0, done.err
    assert "holds the volume transformed along its partitions" in done.err
    assert "5 slices, zero-filled" in done.err
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["reconstruction"].shape == (5, 32, 24)


def test_a_simulated_stack_is_reconstructed_and_scored(cli, tmp_path):
    pytest.importorskip("finufft")
    path, out = tmp_path / "stack.h5", tmp_path / "out.h5"
    options = ("--slices", 17, "--size", 24, "--coils", 4, "--undersample", 1.5, "--format", "mrd")
    made = cli("simulate", "-o", path, "--dimensions", 3, "--trajectory", "golden", *options)
    assert made.code == 0, made.err
    assert "a stack of 17 partitions of 24 x 24 (golden), 4 coils" in made.err
    done = cli("recon", path, "-o", out, "--dimensions", 3, "--method", "cg-sense", "--maps", path)
    assert done.code == 0, done.err
    scored = cli("evaluate", out, "--reference", path, "--data-range", "volume", "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["volume"]["nrmse"] < 0.15
    assert "beside the object" in scored.out + scored.err


def test_samples_of_partitions_and_a_trajectory_become_a_volume(cli, tmp_path):
    pytest.importorskip("finufft")
    scan = make_stack((5, 32, 24), n_readouts=20)
    np.save(tmp_path / "kspace.npy", scan.partitions)
    np.save(tmp_path / "trajectory.npy", scan.places)
    words = ("recon", tmp_path / "kspace.npy", "-t", tmp_path / "trajectory.npy", "--dimensions", 3)
    out = tmp_path / "out.h5"
    done = cli(*words, "--matrix", "32x24", "--method", "zero-filled", "-o", out)
    assert done.code == 0, done.err
    with h5py.File(out) as file:
        assert file["reconstruction"].shape == (5, 32, 24)

"""Samples along a trajectory from files: which unit, which axes, and what is refused."""

import numpy as np
import pytest
import scipy.io

from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.along_trajectory import KspaceAlongTrajectory, in_cycles, read_trajectory_file
from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.trajectories import GOLDEN, make_trajectory

SIZE, READOUTS, SAMPLES, COILS = 32, 5, 64, 3
MATRIX = (SIZE, SIZE)


def samples(n_slices=1):
    rng = np.random.default_rng(0)
    shape = (n_slices, COILS, READOUTS, SAMPLES)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.fixture
def places(tmp_path):
    found = make_trajectory(GOLDEN, SIZE, READOUTS)
    np.save(tmp_path / "trajectory.npy", found)
    return found


def opened(tmp_path, kspace, name="kspace.npy", trajectory="trajectory.npy", matrix=None, layout=None):
    path = tmp_path / name
    if kspace is not None:
        np.save(path, kspace)
    return open_source(path, Reading(layout, None, tmp_path / trajectory, matrix))


@pytest.mark.parametrize(
    "stored",
    [
        lambda kspace: kspace,
        lambda kspace: kspace[0],
        lambda kspace: np.moveaxis(kspace, 1, -1),
        lambda kspace: kspace[0].swapaxes(-2, -1),
    ],
    ids=["slice,coil,readout,sample", "coil,readout,sample", "coils last", "samples before readouts"],
)
def test_the_axes_of_samples_are_told_by_the_trajectory(tmp_path, places, stored):
    kspace = samples()
    with opened(tmp_path, stored(kspace)) as source:
        assert (source.n_slices, source.n_coils, source.n_rows, source.n_columns) == (1, COILS, *MATRIX)
        np.testing.assert_array_equal(source.read_slice(0), kspace[0])
        np.testing.assert_array_equal(source.read_trajectory(0), places)


def test_slices_are_read_one_by_one(tmp_path, places):
    kspace = samples(2)
    with opened(tmp_path, kspace) as source:
        np.testing.assert_array_equal(source.read_slice(1), kspace[1])


def test_each_slice_may_have_a_trajectory_of_its_own(tmp_path):
    both = np.stack([make_trajectory(GOLDEN, SIZE, READOUTS), -make_trajectory(GOLDEN, SIZE, READOUTS)])
    np.save(tmp_path / "trajectory.npy", both)
    with opened(tmp_path, samples(2)) as source:
        np.testing.assert_array_equal(source.read_trajectory(1), both[1])
    with pytest.raises(InputError, match="of 2 slices, expected 1 or 3"):
        opened(tmp_path, samples(3))


def test_barts_arrays_are_the_same(tmp_path, places):
    kspace = samples(2)
    stored = np.zeros((1, SAMPLES, READOUTS, COILS, *[1] * 9, 2), np.complex64)
    stored[0, ..., 0, 0, 0, 0, 0, 0, 0, 0, 0, :] = kspace.transpose(3, 2, 1, 0)
    trajectory = np.zeros((3, SAMPLES, READOUTS), np.complex64)
    trajectory[:2] = places.transpose(2, 1, 0)
    write_cfl(tmp_path / "kspace.cfl", stored)
    write_cfl(tmp_path / "trajectory.cfl", trajectory)
    with opened(tmp_path, None, "kspace.cfl", "trajectory.cfl") as source:
        assert (source.n_slices, source.n_coils) == (2, COILS)
        np.testing.assert_array_equal(source.read_slice(1), kspace[1])
        np.testing.assert_array_equal(source.read_trajectory(1), places)


def test_matlabs_trajectory_is_read(tmp_path, places):
    scipy.io.savemat(tmp_path / "trajectory.mat", {"k": places})
    with opened(tmp_path, samples(), trajectory="trajectory.mat") as source:
        np.testing.assert_array_equal(source.read_trajectory(0), places)


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(1, "cycles per field of view"), (1 / SIZE, "cycles per pixel"), (2 * np.pi / SIZE, "radians")],
)
def test_the_unit_is_told_by_how_far_it_reaches_and_said(factor, unit):
    expected = make_trajectory(GOLDEN, SIZE, READOUTS)
    found = in_cycles((expected * factor).astype(np.float32), MATRIX, "t.npy")
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    assert unit in found.remarks[0]


def test_a_unit_of_pixels_needs_a_matrix():
    with pytest.raises(InputError, match="say by --matrix"):
        in_cycles(make_trajectory(GOLDEN, SIZE, READOUTS) / SIZE, None, "t.npy")


def test_without_a_matrix_the_image_is_what_the_trajectory_resolves(places):
    found = in_cycles(places, None, "t.npy")
    assert found.matrix == MATRIX
    assert any("32 x 32" in each for each in found.remarks)


def test_a_trajectory_that_resolves_less_than_the_matrix_is_said(places):
    found = in_cycles(places, (64, 64), "t.npy")
    assert any("resolves 32 x 32 of the image's 64 x 64" in each for each in found.remarks)


def test_one_that_reaches_beyond_the_matrix_is_refused(places):
    with pytest.raises(
        InputError, match="16 cycles per field of view along the rows, and 24 pixels resolve 12"
    ):
        in_cycles(places, (24, 24), "t.npy")


def test_one_whose_centre_is_not_zero_is_refused(places):
    with pytest.raises(InputError, match="the centre is 0, so subtract"):
        in_cycles(places + np.float32(SIZE / 2), (64, 64), "t.npy")


def test_three_dimensional_ones_are_refused_and_flat_ones_read(tmp_path, places):
    flat = np.concatenate([places, np.zeros_like(places[..., :1])], axis=-1)
    np.save(tmp_path / "flat.npy", flat)
    np.testing.assert_array_equal(read_trajectory_file(tmp_path / "flat.npy"), places)
    flat[..., 2] = 3
    np.save(tmp_path / "deep.npy", flat)
    with pytest.raises(InputError, match="of a stack of stars or of spirals give"):
        read_trajectory_file(tmp_path / "deep.npy")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.zeros((5, 64, 2)), "zero everywhere"),
        (np.full((5, 64, 2), np.nan), "not finite"),
        (np.ones((5, 64, 4)), "expected a trajectory"),
    ],
)
def test_what_is_no_trajectory_is_refused(tmp_path, values, what):
    np.save(tmp_path / "trajectory.npy", values)
    with pytest.raises(InputError, match=what):
        read_trajectory_file(tmp_path / "trajectory.npy")


def test_samples_of_other_sizes_are_refused(tmp_path, places):
    with pytest.raises(InputError, match="with 5 readouts of 64 samples as the trajectory has"):
        opened(tmp_path, samples()[..., 1:])


def test_k_space_may_be_conjugated(tmp_path, places):
    kspace = samples()
    np.save(tmp_path / "kspace.npy", kspace)
    reading = Reading(trajectory=tmp_path / "trajectory.npy")
    with open_source(tmp_path / "kspace.npy", reading, Orientation.TURNED) as source:
        assert isinstance(source, KspaceAlongTrajectory)
        np.testing.assert_array_equal(source.read_slice(0), kspace[0].conj())
        assert any("conjugated" in each for each in source.describe()["assumed"])


def test_a_matrix_far_beyond_what_a_trajectory_resolves_is_refused(places):
    with pytest.raises(InputError, match="resolves 32 x 32 pixels and the image has 300 x 300, expected at"):
        in_cycles(places, (300, 300), "t.npy")
    assert in_cycles(places, (256, 256), "t.npy").matrix == (256, 256)

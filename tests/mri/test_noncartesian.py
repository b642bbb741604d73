"""The operator along a trajectory: held against sums of exponentials, its own adjoint, and BART."""

import subprocess

import numpy as np
import pytest

from bart_tool import needs_bart
from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.mri.noncartesian import NonCartesianSense, Trajectory, point_spread_spectrum
from sbim_deploy.mri.nonuniform import to_grid, to_samples
from sbim_deploy.mri.sense import Sense
from sbim_deploy.mri.trajectories import GOLDEN, make_trajectory, sample_areas

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
SHAPES = [(11, 14), (12, 9), (16, 16)]
ULP = 2e-7


def complex_normal(rng, shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def make_operator(shape, n_coils=3, readouts=(5, 7), seed=0):
    rng = np.random.default_rng(seed)
    places = (rng.uniform(-0.5, 0.5, (*readouts, 2)) * shape).astype(np.float32)
    areas = (rng.random(readouts) * (rng.random(readouts) < 0.8)).astype(np.float32)
    return NonCartesianSense(complex_normal(rng, (n_coils, *shape)), areas, places), rng


def exponentials(places, shape):
    """Return the matrix (*places, rows, columns) of the transform, as its definition has it."""
    rows, columns = (np.arange(n) - n // 2 for n in shape)
    turns = (
        places[..., 0, None, None] * rows[:, None] / shape[0]
        + places[..., 1, None, None] * columns / shape[1]
    )
    return np.exp(-2j * np.pi * turns) / np.sqrt(shape[0] * shape[1])


def distance(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_are_the_sums_of_exponentials(shape):
    operator, rng = make_operator(shape)
    image = complex_normal(rng, shape)
    expected = np.einsum("abrc,krc->kab", exponentials(operator.places, shape), operator.maps * image)
    assert distance(operator.forward(image), expected * operator.mask) < ULP


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adjoint_is_that_of_samples_counted_by_their_areas(shape):
    operator, rng = make_operator(shape)
    image, kspace = complex_normal(rng, shape), complex_normal(rng, (3, 5, 7))
    forward = np.vdot(operator.forward(image), operator.areas * kspace)
    assert abs(forward - np.vdot(image, operator.adjoint(kspace))) < 1e-5 * abs(forward)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_embedding_is_the_adjoint_after_the_operator(shape):
    operator, rng = make_operator(shape)
    image = complex_normal(rng, shape)
    assert distance(operator.normal(image), operator.adjoint(operator.forward(image))) < 1e-6


def test_several_slices_are_each_their_own():
    shape = (12, 9)
    first, second = (make_operator(shape, seed=seed)[0] for seed in (0, 1))
    both = NonCartesianSense(
        *(np.stack([getattr(each, name) for each in (first, second)]) for name in ("maps", "areas", "places"))
    )
    images = complex_normal(np.random.default_rng(2), (2, *shape))
    for single, image, got in zip((first, second), images, both.normal(images), strict=True):
        assert distance(got, single.normal(image)) < 1e-6
    again = both.repeated(2).normal(np.concatenate([images, images]))
    np.testing.assert_array_equal(again[:2], again[2:])


@pytest.mark.parametrize("shape", [(16, 16), (15, 18)])
def test_samples_of_a_grid_give_the_cartesian_operator(shape):
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < 0.5
    places = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), -1).astype(
        np.float32
    )
    maps, image = complex_normal(rng, (2, *shape)), complex_normal(rng, shape)
    areas = sample_areas(places, mask, shape)
    np.testing.assert_allclose(areas, mask, atol=1e-5)
    along, on_grid = NonCartesianSense(maps, areas, places), Sense(maps, mask)
    assert distance(along.forward(image), on_grid.forward(image)) < ULP
    assert distance(along.normal(image), on_grid.normal(image)) < 1e-5


def test_the_bound_on_the_eigenvalues_holds():
    shape = (32, 32)
    places = make_trajectory(GOLDEN, 32, 12)
    areas = sample_areas(places, np.ones((12, 1), bool), shape)
    operator = NonCartesianSense(np.ones((1, *shape), np.complex64), areas, places)
    image = complex_normal(np.random.default_rng(3), shape)
    for _ in range(200):
        image = operator.normal(image / np.linalg.norm(image))
    assert np.linalg.norm(image) <= operator.norm_bound < 2


def test_the_noise_of_samples_that_share_an_area_is_less():
    apart = Trajectory(np.zeros((1, 4, 2), np.float32), np.ones((1, 4), np.float32))
    shared = Trajectory(np.zeros((1, 4, 2), np.float32), np.full((1, 4), 0.25, np.float32))
    assert apart.noise_share == 1
    assert shared.noise_share == pytest.approx(0.5)


def test_shapes_that_do_not_fit_are_refused():
    operator, rng = make_operator((11, 14))
    with pytest.raises(ValueError, match="maps have shape"):
        NonCartesianSense(operator.maps, operator.areas[:4], operator.places)
    with pytest.raises(ValueError, match="image has shape"):
        operator.forward(complex_normal(rng, (14, 11)))


@needs_bart
@pytest.mark.parametrize("shape", [(24, 24), (20, 26)])
def test_bart_computes_the_same_samples(tmp_path, shape):
    places = make_trajectory(GOLDEN, 20, 7)
    image = complex_normal(np.random.default_rng(0), shape)
    trajectory = np.zeros((3, *places.shape[1::-1]), np.complex64)
    trajectory[:2] = places.transpose(2, 1, 0)
    write_cfl(tmp_path / "trajectory.cfl", trajectory)
    write_cfl(tmp_path / "image.cfl", image[:, :, None])
    # -s is the sum itself: BART's gridding is off by 1e-3. The sum is not scaled, and the gridding is.
    subprocess.run(["bart", "nufft", "-s", "trajectory", "image", "kspace"], cwd=tmp_path, check=True)
    stored = np.fromfile(tmp_path / "kspace.cfl", np.complex64).reshape(places.shape[1::-1], order="F").T
    assert distance(to_samples(image, places), stored / np.sqrt(image.size)) < 1e-4


def test_the_spectrum_of_every_sample_once_is_one():
    shape = (9, 8)
    places = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), -1).astype(
        np.float32
    )
    spectrum = point_spread_spectrum(np.ones(shape, np.float32), places, shape)
    np.testing.assert_allclose(spectrum, 1, atol=1e-5)


def test_the_transforms_are_adjoint_for_odd_sizes():
    rng = np.random.default_rng(0)
    places = (rng.uniform(-0.5, 0.5, (4, 6, 2)) * (9, 13)).astype(np.float32)
    image, samples = complex_normal(rng, (9, 13)), complex_normal(rng, (4, 6))
    left, right = (
        np.vdot(to_samples(image, places), samples),
        np.vdot(image, to_grid(samples, places, (9, 13))),
    )
    assert abs(left - right) < 1e-6 * abs(left)

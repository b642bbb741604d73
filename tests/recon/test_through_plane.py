"""Slices that are reconstructed together, against what is known of each part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError, SamplingError
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.recon import through_plane
from sbim_deploy.recon.orientations import FLIP_COLUMNS, FLIP_ROWS, seen_in
from sbim_deploy.recon.prepare import OfVolume, prepare_slice
from sbim_deploy.recon.reconstruct import SCORE_GRAPH, Reconstructor
from sbim_deploy.recon.through_plane import MIN_SLICES, plane_directions, reconstruct_through_planes
from sbim_deploy.samplers.choice import SamplerChoice

N_SLICES, ROWS, COLUMNS = 35, 21, 30  # none of them a multiple of the network's 8


class GaussianScore:
    """The score of the prior N(0, I), which sees pixels alone; it keeps the shapes that it was given."""

    def __init__(self, streams=1):
        self.description = {"backend": "test", "streams": str(streams)}
        self.seen = []

    @property
    def shapes(self):
        return [each.shape for each in self.seen]

    def run(self, inputs):
        self.seen.append(inputs["x"].copy())
        sigma = inputs["sigma"][:, None, None, None]
        return {"score": -inputs["x"] / (1 + sigma**2)}


class FlatScore(GaussianScore):
    """A denoiser whose image is each plane's mean: what it was given can be told by it."""

    def run(self, inputs):
        x, sigma = inputs["x"], inputs["sigma"][:, None, None, None]
        super().run(inputs)
        return {"score": ((x.mean((-2, -1), keepdims=True) - x) / sigma**2).astype(np.float32)}


def volume(n=N_SLICES, turn=0.0):
    """Return slices of random objects on the same coils, whose maps turn by an angle from slice to slice."""
    rng = np.random.default_rng(3)
    mask = rng.random((ROWS, COLUMNS)) < 0.6
    mask[8:14, 11:19] = True
    problems = []
    for index in range(n):
        maps = (birdcage_maps(3, (ROWS, COLUMNS)) * np.exp(1j * turn * index)).astype(np.complex64)
        image = rng.standard_normal((2, ROWS, COLUMNS)).astype(np.float32)
        kspace = centred_fft(maps * (image[0] + 1j * image[1])).astype(np.complex64) * mask
        shared = OfVolume(scale=1.0, is_checked=True)
        problems.append(prepare_slice(kspace, index + 5, maps=maps, noise=0.05, volume=shared))
    return problems


def reconstructor(engine, steps=7, sampler="dds"):
    return Reconstructor(
        load_model("demo"),
        SamplerChoice(sampler, steps=steps),
        4,
        graph=SCORE_GRAPH,
        open_graph=lambda _: engine,
    )


def together(made, problems, **options):
    return list(reconstruct_through_planes(made, len(problems), problems.__getitem__, **options))


@pytest.mark.parametrize("sampler", ["dds", "daps", "sbim-ld"])
def test_a_prior_of_single_pixels_gives_what_the_slices_give_one_by_one(sampler):
    problems = volume()
    made = reconstructor(GaussianScore(), sampler=sampler)
    alone = made(problems)
    for ours, theirs in zip(together(made, problems, planes_at_once=4), alone, strict=True):
        assert ours.index == theirs.index
        assert np.linalg.norm(ours.image - theirs.image) < 1e-5 * np.linalg.norm(theirs.image)
        assert ours.residual == pytest.approx(theirs.residual, rel=1e-4)


def test_steps_take_planes_of_each_direction_in_turn():
    engine = GaussianScore()
    problems = volume()
    together(reconstructor(engine, steps=4), problems, planes_at_once=40)
    assert engine.shapes == [(40, 2, 24, 32), (24, 2, 40, 32), (32, 2, 40, 24), (40, 2, 24, 32)]


def test_steps_see_planes_in_each_orientation_in_turn(monkeypatch):
    problems = volume()
    turned, as_they_lie = GaussianScore(), GaussianScore()
    together(reconstructor(turned), problems, planes_at_once=40)
    monkeypatch.setattr(through_plane, "view_in_step", lambda _grid, _step: lambda planes: planes)
    together(reconstructor(as_they_lie), problems, planes_at_once=40)
    # No plane is a square here, so that none is transposed. A prior of single pixels leaves the image alike.
    for step, (got, plane) in enumerate(zip(turned.seen, as_they_lie.seen, strict=True)):
        expected = seen_in(plane, (0, FLIP_ROWS, FLIP_COLUMNS, FLIP_ROWS | FLIP_COLUMNS)[step % 4])
        np.testing.assert_allclose(got, expected, atol=1e-5)
    results = together(reconstructor(GaussianScore()), problems)
    assert {each.prior_orientations for each in results} == {4}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("planes_at_once", [1, 7, 100])
def test_planes_across_an_axis_are_those_of_the_volume(axis, planes_at_once):
    # One step of data that weigh nothing: each plane's mean is what comes out.
    problems = [replace(each, noise=1e6) for each in volume()]
    made = reconstructor(FlatScore(), steps=1)
    one_way = together(made, problems, directions=(axis,), planes_at_once=planes_at_once)
    image = np.stack([each.image for each in one_way])
    spread = np.ptp(np.moveaxis(image, axis, 0).real, axis=(1, 2)).max()
    assert spread < 1e-3 * np.ptp(image.real)


def test_streams_share_the_planes_out_and_change_nothing():
    problems = volume()
    one, three = (
        together(reconstructor(GaussianScore(streams)), problems, planes_at_once=3) for streams in (1, 3)
    )
    for ours, theirs in zip(one, three, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)


def test_a_slice_without_data_is_filled_in_and_left_out():
    problems = volume()
    found = reconstruct_through_planes(
        reconstructor(GaussianScore()), N_SLICES, lambda place: None if place == 3 else problems[place]
    )
    assert [each.index for each in found] == [index + 5 for index in range(N_SLICES) if index != 3]


def test_progress_goes_up_to_the_whole():
    shares = []
    together(reconstructor(GaussianScore()), volume(), on_share=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_network_that_fails_is_named_with_its_step_and_slice():
    class Broken(GaussianScore):
        def run(self, inputs):
            score = super().run(inputs)["score"]
            if len(self.shapes) > 40:
                score[:] = np.nan
            return {"score": score}

    with pytest.raises(SamplingError, match="slice 5 is not finite in step 2 of 7"):
        together(reconstructor(Broken()), volume())


def test_maps_that_turn_from_slice_to_slice_are_refused():
    with pytest.raises(InputError, match=r"phase of the maps turns by 1\.20 rad .* leave --maps out"):
        together(reconstructor(GaussianScore()), volume(turn=1.2))
    together(reconstructor(GaussianScore(), steps=1), volume(turn=0.1))


def test_few_slices_are_refused():
    with pytest.raises(InputError, match="31 slices are reconstructed together, expected at least 32"):
        plane_directions(None, MIN_SLICES - 1)


@pytest.mark.parametrize(
    ("voxel_mm", "directions"),
    [
        (None, (0, 1, 2)),
        ((1.0, 1.2, 0.9), (0, 1, 2)),
        ((1.0, 1.0, 3.0), (0, 2)),
        ((2.0, 3.5, 2.5), (0, 1)),
    ],
)
def test_planes_whose_pixels_are_long_are_not_shown_to_the_network(voxel_mm, directions):
    assert plane_directions(voxel_mm, MIN_SLICES) == directions


def test_voxels_of_which_only_slices_are_square_are_refused():
    with pytest.raises(InputError, match="voxels are 3 x 1 x 1 mm"):
        plane_directions((3.0, 1.0, 1.0), MIN_SLICES)

"""Along a trajectory the network sees an image in another orientation in each step, on a grid as it is."""

from __future__ import annotations

import numpy as np
import pytest

from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.trajectories import GOLDEN, make_trajectory
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.orientations import (
    ORIENTATIONS,
    OrientedScore,
    count_orientations,
    orientations_of,
    seen_in,
)
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.reconstruct import SCORE_GRAPH, Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, object_magnitude, simulate_truth, unit_noise
from sbim_deploy.samplers.choice import SamplerChoice

N_SQUARE, N_OTHER = 8, 4


class GaussianScore:
    """The score of the prior N(0, I), which no orientation changes; it keeps what it was given."""

    def __init__(self):
        self.description = {"backend": "test"}
        self.seen = []

    def run(self, inputs):
        self.seen.append(inputs["x"].copy())
        return {"score": -inputs["x"] / (1 + inputs["sigma"][:, None, None, None] ** 2)}


class RowScore(GaussianScore):
    """A score that knows rows from columns: the differences from each row to the one before it."""

    def run(self, inputs):
        super().run(inputs)
        return {"score": np.roll(inputs["x"], 1, axis=-2) - inputs["x"]}


def images(*shape):
    real, imaginary = np.random.default_rng(4).standard_normal((2, *shape)).astype(np.float32)
    return (real + 1j * imaginary).astype(np.complex64)


def turned_squares(x):
    """What a square may be turned to, by numpy's rotations of it and of its mirror image."""
    both = (x, x[..., ::-1])
    return [np.rot90(each, n, axes=(-2, -1)) for each in both for n in range(4)]


@pytest.mark.parametrize("leading", [(), (3,), (2, 2)])
def test_the_orientations_are_the_rotations_of_a_square_and_of_its_mirror_image(leading):
    x = images(*leading, 6, 6)
    seen = {seen_in(x, each).tobytes() for each in ORIENTATIONS}
    assert len(seen) == N_SQUARE
    assert seen == {each.tobytes() for each in turned_squares(x)}


@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6), (3, 5, 8), (2, 2, 8, 5)])
def test_what_is_written_in_an_orientation_lies_as_it_was(shape):
    x = images(*shape)
    for each in orientations_of(shape[-2:]):
        y = np.empty_like(x)
        seen_in(y, each)[...] = seen_in(x, each)
        np.testing.assert_array_equal(y, x)


def test_what_is_no_square_is_flipped_and_never_transposed():
    x = images(5, 8)
    seen = [seen_in(x, each) for each in orientations_of((5, 8))]
    assert [each.shape for each in seen] == [(5, 8)] * N_OTHER
    assert {each.tobytes() for each in seen} == {
        each.tobytes() for each in (x, x[::-1], x[:, ::-1], x[::-1, ::-1])
    }


def test_the_grid_of_the_network_decides_and_not_the_image_on_it():
    assert count_orientations((61, 64), 8) == N_SQUARE
    assert count_orientations((56, 64), 8) == N_OTHER
    assert count_orientations((61, 64), 1) == N_OTHER


@pytest.mark.parametrize(
    ("shape", "n"), [((2, 8, 8), N_SQUARE), ((2, 5, 8), N_OTHER), ((1, 2, 8, 8), N_SQUARE)]
)
def test_a_score_that_knows_rows_sees_each_orientation_in_turn_and_its_score_lies_as_the_image(shape, n):
    engine, x = RowScore(), images(*shape)
    oriented = OrientedScore(engine, shape)
    got = [oriented(x, 0.1).copy() for _ in range(2 * n)]
    np.testing.assert_array_equal(engine.seen[0][:, 0], x.real.reshape(engine.seen[0][:, 0].shape))
    assert len({each.tobytes() for each in engine.seen[:n]}) == n
    # Differences are seen from above and from below, and of a square from the left and the right too.
    axes = (-2, -1) if n == N_SQUARE else (-2,)
    expected = {(np.roll(x, by, axis) - x).tobytes() for axis in axes for by in (1, -1)}
    assert {each.tobytes() for each in got[:n]} == expected
    for first, again in zip(got[:n], got[n:], strict=True):
        np.testing.assert_array_equal(first, again)


def test_the_loop_gets_a_score_that_is_contiguous():
    oriented, x = OrientedScore(RowScore(), (1, 8, 8)), images(1, 8, 8)
    assert all(oriented(x, 0.1).flags.c_contiguous for _ in ORIENTATIONS)


def test_the_score_of_slices_together_is_that_of_each_alone():
    x = images(3, 8, 8)
    together = OrientedScore(RowScore(), x.shape)
    alone = [OrientedScore(RowScore(), (1, 8, 8)) for _ in x]
    for _ in ORIENTATIONS:
        parts = [each(x[i : i + 1], 0.1) for i, each in enumerate(alone)]
        np.testing.assert_array_equal(together(x, 0.1), np.concatenate(parts))


def scanned(size=64, n_readouts=10, noise=0.01):
    """Return a synthetic brain along golden-angle spokes, and its magnitude."""
    pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
    settings = SimulateSettings(size=size, seed=2)
    truth = simulate_truth(object_magnitude(settings, 0), settings, 0)
    places = make_trajectory(GOLDEN, size, n_readouts)
    samples = to_samples(truth.maps * truth.reference, places)
    samples = (samples + noise * unit_noise(truth.rng, samples.shape)).astype(np.complex64)
    problem = prepare_trajectory_slice(samples, places, (size, size), 0, truth.maps, noise)
    return problem, np.abs(truth.reference)


def reconstruct(problem, engine=None, as_it_is=False, monkeypatch=None, **options):
    """Return a reconstruction, by an engine of the test's own or by the demo model."""
    options = {"choice": SamplerChoice("dds", steps=9), **options}
    if engine is not None:
        options["open_graph"] = lambda _name: engine
    run = Reconstructor(load_model("demo"), graph=SCORE_GRAPH, **options)
    if not as_it_is:
        return run([problem])[0]
    with monkeypatch.context() as patched:
        patched.setattr("sbim_deploy.recon.reconstruct.OrientedScore", EngineScore)
        return run([problem])[0]


@pytest.mark.parametrize("sampler", ["dds", "sbim"])
def test_a_prior_that_no_orientation_changes_gives_the_image_that_it_gave(monkeypatch, sampler):
    problem, _ = scanned(32)
    choice = SamplerChoice(sampler, steps=9)
    ours = reconstruct(problem, GaussianScore(), choice=choice)
    plain = reconstruct(problem, GaussianScore(), True, monkeypatch, choice=choice)
    np.testing.assert_array_equal(ours.image, plain.image)


def test_samples_one_by_one_are_those_that_are_drawn_together():
    problem, _ = scanned(32)
    choice = SamplerChoice("dds", steps=3)
    one_by_one, together = (
        reconstruct(problem, RowScore(), choice=choice, samples=2, samples_at_once=n) for n in (1, 2)
    )
    np.testing.assert_allclose(one_by_one.image, together.image, atol=1e-5)
    np.testing.assert_allclose(one_by_one.standard_deviation, together.standard_deviation, atol=1e-5)
    assert one_by_one.model_error == pytest.approx(together.model_error, rel=1e-4)


def test_on_a_grid_the_network_sees_the_image_as_it_is(monkeypatch):
    monkeypatch.setattr("sbim_deploy.recon.reconstruct.OrientedScore", None)
    truth = simulate_truth(object_magnitude(SimulateSettings(size=32), 0), SimulateSettings(size=32), 0)
    kspace = centred_fft(truth.maps * truth.reference).astype(np.complex64)
    problem = prepare_slice(kspace, maps=truth.maps, noise=0.01)
    assert reconstruct(problem, RowScore()).prior_orientations is None


def test_a_brain_along_a_trajectory_gains(monkeypatch):
    problem, truth = scanned()
    ours, plain = reconstruct(problem), reconstruct(problem, None, True, monkeypatch)
    assert ours.prior_orientations == N_SQUARE
    gain = score(np.abs(ours.image), truth).psnr - score(np.abs(plain.image), truth).psnr
    assert gain > 0.1

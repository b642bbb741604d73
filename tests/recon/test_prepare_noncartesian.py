"""From samples along a trajectory to images: maps, units and samplers, against the truth and the grid."""

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.trajectories import GOLDEN, SPIRAL, full_readouts, make_trajectory
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.left_out import leave_out
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.self_check import explained_residual
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, object_magnitude, simulate_truth, unit_noise
from sbim_deploy.samplers.choice import SamplerChoice

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
SIZE, NOISE = 64, 0.01


def scan(n_readouts=20, kind=GOLDEN, noise=NOISE, size=SIZE):
    """Return samples along a trajectory, the trajectory, and what was scanned."""
    settings = SimulateSettings(size=size, seed=2)
    truth = simulate_truth(object_magnitude(settings, 0), settings, 0)
    places = make_trajectory(kind, size, n_readouts)
    samples = to_samples(truth.maps * truth.reference, places)
    return (samples + noise * unit_noise(truth.rng, samples.shape)).astype(np.complex64), places, truth


def prepared(n_readouts=20, kind=GOLDEN, noise=NOISE, maps=True, **options):
    kspace, places, truth = scan(n_readouts, kind, noise)
    given = truth.maps if maps else None
    return prepare_trajectory_slice(kspace, places, (SIZE, SIZE), 0, given, **options), truth


def psnr(image, truth):
    return score(np.abs(image), np.abs(truth.reference)).psnr


def test_the_scale_is_that_of_the_object_in_the_units_of_a_grid():
    problem, truth = prepared(full_readouts(GOLDEN, SIZE))
    assert problem.scale == pytest.approx(1, abs=0.05)
    assert psnr(problem.zero_filled, truth) > 25


def test_the_noise_is_measured():
    problem, _ = prepared()
    assert problem.noise == pytest.approx(NOISE, rel=0.05)
    assert problem.noise_source == "beyond the field of view"


def test_loud_coils_are_whitened_and_the_image_keeps_its_shading():
    kspace, places, truth = scan()
    kspace[2] += 0.1 * unit_noise(truth.rng, kspace[2].shape)
    problem = prepare_trajectory_slice(kspace, places, (SIZE, SIZE), 0, truth.maps)
    assert problem.noise_source.endswith("coils whitened")
    assert problem.scale == pytest.approx(1, abs=0.15)
    image, _ = classical_image(problem, Classical.L1_WAVELET)
    plain, _ = classical_image(prepared()[0], Classical.L1_WAVELET)
    assert psnr(image, truth) > psnr(plain, truth) - 1.5


@pytest.mark.parametrize("kind", [GOLDEN, SPIRAL])
def test_a_fully_sampled_scan_gives_the_image_of_the_grid(kind):
    kspace, places, truth = scan(2 * full_readouts(kind, SIZE), kind, noise=0)
    along = prepare_trajectory_slice(kspace, places, (SIZE, SIZE), 0, truth.maps, 1e-4)
    on_grid = prepare_slice(centred_fft(truth.maps * truth.reference), maps=truth.maps, noise=1e-4)
    images = [classical_image(problem, Classical.CG_SENSE)[0] for problem in (along, on_grid)]
    radius = np.hypot(*np.meshgrid(*[np.arange(SIZE) - SIZE // 2] * 2, indexing="ij"))
    spectra = [centred_fft(image)[radius < SIZE / 2 - 2] for image in images]
    assert np.linalg.norm(spectra[0] - spectra[1]) < 1e-3 * np.linalg.norm(spectra[1])


@pytest.mark.parametrize("kind", [GOLDEN, SPIRAL])
def test_estimated_maps_cost_little(kind):
    n_readouts = 20 if kind == GOLDEN else 5
    (given, truth), (estimated, _) = (prepared(n_readouts, kind, maps=maps) for maps in (True, False))
    assert "of gridded samples" in estimated.map_source
    images = [classical_image(problem, Classical.L1_WAVELET)[0] for problem in (given, estimated)]
    assert psnr(images[1], truth) > psnr(images[0], truth) - 1


def test_l1_wavelet_beats_cg_sense_which_beats_gridding():
    problem, truth = prepared()
    gridded, cg_sense, l1 = (psnr(classical_image(problem, each)[0], truth) for each in Classical)
    assert gridded + 2 < cg_sense
    assert cg_sense + 1 < l1


def test_the_sampler_beats_l1_wavelet_and_explains_its_data():
    problem, truth = prepared(noise=0.01)
    l1, _ = classical_image(problem, Classical.L1_WAVELET)
    run = Reconstructor(load_model("demo"), SamplerChoice("dds", steps=12), graph="score")
    (result,) = run([problem])
    assert psnr(result.image, truth) > psnr(l1, truth) + 0.3
    assert result.residual < 1.5 * explained_residual(problem)
    assert not result.doubts


def test_samples_and_slices_go_together_in_a_batch():
    problem, _ = prepared()
    run = Reconstructor(
        load_model("demo"), SamplerChoice("dds", steps=3), graph="score", samples=2, samples_at_once=2
    )
    together = run([problem, replace(problem, index=1)])
    (alone,) = run([problem])
    np.testing.assert_allclose(together[0].image, alone.image, atol=2e-4)
    assert (alone.standard_deviation > 0).any()


def test_a_quarter_of_the_readouts_is_left_out():
    problem, _ = prepared()
    kept = leave_out(problem, 0)
    assert np.count_nonzero(kept.mask.any(axis=1)) == 15
    assert not kept.kspace[:, ~kept.mask.any(axis=1)].any()
    assert kept.trajectory.areas.sum() < problem.trajectory.areas.sum()


def test_graphs_of_the_grid_are_refused():
    problem, _ = prepared()
    with pytest.raises(InputError, match="takes samples on a grid: a trajectory takes --graph score"):
        Reconstructor(load_model("demo"), SamplerChoice("dds", steps=2))([problem])


def test_readouts_that_were_not_measured_do_not_count():
    kspace, places, truth = scan()
    kspace[:, 3] = 0
    problem = prepare_trajectory_slice(kspace, places, (SIZE, SIZE), 0, truth.maps)
    assert not problem.trajectory.areas[3].any()
    assert problem.trajectory.areas[4].any()


@pytest.mark.parametrize("shape", [(63, 64), (45, 50)])
def test_odd_sizes_are_reconstructed_where_the_object_lies(shape):
    size = min(shape)
    settings = SimulateSettings(size=64)
    image = np.zeros(shape, np.complex64)
    part = object_magnitude(settings, 0)[:: 64 // size + 1, :: 64 // size + 1]
    image[5 : 5 + len(part), 8 : 8 + len(part)] = part
    places = make_trajectory(GOLDEN, size, 2 * full_readouts(GOLDEN, size))
    kspace = to_samples(image[None], places).astype(np.complex64)
    maps = np.ones((1, *shape), np.complex64)
    problem = prepare_trajectory_slice(kspace, places, shape, 0, maps, 1e-3)
    found, _ = classical_image(problem, Classical.CG_SENSE)
    assert np.linalg.norm(np.abs(found) - np.abs(image)) < 0.35 * np.linalg.norm(image)
    assert np.unravel_index(np.abs(centred_fft(found)).argmax(), shape) == (shape[0] // 2, shape[1] // 2)


def test_zeros_and_shapes_that_do_not_fit_are_refused():
    kspace, places, truth = scan()
    with pytest.raises(InputError, match="zero everywhere"):
        prepare_trajectory_slice(0 * kspace, places, (SIZE, SIZE))
    with pytest.raises(InputError, match=r"expected \(coil, readout, sample\) and \(readout, sample, 2\)"):
        prepare_trajectory_slice(kspace, places[:-1], (SIZE, SIZE))
    with pytest.raises(InputError, match="maps have shape"):
        prepare_trajectory_slice(kspace, places, (SIZE, SIZE), 0, truth.maps[:, :-1])

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.experiment.peers import PEERS, bart_version
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_crop, centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.classical import L1_WEIGHT, Classical, classical_image, l1_wavelet, solve_classically
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import GRAPHS, Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, brain_slice, simulate_slice
from sbim_deploy.samplers.choice import SamplerChoice


def scan(size=64, acceleration=3.0, noise=0.01):
    settings = SimulateSettings(1, 6, size, acceleration, noise=noise)
    simulated = simulate_slice(settings, line_mask(size, acceleration), 0)
    return prepare_slice(simulated.kspace, maps=simulated.maps), np.abs(simulated.reference)


def psnr(image, reference):
    return score(np.abs(image), reference).psnr


def test_l1_wavelet_beats_cg_sense_which_beats_zero_filling():
    problem, reference = scan(96, 4.0)
    zero_filled, cg_sense, l1 = (psnr(classical_image(problem, each)[0], reference) for each in Classical)
    assert zero_filled + 3 < cg_sense
    assert cg_sense + 1.5 < l1


@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_the_weight_that_follows_the_noise_is_near_the_best(noise):
    problem, reference = scan(96, 4.0, noise)
    own = psnr(solve_classically(problem, Classical.L1_WAVELET), reference)
    best = max(
        psnr(l1_wavelet(problem, weight * problem.noise), reference) for weight in (0.1, 0.2, 0.6, 1.0, 2.0)
    )
    assert own > best - 0.3


@pytest.mark.skipif(bart_version() is None, reason="bart is not on the PATH: apt-get install bart")
def test_it_is_as_good_as_barts_with_the_best_weight_of_a_grid():
    problem, reference = scan(96, 4.0)
    solve = PEERS["bart-l1"].solve
    barts = max(psnr(solve(problem, weight, 1), reference) for weight in (0.001, 0.003, 0.01, 0.03))
    assert psnr(solve_classically(problem, Classical.L1_WAVELET), reference) > barts - 0.5


def test_more_steps_lower_the_objective_to_the_gradient_of_a_minimum_without_a_weight():
    """Weight 0 is least squares: A^H (A x - y) goes to 0."""
    problem, _ = scan()
    sense = Sense(problem.maps, problem.mask)

    def gradient(n_steps):
        image = l1_wavelet(problem, 0.0, n_steps)
        return np.linalg.norm(sense.adjoint(sense.forward(image) - problem.kspace))

    assert gradient(200) < 0.1 * gradient(20) < 0.1 * gradient(2)


@pytest.mark.parametrize("shape", [(61, 70), (45, 52), (12, 33)])
@pytest.mark.parametrize("direction", ["columns", "rows", "both"])
def test_any_size_and_direction_is_taken(shape, direction):
    image = np.ascontiguousarray(brain_slice(0, 80)[: shape[0], : shape[1]]).astype(np.complex64)
    maps = birdcage_maps(4, shape)
    mask = {
        "columns": line_mask(shape[1], 2, calib_width=6)[None],
        "rows": line_mask(shape[0], 2, calib_width=6)[:, None],
        "both": line_mask(shape[1], 2, calib_width=6)[None] * np.ones((shape[0], 1), bool),
    }[direction]
    mask = mask & (np.random.default_rng(0).random(shape) < 0.9) if direction == "both" else mask
    problem = prepare_slice(centred_fft(maps * image) * mask, mask=mask, maps=maps, noise=1e-3)
    found, residual = classical_image(problem, Classical.L1_WAVELET)
    assert found.shape == shape
    assert residual < 0.05


def test_maps_of_more_than_unit_norm_do_not_diverge():
    problem, reference = scan()
    larger = replace(problem, maps=3 * problem.maps)
    expected = solve_classically(problem, Classical.L1_WAVELET)
    found = 3 * l1_wavelet(larger, 3 * L1_WEIGHT * problem.noise)
    assert psnr(found, reference) == pytest.approx(psnr(expected, reference), abs=0.5)


def test_two_sets_of_maps_are_one_image_each():
    problem, reference = scan()
    half = problem.maps.shape[-2] // 2
    sets = np.stack([problem.maps, problem.maps])
    sets[0, :, half:], sets[1, :, :half] = 0, 0
    split = prepare_slice(problem.kspace, maps=sets, noise=problem.noise)
    image, residual = classical_image(split, Classical.L1_WAVELET)
    _, one_residual = classical_image(problem, Classical.L1_WAVELET)
    assert solve_classically(split, Classical.L1_WAVELET).shape == (2, *reference.shape)
    assert psnr(image, reference) > psnr(classical_image(problem, Classical.ZERO_FILLED)[0], reference) + 5
    assert residual == pytest.approx(one_residual, rel=0.2)


def test_the_image_scales_with_its_kspace_and_is_the_same_in_every_run():
    problem, _ = scan()
    first, again = (solve_classically(problem, Classical.L1_WAVELET) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    factor = np.float32(1e4)
    scaled = prepare_slice(factor * problem.kspace, maps=problem.maps, noise=float(factor * problem.noise))
    np.testing.assert_allclose(
        solve_classically(scaled, Classical.L1_WAVELET),
        factor * first,
        atol=1e-4 * factor * np.abs(first).max(),
    )


def test_the_image_is_zero_where_no_coil_sees():
    problem, _ = scan()
    maps = problem.maps.copy()
    maps[:, :5] = 0
    blind = replace(problem, maps=maps)
    assert not solve_classically(blind, Classical.L1_WAVELET)[:5].any()


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_plan_starts_from_the_image_that_it_names_on_every_graph(graph):
    """With hardly any noise and one step at the least level, the image is what the start was."""
    problem, _ = scan()
    choice = SamplerChoice("dds", steps=2, start="l1-wavelet", start_sigma=0.011)
    (result,) = Reconstructor(load_model("demo"), choice, graph=graph)([problem])
    l1, zero_filled = (
        centre_crop(solve_classically(problem, each), problem.image_shape)
        for each in (Classical.L1_WAVELET, Classical.ZERO_FILLED)
    )
    to_l1, to_zero_filled = (np.linalg.norm(result.image - each) for each in (l1, zero_filled))
    assert to_l1 < 0.35 * to_zero_filled


def test_eight_calls_from_l1_wavelet_are_better_than_eight_from_the_zero_filled_image():
    problem, reference = scan(96, 5.0)
    model = load_model("demo")
    warm, cold = (
        psnr(Reconstructor(model, choice)([problem])[0].image, reference)
        for choice in (
            SamplerChoice("dds", steps=8, start="l1-wavelet"),
            SamplerChoice("dds", steps=8, prior_weight=1.0),
        )
    )
    assert warm > cold + 0.5

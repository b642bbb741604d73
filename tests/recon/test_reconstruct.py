import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import NoiseLevels, load_model
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import GRAPHS, Reconstructor
from sbim_deploy.recon.uncertainty import RunningMoments
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, brain_slice, simulate_slice
from sbim_deploy.samplers.choice import SAMPLERS, SamplerChoice
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.presets import PRESETS


def problems(n=4, size=64, acceleration=2.0):
    settings = SimulateSettings(n, 4, size, acceleration)
    mask = line_mask(size, acceleration)
    return [prepare_slice(simulate_slice(settings, mask, i).kspace, i) for i in range(n)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_beats_zero_filling(name):
    simulated = simulate_slice(SimulateSettings(1, 6, 64, 3.0), line_mask(64, 3.0), 0)
    problem = prepare_slice(simulated.kspace, maps=simulated.maps)
    steps = {"reverse-diffusion": 64, "langevin": 30}.get(name, 32)
    (result,) = Reconstructor(load_model("demo"), SamplerChoice(name, steps))([problem])
    reference = np.abs(simulated.reference)
    gain = score(np.abs(result.image), reference).psnr - score(np.abs(result.zero_filled), reference).psnr
    assert gain > 5
    assert result.residual < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_stable_on_the_published_levels(name):
    model = load_model("demo")
    levels = NoiseLevels(sigma_begin=232, sigma_end=0.0066, n_levels=2311)
    model = replace(model, manifest=replace(model.manifest, noise_levels=levels))
    (problem,) = problems(1)
    reference = np.abs(simulate_slice(SimulateSettings(1, 4, 64, 2.0), line_mask(64, 2.0), 0).reference)
    preset = PRESETS[name]
    (result,) = Reconstructor(model, preset.choice, samples=preset.samples)([problem])
    gain = score(np.abs(result.image), reference).psnr - score(np.abs(result.zero_filled), reference).psnr
    assert gain > 5


@pytest.mark.parametrize("name", ["dds", "sbim-ld"])
def test_a_slice_is_the_same_in_a_batch_of_one_and_of_four(name):
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice(name, steps=6, start_sigma=0.1))
    together = reconstruct(problems())
    for alone, batched in zip([reconstruct([problem])[0] for problem in problems()], together, strict=True):
        distance = np.linalg.norm(alone.image - batched.image) / np.linalg.norm(alone.image)
        assert distance < 1e-5
        assert alone.residual == pytest.approx(batched.residual, rel=1e-4)


def test_the_same_seed_gives_the_same_image_to_the_bit_and_another_seed_another():
    first, again, other = (
        Reconstructor(load_model("demo"), SamplerChoice(steps=4), seed)(problems(1))[0].image
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("shape", [(61, 70), (64, 60)])
@pytest.mark.parametrize("direction", ["columns", "rows", "both"])
def test_odd_sizes_and_all_directions_run_on_a_padded_grid_and_meet_the_data(shape, direction):
    image = np.ascontiguousarray(brain_slice(0, 80)[: shape[0], : shape[1]]).astype(np.complex64)
    maps = birdcage_maps(4, shape)
    mask = {
        "columns": line_mask(shape[1], 2)[None],
        "rows": line_mask(shape[0], 2)[:, None],
        "both": line_mask(shape[0], 1.5)[:, None] & line_mask(shape[1], 1.5)[None],
    }[direction]
    problem = prepare_slice((centred_fft(maps * image) * mask).astype(np.complex64), maps=maps)
    (result,) = Reconstructor(load_model("demo"), SamplerChoice(steps=8))([problem])
    assert result.image.shape == shape
    assert result.residual < 0.05
    assert score(np.abs(result.image), image.real).psnr > score(np.abs(result.zero_filled), image.real).psnr


def test_a_scaled_scan_gives_the_scaled_image():
    (problem,) = problems(1)
    scaled = prepare_slice(problem.kspace * np.float32(1e-6))
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice(steps=4))
    small, large = reconstruct([scaled])[0].image, reconstruct([problem])[0].image
    np.testing.assert_allclose(1e6 * small, large, atol=1e-2 * np.abs(large).max())


@pytest.mark.parametrize("graph", GRAPHS)
def test_samples_are_averaged_and_their_spread_kept_however_many_run_together(graph):
    model, choice, slices = load_model("demo"), SamplerChoice(steps=3, eta=1.0), problems(2)
    noises = [NoiseStream(0, [0, 1], (64, 64), [k, k]).draw().copy() for k in range(3)]
    assert all((a != b).all() for a, b in itertools.pairwise(noises))
    one, together, apart = (
        Reconstructor(model, choice, graph=graph, samples=k, samples_at_once=at_once)(slices)
        for k, at_once in ((1, 1), (3, 2), (3, 1))
    )
    for first, a, b in zip(one, together, apart, strict=True):
        limit = 1e-5 * np.abs(first.image).max()
        np.testing.assert_allclose(a.image, b.image, rtol=0, atol=limit)
        np.testing.assert_allclose(a.standard_deviation, b.standard_deviation, rtol=0, atol=limit)
        assert a.residual == pytest.approx(b.residual, rel=1e-4)
        assert first.standard_deviation is None
        assert a.residual < first.residual * 1.01
        assert a.standard_deviation.dtype == np.float32
        distance = np.abs(first.image - a.image)
        # No sample of three is farther from their mean than sqrt(2) standard deviations.
        assert (distance <= 1.415 * a.standard_deviation + limit).all()
        # The rest is what the last step and the model's error leave open, which is much after three steps.
        assert distance.mean() > 0.1 * a.standard_deviation.mean() > 0


def test_the_moments_are_those_of_numpy():
    rng = np.random.default_rng(0)
    images = (rng.standard_normal((9, 4, 5, 2)) + 3).astype(np.float32).view(np.complex64)[..., 0]
    moments = RunningMoments((4, 5))
    for image in images:
        moments.add(image)
    np.testing.assert_allclose(moments.mean, images.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.variance(), images.var(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("graph", "steps"), [("step", [0, 1, 2, 3]), ("score", [0, 1, 2, 3]), ("reconstruct", [0, 3])]
)
def test_residuals_are_told_along_the_way_and_end_with_the_images(graph, steps):
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice(steps=3), graph=graph)
    told = []
    results = reconstruct(problems(2), on_residual=lambda *each: told.append(each))
    plain = reconstruct(problems(2))
    for result, silent in zip(results, plain, strict=True):
        np.testing.assert_array_equal(result.image, silent.image)
        of_slice = [(done, residual) for index, done, residual in told if index == result.index]
        assert [done for done, _ in of_slice] == steps
        assert of_slice[-1][1] == pytest.approx(result.residual, rel=1e-5)
        assert of_slice[0][1] > 2 * result.residual


def test_more_samples_take_no_more_memory():
    slices = problems(1)
    peaks = []
    for samples in (2, 2, 12):  # the first run pays for what is imported and cached
        reconstruct = Reconstructor(load_model("demo"), SamplerChoice(steps=1), samples=samples)
        tracemalloc.start()
        reconstruct(slices)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + slices[0].mvue.nbytes


def test_less_than_one_sample_is_refused():
    with pytest.raises(InputError, match="samples is 0"):
        Reconstructor(load_model("demo"), samples=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="seed is -1"):
        Reconstructor(load_model("demo"), seed=-1)


def test_progress_is_told_of_every_row():
    seen = []
    Reconstructor(load_model("demo"), SamplerChoice(steps=3))(problems(1), seen.append)
    assert seen == [1, 2, 3]
    seen.clear()
    Reconstructor(load_model("demo"), SamplerChoice(steps=2), samples=3, samples_at_once=2)(
        problems(1), seen.append
    )
    assert seen == [2, 4, 5, 6, 7, 8]  # the last two without the lines that are left out


def test_two_sets_of_maps_reconstruct_a_head_that_is_wider_than_its_field_of_view():
    """Every second line and 24 calibration lines: one set leaves a ghost, 18 dB; two sets have 27 dB."""
    size, width = 80, 48
    rng = np.random.default_rng(0)
    head = np.rot90(brain_slice(0, size)) * smooth_phase((size, size), rng)
    coil_images = np.pad(birdcage_maps(8, (size, size)) * head, ((0, 0), (0, 0), (width, width)))
    first = width + (size - width) // 2
    folded = sum(coil_images[..., first + shift : first + shift + width] for shift in (-width, 0, width))
    noise = 0.01 * rng.standard_normal((*folded.shape, 2)).view(np.complex128)[..., 0]
    kspace = ((centred_fft(folded) + noise) * line_mask(width, 2, calib_width=24)).astype(np.complex64)
    magnitude = np.linalg.norm(folded, axis=0)
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice(steps=8))
    decibels, doubts = [], []
    for n_sets in (1, 2):
        (result,) = reconstruct([prepare_slice(kspace, map_sets=n_sets)])
        error = np.linalg.norm(np.abs(result.image) - magnitude)
        decibels.append(20 * np.log10(np.linalg.norm(magnitude) / error))
        doubts.append([doubt.kind for doubt in result.doubts])
    assert decibels[1] > 25
    assert decibels[1] > decibels[0] + 6
    assert doubts == [["field of view", "residual"], []]

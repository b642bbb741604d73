import numpy as np
import pytest

from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft, centred_ifft
from sbim_deploy.mri.masks import calibration_block, line_mask
from sbim_deploy.recon.grid import stack_slices
from sbim_deploy.recon.left_out import LEFT_OUT, leave_out, model_error
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.simulate import brain_slice
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.conjugate_gradient import solve_proximal

SHAPE, NOISE = (56, 64), 0.01
MASKS = {
    "columns": line_mask(64, 2, calib_width=8)[None],
    "rows": line_mask(56, 2, calib_width=8)[:, None],
    "both": line_mask(56, 1.5, calib_width=8)[:, None] & line_mask(64, 1.5, calib_width=8)[None],
}


def normals(rng, shape):
    return rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]


def scan(mask, index=0):
    image = brain_slice(index, 64)[4:60].astype(np.complex64)
    maps = birdcage_maps(4, SHAPE)
    kspace = centred_fft(maps * image) + np.float32(NOISE) * normals(np.random.default_rng(index), maps.shape)
    return prepare_slice((kspace * mask).astype(np.complex64), index, mask, maps, noise=NOISE), image


@pytest.mark.parametrize("direction", MASKS)
def test_a_fourth_of_what_is_outside_the_calibration_is_left_out(direction):
    problem, _ = scan(MASKS[direction])
    kept = leave_out(problem, seed=0)
    outside = problem.mask.copy()
    block = calibration_block(problem.mask, SHAPE)
    outside[tuple(part if n > 1 else slice(None) for part, n in zip(block, outside.shape, strict=True))] = (
        False
    )
    assert abs((outside & ~kept.mask).sum() - outside.sum() / LEFT_OUT) <= 1
    assert not (kept.mask & ~problem.mask).any()
    np.testing.assert_array_equal(kept.kspace, problem.kspace * kept.mask)
    np.testing.assert_array_equal(kept.mask, leave_out(problem, seed=0).mask)


@pytest.mark.parametrize(
    ("lines", "calibration", "left"),
    [
        # Every 8th line from 0, calibration 27 to 37: after 24 the pattern has 32, before 40 it has 32.
        (range(0, 64, 8), range(27, 38), {*range(27, 32), *range(33, 38)}),
        # After 26 the pattern has 28, before 38 it has 36, and both are the calibration's own ends.
        (range(0, 64, 2), range(28, 37), set()),
        # A wide gap may not take the middle of a short calibration.
        (range(0, 64, 12), range(30, 35), {30, 31, 33, 34}),
    ],
)
def test_the_calibration_loses_what_the_pattern_would_leave_open(lines, calibration, left):
    mask = np.zeros((1, 64), bool)
    mask[0, [*lines, *calibration]] = True
    problem, _ = scan(mask)
    kept = leave_out(problem, seed=0)
    assert set(calibration) - set(np.flatnonzero(kept.mask)) == left


def test_ghosts_of_the_pattern_count_though_its_own_lines_do_not_see_them():
    """An error at the lines that were not measured alone is told by the calibration's lines between them."""
    mask = line_mask(64, 8, calib_width=20)[None]
    problem, image = scan(mask)
    batch, kept = stack_slices([problem]), stack_slices([leave_out(problem, seed=0)])
    outside = mask.copy()
    outside[:, calibration_block(mask, SHAPE)[1]] = False
    error = centred_fft(0.05 * normals(np.random.default_rng(3), SHAPE))
    unseen = image + centred_ifft(error * ~outside)
    assert model_error(batch, kept, unseen[None].astype(np.complex64), seed=0) > 0.02


def test_a_slice_that_was_sampled_in_full_is_left_alone():
    problem, _ = scan(np.ones((1, 64), bool))
    assert leave_out(problem, seed=0) is problem
    batch = stack_slices([problem])
    assert model_error(batch, batch, np.zeros((1, *SHAPE), np.complex64), seed=0) == 0


@pytest.mark.parametrize("direction", MASKS)
@pytest.mark.parametrize("error", [0.02, 0.05])
def test_a_white_error_of_the_denoised_image_is_found(direction, error):
    """Images that solve for the kept data from the truth with a known white error tell that error."""
    pairs = [scan(MASKS[direction], index) for index in (0, 1)]
    batch = stack_slices([problem for problem, _ in pairs])
    kept = stack_slices([leave_out(problem, seed=0) for problem, _ in pairs])
    truth = np.stack([image for _, image in pairs])
    centre = truth + np.float32(error) * normals(np.random.default_rng(9), truth.shape)
    weight = np.full(2, (NOISE / error) ** 2, np.float32)
    images = solve_proximal(kept.sense.normal, kept.sense.adjoint(kept.kspace), centre, weight, 40)
    np.testing.assert_allclose(model_error(batch, kept, images, seed=0), error, rtol=0.15)


def test_images_as_good_as_their_noise_have_no_error():
    problem, image = scan(MASKS["columns"])
    batch, kept = stack_slices([problem]), stack_slices([leave_out(problem, seed=0)])
    assert model_error(batch, kept, image[None], seed=0) < 0.002


def test_several_samples_take_a_pass_more_for_their_standard_deviation():
    problems = [scan(MASKS["columns"], index)[0] for index in (0, 1)]
    choice, counted = SamplerChoice(steps=2), []
    reconstruct = Reconstructor(load_model("demo"), choice, samples=2, samples_at_once=2)
    results = reconstruct(problems, counted.append)
    assert reconstruct.n_calls == counted[-1] == 6
    assert all(result.model_error > 0 for result in results)
    (alone,) = reconstruct([problems[1]])
    assert alone.model_error == pytest.approx(results[1].model_error, rel=1e-3)
    np.testing.assert_allclose(alone.standard_deviation, results[1].standard_deviation, rtol=1e-2, atol=1e-5)
    without = Reconstructor(load_model("demo"), choice, samples=2, deviations=False)
    assert without.n_calls == 4
    result = without([problems[1]])[0]
    assert result.standard_deviation is None
    np.testing.assert_allclose(result.image, alone.image, atol=1e-5)

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_pad, centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.recon import prepare
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice

SHAPE = (64, 60)


@pytest.fixture
def scan():
    maps = birdcage_maps(4, SHAPE)
    image = shepp_logan(SHAPE).astype(np.complex64)
    return image, maps, centred_fft(maps * image).astype(np.complex64)


def test_the_mvue_of_full_kspace_is_the_image_and_the_scale_its_99th_percentile(scan):
    image, maps, kspace = scan
    problem = prepare_slice(kspace, maps=maps)
    np.testing.assert_allclose(problem.mvue, image, atol=1e-5)
    assert problem.scale == pytest.approx(np.percentile(np.abs(image), 99), rel=1e-4)
    assert problem.mask.all()


@pytest.mark.parametrize("largest", [1e-43, 1e-40, 1e-30, 1e-16, 1e16, 1e36])
def test_kspace_whose_squares_float32_does_not_hold_is_one_line(scan, largest):
    _, _, kspace = scan
    scaled = (kspace.astype(np.complex128) * (largest / np.abs(kspace).max())).astype(np.complex64)
    with pytest.raises(InputError, match=r"slice 3: the largest value of .*expected 1e-15 to 1e\+15"):
        prepare_slice(scaled, 3)


@pytest.mark.parametrize("largest", [1e-14, 1e14])
def test_the_unit_of_kspace_does_not_matter(scan, largest):
    _, maps, kspace = scan
    factor = largest / np.abs(kspace).max()
    plain, scaled = (prepare_slice(np.complex64(each * kspace), maps=maps) for each in (1.0, factor))
    np.testing.assert_allclose(scaled.mvue / factor, plain.mvue, atol=1e-4)


def test_maps_are_made_of_unit_norm_so_that_their_scale_does_not_matter(scan):
    _, maps, kspace = scan
    problem = prepare_slice(kspace, maps=7 * maps)
    np.testing.assert_allclose(problem.maps, maps, atol=1e-5)


def test_without_a_mask_what_is_zero_was_not_sampled(scan):
    _, maps, kspace = scan
    lines = line_mask(60, 3)
    np.testing.assert_array_equal(prepare_slice(kspace * lines, maps=maps).mask, lines[None])
    rows = line_mask(64, 3)[:, None]
    np.testing.assert_array_equal(prepare_slice(kspace * rows, maps=maps).mask, rows)


def test_a_line_that_the_mask_claims_and_nobody_measured_does_not_count(scan):
    _, maps, kspace = scan
    lines = line_mask(60, 3)
    kspace = kspace * lines
    kspace[:, :, np.flatnonzero(lines)[-1]] = 0
    problem = prepare_slice(kspace, mask=lines, maps=maps)
    assert problem.mask.sum() == lines.sum() - 1


def test_lines_outside_the_mask_are_left_out(scan):
    _, maps, kspace = scan
    lines = line_mask(60, 3)
    problem = prepare_slice(kspace, mask=lines, maps=maps)
    assert not problem.kspace[:, :, ~lines].any()


def test_readout_oversampling_is_cropped_in_the_image(scan):
    image, maps, _ = scan
    wide = centred_fft(centre_pad(maps * image, (128, 60))).astype(np.complex64)
    problem = prepare_slice(wide, maps=maps, image_shape=(64, 60))
    np.testing.assert_allclose(problem.mvue, image, atol=1e-5)
    full_maps = prepare_slice(wide, maps=centre_pad(maps, (128, 60)), image_shape=(64, 60))
    np.testing.assert_allclose(full_maps.mvue, image, atol=1e-5)


def test_a_readout_that_is_undersampled_is_not_cropped(scan):
    _, maps, kspace = scan
    problem = prepare_slice(kspace * line_mask(64, 2)[:, None], maps=maps, image_shape=(32, 60))
    assert problem.mvue.shape == SHAPE


def test_maps_are_estimated_from_the_calibration_lines(scan):
    image, maps, kspace = scan
    problem = prepare_slice(kspace * line_mask(60, 4, calib_width=12))
    overlap = np.abs((problem.maps.conj() * maps).sum(axis=0))
    assert overlap[np.abs(image) > 0.1].mean() > 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kspace": np.zeros((4, *SHAPE), np.complex64)}, "slice 3: k-space is zero everywhere"),
        ({"maps": birdcage_maps(5, SHAPE)}, r"maps have shape \(5, 64, 60\), expected \(4, 64, 60\)"),
        ({"maps": birdcage_maps(4, (64, 61))}, r"maps have shape \(4, 64, 61\)"),
        ({"mask": line_mask(60, 4, calib_width=2)}, "2 calibration lines .* at least 4 .* --maps"),
        ({"mask": line_mask(60, 4, calib_width=0)}, "calibration lines"),
        ({"maps": np.zeros((4, *SHAPE), np.complex64)}, "maps are zero where the image is"),
    ],
)
def test_a_slice_that_cannot_be_reconstructed_is_named_with_the_reason(scan, arguments, message):
    with pytest.raises(InputError, match=message):
        prepare_slice(**{"kspace": scan[2], "index": 3, **arguments})


def with_noise(kspace, deviations, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape)
    return (kspace + np.reshape(deviations, (-1, 1, 1)) * noise).astype(np.complex64)


def test_the_noise_is_measured_and_says_where_it_comes_from(scan):
    _, maps, kspace = scan
    problem = prepare_slice(with_noise(kspace, 0.03), maps=maps)
    assert problem.noise == pytest.approx(0.03, rel=0.1)
    assert problem.noise_source in ("calibration lines", "outermost samples")
    np.testing.assert_allclose(problem.maps, maps, atol=1e-6)


def test_noise_that_is_given_is_taken(scan):
    _, maps, kspace = scan
    problem = prepare_slice(with_noise(kspace, [0.03, 0.03, 0.3, 0.03]), maps=maps, noise=0.05)
    assert (problem.noise, problem.noise_source) == (pytest.approx(0.05), "given")
    np.testing.assert_allclose(problem.maps, maps, atol=1e-6)


def test_a_loud_coil_counts_as_little_as_whitening_makes_it_count(scan):
    image, maps, kspace = scan
    levels = np.array([0.02, 0.02, 0.2, 0.02])
    loud = with_noise(kspace, levels)
    problem = prepare_slice(loud, maps=maps)
    error = np.abs(np.abs(problem.mvue) - np.abs(image))[np.abs(image) > 0.1]
    as_measured = np.abs(np.abs(prepare_slice(loud, maps=maps, noise=0.05).mvue) - np.abs(image))
    assert error.mean() < as_measured[np.abs(image) > 0.1].mean()


@pytest.mark.parametrize("given", [True, False])
def test_a_dead_coil_is_left_out_and_said(scan, given):
    image, maps, kspace = scan
    dead = with_noise(kspace, 0.01)
    dead[2] = 0
    problem = prepare_slice(dead, maps=maps if given else None)
    assert [(fault.kind, fault.fatal) for fault in problem.faults] == [("coil left out", False)]
    assert "coil 2 of 4" in problem.faults[0].message
    assert not problem.maps[2].any()
    assert np.isfinite(problem.mvue).all()
    assert np.corrcoef(np.abs(problem.mvue).ravel(), np.abs(image).ravel())[0, 1] > 0.9


def test_maps_come_from_the_whole_field_of_view_before_the_readout_is_cut(scan):
    noisy = with_noise(scan[2], 0.005)
    mask = line_mask(60, 2, calib_width=16)
    whole = prepare_slice(noisy * mask, mask=mask)
    cut = prepare_slice(noisy * mask, mask=mask, image_shape=(40, 60))
    np.testing.assert_array_equal(cut.maps, whole.maps[:, 12:52])
    assert cut.map_source == whole.map_source == "the mean of nonlinear inversion and ESPIRiT"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda kspace: np.moveaxis(kspace, 0, -1), "coils"),
        (lambda kspace: np.fft.fftshift(kspace, axes=(-2, -1)), "fftshift"),
        (lambda kspace: np.fft.fft(kspace, axis=-1), "columns"),
    ],
)
def test_kspace_of_another_convention_is_refused_with_the_way_out(scan, damage, message):
    kspace = np.ascontiguousarray(damage(with_noise(scan[2], 0.01)))
    with pytest.raises(InputError, match=f"slice 7: .*{message}"):
        prepare_slice(kspace, 7)


def test_clipped_samples_do_not_stop_the_run_and_are_told(scan):
    _, maps, kspace = scan
    limit = np.abs(kspace).max() / 3
    parts = with_noise(kspace, 0.01).view(np.float32).clip(-limit, limit)
    problem = prepare_slice(parts.view(np.complex64), maps=maps)
    assert [fault.kind for fault in problem.faults] == ["clipped samples"]


def test_an_unknown_map_method_is_named(scan):
    with pytest.raises(InputError, match="unknown map method 'grappa': expected one of auto, espirit, nlinv"):
        prepare_slice(scan[2], map_method="grappa")


def test_few_calibration_lines_are_told_where_the_method_needs_more(scan):
    kspace = with_noise(scan[2], 0.01)
    few = kspace * line_mask(60, 2, calib_width=6)
    assert [fault.kind for fault in prepare_slice(few, map_method="espirit").faults] == [
        "few calibration lines"
    ]
    assert prepare_slice(few).faults == ()
    none = np.random.default_rng(3).random(60) < 0.5
    none[29:32] = [True, False, True]
    (fault,) = prepare_slice(kspace * none).faults
    assert "0 calibration lines are few for maps by nonlinear inversion" in fault.message


def test_noise_that_nothing_tells_from_the_object_is_said_to_be_guessed(scan, monkeypatch):
    _, maps, kspace = scan
    noisy = with_noise(kspace, 0.05)
    guess = replace(prepare.measure_noise(noisy), guessed=True)
    monkeypatch.setattr(prepare, "measure_noise", lambda *_: guess)
    (fault,) = prepare_slice(noisy, maps=maps).faults
    assert "guessed to be 0.05" in fault.message
    assert "--noise" in fault.message
    assert prepare_slice(noisy, maps=maps, noise=0.05).faults == ()
    quiet = replace(guess, covariance=guess.covariance / 100)
    monkeypatch.setattr(prepare, "measure_noise", lambda *_: quiet)
    assert "guessed noise" not in [fault.kind for fault in prepare_slice(noisy, maps=maps).faults]


def folded_scan(n_coils=8, width=44, noise=0.01):
    """The phantom turned on its side, wider than the field of view, as its coils see it."""
    image = smooth_phase((64, 64), np.random.default_rng(0)) * shepp_logan((64, 64)).T
    coil_images = np.pad(birdcage_maps(n_coils, (64, 64)) * image, ((0, 0), (0, 0), (width, width)))
    first = width + 32 - width // 2
    folded = sum(coil_images[..., first + shift : first + shift + width] for shift in (-width, 0, width))
    return folded, with_noise(centred_fft(folded), noise)


def test_two_sets_of_maps_have_an_image_each_and_the_scale_of_both():
    folded, kspace = folded_scan()
    problem = prepare_slice(kspace, map_sets=2)
    assert problem.maps.shape == (2, 8, 64, 44)
    assert problem.mvue.shape == (2, 64, 44)
    assert (problem.n_sets, problem.map_source) == (2, "2 sets by ESPIRiT")
    assert problem.faults == ()
    truth = np.linalg.norm(folded, axis=0)
    assert np.linalg.norm(np.abs(problem.zero_filled) - truth) < 0.08 * np.linalg.norm(truth)
    assert problem.scale == pytest.approx(np.percentile(truth, 99), rel=0.05)
    explained = np.einsum("scyx,syx->cyx", problem.maps, problem.mvue)
    one = prepare_slice(kspace, map_method="espirit")
    errors = [np.linalg.norm(each - folded) for each in (explained, one.maps * one.mvue)]
    assert errors[0] < 0.6 * errors[1]


def test_one_set_for_an_object_that_folds_over_is_a_doubt_that_names_the_way_out():
    (doubt,) = prepare_slice(folded_scan()[1]).faults
    assert (doubt.kind, doubt.fatal) == ("field of view", False)
    assert "--map-sets 2" in doubt.message


def test_two_sets_are_cropped_and_whitened_as_one_is():
    folded, kspace = folded_scan(noise=np.array([0.01] * 7 + [0.1]))
    problem = prepare_slice(kspace * line_mask(44, 2, calib_width=24), map_sets=2, image_shape=(40, 44))
    assert problem.maps.shape == (2, 8, 40, 44)
    assert problem.mvue.shape == (2, 40, 44)
    assert "whitened" in problem.noise_source
    truth = np.linalg.norm(folded, axis=0)
    assert problem.scale == pytest.approx(np.percentile(truth, 99), rel=0.2)


def test_given_sets_that_fade_out_end_at_half_of_the_largers_norm(scan):
    _, maps, kspace = scan
    fading = np.stack([maps, np.roll(maps, 1, axis=0) * np.linspace(0, 1, 60, dtype=np.float32)])
    problem = prepare_slice(kspace, maps=fading)
    norms = np.linalg.norm(problem.maps, axis=1)
    np.testing.assert_allclose(norms[0], 1, rtol=1e-5)
    np.testing.assert_allclose(norms[1], np.broadcast_to(np.linspace(0, 1, 60) >= 0.5, SHAPE), rtol=1e-5)


def test_sets_of_maps_that_cannot_be_are_refused(scan):
    _, maps, kspace = scan
    with pytest.raises(InputError, match=r"maps have shape \(3, 4, 64, 60\), .* or \(2, 4, 64, 60\) for two"):
        prepare_slice(kspace, maps=np.stack([maps] * 3))
    with pytest.raises(InputError, match="map method nlinv estimates one set of maps, expected espirit"):
        prepare_slice(kspace, map_sets=2, map_method="nlinv")


def test_a_single_coil_without_calibration_lines_has_a_map_of_ones_and_says_so(scan):
    image = with_noise(centred_fft(scan[0]).astype(np.complex64)[None], 0.01)
    problem = prepare_slice(image * (np.arange(60) % 2 == 0))
    np.testing.assert_array_equal(problem.maps, np.ones((1, *SHAPE)))
    assert "ones" in problem.map_source
    (message,) = (fault.message for fault in problem.faults if fault.kind == "single coil")
    assert "its map is taken to be 1 everywhere" in message


def test_too_few_calibration_lines_are_refused_with_their_cause(scan):
    kspace = with_noise(scan[2], 0.01)
    mask = line_mask(60, 4, calib_width=10)
    with pytest.raises(InputError, match=r"at least 4 .*peaks at column 37 .* header's centre .* --maps"):
        prepare_slice(np.roll(kspace * mask, 7, axis=-1))
    with pytest.raises(InputError, match=r"the mask is shifted.*: give them with --maps"):
        prepare_slice(kspace, mask=np.roll(mask, 12))
    with pytest.raises(InputError, match="nowhere are more than 1 sampled side by side"):
        prepare_slice(kspace * (np.arange(60) % 4 == 0))


def test_few_calibration_lines_are_doubted_with_their_cause(scan):
    few = np.roll(with_noise(scan[2], 0.01) * line_mask(60, 2, calib_width=14), 5, axis=-1)
    faults = prepare_slice(few, map_method="espirit").faults
    (message,) = (fault.message for fault in faults if fault.kind == "few calibration lines")
    assert "peaks at column 35" in message


def test_preparation_can_be_ended_between_its_parts():
    kspace = simulate_slice(SimulateSettings(16, 4, 48, 2.0), line_mask(48, 2.0), 0).kspace
    calls = []
    prepare_slice(kspace, check=lambda: calls.append(None))
    assert len(calls) > 12  # the steps of the inversion among them
    for stop_at in range(len(calls)):
        left = iter(range(stop_at))

        def check(left=left):
            if next(left, None) is None:
                raise TimeoutError

        with pytest.raises(TimeoutError):
            prepare_slice(kspace, check=check)

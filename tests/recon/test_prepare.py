import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_pad, centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan
from sbim_deploy.recon import prepare
from sbim_deploy.recon.prepare import prepare_slice

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


@pytest.mark.parametrize(
    ("n_lines", "kernel_width"), [(4, 3), (6, 3), (7, 3), (8, 4), (11, 5), (12, 6), (16, 6)]
)
def test_the_espirit_kernel_is_half_as_wide_as_the_calibration_lines_from_3_to_6(
    scan, monkeypatch, n_lines, kernel_width
):
    _, maps, kspace = scan
    widths = []

    def record(calibration, shape, kernel_width):
        widths.append((calibration.shape[-1], kernel_width))
        return maps

    monkeypatch.setattr(prepare, "espirit_maps", record)
    # With every fourth line outside the centre alone, the block of calibration is no wider than the centre.
    mask = line_mask(60, 4, calib_width=n_lines)
    around = 30 - n_lines // 2
    mask[[around - 1, around + n_lines]] = False
    prepare_slice(kspace, mask=mask)
    assert widths == [(n_lines, kernel_width)]

"""Mistakes on the way from a scanner to an array are named; sound k-space is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_pad, centred_fft, centred_ifft
from sbim_deploy.mri.kspace_faults import find_faults
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase

SHAPE = (96, 80)
NOISE = 0.01
MASK = line_mask(SHAPE[1], 4, calib_width=12)[None, :]


def fully_sampled(noise: float = NOISE, shape: tuple[int, int] = SHAPE, n_coils: int = 6) -> np.ndarray:
    rng = np.random.default_rng(5)
    image = shepp_logan(shape) * smooth_phase(shape, rng)
    kspace = centred_fft(birdcage_maps(n_coils, shape) * image)
    parts = rng.standard_normal((*kspace.shape, 2), dtype=np.float32)
    return kspace + np.float32(noise) * parts.view(np.complex64)[..., 0]


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    return fully_sampled()


@pytest.mark.parametrize("noise", [0, 0.001, 0.1])
@pytest.mark.parametrize("shape", [(96, 80), (81, 97)])
def test_sound_kspace_has_no_fault(noise, shape):
    full = fully_sampled(noise, shape)
    mask = line_mask(shape[1], 3, "random", 10)[None, :]
    partial = mask.copy()
    partial[:, : shape[1] // 4] = False
    both = np.random.default_rng(1).random(shape) < 0.3
    both[shape[0] // 2 - 8 : shape[0] // 2 + 8, shape[1] // 2 - 8 : shape[1] // 2 + 8] = True
    for sampled in (np.ones((1, shape[1]), bool), mask, partial, both):
        assert find_faults(full * sampled, None, noise) == []
        assert find_faults(full, sampled, noise) == []


def uncentred(kspace: np.ndarray) -> np.ndarray:
    return np.fft.ifftshift(kspace, axes=(1, 2))


def transformed_readout(kspace: np.ndarray) -> np.ndarray:
    return centred_ifft(kspace, axes=(-2,))


def tiny_where_not_measured(kspace: np.ndarray) -> np.ndarray:
    return kspace * np.where(MASK, 1, 1e-12).astype(np.float32)


def rounding_where_not_measured(kspace: np.ndarray) -> np.ndarray:
    rounding = np.random.default_rng(2).standard_normal(kspace.shape) * 1e-7 * np.abs(kspace).max()
    return (kspace * MASK + ~MASK * rounding).astype(np.complex64)


def clipped(kspace: np.ndarray) -> np.ndarray:
    limit = 0.3 * np.abs(kspace.real).max()
    return (kspace.real.clip(-limit, limit) + 1j * kspace.imag.clip(-limit, limit)).astype(np.complex64)


def spiked(kspace: np.ndarray) -> np.ndarray:
    with_spike = kspace * MASK
    with_spike[:, 12, np.flatnonzero(MASK[0])[2]] += 0.5 * np.abs(kspace).max()
    return with_spike


@pytest.mark.parametrize(
    ("spoil", "kind", "fatal"),
    [
        (lambda k: (k * MASK).transpose(1, 2, 0), "coils on the last axis", True),
        (lambda k: uncentred(k * MASK), "centre of k-space", True),
        (lambda k: np.roll(k, 30, axis=-1), "centre of k-space", True),
        (lambda k: transformed_readout(k * MASK), "transformed axis", True),
        (lambda k: centred_ifft(k), "image in place of k-space", True),
        (tiny_where_not_measured, "samples that are not zero", True),
        (rounding_where_not_measured, "samples that are not zero", True),
        (clipped, "clipped samples", False),
        (spiked, "spikes", False),
    ],
)
def test_a_mistake_is_named_with_its_way_out(
    kspace: np.ndarray, spoil: Callable[[np.ndarray], np.ndarray], kind: str, fatal: bool
):
    (fault,) = find_faults(spoil(kspace), None, NOISE)
    assert (fault.kind, fault.fatal) == (kind, fatal)
    assert len(fault.message) > 60


def test_an_undersampled_axis_that_is_transformed_is_at_least_doubted():
    mask = line_mask(128, 3, "random", 10)[None, :]
    (fault,) = find_faults(centred_ifft(fully_sampled(shape=(128, 128)), axes=(-1,)) * mask, None, NOISE)
    assert fault.kind == "transformed axis"


def test_an_object_of_few_bright_points_is_doubted_and_not_refused():
    points = np.zeros(SHAPE, np.complex64)
    rng = np.random.default_rng(0)
    points[rng.integers(30, 66, 40), rng.integers(30, 50, 40)] = 1
    blurred = centred_ifft(centred_fft(points) * np.exp(-(np.hypot(*np.ogrid[-48:48, -40:40]) ** 2) / 500))
    kspace = centred_fft(birdcage_maps(6, SHAPE) * blurred).astype(np.complex64)
    assert not any(fault.fatal for fault in find_faults(kspace, None, 1e-4))


def test_a_mask_that_was_shifted_by_half_is_named(kspace: np.ndarray):
    (fault,) = find_faults(kspace, np.fft.ifftshift(MASK, axes=1), NOISE)
    assert fault.kind == "shifted mask"
    assert "fftshift" in fault.message


def test_noise_alone_has_no_fault():
    parts = np.random.default_rng(0).standard_normal((4, 64, 64, 2), dtype=np.float32)
    noise = parts.view(np.complex64)[..., 0]
    assert find_faults(noise, None, 1.0) == []


def test_planes_of_3d_kspace_that_were_taken_for_coils_are_doubted():
    ball = np.sqrt(np.clip(1 - np.linspace(-1.2, 1.2, 24) ** 2, 0, None))[:, None, None]
    volume = centred_fft((ball * shepp_logan(SHAPE)).astype(np.complex64), axes=(0, 1, 2))
    (fault,) = find_faults(volume.astype(np.complex64), None, 0.0)
    assert (fault.kind, fault.fatal) == ("planes in place of coils", False)
    assert "--layout" in fault.message
    for n_coils in (16, 33):
        assert find_faults(fully_sampled(n_coils=n_coils), None, NOISE) == []


def oversampled(n_coils: int, factor: int, size: int) -> np.ndarray:
    """Fully sampled k-space of a readout over ``factor`` times the image's field of view."""
    rng = np.random.default_rng(size)
    image = birdcage_maps(n_coils, (size, size)) * shepp_logan((size, size))
    parts = NOISE * rng.standard_normal((n_coils, factor * size, size, 2), dtype=np.float32)
    return (
        centred_fft(centre_pad(image.astype(np.complex64), (factor * size, size)))
        + parts.view(np.complex64)[..., 0]
    )


@pytest.mark.parametrize("size", [64, 65, 128])
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("n_coils", [1, 4])
def test_oversampling_changes_nothing_of_what_is_sound_and_what_was_transformed(size, factor, n_coils):
    kspace = oversampled(n_coils, factor, size)
    assert find_faults(kspace, None, NOISE) == []
    assert [each.kind for each in find_faults(transformed_readout(kspace), None, NOISE)] == [
        "transformed axis"
    ]
    assert [each.kind for each in find_faults(centred_ifft(kspace), None, NOISE)] == [
        "image in place of k-space"
    ]
    lines = transformed_readout(kspace * line_mask(size, 2, calib_width=12))
    assert [each.kind for each in find_faults(lines, None, NOISE)] == ["transformed axis"]

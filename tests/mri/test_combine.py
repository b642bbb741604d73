import numpy as np
import pytest

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.combine import (
    combine_set_variances,
    combine_sets,
    mvue,
    normalise_maps,
    percentile_scale,
    root_sum_of_squares,
)
from sbim_deploy.mri.fourier import centred_fft


@pytest.mark.parametrize("shape", [(16, 16), (15, 18)])
def test_mvue_of_full_kspace_is_the_image(shape):
    rng = np.random.default_rng(0)
    image = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    maps = birdcage_maps(6, shape)
    np.testing.assert_allclose(mvue(centred_fft(maps * image), maps), image, atol=1e-5)


def test_pixels_without_maps_are_zero_not_nan():
    maps = birdcage_maps(4, (8, 8))
    maps[:, 0, 0] = 0
    image = mvue(np.ones((4, 8, 8), dtype=np.complex64), maps)
    assert image[0, 0] == 0
    assert np.isfinite(image).all()
    assert np.isfinite(normalise_maps(maps)).all()


def test_mvue_has_the_least_variance_that_an_unbiased_combination_can_have():
    rng = np.random.default_rng(1)
    maps = (rng.standard_normal((4, 1, 1)) + 1j * rng.standard_normal((4, 1, 1))).astype(np.complex64)
    noise = rng.standard_normal((20000, 4, 1, 1)) + 1j * rng.standard_normal((20000, 4, 1, 1))
    combined = mvue(noise.astype(np.complex64), np.broadcast_to(maps, noise.shape))
    # White noise of variance 2 a coil stays of variance 2 under a unit combination.
    assert np.mean(np.abs(combined) ** 2) == pytest.approx(2, rel=0.05)


def test_root_sum_of_squares():
    coil_images = np.array([3 + 0j, 4j], dtype=np.complex64).reshape(2, 1, 1)
    assert root_sum_of_squares(coil_images) == pytest.approx(5)


def test_percentile_scale_is_of_the_magnitude():
    image = 2j * np.arange(101, dtype=np.float32).reshape(1, 101)
    assert percentile_scale(image.astype(np.complex64)) == pytest.approx(198)


def test_images_of_sets_become_one_with_the_coils_magnitude_and_the_first_sets_phase():
    images = np.array([3j, 3 + 4j, 0], np.complex64), np.array([4, 0, -2], np.complex64)
    stack = np.stack(images)[:, None, :]
    combined = combine_sets(stack)
    np.testing.assert_allclose(combined, [[5j, 3 + 4j, 2]], rtol=1e-6)
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 2))).Q
    coils = np.einsum("cs,syx->cyx", vectors, stack)
    np.testing.assert_allclose(np.abs(combined), np.linalg.norm(coils, axis=0), rtol=1e-5)


def test_the_variance_of_a_combined_image_is_that_of_many():
    rng = np.random.default_rng(0)
    images = np.array([[[30 + 5j]], [[12 - 9j]]], np.complex64)
    deviations = np.array([0.2, 0.6], np.float32)[:, None, None]
    noise = rng.standard_normal((20000, 2, 1, 1, 2)).astype(np.float32).view(np.complex64)[..., 0]
    magnitudes = np.abs(combine_sets(images + deviations * noise))
    expected = combine_set_variances(2 * deviations**2, images)
    assert expected.shape == (1, 1)
    # The magnitude holds one of the two parts.
    np.testing.assert_allclose(magnitudes.var(axis=0), expected / 2, rtol=0.05)


def test_where_no_set_has_an_image_the_largest_variance_counts():
    variances = np.array([[[1.0]], [[3.0]]], np.float32)
    assert combine_set_variances(variances, np.zeros((2, 1, 1), np.complex64)) == 3

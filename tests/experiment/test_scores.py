"""The thesis's masked metrics, against scikit-image on what its code's steps make of the images."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sbim_deploy.experiment.scores import masked_psnr_and_ssim


def published(image: np.ndarray, reference: np.ndarray, radius: float) -> tuple[float, float]:
    """Do what the code does, pixel by pixel: flip, threshold, scale to 8 bits, disc on the image alone."""
    image, reference = image[::-1].copy(), reference[::-1].copy()
    floor = 0.05 * reference.max()
    image[image <= floor] = 0
    reference[reference <= floor] = 0
    image_8bit = (image * (255 / image.max())).astype(np.uint8)
    reference_8bit = (reference * (255 / reference.max())).astype(np.uint8)
    rows, columns = image.shape
    for row in range(rows):
        for column in range(columns):
            if (row - rows // 2) ** 2 + (column - columns // 2) ** 2 > radius**2:
                image_8bit[row, column] = 0
    return (
        peak_signal_noise_ratio(reference_8bit, image_8bit),
        structural_similarity(reference_8bit, image_8bit),
    )


@pytest.mark.parametrize(
    ("shape", "radius"), [((384, 384), 165), ((128, 128), 55), ((96, 80), 165 * 80 / 384)]
)
def test_masked_metrics_are_those_of_the_published_steps(shape, radius):
    rng = np.random.default_rng(0)
    reference = np.abs(rng.standard_normal(shape)).astype(np.float32).cumsum(axis=0)
    image = (reference + rng.standard_normal(shape)).astype(np.float32).clip(0)
    psnr, ssim = masked_psnr_and_ssim(image, reference)
    expected_psnr, expected_ssim = published(image, reference, radius)
    assert psnr == pytest.approx(expected_psnr, abs=0.01)
    assert ssim == pytest.approx(expected_ssim, abs=1e-4)


def test_masked_metrics_do_not_see_the_scale_of_the_image():
    rng = np.random.default_rng(1)
    reference = rng.random((64, 64), dtype=np.float32)
    image = reference + np.float32(0.5)
    assert masked_psnr_and_ssim(2 * image, reference) == masked_psnr_and_ssim(image, reference)


def test_an_image_below_the_threshold_is_scored_as_black():
    reference = np.ones((32, 32), dtype=np.float32)
    psnr, _ = masked_psnr_and_ssim(0.01 * reference, reference)
    assert psnr == pytest.approx(0)

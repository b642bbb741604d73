"""The masked metrics of the thesis against scikit-image, and the statistics against scipy and by hand."""

import math

import numpy as np
import pytest
import scipy.stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sbim_deploy.experiment.scores import masked_scores, mean_interval, standard_deviation


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
    psnr, ssim = masked_scores(image, reference)
    expected_psnr, expected_ssim = published(image, reference, radius)
    assert psnr == pytest.approx(expected_psnr, abs=0.01)
    assert ssim == pytest.approx(expected_ssim, abs=1e-4)


def test_masked_metrics_do_not_see_the_scale_of_the_image():
    rng = np.random.default_rng(1)
    reference = rng.random((64, 64), dtype=np.float32)
    image = reference + np.float32(0.5)
    assert masked_scores(2 * image, reference) == masked_scores(image, reference)


def test_an_image_below_the_threshold_is_scored_as_black():
    reference = np.ones((32, 32), dtype=np.float32)
    psnr, _ = masked_scores(0.01 * reference, reference)
    assert psnr == pytest.approx(0)


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(3).normal(30, 2, 12)
    got = mean_interval(values)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert got.mean == pytest.approx(values.mean())
    # Two draws of the resamples: their ends differ by about a hundredth of the interval.
    width = expected.high - expected.low
    assert got.low == pytest.approx(expected.low, abs=0.03 * width)
    assert got.high == pytest.approx(expected.high, abs=0.03 * width)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = mean_interval(rng.normal(0, 1, 25))
        covered += interval.low <= 0 <= interval.high
    # 95 % less what the bootstrap lacks at 25 slices; the standard error of the count is 1.7 %.
    assert 0.88 <= covered / 200 <= 0.98


def test_two_slices_by_hand():
    # The means of two draws from (0, 1) are 0, 1/2, 1/2, 1: a quarter of them at each end.
    interval = mean_interval([0.0, 1.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)
    assert standard_deviation([0.0, 1.0]) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("values", [[3.0], [3.0, math.inf]])
def test_no_interval_where_there_can_be_none(values):
    interval = mean_interval(values)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(standard_deviation(values))

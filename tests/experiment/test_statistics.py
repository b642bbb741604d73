"""Means, deviations and bootstrap intervals, against scipy and by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from sbim_deploy.experiment.scores import mean_interval, standard_deviation


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

"""What a network removes of the noise: the demo's most of it, random weights none."""

import numpy as np
import pytest

from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import NoiseLevels, load_model
from sbim_deploy.recon.self_check import levels_without_gain
from sbim_deploy.runs.denoising import find_better_scale, measure_noise_left

LEVELS = NoiseLevels(50.0, 0.01, 266)


def test_the_demo_model_removes_noise_at_every_level():
    engine = open_engine(load_model("demo"), "score", "onnxruntime")
    left = measure_noise_left(lambda x, sigma: engine.run({"x": x, "sigma": sigma})["score"], 2, 8, LEVELS)
    assert list(left) == ["sigma 0.03", "sigma 0.1", "sigma 0.3"]
    assert max(left.values()) < 0.8
    assert levels_without_gain(left) == []


@pytest.fixture(scope="module")
def demo_score():
    engine = open_engine(load_model("demo"), "score", "onnxruntime")
    return lambda x, sigma: engine.run({"x": x, "sigma": sigma})["score"]


def trained_at(score, scale):
    """The score of a network that was trained on images so many times as bright."""
    scale = np.float32(scale)
    return lambda x, sigma: score(x / scale, sigma / scale) / scale


def test_a_model_has_no_better_scale_than_that_of_its_training(demo_score):
    assert find_better_scale(demo_score, 2, 8, LEVELS) is None


@pytest.mark.parametrize("scale", [1 / 8, 1 / 16])
def test_images_too_bright_for_a_network_are_found_and_darker_ones_proposed(demo_score, scale):
    levels = NoiseLevels(50.0 * scale, 0.01 * scale, 266)
    found = find_better_scale(trained_at(demo_score, scale), 2, 8, levels)
    assert found is not None
    assert scale / 4 <= found <= 2 * scale


def test_images_too_dark_for_a_network_are_found(demo_score):
    trained = trained_at(demo_score, 8)

    def score(x, sigma):
        # It has seen no noise below 0.5.
        return trained(x, sigma) * np.float32(sigma[0] > 0.5)

    assert find_better_scale(score, 2, 8, LEVELS) in (8, 16)


def test_where_a_network_removes_nothing_at_any_scale_none_is_proposed():
    for score in (lambda x, sigma: np.zeros_like(x), lambda x, sigma: np.full_like(x, np.nan)):
        assert find_better_scale(score, 2, 8, LEVELS) is None


def test_a_score_of_zero_leaves_all_of_it_and_the_true_score_nothing():
    left = measure_noise_left(lambda x, sigma: np.zeros_like(x), 2, 1, LEVELS)
    assert list(left.values()) == pytest.approx([1, 1, 1])
    assert levels_without_gain(left) == ["sigma 0.03: 100%", "sigma 0.1: 100%", "sigma 0.3: 100%"]


def test_a_score_that_is_not_finite_is_no_gain():
    left = measure_noise_left(lambda x, sigma: np.full_like(x, np.nan), 2, 1, LEVELS)
    assert len(levels_without_gain(left)) == 3


def test_levels_beyond_the_networks_own_are_its_nearest():
    narrow = NoiseLevels(0.2, 0.05, 10)
    assert list(measure_noise_left(lambda x, sigma: x, 1, 8, narrow)) == [
        "sigma 0.05",
        "sigma 0.1",
        "sigma 0.2",
    ]

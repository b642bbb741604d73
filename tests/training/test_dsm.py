import numpy as np
import pytest
import torch

from sbim_deploy.samplers.schedules import geometric
from sbim_deploy.training.dsm import (
    augment,
    detail_draw,
    dsm_loss,
    held_out_loss,
    to_channels,
    training_batch,
    uniform_draw,
)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_the_loss_of_a_gaussians_own_score_is_known(sigma):
    """x of variance v has the score -x / (v + sigma^2) and the loss 0.5 v / (v + sigma^2)."""
    variance = 0.7
    generator = torch.Generator().manual_seed(1)
    images = variance**0.5 * torch.randn((200, 2, 32, 32), generator=generator)
    noise = torch.randn(images.shape, generator=generator)

    def score(x, sigmas):
        return -x / (variance + sigmas[:, None, None, None] ** 2)

    losses = dsm_loss(score, images, torch.full((200,), sigma), noise)
    expected = 0.5 * variance / (variance + sigma**2)
    assert losses.shape == (200,)
    assert losses.mean().item() == pytest.approx(expected, rel=0.01)
    (measured,) = held_out_loss(score, images, [sigma], seed=2)
    assert measured == pytest.approx(expected, rel=0.01)


def test_each_image_has_its_own_level():
    images, noise = torch.zeros(2, 2, 8, 8), torch.ones(2, 2, 8, 8)
    losses = dsm_loss(lambda x, sigmas: torch.ones_like(x), images, torch.tensor([1.0, 3.0]), noise)
    torch.testing.assert_close(losses, torch.tensor([2.0, 8.0]))


def test_the_held_out_loss_depends_on_the_seed_alone():
    images = torch.rand(5, 2, 16, 16)

    def measure(seed, batch):
        return held_out_loss(lambda x, sigmas: -x, images, [0.3, 3.0], seed, batch)

    assert measure(0, 2) == measure(0, 2)
    assert measure(0, 2) == pytest.approx(measure(0, 5))
    assert measure(0, 2) != measure(1, 2)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 32, 32)) + 1j * rng.standard_normal((6, 32, 32))
    return torch.from_numpy(values.astype(np.complex64))


def test_channels_are_the_real_and_the_imaginary_part(images):
    channels = to_channels(images)
    assert torch.equal(channels[:, 0], images.real)
    assert torch.equal(channels[:, 1], images.imag)


def test_augmentation_moves_pixels_and_keeps_magnitudes(images):
    augmented = augment(images, np.random.default_rng(1))
    assert not torch.allclose(augmented, images)
    for before, after in zip(images.abs(), augmented.abs(), strict=True):
        torch.testing.assert_close(before.ravel().sort()[0], after.ravel().sort()[0])


def test_most_noise_levels_are_those_of_detail():
    sigmas = detail_draw(50.0, 0.01)(np.random.default_rng(0), 20000)
    assert sigmas.min() >= 0.01 * (1 - 1e-6)
    assert sigmas.max() <= 50 * (1 + 1e-6)
    assert np.mean(sigmas < 3) == pytest.approx(0.8, abs=0.01)
    detail = np.log(sigmas[sigmas < 3])
    assert detail.mean() == pytest.approx((np.log(0.01) + np.log(3)) / 2, abs=0.05)


@pytest.mark.parametrize(("begin", "end"), [(2.0, 0.1), (232.0, 4.0)])
def test_a_range_on_one_side_is_log_uniform(begin, end):
    sigmas = detail_draw(begin, end)(np.random.default_rng(0), 20000)
    assert np.log(sigmas).mean() == pytest.approx((np.log(begin) + np.log(end)) / 2, abs=0.05)


def test_a_uniform_draw_gives_every_level_its_share_and_no_other():
    levels = geometric(50.0, 0.01, 12)
    sigmas = uniform_draw(levels)(np.random.default_rng(0), 12_000)
    drawn, counts = np.unique(sigmas, return_counts=True)
    np.testing.assert_array_equal(drawn, levels[::-1].astype(np.float32))
    # The 99.9th percentile of chi-squared with 11 degrees of freedom.
    assert np.sum((counts - 1000) ** 2 / 1000) < 31.3


def test_a_batch_follows_from_seed_and_step(images):
    def batch(seed, step):
        return training_batch([images], 4, detail_draw(50.0, 0.01), seed, step)

    for first, again in zip(batch(0, 7), batch(0, 7), strict=True):
        assert torch.equal(first, again)
    for other in (batch(0, 8), batch(1, 7)):
        assert not any(torch.equal(a, b) for a, b in zip(batch(0, 7), other, strict=True))


def test_augmentation_knows_every_turn_and_mirror():
    size = 16
    image = torch.zeros(1, size, size, dtype=torch.complex64)
    image[0, 3, 5], image[0, 3, 6], image[0, 6, 5] = 1, 2, 3
    seen = set()
    for seed in range(200):
        magnitude = augment(image, np.random.default_rng(seed)).abs()[0].round()
        first, second, third = (torch.nonzero(magnitude == value)[0] for value in (1, 2, 3))
        steps = torch.cat([second - first, third - first]) % size
        seen.add(tuple(steps.tolist()))
    assert len(seen) == 8
    assert {steps[:2] for steps in seen} == {(0, 1), (0, size - 1), (1, 0), (size - 1, 0)}


def test_sizes_are_mixed_with_as_many_pixels_in_each_batch(images):
    large = torch.cat([images, images], dim=1).repeat(1, 1, 2)
    shapes = {
        tuple(training_batch([images, large], 8, detail_draw(3.0, 0.1), 0, step)[0].shape)
        for step in range(20)
    }
    assert shapes == {(8, 2, 32, 32), (2, 2, 64, 64)}

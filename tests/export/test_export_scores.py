import pytest
import torch
from random_checkpoints import write_random_checkpoint
from torch import nn

from sbim_deploy.errors import InputError
from sbim_deploy.export.load import load_network
from sbim_deploy.export.precision import in_precision
from sbim_deploy.export.scores import DenoisedScore, ScaledScore, attend, in_runtime_units
from sbim_deploy.models.folder import SamplingDefaults, prior_of
from sbim_deploy.samplers.choice import SamplerChoice, make_plan


class GaussianDenoiser(nn.Module):
    """The mean of an image of N(0, variance) given it under noise."""

    def __init__(self, variance):
        super().__init__()
        self.variance = variance

    def forward(self, x, sigma):
        return x * self.variance / (self.variance + sigma[:, None, None, None] ** 2)


def test_the_score_of_a_denoiser_is_that_of_the_noisy_image():
    x, sigma = torch.randn(3, 2, 5, 7), torch.tensor([0.1, 1.0, 10.0])
    expected = -x / (4 + sigma[:, None, None, None] ** 2)
    torch.testing.assert_close(DenoisedScore(GaussianDenoiser(4.0))(x, sigma), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.25, 7.0])
def test_a_scaled_score_is_that_of_images_of_unit_scale(scale):
    # Images of N(0, 4), and a network that knows them scaled: N(0, 4 scale^2).
    trained = DenoisedScore(GaussianDenoiser(4.0 * scale**2)).double()
    x, sigma = torch.randn(3, 2, 5, 7).double(), torch.tensor([0.1, 1.0, 10.0]).double()
    expected = -x / (4 + sigma[:, None, None, None] ** 2)
    torch.testing.assert_close(ScaledScore(trained, scale)(x, sigma), expected)


def test_in_the_runtimes_units_levels_are_scaled_and_langevin_steps_stay(tmp_path, config_path):
    loaded = load_network(write_random_checkpoint(tmp_path / "c.pth", "NCSNv2"), config_path)
    scaled = in_runtime_units(loaded, 4.0)
    assert (scaled.levels.sigma_begin, scaled.levels.sigma_end) == (232 / 4, 0.0066 / 4)
    assert scaled.image_scale == 4

    def step(each):
        config = each.config
        sampling = SamplingDefaults(config.step_lr, config.n_steps_each, config.data_weight, 0)
        first = make_plan(SamplerChoice("langevin", steps=8), prior_of(each.levels, sampling)).steps[0]
        return first.step_size / first.sigma**2

    assert step(scaled) == pytest.approx(step(loaded))
    assert in_runtime_units(loaded, 1.0) is loaded


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_scale_that_is_none_is_refused(tmp_path, config_path, scale):
    loaded = load_network(write_random_checkpoint(tmp_path / "c.pth", "NCSNv2"), config_path)
    with pytest.raises(InputError, match=r"image scale is .*: expected a number above 0"):
        in_runtime_units(loaded, scale)


def test_half_precision_keeps_the_scale(tmp_path, config_path):
    loaded = load_network(write_random_checkpoint(tmp_path / "c.pth", "NCSNv2"), config_path)
    network = in_runtime_units(loaded, 0.5).network
    x, sigma = torch.randn(1, 2, 16, 16), torch.ones(1)
    with torch.inference_mode():
        single, half = network(x, sigma), in_precision(network, torch.bfloat16)(x, sigma)
    assert 0 < (half - single).norm() < 0.05 * single.norm()


def test_attention_is_pytorchs():
    q, k, v = torch.randn(3, 2, 4, 8, 35).double()
    expected = nn.functional.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
    torch.testing.assert_close(attend(q, k, v), expected)

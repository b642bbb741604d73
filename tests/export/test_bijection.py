import numpy as np
import pytest
import torch
from torch import nn

from sbim_deploy.errors import InputError
from sbim_deploy.export.scores import PREDICTIONS, VarianceExploding
from sbim_deploy.samplers.schedules import variance_preserving

LINEAR = np.linspace(1e-4, 0.02, 1000)
SCALED = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
STEEP = np.linspace(1e-4, 0.5, 50)
SCHEDULES = pytest.mark.parametrize("betas", [LINEAR, SCALED, STEEP], ids=["linear", "scaled", "steep"])
MEAN, SPREAD = 0.7, 0.3


class GaussianPrediction(nn.Module):
    """What the best network predicts where every pixel is N(MEAN, SPREAD^2)."""

    def __init__(self, betas, prediction):
        super().__init__()
        self.a, self.prediction = torch.from_numpy(np.cumprod(1 - betas)), prediction

    def forward(self, x, t):
        assert torch.equal(t, t.round())
        a = self.a[t.long()][:, None, None, None]
        noise = (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * SPREAD**2 + 1 - a)
        image = (x - (1 - a).sqrt() * noise) / a.sqrt()
        return {"epsilon": noise, "sample": image, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * image}[
            self.prediction
        ]


@SCHEDULES
def test_a_steps_own_sigma_gives_the_step_exactly(betas):
    sigmas = variance_preserving(betas)
    network = VarianceExploding(nn.Identity(), sigmas, "epsilon")
    steps = network.timestep(torch.from_numpy(sigmas.astype(np.float32)))
    np.testing.assert_array_equal(steps, np.arange(len(betas) - 1, -1, -1))


@SCHEDULES
def test_between_steps_the_log_snr_is_interpolated_and_beyond_them_held(betas):
    rising = np.sqrt(1 / np.cumprod(1 - betas) - 1)
    sigma = np.geomspace(rising[0] / 10, rising[-1] * 10, 1001)
    expected = np.interp(-np.log(sigma**-2), -np.log(rising**-2), np.arange(len(betas)))
    network = VarianceExploding(nn.Identity(), variance_preserving(betas), "epsilon")
    steps = network.timestep(torch.from_numpy(sigma.astype(np.float32)))
    np.testing.assert_allclose(steps, expected, rtol=1e-6, atol=1e-3)
    assert steps.min() == 0
    assert steps.max() == len(betas) - 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_of_any_prediction_becomes_the_score_of_the_noisy_image(prediction):
    network = VarianceExploding(
        GaussianPrediction(LINEAR, prediction), variance_preserving(LINEAR), prediction
    )
    levels = np.sqrt(1 / np.cumprod(1 - LINEAR) - 1)[[0, 250, 500, 999]].astype(np.float32)
    sigma = torch.from_numpy(levels)
    x = MEAN + sigma.double()[:, None, None, None] * torch.randn(4, 2, 8, 6, dtype=torch.float64)
    expected = -(x - MEAN) / (SPREAD**2 + sigma.double()[:, None, None, None] ** 2)
    torch.testing.assert_close(network.double()(x, sigma.double()), expected, rtol=1e-5, atol=1e-8)


def test_levels_that_single_precision_cannot_tell_apart_are_refused():
    with pytest.raises(InputError, match="3 levels lie too close together"):
        VarianceExploding(nn.Identity(), np.array([1 + 1e-9, 1.0, 0.5]), "epsilon")

"""A network of a variance-preserving process as a score of the variance-exploding one.

The two differ by a scale: x_VP = x_VE / sqrt(1 + sigma^2) (Dimos 2022, p. 60-62; Kawar et al. 2022,
arXiv:2201.11793, appendix B).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.schedules import Sigmas

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class VarianceExploding(nn.Module):
    """A score s(x, sigma): (n, channels, H, W) and (n,) to (n, channels, H, W), as the samplers take it.

    ``network(x_VP, t)`` predicts the noise, the velocity (Salimans and Ho 2022, arXiv:2202.00512, appendix D)
    or the image at step t of a schedule; ``sigmas`` are that schedule's levels, largest first.
    """

    def __init__(self, network: nn.Module, sigmas: Sigmas, prediction: str):
        super().__init__()
        self.network, self.prediction = network, prediction
        knots = torch.from_numpy(sigmas[::-1].astype(np.float32))
        if not bool((knots[1:] > knots[:-1]).all()):
            raise InputError(f"{len(sigmas)} levels lie too close together for single precision")
        rates = 1 / (knots[1:].double() / knots[:-1].double()).log()
        self.register_buffer("knots", knots, persistent=False)
        # Steps per unit of log sigma, none beyond the last level.
        self.register_buffer("rates", torch.cat([rates, torch.zeros(1)]).float(), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score of ``x`` at the noise levels ``sigma``."""
        t, sigma = self.timestep(sigma), sigma[:, None, None, None]
        shrink = 1 / torch.sqrt(1 + sigma.square())  # sqrt(a_t); sqrt(1 - a_t) is sigma shrink
        x_vp = x * shrink
        predicted: Tensor = self.network(x_vp, t)
        if self.prediction == "sample":
            return (predicted - x) / sigma.square()
        if self.prediction == "v_prediction":
            predicted = shrink * (predicted + sigma * x_vp)
        return -predicted / sigma

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the step of each sigma, (n,) to (n,), linear in the log-SNR between the schedule's steps.

        A step's own sigma gives it exactly; levels beyond the schedule give its ends.
        """
        knots, rates = self.get_buffer("knots"), self.get_buffer("rates")
        index = (sigma[:, None] >= knots[1:]).sum(dim=1)
        passed = torch.log(sigma / knots[index]) * rates[index]
        return index + passed.clamp(min=0)

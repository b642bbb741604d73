"""From what a network predicts to the score s(x, sigma) that the samplers take, in the runtime's units."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)

from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import LoadedNetwork
from sbim_deploy.samplers.schedules import Sigmas

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
MAX_SCALE = 1e6
# Of Jalal et al. 2021, who step 5e-5 (sigma / 0.0066)^2: a model of other levels takes the same steps.
LANGEVIN_STEP = 5e-5 / 0.0066**2


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


class StepEmbedding(nn.Module):
    """Sines and cosines of a number (n,) to (n, n_channels), with frequencies that every backend shares.

    At step 999 the last bit of a frequency, on which exponentials differ, is 6e-5 of a radian.
    """

    def __init__(self, n_channels: int, cosines_first: bool, shift: float):
        super().__init__()
        self.cosines_first, self.odd = cosines_first, n_channels % 2
        half = n_channels // 2
        # A network that is built without storage for its weights has its frequencies all the same.
        exponents = torch.arange(half, dtype=torch.float64, device="cpu") / (half - shift)
        frequencies = torch.exp(-math.log(10_000) * exponents).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Embed in single precision whatever the network's: so it was trained."""
        angles = t[:, None].float() * self.get_buffer("frequencies").float()
        parts = [torch.sin(angles), torch.cos(angles)]
        embedded = torch.cat(parts[::-1] if self.cosines_first else parts, dim=-1)
        return F.pad(embedded, (0, 1)) if self.odd else embedded


class DenoisedScore(nn.Module):
    """The score (D(x, sigma) - x) / sigma^2 of a denoiser (Efron 2011, doi 10.1198/jasa.2011.tm11181)."""

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score of ``x`` at the noise levels ``sigma``."""
        denoised: Tensor = self.denoiser(x, sigma)
        return (denoised - x) / sigma[:, None, None, None].square()


class ScaledScore(nn.Module):
    """The score of images of unit scale, by a network that knows them ``scale`` times as bright.

    With p'(scale x) the density that it was trained on, the score of p is scale s'(scale x, scale sigma).
    """

    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score of ``x`` at the noise levels ``sigma``."""
        score: Tensor = self.network(self.scale * x, self.scale * sigma)
        return self.scale * score


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return attention's output, all (n, heads, channels of a head, pixels), and the softmax over keys."""
    weights = (queries.mT @ keys / math.sqrt(queries.shape[2])).softmax(dim=-1)
    return values @ weights.mT


def in_runtime_units(loaded: LoadedNetwork, image_scale: float) -> LoadedNetwork:
    """Return a network that takes images whose 99th percentile is 1, where training's was ``image_scale``.

    Its noise levels are in those units too.

    Raises:
        InputError: the scale is no positive number.
    """
    if not 1 / MAX_SCALE <= image_scale <= MAX_SCALE:
        raise InputError(f"image scale is {image_scale:g}: expected a number above 0, such as 1 or 0.5")
    if image_scale == 1:
        return loaded
    config, levels = loaded.config, loaded.levels
    begin, end = levels.sigma_begin / image_scale, levels.sigma_end / image_scale
    return replace(
        loaded,
        network=ScaledScore(loaded.network, image_scale).eval(),
        # The step of Langevin dynamics is given at the smallest level, and grows with sigma^2.
        config=replace(config, sigma_begin=begin, sigma_end=end, step_lr=config.step_lr / image_scale**2),
        levels=replace(
            levels,
            sigma_begin=begin,
            sigma_end=end,
            vp_sigmas=tuple(sigma / image_scale for sigma in levels.vp_sigmas),
        ),
        image_scale=image_scale,
    )


def betas_of(schedule: str, start: float, end: float, n_steps: int) -> Sigmas:
    """Return the variances that the steps of a schedule, by diffusers' names, add, first step first."""
    if schedule == "linear":
        return np.linspace(start, end, n_steps)
    if schedule == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, n_steps) ** 2
    # Nichol and Dhariwal 2021 (arXiv:2102.09672), equation 17, with their cap.
    kept: Sigmas = np.cos((np.linspace(0, 1, n_steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], 0.999)

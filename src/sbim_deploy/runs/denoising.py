"""Whether a network is a prior for images at all: how much noise it removes from slices that it can be shown.

The score of a trained network denoises: x + sigma^2 score(x, sigma) is the mean of the images that may lie
under x (Efron 2011, doi 10.1198/jasa.2011.tm11181, equation 1.3). Random weights remove nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sbim_deploy.models.folder import NoiseLevels
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.recon.channels import to_channels
from sbim_deploy.records import FloatArray
from sbim_deploy.runs.simulate import brain_slice

SIGMAS = (0.03, 0.1, 0.3)  # of an image whose brightest parts are 1
SLICES = (2, 5, 8)
SIZE = 64
# The scales that are tried, and where; what leaves so many times the noise of another scale is wrong.
SCALE_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 2.0, 4.0, 8.0, 16.0)
SCALE_SIGMAS = (0.1, 0.3)
CLEARLY = 1.2
USELESS = 0.95

Score = Callable[[FloatArray, FloatArray], FloatArray]
"""The network: x (n, channels, rows, columns) and sigma (n,) to the score, of x's shape."""


def measure_noise_left(
    score: Score, channels: int, size_multiple: int, levels: NoiseLevels
) -> dict[str, float]:
    """Return the share of the noise that a network leaves in synthetic brain slices, by level.

    The share is |x + sigma^2 score - image| / |noise| over three slices; the levels are three that lie within
    the network's own.
    """
    images = _images(channels, size_multiple)
    sigmas = (min(max(each, levels.sigma_end), levels.sigma_begin) for each in SIGMAS)
    return {f"sigma {sigma:g}": _noise_left(score, images, sigma) for sigma in sigmas}


def find_better_scale(score: Score, channels: int, size_multiple: int, levels: NoiseLevels) -> float | None:
    """Return the factor by which images should be brighter for a network to remove clearly more of the noise.

    Images and noise are both scaled, so that the task is the same. Most networks denoise images of half their
    scale as well as their own: only what leaves ``CLEARLY`` more than the best is said. None where no factor
    is better, or where a network removes nothing at any.
    """
    images = _images(channels, size_multiple)

    def left(factor: float) -> list[float]:
        scaled = images * np.float32(factor)
        return [_noise_left(score, scaled, factor * sigma) for sigma in SCALE_SIGMAS]

    own = left(1.0)
    best, best_loss = None, 1 / CLEARLY
    for factor in SCALE_FACTORS:
        within = [levels.sigma_end <= factor * sigma <= levels.sigma_begin for sigma in SCALE_SIGMAS]
        if not all(within):
            continue
        shares = left(factor)
        if not all(share < USELESS for share in shares):
            continue
        loss = float(np.exp(np.mean(np.log(shares) - np.log(own))))
        if loss < best_loss:
            best, best_loss = factor, loss
    return best


def _noise_left(score: Score, images: FloatArray, sigma: float) -> float:
    noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32) * np.float32(sigma)
    x = images + noise
    denoised = x + np.float32(sigma**2) * score(x, np.full(len(x), sigma, np.float32))
    return float(np.linalg.norm(denoised - images) / np.linalg.norm(noise))


def _images(channels: int, size_multiple: int) -> FloatArray:
    size = -(-SIZE // size_multiple) * size_multiple
    return np.stack([_image(index, size, channels) for index in SLICES])


def _image(index: int, size: int, channels: int) -> FloatArray:
    magnitude = brain_slice(index, size) / np.percentile(brain_slice(index, size), 99)
    image = to_channels(magnitude * smooth_phase((size, size), np.random.default_rng(index)))
    # A network of another number of channels sees the two of them over and over.
    return np.resize(image, (channels, size, size))

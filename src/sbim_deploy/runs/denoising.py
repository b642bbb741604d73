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

Score = Callable[[FloatArray, FloatArray], FloatArray]
"""The network: x (n, channels, rows, columns) and sigma (n,) to the score, of x's shape."""


def measure_noise_left(
    score: Score, channels: int, size_multiple: int, levels: NoiseLevels
) -> dict[str, float]:
    """Return the share of the noise that a network leaves in synthetic brain slices, by level.

    The share is |x + sigma^2 score - image| / |noise| over three slices; the levels are three that lie within
    the network's own.
    """
    size = -(-SIZE // size_multiple) * size_multiple
    images = np.stack([_image(index, size, channels) for index in SLICES])
    left = {}
    for sigma in (min(max(each, levels.sigma_end), levels.sigma_begin) for each in SIGMAS):
        noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32) * np.float32(sigma)
        x = images + noise
        denoised = x + np.float32(sigma**2) * score(x, np.full(len(x), sigma, np.float32))
        left[f"sigma {sigma:g}"] = float(np.linalg.norm(denoised - images) / np.linalg.norm(noise))
    return left


def _image(index: int, size: int, channels: int) -> FloatArray:
    magnitude = brain_slice(index, size) / np.percentile(brain_slice(index, size), 99)
    image = to_channels(magnitude * smooth_phase((size, size), np.random.default_rng(index)))
    # A network of another number of channels sees the two of them over and over.
    return np.resize(image, (channels, size, size))

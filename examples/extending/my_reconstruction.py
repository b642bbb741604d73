"""A sampler and a method of one's own, which every command of sbim-deploy knows once this is installed."""

import importlib.metadata
from itertools import pairwise

import numpy as np

from sbim_deploy import GuidedStep, Peer, Plan, Prior, Sampler, register_method, register_sampler


def levels(prior: Prior, steps: int, published: bool) -> np.ndarray:
    """Return the noise levels, largest first: here their cube roots fall evenly."""
    largest, smallest = prior.sigma_begin ** (1 / 3), prior.sigma_end ** (1 / 3)
    return np.linspace(largest, smallest, steps) ** 3


def euler(sigmas, weight, _stochastic):
    """Return the plan of a sampler without noise: Euler's steps in sigma, then one of denoising.

    A row is x <- x + step_size (s - data_weight ...): docs/samplers.md has the whole rule.
    """
    rows = [
        GuidedStep(float(high), float(high * (high - low)), noise_scale=0.0, data_weight=weight)
        for high, low in pairwise(sigmas)
    ]
    last = float(sigmas[-1])
    rows.append(GuidedStep(last, last**2, noise_scale=0.0, data_weight=0.0))
    return Plan("cube-root", start_image=0.0, start_noise=float(sigmas[0]), steps=tuple(rows))


register_sampler("cube-root", Sampler(levels, euler, steps=64))


def smoothed(problem, _weight, _threads):
    """Return the zero-filled image, smoothed along both axes by a binomial filter."""
    image = problem.mvue
    for axis in (0, 1):
        image = (np.roll(image, 1, axis) + 2 * image + np.roll(image, -1, axis)) / 4
    return image.astype(np.complex64)


register_method(
    "smoothed",
    Peer(
        label="the measured data alone, smoothed",
        solve=smoothed,
        weights=(),  # nothing to tune
        version=lambda: importlib.metadata.version("my-reconstruction"),
        install="pip install examples/extending",
    ),
)

"""Denoising score matching: teaching a network the score of noisy images.

Vincent 2011, "A Connection Between Score Matching and Denoising Autoencoders"; Song and Ermon 2019,
"Generative Modeling by Estimating Gradients of the Data Distribution", with lambda(sigma) = sigma^2
(Dimos 2022, p. 16-20).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sbim_deploy.training.batches import draw_noise

Score = Callable[[Tensor, Tensor], Tensor]


def dsm_loss(score: Score, images: Tensor, sigmas: Tensor, noise: Tensor) -> Tensor:
    """Return each image's 0.5 |sigma s(x + sigma z, sigma) + z|^2, divided by its number of elements.

    Args:
        score: a network, (n, channels, H, W) and (n,) to (n, channels, H, W).
        images: x, (n, channels, H, W).
        sigmas: (n,).
        noise: z, standard Gaussian, like ``images``.

    Returns:
        The losses (n,); a score of 0 has 0.5 on average.
    """
    scale = sigmas[:, None, None, None]
    residual = scale * score(images + scale * noise, sigmas) + noise
    return 0.5 * residual.square().mean(dim=(1, 2, 3))


@torch.no_grad()
def held_out_loss(
    score: Score, images: Tensor, sigmas: Sequence[float], seed: int, batch: int = 16
) -> list[float]:
    """Return the mean loss over ``images`` (n, channels, H, W) at each of ``sigmas``.

    All of the levels see the same noise, a function of ``seed``, drawn on the CPU for every device.
    """
    noise = draw_noise(images.shape, torch.device("cpu"), seed, 0).to(images.device)
    means = []
    for sigma in sigmas:
        total = 0.0
        for x, z in zip(torch.split(images, batch), torch.split(noise, batch), strict=True):
            total += dsm_loss(score, x, torch.full((len(x),), sigma, device=x.device), z).sum().item()
        means.append(total / len(images))
    return means

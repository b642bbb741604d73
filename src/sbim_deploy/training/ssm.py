"""Sliced score matching, which needs no score of the noise, but the network's second derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from sbim_deploy.training.dsm import Score


def ssm_loss(score: Score, images: Tensor, sigmas: Tensor, noise: Tensor, directions: Tensor) -> Tensor:
    """Return each image's sigma^2 (0.5 |s|^2 + v' J v), divided by its number of elements, plus 0.5.

    s is the score of x + sigma z and J its Jacobian there: the objective with reduced variance (SSM-VR) of
    Song et al. 2019 (arXiv:1905.07088), for the image with noise, with lambda(sigma) = sigma^2. With the 0.5
    its mean is that of :func:`sbim_deploy.training.dsm.dsm_loss`, whatever the score.

    Args:
        score: a network, (n, channels, H, W) and (n,) to (n, channels, H, W); twice differentiable.
        images: x, (n, channels, H, W).
        sigmas: (n,).
        noise: z, standard Gaussian, like ``images``.
        directions: v, of uncorrelated elements with mean 0 and variance 1, like ``images``.

    Returns:
        The losses (n,).
    """
    scale = sigmas[:, None, None, None]
    x = (images + scale * noise).requires_grad_()
    s = score(x, sigmas)
    (change,) = torch.autograd.grad(s, x, directions, create_graph=True)
    return 0.5 + (scale.square() * (0.5 * s.square() + directions * change)).mean(dim=(1, 2, 3))

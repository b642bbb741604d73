"""PyTorch's own outputs, for the model folder."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from sbim_deploy.recon.channels import from_channels, to_channels
from sbim_deploy.recon.metrics import ssim
from sbim_deploy.recon.parity import WHOLE_CHOICE, noisy_phantom, whole_image
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.choice import Prior, make_plan

REFERENCE_GRID = (64, 48)


def three_levels(sigma_begin: float, sigma_end: float) -> list[float]:
    """Return the largest level, the geometric middle and the smallest."""
    return [sigma_begin, float(np.sqrt(sigma_begin * sigma_end)), sigma_end]


def scores_of(
    network: nn.Module,
    sigmas: list[float],
    channels: int,
    grid: tuple[int, int] = REFERENCE_GRID,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return noisy phantoms x, their sigma, and PyTorch's scores of them, computed in double precision."""
    images = [to_channels(noisy_phantom(grid, sigma, seed + i)) for i, sigma in enumerate(sigmas)]
    # A network of another number of channels sees the two of them over and over.
    x = np.stack([np.resize(image, (channels, *grid)) for image in images])
    sigma = np.array(sigmas, dtype=np.float32)
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()
        score = exact(torch.from_numpy(x).double(), torch.from_numpy(sigma).double()).numpy()
    return x, sigma, score.astype(np.float32)


def image_of(network: nn.Module, prior: Prior, size_multiple: int) -> ComplexArray:
    """Return a whole reconstruction by ``dds``, with PyTorch's scores in FP32."""

    def score(x: ComplexArray, sigma: float) -> ComplexArray:
        with torch.inference_mode():
            levels = torch.full((len(x),), sigma)
            return from_channels(network(torch.from_numpy(to_channels(x)), levels).numpy())

    return whole_image(make_plan(WHOLE_CHOICE, prior), score, size_multiple)


def score_cost(network: nn.Module, x: FloatArray, sigma: FloatArray, score: FloatArray) -> dict[str, float]:
    """Return the relative L2 error of a network, in its own precision, from the exact ``score``, by level.

    Computed by PyTorch, since ONNX Runtime computes half precision in FP32 on a CPU.
    """
    with torch.inference_mode():
        got = network(torch.from_numpy(x), torch.from_numpy(sigma)).numpy()
    return {
        f"score at sigma {level:g}": float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for level, a, b in zip(sigma, got, score, strict=True)
    }


def image_cost(network: nn.Module, image: ComplexArray, prior: Prior, size_multiple: int) -> dict[str, float]:
    """Return the NRMSE and the SSIM of a network's whole reconstruction against the one in FP32."""
    got = image_of(network, prior, size_multiple)
    return {
        "image NRMSE": float(np.linalg.norm(got - image) / np.linalg.norm(image)),
        "image SSIM": ssim(np.abs(got), np.abs(image)),
    }

"""What a step trains on: augmented slices, noise levels and noise, all of them functions of (seed, step)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The image is decided below this level (its 99th percentile is 1), so most of the draws go there.
DETAIL_SIGMA = 3.0
DETAIL_SHARE = 0.8


def to_channels(images: Tensor) -> Tensor:
    """Turn complex images (n, H, W) into their real and imaginary channels (n, 2, H, W)."""
    return torch.view_as_real(images).permute(0, 3, 1, 2).contiguous()


def draw_sigmas(
    rng: np.random.Generator, n: int, sigma_begin: float, sigma_end: float
) -> NDArray[np.float32]:
    """Draw noise levels (n,), log-uniform below and above a level of 3, most of them below.

    A range that lies on one side of it is log-uniform.
    """
    low, high = np.full(n, sigma_end), np.full(n, sigma_begin)
    if sigma_end < DETAIL_SIGMA < sigma_begin:
        detail = rng.random(n) < DETAIL_SHARE
        high[detail] = DETAIL_SIGMA
        low[~detail] = DETAIL_SIGMA
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high))), np.float32)


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn, mirror, shift and rephase complex images (n, size, size), each at random.

    Turns are by quarters, shifts by up to an eighth of the size, cyclic as in k-space; the phase is a
    uniform offset, a ramp of up to half a turn along each axis, and a conjugation.
    """
    size = images.shape[-1]
    positions = torch.linspace(-1, 1, size, device=images.device)
    augmented = []
    for image in images:
        turned = torch.rot90(image, int(rng.integers(4)))
        mirrored = turned.flip(0) if rng.random() < 0.5 else turned
        rows, columns = rng.integers(-(size // 8), size // 8 + 1, 2).tolist()
        shifted = mirrored.roll((rows, columns), (0, 1))
        conjugated = shifted.conj() if rng.random() < 0.5 else shifted
        offset, down, across = (np.pi * rng.uniform((-1, -0.5, -0.5), (1, 0.5, 0.5))).tolist()
        phase = offset + down * positions[:, None] + across * positions[None, :]
        augmented.append(conjugated * torch.polar(torch.ones_like(phase), phase))
    return torch.stack(augmented)


def draw_noise(shape: torch.Size, device: torch.device, seed: int, step: int) -> Tensor:
    """Draw standard Gaussian noise of ``shape`` on ``device``."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    generator = torch.Generator(device).manual_seed(int(state[0]))
    return torch.randn(shape, generator=generator, device=device)


def training_batch(
    pool: Tensor, batch: int, sigma_range: tuple[float, float], seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a step's images (batch, 2, size, size), noise levels (batch,) and noise like the images.

    ``pool`` holds complex images (n, size, size); ``sigma_range`` is (begin, end).
    """
    rng = np.random.default_rng([seed, step])
    chosen = torch.from_numpy(rng.integers(len(pool), size=batch)).to(pool.device)
    images = to_channels(augment(pool[chosen], rng))
    sigmas = torch.from_numpy(draw_sigmas(rng, batch, *sigma_range)).to(pool.device)
    return images, sigmas, draw_noise(images.shape, pool.device, seed, step)

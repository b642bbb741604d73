"""Denoising score matching and its batches. Slices, levels and noise are functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbim_deploy.samplers.schedules import Sigmas

# Below this level the details of the image are decided (its 99th percentile is 1): most draws go there.
DETAIL_SIGMA = 3.0
DETAIL_SHARE = 0.8

Score = Callable[[Tensor, Tensor], Tensor]
# From a generator and a number n to noise levels (n,).
LevelDraw = Callable[[np.random.Generator, int], NDArray[np.float32]]


def to_channels(images: Tensor) -> Tensor:
    """Turn complex images (n, H, W) into their real and imaginary channels (n, 2, H, W)."""
    return torch.view_as_real(images).permute(0, 3, 1, 2).contiguous()


def detail_draw(sigma_begin: float, sigma_end: float) -> LevelDraw:
    """Return a draw of levels, log-uniform below and above a level of 3, most of them below.

    A range that lies on one side of that level is log-uniform.
    """

    def draw(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        low, high = np.full(n, sigma_end), np.full(n, sigma_begin)
        if sigma_end < DETAIL_SIGMA < sigma_begin:
            detail = rng.random(n) < DETAIL_SHARE
            high[detail] = DETAIL_SIGMA
            low[~detail] = DETAIL_SIGMA
        return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high))), np.float32)

    return draw


def uniform_draw(sigmas: Sigmas) -> LevelDraw:
    """Return a draw of levels, each of ``sigmas`` (L,) as often as any other (Dimos 2022, p. 20 and 37)."""
    levels = sigmas.astype(np.float32)

    def draw(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        return levels[rng.integers(levels.size, size=n)]

    return draw


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn, mirror, shift and rephase complex images (n, size, size), each at random.

    Turns are by quarters, shifts by up to an eighth of the size, cyclic as in k-space; the phase is a
    uniform offset, a ramp of up to half a turn along each axis, and a conjugation.
    """
    n, size = images.shape[:2]

    def draw(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(images.device)[:, None, None]

    # A swap of the axes and two mirrors make all turns and reflections of the square.
    swap, mirror_rows, mirror_columns, conjugate = (draw(rng.random(n) < 0.5) for _ in range(4))
    shift_rows, shift_columns = (draw(rng.integers(-(size // 8), size // 8 + 1, n)) for _ in range(2))
    rows = (torch.arange(size, device=images.device)[:, None] + shift_rows) % size
    columns = (torch.arange(size, device=images.device)[None, :] + shift_columns) % size
    rows = torch.where(mirror_rows, size - 1 - rows, rows)
    columns = torch.where(mirror_columns, size - 1 - columns, columns)
    source = torch.where(swap, columns * size + rows, rows * size + columns)
    moved = images.reshape(n, -1).gather(1, source.reshape(n, -1)).reshape(images.shape)

    positions = torch.linspace(-1, 1, size, device=images.device)
    bounds = np.pi * np.array([[1.0], [0.5], [0.5]])
    angles = rng.uniform(-bounds, bounds, (3, n)).astype(np.float32)
    offset, down, across = (draw(each) for each in angles)
    phase = offset + down * positions[:, None] + across * positions[None, :]
    return torch.where(conjugate, moved.conj(), moved) * torch.polar(torch.ones_like(phase), phase)


def draw_noise(shape: torch.Size, device: torch.device, *key: int) -> Tensor:
    """Draw standard Gaussian noise of ``shape`` on ``device``, a function of ``key``: a seed and a step."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    generator = torch.Generator(device).manual_seed(int(state[0]))
    return torch.randn(shape, generator=generator, device=device)


def training_batch(
    pools: Sequence[Tensor], batch: int, draw_sigmas: LevelDraw, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a step's images (n, 2, size, size), noise levels (n,) and noise like the images.

    Each of ``pools`` holds complex images (n, size, size) of one size, and one of them is drawn; ``batch`` is
    the number of images of the first one's size, others come with as many pixels.
    """
    rng = np.random.default_rng([seed, step])
    pool = pools[int(rng.integers(len(pools)))]
    batch = max(1, round(batch * (pools[0].shape[-1] / pool.shape[-1]) ** 2))
    chosen = torch.from_numpy(rng.integers(len(pool), size=batch)).to(pool.device)
    images = to_channels(augment(pool[chosen], rng))
    sigmas = torch.from_numpy(draw_sigmas(rng, batch)).to(pool.device)
    return images, sigmas, draw_noise(images.shape, pool.device, seed, step)


def dsm_loss(score: Score, images: Tensor, sigmas: Tensor, noise: Tensor) -> Tensor:
    """Return each image's 0.5 |sigma s(x + sigma z, sigma) + z|^2, divided by its number of elements.

    It is Dimos 2022, p. 20, with lambda(sigma) = sigma^2.

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

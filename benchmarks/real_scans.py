"""Scans of real anatomy with a known truth, for the benchmarks: slices of heads, coils, masks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.ndimage

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.combine import normalise_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.runs.simulate import brain_slice

SYNTHETIC = "synthetic"
LABELS = "labels:"


def read_volume(path: Path) -> np.ndarray:
    """Return a volume (axial slices, rows, columns) of magnitudes with square pixels of the slices' plane."""
    if path.suffix == ".npz":
        with np.load(path) as stored:
            volume = np.asarray(stored["vol"], np.float32)
        return np.transpose(volume, (1, 0, 2))
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))
    volume = np.asarray(image.dataobj, np.float32)
    volume = np.squeeze(volume)
    # Canonical axes are right, anterior, superior: axial slices, the nose up.
    return np.ascontiguousarray(np.transpose(volume, (2, 1, 0))[:, ::-1])


def head_slice(source: str, fraction: float, size: int, volumes: dict[str, np.ndarray]) -> np.ndarray:
    """Return a magnitude (size, size), its 99th percentile 1, at a fraction of a volume's height."""
    if source == SYNTHETIC:
        magnitude = brain_slice(int(fraction * 1000), size)
    else:
        if source not in volumes:
            volumes[source] = read_volume(Path(source))
        volume = volumes[source]
        plane = volume[int(fraction * (len(volume) - 1))]
        side = int(max(plane.shape) * 1.08)
        square = np.zeros((side, side), np.float32)
        top, left = ((side - n) // 2 for n in plane.shape)
        square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
        square = scipy.ndimage.gaussian_filter(square, 0.4 * max(side / size - 1, 0))
        zoomed = scipy.ndimage.zoom(square, size / side, order=1, grid_mode=True, mode="nearest")
        magnitude = np.clip(zoomed, 0, None)
        magnitude = magnitude[:size, :size]
    return (magnitude / np.percentile(magnitude, 99)).astype(np.float32)


def head_images(
    heads: list[str], fractions: list[float], size: int
) -> Iterator[tuple[str, np.ndarray, np.random.Generator]]:
    """Yield the name, the complex image (size, size) and the random numbers of each slice.

    A head is a volume, or `labels:PATH`, a label map with FreeSurfer's values, whose slices and contrasts are
    drawn.
    """
    volumes: dict[str, np.ndarray] = {}
    for number, head in enumerate(heads):
        for fraction in fractions:
            rng = np.random.default_rng([number, int(1000 * fraction), size])
            if head.startswith(LABELS):
                # Only label maps need the extra train.
                from sbim_deploy.training.brains import Anatomies
                from sbim_deploy.training.brains import head_slice as label_slice

                path = Path(head.removeprefix(LABELS))
                image = label_slice(Anatomies((path,)), rng, size)
                yield path.name, image, rng
            else:
                magnitude = head_slice(head, fraction, size, volumes)
                yield Path(head).name, magnitude * smooth_phase(magnitude.shape, rng), rng


def loop_maps(n_coils: int, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return the maps of surface coils of unlike size and place, rougher than a birdcage's."""
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    maps = np.empty((n_coils, *shape), np.complex64)
    for i in range(n_coils):
        angle = 2 * np.pi * (i + rng.uniform(-0.3, 0.3)) / n_coils
        distance, radius = rng.uniform(1.0, 1.4), rng.uniform(0.35, 0.7)
        dy, dx = y[:, None] - distance * math.sin(angle), x[None, :] - distance * math.cos(angle)
        magnitude = radius**2 / (dy**2 + dx**2 + radius**2) ** 1.5
        phase = rng.uniform(0, 2 * np.pi) + rng.uniform(-2, 2) * y[:, None] + rng.uniform(-2, 2) * x[None, :]
        maps[i] = magnitude * np.exp(1j * (phase + np.arctan2(dy, dx)))
    return normalise_maps(maps)


def coil_maps(family: str, n_coils: int, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return simulated maps of a family, birdcage or loops."""
    return birdcage_maps(n_coils, shape) if family == "birdcage" else loop_maps(n_coils, shape, rng)


def full_kspace(
    magnitude: np.ndarray, maps: np.ndarray, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Return fully sampled k-space, complex64 (coil, rows, columns), of a magnitude with a smooth phase."""
    image = magnitude * smooth_phase(magnitude.shape, rng)
    return with_noise(centred_fft((maps * image).astype(np.complex64)), noise, rng)


def with_noise(kspace: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return k-space with white noise of this standard deviation in each part."""
    parts = rng.standard_normal((*kspace.shape, 2), dtype=np.float32)
    return kspace + np.float32(noise) * parts.view(np.complex64)[..., 0]


def random_mask(
    kind: str, shape: tuple[int, int], acceleration: float, calib: int, rng: np.random.Generator
) -> np.ndarray:
    """Return a mask (1, columns), or (rows, columns) for the kind two directions, with a full centre."""
    columns = shape[1]
    if kind == "two directions":
        keep = rng.random(shape) < 1 / acceleration
        centre = tuple(slice(n // 2 - calib // 2, n // 2 + calib // 2) for n in shape)
        keep[centre] = True
        return keep
    pattern = "random" if kind == "random" else "equispaced"
    mask = line_mask(columns, acceleration, pattern, calib, seed=int(rng.integers(1 << 30)))[None, :]
    if kind == "partial Fourier":
        mask[:, : columns // 4] = False
    return mask

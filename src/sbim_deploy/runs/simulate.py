"""Simulated scans with a known truth: synthetic slices, simulated coils, a mask and noise."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.io.overwriting import HDF5, check_name
from sbim_deploy.kspace.fastmri import KspaceSlice, write_kspace
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import CENTRED, MASK_CONVENTIONS, PATTERNS, effective_acceleration, line_mask
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray

PHANTOMS = ("brain", "shepp-logan")
FIELD_OF_VIEW_MM = 220.0
SLICE_THICKNESS_MM = 5.0
MIN_SIZE, MAX_SIZE = 16, 1024


@dataclass(frozen=True)
class SimulateSettings:
    """A scan to simulate.

    ``noise`` is the standard deviation of each of the real and imaginary parts of k-space, where the 99th
    percentile of the image's magnitude is 1.
    """

    n_slices: int = 4
    n_coils: int = 8
    size: int = 128
    acceleration: float = 4.0
    pattern: str = "equispaced"
    noise: float = 0.01
    seed: int = 0
    phantom: str = "brain"
    mask_convention: str = CENTRED

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges = {
            "slices": (self.n_slices, 1, 100_000),
            "coils": (self.n_coils, 1, 256),
            "size": (self.size, MIN_SIZE, MAX_SIZE),
            "acceleration": (self.acceleration, 1, self.size),
            "noise": (self.noise, 0, 1e6),
            "seed": (self.seed, 0, 2**63),
        }
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise InputError(f"{name} is {value:g}: expected {low:g} to {high:g}")
        names = {
            "pattern": (self.pattern, PATTERNS),
            "phantom": (self.phantom, PHANTOMS),
            "mask convention": (self.mask_convention, MASK_CONVENTIONS),
        }
        for name, (choice, known) in names.items():
            if choice not in known:
                raise InputError(f"unknown {name} {choice!r}: expected one of {', '.join(known)}")


def simulate_file(
    path: Path,
    settings: SimulateSettings,
    on_slice: Callable[[int], None] | None = None,
    force: bool = False,
) -> float:
    """Write a fastMRI file with its truth and return the effective acceleration.

    With ``force`` what is there is replaced, a scan only where it was simulated too.

    Raises:
        InputError: the file cannot be written, or may not be replaced.
    """
    check_name(path, HDF5)
    mask = line_mask(
        settings.size,
        settings.acceleration,
        settings.pattern,
        seed=settings.seed,
        convention=settings.mask_convention,
    )
    voxel = FIELD_OF_VIEW_MM / settings.size
    provenance = {"software": {"sbim-deploy": __version__}, "simulate": asdict(settings)}
    size_mm = (voxel, voxel, SLICE_THICKNESS_MM)
    write_kspace(path, _slices(settings, mask, on_slice), mask, size_mm, provenance, force)
    return effective_acceleration(mask)


def simulate_slice(settings: SimulateSettings, mask: BoolArray, index: int) -> KspaceSlice:
    """Return one slice of a simulated scan: the same whatever the other slices are."""
    shape = (settings.size, settings.size)
    magnitude = shepp_logan(shape) if settings.phantom == "shepp-logan" else brain_slice(index, settings.size)
    return simulate_object(magnitude, settings, mask, index)


def simulate_object(
    magnitude: FloatArray, settings: SimulateSettings, mask: BoolArray, index: int
) -> KspaceSlice:
    """Return the scan of a magnitude (size, size); ``index`` and the seed decide its phase and its noise.

    It is scaled so that its 99th percentile is 1, or its maximum where so little of the image is not 0.
    """
    rng = np.random.default_rng([settings.seed, index])
    shape = (settings.size, settings.size)
    magnitude = (magnitude / (np.percentile(magnitude, 99) or magnitude.max())).astype(np.float32)
    reference: ComplexArray = magnitude * smooth_phase(shape, rng)
    maps = birdcage_maps(settings.n_coils, shape)
    kspace = centred_fft(maps * reference)
    noise = rng.standard_normal((*kspace.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    kspace += np.float32(settings.noise) * noise
    return KspaceSlice(kspace=kspace * mask, reference=reference, maps=maps)


def brain_slice(index: int, size: int) -> FloatArray:
    """Return the magnitude (size, size) of a synthetic slice; past the last they start again."""
    with np.load(io.BytesIO(_brain_slices_file()), allow_pickle=False) as stored:
        n_stored = len(stored["magnitude"])
        quantised = stored["magnitude"][index % n_stored]
        scale = stored["scale"][index % n_stored]
    image = Image.fromarray(quantised.astype(np.float32) * scale)
    resized = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.maximum(np.asarray(resized, dtype=np.float32), 0)


def n_brain_slices() -> int:
    """Return how many different brains there are."""
    with np.load(io.BytesIO(_brain_slices_file()), allow_pickle=False) as stored:
        return len(stored["scale"])


def _slices(
    settings: SimulateSettings, mask: BoolArray, on_slice: Callable[[int], None] | None
) -> Iterator[KspaceSlice]:
    for index in range(settings.n_slices):
        yield simulate_slice(settings, mask, index)
        if on_slice is not None:
            on_slice(index + 1)


def _brain_slices_file() -> bytes:
    return files("sbim_deploy").joinpath("assets/brain_slices.npz").read_bytes()

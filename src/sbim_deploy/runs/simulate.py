"""Simulated scans with a known truth: synthetic slices, simulated coils, a mask and noise."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.io.overwriting import HDF5, check_name
from sbim_deploy.kspace.fastmri import KspaceSlice, write_kspace
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.map_choice import check_calibration_lines
from sbim_deploy.mri.masks import CENTRED, MASK_CONVENTIONS, PATTERNS, effective_acceleration, line_mask
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.mri.trajectories import OVERSAMPLING, TRAJECTORIES, full_readouts, make_trajectory
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray

PHANTOMS = ("brain", "shepp-logan")
FIELD_OF_VIEW_MM = 220.0
SLICE_THICKNESS_MM = 5.0
MIN_SIZE, MAX_SIZE = 16, 1024


def check_ranges(ranges: Mapping[str, tuple[float, float, float]]) -> None:
    """Check values by their names, each with the least and the greatest that it may be.

    Raises:
        InputError: one is outside.
    """
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise InputError(f"{name} is {value:g}: expected {low:g} to {high:g}")


@dataclass(frozen=True)
class SimulateSettings:
    """A scan to simulate.

    ``noise`` is the standard deviation of each of the real and imaginary parts of k-space, where the 99th
    percentile of the image's magnitude is 1. With a ``trajectory`` the acceleration is how many times fewer
    readouts there are than leave no gap, and there is no pattern.
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
    trajectory: str | None = None

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
        check_ranges(ranges)
        names: dict[str, tuple[str, tuple[str, ...]]] = {
            "pattern": (self.pattern, PATTERNS),
            "phantom": (self.phantom, PHANTOMS),
            "mask convention": (self.mask_convention, MASK_CONVENTIONS),
            "trajectory": (self.trajectory or TRAJECTORIES[0], TRAJECTORIES),
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
    mask = sampled_lines(settings)
    voxel = FIELD_OF_VIEW_MM / settings.size
    write_kspace(
        path,
        _slices(settings, mask, on_slice),
        mask,
        (voxel, voxel, SLICE_THICKNESS_MM),
        simulated_provenance(asdict(settings)),
        force,
    )
    return effective_acceleration(mask)


def simulated_provenance(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a simulated file came about by the settings of its scan, in JSON's types."""
    return {"software": {"sbim-deploy": __version__}, "simulate": dict(settings)}


def simulate_slice(settings: SimulateSettings, mask: BoolArray, index: int) -> KspaceSlice:
    """Return one slice of a simulated scan: the same whatever the other slices are."""
    return simulate_object(object_magnitude(settings, index), settings, mask, index)


def simulate_object(
    magnitude: FloatArray, settings: SimulateSettings, mask: BoolArray, index: int
) -> KspaceSlice:
    """Return the scan of a magnitude (size, size); ``index`` and the seed decide its phase and its noise.

    It is scaled so that its 99th percentile is 1, or its maximum where so little of the image is not 0.
    """
    truth = simulate_truth(magnitude, settings, index)
    kspace = centred_fft(truth.maps * truth.reference)
    kspace += np.float32(settings.noise) * unit_noise(truth.rng, kspace.shape)
    return KspaceSlice(kspace=kspace * mask, reference=truth.reference, maps=truth.maps)


@dataclass(frozen=True, eq=False)
class Truth:
    """What a scan is of: image (rows, columns), maps (coils, rows, columns), and what draws its noise."""

    reference: ComplexArray
    maps: ComplexArray
    rng: np.random.Generator


def simulate_truth(magnitude: FloatArray, settings: SimulateSettings, index: int) -> Truth:
    """Return what the scan of a magnitude (size, size) is of; see :func:`simulate_object`."""
    rng = np.random.default_rng([settings.seed, index])
    shape = (settings.size, settings.size)
    magnitude = (magnitude / (np.percentile(magnitude, 99) or magnitude.max())).astype(np.float32)
    reference: ComplexArray = magnitude * smooth_phase(shape, rng)
    return Truth(reference, birdcage_maps(settings.n_coils, shape), rng)


def simulated_trajectory(settings: SimulateSettings) -> FloatArray:
    """Return where a scan's samples lie, (readout, sample, 2) in cycles per field of view."""
    assert settings.trajectory is not None
    n_readouts = math.ceil(full_readouts(settings.trajectory, settings.size) / settings.acceleration)
    return make_trajectory(settings.trajectory, settings.size, n_readouts)


def sample_along(truth: Truth, places: FloatArray, noise: float) -> ComplexArray:
    """Return the samples (coil, readout, sample) of a truth at the places of a trajectory.

    ``noise`` is that of k-space on a grid. Readouts that are twice oversampled have twice the bandwidth, and
    so twice its variance.
    """
    samples = to_samples(truth.maps * truth.reference, places)
    samples += noise * OVERSAMPLING**0.5 * unit_noise(truth.rng, samples.shape)
    return samples.astype(np.complex64)


def unit_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> ComplexArray:
    """Return complex noise whose real and imaginary parts have a standard deviation of 1."""
    noise: ComplexArray = rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    return noise


def object_magnitude(settings: SimulateSettings, index: int) -> FloatArray:
    """Return the magnitude (size, size) of what a slice shows, in any scale."""
    if settings.phantom == "shepp-logan":
        return shepp_logan((settings.size, settings.size))
    return brain_slice(index, settings.size)


def sampled_lines(settings: SimulateSettings) -> BoolArray:
    """Return which lines a scan acquires, (columns,)."""
    return line_mask(
        settings.size,
        settings.acceleration,
        settings.pattern,
        seed=settings.seed,
        convention=settings.mask_convention,
    )


def why_refused(settings: SimulateSettings) -> str | None:
    """Return why ``recon`` would refuse a scan without its maps, or None."""
    if settings.trajectory is not None:
        return None
    mask = sampled_lines(settings)
    try:
        if settings.n_coils > 1:
            check_calibration_lines(mask[None], (settings.size, settings.size))
    except ValueError as error:
        return str(error)
    return None


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

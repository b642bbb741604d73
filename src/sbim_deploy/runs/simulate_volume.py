"""Simulated 3-D scans with a known truth: a head, loops around it, a mask in both directions, noise."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import scipy.ndimage

from sbim_deploy.errors import InputError
from sbim_deploy.io.overwriting import HDF5, check_name
from sbim_deploy.kspace.fastmri import KspaceSlice, write_kspace
from sbim_deploy.mri.coils import loop_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import effective_acceleration
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.mri.plane_masks import PLANE_PATTERNS, POISSON, balanced_factors, plane_mask
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray
from sbim_deploy.runs.simulate import MIN_SIZE, check_ranges, simulated_provenance, unit_noise
from sbim_deploy.runs.volume import MARGIN, read_volume

FIELD_OF_VIEW_MM = 224.0
MAX_VOLUME_SIZE = 512
CALIB_WIDTH = 24
TAIL = 1e-3  # of the head's maximum: what its low-pass leaves beside it
BLUR = 0.4  # standard deviation of the low-pass before the grid is made coarser, in voxels that are lost


@dataclass(frozen=True)
class SimulateVolumeSettings:
    """A 3-D scan to simulate.

    The readout is along the bore and has ``size`` samples, as the lines have, which are along the width of
    the head; the ``n_partitions`` are along its depth. ``noise`` is the standard deviation of each part of
    k-space, where the 99th percentile of the image's magnitude is 1.
    """

    size: int = 96
    n_partitions: int = 96
    n_coils: int = 8
    acceleration: int = 4
    pattern: str = POISSON
    elliptic: bool = False
    noise: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges = {
            "size": (self.size, MIN_SIZE, MAX_VOLUME_SIZE),
            "partitions": (self.n_partitions, MIN_SIZE, MAX_VOLUME_SIZE),
            "coils": (self.n_coils, 1, 256),
            "acceleration": (self.acceleration, 1, self.size),
            "noise": (self.noise, 0, 1e6),
            "seed": (self.seed, 0, 2**63),
        }
        check_ranges(ranges)
        if self.pattern not in PLANE_PATTERNS:
            raise InputError(
                f"unknown pattern of a 3-D scan {self.pattern!r}: expected one of {', '.join(PLANE_PATTERNS)}"
            )
        if max(balanced_factors(self.acceleration)) > min(self.size, self.n_partitions):
            raise InputError(
                f"acceleration {self.acceleration} is {balanced_factors(self.acceleration)} of partitions, "
                f"lines, more than {self.n_partitions} and {self.size}; take one with more factors"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(readout, partitions, lines)."""
        return self.size, self.n_partitions, self.size


def simulate_volume(
    path: Path,
    settings: SimulateVolumeSettings,
    on_partition: Callable[[int], None] | None = None,
    force: bool = False,
    magnitude: FloatArray | None = None,
) -> float:
    """Write an HDF5 file of k-space (partition, coil, readout, line) with its truth and its maps.

    ``magnitude`` (readout, partitions, lines) is what the scan is of; None is the head that ships. Returns
    the effective acceleration. With ``force`` what is there is replaced, a scan only where it was
    simulated too.

    Raises:
        InputError: the file cannot be written, or may not be replaced.
    """
    check_name(path, HDF5)
    mask = sampled_plane(settings)
    voxels = [FIELD_OF_VIEW_MM / n for n in settings.shape]
    write_kspace(
        path,
        _partitions(settings, mask, magnitude, on_partition),
        mask[:, None, :],
        (voxels[0], voxels[2], voxels[1]),
        simulated_provenance({"dimensions": 3, **asdict(settings)}),
        force,
    )
    return effective_acceleration(mask)


def sampled_plane(settings: SimulateVolumeSettings) -> BoolArray:
    """Return which pairs of phase encodes a scan acquires, (partitions, lines)."""
    return plane_mask(
        (settings.n_partitions, settings.size),
        balanced_factors(settings.acceleration),
        settings.pattern,
        min(CALIB_WIDTH, settings.size // 4, settings.n_partitions // 4),
        settings.elliptic,
        settings.seed,
    )


def volume_truth(
    settings: SimulateVolumeSettings, magnitude: FloatArray | None = None
) -> tuple[ComplexArray, ComplexArray]:
    """Return image (readout, partitions, lines) and maps (coils, readout, partitions, lines) of a scan.

    ``magnitude`` is that of :func:`simulate_volume`.
    """
    return volume_image(settings, magnitude), loop_maps(settings.n_coils, settings.shape)


def volume_image(settings: SimulateVolumeSettings, magnitude: FloatArray | None = None) -> ComplexArray:
    """Return the image (readout, partitions, lines) of a scan; see :func:`volume_truth`."""
    return with_phase(head_magnitude(settings.shape) if magnitude is None else magnitude, settings.seed)


def with_phase(magnitude: FloatArray, seed: int) -> ComplexArray:
    """Return a volume's image: its magnitude, of which the 99th percentile becomes 1, with a smooth phase."""
    phase = smooth_phase(magnitude.shape, np.random.default_rng(seed))
    image: ComplexArray = (magnitude / np.percentile(magnitude, 99) * phase).astype(np.complex64)
    return image


def head_magnitude(shape: tuple[int, int, int]) -> FloatArray:
    """Return the magnitude of the head that ships, (superior, posterior, left), over its field of view."""
    stored = files("sbim_deploy").joinpath("assets/head_volume.npz").read_bytes()
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        volume = arrays["magnitude"].astype(np.float32)
    head = on_grid(volume, shape)
    head[head < TAIL * head.max()] = 0
    return head


def volume_magnitude(path: Path, shape: tuple[int, int, int]) -> FloatArray:
    """Return a NIfTI volume of magnitudes as (superior, posterior, left), what is negative as 0.

    The field of view is a cube, a little larger than the volume.

    Raises:
        BackendMissingError, InputError: see :func:`sbim_deploy.runs.volume.read_volume`; or nothing is in it.
    """
    volume, spacing = read_volume(path)
    if not (volume > 0).any():
        raise InputError(f"{path}: nothing is in the volume: choose another")
    cube = np.zeros([round(MARGIN * max(volume.shape * spacing) / each) for each in spacing], np.float32)
    start = [(large - small) // 2 for large, small in zip(cube.shape, volume.shape, strict=True)]
    cube[tuple(slice(at, at + n) for at, n in zip(start, volume.shape, strict=True))] = np.maximum(volume, 0)
    return on_grid(np.ascontiguousarray(cube.transpose(2, 1, 0)[:, ::-1, ::-1]), shape)


def on_grid(volume: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """Return a volume on another grid over the same field of view; the voxels n // 2 coincide."""
    steps = [old / new for old, new in zip(volume.shape, shape, strict=True)]
    volume = scipy.ndimage.gaussian_filter(volume, [BLUR * max(step - 1, 0) for step in steps])
    offset = [old // 2 - step * (new // 2) for old, new, step in zip(volume.shape, shape, steps, strict=True)]
    resampled: FloatArray = scipy.ndimage.affine_transform(volume, steps, offset, shape, order=1)
    return resampled


def _partitions(
    settings: SimulateVolumeSettings,
    mask: BoolArray,
    magnitude: FloatArray | None,
    on_partition: Callable[[int], None] | None,
) -> Iterator[KspaceSlice]:
    """Yield the partitions of k-space, each with the true image and the maps at its place in the image."""
    image, maps = volume_truth(settings, magnitude)
    kspace = np.stack([centred_fft(each * image, axes=(0, 1, 2)) for each in maps])
    for index in range(settings.n_partitions):
        rng = np.random.default_rng([settings.seed, index])
        part = kspace[:, :, index]
        part = part + np.float32(settings.noise) * unit_noise(rng, part.shape)
        yield KspaceSlice(
            kspace=part * mask[index],
            reference=np.ascontiguousarray(image[:, index]),
            maps=np.ascontiguousarray(maps[:, :, index]),
        )
        if on_partition is not None:
            on_partition(index + 1)

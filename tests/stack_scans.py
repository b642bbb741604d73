"""Stacks of stars of a known object: for tests of what reads and reconstructs them.

k-space is the Fourier sum written out as matrices: no transform of the package is used. Slices of the object
are (slice, row, column); samples are (partition, coil, readout, sample).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout
from sbim_deploy.mri.trajectories import GOLDEN, make_trajectory
from simulated_mrd import MrdScan, ScanSettings
from volume_scans import VolumeScan, make_volume, transformed, volume_header_xml

SHAPE = (9, 33, 27)
N_READOUTS = 24
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class StackScan:
    """An object, where its samples lie, and these before and after the transform along the slices.

    Attributes:
        volume: the object, (slice, row, column), and its coils.
        places: (readout, sample, 2) in cycles per field of view.
        slices, partitions: complex64 (slice or partition, coil, readout, sample).
    """

    volume: VolumeScan
    places: Any
    slices: Any
    partitions: Any


def make_stack(
    shape: tuple[int, int, int] = SHAPE, n_coils: int = 4, n_readouts: int = N_READOUTS, image: Any = None
) -> StackScan:
    """Make the samples of golden-angle spokes through each slice, without noise."""
    volume = make_volume(shape, n_coils, noise=0.0)
    if image is not None:
        volume = VolumeScan(image, volume.maps, volume.kspace)
    places = make_trajectory(GOLDEN, min(shape[1:]), n_readouts)
    slices = np.moveaxis(in_plane(volume.maps * volume.image, places), 0, 1)
    partitions = transformed(slices, (0,))
    return StackScan(volume, places, slices.astype(np.complex64), partitions.astype(np.complex64))


def in_plane(images: Any, places: Any) -> Any:
    """Return the samples (..., readout, sample) of images (..., row, column)."""
    rows, columns = (
        np.exp(-2j * np.pi * places[..., axis, None] * (np.arange(n) - n // 2) / n) / np.sqrt(n)
        for axis, n in enumerate(images.shape[-2:])
    )
    return np.einsum("abi,...ij,abj->...ab", rows, images, columns, optimize=True)


def stack_scan(
    scan: StackScan,
    partitions: Sequence[int] | None = None,
    directions: Any = AXIAL,
    position: tuple[float, float, float] = (0.0, 0.0, 0.0),
    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 2.0),
    recon: tuple[int, int, int] | None = None,
    n_noise: int = 0,
    third: Any = None,
    turn: float = 0.0,
    order: Any = None,
) -> MrdScan:
    """Return the readouts of a stack.

    Args:
        scan: the samples.
        partitions: those that are measured; None is all.
        directions, position: of all readouts.
        voxel_mm: of the encoded matrix, (row, column, slice).
        recon: the matrix (row, column, slice) of the image, of such voxels.
        n_noise: readouts of noise alone.
        third: the third component of the trajectory, by the partition's offset from the centre.
        turn: by how much the trajectory that is written turns from one partition to the next, in rad.
        order: the order of a partition's readouts in the file, by its number.
    """
    n_partitions, n_coils, n_readouts, n_samples = scan.partitions.shape
    shape = scan.volume.image.shape
    readouts: list[Readout] = []

    def header(flags: int = 0) -> Any:
        made = np.zeros((), ACQUISITION_HEADER)[()]
        made["version"], made["flags"] = 1, flags
        made["number_of_samples"], made["sample_time_us"] = n_samples, 5.0
        made["center_sample"] = n_samples // 2
        made["available_channels"] = made["active_channels"] = n_coils
        made["read_dir"], made["phase_dir"], made["slice_dir"] = np.asarray(directions)
        made["position"] = position
        made["scan_counter"] = len(readouts)
        return made

    rng = np.random.default_rng(1)
    for _ in range(n_noise):
        parts = 0.01 * rng.standard_normal((2, n_coils, n_samples))
        flags = 1 << (Flag.IS_NOISE_MEASUREMENT - 1)
        readouts.append(Readout(header(flags), (parts[0] + 1j * parts[1]).astype(np.complex64)))
    for partition in range(n_partitions) if partitions is None else partitions:
        cosine, sine = np.cos(turn * partition), np.sin(turn * partition)
        places = scan.places @ np.array([[cosine, sine], [-sine, cosine]]) / shape[1:]
        if third is not None:
            heights = np.full((*places.shape[:2], 1), third(partition - n_partitions // 2))
            places = np.concatenate([places, heights], axis=-1)
        for line in range(n_readouts) if order is None else order(partition):
            made = header()
            made["idx"]["kspace_encode_step_1"], made["idx"]["kspace_encode_step_2"] = line, partition
            made["trajectory_dimensions"] = places.shape[-1]
            samples = np.ascontiguousarray(scan.partitions[partition, :, line])
            readouts.append(Readout(made, samples, places[line].astype(np.float32)))
    sizes = (*shape[1:], n_partitions)
    xml = volume_header_xml(sizes, recon or sizes, voxel_mm, separate=False)
    xml = xml.replace("<trajectory>cartesian", "<trajectory>goldenangle")
    return MrdScan(ScanSettings(n_coils=n_coils), xml, readouts, scan.volume.image, scan.volume.maps, None)


def write_cfl_stack(folder: Path, scan: StackScan) -> tuple[Path, Path]:
    """Write samples with partitions at BART's axis 13, and the trajectory as ``bart traj`` has it."""
    samples = np.transpose(scan.partitions, (3, 2, 1, 0))
    places = np.zeros((3, *scan.places.shape[1::-1]))
    places[:2] = scan.places.transpose(2, 1, 0)
    n_samples, n_readouts, n_coils, n_partitions = samples.shape
    sizes = {
        "kspace": ((1, n_samples, n_readouts, n_coils, *[1] * 9, n_partitions), samples),
        "trajectory": (places.shape, places),
    }
    for name, (shape, array) in sizes.items():
        (folder / f"{name}.hdr").write_text(f"# Dimensions\n{' '.join(map(str, shape))}\n")
        array.astype("<c8").ravel(order="F").tofile(folder / f"{name}.cfl")
    return folder / "kspace.cfl", folder / "trajectory.cfl"

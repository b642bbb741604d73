"""3-D Cartesian scans of a known object: for tests of what reads and reconstructs them.

k-space is the Fourier sum written out as matrices: no transform of the package is used. Axes are (partition,
readout, line), as (slice, row, column) of a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout
from simulated_mrd import MrdScan, ScanSettings, write_mrd

SHAPE = (20, 32, 24)


@dataclass(frozen=True)
class VolumeScan:
    """An object, its coils and its k-space.

    Attributes:
        image: complex64 (partitions, readout, lines).
        maps, kspace: complex64 (coils, partitions, readout, lines), k-space in full.
    """

    image: Any
    maps: Any
    kspace: Any


def make_volume(
    shape: tuple[int, int, int] = SHAPE, n_coils: int = 4, noise: float = 0.002, seed: int = 0
) -> VolumeScan:
    """Make ellipsoids in an ellipsoid with a smooth phase, seen by loops around them."""
    z, y, x = np.meshgrid(*(2 * (np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    image = 1.0 * ((z / 0.8) ** 2 + (y / 0.75) ** 2 + (x / 0.8) ** 2 < 1)
    image -= 0.5 * (((z - 0.2) / 0.2) ** 2 + ((y + 0.1) / 0.3) ** 2 + ((x - 0.3) / 0.2) ** 2 < 1)
    image += 0.4 * (((z + 0.3) / 0.3) ** 2 + ((y - 0.2) / 0.2) ** 2 + ((x + 0.2) / 0.25) ** 2 < 1)
    image = image * np.exp(1j * (0.8 * z - 0.5 * y + x * z))
    angles = 2 * np.pi * np.arange(n_coils) / n_coils
    maps = []
    for place, angle in enumerate(angles):
        centre = 1.6 * np.cos(angle), 0.6 * (-1) ** place, 1.6 * np.sin(angle)
        squared = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        maps.append(np.exp(1j * (angle + 0.4 * y + 0.3 * x * np.cos(angle))) / (0.5 + squared))
    sensitivities = np.stack(maps)
    sensitivities /= np.sqrt((np.abs(sensitivities) ** 2).sum(axis=0))
    kspace = transformed(sensitivities * image, (1, 2, 3))
    rng = np.random.default_rng(seed)
    kspace += noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return VolumeScan(*(each.astype(np.complex64) for each in (image, sensitivities, kspace)))


def transformed(array: Any, axes: tuple[int, ...], sign: int = -1) -> Any:
    """Return the centred orthonormal Fourier sum along axes; ``sign`` 1 is the inverse."""
    for axis in axes:
        n = array.shape[axis]
        places = np.arange(n) - n // 2
        matrix = np.exp(sign * 2j * np.pi * np.outer(places, places) / n) / np.sqrt(n)
        array = np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)
    return array


def hybrid(scan: VolumeScan) -> Any:
    """Return k-space transformed along the readout, (readout, coils, partitions, lines): its slices."""
    return np.moveaxis(transformed(scan.kspace, (2,), 1), 2, 0)


def plane_mask(shape: tuple[int, int, int] = SHAPE, block: int = 8, shifted: bool = True) -> Any:
    """Return a mask (partitions, lines) of R = 2 x 2, shifted by CAIPIRINHA, with a block in the middle."""
    z, _, x = shape
    mask = np.zeros((z, x), np.bool_)
    for row in range(0, z, 2):
        mask[row, (row // 2) % 2 if shifted else 0 :: 2] = True
    mask[z // 2 - block // 2 : z // 2 + block // 2, x // 2 - block // 2 : x // 2 + block // 2] = True
    return mask


def write_cfl_volume(path: Path, array: Any) -> Path:
    """Write (coils, partitions, readout, lines) as BART's READ, PHS1, PHS2, COIL."""
    moved = np.transpose(array, (2, 3, 1, 0))
    sizes = " ".join(map(str, moved.shape))
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{sizes}\n")
    moved.astype("<c8").ravel(order="F").tofile(path)
    return path


def write_h5_volume(path: Path, array: Any, coils_first: bool = True, **beside: Any) -> Path:
    """Write (coils, partitions, readout, lines) as ``kspace``, as it is or with fastMRI's order of axes."""
    with h5py.File(path, "w") as file:
        file["kspace"] = array if coils_first else array.swapaxes(0, 1)
        for name, values in beside.items():
            file[name] = values
    return path


def write_mrd_volume(
    path: Path,
    scan: VolumeScan,
    mask: Any,
    calibration: Any = None,
    n_noise: int = 0,
    directions: Any = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    position: tuple[float, float, float] = (0.0, 0.0, 0.0),
    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 2.0),
    noise: float = 0.002,
    recon: tuple[int, int, int] | None = None,
) -> Path:
    """Write the readouts of a mask (partitions, lines), after those of a calibration scan's mask.

    ``voxel_mm`` is along (readout, line, partition), and so is ``recon``, the matrix of the image where it is
    less than what was encoded.
    """
    readouts = []
    n_coils, n_partitions, n_samples, n_lines = scan.kspace.shape
    rng = np.random.default_rng(1)

    def header(flags: int) -> Any:
        made = np.zeros((), ACQUISITION_HEADER)[()]
        made["version"], made["flags"] = 1, flags
        made["number_of_samples"], made["sample_time_us"] = n_samples, 5.0
        made["center_sample"] = n_samples // 2
        made["available_channels"] = made["active_channels"] = n_coils
        made["read_dir"], made["phase_dir"], made["slice_dir"] = np.asarray(directions)
        made["position"] = position
        made["scan_counter"] = len(readouts)
        return made

    for _ in range(n_noise):
        parts = noise * (rng.standard_normal((2, n_coils, n_samples)))
        flags = 1 << (Flag.IS_NOISE_MEASUREMENT - 1)
        readouts.append(Readout(header(flags), (parts[0] + 1j * parts[1]).astype(np.complex64)))
    scans = [(mask, 0)]
    if calibration is not None:
        scans.insert(0, (calibration, 1 << (Flag.IS_PARALLEL_CALIBRATION - 1)))
    for sampled, flags in scans:
        for line, partition in np.argwhere(sampled.T):
            made = header(flags)
            made["idx"]["kspace_encode_step_1"], made["idx"]["kspace_encode_step_2"] = line, partition
            samples = np.ascontiguousarray(scan.kspace[:, partition, :, line])
            readouts.append(Readout(made, samples))
    sizes = (n_samples, n_lines, n_partitions)
    xml = volume_header_xml(sizes, recon or sizes, voxel_mm, calibration is not None)
    settings = ScanSettings(n_coils=n_coils)
    return write_mrd(path, MrdScan(settings, xml, readouts, scan.image, scan.maps, mask))


def volume_header_xml(
    sizes: tuple[int, int, int],
    recon: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    separate: bool,
) -> str:
    """Return the header of a scan of (readout, line, partition) sizes and of an image of ``recon`` voxels."""

    def space(matrix: tuple[int, int, int]) -> str:
        extents = [size * voxel for size, voxel in zip(matrix, voxel_mm, strict=True)]
        parts = [
            "".join(f"<{axis}>{value}</{axis}>" for axis, value in zip("xyz", values, strict=True))
            for values in (matrix, extents)
        ]
        return f"<matrixSize>{parts[0]}</matrixSize><fieldOfView_mm>{parts[1]}</fieldOfView_mm>"

    limits = "".join(
        f"<kspace_encoding_step_{step}><minimum>0</minimum><maximum>{n - 1}</maximum>"
        f"<center>{n // 2}</center></kspace_encoding_step_{step}>"
        for step, n in ((1, sizes[1]), (2, sizes[2]))
    )
    parallel = (
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>2</kspace_encoding_step_2></accelerationFactor>"
        "<calibrationMode>separate</calibrationMode></parallelImaging>"
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz>"
        f"</experimentalConditions><encoding><encodedSpace>{space(sizes)}</encodedSpace>"
        f"<reconSpace>{space(recon)}</reconSpace><encodingLimits>{limits}</encodingLimits>"
        f"<trajectory>cartesian</trajectory>{parallel if separate else ''}</encoding></ismrmrdHeader>"
    )

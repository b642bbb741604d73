"""Make a fully sampled fastMRI file with a reference, which `sbim-deploy experiment` and `evaluate` take.

    python to_fastmri.py INPUT OUTPUT.h5 [--slices A:B]

INPUT is whatever `sbim-deploy recon` reads (MRD, BART's .cfl, fastMRI's layout without a reference), or a
multi-channel file of the Calgary-Campinas set. One slice is in memory at a time. The reference is the
root-sum-of-squares of the coil images, as in fastMRI's own files.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from sbim_deploy import __version__
from sbim_deploy.cli.options import parse_slices
from sbim_deploy.errors import InputError, SbimDeployError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import (
    check_stack,
    find_dataset,
    open_hdf5,
    read_finite,
    require_dataset,
    write_json_attribute,
    writing,
)
from sbim_deploy.kspace.cfl import is_cfl
from sbim_deploy.kspace.fastmri import KspaceFile
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.header import Encoding, Space, format_header
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.mri.kspace_faults import find_faults
from sbim_deploy.mri.masks import sampled_mask
from sbim_deploy.mri.noise_level import measure_noise
from sbim_deploy.records import BoolArray, ComplexArray

# https://github.com/rmsouza01/MC-MRI-Rec and Beauferris et al. 2022 (doi 10.3389/fnins.2022.919186): the
# readout is transformed already, voxels are 1 mm, and the last 15 % of the slice encodes were not measured.
CALGARY_AXES = ("slices", "phase encodes", "slice encodes", "real and imaginary parts of coils")
CALGARY_VOXEL_MM = (1.0, 1.0, 1.0)
CALGARY_MEASURED = 0.85

# An elliptical acquisition leaves out the corners, 1 - pi / 4 of the samples.
LEAST_SAMPLED = 0.75


@dataclass(frozen=True)
class FullScan:
    """An open scan.

    Attributes:
        n_slices: its slices.
        shape: (coils, rows, columns) of a slice's k-space.
        image_shape: (rows, columns) that the image is cropped to.
        voxel_mm: (row, column, slice) size of a voxel, or None where nothing says it.
        read_slice: complex64 (coils, rows, columns) of a slice, centred and orthonormal.
    """

    n_slices: int
    shape: tuple[int, int, int]
    image_shape: tuple[int, int]
    voxel_mm: tuple[float, float, float] | None
    read_slice: Callable[[int], ComplexArray]


@contextmanager
def open_scan(path: Path) -> Iterator[FullScan]:
    """Open a scan of any of the formats.

    Raises:
        InputError: it is none of them, has a reference already, or was undersampled.
    """
    if not is_cfl(path):
        with open_hdf5(path) as file:
            stored = find_dataset(file, path, "kspace")
            if stored is not None and stored.dtype.kind == "f":
                yield calgary_campinas(file, path)
                return
    with open_source(path) as source:
        if isinstance(source, KspaceFile) and source.reference_name is not None:
            raise InputError(
                f"{path}: has the reference {source.reference_name!r} already; give the file itself"
            )
        if source.mask is not None and not source.mask.all():
            raise InputError(f"{path}: was undersampled, by its mask; expected all lines")
        grid = (source.n_rows, source.n_columns)
        yield FullScan(
            source.n_slices,
            (source.n_coils, *grid),
            source.recon_shape or grid,
            source.voxel_mm,
            source.read_slice,
        )


def calgary_campinas(file: h5py.File, path: Path) -> FullScan:
    """Return a multi-channel scan of the Calgary-Campinas set.

    `kspace` is float (x, ky, kz, 2 x coils), real and imaginary parts in turn. x, the readout, becomes the
    slices, ky the rows and kz the columns. The centre of k-space is in the middle, and the image is in the
    middle of an uncentred transform, so that samples get the phase of a shift by half of the field of view.

    Raises:
        InputError: `kspace` has another layout.
    """
    stored = require_dataset(file, path, "kspace")
    check_stack(stored, path, CALGARY_AXES, "f")
    n_slices, rows, columns, parts = stored.shape
    if parts % 2:
        raise InputError(
            f"{path}: 'kspace' has shape {stored.shape}, expected an even last axis, the real and imaginary "
            "parts of the coils in turn; take a multi-channel file"
        )
    shift = (half_shift(rows)[:, None] * half_shift(columns)).astype(np.complex64)
    shift[:, math.ceil(CALGARY_MEASURED * columns) :] = 0

    def read_slice(index: int) -> ComplexArray:
        values = read_finite(stored, path, index, np.float32)
        kspace: ComplexArray = np.empty((parts // 2, rows, columns), np.complex64)
        kspace.real = np.moveaxis(values[..., ::2], -1, 0)
        kspace.imag = np.moveaxis(values[..., 1::2], -1, 0)
        kspace *= shift
        return kspace

    return FullScan(n_slices, (parts // 2, rows, columns), (rows, columns), CALGARY_VOXEL_MM, read_slice)


def half_shift(n: int) -> ComplexArray:
    """Return the phase (n,) of a shift by n // 2 pixels, the centre of k-space at n // 2."""
    frequency = np.arange(n) - n // 2
    phase: ComplexArray = np.exp(2j * np.pi * (frequency * (n // 2) % n) / n)
    return phase


def convert(source: Path, output: Path, slices: tuple[int, int] | None = None) -> str:
    """Write the slices of a scan with their references, and return in words what was written.

    Raises:
        InputError: the scan is not what it must be, there is no such slice, or the output cannot be written.
    """
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output}: is the input; name another output")
    if output.exists():
        raise InputError(f"{output}: is there already; name another output, or remove it")
    with open_scan(source) as scan:
        first, stop = slices or (0, scan.n_slices)
        if not 0 <= first < stop <= scan.n_slices:
            raise InputError(
                f"{source}: --slices is {first}:{stop}, expected a range within 0:{scan.n_slices}"
            )
        check_convention(scan, (first + stop) // 2, source)
        with writing(output) as file:
            unmeasured = write_scan(file, scan, range(first, stop), source, output.parent)
            made = {"sbim-deploy": __version__, "made_from": source.name, "slices": [first, stop]}
            write_json_attribute(file, "provenance", made)
    coils, rows, columns = scan.shape
    lines = f", {unmeasured} lines at the edges were never measured" if unmeasured else ""
    return f"{output}: {stop - first} slices of {coils} coils, {rows} x {columns}{lines}"


def write_scan(file: h5py.File, scan: FullScan, indices: range, source: Path, folder: Path) -> int:
    """Write k-space, references and header; return how many lines of the last slice were never measured."""
    n, image_shape = len(indices), scan.image_shape
    check_free_space(folder, n * (8 * math.prod(scan.shape) + 4 * math.prod(image_shape)))
    kspace = file.create_dataset("kspace", (n, *scan.shape), np.complex64, chunks=(1, 1, *scan.shape[1:]))
    reference = file.create_dataset(
        "reconstruction_rss", (n, *image_shape), np.float32, chunks=(1, *image_shape)
    )
    largest, unmeasured = 0.0, 0
    for place, index in enumerate(indices):
        values = scan.read_slice(index)
        unmeasured = check_fully_sampled((values != 0).any(axis=0), f"{source}: slice {index}")
        image = root_sum_of_squares(centre_crop(centred_ifft(values), image_shape))
        kspace[place], reference[place] = values, image
        largest = max(largest, float(image.max()))
    file.attrs["max"] = largest  # the data range of fastMRI's metrics
    if scan.voxel_mm is not None:
        header = header_of(scan.shape[1:], image_shape, scan.voxel_mm)
        file.create_dataset("ismrmrd_header", data=header, dtype=h5py.string_dtype())
    return unmeasured


def check_fully_sampled(sampled: BoolArray, where: str) -> int:
    """Return how many lines at the edges were not measured: padding, or partial Fourier.

    Args:
        sampled: which samples (rows, columns) are not zero in every coil.
        where: the slice, for error messages.

    Raises:
        InputError: nothing was measured, or samples are missing between those that were.
    """
    rows, columns = (np.flatnonzero(sampled.any(axis=axis)) for axis in (1, 0))
    if not columns.size:
        raise InputError(f"{where} is zero everywhere; leave it out with --slices")
    inner = sampled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    missing = int(np.count_nonzero(~inner.any(axis=0)))
    if missing or inner.mean() < LEAST_SAMPLED:
        what = f"{missing} of {inner.shape[1]} lines" if missing else f"{1 - inner.mean():.0%} of the samples"
        raise InputError(f"{where} was undersampled, {what} are zero; expected a fully sampled scan")
    return sampled.shape[1] - columns.size


def check_convention(scan: FullScan, index: int, source: Path) -> None:
    """Refuse what `recon` would refuse: k-space of another Fourier convention, or another order of axes.

    Raises:
        InputError: the slice of this index shows it.
    """
    values = scan.read_slice(index)
    if not values.any():
        return  # write_scan names the slice
    noise = measure_noise(values, sampled_mask(values))
    for fault in find_faults(values, None, noise.coil_sds):
        if fault.fatal:
            raise InputError(f"{source}: slice {index}: {fault.message}")


def header_of(
    shape: tuple[int, ...], image_shape: tuple[int, int], voxel_mm: tuple[float, float, float]
) -> str:
    """Return the ISMRMRD header of k-space (rows, columns) whose image is cropped."""

    def space(rows: int, columns: int) -> Space:
        return Space((rows, columns, 1), (rows * voxel_mm[0], columns * voxel_mm[1], voxel_mm[2]))

    return format_header(Encoding(encoded=space(shape[0], shape[1]), recon=space(*image_shape)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--slices", metavar="A:B", help="slices A to B - 1, counted from 0; default: all")
    arguments = parser.parse_args()
    try:
        print(convert(arguments.input, arguments.output, parse_slices(arguments.slices)))
    except SbimDeployError as error:
        print(f"to_fastmri: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

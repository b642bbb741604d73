"""BART's arrays in and out: NAME.cfl, complex64 with the first axis fastest, and NAME.hdr, its sizes.

BART's axes are readout, phase encode 1, phase encode 2, coil, set of maps, ..., with slices at axis 13. Its
unitary Fourier transform (``bart fft -u``) is the centred orthonormal one that is used here, so nothing is
scaled or shifted. Uecker et al., Berkeley Advanced Reconstruction Toolbox, https://mrirecon.github.io/bart.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import MAX_SLICE_BYTES
from sbim_deploy.io.layouts import MAX_COILS
from sbim_deploy.io.overwriting import check_new, new_file
from sbim_deploy.io.raw_data import CFL_CREATOR
from sbim_deploy.kspace.bare import BareKspace, EmptyMapsError
from sbim_deploy.mrd.orientation import conjugation_remark
from sbim_deploy.records import MAX_MAP_SETS, BoolArray, ComplexArray, Vector

SUFFIX = ".cfl"
N_AXES = 16
PHASE_2, COIL, SETS, SLICE = 2, 3, 4, 13
MAX_HEADER_BYTES = 1024**2

_ITEM_BYTES = np.dtype(np.complex64).itemsize


class CflFile:
    """An array of coil images or of k-space, checked, and read slice by slice.

    Nothing stays open between the slices; it is for a ``with`` statement as the other k-space files are.

    Attributes:
        path: the .cfl file.
        n_slices, n_coils, n_rows, n_columns: its size; ``stored_shape`` is (n_rows, n_columns).
        n_sets: the sets of coil maps, 1 for other arrays.
        max_sets: how many there may be.
        slice_axis: BART's axis that the slices lie along.
    """

    max_sets = 1
    slice_axis = SLICE

    def __init__(self, path: Path) -> None:
        self.path = path
        sizes = read_sizes(path)
        axes_in = (0, 1, COIL, self.slice_axis)
        self.n_rows, self.n_columns, self.n_coils, self.n_slices = (sizes[axis] for axis in axes_in)
        self.stored_shape = (self.n_rows, self.n_columns)
        self.n_sets = sizes[SETS]
        for axis, size in enumerate(sizes):
            limit = self.max_sets if axis == SETS else 1
            if size > limit and axis not in axes_in:
                raise InputError(f"{path}: axis {axis} has size {size}, expected {limit}; {_way_out(axis)}")
        if self.n_coils > MAX_COILS:
            raise InputError(f"{path}: has {self.n_coils} coils, expected at most {MAX_COILS}")
        n_bytes = self.n_rows * self.n_columns * self.n_coils * self.n_sets * _ITEM_BYTES
        if n_bytes > MAX_SLICE_BYTES:
            raise InputError(
                f"{path}: a slice has {n_bytes} bytes, expected at most {MAX_SLICE_BYTES}; crop it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_coils(self, index: int) -> ComplexArray:
        """Read one slice, complex64 (coils, rows, columns), those of the first set of maps first.

        Raises:
            InputError: no such slice, a damaged file, or values that are not finite.
        """
        if not 0 <= index < self.n_slices:
            raise InputError(f"{self.path}: no slice {index}, expected 0 to {self.n_slices - 1}")
        n_images, pixels = self.n_coils * self.n_sets, self.n_rows * self.n_columns
        try:
            if self.slice_axis == SLICE:
                count = n_images * pixels
                stored = np.fromfile(self.path, "<c8", count, offset=index * count * _ITEM_BYTES)
            else:  # the coils lie behind the slices
                starts = [(image * self.n_slices + index) * pixels for image in range(n_images)]
                parts = [np.fromfile(self.path, "<c8", pixels, offset=at * _ITEM_BYTES) for at in starts]
                stored = np.concatenate(parts)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror}); check its permissions"
            ) from error
        if stored.size != n_images * pixels:
            raise InputError(f"{self.path}: slice {index} is cut short; write the array anew")
        images = stored.reshape(n_images, self.n_columns, self.n_rows)
        coils: ComplexArray = np.ascontiguousarray(images.swapaxes(1, 2))
        n_bad = coils.size - int(np.count_nonzero(np.isfinite(coils)))
        if n_bad:
            raise InputError(
                f"{self.path}: slice {index} has {n_bad} of {coils.size} values that are not finite; "
                "repair the file or leave this slice out"
            )
        return coils


class CflKspace(BareKspace, CflFile):
    """k-space of BART; what is zero in every coil was not sampled, for there is no mask.

    Attributes:
        mask, recon_shape, voxel_mm: None, the file does not say.
        conjugated: whether k-space is conjugated as it is read.
    """

    mask: BoolArray | None = None
    recon_shape: tuple[int, int] | None = None
    voxel_mm: Vector | None = None
    conjugated = False

    def read_slice(self, index: int) -> ComplexArray:
        """Read the k-space of one slice, complex64 (coils, rows, columns).

        Raises:
            InputError: no such slice, or values that are not finite.
        """
        kspace = self.read_coils(index)
        return kspace.conj() if self.conjugated else kspace

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types."""
        return {"format": "BART .cfl", "assumed": [conjugation_remark()] if self.conjugated else None}


class CflMaps(CflFile):
    """Coil maps of BART, as ``bart ecalib -m 1`` or ``-m 2`` writes them."""

    max_sets = MAX_MAP_SETS

    def read_maps(self, index: int) -> ComplexArray:
        """Read the coil maps of one slice, complex64 (coils, rows, columns), or (sets, coils, ...).

        Raises:
            InputError: no such slice, values that are not finite, or maps that are all zero.
        """
        maps = self.read_coils(index)
        if not maps.any():
            raise EmptyMapsError(f"{self.path}: the maps of slice {index} are all zero; leave this slice out")
        return maps if self.n_sets == 1 else maps.reshape(self.n_sets, self.n_coils, *maps.shape[1:])


class CflVolume(CflKspace):
    """3-D k-space of BART, readout, phase encode 1 and 2: the slices are the partitions, along axis 2."""

    slice_axis = PHASE_2


class CflVolumeMaps(CflMaps):
    """Coil maps of a volume, along axis 2 as :class:`CflVolume`."""

    slice_axis = PHASE_2


def is_cfl(path: Path) -> bool:
    """Tell by the name whether a file is one of BART's."""
    return path.suffix == SUFFIX


def check_cfl(path: Path, force: bool = False) -> None:
    """Check that the two files of an array can be written, before long work.

    With ``force`` they may be there, if this program has written them.

    Raises:
        InputError: the name does not end in .cfl, or a file cannot be written.
    """
    if not is_cfl(path):
        raise InputError(f"{path}: the name must end in {SUFFIX}; name the output so")
    for each in (path, path.with_suffix(".hdr")):
        check_new(each, force)


def write_cfl(path: Path, array: NDArray[Any], force: bool = False) -> None:
    """Write an array of BART's axes, at most 16; the two files appear whole, or none that BART reads.

    The header says that this program wrote the array, which may then be replaced with ``force``.

    Raises:
        InputError: see :func:`check_cfl`, or the disk is full.
    """
    check_cfl(path, force)
    check_free_space(path.parent, array.size * _ITEM_BYTES)
    header = path.with_suffix(".hdr")
    with new_file(header, force) as header_temporary:
        header_temporary.write_text(_header(array.shape), encoding="ascii")
        with new_file(path, force) as temporary:
            with temporary.open("wb") as file:
                for last in range(array.shape[-1]):
                    array[..., last].astype("<c8").ravel(order="F").tofile(file)
            # Without a header the new array is nothing to anyone until its own one is there.
            if force:
                header.unlink(missing_ok=True)


def new_cfl(path: Path, sizes: Sequence[int]) -> ComplexArray:
    """Make an array of BART's axes, of zeros, and map it into memory to be written to.

    Raises:
        InputError: see :func:`check_cfl`, or there is no room.
    """
    check_cfl(path)
    check_free_space(path.parent, math.prod(sizes) * _ITEM_BYTES)
    path.with_suffix(".hdr").write_text(_header(sizes), encoding="ascii")
    return np.memmap(path, "<c8", "w+", shape=tuple(sizes), order="F")


def _header(sizes: Sequence[int]) -> str:
    all_sizes = [*sizes, *[1] * (N_AXES - len(sizes))]
    return "\n".join(("# Dimensions", " ".join(map(str, all_sizes)), "# Creator", CFL_CREATOR, ""))


def write_cfl_images(path: Path, images: ComplexArray, force: bool = False) -> None:
    """Write complex images (slices, rows, columns) with rows and columns first and slices at axis 13.

    Raises:
        InputError: see :func:`check_cfl`, or the disk is full.
    """
    n_slices, rows, columns = images.shape
    moved = np.moveaxis(images, 0, -1)
    write_cfl(path, moved.reshape((rows, columns, *[1] * (SLICE - 2), n_slices)), force)


def open_cfl_maps(
    path: Path, n_slices: int, n_coils: int, shapes: Sequence[tuple[int, int]], kind: type[CflMaps] = CflMaps
) -> CflMaps:
    """Open coil maps and compare them with the k-space they go with.

    ``shapes`` are the (rows, columns) that will do, the k-space's first; ``kind`` says which axis the
    slices lie along.

    Raises:
        InputError: the file is not as it must be, or is of another size.
    """
    maps = kind(path)
    got = (maps.n_slices, maps.n_coils, maps.n_rows, maps.n_columns)
    if got not in [(n_slices, n_coils, *shape) for shape in shapes]:
        expected = (n_slices, n_coils, *shapes[0])
        raise InputError(
            f"{path}: maps are {got} (slices, coils, rows, columns), expected {expected} as k-space has"
        )
    return maps


def read_cfl(path: Path) -> ComplexArray:
    """Map an array of BART's axes into memory, complex64 and not to be written to.

    Raises:
        InputError: the file is damaged, or cannot be read.
    """
    sizes = read_sizes(path)
    try:
        return np.memmap(path, "<c8", "r", shape=tuple(sizes), order="F")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def read_sizes(path: Path) -> list[int]:
    """Read the 16 sizes of an array of BART.

    Raises:
        InputError: a file of it is missing, damaged, or cut short.
    """
    header = path.with_suffix(".hdr")
    for each in (path, header):
        if not os.path.isfile(each):
            raise InputError(f"{each}: no such file, expected an array of BART: {path.stem}.cfl and .hdr")
    with header.open("rb") as file:
        lines = file.read(MAX_HEADER_BYTES).decode("ascii", "replace").splitlines()
    try:
        place = lines.index("# Dimensions")
        sizes = [int(word) for word in lines[place + 1].split()[: N_AXES + 1]]
    except (ValueError, IndexError):
        raise InputError(f"{header}: no sizes after '# Dimensions'; write the array anew with BART") from None
    if not 1 <= len(sizes) <= N_AXES or not all(1 <= size < 2**31 for size in sizes):
        raise InputError(f"{header}: the sizes are {sizes}, expected 1 to {N_AXES} of at least 1")
    expected, got = math.prod(sizes) * _ITEM_BYTES, path.stat().st_size
    if got != expected:
        raise InputError(
            f"{path}: has {got} bytes, its header expects {expected}; it is cut short or another's"
        )
    return sizes + [1] * (N_AXES - len(sizes))


def _way_out(axis: int) -> str:
    if axis == PHASE_2:
        return "slices belong into axis 13 (bart transpose 2 13), and of a 3-D scan say --dimensions 3"
    if axis == SETS:
        return "take fewer sets of maps (bart slice 4 0, or bart ecalib -m 1)"
    return f"take one of them (bart slice {axis} 0)"

"""fastMRI HDF5 files, in and out, one slice in memory at a time.

:class:`KspaceFile` reads k-space, its mask, and the coil maps and the reference beside it.
:class:`MapsFile` reads coil maps from a file of their own. :func:`write_kspace` writes simulated slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import hdf5_array
from sbim_deploy.io.atomic import check_free_space
from sbim_deploy.io.hdf5 import (
    OpenFile,
    check_stack,
    find_dataset,
    open_as,
    read_finite,
    reading,
    require_dataset,
    write_json_attribute,
    writing,
)
from sbim_deploy.io.layouts import (
    COIL,
    COLUMN,
    GUESSED,
    ROW,
    SLICE,
    VOLUME,
    Layout,
    Reading,
    named_layout,
)
from sbim_deploy.kspace.bare import BareKspace, EmptyMapsError
from sbim_deploy.kspace.image_grid import check_slice_fits, image_grid, is_square_crop, measured_array
from sbim_deploy.kspace.sampling_mask import SamplingMask
from sbim_deploy.mrd.header import Encoding, Space, format_header, parse_geometry
from sbim_deploy.mrd.orientation import conjugation_remark
from sbim_deploy.mrd.xml import MAX_HEADER_BYTES
from sbim_deploy.mri.combine import resample_maps
from sbim_deploy.mri.fourier import centre_pad, turned, zero_filled_interpolation
from sbim_deploy.records import MAX_MAP_SETS, BoolArray, ComplexArray, FloatArray

COIL_AXES = ("slices", "coils", "rows", "columns")
SET_AXES = ("slices", "sets", *COIL_AXES[1:])
IMAGE_AXES = ("slices", "rows", "columns")
REFERENCE_NAMES = ("reference", "reconstruction_rss", "reconstruction_esc")


class KspaceFile(BareKspace, OpenFile):
    """An open fastMRI file, checked; use it in a ``with`` statement.

    Attributes:
        path: the file.
        n_slices, n_coils, n_rows, n_columns: the size of k-space; a single-coil file has one coil. Where the
            header asks for finer voxels than were measured, k-space is padded with zeros to them.
        stored_shape: (rows, columns) of k-space in the file.
        layout: the axes of ``kspace``.
        mask: sampled positions of all slices, (columns,) or (rows, columns), or None where the file has no
            mask. A mask for each slice is applied where the slice is read.
        mask_kind: what mask the file has, in words, or None.
        encoded_shape: (rows, columns) that the header says were encoded, or None without a header.
        recon_shape: (rows, columns) to crop the image to, or None.
        field_of_view_mm: (row, column, slice) extent of the cropped image by the header, or None.
        voxel_mm: (row, column, slice) size of its voxels, or None.
        remarks: what was assumed of the header, a sentence each.
        reference_name: the dataset that ``read_reference`` reads, or None.
        has_complex_reference: whether it has a phase.
        reference_is_square: whether it is cropped square to the narrower side of k-space.
        conjugated: whether k-space is conjugated as it is read, and the reference turned with it.
        has_maps: whether the file holds coil maps, dataset ``s_maps``.
    """

    conjugated = False

    def __init__(self, file: h5py.File, path: Path, reading: Reading = GUESSED) -> None:
        super().__init__(file, path)
        self._kspace = require_dataset(file, path, "kspace")
        self.layout = _layout_of(file, path, self._kspace, reading.layout)
        self.n_slices, self.n_coils, *_ = map(self.layout.size, VOLUME)
        self.stored_shape = self.layout.size(ROW), self.layout.size(COLUMN)
        self._set_geometry(_read_geometry(file, path))
        stored_mask = find_dataset(file, path, "mask")
        self._mask = (
            None if stored_mask is None else SamplingMask(hdf5_array(stored_mask, path), path, self.layout)
        )
        self.mask_kind = None if self._mask is None else self._mask.kind
        mask = None if self._mask is None else self._mask.common
        if mask is not None:
            mask = centre_pad(mask, (self.n_rows, self.n_columns)[-mask.ndim :])
        self.mask: BoolArray | None = mask
        self._maps = _find_maps(file, path, self.n_slices, self.n_coils, [self.stored_shape])
        self.has_maps = self._maps is not None
        self._reference = found = self._find_reference()
        self.has_complex_reference = found is not None and found.dtype.kind == "c"
        self.reference_name: str | None = found and found.name.strip("/")
        shapes = self.stored_shape, (self.n_rows, self.n_columns)
        self.reference_is_square = found is not None and is_square_crop(found.shape[1:], *shapes)

    def read_slice(self, index: int) -> ComplexArray:
        """Read the k-space of one slice, complex64 (coils, rows, columns).

        Raises:
            InputError: no such slice, damaged data, or values that are not finite.
        """
        stored = read_finite(self._kspace, self.path, index, np.complex64, self.layout.slice_axis)
        kspace: ComplexArray = self.layout.arranged(stored)
        own = None if self._mask is None else self._mask.of_slice(index)
        kspace = kspace if own is None else kspace * own
        shape = (self.n_rows, self.n_columns)
        kspace = kspace if shape == self.stored_shape else centre_pad(kspace, shape)
        return kspace.conj() if self.conjugated else kspace

    def describe(self) -> dict[str, Any]:
        """Return what the file is, as JSON's types."""
        layout = {} if self.layout.axes == VOLUME else {"layout": self.layout.text}
        conjugation = [conjugation_remark()] if self.conjugated else []
        return {"format": "fastMRI HDF5", **layout, "assumed": [*self.remarks, *conjugation] or None}

    def read_maps(self, index: int) -> ComplexArray:
        """Read the coil maps of one slice, complex64 (coils, rows, columns), or (sets, coils, ...).

        Raises:
            InputError: no maps, no such slice, damaged or non-finite data, or maps that are all zero.
        """
        if self._maps is None:
            raise InputError(f"{self.path}: no dataset 's_maps'; estimate the coil maps or give a maps file")
        return resample_maps(_read_maps(self._maps, self.path, index), (self.n_rows, self.n_columns))

    def read_reference(self, index: int) -> ComplexArray | FloatArray:
        """Read the reference image of one slice, complex64 or float32 (rows, columns), perhaps cropped.

        One of the pixels of k-space as it is stored is interpolated, as k-space is, along the axes that it
        has all of.

        Raises:
            InputError: no reference, no such slice, or damaged or non-finite data.
        """
        if self._reference is None:
            raise InputError(f"{self.path}: no reference image, expected one of {', '.join(REFERENCE_NAMES)}")
        dtype = np.complex64 if self._reference.dtype.kind == "c" else np.float32
        image: ComplexArray | FloatArray = read_finite(self._reference, self.path, index, dtype)
        if self.conjugated:
            image = turned(image).conj()
        if image.shape == self.stored_shape or self.reference_is_square:
            for axis, size in enumerate((self.n_rows, self.n_columns)):
                if image.shape[axis] == self.stored_shape[axis] < size:
                    image = zero_filled_interpolation(image, axis, size)
        return image if dtype is np.complex64 or np.isrealobj(image) else np.abs(image)

    def _set_geometry(self, geometry: Encoding | None) -> None:
        self.n_rows, self.n_columns = self.stored_shape
        self.encoded_shape: tuple[int, int] | None = None
        self.recon_shape: tuple[int, int] | None = None
        self.field_of_view_mm: tuple[float, float, float] | None = None
        self.voxel_mm: tuple[float, float, float] | None = None
        self.remarks: tuple[str, ...] = ()
        if geometry is None:
            return
        where = f"{self.path}: 'ismrmrd_header'"
        rows, columns = measured_array(geometry, self.stored_shape, where)
        grid = image_grid(rows, columns, geometry.recon, where)
        check_slice_fits(self.n_coils, grid.shape, where)
        self.encoded_shape = geometry.encoded.matrix_size[:2]
        self.n_rows, self.n_columns = grid.shape
        self.recon_shape, self.voxel_mm = grid.image_shape, grid.voxel_mm
        self.field_of_view_mm = grid.field_of_view_mm
        self.remarks = (*geometry.remarks, *grid.remarks)

    def _find_reference(self) -> h5py.Dataset | None:
        for name in REFERENCE_NAMES:
            found = find_dataset(self._file, self.path, name)
            if found is not None:
                check_stack(found, self.path, IMAGE_AXES, "cf" if name == "reference" else "f")
                if found.shape[0] != self.n_slices:
                    raise InputError(
                        f"{self.path}: {name!r} has {found.shape[0]} slices, expected {self.n_slices}"
                    )
                return found
        return None


class MapsFile(OpenFile):
    """An open file of coil maps, checked against the k-space they go with; for a ``with`` statement."""

    def __init__(self, file: h5py.File, path: Path, maps: h5py.Dataset) -> None:
        super().__init__(file, path)
        self._maps = maps

    def read_maps(self, index: int) -> ComplexArray:
        """Read the coil maps of one slice, complex64 (coils, rows, columns), or (sets, coils, ...).

        Raises:
            InputError: no such slice, damaged or non-finite data, or maps that are all zero.
        """
        return _read_maps(self._maps, self.path, index)


def open_kspace(path: Path, reading: Reading = GUESSED) -> KspaceFile:
    """Open a fastMRI file and check everything but the slices' values.

    Raises:
        InputError: the file, ``kspace``, ``mask``, ``s_maps``, the reference or the header is not as it
            must be.
    """
    return open_as(path, lambda file, path: KspaceFile(file, path, reading))


def open_maps(path: Path, n_slices: int, n_coils: int, shapes: Sequence[tuple[int, int]]) -> MapsFile:
    """Open a file whose dataset ``s_maps`` holds the coil maps of a k-space of this size.

    Args:
        path: the HDF5 file.
        n_slices: slices of the k-space.
        n_coils: coils of the k-space.
        shapes: the (rows, columns) that will do, the k-space's first.

    Raises:
        InputError: the file or ``s_maps`` is not as it must be, or is of another size.
    """

    def opened(file: h5py.File, path: Path) -> MapsFile:
        require_dataset(file, path, "s_maps")
        return MapsFile(file, path, _find_maps(file, path, n_slices, n_coils, shapes))

    return open_as(path, opened)


def _find_maps(
    file: h5py.File, path: Path, n_slices: int, n_coils: int, shapes: Sequence[tuple[int, int]]
) -> h5py.Dataset | None:
    maps = find_dataset(file, path, "s_maps")
    if maps is None:
        return None
    check_stack(maps, path, SET_AXES if maps.ndim == len(SET_AXES) else COIL_AXES, "c")
    sets = () if maps.ndim == len(COIL_AXES) else (MAX_MAP_SETS,)
    if maps.shape not in [(n_slices, *sets, n_coils, *shape) for shape in shapes]:
        expected = (n_slices, *sets, n_coils, *shapes[0])
        raise InputError(f"{path}: 's_maps' has shape {maps.shape}, expected {expected} as k-space has")
    return maps


def _read_maps(dataset: h5py.Dataset, path: Path, index: int) -> ComplexArray:
    maps: ComplexArray = read_finite(dataset, path, index, np.complex64)
    if not maps.any():
        raise EmptyMapsError(
            f"{path}: slice {index} of 's_maps' is all zero; repair it or leave this slice out"
        )
    return maps


def _layout_of(file: h5py.File, path: Path, dataset: h5py.Dataset, named: str | None) -> Layout:
    """Return the axes of ``kspace``, checked; three of them need something that tells slices from coils."""
    shape = dataset.shape
    if shape is None or 0 in shape or (named is None and len(shape) not in (3, 4)):
        check_stack(dataset, path, COIL_AXES, "c")
    if named is not None:
        layout = named_layout(named, shape, f"{path}: 'kspace'")
    elif len(shape) == 4:
        layout = named_layout(",".join(VOLUME), shape, f"{path}: 'kspace'")
    elif _is_single_coil(file, path, shape):
        layout = Layout((SLICE, ROW, COLUMN), shape)
    else:
        layout = named_layout(f"{COIL},{ROW},{COLUMN}", shape, f"{path}: 'kspace'")
    check_stack(dataset, path, tuple(f"{axis}s" for axis in layout.axes), "c", layout.slice_axis)
    return layout


def _is_single_coil(file: h5py.File, path: Path, shape: tuple[int, ...]) -> bool:
    """Tell whether three axes are the slices of one coil, as in fastMRI's files, or the coils of one slice.

    Raises:
        InputError: nothing in the file tells.
    """
    n = shape[0]
    beside = {name: find_dataset(file, path, name) for name in ("s_maps", *REFERENCE_NAMES)}
    lengths = {each.shape[:1] for each in beside.values() if each is not None and each.ndim in (3, 4, 5)}
    if n == 1 or lengths == {(n,)}:
        return True
    if lengths == {(1,)}:
        return False
    if not lengths and find_dataset(file, path, "ismrmrd_header") is not None:
        return True
    raise InputError(
        f"{path}: 'kspace' has shape {shape}, which may be {n} coils of one slice or {n} slices of one "
        f"coil: say --layout {COIL},{ROW},{COLUMN} or --layout {SLICE},{ROW},{COLUMN}"
    )


def _read_geometry(file: h5py.File, path: Path) -> Encoding | None:
    dataset = find_dataset(file, path, "ismrmrd_header")
    if dataset is None:
        return None
    with reading(path, "'ismrmrd_header'"):
        small = dataset.shape == () and dataset.dtype.itemsize <= MAX_HEADER_BYTES
        text = dataset[()] if small else None
    if isinstance(text, str):
        text = text.encode()
    if not isinstance(text, bytes):
        raise InputError(f"{path}: 'ismrmrd_header' is not one short string, expected ISMRMRD XML; remove it")
    return parse_geometry(text, f"{path}: 'ismrmrd_header'")


@dataclass(frozen=True)
class KspaceSlice:
    """One slice to write: k-space and maps (coils, rows, columns), true image (rows, columns)."""

    kspace: ComplexArray
    reference: ComplexArray
    maps: ComplexArray

    def __post_init__(self) -> None:
        """Raise ValueError where the three do not fit."""
        if self.kspace.ndim != 3 or self.maps.shape != self.kspace.shape:
            raise ValueError(
                f"kspace is {self.kspace.shape} and maps {self.maps.shape}, expected equal, 3 axes"
            )
        if self.reference.shape != self.kspace.shape[1:]:
            raise ValueError(f"reference is {self.reference.shape}, expected {self.kspace.shape[1:]}")


def write_kspace(
    path: Path,
    slices: Iterable[KspaceSlice],
    mask: BoolArray,
    voxel_mm: tuple[float, float, float],
    provenance: dict[str, Any],
    force: bool = False,
) -> None:
    """Write slices of one size as they come; the file appears whole or not at all.

    Args:
        path: the HDF5 file to write.
        slices: the slices, at least one; only the present one is held in memory.
        mask: sampled positions, (columns,), (rows, columns), or for each slice (slices, 1, columns).
        voxel_mm: (row, column, slice) size of a voxel.
        provenance: how the slices came about, stored as JSON in the attribute ``provenance``.
        force: whether a file that is there is replaced; no scan is, unless it was simulated.

    Raises:
        InputError: the file cannot be written, or there is no slice.
    """
    with writing(path, force, over_simulated=True) as file:
        n_slices = 0
        for each in slices:
            check_free_space(path.parent, each.kspace.nbytes + each.maps.nbytes + each.reference.nbytes)
            stacks = {"kspace": each.kspace, "reference": each.reference, "s_maps": each.maps}
            for name, values in stacks.items():
                _append(file, name, n_slices, values)
            n_slices += 1
        if n_slices == 0:
            raise InputError(f"{path}: no slice to write; choose at least one slice")
        rows, columns = file["reference"].shape[1:]
        if mask.shape not in ((columns,), (rows, columns), (n_slices, 1, columns)):
            raise ValueError(f"mask is {mask.shape}, expected {(columns,)} or {(rows, columns)}")
        file["mask"] = mask
        file.create_dataset(
            "ismrmrd_header", data=_header((rows, columns), voxel_mm), dtype=h5py.string_dtype()
        )
        write_json_attribute(file, "provenance", provenance)


def _append(file: h5py.File, name: str, index: int, values: ComplexArray) -> None:
    if index == 0:
        # One coil image a chunk: a slice is read without its neighbours.
        chunks = (1,) * (values.ndim - 1) + values.shape[-2:]
        file.create_dataset(
            name, (0, *values.shape), np.complex64, maxshape=(None, *values.shape), chunks=chunks
        )
    dataset = file[name]
    if values.shape != dataset.shape[1:]:
        raise ValueError(f"{name} of slice {index} is {values.shape}, expected {dataset.shape[1:]}")
    dataset.resize(index + 1, axis=0)
    dataset[index] = values


def _header(shape: tuple[int, int], voxel_mm: tuple[float, float, float]) -> str:
    size = (*shape, 1)
    space = Space(
        matrix_size=size,
        field_of_view_mm=(size[0] * voxel_mm[0], size[1] * voxel_mm[1], size[2] * voxel_mm[2]),
    )
    return format_header(Encoding(encoded=space, recon=space))

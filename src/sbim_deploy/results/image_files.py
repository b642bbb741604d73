"""Files of images of every format, ours and others': results, fastMRI's and MRD's HDF5, DICOM, NIfTI, arrays.

What is in a file tells its format. A complex array of one coil, BART's too, may be an image or k-space: where
its energy lies tells.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import ArrayFile, StoredArray, hdf5_array, is_array_file, open_arrays
from sbim_deploy.io.hdf5 import (
    MAX_SLICE_BYTES,
    check_stack,
    dataset_names,
    find_dataset,
    is_hdf5,
    open_hdf5,
    read_finite,
    read_values,
    reading,
    require_dataset,
)
from sbim_deploy.io.layouts import (
    COIL,
    COLUMN,
    GUESSED,
    ROW,
    SLICE,
    Layout,
    Reading,
    guess_image_layout,
    guess_layout,
    named_layout,
)
from sbim_deploy.kspace.arrays import KSPACE_NAMES, check_slices, choose_array, label_of, read_part
from sbim_deploy.kspace.cfl import PHASE_2, CflFile, CflVolume, is_cfl, read_sizes
from sbim_deploy.mrd import xml
from sbim_deploy.mrd.file import is_mrd
from sbim_deploy.mri.kspace_faults import IMAGE_IN_PLACE, find_faults
from sbim_deploy.records import ComplexArray, SliceGeometry, Vector
from sbim_deploy.results.dicom_files import holds_dicom, open_dicom
from sbim_deploy.results.geometry import Matrix, slice_affine
from sbim_deploy.results.image_stack import ImageStack
from sbim_deploy.results.mrd_images import mrd_image_groups
from sbim_deploy.results.nifti import SUFFIXES as NIFTI_SUFFIXES
from sbim_deploy.results.nifti_files import open_nifti
from sbim_deploy.results.result_file import IMAGE_AXES, ResultFile

REFERENCE_NAMES = (
    "reference",
    "truth",
    "ground_truth",
    "target",
    "reconstruction_rss",
    "reconstruction_esc",
    "image",
    "images",
    "recon",
)
RESULT_NAMES = ("reconstruction", "recon", "image", "images", *REFERENCE_NAMES)  # first what was made
MAX_IMAGES = 2**20
RECONSTRUCTION = "reconstruction"  # fastMRI's name of the dataset


def open_images(path: Path, reading: Reading = GUESSED, dimensions: int | None = None) -> ImageStack:
    """Open a file, or a folder of DICOM, that holds images; ``reading`` is that of an array.

    ``dimensions`` 3 says that BART's array is a volume: its readout and its phase encodes 1 and 2.

    Raises:
        InputError: it holds something else, or is damaged.
        BackendMissingError: the package that reads its format is not installed.
    """
    found = find_images(path, reading, dimensions=dimensions)
    if found is None:
        raise InputError(
            f"{path}: holds no images, expected a result, DICOM, NIfTI, MRD images, .cfl, or an array of "
            "images; k-space is reconstructed first, by recon"
        )
    return found


def find_images(
    path: Path,
    reading: Reading = GUESSED,
    names: Sequence[str] = RESULT_NAMES,
    dimensions: int | None = None,
) -> ImageStack | None:
    """Return the images in a file as :func:`open_images` does, or None where it holds none.

    ``names`` are those of arrays, the likeliest first: a file may hold an image and its reference.

    Raises:
        InputError, BackendMissingError: see :func:`open_images`.
    """
    if holds_dicom(path):
        return open_dicom(path)
    if path.name.endswith(NIFTI_SUFFIXES) and path.exists():
        return open_nifti(path)
    if is_cfl(path):
        is_volume = dimensions == 3 and read_sizes(path)[PHASE_2] > 1
        return _find_volume_in_cfl(path) if is_volume else _find_in_cfl(path)
    if is_array_file(path) or reading.variable is not None:
        return _find_in_arrays(path, reading, names)
    if path.is_file() and not is_hdf5(path):
        return None
    return _find_in_hdf5(path, reading, names)


def is_image(values: ComplexArray) -> bool:
    """Tell whether an array of one coil (1, rows, columns) is an image: its energy is not at the centre."""
    return len(values) == 1 and any(fault.kind == IMAGE_IN_PLACE for fault in find_faults(values, None, 0.0))


def _find_in_hdf5(path: Path, wanted: Reading, images: Sequence[str]) -> ImageStack | None:
    with ExitStack() as stack:
        file = open_hdf5(path)
        stack.callback(file.close)
        names = dataset_names(file, path)
        if "kspace" in names or is_mrd(file, path):
            return None
        if RECONSTRUCTION in names:
            found = (
                _of_result(file, path)
                if "image" in names
                else _of_dataset(file, path, RECONSTRUCTION, "fastMRI result")
            )
        elif mrd_image_groups(file, path):
            found = _of_mrd(file, path)
        else:
            arrays = open_arrays(path)
            with arrays:
                is_there = any(name.lower() in images for name in arrays.arrays)
            return _find_in_arrays(path, wanted, images) if is_there else None
        stack.pop_all()
        return found


def _of_result(file: h5py.File, path: Path) -> ImageStack:
    result = ResultFile(file, path)
    return ImageStack(
        path,
        "result of sbim-deploy",
        result.n_slices,
        result.shape,
        result.read_image,
        is_complex=True,
        close=file.close,
        result=result,
    )


def find_dataset_images(path: Path, name: str) -> ImageStack | None:
    """Return the images (slices, rows, columns) in a dataset at the top of an HDF5 file, or None without it.

    Raises:
        InputError: the file is damaged, or the dataset is no stack of images.
    """
    with ExitStack() as stack:
        file = open_hdf5(path)
        stack.callback(file.close)
        if find_dataset(file, path, name) is None:
            return None
        found = _of_dataset(file, path, name, "HDF5")
        stack.pop_all()
        return found


def _of_dataset(file: h5py.File, path: Path, name: str, kind: str) -> ImageStack:
    dataset = require_dataset(file, path, name)
    check_stack(dataset, path, IMAGE_AXES, "cf")
    is_complex = dataset.dtype.kind == "c"

    def read(position: int) -> NDArray[Any]:
        return read_finite(dataset, path, position, np.complex64 if is_complex else np.float32)

    n_slices, rows, columns = dataset.shape
    return ImageStack(path, kind, n_slices, (rows, columns), read, is_complex=is_complex, close=file.close)


def _of_mrd(file: h5py.File, path: Path) -> ImageStack:
    """Return all images, series after series; x, along which pixels lie fastest, is the rows axis."""
    found: list[tuple[StoredArray, int]] = []
    scales: list[tuple[float, float]] = []
    affines: list[Matrix | None] = []
    groups = _mrd_groups(file, path)
    for name, group in groups:
        array, attributes = hdf5_array(group["data"], path), find_dataset(group, path, "attributes")
        n_images = array.shape[0]
        if array.shape[1:3] != (1, 1) or group["header"].shape != (n_images,) or n_images > MAX_IMAGES:
            raise InputError(
                f"{path}: {name!r} has images of {array.shape} and headers {group['header'].shape}, expected "
                f"(images, 1, 1, y, x) with a header each, at most {MAX_IMAGES}"
            )
        with reading(path, repr(name)):
            headers = read_values(group["header"], path)
            texts: Any = [b""] * n_images
            if attributes is not None and attributes.shape == (n_images,):
                texts = read_values(attributes, path)
        shape = (array.shape[4], array.shape[3])
        found += [(array, position) for position in range(array.shape[0])]
        affines += [_affine_of_header(header, shape) for header in headers]
        scales += [_real_world(text) for text in texts]
    sizes = {array.shape[3:] for array, _ in found}
    if len(sizes) > 1 or not all(min(size) for size in sizes) or not found:
        listed = ", ".join(f"{name} {group['data'].shape}" for name, group in groups)
        raise InputError(f"{path}: holds images of {listed}, expected one size")
    columns, rows = sizes.pop()
    if rows * columns * 16 > MAX_SLICE_BYTES:
        raise InputError(f"{path}: images are {(rows, columns)}, too large to read")

    def read(position: int) -> NDArray[Any]:
        array, index = found[position]
        slope, intercept = scales[position]
        pixels = array.read((index, 0, 0, slice(None), slice(None))).T
        return pixels if (slope, intercept) == (1, 0) else slope * pixels + intercept

    return ImageStack(
        path,
        "MRD images",
        len(found),
        (rows, columns),
        read,
        is_complex=any(array.is_complex for array, _ in found),
        affines=affines,
        details={"series": mrd_image_groups(file, path)},
        close=file.close,
    )


def _mrd_groups(file: h5py.File, path: Path) -> list[tuple[str, h5py.Group]]:
    """Return the groups of images, in the order of the series' numbers; links to other files do not count."""
    found = []
    with reading(path, "the groups of images"):
        for parent in [each for each in file if isinstance(file.get(each, getlink=True), h5py.HardLink)]:
            group = file[parent]
            for name in group if isinstance(group, h5py.Group) else ():
                inner = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
                if not isinstance(inner, h5py.Group):
                    continue
                data, header = (find_dataset(inner, path, each) for each in ("data", "header"))
                if data is not None and header is not None and data.ndim == 5:
                    found.append((name, inner))
    numbers = re.compile(r"\d+")
    return sorted(found, key=lambda each: ([int(number) for number in numbers.findall(each[0])], each[0]))


def _real_world(text: Any) -> tuple[float, float]:
    """Return the slope and the intercept from pixels to magnitudes in an image's attributes, else 1 and 0.

    RealWorldValueSlope and RealWorldValueIntercept have DICOM's names (PS3.3 C.7.6.16.2.11).
    """
    written = text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)
    try:
        entries = xml.parse_root(written, "attributes").iter("meta")
        values = {entry.findtext("name"): entry.findtext("value") for entry in entries}
        slope = float(values.get("RealWorldValueSlope") or 1)
        intercept = float(values.get("RealWorldValueIntercept") or 0)
    except (InputError, ValueError):
        return 1, 0
    return (slope, intercept) if math.isfinite(slope * intercept) and slope else (1, 0)


def _affine_of_header(header: np.void, shape: tuple[int, int]) -> Matrix | None:
    """Return where an image lies by its header, or None where it does not say, or no image could lie so."""
    try:
        names = ("position", "read_dir", "phase_dir", "slice_dir", "field_of_view")
        vectors = [_vector(header[name]) for name in names]
        return slice_affine(SliceGeometry(*vectors), shape)
    except (InputError, ValueError, IndexError, TypeError):
        return None


def _vector(values: NDArray[Any]) -> Vector:
    x, y, z = map(float, values)
    return x, y, z


def _find_in_cfl(path: Path) -> ImageStack | None:
    file = CflFile(path)
    if file.n_coils > 1 or not is_image(file.read_coils(file.n_slices // 2)):
        return None

    def read(position: int) -> NDArray[Any]:
        image: NDArray[Any] = file.read_coils(position)[0]
        return image

    return ImageStack(path, "BART .cfl", file.n_slices, file.stored_shape, read, is_complex=True)


def _find_volume_in_cfl(path: Path) -> ImageStack | None:
    """Return the slices along the readout of a volume as recon writes it, (partitions, lines) each."""
    file = CflVolume(path)
    if file.n_coils > 1 or not is_image(file.read_coils(file.n_slices // 2)):
        return None
    volume = np.stack([file.read_coils(index)[0] for index in range(file.n_slices)], axis=1)
    n_slices, *shape = volume.shape
    return ImageStack(path, "BART .cfl", n_slices, (shape[0], shape[1]), volume.__getitem__, is_complex=True)


def _find_in_arrays(path: Path, wanted: Reading, names: Sequence[str]) -> ImageStack | None:
    with ExitStack() as stack:
        file = stack.enter_context(open_arrays(path))
        array = _choose(file, wanted.variable, names)
        if array is None:
            return None
        label, shape = label_of(file, array), array.shape
        named = None if wanted.layout is None else named_layout(wanted.layout, shape, label)
        if array.is_complex and _is_kspace(file, array, named, label):
            return None
        if named is not None and COIL in named.axes:
            raise InputError(f"{label}: is no k-space, and the layout {named.text} has coils: leave them out")
        layout = guess_image_layout(shape, label) if named is None else named
        check_slices(array, layout, label)
        dtype = np.complex64 if array.is_complex else np.float32

        def read(position: int) -> NDArray[Any]:
            image: NDArray[Any] = read_part(file, array, layout, position, dtype)[0]
            return image

        stack.pop_all()
        return ImageStack(
            path,
            f"{file.kind}: {array.name}" if array.name else file.kind,
            layout.size(SLICE),
            (layout.size(ROW), layout.size(COLUMN)),
            read,
            is_complex=array.is_complex,
            details={"layout": layout.text, "dtype": str(array.dtype)},
            close=file.__exit__,
        )


def _choose(file: ArrayFile, wanted: str | None, names: Sequence[str]) -> StoredArray | None:
    """Return the array that may be images; None where those that could be are k-space by their names."""
    if wanted in file.arrays:
        return file.arrays[wanted]
    usable = [each for each in file.arrays.values() if each.n_axes >= 2 and (each.is_real or each.is_complex)]
    named = [each for name in names for each in usable if each.name.lower() == name]
    if wanted is None and (named or len(usable) == 1):
        return (named or usable)[0]
    if wanted is None and any(each.name.lower() in KSPACE_NAMES and each.is_complex for each in usable):
        return None
    return choose_array(file, wanted, KSPACE_NAMES, "the image")


def _is_kspace(file: ArrayFile, array: StoredArray, named: Layout | None, label: str) -> bool:
    if named is not None and COIL in named.axes:
        return True
    if array.name.lower() in KSPACE_NAMES:
        return True
    layout = named or guess_layout(array.shape, label)
    check_slices(array, layout, label)
    middle = read_part(file, array, layout, layout.size(SLICE) // 2, np.complex64)
    return all(fault.kind != IMAGE_IN_PLACE for fault in find_faults(middle, None, 0.0))

"""What images are compared with: a reference beside k-space, k-space with all samples, or other images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.arrays import is_array_file
from sbim_deploy.io.hdf5 import is_hdf5
from sbim_deploy.io.layouts import GUESSED, Reading
from sbim_deploy.kspace.along_trajectory import NonCartesianKspace
from sbim_deploy.kspace.fastmri import KspaceFile
from sbim_deploy.kspace.sources import KspaceSource, ReadoutKspace, open_source
from sbim_deploy.kspace.transformed import TransformedKspace, mirrored
from sbim_deploy.kspace.volume import VolumeKspace
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centred_ifft, turned
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray
from sbim_deploy.results.geometry import Matrix, slice_affine
from sbim_deploy.results.image_files import REFERENCE_NAMES, find_dataset_images, find_images
from sbim_deploy.results.image_stack import ImageStack

TRUTH = "reference"  # in the MRD files that simulate writes
LEAST_SAMPLED = 0.99  # of fully sampled k-space: a sample may be zero by chance
LEAST_SIDE = 0.5  # of the grid: k-space that is padded with zeros to a finer one has more than that


class Reference(Protocol):
    """An open file with the images that others should be.

    Attributes:
        path: the file.
        kind: what of it is the reference, in words.
        n_slices: how many there are.
        has_complex_reference: whether they have a phase.
        is_kspace: whether it is a file of k-space, of which they may be made.
        reference_is_square: whether they are cropped square to the narrower side of k-space.
        empty: the numbers of those beside a volume's object, which are zero.
    """

    path: Path
    kind: str
    n_slices: int
    has_complex_reference: bool
    is_kspace: bool
    reference_is_square: bool
    empty: frozenset[int]

    def __enter__(self) -> Self:
        """Return the file itself."""

    def __exit__(self, *_error: Any) -> None:
        """Close it."""

    def read_reference(self, index: int) -> ComplexArray | FloatArray:
        """Read the reference of one slice, complex64 or float32 (rows, columns), perhaps cropped."""

    def affine(self, index: int) -> Matrix | None:
        """Return what takes its (row, column, slice, 1) to (left, posterior, superior, 1) in mm, if known."""


class ImageReference:
    """Images of any format as a reference: those of a volume may be zero beside the object."""

    is_kspace = False
    reference_is_square = False

    def __init__(self, images: ImageStack, is_volume: bool = False) -> None:
        self._images = images
        numbers = range(images.n_slices) if is_volume else ()
        self.empty = frozenset(index for index in numbers if not images.read_image(index).any())
        self.path, self.kind, self.n_slices = images.path, images.kind, images.n_slices
        self.has_complex_reference = images.is_complex

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._images.__exit__()

    def read_reference(self, index: int) -> ComplexArray | FloatArray:
        """Read one of them; see :meth:`ImageStack.read_image`."""
        return self._images.read_image(index)

    def affine(self, index: int) -> Matrix | None:
        """Return where it lies."""
        return self._images.affine(index)


class KspaceReference:
    """The reference in a file of k-space: the image beside it, else the root sum of squares of its coils."""

    is_kspace = True

    def __init__(self, source: KspaceSource) -> None:
        self._source = source
        self.path, self.n_slices = source.path, source.n_slices
        self._beside: KspaceFile | ImageStack | None = None
        self.reference_is_square = isinstance(source, KspaceFile) and source.reference_is_square
        self.has_complex_reference, self.kind = False, "root sum of squares of k-space"
        if isinstance(source, KspaceFile) and source.reference_name is not None:
            self._beside, self.kind = source, f"{source.reference_name} beside k-space"
            self.has_complex_reference = source.has_complex_reference
        elif isinstance(source, ReadoutKspace) and is_hdf5(source.path):
            self._beside = find_dataset_images(source.path, TRUTH)
            if self._beside is not None:
                self.kind = f"{TRUTH} beside k-space"
                self.has_complex_reference = self._beside.is_complex
        is_volume = isinstance(source, TransformedKspace) and self.is_of_each
        numbers = range(self.n_slices) if is_volume else ()
        self.empty = frozenset(index for index in numbers if not self.read_reference(index).any())

    @property
    def conjugated(self) -> bool:
        """Whether k-space is conjugated as it is read, and the reference turned with it."""
        return self._source.conjugated

    @property
    def is_beside(self) -> bool:
        """Whether an image stands beside k-space."""
        return self._beside is not None

    @property
    def is_of_each(self) -> bool:
        """Whether one stands beside each of its slices."""
        return self._beside is not None and self._beside.n_slices == self.n_slices

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.__exit__(*(error or (None, None, None)))
        self.close_beside()

    def close_beside(self) -> None:
        """Close what was opened beside k-space, and leave k-space open."""
        if isinstance(self._beside, ImageStack):
            self._beside.__exit__()

    def read_reference(self, index: int) -> ComplexArray | FloatArray:
        """Read the image, float32 (rows, columns) where it is made of k-space, cropped as ``recon`` crops.

        Raises:
            InputError: no such slice, damaged or non-finite data, or undersampled k-space.
        """
        if isinstance(self._beside, KspaceFile):
            return self._beside.read_reference(index)
        if self._beside is not None:
            if not self._source.conjugated:
                return self._beside.read_image(index)
            is_volume = isinstance(self._source, TransformedKspace)
            image = self._beside.read_image(mirrored(index, self.n_slices) if is_volume else index)
            return turned(image).conj()
        if isinstance(self._source, NonCartesianKspace):
            raise InputError(
                f"{self.path}: has no reference image, and none is made of samples along a trajectory, "
                "expected an image beside them: give one of its own as the reference"
            )
        kspace, shape = self._source.read_slice(index), self._source.recon_shape
        sampled = _share_sampled((kspace != 0).any(axis=0))
        if sampled < LEAST_SAMPLED:
            raise InputError(
                f"{self.path}: has no reference image, and only {sampled:.0%} of its k-space was sampled in "
                f"slice {index}, expected all of it, or an image, for a reference"
            )
        combined: FloatArray = root_sum_of_squares(centred_ifft(kspace))
        return combined if shape is None else centre_crop(combined, shape)

    def affine(self, index: int) -> Matrix | None:
        """Return where it lies."""
        geometry = self._source.geometry(index)
        shape = self._source.recon_shape or (self._source.n_rows, self._source.n_columns)
        return None if geometry is None else slice_affine(geometry, shape)


class VolumeReference:
    """The reference beside the k-space of a volume, which lies as that does, as slices along the readout.

    ``n_slices`` are those that the image keeps of the readout.

    Raises:
        InputError: the reference has fewer, or is damaged.
    """

    is_kspace = True
    reference_is_square = False

    def __init__(self, partitions: KspaceReference, n_slices: int) -> None:
        self._partitions = partitions
        self.path, self.kind = partitions.path, partitions.kind
        self.has_complex_reference = partitions.has_complex_reference
        n = partitions.n_slices
        order = [mirrored(index, n) if partitions.conjugated else index for index in range(n)]
        first = partitions.read_reference(order[0])
        if len(first) < n_slices:
            raise InputError(
                f"{self.path}: the reference has {len(first)} rows along the readout, expected the "
                f"{n_slices} of the image or more"
            )
        self._volume = np.empty((n_slices, n, first.shape[1]), first.dtype)
        for place, index in enumerate(order):
            image = partitions.read_reference(index)
            self._volume[:, place] = centre_crop(image, (n_slices, image.shape[1]))
        self.n_slices = n_slices
        self.empty = frozenset(index for index, image in enumerate(self._volume) if not image.any())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._partitions.__exit__(*error)

    def read_reference(self, index: int) -> ComplexArray | FloatArray:
        """Read the image at a position along the readout."""
        image: ComplexArray | FloatArray = self._volume[index]
        return image

    def affine(self, _index: int) -> Matrix | None:
        """Return None: such a file does not say where it lies."""
        return None


def open_reference(
    path: Path,
    reading: Reading = GUESSED,
    orientation: str | None = None,
    dimensions: int | None = None,
    number: int | None = None,
) -> Reference:
    """Open a file of images of any format, or of k-space with a reference or with all of its samples.

    k-space of 3 ``dimensions`` is read as its slices, of the volume of this ``number``.

    ``orientation`` is what was asked for the k-space of the result. Where that was turned, k-space and what
    stands beside it is turned too; images are compared as they lie.

    Raises:
        InputError: the file is not what it must be, or its axes cannot be told.
        BackendMissingError: the package that reads its format is not installed.
    """
    images = find_images(path, reading, REFERENCE_NAMES, dimensions)
    if images is not None:
        return ImageReference(images, is_volume=dimensions == 3)
    asked = Orientation.AUTO if orientation is None else Orientation(orientation)
    if dimensions != 3:
        return KspaceReference(open_source(path, reading, asked))
    volume = open_volume(path, Path(tempfile.gettempdir()), reading, asked, number)
    if isinstance(volume, ReadoutKspace) or is_array_file(path) or not is_hdf5(path):
        return KspaceReference(volume)
    partitions = KspaceReference(open_source(path, reading, asked))
    if not partitions.is_beside:
        partitions.__exit__()
        return KspaceReference(volume)
    volume.__exit__(None, None, None)
    return VolumeReference(partitions, volume.n_slices)


@contextmanager
def reference_beside(source: KspaceSource | None) -> Iterator[Reference | None]:
    """Yield the images beside open k-space that its slices should be, or None where there are none.

    Raises:
        InputError: they are damaged.
    """
    if source is None:
        yield None
        return
    is_array = isinstance(source, VolumeKspace) and not isinstance(source, ReadoutKspace)
    reference = KspaceReference(
        source.partitions if isinstance(source, VolumeKspace) and is_array else source
    )
    try:
        if not reference.is_of_each:
            yield None
        else:
            yield VolumeReference(reference, source.n_slices) if is_array else reference
    finally:
        reference.close_beside()


def _share_sampled(sampled: BoolArray) -> float:
    """Return how much was sampled of the smallest box around the centre that holds all samples.

    The box is at least half as long as the grid, so that a few lines at the centre do not count as all.
    """
    sides = []
    for axis in (0, 1):
        size, places = sampled.shape[axis], np.flatnonzero(sampled.any(axis=1 - axis))
        if not places.size:
            return 0.0
        centre = size // 2
        before = max(centre - int(places[0]), int(places[-1]) - centre, int(LEAST_SIDE * size / 2))
        after = max(int(places[-1]) - centre, before - 1)  # an even number has one sample less there
        sides.append(slice(max(centre - before, 0), centre + after + 1))
    return float(sampled[sides[0], sides[1]].mean())

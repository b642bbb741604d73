"""Which slice of a reference goes with which image, and how the two lie on one grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.fastmri import KspaceFile
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.results.image_stack import ImageStack
from sbim_deploy.results.overlay import WHOLE, Overlay, Part, matching_slices, overlay
from sbim_deploy.runs.references import Reference
from sbim_deploy.words import plural

# A reference that lies otherwise than the image is told where the image is far from it, 14 % of its norm, and
# turning it leaves less than a quarter of the squared error.
LEAST_UNLIKENESS, BETTER_SHARE = 0.02, 0.25


@dataclass(frozen=True)
class PairedReference:
    """A slice's reference on the grid of its image: ``part`` is what it has of the image."""

    reference: ComplexArray | FloatArray
    part: Part = WHOLE


class Pairing:
    """The references of a file's images.

    A result's slices know their numbers in k-space. Others go by their places in the patient where both files
    tell them, else by their order.

    Attributes:
        indices: for each image the slice of the reference.
        scored: positions and indices where the reference is not zero beside a volume's object.
        remarks: what was done to compare the two, a sentence each.
        by_place: whether they are matched by their places in the patient.

    Raises:
        InputError: there are other numbers of images than of references, no reference at an image's place,
            or nothing in any reference.
    """

    def __init__(self, images: ImageStack, reference: Reference) -> None:
        self._images, self._reference = images, reference
        affines, others = images.affines, self._reference_affines()
        self.by_place = affines is not None and others is not None
        self.remarks: list[str] = []
        if affines is not None and others is not None:
            self.indices = matching_slices(affines, others, (images.path, reference.path))
            self._say("slices and pixels are matched by their places in the patient")
        elif images.result is not None and max(images.result.slice_indices) < reference.n_slices:
            self.indices = list(images.result.slice_indices)
            if others is not None and not reference.is_kspace:
                self._say(
                    "the result does not say where in the patient it lies, and is compared with the "
                    "reference as both lie: write it as DICOM or NIfTI to match their places"
                )
        elif images.n_slices == reference.n_slices:
            self.indices = list(range(images.n_slices))
            if images.result is not None:
                first, last = images.result.slice_indices[0], images.result.slice_indices[-1]
                self._say(f"slices {first} to {last} are compared with all slices of the reference, in order")
            else:
                self._say(
                    "images are compared in their order and as they lie: not both files say where in the "
                    "patient that is"
                )
        else:
            raise InputError(
                f"{images.path}: has {plural(images.n_slices, 'image')} and {reference.path} "
                f"{reference.n_slices}: expected as many, or files that both say where in the patient "
                "they lie"
            )
        numbered = enumerate(self.indices)
        self.scored = [(position, index) for position, index in numbered if index not in reference.empty]
        if not self.scored:
            raise InputError(
                f"{reference.path}: the reference is zero in every slice: there is nothing to score"
            )

    def read(self, position: int) -> PairedReference:
        """Read the reference of an image.

        Raises:
            InputError: it is damaged, zero, or smaller than the image or on another grid.
        """
        index = self.indices[position]
        if self.by_place:
            paired = self._laid_over(position, index)
        else:
            paired = fit_reference(self._reference, index, self._images.shape)
            if self._reference.reference_is_square and paired.part != WHOLE:
                self._say(square_remark(paired.reference.shape, self._images.shape))
        _check_not_zero(self._reference, index, paired.reference)
        return paired

    def _laid_over(self, position: int, index: int) -> PairedReference:
        stored = self._reference.read_reference(index)
        image, other = self._images.affine(position), self._reference.affine(index)
        assert image is not None
        assert other is not None
        where = f"{self._images.path}: image {position}"
        laid: Overlay = overlay(image, self._images.shape, other, (stored.shape[0], stored.shape[1]), where)
        if laid.words:
            self._say(f"the reference is {laid.words} onto the images")
        reference = laid.on_grid(stored)
        if reference.shape != self._images.shape:
            self._say(f"compared over the {_sizes(reference.shape)} pixels that both have")
        return PairedReference(reference, laid.image_part)

    def _reference_affines(self) -> list[np.ndarray] | None:
        affines = [self._reference.affine(index) for index in range(self._reference.n_slices)]
        known = [affine for affine in affines if affine is not None]
        return known if known and len(known) == len(affines) else None

    def _say(self, remark: str) -> None:
        if remark not in self.remarks:
            self.remarks.append(remark)


def fit_reference(reference: Reference | KspaceFile, index: int, shape: tuple[int, int]) -> PairedReference:
    """Return a slice's reference, cropped around the centre to an image of a shape.

    One that fastMRI cropped square is smaller: then it goes with the middle of the image.

    Raises:
        InputError: there is none, or it is smaller than the image otherwise.
    """
    stored = reference.read_reference(index)
    common = tuple(min(pair) for pair in zip(stored.shape, shape, strict=True))
    if common != shape and not reference.reference_is_square:
        raise InputError(
            f"{reference.path}: the reference is {stored.shape}, smaller than the result's {shape}: "
            "is it the file that was reconstructed?"
        )
    starts = [large // 2 - small // 2 for large, small in zip(shape, common, strict=True)]
    part = tuple(slice(start, start + size) for start, size in zip(starts, common, strict=True))
    return PairedReference(centre_crop(stored, common), WHOLE if common == shape else (part[0], part[1]))


def reference_magnitude(reference: Reference | KspaceFile, index: int, shape: tuple[int, int]) -> FloatArray:
    """Return the magnitude of a slice's reference, cropped by :func:`fit_reference`.

    Raises:
        InputError: there is none, or it is smaller than the image, or zero.
    """
    fitting = fit_reference(reference, index, shape).reference
    _check_not_zero(reference, index, fitting)
    magnitude: FloatArray = np.abs(fitting)
    return magnitude


def better_lie(image: FloatArray, reference: FloatArray) -> str | None:
    """Return how a reference would have to be turned to fit a magnitude much better, or None where it fits.

    Both are (rows, columns) of one shape; whether their scales agree does not count.
    """
    found = {"": _unlikeness(image, reference)}
    for transpose in (False, True) if image.shape[0] == image.shape[1] else (False,):
        for flips in ((), (0,), (1,), (0, 1)):
            turned = Overlay(transpose, flips)
            found.setdefault(turned.words, _unlikeness(image, turned.on_grid(reference)))
    best = min(found, key=found.__getitem__)
    much_better = found[best] < BETTER_SHARE * found[""] and found[""] > LEAST_UNLIKENESS
    return best if best and much_better else None


def _unlikeness(image: FloatArray, reference: FloatArray) -> float:
    """Return the share of an image's energy that no multiple of the reference explains."""
    energies = float(np.vdot(image, image)) * float(np.vdot(reference, reference))
    return 1 - float(np.vdot(image, reference)) ** 2 / energies if energies else 1.0


def square_remark(common: tuple[int, ...], shape: tuple[int, int]) -> str:
    """Return what to say of a reference that fastMRI cropped square."""
    return (
        "the reference is cropped square to the narrower side of k-space, as fastMRI does: compared over the "
        f"middle {_sizes(common)} of {_sizes(shape)} pixels"
    )


def _check_not_zero(reference: Reference | KspaceFile, index: int, values: ComplexArray | FloatArray) -> None:
    if not values.any():
        raise InputError(
            f"{reference.path}: the reference of slice {index} is zero: there is nothing to score"
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))

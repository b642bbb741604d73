"""One image laid over another by their places in the patient: slices by position, pixels by directions.

Images of one scan differ by flips, a transpose and a crop. What would need another grid is refused: an
interpolated image has other errors than its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.results.geometry import Matrix

MAX_DRIFT = 0.5  # pixels by which the grids may come apart over the whole image
SLICE_SHARE = 0.25  # of a slice's thickness: so far apart two slices are still one
WHOLE = (slice(None), slice(None))

Part = tuple[slice, slice]


@dataclass(frozen=True)
class Overlay:
    """How a reference is brought onto an image's grid.

    It is transposed, then flipped along the axes of ``flips``, then ``reference_part`` of it is the same
    place as ``image_part`` of the image.
    """

    transpose: bool = False
    flips: tuple[int, ...] = ()
    reference_part: Part = WHOLE
    image_part: Part = WHOLE

    def on_grid(self, reference: NDArray[Any]) -> NDArray[Any]:
        """Return the part of the reference that the image has too, in the image's rows and columns."""
        turned = reference.T if self.transpose else reference
        return np.flip(turned, self.flips)[self.reference_part]

    @property
    def words(self) -> str:
        """What was done, or nothing."""
        done = ["transposed"] if self.transpose else []
        done += [f"flipped along its {('rows', 'columns')[axis]} axis" for axis in self.flips]
        return " and ".join(done)


def matching_slices(
    images: Sequence[Matrix], references: Sequence[Matrix], paths: tuple[Path, Path]
) -> list[int]:
    """Return for each image the reference at its place; several at one place count in their order.

    Raises:
        InputError: an image has no reference at its place, or one place has other numbers of both.
    """
    normal = np.cross(references[0][:3, 0], references[0][:3, 1])
    normal /= np.linalg.norm(normal)
    tolerance = SLICE_SHARE * float(np.linalg.norm(references[0][:3, 2]))
    heights = np.array([affine[:3, 3] @ normal for affine in references])
    taken: dict[int, int] = {}
    found = []
    for position, affine in enumerate(images):
        height = float(affine[:3, 3] @ normal)
        near = np.flatnonzero(np.abs(heights - height) <= tolerance)
        if not near.size:
            raise InputError(
                f"{paths[0]}: image {position} lies at {height:.1f} mm along the slices' normal, where "
                f"{paths[1]} has none: its slices lie at {heights.min():.1f} to {heights.max():.1f} mm"
            )
        closest = near[np.argmin(np.abs(heights[near] - height))]
        same = np.flatnonzero(np.abs(heights - heights[closest]) < 1e-3 + 1e-3 * tolerance)
        count = taken.get(int(same[0]), 0)
        taken[int(same[0])] = count + 1
        if len(same) > 1 and count >= len(same):
            raise InputError(
                f"{paths[0]}: has more images at {height:.1f} mm than the {len(same)} of {paths[1]}: name "
                "files of one series"
            )
        found.append(int(same[min(count, len(same) - 1)]))
    return found


def overlay(
    image: Matrix,
    image_shape: tuple[int, int],
    reference: Matrix,
    reference_shape: tuple[int, int],
    where: str,
) -> Overlay:
    """Return how a reference of an affine and a shape comes onto the grid of an image.

    Raises:
        InputError: the planes are not parallel, the pixels have other sizes or directions, or the two have
            no part in common.
    """
    steps = np.linalg.inv(reference) @ image  # from the image's (row, column) to the reference's
    in_plane = steps[:2, :2]
    rounded = np.rint(in_plane)
    drift = float(np.abs(in_plane - rounded).max() * max(image_shape))
    tilt = float(np.abs(steps[2, :2]).max() * max(image_shape))
    if abs(round(float(np.linalg.det(rounded)))) != 1 or np.abs(rounded).sum() != 2 or drift > MAX_DRIFT:
        raise InputError(
            f"{where}: the pixels lie on another grid than the reference's, {_grid(image)} against "
            f"{_grid(reference)}: resample one of them"
        )
    if tilt > 1:
        raise InputError(f"{where}: its plane is not parallel to the reference's: resample one of them")
    transpose = bool(rounded[0, 1])
    flips = []
    image_part, reference_part = [], []
    for axis in (0, 1):
        of_reference = 1 - axis if transpose else axis
        size, other = image_shape[axis], reference_shape[of_reference]
        start = round(float(steps[of_reference, 3]))  # the reference's pixel at the image's first
        if rounded[of_reference, axis] < 0:
            flips.append(axis)
            start = other - 1 - start
        low, high = max(0, -start), min(size, other - start)
        if low >= high:
            raise InputError(f"{where}: lies beside the reference, they have no part in common")
        image_part.append(slice(low, high))
        reference_part.append(slice(low + start, high + start))
    return Overlay(
        transpose,
        tuple(flips),
        (reference_part[0], reference_part[1]),
        (image_part[0], image_part[1]),
    )


def _grid(affine: Matrix) -> str:
    sizes = np.linalg.norm(affine[:3, :2], axis=0)
    directions = " and ".join(
        "(" + ", ".join(f"{value:.2f}" for value in affine[:3, axis] / sizes[axis]) + ")" for axis in (0, 1)
    )
    return f"pixels of {sizes[0]:.3g} x {sizes[1]:.3g} mm along {directions}"

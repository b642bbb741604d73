"""Standard views: how an image is laid out for people, who see the patient as on a film.

Axial slices are seen from the feet (a row of pixels runs from the patient's right to the left, a column from
the front to the back), coronal ones from the front (right to left, head to feet), sagittal ones from the left
(front to back, head to feet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.records import SliceGeometry, Vector

P = TypeVar("P", bound=np.generic)

# (along a row of pixels, down a column), to the left, to the back and up, by the axis nearest the normal:
# sagittal, coronal, axial.
_STANDARD = (
    ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
)
NAMES = ("sagittal", "coronal", "axial")
_FIRST_TO_LAST = (2, 1, 0)  # which of two planes that are as near is taken
# Of two components that are as large: at 45 degrees the last bits must not decide a slice's view.
_TIE = 1e-3


@dataclass(frozen=True)
class View:
    """How the pixels (rows, columns) of an image are laid out: transposed or not, then turned round or not.

    ``flipped`` is of the (rows, columns) after the transposition. ``name`` is the view's, empty where the
    image stays on the grid of k-space.
    """

    transposed: bool = False
    flipped: tuple[bool, bool] = (False, False)
    name: str = ""

    @property
    def exchanged(self) -> View:
        """The same with rows and columns exchanged, for formats whose first axis is along a row of pixels."""
        rows, columns = self.flipped
        return replace(self, transposed=not self.transposed, flipped=(columns, rows))

    def pixels(self, image: NDArray[P]) -> NDArray[P]:
        """Return the pixels of an image (..., rows, columns) as they are laid out."""
        laid_out = np.swapaxes(image, -2, -1) if self.transposed else image
        rows, columns = (slice(None, None, -1 if turned else 1) for turned in self.flipped)
        return laid_out[..., rows, columns]

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the (rows, columns) that an image of these has then."""
        return (shape[1], shape[0]) if self.transposed else shape

    def geometry(self, geometry: SliceGeometry, shape: tuple[int, int]) -> SliceGeometry:
        """Return where the laid-out pixels of an image of ``shape`` lie: every pixel where it was.

        ``read_dir`` and ``phase_dir`` are then the directions down a column and along a row of pixels,
        whatever the readout was. ``slice_dir`` stays.
        """
        down, along = np.asarray(geometry.read_dir), np.asarray(geometry.phase_dir)
        extents = geometry.field_of_view_mm
        if self.transposed:
            down, along, extents = along, down, (extents[1], extents[0], extents[2])
        position = np.asarray(geometry.position, np.float64)
        directions = []
        for axis, (direction, turned) in enumerate(zip((down, along), self.flipped, strict=True)):
            n_pixels = self.shape(shape)[axis]
            if turned:
                # The pixel n // 2 was n - 1 - n // 2 before: its neighbour where n is even.
                position = (
                    position + (n_pixels - 1 - 2 * (n_pixels // 2)) * extents[axis] / n_pixels * direction
                )
                direction = -direction
            directions.append(_vector(direction))
        return replace(
            geometry,
            position=_vector(position),
            read_dir=directions[0],
            phase_dir=directions[1],
            field_of_view_mm=extents,
        )


ON_GRID = View()


def upright_view(geometry: SliceGeometry | None) -> View:
    """Return the layout of a slice's image that is nearest a standard view; the grid's where nothing tells.

    The plane goes by the axis nearest the slice's normal. Of the image's two directions the one nearest the
    standard view's rows runs along a row of pixels; the other runs down, so that the slice is seen from the
    standard side and never mirrored.
    """
    if geometry is None:
        return ON_GRID
    down, along = (np.asarray(each, np.float64) for each in (geometry.read_dir, geometry.phase_dir))
    normal = np.abs(np.cross(down, along))
    if not np.isfinite(normal).all() or not normal.any():
        return ON_GRID
    plane = next(axis for axis in _FIRST_TO_LAST if normal[axis] >= normal.max() - _TIE)
    row, column = (np.asarray(each) for each in _STANDARD[plane])
    transposed = bool(abs(down @ row) > abs(along @ row) + _TIE)
    if transposed:
        down, along = along, down
    turned = bool(along @ row < 0)
    side = np.cross(along, down) @ np.cross(row, column)
    return View(transposed, (bool(side < 0) != turned, turned), NAMES[plane])


def _vector(values: Sequence[float] | NDArray[Any]) -> Vector:
    x, y, z = (float(value) + 0.0 for value in values)  # no negative zeros
    return x, y, z

"""Which axis of an array is what: said by the user, or guessed from the sizes and then said to the user.

A guess needs sizes that leave one reading: few coils against the rows and columns. What could be two things
is refused, with the words that say which it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sbim_deploy.errors import InputError

SLICE, COIL, ROW, COLUMN = AXES = ("slice", "coil", "row", "column")
UNNAMED = "1"  # an axis of size 1 that no name is given to
MAX_COILS = 1024

MIN_SIDE = 16
MAX_ASPECT = 6  # readouts are oversampled twofold, and fields of view are up to three times as long as wide
MAX_GUESSED_COILS = 128
COIL_SHARE = 0.5  # of the shorter side: so many coils at most

VOLUME = (SLICE, COIL, ROW, COLUMN)  # fastMRI's order and this program's own
_GUESSES = {
    2: ((ROW, COLUMN),),
    3: ((COIL, ROW, COLUMN), (ROW, COLUMN, COIL), (ROW, COIL, COLUMN)),
    4: (
        VOLUME,
        (COIL, SLICE, ROW, COLUMN),
        (SLICE, ROW, COLUMN, COIL),
        (COIL, ROW, COLUMN, SLICE),
        (ROW, COLUMN, COIL, SLICE),
        (ROW, COLUMN, SLICE, COIL),
        (ROW, COIL, COLUMN, SLICE),
    ),
}
_IMAGES = {2: ((ROW, COLUMN),), 3: ((SLICE, ROW, COLUMN), (ROW, COLUMN, SLICE))}


@dataclass(frozen=True)
class Reading:
    """How an array is read: its ``layout``, such as ``coil,row,column``, and its name; None is guessed.

    ``row`` is the axis along the readout. Samples along the ``trajectory`` of another file become images of
    ``matrix`` (rows, columns); None is what the trajectory resolves.
    """

    layout: str | None = None
    variable: str | None = None
    trajectory: Path | None = None
    matrix: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the words of the layout."""
        if self.layout is not None:
            parse_layout(self.layout)


GUESSED = Reading()


@dataclass(frozen=True)
class Layout:
    """The name of each axis of an array, with the sizes of that array."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def text(self) -> str:
        """The layout as people write it."""
        return ",".join(axis for axis in self.axes if axis != UNNAMED)

    def size(self, axis: str) -> int:
        """Return the size of an axis, 1 where the array has no such axis."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def key(self, index: int) -> tuple[int | slice, ...]:
        """Return what takes one slice out of the array."""
        chosen: dict[str, int | slice] = {SLICE: index, UNNAMED: 0}
        return tuple(chosen.get(axis, slice(None)) for axis in self.axes)

    @property
    def slice_axis(self) -> int | None:
        """The axis along which slices lie, None where there is none."""
        return self.axes.index(SLICE) if SLICE in self.axes else None

    def arranged(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return what the key takes as (coil, row, column)."""
        left = [axis for axis in self.axes if axis not in (SLICE, UNNAMED)]
        order = [left.index(axis) for axis in AXES if axis in left]
        named = part.reshape([self.size(axis) for axis in left]).transpose(order)
        return named.reshape(self.size(COIL), self.size(ROW), self.size(COLUMN))


def parse_layout(text: str) -> tuple[str, ...]:
    """Return the axes that a layout names.

    Raises:
        InputError: a name is unknown or given twice, or the row or the column is missing.
    """
    names = tuple(name.strip() for name in text.split(","))
    if set(names) - set(AXES) or len(set(names)) < len(names) or not {ROW, COLUMN} <= set(names):
        raise InputError(
            f"layout is {text[:80]!r}: expected the axes in their order, row and column and perhaps slice "
            "and coil, such as coil,row,column"
        )
    return names


def named_layout(text: str, shape: tuple[int, ...], label: str) -> Layout:
    """Return the layout that the user named, for an array of this shape; axes of size 1 may go unnamed.

    Raises:
        InputError: there are more or fewer axes than names, or too many coils.
    """
    names = parse_layout(text)
    axes = names
    if len(names) != len(shape):
        left = iter(names)
        axes = tuple(UNNAMED if size == 1 else next(left, "") for size in shape)
        if "" in axes or next(left, None) is not None:
            raise InputError(f"{label}: has shape {shape}, and the layout {text} names {len(names)} axes")
    layout = Layout(axes, shape)
    if layout.size(COIL) > MAX_COILS:
        raise InputError(f"{label}: has {layout.size(COIL)} coils by {text}, expected at most {MAX_COILS}")
    return layout


def guess_layout(shape: tuple[int, ...], label: str) -> Layout:
    """Return the only layout of k-space that the sizes allow, or the one in use here where it is one of them.

    Raises:
        InputError: none or several are possible.
    """
    return _only_layout(shape, label, _GUESSES)


def guess_image_layout(shape: tuple[int, ...], label: str) -> Layout:
    """Return the only layout of images that the sizes allow.

    Raises:
        InputError: none or several are possible.
    """
    return _only_layout(shape, label, _IMAGES)


def guess_volume_layout(shape: tuple[int, ...], label: str) -> Layout:
    """Return fastMRI's layout of a volume's k-space, or the one with its coils first where only that will do.

    ``slice`` is the second phase encode.

    Raises:
        InputError: there are not four axes, or neither is possible.
    """
    for axes in (VOLUME, (COIL, SLICE, ROW, COLUMN)):
        if len(shape) == len(axes) and _is_plausible(axes, shape):
            return Layout(axes, shape)
    raise InputError(
        f"{label}: has shape {shape}, which does not tell the axes of a volume: say which they are by "
        "--layout, such as coil,slice,row,column; row is along the readout, slice the second phase encode"
    )


def layout_of_sizes(shape: tuple[int, ...], sizes: dict[str, int]) -> Layout | None:
    """Return the layout by which an array has sizes that are known, those of its slice, coil, row and column.

    Rows come before columns where both would do. None where no layout gives these sizes.
    """
    candidates = [*_GUESSES.get(len(shape), ()), *_IMAGES.get(len(shape), ())]
    for axes in candidates:
        layout = Layout(axes, shape)
        if all(layout.size(axis) == size for axis, size in sizes.items()):
            return layout
    return None


def _only_layout(
    shape: tuple[int, ...], label: str, guesses: dict[int, tuple[tuple[str, ...], ...]]
) -> Layout:
    kept = shape
    if len(shape) > max(guesses):
        kept = tuple(size for size in shape if size != 1)
    possible = [Layout(axes, kept) for axes in guesses.get(len(kept), ()) if _is_plausible(axes, kept)]
    if not possible:
        squeezed = tuple(size for size in shape if size != 1)
        if len(squeezed) < len(kept):
            return _unsqueezed(_only_layout(squeezed, label, guesses), shape)
        raise InputError(
            f"{label}: has shape {shape}, which does not tell its axes: say which they are by --layout, "
            f"such as {_example(len(kept), guesses)}"
        )
    if len(possible) > 1 and possible[0].axes != VOLUME:
        named = " or ".join(f"--layout {layout.text}" for layout in possible)
        raise InputError(f"{label}: has shape {shape}, which can be read in several ways: say {named}")
    return _unsqueezed(possible[0], shape)


def _unsqueezed(layout: Layout, shape: tuple[int, ...]) -> Layout:
    if layout.shape == shape:
        return layout
    left = iter([axis for axis in layout.axes if axis != UNNAMED])
    return Layout(tuple(UNNAMED if size == 1 else next(left) for size in shape), shape)


def _is_plausible(axes: tuple[str, ...], shape: tuple[int, ...]) -> bool:
    layout = Layout(axes, shape)
    short, long = sorted((layout.size(ROW), layout.size(COLUMN)))
    n_coils, n_slices = layout.size(COIL), layout.size(SLICE)
    if short < MIN_SIDE or long > MAX_ASPECT * short or n_slices > long:
        return False
    if COIL in axes and n_coils > min(MAX_GUESSED_COILS, short * COIL_SHARE):
        return False
    if COIL not in axes and SLICE in axes and n_slices > short:
        return False
    # An axis of size 1 that stands where fastMRI has its coils, or last, may be the coil of a single one.
    return not (n_coils == 1 < n_slices and COIL in axes and axes[1:] != VOLUME[1:] and axes[-1] != COIL)


def _example(n_axes: int, guesses: dict[int, tuple[tuple[str, ...], ...]]) -> str:
    examples: Sequence[tuple[str, ...]] = guesses.get(n_axes) or guesses[max(guesses)]
    shown = [",".join(axes) for axes in examples[:1]]
    if n_axes == 3 and guesses is _GUESSES:
        shown.append(f"{SLICE},{ROW},{COLUMN}")
    return " or ".join(shown)


def bytes_of_slice(layout: Layout, n_bytes_each: int) -> int:
    """Return the memory that one slice takes."""
    return math.prod(layout.shape) // max(layout.size(SLICE), 1) * n_bytes_each

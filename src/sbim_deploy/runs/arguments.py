"""What Python callers hand over, checked, and messages in their words.

Messages of the rooms below name options of the command line where they tell the way out. To a caller in
Python they name arguments.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Self

import numpy as np

from sbim_deploy.errors import CancelledError, InputError, SbimDeployError
from sbim_deploy.io.arrays import array_in_memory, as_array
from sbim_deploy.io.layouts import SLICE, VOLUME, Reading, named_layout
from sbim_deploy.kspace.arrays import ArrayKspace
from sbim_deploy.kspace.sources import KspaceSource, MapsSource, open_source
from sbim_deploy.kspace.stack import StackKspace, StackMaps
from sbim_deploy.kspace.volume import VolumeKspace, VolumeMaps
from sbim_deploy.kspace.volume_sources import open_volume, volume_of
from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.records import MAX_MAP_SETS, BoolArray, ComplexArray

Progress = Callable[[int, int], None]
"""(network calls done, network calls in all)"""
Cancel = Callable[[], bool] | threading.Event

_OPTION = re.compile(r"--([a-z]+(?:-[a-z0-9]+)*)(?: (\d[\d.]*|auto|score|(?:[a-z]+,)+[a-z]+)\b)?")


@contextmanager
def in_python() -> Iterator[None]:
    """Name arguments where messages of errors name options of the command line."""
    try:
        yield
    except SbimDeployError as error:
        error.args = tuple(words_in_python(str(each)) for each in error.args)
        raise


def doubt_in_python(doubt: Fault) -> Fault:
    """Return a doubt whose message names arguments."""
    return replace(doubt, message=words_in_python(doubt.message))


def words_in_python(message: str) -> str:
    """Return a message that names arguments in place of options."""
    return _OPTION.sub(_argument, message)


def _argument(option: re.Match[str]) -> str:
    name, value = option[1].replace("-", "_"), option[2]
    if value is None:
        return f"{name}=..."
    return f"{name}={value}" if value[0].isdigit() else f'{name}="{value}"'


def coils_of(values: Any, what: str, layout: str | None) -> ComplexArray:
    """Return one slice of k-space as (coil, rows, columns).

    Raises:
        InputError: it is none.
    """
    array = complex64_of(values, what)
    if layout is not None:
        axes = named_layout(layout, array.shape, what)
        if axes.size(SLICE) > 1:
            raise InputError(
                f"{what} has {axes.size(SLICE)} slices by {layout}: give them one by one, or all to "
                "reconstruct_volume()"
            )
        return np.ascontiguousarray(axes.arranged(array[axes.key(0)]))
    if array.ndim not in (2, 3):
        raise InputError(
            f"{what} has shape {array.shape}, expected (coil, rows, columns), one slice at a time; say other "
            "axes by --layout, or give several slices to reconstruct_volume()"
        )
    return array.reshape(-1, *array.shape[-2:])


def complex64_of(values: Any, what: str) -> ComplexArray:
    """Return an array as complex64.

    Raises:
        InputError: it is not complex, or not finite.
    """
    array = as_array(values, what)
    if array.dtype.kind != "c":
        raise InputError(f"{what} has dtype {array.dtype}, expected complex")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and that is refused
        converted: ComplexArray = array.astype(np.complex64, order="C", copy=False)
    n_bad = converted.size - int(np.count_nonzero(np.isfinite(converted)))
    if n_bad:
        raise InputError(f"{what} has {n_bad} of {converted.size} values that are not finite in complex64")
    return converted


def mask_of(values: Any, shape: tuple[int, ...]) -> BoolArray:
    """Return a mask as bool, of a shape that k-space (rows, columns) takes.

    Raises:
        InputError: it has another shape, or is no mask.
    """
    array = as_array(values, "mask")
    rows, columns = shape
    if array.dtype.kind not in "biuf" or array.shape not in (
        (columns,),
        (1, columns),
        (rows, 1),
        (rows, columns),
    ):
        raise InputError(
            f"mask has shape {array.shape} and dtype {array.dtype}, expected bool ({columns},), "
            f"(1, {columns}), ({rows}, 1) or ({rows}, {columns}) as k-space has"
        )
    mask: BoolArray = array != 0
    return mask


def whole_of(value: Any, what: str) -> int:
    """Return a whole number.

    Raises:
        InputError: it is none.
    """
    try:
        return int(value.__index__())
    except (AttributeError, TypeError):
        raise InputError(f"{what} is {value!r}: expected a whole number") from None


def pair_of(values: Any) -> tuple[int, int] | None:
    """Return two whole numbers, or None.

    Raises:
        InputError: they are none.
    """
    if values is None:
        return None
    if not isinstance(values, Sequence) or len(values) != 2:
        raise InputError(f"got {values!r}: expected two whole numbers, such as (0, 4)")
    return whole_of(values[0], "the first"), whole_of(values[1], "the second")


def noise_of(value: Any) -> float | None:
    """Return the standard deviation of noise, or None.

    Raises:
        InputError: it is no finite number above 0.
    """
    if value is None:
        return None
    try:
        noise = float(value)
    except (TypeError, ValueError):
        raise InputError(f"noise is {value!r}: expected a number, of the whole slice") from None
    if not 0 < noise < np.inf:
        raise InputError(f"noise is {noise:g}: expected a finite number above 0")
    return noise


class GivenMaps:
    """Coil maps of an array (slice, coil, rows, columns), or with two sets of each slice."""

    def __init__(self, maps: Any, n_slices: int):
        self._maps = maps if hasattr(maps, "shape") else as_array(maps, "maps")
        shape = tuple(self._maps.shape)
        if len(shape) not in (4, 5) or shape[0] != n_slices or (len(shape) == 5 and shape[1] != MAX_MAP_SETS):
            raise InputError(
                f"maps has shape {shape}, expected ({n_slices}, coil, rows, columns) or "
                f"({n_slices}, {MAX_MAP_SETS}, coil, rows, columns)"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the array is the caller's."""

    def read_maps(self, index: int) -> ComplexArray:
        """Return the maps of a slice, complex64."""
        return complex64_of(self._maps[index], "maps")


def maps_of(maps: Any, source: KspaceSource) -> MapsSource:
    """Return the maps of an array as those of the slices of k-space; a volume's lie as its k-space does.

    Raises:
        InputError: they are of another shape.
    """
    if isinstance(source, VolumeKspace):
        return VolumeMaps(GivenMaps(maps, source.n_rows), source)
    given = GivenMaps(maps, source.n_slices)
    return StackMaps(given, source) if isinstance(source, StackKspace) else given


def source_of(kspace: Any, mask: Any, layout: str | None, dimensions: int = 2) -> KspaceSource:
    """Open k-space: a file by its path, or an array (slice, coil, rows, columns) with its mask.

    Of 3 ``dimensions`` slices are partitions, and what is transformed lies in the folder of temporary files.

    Raises:
        InputError: the file cannot be read, or the array has other axes.
    """
    if is_path(kspace):
        if dimensions == 3:
            return open_volume(Path(kspace), Path(gettempdir()), Reading(layout))
        return open_source(Path(kspace), Reading(layout))
    arrays = {"k-space": kspace} if mask is None else {"k-space": kspace, "mask": mask}
    file = array_in_memory(arrays)
    n_axes = len(file.arrays["k-space"].shape)
    if layout is None and n_axes != len(VOLUME):
        raise InputError(
            f"k-space has shape {file.arrays['k-space'].shape}, expected (slice, coil, rows, columns); say "
            "other axes by --layout, or give one slice to reconstruct()"
        )
    source = ArrayKspace(file, Reading(",".join(VOLUME) if layout is None else layout))
    return volume_of(source, Path(gettempdir())) if dimensions == 3 else source


def is_path(value: Any) -> bool:
    """Tell whether a value names a file."""
    return isinstance(value, str | os.PathLike)


def step_hook(
    progress: Progress | None, cancel: Cancel | None, n_calls: int, n_before: int = 0
) -> Callable[[int], None]:
    """Return what hears of network calls that are done, ``n_before`` not counted."""
    is_cancelled = cancel.is_set if isinstance(cancel, threading.Event) else cancel

    def step(n_done: int) -> None:
        if is_cancelled is not None and is_cancelled():
            raise CancelledError("the reconstruction was cancelled")
        if progress is not None:
            progress(n_before + n_done, n_calls)

    return step

"""What all lines of a twix measurement tell together, and what each flag and quaternion of a line means.

The flags are those of twixtools' names; a quaternion's directions are phase encoding, readout and slice, as
siemens_to_ismrmrd has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.placement import DROPPED
from sbim_deploy.kspace.twix_lines import FID_NAVIGATOR, Lines
from sbim_deploy.mrd.file import HEADERS_AT_ONCE
from sbim_deploy.mrd.messages import Flag

_FLAGS = {
    "RTFEEDBACK": Flag.IS_RTFEEDBACK_DATA,
    "HPFEEDBACK": Flag.IS_HPFEEDBACK_DATA,
    "REFPHASESTABSCAN": Flag.IS_PHASE_STABILIZATION_REFERENCE,
    "PHASESTABSCAN": Flag.IS_PHASE_STABILIZATION,
    "PHASCOR": Flag.IS_PHASECORR_DATA,
    "PATREFSCAN": Flag.IS_PARALLEL_CALIBRATION,
    "PATREFANDIMASCAN": Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING,
    "REFLECT": Flag.IS_REVERSE,
    "NOISEADJSCAN": Flag.IS_NOISE_MEASUREMENT,
    "RETRO_DUMMYSCAN": Flag.IS_DUMMYSCAN_DATA,
    FID_NAVIGATOR: Flag.IS_NAVIGATION_DATA,
}
_SEVERAL_SLICES = ("SLICE_ACCEL_REFSCAN", "SLICE_ACCEL_PHASCOR")
_SERIES = ("Sli", "Eco", "Phs", "Rep", "Set")
_NEAR_MM = 0.1
_PARALLEL = 0.999


@dataclass
class Counted:
    """What all lines tell of a counter of theirs.

    Attributes:
        centers: how often each count is said to be the centre of k-space, by lines of images.
        offsets: the lowest and highest count of images and calibration, from the centre that each says.
        highest: the highest count of these.
    """

    centers: Counter[int] = field(default_factory=Counter)
    offsets: tuple[int, int] = (0, 0)
    highest: int = 0

    def add(self, counts: NDArray[np.uint16], centers: NDArray[np.uint16]) -> None:
        """Take in lines (line,) of images and calibration."""
        counted = counts.astype(np.int64)
        offsets = counted - centers
        lowest, highest = self.offsets
        self.offsets = min(lowest, int(offsets.min())), max(highest, int(offsets.max()))
        self.highest = max(self.highest, int(counted.max()))


class Survey:
    """What all lines of a measurement tell together.

    Attributes:
        noise: the numbers of the noise lines.
        image: the number of the first line of an image, or None.
        n_image: how many lines images have.
        lines, partitions: what is told of the first and the second phase encode.
        slices: the first position and normal of each slice counter.

    Args:
        lines: the lines.
    """

    def __init__(self, lines: Lines) -> None:
        self.noise: list[int] = []
        self.image: int | None = None
        self.n_image = 0
        self.lines, self.partitions = Counted(), Counted()
        self.slices: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._partitions: set[int] = set()
        self._series: set[tuple[int, ...]] = set()
        self._has_several_slices = False
        several = np.uint64(sum(lines.flags[name] for name in _SEVERAL_SLICES))
        for start in range(0, len(lines), HEADERS_AT_ONCE):
            headers = lines.headers(slice(start, start + HEADERS_AT_ONCE))
            self._has_several_slices |= bool((headers["EvalInfoMask"] & several).any())
            self._add(start, headers, mrd_flags(headers, lines.flags))

    def check_is_cartesian(self, is_3d: bool, where: str) -> None:
        """Check that the lines are Cartesian, whatever the protocol says, and have partitions as it says.

        Raises:
            InputError: they are not, or have others.
        """
        if len(self._partitions) > 1 and not is_3d:
            raise InputError(
                f"{where}: its lines have partitions {min(self._partitions)} to {max(self._partitions)} and "
                "its protocol slices, expected the same; the header is damaged, fetch the file again"
            )
        if len({key[:-1] for key in self._series}) < len(self._series):
            raise InputError(
                f"{where}: has lines of both directions in one image, as EPI has, expected those of one: "
                "correct their phase and regrid them first"
            )
        if self._has_several_slices:
            raise InputError(
                f"{where}: excites several slices at once, expected one at a time: separate them first"
            )

    def slice_order(self, places: NDArray[np.float64], normals: NDArray[np.float64]) -> dict[int, int]:
        """Return the protocol's number of each slice counter, which counts slices as they were measured.

        ``places`` and ``normals`` (slice, 3) are the protocol's. The slices are told by where they lie; the
        counters stay where that does not tell them apart.
        """
        order = {}
        for number, (position, normal) in self.slices.items():
            with np.errstate(over="ignore", invalid="ignore"):
                is_near = np.linalg.norm(places - position, axis=1) < _NEAR_MM
                is_parallel = np.abs(normals @ normal) > _PARALLEL
            near = np.flatnonzero(is_near & is_parallel)
            if len(near) == 1:
                order[number] = int(near[0])
        is_told = len(order) == len(self.slices) == len(set(order.values()))
        return order if is_told else {number: number for number in self.slices}

    def _add(self, start: int, headers: NDArray[np.void], flags: NDArray[np.uint64]) -> None:
        noise = has(flags, Flag.IS_NOISE_MEASUREMENT)
        self.noise += (start + np.flatnonzero(noise)).tolist()
        placed = ~noise & ~np.logical_or.reduce([has(flags, flag) for flag in DROPPED])
        if placed.any():
            counters = headers["Counter"][placed]
            self.lines.add(counters["Lin"], headers["CenterLin"][placed])
            self.partitions.add(counters["Par"], headers["CenterPar"][placed])
        both = has(flags, Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING)
        images = np.flatnonzero(placed & (both | ~has(flags, Flag.IS_PARALLEL_CALIBRATION)))
        if images.size:
            self.image = start + int(images[0]) if self.image is None else self.image
            self._add_images(headers[images], has(flags[images], Flag.IS_REVERSE))

    def _add_images(self, headers: NDArray[np.void], is_reverse: NDArray[np.bool_]) -> None:
        counters = headers["Counter"]
        self.n_image += len(headers)
        self.lines.centers.update(headers["CenterLin"].tolist())
        self.partitions.centers.update(headers["CenterPar"].tolist())
        self._partitions |= set(counters["Par"].tolist())
        keys = np.stack([*(counters[name] for name in _SERIES), is_reverse.astype(np.uint16)], axis=1)
        self._series |= set(map(tuple, np.unique(keys, axis=0).tolist()))
        numbers, first = np.unique(counters["Sli"], return_index=True)
        normals = directions(headers[first])[..., 2]
        for number, position, normal in zip(
            numbers.tolist(), positions(headers[first]), normals, strict=True
        ):
            self.slices.setdefault(number, (position, normal))


def mrd_flags(headers: NDArray[np.void], bits: Mapping[str, int]) -> NDArray[np.uint64]:
    """Return MRD's flags (line,) of lines; ``bits`` are those of twix, by name."""
    mask = headers["EvalInfoMask"].astype(np.uint64)
    flags = np.zeros(len(headers), np.uint64)
    for name, flag in _FLAGS.items():
        raised = (mask & np.uint64(bits[name])) != 0
        flags |= raised.astype(np.uint64) << np.uint64(flag - 1)
    return flags


def has(flags: NDArray[np.uint64], flag: Flag) -> NDArray[np.bool_]:
    """Tell of which flags (line,) one is raised."""
    raised: NDArray[np.bool_] = (flags & np.uint64(1 << (flag - 1))) != 0
    return raised


def positions(headers: NDArray[np.void]) -> NDArray[np.float64]:
    """Return where slices lie (line, 3), in mm to the left, to the back and up."""
    places = headers["SliceData"]["SlicePos"]
    with np.errstate(invalid="ignore"):
        return np.stack([places[axis].astype(np.float64) for axis in ("Sag", "Cor", "Tra")], axis=-1)


def directions(headers: NDArray[np.void]) -> NDArray[np.float64]:
    """Return the rotation (line, 3, 3) of each quaternion (w, x, y, z); zero where that is zero, not given.

    Its columns are the directions of phase encoding, readout and slice.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        quaternions = headers["SliceData"]["Quaternion"].astype(np.float64)
        w, x, y, z = np.moveaxis(quaternions, -1, 0)
        rows = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    rotation = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    is_given: NDArray[np.bool_] = np.any(quaternions != 0, axis=-1)
    return np.where(is_given[..., None, None], rotation, 0.0)

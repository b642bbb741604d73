"""What a Cartesian readout is for, and where its samples lie on the grid of k-space.

Inati et al. 2017 (doi:10.1002/mrm.26089) and the ISMRMRD documentation define the counters and the flags.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.image_grid import ImageGrid, half, image_grid, measured_lines, measured_readout
from sbim_deploy.mrd.header import Encoding, Limit, MrdHeader
from sbim_deploy.mrd.messages import COMPRESSIONS, Flag, Readout
from sbim_deploy.records import DIRECTION_TOLERANCE, ComplexArray, SliceGeometry, Vector

IMAGE, CALIBRATION, IMAGE_AND_CALIBRATION, NOISE = "image", "calibration", "image and calibration", "noise"
DROPPED = {
    Flag.IS_NAVIGATION_DATA: "navigation",
    Flag.IS_PHASECORR_DATA: "phase correction",
    Flag.IS_HPFEEDBACK_DATA: "feedback",
    Flag.IS_RTFEEDBACK_DATA: "feedback",
    Flag.IS_DUMMYSCAN_DATA: "dummy",
    Flag.IS_SURFACECOILCORRECTIONSCAN_DATA: "surface coil correction",
    Flag.IS_PHASE_STABILIZATION_REFERENCE: "phase stabilisation",
    Flag.IS_PHASE_STABILIZATION: "phase stabilisation",
}

CARTESIAN, EPI = "cartesian", "epi"


class NotFiniteError(InputError):
    """The samples of a readout are not finite, which spoils its slice and no other."""


class NotSlicesError(InputError):
    """What is measured are no slices that are read here: a 3-D scan, EPI, samples without a trajectory."""


MAX_UNFILLED = 32  # of a grid's samples, and of its lines, one in so many must be measured
FEW_LINES = 16  # limits may go beyond the encoded lines by one in so many


@dataclass(frozen=True)
class Grid:
    """Where the readouts of one encoding space are placed, and the image that they become.

    Readouts lie along the rows of ``placed``, (rows, columns). ``image`` is what is made of them when all are
    there. ``beyond`` are the few lines that the header's limits have outside ``placed``. Where
    ``has_partitions``, the header speaks of 3D.
    """

    placed: tuple[int, int]
    center_line: int
    lines: Limit
    image: ImageGrid
    beyond: int = 0
    has_partitions: bool = False

    @property
    def whole(self) -> tuple[int, int]:
        """(rows, columns) that hold both where readouts are placed and the grid of their image."""
        rows, columns = (max(sizes) for sizes in zip(self.placed, self.image.shape, strict=True))
        return rows, columns


def readout_role(flags: int, calibration_mode: str | None) -> str:
    """Return what a readout is for: IMAGE, CALIBRATION, both, NOISE, or the kind of what is dropped.

    Parallel calibration (flag 20) is k-space of the image too where it is embedded or interleaved.
    """
    raised = [flag for flag in Flag if flags >> (flag - 1) & 1]
    if Flag.IS_NOISE_MEASUREMENT in raised:
        return NOISE
    for flag in raised:
        if flag in DROPPED:
            return DROPPED[flag]
    if Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING in raised:
        return IMAGE_AND_CALIBRATION
    if Flag.IS_PARALLEL_CALIBRATION in raised:
        in_image = calibration_mode in ("embedded", "interleaved")
        return IMAGE_AND_CALIBRATION if in_image else CALIBRATION
    return IMAGE


def make_grid(encoding: Encoding, where: str, reach: int | None = None) -> Grid:
    """Return the grid of an encoding space; ``where`` names it in error messages.

    ``reach`` is the largest :func:`readout_reach` of its readouts; None counts on what the header says.

    Raises:
        NotSlicesError: it is not Cartesian.
        InputError: it is larger than any slice that is read, or its readouts have samples that the header
            does not explain.
    """
    check_is_cartesian(encoding, where)
    encoded = encoding.encoded.matrix_size[:2]
    rows = measured_readout(encoding, half(encoded[0]) if reach is None else reach, where)
    image = image_grid(rows, measured_lines(encoding), encoding.recon, where)
    lines = encoding.step_1 or Limit(0, encoded[1] - 1, encoded[1] // 2)
    remarks = list(encoding.remarks)
    if has_partitions(encoding):
        remarks.append(
            f"encodedSpace is 3D, {encoding.encoded.matrix_size[2]} partitions: read as 2D, since all "
            "readouts have one kspace_encode_step_2"
        )
    if beyond := _lines_beyond(encoded[1], lines):
        remarks.append(
            f"the header's limits go {beyond} lines beyond the {encoded[1]} encoded ones: what lies there is "
            "left out"
        )
    image = replace(image, remarks=(*remarks, *image.remarks))
    placed = (max(rows.samples, encoded[0]), encoded[1])
    return Grid(placed, lines.center, lines, image, beyond, has_partitions(encoding))


def check_is_cartesian(encoding: Encoding, where: str) -> None:
    """Refuse an encoding space whose samples lie along a trajectory, or are EPI's; ``where`` names it.

    Raises:
        NotSlicesError: they do.
    """
    if encoding.trajectory == EPI:
        raise NotSlicesError(
            f"{where}: trajectory is {EPI!r}, which is not read: that would take the readouts' delays by its "
            f"navigators and the samples on ramps regridded; correct it into {CARTESIAN!r} first"
        )
    if encoding.trajectory != CARTESIAN:
        raise NotSlicesError(
            f"{where}: trajectory is {encoding.trajectory!r}, expected {CARTESIAN!r} here: recon reads it "
            "from a file of MRD whose readouts carry their trajectory, or with --trajectory"
        )


def counts_partitions(encoding: Encoding) -> bool:
    """Tell whether a header promises several partitions of a 3-D scan, before the readouts come.

    One of partitions without limits that count several may yet be of slices.
    """
    limit = encoding.step_2
    return encoding.encoded.matrix_size[2] > 1 and limit is not None and limit.maximum > limit.minimum


def encoding_index(header: np.void, scan: MrdHeader) -> int:
    """Return the encoding space of a readout.

    Raises:
        InputError: the scan's header has no such space.
    """
    index = int(header["encoding_space_ref"])
    if index >= len(scan.encodings):
        raise InputError(f"a readout is of encoding space {index}, expected one of {len(scan.encodings)}")
    return index


def has_partitions(encoding: Encoding) -> bool:
    """Tell whether a header speaks of a second phase encode."""
    return encoding.encoded.matrix_size[2] > 1 or bool(encoding.step_2 and encoding.step_2.maximum)


def check_is_2d_cartesian(
    header: np.void, encoding: Encoding, partitions: dict[int, int], where: str
) -> None:
    """Refuse a readout that contradicts what a header without trajectory, or of trivial 3D, was taken for.

    ``partitions`` keeps the first readout's kspace_encode_step_2 of each encoding space.

    Raises:
        NotSlicesError: it is of another partition than the first.
        InputError: it has a trajectory of its own.
    """
    n_dimensions = int(header["trajectory_dimensions"])
    if n_dimensions and not encoding.trajectory_is_given:
        raise InputError(
            f"{where}: the header has no <trajectory>, and its readouts carry one of {n_dimensions} "
            "dimensions: say in the header that it is cartesian, or regrid it first"
        )
    partition = int(header["idx"]["kspace_encode_step_2"])
    first = partitions.setdefault(int(header["encoding_space_ref"]), partition)
    if has_partitions(encoding) and partition != first:
        raise NotSlicesError(
            f"{where}: is 3D, with kspace_encode_step_2 of {first} and {partition}, expected 2D slices: "
            "recon --dimensions 3 takes a file of them"
        )


def is_beyond(header: np.void, grid: Grid) -> bool:
    """Tell whether a readout is one of those few that the limits have beyond the encoded lines."""
    line = int(header["idx"]["kspace_encode_step_1"])
    place = line - grid.center_line + grid.placed[1] // 2
    return bool(grid.beyond and grid.lines.minimum <= line <= grid.lines.maximum) and not (
        0 <= place < grid.placed[1]
    )


def _lines_beyond(n_lines: int, limits: Limit) -> int:
    """Return how many lines limits have outside the encoded ones where these are few, and else 0."""
    below = n_lines // 2 - (limits.center - limits.minimum)
    above = (n_lines - 1 - n_lines // 2) - (limits.maximum - limits.center)
    beyond = max(-below, 0) + max(-above, 0)
    return beyond if beyond <= max(n_lines // FEW_LINES, 1) else 0


def check_fills(header: np.void, grid: Grid, where: str) -> None:
    """Refuse a readout that is too short for its grid: not even many of them could fill it.

    Raises:
        InputError: it has fewer samples than one in 32 of the grid's.
    """
    first, last = kept_samples(header)
    wanted = grid.image.measured[0]
    if last - first > 0 and (last - first) * MAX_UNFILLED < wanted:
        raise InputError(
            f"{where}: a readout has {last - first} samples where the grid has {wanted}, expected at least "
            f"one in {MAX_UNFILLED}; check the encoded matrix"
        )


def readout_reach(header: np.void) -> int:
    """Return how many samples a readout has on the longer side of its centre, the centre's own to the later.

    The one sample that a reversed readout of even length has beyond the others does not count.
    """
    first, last = kept_samples(header)
    center = int(header["center_sample"])
    if int(header["flags"]) >> (Flag.IS_REVERSE - 1) & 1:
        return max(last - 1 - center, center - first)
    return max(center - first, last - center)


def check_is_plain(header: np.void, where: str) -> None:
    """Refuse a readout whose samples are compressed.

    Raises:
        InputError: they are.
    """
    if int(header["flags"]) & COMPRESSIONS:
        raise InputError(
            f"{where}: its samples are compressed, expected plain ones; send without compression"
        )


def place(readout: Readout, grid: Grid, where: str) -> tuple[slice, int, ComplexArray]:
    """Return the rows, the column and the samples (coil, row) of a readout on ``grid.placed``.

    Sample s lies at s - center_sample from the centre of the grid, and at as much on the other side of it
    where the readout is reversed.

    Raises:
        InputError: the readout is compressed, not as its header says, or does not fit the grid.
    """
    header, samples = readout.header, readout.data
    n_samples = int(header["number_of_samples"])
    check_is_plain(header, where)
    if samples.shape != (int(header["active_channels"]), n_samples) or not samples.size:
        raise InputError(
            f"{where}: has samples {samples.shape}, expected {(int(header['active_channels']), n_samples)} "
            "channels and samples as its header says"
        )
    if not np.isfinite(samples).all():
        raise NotFiniteError(f"{where}: has samples that are not finite; leave its slice out")
    column = _column(header, grid, where)
    first, last = kept_samples(header)
    if first >= last:
        raise InputError(f"{where}: discards all of its {n_samples} samples, expected some to be kept")
    kept = samples[:, first:last]
    start = first - int(header["center_sample"])
    if readout.has(Flag.IS_REVERSE):
        kept = kept[:, ::-1]
        start = int(header["center_sample"]) - (last - 1)
        kept, start = _wrap_last(kept, start, grid.placed[0])
    n_kept = kept.shape[1]
    low = -(grid.placed[0] // 2)
    if not (low <= start and start + n_kept <= low + grid.placed[0]):
        raise InputError(
            f"{where}: samples {first} to {last - 1} around center_sample {int(header['center_sample'])} do "
            f"not fit {grid.placed[0]} encoded samples; check center_sample and the encoded matrix"
        )
    row = start - low
    return slice(row, row + n_kept), column, kept


def is_nearer(header: np.void, other: np.void | None, center_line: int) -> bool:
    """Tell whether a readout lies nearer to the centre of k-space than another, or there is no other."""
    if other is None:
        return True
    ours, theirs = (int(each["idx"]["kspace_encode_step_1"]) for each in (header, other))
    return abs(ours - center_line) < abs(theirs - center_line)


def slice_geometry(header: np.void, field_of_view_mm: Vector, where: str) -> SliceGeometry | None:
    """Return where the image of a slice lies, by a readout's header; None where its directions are all zero.

    ``field_of_view_mm`` is that of :class:`sbim_deploy.kspace.image_grid.ImageGrid`.

    Directions that are a little off square, as scanners round them, become the nearest ones that are not.

    Raises:
        InputError: a direction is not of unit length, or not at a right angle to another.
    """
    directions = np.array([header["read_dir"], header["phase_dir"], header["slice_dir"]], np.float64)
    if not directions.any():
        return None
    position = np.asarray(header["position"], np.float64)
    finite = np.isfinite(directions).all() and np.isfinite(position).all()
    if not (finite and np.abs(directions @ directions.T - np.eye(3)).max() <= DIRECTION_TOLERANCE):
        raise InputError(
            f"{where}: read_dir, phase_dir and slice_dir are {directions.round(4).tolist()} at "
            f"{position.tolist()}, expected unit vectors at right angles; repair them or set all to zero"
        )
    # The nearest orthogonal matrix: the polar factor (Fan and Hoffman, Proc. AMS 6, 111, 1955).
    left, _, right = np.linalg.svd(directions)
    directions = left @ right
    return SliceGeometry(
        position=_vector(position),
        read_dir=_vector(directions[0]),
        phase_dir=_vector(directions[1]),
        slice_dir=_vector(directions[2]),
        field_of_view_mm=field_of_view_mm,
    )


def kept_samples(header: np.void) -> tuple[int, int]:
    """Return the first sample that is not discarded, and the one after the last."""
    return int(header["discard_pre"]), int(header["number_of_samples"]) - int(header["discard_post"])


def _column(header: np.void, grid: Grid, where: str) -> int:
    line, partition = (int(header["idx"][f"kspace_encode_step_{step}"]) for step in (1, 2))
    if not grid.lines.minimum <= line <= grid.lines.maximum:
        raise InputError(
            f"{where}: kspace_encode_step_1 is {line}, expected {grid.lines.minimum} to {grid.lines.maximum} "
            "as the header's limits say"
        )
    if partition and not grid.has_partitions:
        raise InputError(f"{where}: kspace_encode_step_2 is {partition}, expected 0 in a 2D encoding")
    offset = line - grid.center_line
    if not 0 <= offset + grid.placed[1] // 2 < grid.placed[1]:
        raise InputError(
            f"{where}: line {line} lies {offset} from the centre {grid.center_line}, outside the "
            f"{grid.placed[1]} encoded lines; check the header's limits"
        )
    return offset + grid.placed[1] // 2


def _wrap_last(samples: ComplexArray, start: int, n_encoded: int) -> tuple[ComplexArray, int]:
    """Move a sample at + n / 2, which a reversed readout of even length may end with, to - n / 2.

    The Fourier transform of n samples cannot tell the two apart. A readout that does not reach - n / 2 + 1
    loses the sample: its place would lie apart from the others.
    """
    end = start + samples.shape[1]
    if n_encoded % 2 or end != n_encoded // 2 + 1:
        return samples, start
    if samples.shape[1] == n_encoded:
        return np.roll(samples, 1, axis=1), start - 1
    return samples[:, :-1], start


def _vector(values: NDArray[np.float64]) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])

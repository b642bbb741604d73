"""Siemens twix files (.dat) as readouts, so that a slice is assembled of them as of MRD's.

Of several measurements the last is read, which is the imaging scan; where it has no noise lines of its own,
those of the last measurement before it that has some whiten the coils. Counters mean what siemens_to_ismrmrd
makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.twix_lines import Lines, Measurement, TwixBytes
from sbim_deploy.kspace.twix_protocol import (
    MAX_PROTOCOL_BYTES,
    CountRange,
    ProtocolTexts,
    check_is_read,
    dwell_us,
    is_3d,
    make_header,
    noise_dwell_us,
    read_texts,
    receivers,
    slice_places,
)
from sbim_deploy.kspace.twix_survey import Counted, Survey, directions, has, mrd_flags, positions
from sbim_deploy.mrd.file import HEADERS_AT_ONCE, check_readout
from sbim_deploy.mrd.header import MAX_COUNTER
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout

_FIELDS = {
    "measurement_uid": "MeasUID",
    "scan_counter": "ScanCounter",
    "acquisition_time_stamp": "TimeStamp",
    "number_of_samples": "SamplesInScan",
    "available_channels": "UsedChannels",
    "active_channels": "UsedChannels",
    "center_sample": "CenterCol",
}
_COUNTERS = {
    "average": "Ave",
    "contrast": "Eco",
    "phase": "Phs",
    "repetition": "Rep",
    "set": "Set",
    "segment": "Seg",
}
_USER = ("Ida", "Idb", "Idc", "Idd", "Ide")


class TwixFile:
    """An open twix file, its protocol and all headers of its lines checked; use it in a ``with`` statement.

    Attributes:
        path: the file.
        format: what it is.
        header: what its protocol says.
        n_readouts: noise lines, and then all lines of the measurement that have samples.
        remarks: what was assumed of it or left out, a sentence each.
        facts: what else is to be told of it, as JSON's types.

    Raises:
        InputError: it is not twix, damaged, or of a kind that is not read.
        BackendMissingError: twixtools is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = TwixBytes(path)
        self.format = f"Siemens twix ({'VB' if self._file.is_vb else 'VD or later'})"
        *before, chosen = self._file.measurements
        self._texts, lines = self._open(chosen)
        check_is_read(self._texts)
        survey = Survey(lines)
        has_partitions = is_3d(self._texts)
        survey.check_is_cartesian(has_partitions, self._texts.where)
        remarks = _said_of(chosen, lines, survey)
        n_lines = self._texts.whole("sKSpace.lPhaseEncodingLines")
        self._lines_range = _count_range(self._texts, survey.lines, n_lines, "line", remarks)
        self._partitions_range: CountRange | None = None
        if has_partitions:
            n_partitions = self._texts.whole("sKSpace.lPartitions", 1)
            self._partitions_range = _count_range(
                self._texts, survey.partitions, n_partitions, "partition", remarks
            )
        noise_from, self._noise_texts = chosen if survey.noise else None, self._texts
        if not survey.noise and survey.image is not None:
            found = self._find_noise(before, lines.channel_ids(survey.image), remarks)
            if found is not None:
                noise_from, self._noise_texts, noise_lines, numbers = found
                lines = lines.after(noise_lines, numbers)
                remarks.append(f"noise lines are those of {noise_from}")
        self._lines = lines
        self.n_readouts = len(lines)
        self.header = make_header(self._texts, self._lines_range, self._partitions_range)
        self.remarks = tuple(remarks)
        order = survey.slice_order(*slice_places(self._texts))
        self._slices = np.arange(MAX_COUNTER + 1, dtype=np.uint16)
        self._slices[list(order)] = list(order.values())
        in_place = all(number == place for number, place in order.items())
        self.facts: Mapping[str, Any] = {
            "measurement": str(chosen),
            "noise_lines_of": None if noise_from is None else str(noise_from),
            "slices_as_measured": None if in_place else [order[each] for each in sorted(order)],
            "lines_without_samples": lines.n_sync or None,
        }

    def __enter__(self) -> TwixFile:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def read_headers(self, start: int, stop: int) -> NDArray[np.void]:
        """Read the headers, ACQUISITION_HEADER (stop - start,), of the readouts of a range."""
        return self._as_readouts(np.arange(start, stop))

    def read_readouts(self, indices: Sequence[int]) -> Iterator[Readout]:
        """Read the readouts of these numbers, one in memory at a time.

        Raises:
            InputError: a readout is larger than 256 MiB.
        """
        for start in range(0, len(indices), HEADERS_AT_ONCE):
            numbers = np.array(indices[start : start + HEADERS_AT_ONCE], np.intp)
            stored = self._lines.headers(numbers)
            for number, own, header in zip(numbers.tolist(), stored, self._as_readouts(numbers), strict=True):
                check_readout(header, f"{self.path}: line {number}")
                yield Readout(header, self._lines.samples(number, own))

    def _open(self, measurement: Measurement) -> tuple[ProtocolTexts, Lines]:
        self._file.check_within(measurement)
        start, where = measurement.start, f"{self.path}: {measurement}"
        stop = min(measurement.end, start + MAX_PROTOCOL_BYTES)
        texts = read_texts(self._file.take(start, stop), where)
        return texts, self._file.walk(measurement, start + texts.n_bytes)

    def _find_noise(
        self, before: Sequence[Measurement], channels: tuple[int, ...], remarks: list[str]
    ) -> tuple[Measurement, ProtocolTexts, Lines, list[int]] | None:
        """Return the last measurement that has noise lines of these channels, and which they are."""
        for measurement in reversed(before):
            try:
                texts, lines = self._open(measurement)
                noise = Survey(lines).noise
                elements = [receivers(each) for each in (texts, self._texts)]
            except InputError as error:
                reason = str(error).removeprefix(f"{self.path}: ")
                remarks.append(f"{reason}: its noise lines are left out")
                continue
            if not noise:
                continue
            own = lines.channel_ids(noise[0])
            # Another number of channels is told where the coils are whitened.
            if len(own) != len(channels) or (own == channels and elements[0] == elements[1]):
                return measurement, texts, lines, noise
            remarks.append(f"{measurement} has noise lines of other coil elements: they are left out")
        return None

    def _as_readouts(self, numbers: NDArray[np.intp]) -> NDArray[np.void]:
        """Return the headers of lines as MRD's."""
        headers = self._lines.headers(numbers)
        found = np.zeros(len(headers), ACQUISITION_HEADER)
        found["version"], found["flags"] = 1, mrd_flags(headers, self._lines.flags)
        for name, theirs in _FIELDS.items():
            found[name] = headers[theirs]
        found["physiology_time_stamp"][:, 0] = headers["PMUTimeStamp"]
        found["discard_pre"], found["discard_post"] = headers["CutOff"]["Pre"], headers["CutOff"]["Post"]
        is_noise = has(found["flags"], Flag.IS_NOISE_MEASUREMENT)
        in_noise = noise_dwell_us(self._noise_texts, headers["SamplesInScan"])
        found["sample_time_us"] = np.where(is_noise, in_noise, dwell_us(self._texts))
        rotations = directions(headers)
        with np.errstate(over="ignore", invalid="ignore"):  # what is damaged is met where a slice is placed
            found["position"] = positions(headers)
            for place, name in enumerate(("phase_dir", "read_dir", "slice_dir")):
                found[name] = rotations[..., place]
        self._count(found["idx"], headers)
        return found

    def _count(self, counters: NDArray[np.void], headers: NDArray[np.void]) -> None:
        """Write the counters of lines, whose own centres are shifted to that of the header."""
        theirs = headers["Counter"]
        for name, their_name in _COUNTERS.items():
            counters[name] = theirs[their_name]
        for place, name in enumerate(_USER):
            counters["user"][:, place] = theirs[name]
        steps = (("Lin", self._lines_range), ("Par", self._partitions_range))
        for step, (name, found) in enumerate(steps, start=1):
            shift: NDArray[np.int64] | int = 0
            if found is not None and not found.is_assumed:
                shift = found.center - headers[f"Center{name}"].astype(np.int64)
            counters[f"kspace_encode_step_{step}"] = np.clip(theirs[name] + shift, 0, MAX_COUNTER)
        counters["slice"] = self._slices[theirs["Sli"]]


def _count_range(
    texts: ProtocolTexts, counted: Counted, n_encoded: int, name: str, remarks: list[str]
) -> CountRange:
    """Return where counts lie once lines that count from a centre of their own are shifted to one.

    ``name`` is that of one of ``n_encoded``.
    """
    middle = n_encoded // 2
    # None says which is the centre, and there are some on both sides of the middle.
    if set(counted.centers) == {0} and counted.highest > middle:
        remarks.append(f"no line says which is the centre of k-space: taken as {name} {middle}")
        found = CountRange(0, counted.highest, middle, is_assumed=True)
    else:
        usual = counted.centers.most_common(1)[0][0] if counted.centers else 0
        center = max(usual, -counted.offsets[0])
        found = CountRange(center + counted.offsets[0], center + counted.offsets[1], center)
    if found.maximum > MAX_COUNTER:
        raise InputError(
            f"{texts.where}: has {name}s {found.minimum} to {found.maximum}, expected at most {MAX_COUNTER}; "
            "the file is damaged, fetch it again"
        )
    return found


def _said_of(chosen: Measurement, lines: Lines, survey: Survey) -> list[str]:
    said = []
    if chosen.of > 1:
        said.append(f"{chosen} is read: the last is the imaging scan, by Siemens' convention")
    if not lines.is_complete:
        said.append(
            "the measurement does not end with ACQEND: it was stopped, or the file is cut short, after "
            f"{survey.n_image} lines of images"
        )
    return said

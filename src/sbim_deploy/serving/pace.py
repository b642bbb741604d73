"""When a replayed readout is due."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.mrd_file import HEADERS_AT_ONCE, MrdFile
from sbim_deploy.io.mrd_headers import Readout

BY_STAMPS = "stamps"
TICK_S = 2.5e-3  # of acquisition_time_stamp as Siemens counts it; MRD itself leaves the unit open
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class Pace:
    """Readouts as fast as the server takes them, each ``interval_s`` apart, or as their time stamps say."""

    interval_s: float = 0.0
    by_stamps: bool = False

    def __post_init__(self) -> None:
        """Check the interval."""
        if not 0 <= self.interval_s <= LONGEST_PAUSE_S:
            raise InputError(
                f"the pace is {self.interval_s * 1000:g} ms, expected 0 to {LONGEST_PAUSE_S * 1000:g}"
            )


def parse_pace(text: str) -> Pace:
    """Read a pace: milliseconds between readouts, or "stamps".

    Raises:
        InputError: it is neither.
    """
    if text == BY_STAMPS:
        return Pace(by_stamps=True)
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if math.isnan(milliseconds):
        raise InputError(f"the pace is {text!r}, expected milliseconds between readouts or {BY_STAMPS!r}")
    return Pace(milliseconds / 1000)


def check_pace(pace: Pace, scan: MrdFile) -> None:
    """Check that a file has the time stamps that its pace needs.

    Raises:
        InputError: they are all the same.
    """
    if not pace.by_stamps:
        return
    first = scan.read_headers(0, 1)["acquisition_time_stamp"]
    for start in range(0, scan.n_readouts, HEADERS_AT_ONCE):
        stop = min(start + HEADERS_AT_ONCE, scan.n_readouts)
        if np.any(scan.read_headers(start, stop)["acquisition_time_stamp"] != first):
            return
    raise InputError(
        f"{scan.path}: all time stamps are {first[0]}, expected some that advance; "
        "give the milliseconds between readouts"
    )


class Clock:
    """Tells when each readout of a scan is due, in seconds from the first."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._due = 0.0
        self._stamp: int | None = None

    def due(self, readout: Readout) -> float:
        """Move on to the next readout.

        Stamps that go back count as no time, and pauses of more than 10 s, which a scan has after its noise
        readouts, as 10 s.
        """
        stamp = int(readout.header["acquisition_time_stamp"])
        if self._stamp is not None:
            interval = (stamp - self._stamp) * TICK_S if self._pace.by_stamps else self._pace.interval_s
            self._due += min(max(interval, 0.0), LONGEST_PAUSE_S)
        self._stamp = stamp
        return self._due

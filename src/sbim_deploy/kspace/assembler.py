"""Readouts in, in the order in which they come, and slices out as they become complete: what all scans share.

:class:`sbim_deploy.kspace.readouts.SliceAssembler` puts readouts on a grid,
:class:`sbim_deploy.kspace.trajectory_readouts.TrajectoryAssembler` keeps them along their trajectory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import MAX_SLICE_BYTES
from sbim_deploy.kspace.channels import ReadoutChannels, check_few_others
from sbim_deploy.kspace.noise_scan import NoiseScan
from sbim_deploy.kspace.placement import (
    CALIBRATION,
    IMAGE,
    IMAGE_AND_CALIBRATION,
    NOISE,
    encoding_index,
    readout_role,
)
from sbim_deploy.kspace.slice_buffer import AssembledSlice, Key, describe_key, slice_key
from sbim_deploy.mrd.header import MrdHeader
from sbim_deploy.mrd.messages import Flag, Readout
from sbim_deploy.mrd.orientation import Orientation, conjugation_remark, is_conjugated

FINISHED_SHARE = 8  # of the memory is for slices that may get another average

Admit = Callable[[int, tuple[int, int, int], int], None]
"""Takes the bytes that slices in progress will have, (coil, rows, columns) of one, and its samples in a coil.

The samples are 0 where they are those of the rows and columns.
"""


class Buffer(Protocol):
    """A slice that is being filled."""

    @property
    def n_readouts(self) -> int:
        """How many readouts went into it."""

    @property
    def n_bytes(self) -> int:
        """The memory that it takes."""


B = TypeVar("B", bound=Buffer)


def admit_all(_n_bytes: int, _shape: tuple[int, int, int], _n_samples: int) -> None:
    """Refuse nothing."""


class Assembler(ABC, Generic[B]):
    """Gives each readout to its slice, and says when that is complete.

    A slice is complete at LAST_IN_SLICE, at its last average where the header counts them; all are at
    LAST_IN_MEASUREMENT and at :meth:`finish`. Where the header does not count the averages, a slice that gets
    another one is completed again, with all of them. Slices may interleave. Noise readouts count for the
    slices that complete after them.

    Args:
        header: the scan's header.
        max_bytes: the most that slices in progress may take together, or None for no bound but one slice's.
        orientation: of the raw data.
        admit: asked before slices take memory; what it raises refuses it.

    Attributes:
        conjugated: whether the slices' k-space is conjugated.
        dropped: how many readouts were left out, by kind.
        noise: the noise readouts so far.
        n_bytes: the memory that slices in progress, and the calibration lines that are kept, take. Counted as
            it goes, since a hostile stream may begin very many slices.
    """

    def __init__(
        self,
        header: MrdHeader,
        max_bytes: int | None = None,
        orientation: Orientation = Orientation.AUTO,
        admit: Admit = admit_all,
    ) -> None:
        self.conjugated = is_conjugated(orientation, header.protocol.vendor)
        self.dropped: Counter[str] = Counter()
        self.n_bytes = 0
        self.noise = NoiseScan(header.noise_bandwidth)
        self._header = header
        self._max_bytes = max_bytes
        self._admit = admit
        self._channels = ReadoutChannels()
        self._partitions: dict[int, int] = {}
        self._spoiled: dict[Key, str] = {}
        self._finished: dict[Key, B] = {}
        self._images: dict[Key, B] = {}
        self._done: set[Key] = set()

    @property
    def n_whole_bytes(self) -> int:
        """The memory that slices in progress, once they are whole, and the noise take."""
        return self.n_bytes + self.noise.n_bytes

    def add(self, readout: Readout) -> list[AssembledSlice]:
        """Take a readout, and return the slices that it completes.

        Raises:
            NotSlicesError: the scan is not what is assembled here.
            InputError: the readout is not what the header says, compressed, does not fit, has other channels
                than those before it, belongs to a complete slice, or needs too much memory.
        """
        role = self._role(readout.header)
        complete: list[AssembledSlice] = []
        if role == NOISE:
            self.noise.add(readout)
        elif role not in (IMAGE, CALIBRATION, IMAGE_AND_CALIBRATION):
            self.dropped[role] += 1
        else:
            key = slice_key(readout.header)
            self._place(readout, key, role)
            if readout.has(Flag.LAST_IN_SLICE):
                complete += [self.complete(each) for each in self._completed_by(readout.header, key, role)]
        if readout.has(Flag.LAST_IN_MEASUREMENT):
            complete += self.finish()
        return complete

    def finish(self) -> list[AssembledSlice]:
        """Return the slices that are left, by series and slice, and forget everything but the noise.

        Raises:
            InputError: see :meth:`add`.
        """
        complete = [self.complete(key) for key in sorted(self._images)]
        check_few_others(self._channels.n_others, self._channels.n_kept, self._channels.n_coils)
        self.reset()
        return complete

    def reset(self) -> None:
        """Forget all readouts but those of noise."""
        self._images.clear()
        self._done.clear()
        self._finished.clear()
        self._spoiled.clear()
        self._channels.clear()
        self.n_bytes = 0

    @abstractmethod
    def complete(self, key: Key) -> AssembledSlice:
        """Return the slice of a key from the readouts that there are.

        Raises:
            InputError: its noise readouts or its directions are not what they must be.
        """

    @property
    def sign_remarks(self) -> tuple[str, ...]:
        """What is to be said of the sign of k-space."""
        return (conjugation_remark(self._header.protocol.vendor),) if self.conjugated else ()

    @abstractmethod
    def _place(self, readout: Readout, key: Key, role: str) -> None:
        """Put a readout where it belongs."""

    def _buffers(self) -> Sequence[dict[Key, B]]:
        """Return all that is being filled."""
        return (self._images,)

    def _role(self, header: np.void) -> str:
        mode = self._header.encodings[encoding_index(header, self._header)].calibration_mode
        return readout_role(int(header["flags"]), mode)

    def _completed_by(self, header: np.void, key: Key, role: str) -> Sequence[Key]:
        """Return which slices LAST_IN_SLICE completes."""
        is_whole = role != CALIBRATION and self._is_last_average(header) and key in self._images
        return [key] if is_whole else []

    def _is_last_average(self, header: np.void) -> bool:
        limit = self._header.encodings[int(header["encoding_space_ref"])].average
        return limit is None or int(header["idx"]["average"]) >= limit.maximum

    def _reopen(self, key: Key, header: np.void) -> None:
        """Let a slice go on that ended with an average, where the header does not say how many there are.

        Raises:
            InputError: the slice is complete.
        """
        if key not in self._done:
            return
        if key not in self._finished or not int(header["idx"]["average"]):
            raise InputError(
                f"{describe_key(key)}: gets a readout after LAST_IN_SLICE, expected none; check the flags"
            )
        self._done.remove(key)
        self._images[key] = self._finished.pop(key)

    def _has_its_channels(self, n_channels: int, key: Key) -> bool:
        """Tell whether a readout is of the receiver array; what has fewer channels was none of its."""
        known = self._channels.n_coils
        if known is not None and n_channels > known and not self._done:
            before: Counter[Key] = Counter()
            for buffers in self._buffers():
                for other, buffer in buffers.items():
                    before[other] += buffer.n_readouts
                    self.n_bytes -= buffer.n_bytes
                buffers.clear()
            self._channels.widen(n_channels, before)
        return self._channels.keeps(n_channels, key)

    def _check_room(self, key: Key, slice_bytes: int, n_more: int) -> None:
        """Check that a slice may have so many bytes, and all together ``n_more`` than they have.

        Raises:
            InputError: they may not.
        """
        total = self.n_bytes + n_more
        if slice_bytes > MAX_SLICE_BYTES or (self._max_bytes is not None and total > self._max_bytes):
            raise InputError(
                f"{describe_key(key)}: {slice_bytes} bytes for it and {total} for all slices in progress, "
                f"expected at most {MAX_SLICE_BYTES} and {self._max_bytes}; allow more memory"
            )

    def _take(self, key: Key) -> tuple[B, tuple[str, ...]]:
        """Return what came of a slice that is complete, and what is to be said of what was left out of it."""
        buffer = self._images.pop(key)
        self._done.add(key)
        if self._header.encodings[key[0].encoding].average is None and self._max_bytes is not None:
            self._keep_finished(key, buffer, self._max_bytes)
        else:
            self.n_bytes -= buffer.n_bytes
        try:
            return buffer, self._channels.remarks(key, buffer.n_readouts)
        except InputError as error:  # of this slice alone; finish() looks at all of the scan
            self._spoiled.setdefault(key, str(error))
            return buffer, ()

    def _keep_finished(self, key: Key, buffer: B, max_bytes: int) -> None:
        """Keep a slice that may get another average, and the memory for such within its share."""
        self._finished[key] = buffer
        while sum(each.n_bytes for each in self._finished.values()) > max_bytes // FINISHED_SHARE:
            self.n_bytes -= self._finished.pop(next(iter(self._finished))).n_bytes

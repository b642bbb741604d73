"""Where a session's readouts go: into slices, which the worker and the sender get when they are complete."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.kspace.assembler import Assembler
from sbim_deploy.kspace.placement import (
    NotSlicesError,
    check_is_cartesian,
    counts_partitions,
)
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.slice_buffer import AssembledSlice
from sbim_deploy.kspace.trajectory_readouts import TrajectoryAssembler, check_is_no_stack, has_trajectory
from sbim_deploy.mrd.header import Encoding, MrdHeader
from sbim_deploy.mrd.messages import Flag, Readout
from sbim_deploy.mri.nonuniform import import_finufft
from sbim_deploy.recon.prepare import NOISE_READOUTS, SliceProblem, prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.streams import work_bytes
from sbim_deploy.serving.memory import Share
from sbim_deploy.serving.parameters import Request
from sbim_deploy.serving.sender import Pending, Sender
from sbim_deploy.serving.settings import Service
from sbim_deploy.serving.worker import Prepare, SliceJob

IN_PROGRESS = "slices in progress"


@dataclass(frozen=True)
class Outlet:
    """Where the slices of a session go, what they count against, and how they are reconstructed."""

    service: Service
    share: Share
    sender: Sender
    request: Request

    def send(
        self,
        data: AssembledSlice,
        prepare: Prepare,
        work_bytes: int,
        deadline_s: float | None = None,
        bright: float | None = None,
    ) -> None:
        """Let a slice be reconstructed and sent, whose memory is held; this waits while the queue is full.

        ``deadline_s`` None is the server's own; ``bright`` see :class:`sbim_deploy.serving.sender.Pending`.
        """
        deadline_s = self.service.settings.deadline_s if deadline_s is None else deadline_s
        job = SliceJob(prepare, self.request, deadline_s, work_bytes)
        self.sender.put(Pending(data, job, bright))  # before submit, which may wait until after the deadline
        self.service.worker.submit(job)


class Intake(Protocol):
    """Takes the readouts of a session."""

    def add(self, readout: Readout) -> None:
        """Take a readout, and send the slices that it completes.

        Raises:
            NotSlicesError: the scan cannot be read here.
            InputError: the readout is not what it must be, or needs too much memory.
        """

    def finish(self) -> None:
        """Send what is left, after the last readout; raises as :meth:`add` does."""

    def reset(self) -> None:
        """Forget the readouts, and give their memory back."""


class SliceIntake:
    """Readouts of 2D slices, on a grid or along a trajectory."""

    def __init__(self, header: MrdHeader, outlet: Outlet) -> None:
        kind: type[TrajectoryAssembler] | type[SliceAssembler]
        kind = TrajectoryAssembler if has_trajectory(header) else SliceAssembler
        settings = outlet.service.settings
        self._outlet = outlet
        self._assembler: Assembler[Any] = kind(
            header, settings.max_memory_bytes, orientation=settings.orientation, admit=self._admit
        )

    def add(self, readout: Readout) -> None:
        """Take a readout; see :class:`Intake`."""
        with self._outlet.service.whole_slices if _ends_slices(readout) else nullcontext():
            complete = self._assembler.add(readout)
        self._send(complete)

    def finish(self) -> None:
        """Send the slices that are left."""
        with self._outlet.service.whole_slices:
            complete = self._assembler.finish()
        self._send(complete)

    def reset(self) -> None:
        """Forget the readouts."""
        self._assembler.reset()
        self._send([])

    def _admit(self, n_bytes: int, shape: tuple[int, int, int], n_samples: int) -> None:
        """Take the memory of slices in progress and of the work on one of them, before it is used."""
        self._outlet.share.reserve(work_bytes(shape, self._outlet.service.width, n_samples))
        self._outlet.share.hold(IN_PROGRESS, n_bytes)

    def _send(self, complete: list[AssembledSlice]) -> None:
        self._outlet.share.hold(IN_PROGRESS, self._assembler.n_whole_bytes)
        for data in complete:
            self._outlet.share.hold(data, data.n_bytes)
        for data in complete:
            shape, n_samples = data.kspace.shape, 0
            if data.places is not None:
                shape, n_samples = (len(data.kspace), *data.image_shape), data.places[..., 0].size
            work = work_bytes(shape, self._outlet.service.width, n_samples)
            self._outlet.send(data, partial(prepare, data), work)


def prepare(data: AssembledSlice, check: Callable[[], None] = lambda: None) -> SliceProblem:
    """Return the problem of an assembled slice, as ``recon`` makes it of the same readouts in a file.

    ``check`` is called between the parts of the work; what it raises ends it.

    Raises:
        InputError: the slice cannot be reconstructed.
    """
    if data.fault is not None:
        raise InputError(data.fault)
    if data.places is not None:
        return prepare_trajectory_slice(
            data.kspace,
            data.places,
            data.image_shape,
            data.slice,
            noise=data.noise,
            noise_source=NOISE_READOUTS,
            check=check,
        )
    return prepare_slice(
        data.kspace,
        data.slice,
        image_shape=data.image_shape,
        calibration=data.calibration,
        noise=data.noise,
        noise_source=NOISE_READOUTS,
        check=check,
    )


def cartesian_spaces(header: MrdHeader) -> list[Encoding]:
    """Return the encoding spaces of a header that are Cartesian.

    Raises:
        NotSlicesError: there are none.
    """
    found, refusals = [], []
    for number, encoding in enumerate(header.encodings):
        try:
            check_is_cartesian(encoding, f"encoding space {number}")
            found.append(encoding)
        except NotSlicesError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return found


def is_volume(header: MrdHeader) -> bool:
    """Tell whether a header promises 3-D scans on a grid, and no slices.

    Raises:
        NotSlicesError: it promises nothing that can be read here.
        BackendMissingError: what reads it is not installed.
    """
    if has_trajectory(header):
        check_is_no_stack(header.encodings[0], "encoding space 0")
        try:
            import_finufft()
        except BackendMissingError as error:  # how to install it says where the server's files are
            raise BackendMissingError(
                "samples along a trajectory take finufft, which this server lacks: have the extra "
                "noncartesian installed there"
            ) from error
        return False
    return all(counts_partitions(each) for each in cartesian_spaces(header))


def _ends_slices(readout: Readout) -> bool:
    return readout.has(Flag.LAST_IN_SLICE) or readout.has(Flag.LAST_IN_MEASUREMENT)

"""A file of a study under way, and what is told of a study while it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from sbim_deploy.results.provenance import Timings
from sbim_deploy.study.files import FileRecord, StudyFile
from sbim_deploy.study.steps import BatchDone, Failure, Surveyed

if TYPE_CHECKING:
    from distributed import Future

MAX_REASON_LENGTH = 300


class Progress(Protocol):
    """What is told of a study while it goes on."""

    def left_out(self, why: str) -> None:
        """Tell of a file in a folder of the study that is not read, since it holds no k-space."""

    def waiting(self, what: str) -> None:
        """Tell that no worker has answered yet: there may be none, or none with the resources wanted."""

    def started(self, n_files: int, n_workers: int, engine: Mapping[str, str]) -> None:
        """Begin, once the first worker has told what runs the network."""

    def advanced(self, n_files: float) -> None:
        """Tell how many files are done; the files under way count by their fractions."""

    def ended(self, record: FileRecord) -> None:
        """Tell what became of a file."""


@dataclass
class Track:
    """A file under way. ``left`` counts the batches still to do, and the task that finishes the file."""

    place: int
    file: StudyFile
    began: float
    surveyed: Surveyed | None = None
    left: int = 0
    n_made: int = 0
    preparation_s: float = 0.0
    sampling_s: float = 0.0
    workers: set[str] = field(default_factory=set)
    futures: dict[str, Future] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)

    def count(self, done: BatchDone) -> None:
        """Take in what a worker did."""
        self.left -= 1
        self.n_made += done.n_made
        self.preparation_s += done.preparation_s
        self.sampling_s += done.sampling_s
        self.workers.add(done.worker)

    def fraction(self) -> float:
        """Return how much of the file is done."""
        return 0.0 if self.surveyed is None else 1 - self.left / (len(self.surveyed.batches) + 1)

    def timings_s(self) -> Timings:
        """Return what a result's provenance tells of time."""
        return Timings(
            total=round(time.perf_counter() - self.began, 3),
            preparation=round(self.preparation_s, 3),
            sampling=round(self.sampling_s, 3),
            slices=self.n_made,
        )

    def record(
        self, pending: FileRecord, state: str, failure: Failure | None, warnings: tuple[str, ...]
    ) -> FileRecord:
        """Return what became of the file."""
        return replace(
            pending,
            state=state,
            slices=0 if self.surveyed is None else self.surveyed.n_slices,
            slices_made=self.n_made,
            seconds=round(time.perf_counter() - self.began, 3),
            compute_seconds=round(self.preparation_s + self.sampling_s, 3),
            workers=tuple(sorted(self.workers)),
            warnings=warnings,
            error=None if failure is None else failure.message,
            error_kind=None if failure is None else failure.kind,
        )


def one_line(error: BaseException) -> str:
    """Return an error that nobody has foreseen as a short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON_LENGTH]

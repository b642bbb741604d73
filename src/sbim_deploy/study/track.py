"""A file under way: what was asked of the cluster for it, and what came back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from distributed import Future

from sbim_deploy.study.files import StudyFile
from sbim_deploy.study.report import FileRecord
from sbim_deploy.study.steps import BatchDone, Failure, Surveyed


@dataclass
class Track:
    """A file under way; ``left`` counts its batches and the step that finishes it."""

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

    def timings_s(self) -> dict[str, Any]:
        """Return what a result's provenance tells of time."""
        return {
            "total": round(time.perf_counter() - self.began, 3),
            "preparation": round(self.preparation_s, 3),
            "sampling": round(self.sampling_s, 3),
            "slices": self.n_made,
        }

    def record(self, pending: FileRecord, state: str, failure: Failure | None) -> FileRecord:
        """Return what became of the file."""
        return replace(
            pending,
            state=state,
            slices=0 if self.surveyed is None else self.surveyed.n_slices,
            slices_made=self.n_made,
            seconds=round(time.perf_counter() - self.began, 3),
            compute_seconds=round(self.preparation_s + self.sampling_s, 3),
            workers=tuple(sorted(self.workers)),
            error=None if failure is None else failure.message,
            error_kind=None if failure is None else failure.kind,
        )


@dataclass(frozen=True)
class Step:
    """What was asked of the cluster for a file, to be asked again where the worker had no model.

    ``n_gifts`` is how often the model had been given to the cluster by then.
    """

    track: Track
    function: Any
    arguments: tuple[Any, ...]
    needs_engine: bool = False
    n_tries: int = 0
    n_gifts: int = 0

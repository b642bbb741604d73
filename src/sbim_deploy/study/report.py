"""What became of the files of a study, as JSON in its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.json_object import format_object
from sbim_deploy.recon.scan import NOTICE

REPORT_NAME = "study.json"
FORMAT_VERSION = 1
DONE, KEPT, FAILED, PENDING = "done", "kept", "failed", "pending"
STATES = (DONE, KEPT, FAILED, PENDING)


@dataclass(frozen=True)
class FileRecord:
    """What became of a file: ``done`` now, ``kept`` from an earlier run, ``failed``, or still ``pending``.

    ``slices`` are the result's, ``slices_made`` those of this run. ``seconds`` go from the first look at the
    file to its result, ``compute_seconds`` are those of its workers together.
    """

    name: str
    kspace: str
    output: str
    state: str = PENDING
    slices: int = 0
    slices_made: int = 0
    seconds: float = 0.0
    compute_seconds: float = 0.0
    workers: tuple[str, ...] = ()
    error: str | None = None
    error_kind: str | None = None


@dataclass(frozen=True)
class StudyReport:
    """A study, finished or stopped: what it ran with, and its files in order."""

    settings: Mapping[str, Any]
    software: Mapping[str, Any]
    seconds: float
    files: Sequence[FileRecord]

    @property
    def counts(self) -> dict[str, int]:
        """How many files there are of each state."""
        counted = Counter(record.state for record in self.files)
        return {state: counted[state] for state in STATES}


def report_as_dict(report: StudyReport) -> dict[str, Any]:
    """Return a report as a JSON object."""
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": NOTICE,
        "settings": dict(report.settings),
        "software": dict(report.software),
        "seconds": round(report.seconds, 3),
        "counts": report.counts,
        "files": [asdict(record) for record in report.files],
    }


def write_report(folder: Path, report: StudyReport) -> Path:
    """Write ``study.json`` into the folder, whole or not at all, and return its path.

    Raises:
        InputError: it cannot be written.
    """
    path = folder / REPORT_NAME
    with replacing(path) as temporary:
        temporary.write_text(format_object(report_as_dict(report), indent=2) + "\n", encoding="utf-8")
    return path

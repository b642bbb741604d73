"""The files of a study: which files are read, where each result goes, and what became of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.documents import format_object
from sbim_deploy.mrd.recording import is_recording
from sbim_deploy.records import NOTICE

LIST_SUFFIX = ".txt"
MAX_LIST_BYTES = 64 * 1024**2
SUFFIX = ".h5"
STREAM_SUFFIX = ".mrd"

REPORT_NAME = "study.json"
FORMAT_VERSION = 1
DONE, KEPT, FAILED, PENDING = "done", "kept", "failed", "pending"
STATES = (DONE, KEPT, FAILED, PENDING)


@dataclass(frozen=True)
class StudyFile:
    """A k-space file and its result, both as absolute paths; ``name`` is the result's within the folder."""

    name: str
    kspace: Path
    output: Path


@dataclass(frozen=True)
class FileRecord:
    """What became of a file: ``done`` now, ``kept`` from an earlier run, ``failed``, or still ``pending``.

    ``slices`` are the result's, ``slices_made`` those of this run. ``seconds`` go from the first look at the
    file to its result, ``compute_seconds`` are those of its workers together. ``warnings`` say why images
    may be wrong.
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
    warnings: tuple[str, ...] = ()
    error: str | None = None
    error_kind: str | None = None


@dataclass(frozen=True)
class StudyReport:
    """What a finished or stopped study ran with, and what became of its files, in their order.

    ``model_warnings`` say why all images of the model may be wrong.
    """

    settings: Mapping[str, Any]
    software: Mapping[str, Any]
    seconds: float
    files: Sequence[FileRecord]
    model_warnings: Sequence[str] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many files there are of each state."""
        counted = Counter(record.state for record in self.files)
        return {state: counted[state] for state in STATES}


def study_files(inputs: Sequence[Path], folder: Path) -> list[StudyFile]:
    """Return the files that inputs mean, in their order, with the results' names in ``folder``.

    A result has its input's name. Where two would be the same, all keep their folders below the one that
    they have in common. A file need not be there: the study tells at its end which it could not read.

    Raises:
        InputError: a list cannot be read, a folder has no files, a file is named twice, two files would have
            one result, or a result would take the place of an input.
    """
    paths = [Path(os.path.abspath(path)) for given in inputs for path in _expand(given)]
    _check_distinct(paths)
    names = [Path(path.with_suffix(SUFFIX).name) for path in paths]
    if _first_twice(names) is not None:
        common = Path(os.path.commonpath([path.parent for path in paths]))
        names = [path.with_suffix(SUFFIX).relative_to(common) for path in paths]
    if (clash := _first_twice(names)) is not None:
        first, second = (paths[place] for place in clash)
        raise InputError(
            f"{first} and {second}: both would be written to {folder / names[clash[0]]}; "
            "rename one, or make two studies of them"
        )
    root = Path(os.path.abspath(folder))
    files = [StudyFile(str(name), path, root / name) for name, path in zip(names, paths, strict=True)]
    read = {path.resolve() for path in paths}
    for file in files:
        if file.output.resolve() in read:
            raise InputError(f"{file.output}: the result would replace an input; name another folder with -o")
    return files


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make the folder ({error.strerror}); name another one") from error


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
        "warnings": list(report.model_warnings),
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


def _expand(given: Path) -> Iterator[Path]:
    if os.path.isdir(given):
        found = sorted(path for path in given.iterdir() if _is_scan(path))
        if not found:
            raise InputError(
                f"{given}: holds no *{SUFFIX} files and no MRD streams; name another folder, or the files"
            )
        yield from found
    elif given.suffix == LIST_SUFFIX:
        yield from _read_list(given)
    else:
        yield given


def _is_scan(path: Path) -> bool:
    is_named_so = path.suffix == SUFFIX or (path.suffix == STREAM_SUFFIX and is_recording(path))
    return is_named_so and not path.name.startswith(".")


def _read_list(path: Path) -> list[Path]:
    try:
        with path.open("rb") as file:
            stored = file.read(MAX_LIST_BYTES + 1)
        text = stored.decode()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text, expected a path on each line") from error
    if len(stored) > MAX_LIST_BYTES or "\0" in text:
        raise InputError(f"{path}: expected at most {MAX_LIST_BYTES} bytes of text, a path on each line")
    lines = (line.strip() for line in text.splitlines())
    paths = [Path(line) for line in lines if line and not line.startswith("#")]
    if not paths:
        raise InputError(f"{path}: names no files, expected a path on each line")
    return paths


def _check_distinct(paths: Iterable[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        resolved = path.resolve()
        if resolved in seen:
            raise InputError(f"{path}: is named twice among the inputs ({seen[resolved]}); name it once")
        seen[resolved] = path


def _first_twice(names: Sequence[Path]) -> tuple[int, int] | None:
    """Return the places of the first two names that are the same, on file systems without case too."""
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        first = seen.setdefault(str(name).casefold(), place)
        if first != place:
            return first, place
    return None

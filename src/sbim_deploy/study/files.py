"""The files of a study: which files are read, where each result goes, and what became of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.documents import format_object, parse_object
from sbim_deploy.io.overwriting import check_new
from sbim_deploy.records import NOTICE
from sbim_deploy.results.partial import is_begun
from sbim_deploy.study.folders import FolderFiles, list_folder

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

    ``model_warnings`` say why all images of the model may be wrong, ``left_out`` why files of a folder were
    not read.
    """

    settings: Mapping[str, Any]
    software: Mapping[str, Any]
    seconds: float
    files: Sequence[FileRecord]
    model_warnings: Sequence[str] = ()
    left_out: Mapping[Path, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many files there are of each state."""
        counted = Counter(record.state for record in self.files)
        return {state: counted[state] for state in STATES}


def study_files(inputs: Sequence[Path], folder: Path) -> list[StudyFile]:
    """Return the files that inputs mean, in their order, with the results' names in ``folder``.

    A result has its input's name. Where two would be the same, all keep their folders below the one that
    they have in common, and those that still would be are called by the whole name of their input, such as
    scan.npy.h5. A file need not be there: the study tells at its end which it could not read.

    Raises:
        InputError: a list cannot be read, a folder has no files, a file is named twice, two files would have
            one result, or a result would take the place of an input.
    """
    paths = [Path(os.path.abspath(path)) for path in list_inputs(inputs).paths]
    _check_distinct(paths)
    names = [Path(path.with_suffix(SUFFIX).name) for path in paths]
    if _first_twice(names) is not None:
        common = Path(os.path.commonpath([path.parent for path in paths]))
        names = [path.with_suffix(SUFFIX).relative_to(common) for path in paths]
        twice = {name for name, count in Counter(map(_folded, names)).items() if count > 1}
        names = [
            _longer(name, path) if _folded(name) in twice else name
            for name, path in zip(names, paths, strict=True)
        ]
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


def list_inputs(inputs: Sequence[Path]) -> FolderFiles:
    """Return the files that inputs mean: files, folders and lists of paths.

    Raises:
        InputError: a list cannot be read, or a folder has no files of k-space.
    """
    paths: list[Path] = []
    left_out: dict[Path, str] = {}
    for given in inputs:
        if os.path.isdir(given):
            found = list_folder(given)
            paths += found.paths
            left_out |= found.left_out
        elif given.suffix == LIST_SUFFIX:
            paths += _read_list(given)
        else:
            paths.append(given)
    return FolderFiles(tuple(paths), left_out)


def check_results_place(files: Sequence[StudyFile], folder: Path, resume: bool, force: bool) -> None:
    """Check that the results of a study may be written, before a cluster starts.

    Raises:
        InputError: results, finished slices or a report are there, without ``resume`` or ``force``; or what
            is there may not be replaced.
    """
    report = folder / REPORT_NAME
    if os.path.lexists(report) and not _is_report(report):
        raise InputError(f"{report}: is there already and is no study's report; name another folder with -o")
    if resume:
        return
    if force:
        for file in files:
            if os.path.lexists(file.output):
                check_new(file.output, force)
        return
    there = [file.output for file in files if os.path.lexists(file.output) or is_begun(file.output)]
    if os.path.lexists(report):
        there.append(report)
    if there:
        more = f" and {len(there) - 1} more of its files" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]}: is there already or was begun{more}; --resume keeps what is of the same run, "
            "--force replaces it, or name another folder"
        )


def _is_report(path: Path) -> bool:
    try:
        return "counts" in parse_object(path.read_bytes(), str(path))
    except (OSError, InputError):
        return False


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
        "left_out": {str(path): reason for path, reason in report.left_out.items()},
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


def _longer(name: Path, path: Path) -> Path:
    """Return the name of a result that keeps the suffix of its input, unless that is the result's own."""
    return name if path.suffix == SUFFIX else name.with_name(f"{path.name}{SUFFIX}")


def _folded(name: Path) -> str:
    """Return a name as file systems without case have it."""
    return str(name).casefold()


def _first_twice(names: Sequence[Path]) -> tuple[int, int] | None:
    """Return the places of the first two names that are the same, on file systems without case too."""
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        first = seen.setdefault(_folded(name), place)
        if first != place:
            return first, place
    return None

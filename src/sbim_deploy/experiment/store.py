"""An experiment's folder holds its identity, the tuned weights, a line for each result, and a summary."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.scans import Setting
from sbim_deploy.experiment.scores import Interval, mean_interval, standard_deviation
from sbim_deploy.experiment.settings import THROUGH_PLANE_NRMSE, Metric
from sbim_deploy.io.arrays import open_arrays
from sbim_deploy.io.atomic import check_writable, replacing
from sbim_deploy.io.documents import format_object, parse_object
from sbim_deploy.io.locks import FOLDER_LOCK
from sbim_deploy.records import FloatArray
from sbim_deploy.results.result_file import check_same_run

IDENTITY, TUNING, RESULTS, IMAGES = "run.json", "tuning.json", "results.csv", "images"
ADDED = ("method ", "peer ", "pattern ")  # of the identity: what an experiment may get more of
ANOTHER_FOLDER = "name another folder"

METRICS: tuple[str, ...] = get_args(Metric)


@dataclass(frozen=True)
class Key:
    """Names a result: a method on a slice at a nominal acceleration."""

    pattern: str
    acceleration: float
    scan: str
    slice: int
    method: str


@dataclass(frozen=True)
class Result:
    """A line of results.csv. ``seconds`` count the reconstruction alone, without maps and loading.

    ``slice`` is the number of a volume in three dimensions, which alone have what is through the plane.
    """

    pattern: str
    acceleration: float
    effective_acceleration: float
    scan: str
    slice: int
    method: str
    nrmse: float
    psnr: float
    ssim: float
    masked_psnr: float
    masked_ssim: float
    residual: float
    seconds: float
    seed: int
    through_plane_nrmse: float = math.nan

    @property
    def key(self) -> Key:
        """The key of this result."""
        return Key(self.pattern, self.acceleration, self.scan, self.slice, self.method)


@dataclass(frozen=True)
class Tuned:
    """The weight that a peer was given at an acceleration, and the mean NRMSE of every weight of its grid."""

    pattern: str
    acceleration: float
    method: str
    weight: float
    weights: tuple[float, ...]
    nrmse: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """One metric over the slices. ``difference`` is slice by slice to the baseline, and None for itself."""

    mean: Interval
    deviation: float
    difference: Interval | None


@dataclass(frozen=True)
class Line:
    """A line of the summary: a method at a nominal acceleration, on one scan or, where it is None, on all."""

    scan: str | None
    setting: Setting
    method: str
    n_slices: int
    effective_acceleration: float
    scores: dict[str, Score]
    residual: float
    seconds: float


class Store:
    """The folder of one experiment, begun or continued.

    Attributes:
        folder: the folder.

    Raises:
        InputError: the folder cannot be written, is not an experiment's, or holds another one.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        keys: Sequence[Key],
        shown: set[Key],
        dimensions: int = 2,
    ):
        self.folder = folder
        self._keys, self._shown = keys, shown
        left_out = () if dimensions == 3 else (THROUGH_PLANE_NRMSE,)
        self._columns = [field.name for field in fields(Result) if field.name not in left_out]
        # JSON has no tuples, so the comparison is with what will be read back, not with what was given.
        identity = parse_object(format_object(identity), "the identity of the experiment")
        self._open_folder(identity)
        self._tuned = self._read_tuned()
        self._done = self._read_results()

    @property
    def tuned(self) -> list[Tuned]:
        """The weights that were chosen for the experiment's peers."""
        wanted = {(key.pattern, key.acceleration, key.method) for key in self._keys}
        return [each for each in self._tuned if (each.pattern, each.acceleration, each.method) in wanted]

    @property
    def results(self) -> list[Result]:
        """What is finished of the experiment, in its order."""
        return [self._done[key] for key in self._keys if key in self._done]

    @property
    def pending(self) -> list[Key]:
        """The results that are still to be made, in order."""
        return [key for key in self._keys if key not in self._done]

    def add_tuned(self, tuned: Tuned) -> None:
        """Keep a chosen weight."""
        choices = [*self._tuned, tuned]
        with replacing(self.folder / TUNING) as temporary:
            stored = {"choices": [asdict(each) for each in choices]}
            temporary.write_text(format_object(stored, indent=1), encoding="utf-8")
        self._tuned = choices

    def add(self, result: Result, image: FloatArray) -> None:
        """Keep the next result, and its image (rows, columns) where the page shows it.

        Raises:
            InputError: the disk is full, or the folder was closed to writing.
        """
        if result.key in self._shown:
            with replacing(self._image_path(result.key)) as temporary, temporary.open("wb") as file:
                np.save(file, image.astype(np.float32))
        path = self.folder / RESULTS
        try:
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._line(result))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); free the space") from error
        rounded = _rounded(result)
        self._done[rounded.key] = rounded

    def read_image(self, key: Key) -> FloatArray | None:
        """Return a shown result's magnitude (rows, columns), or None where it is missing or damaged."""
        try:
            with open_arrays(self._image_path(key)) as file:
                image: FloatArray = np.array(file.arrays[""].read(()))
        except (InputError, KeyError):
            return None
        return image if image.dtype == np.float32 and image.ndim == 2 else None

    def _open_folder(self, identity: dict[str, Any]) -> None:
        record = self.folder / IDENTITY
        try:
            if not record.is_file():
                self.folder.mkdir(parents=True, exist_ok=True)
                if any(path.name != FOLDER_LOCK for path in self.folder.iterdir()):
                    raise InputError(f"{self.folder}: holds other files; {ANOTHER_FOLDER}")
                (self.folder / IMAGES).mkdir()
                _write_text(self.folder / RESULTS, _row(self._columns))
                _write_text(record, format_object(identity, indent=1))
            found = parse_object(record.read_bytes(), str(record))
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be used ({error.strerror}); {ANOTHER_FOLDER}") from error
        # What only one of the two has was added, or is left out for now: both are allowed.
        either = {name: value for name, value in {**identity, **found}.items() if name.startswith(ADDED)}
        check_same_run({**either, **found}, {**either, **identity}, self.folder, ANOTHER_FOLDER)
        check_writable(self.folder / RESULTS)
        if found != {**found, **identity}:
            _write_text(record, format_object({**found, **identity}, indent=1))

    def _read_tuned(self) -> list[Tuned]:
        path = self.folder / TUNING
        if not path.is_file():
            return []
        try:
            stored = parse_object(path.read_bytes(), str(path))
            return [_as_tuned(each) for each in stored["choices"]]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is damaged; remove the folder, or {ANOTHER_FOLDER}") from error

    def _read_results(self) -> dict[Key, Result]:
        """Read the finished results. Lines that were cut short, or lost their image, are dropped."""
        path = self.folder / RESULTS
        try:
            text = path.read_bytes().decode("utf-8")
            whole = text[: text.rfind("\n") + 1]
            header = _row(self._columns)
            if not whole.startswith(header):
                raise ValueError("no header")
            rows = [_as_result(row) for row in csv.DictReader(io.StringIO(whole, newline=""), strict=True)]
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(f"{path}: is damaged; remove the folder, or {ANOTHER_FOLDER}") from error
        kept = [row for row in rows if row.key not in self._shown or self.read_image(row.key) is not None]
        if len(kept) < len(rows) or whole != text:
            _write_text(path, "".join([header, *map(self._line, kept)]))
        return {row.key: row for row in kept}

    def _line(self, result: Result) -> str:
        return _row([getattr(result, name) for name in self._columns])

    def _image_path(self, key: Key) -> Path:
        # The scan's number stands for its name, which may hold anything.
        scan = list(dict.fromkeys(each.scan for each in self._keys)).index(key.scan)
        name = f"{key.pattern}-R{key.acceleration:g}-{scan}-{key.slice}-{key.method}.npy"
        return self.folder / IMAGES / name


def summarise(results: Sequence[Result], baseline: str, scan: str | None = None) -> list[Line]:
    """Return a line for each setting and method, in the order of the results; of one scan, or of all."""
    if scan is not None:
        results = [result for result in results if result.scan == scan]
    groups: dict[tuple[Setting, str], list[Result]] = {}
    for result in results:
        setting = Setting(result.pattern, result.acceleration)
        groups.setdefault((setting, result.method), []).append(result)
    return [
        _summary_line(scan, key, group, groups[key[0], baseline], baseline) for key, group in groups.items()
    ]


def write_summary(path: Path, lines: Sequence[Line]) -> None:
    """Write the lines as CSV. A cell is empty where there is no such number, or where the scan is all."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    header = ["scan", "pattern", "acceleration", "effective_acceleration", "method", "slices"]
    for metric in lines[0].scores:
        header += [f"{metric}_mean", f"{metric}_sd"]
        header += [f"{metric}_difference", f"{metric}_difference_low", f"{metric}_difference_high"]
    writer.writerow([*header, "residual", "seconds"])
    for line in lines:
        cells: list[object] = [line.scan, line.setting.pattern, _cell(line.setting.acceleration)]
        cells += [_cell(line.effective_acceleration), line.method, line.n_slices]
        for score in line.scores.values():
            cells += [_cell(score.mean.mean), _cell(score.deviation)]
            d = score.difference
            cells += ["", "", ""] if d is None else [_cell(d.mean), _cell(d.low), _cell(d.high)]
        writer.writerow([*cells, _cell(line.residual), _cell(line.seconds)])
    with replacing(path) as temporary:
        temporary.write_text(written.getvalue(), encoding="utf-8", newline="")


def _row(values: Sequence[object]) -> str:
    written = io.StringIO(newline="")
    row = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
    csv.writer(written, lineterminator="\n").writerow(row)
    return written.getvalue()


def _rounded(result: Result) -> Result:
    """Return the result as it will be read back, so that a resumed run has the same digits."""
    stored = {
        field.name: f"{value:.6g}"
        for field in fields(result)
        if isinstance(value := getattr(result, field.name), float)
    }
    return _as_result({**asdict(result), **stored})


def _as_result(row: dict[str, Any]) -> Result:
    convert = {"str": str, "int": int, "float": float}
    given = [field for field in fields(Result) if field.name in row]
    return Result(**{field.name: convert[str(field.type)](row[field.name]) for field in given})


def _as_tuned(stored: dict[str, Any]) -> Tuned:
    weights, scores = (tuple(float(value) for value in stored[name]) for name in ("weights", "nrmse"))
    if len(weights) != len(scores):
        raise ValueError("weights and nrmse differ in length")
    names = (str(stored["pattern"]), float(stored["acceleration"]), str(stored["method"]))
    return Tuned(*names, float(stored["weight"]), weights, scores)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _summary_line(
    scan: str | None, key: tuple[Setting, str], group: list[Result], base: list[Result], baseline: str
) -> Line:
    setting, method = key
    if [(each.scan, each.slice) for each in group] != [(each.scan, each.slice) for each in base]:
        raise ValueError(f"{method} and {baseline} were not scored on the same slices")
    scores = {}
    for metric in METRICS:
        values = [float(getattr(each, metric)) for each in group]
        if metric == THROUGH_PLANE_NRMSE and np.isnan(values).all():
            continue  # slices have none
        differences = [value - float(getattr(each, metric)) for value, each in zip(values, base, strict=True)]
        difference = mean_interval(differences) if method != baseline else None
        scores[metric] = Score(mean_interval(values), standard_deviation(values), difference)
    effective, residual, seconds = (
        float(np.mean([getattr(each, name) for each in group]))
        for name in ("effective_acceleration", "residual", "seconds")
    )
    return Line(scan, setting, method, len(group), effective, scores, residual, seconds)


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"

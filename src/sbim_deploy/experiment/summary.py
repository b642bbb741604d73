"""A line for each method at each acceleration: what its slices have in common."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.experiment.scans import Setting
from sbim_deploy.experiment.statistics import Interval, mean_interval, standard_deviation
from sbim_deploy.experiment.store import Result
from sbim_deploy.io.atomic import replacing

METRICS = ("psnr", "ssim", "nrmse", "masked_psnr", "masked_ssim")
COMPARED = METRICS[:3]


@dataclass(frozen=True)
class Score:
    """One metric over the slices; ``difference`` is to the baseline, slice by slice, None for itself."""

    mean: Interval
    deviation: float
    difference: Interval | None


@dataclass(frozen=True)
class Line:
    """A method at a nominal acceleration."""

    setting: Setting
    method: str
    n_slices: int
    effective_acceleration: float
    scores: dict[str, Score]
    residual: float
    seconds: float


def summarise(results: Sequence[Result], baseline: str) -> list[Line]:
    """Return a line for each setting and method, in the order of the results."""
    groups: dict[tuple[Setting, str], list[Result]] = {}
    for result in results:
        setting = Setting(result.pattern, result.acceleration)
        groups.setdefault((setting, result.method), []).append(result)
    return [_line(key, group, groups[key[0], baseline], baseline) for key, group in groups.items()]


def _line(key: tuple[Setting, str], group: list[Result], base: list[Result], baseline: str) -> Line:
    setting, method = key
    if [(each.scan, each.slice) for each in group] != [(each.scan, each.slice) for each in base]:
        raise ValueError(f"{method} and {baseline} were not scored on the same slices")
    scores = {}
    for metric in METRICS:
        values = [float(getattr(each, metric)) for each in group]
        differences = [value - float(getattr(each, metric)) for value, each in zip(values, base, strict=True)]
        difference = mean_interval(differences) if method != baseline and metric in COMPARED else None
        scores[metric] = Score(mean_interval(values), standard_deviation(values), difference)
    effective, residual, seconds = (
        float(np.mean([getattr(each, name) for each in group]))
        for name in ("effective_acceleration", "residual", "seconds")
    )
    return Line(setting, method, len(group), effective, scores, residual, seconds)


def write_summary(path: Path, lines: Sequence[Line]) -> None:
    """Write the lines as CSV; an empty cell is a number that there is not."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    header = ["pattern", "acceleration", "effective_acceleration", "method", "slices"]
    for metric in METRICS:
        header += [f"{metric}_mean", f"{metric}_sd"]
        if metric in COMPARED:
            header += [f"{metric}_difference", f"{metric}_difference_low", f"{metric}_difference_high"]
    writer.writerow([*header, "residual", "seconds"])
    for line in lines:
        cells: list[object] = [line.setting.pattern, _cell(line.setting.acceleration)]
        cells += [_cell(line.effective_acceleration), line.method, line.n_slices]
        for metric, score in line.scores.items():
            cells += [_cell(score.mean.mean), _cell(score.deviation)]
            if metric in COMPARED:
                d = score.difference
                cells += ["", "", ""] if d is None else [_cell(d.mean), _cell(d.low), _cell(d.high)]
        writer.writerow([*cells, _cell(line.residual), _cell(line.seconds)])
    with replacing(path) as temporary:
        temporary.write_text(written.getvalue(), encoding="utf-8", newline="")


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"

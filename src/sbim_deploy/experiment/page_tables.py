"""The page's tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.run import Finished
from sbim_deploy.experiment.settings import ExperimentSettings
from sbim_deploy.experiment.statistics import Interval
from sbim_deploy.experiment.store import Tuned
from sbim_deploy.experiment.summary import METRICS, Line

TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "nrmse": "NRMSE",
    "masked_psnr": "masked PSNR<br>as published",
    "masked_ssim": "masked SSIM<br>as published",
}
DIGITS = {"psnr": 2, "ssim": 4, "nrmse": 4, "masked_psnr": 2, "masked_ssim": 4}


def score_table(pattern: str, lines: Sequence[Line]) -> str:
    """Return the scores of one pattern, acceleration by acceleration."""
    titles = "".join(f"<th>{TITLES[metric]}</th>" for metric in METRICS)
    rows = []
    for setting, of_setting in groupby(lines, key=lambda line: line.setting):
        group = list(of_setting)
        effective = sum(line.effective_acceleration for line in group) / len(group)
        rows.append(
            f'<tr class="setting"><th colspan="8">R = {setting.acceleration:g} '
            f"<span>{effective:.2f} effective, {group[0].n_slices} slices</span></th></tr>"
        )
        best = {metric: _best(group, metric) for metric in METRICS}
        rows += [_score_row(line, best) for line in group]
    return (
        f'<h3>{escape(pattern.capitalize())} lines</h3><div class="wide"><table class="scores"><thead><tr>'
        f"<th>method</th>{titles}<th>residual</th><th>seconds<br>a slice</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _score_row(line: Line, best: dict[str, float]) -> str:
    cells = []
    for metric in METRICS:
        score, digits = line.scores[metric], DIGITS[metric]
        mean = score.mean.mean
        kind = ' class="best"' if round(mean, digits) == round(best[metric], digits) else ""
        deviation = "" if math.isnan(score.deviation) else f" ± {score.deviation:.{digits}f}"
        difference = "" if score.difference is None else _difference(score.difference, metric)
        cells.append(f"<td{kind}><b>{mean:.{digits}f}</b>{deviation}{difference}</td>")
    return (
        f"<tr><td>{escape(line.method)}</td>{''.join(cells)}"
        f"<td>{line.residual:.3f}</td><td>{line.seconds:.2f}</td></tr>"
    )


def _difference(interval: Interval, metric: str) -> str:
    digits = DIGITS[metric]
    if math.isnan(interval.low):
        return f"<small>{_signed(interval.mean, digits)}</small>"
    sign = -1 if metric == "nrmse" else 1
    kind = ""
    if interval.low > 0 or interval.high < 0:
        kind = ' class="better"' if sign * interval.mean > 0 else ' class="worse"'
    mean, low, high = (_signed(value, digits) for value in (interval.mean, interval.low, interval.high))
    return f"<small{kind}>{mean} [{low}, {high}]</small>"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _best(lines: Sequence[Line], metric: str) -> float:
    choose = min if metric == "nrmse" else max
    return choose(line.scores[metric].mean.mean for line in lines)


def method_table(settings: ExperimentSettings, finished: Finished) -> str:
    """Return what each method is."""
    rows = []
    choices = {method.name: method.numbers() for method in settings.methods}
    for name in finished.methods:
        if name in choices:
            given = [f"{finished.n_calls[name]} network calls"]
            given += [
                f"{key.replace('_', ' ')} {value}"
                for key, value in choices[name].items()
                if value is not None
            ]
        else:
            given = [finished.identity[f"peer {name}"]]
            if PEERS[name].weights:
                given.append("regularisation chosen on the tuning slices")
        rows.append(f'<tr><td>{escape(name)}</td><td class="text">{escape(", ".join(given))}</td></tr>')
    threads = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    return (
        f"<table><tbody>{''.join(rows)}</tbody></table>"
        "<p>Every method gets the same k-space and the same coil maps, one slice at a time, with "
        f"{threads}. Seconds are of the reconstruction alone: not the maps, nor loading the "
        "network; for BART they hold the start of the program and its files. The residual is |A x - y| / |y| "
        "over the measured samples.</p>"
    )


def tuning_table(settings: ExperimentSettings, tuned: Sequence[Tuned]) -> str:
    """Return the weights that were chosen, with their mean NRMSE on the tuning slices."""
    if not tuned:
        return ""
    names = list(dict.fromkeys(each.method for each in tuned))
    found = {(each.pattern, each.acceleration, each.method): each for each in tuned}
    places = list(dict.fromkeys((each.pattern, each.acceleration) for each in tuned))
    rows = []
    for pattern, acceleration in places:
        cells = "".join(_weight_cell(found.get((pattern, acceleration, name))) for name in names)
        rows.append(f"<tr><td>{escape(pattern)}, R = {acceleration:g}</td>{cells}</tr>")
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    slices = ", ".join(map(str, settings.tuning_slices))
    grid = ", ".join(f"{weight:g}" for weight in tuned[0].weights)
    return (
        f"<h3>Regularisation</h3><p>Chosen for each acceleration by the least mean NRMSE on slices {slices}, "
        f"which are scored nowhere, from {grid}. A star is at an end of the grid.</p>"
        f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _weight_cell(tuned: Tuned | None) -> str:
    if tuned is None:
        return "<td></td>"
    star = "*" if tuned.weight in (tuned.weights[0], tuned.weights[-1]) else ""
    return f"<td>{tuned.weight:g}{star}<small>NRMSE {min(tuned.nrmse):.4f}</small></td>"


def record_table(identity: dict[str, Any]) -> str:
    """Return what decided the results, as it stands in run.json."""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="text"><code>{escape(_plain(value))}</code></td></tr>'
        for name, value in identity.items()
        if value not in (None, {}, [])
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(f"({_plain(item)})" if isinstance(item, dict) else _plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)

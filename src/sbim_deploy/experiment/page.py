"""One HTML page that needs nothing else: no script, no other file, every picture within it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sbim_deploy.experiment.claims import judge
from sbim_deploy.experiment.plots import image_sections, is_cut_at_zero, plot_scores, values_in_words
from sbim_deploy.experiment.run import Finished
from sbim_deploy.experiment.scans import pattern_in_words, scan_names
from sbim_deploy.experiment.scores import Interval
from sbim_deploy.experiment.settings import LOWER_IS_BETTER, MASKED, THROUGH_PLANE_NRMSE, ExperimentSettings
from sbim_deploy.experiment.store import Line, Tuned
from sbim_deploy.pages import html
from sbim_deploy.pages.html import data_uri, table, text
from sbim_deploy.records import NOTICE
from sbim_deploy.words import plural

LONGEST = 100_000  # what decided an experiment is shown whole

TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "nrmse": "NRMSE",
    "masked_psnr": "masked PSNR<br>as published",
    "masked_ssim": "masked SSIM<br>as published",
    THROUGH_PLANE_NRMSE: "NRMSE<br>through the plane",
}
DIGITS = {"psnr": 2, "ssim": 4, "nrmse": 4, "masked_psnr": 2, "masked_ssim": 4, THROUGH_PLANE_NRMSE: 4}


def score_table(settings: ExperimentSettings, pattern: str, lines: Sequence[Line]) -> str:
    """Return the scores of one pattern, acceleration by acceleration."""
    first, unit = settings.metrics_first, settings.unit
    metrics = sorted(lines[0].scores, key=lambda metric: metric.startswith(MASKED) != (first == MASKED))
    titles = "".join(f'<th scope="col">{TITLES[metric]}</th>' for metric in metrics)
    rows = []
    for setting, of_setting in groupby(lines, key=lambda line: line.setting):
        group = list(of_setting)
        effective = sum(line.effective_acceleration for line in group) / len(group)
        rows.append(
            f'<tr class="setting"><th colspan="{len(metrics) + 3}" scope="colgroup">'
            f"R = {setting.acceleration:g} "
            f"<span>{effective:.2f} effective, {plural(group[0].n_slices, unit)}</span></th></tr>"
        )
        best = {metric: _best(group, metric) for metric in metrics}
        rows += [_score_row(line, best) for line in group]
    return (
        f'<h3>{text(_capitalised(settings, pattern))}</h3><div class="wide"><table class="scores"><thead><tr>'
        f'<th scope="col">method</th>{titles}<th scope="col">residual</th>'
        f'<th scope="col">seconds<br>a {unit}</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _score_row(line: Line, best: dict[str, float]) -> str:
    cells = []
    for metric in best:
        score, digits = line.scores[metric], DIGITS[metric]
        mean = score.mean.mean
        kind = ' class="best"' if round(mean, digits) == round(best[metric], digits) else ""
        deviation = "" if math.isnan(score.deviation) else f" ± {score.deviation:.{digits}f}"
        difference = "" if score.difference is None else _difference(score.difference, metric)
        cells.append(f"<td{kind}><b>{mean:.{digits}f}</b>{deviation}{difference}</td>")
    return (
        f'<tr><th scope="row">{text(line.method)}</th>{"".join(cells)}'
        f"<td>{line.residual:.3f}</td><td>{line.seconds:.2f}</td></tr>"
    )


def _difference(interval: Interval, metric: str) -> str:
    digits = DIGITS[metric]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    kind = ""
    if interval.low > 0 or interval.high < 0:
        kind = ' class="better"' if sign * interval.mean > 0 else ' class="worse"'
    return f"<small{kind}>{_interval(interval, digits)}</small>"


def _interval(interval: Interval, digits: int) -> str:
    mean, low, high = (_signed(value, digits) for value in (interval.mean, interval.low, interval.high))
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _best(lines: Sequence[Line], metric: str) -> float:
    choose = min if metric in LOWER_IS_BETTER else max
    return choose(line.scores[metric].mean.mean for line in lines)


def method_table(settings: ExperimentSettings, finished: Finished) -> str:
    """Return what each method is."""
    rows = []
    choices = {method.name: method.numbers() for method in settings.methods}
    for name in finished.methods:
        if name in choices:
            a_slice = " a slice" if settings.dimensions == 3 else ""
            given = [plural(finished.n_calls[name], "network call") + a_slice]
            given += [f"{key.replace('_', ' ')} {value}" for key, value in choices[name].items()]
        else:
            given = [finished.identity[f"peer {name}"]]
            if settings.is_tuned(name):
                given.append("regularisation chosen on the tuning slices")
        rows.append((name, ", ".join(given)))
    return (
        f"{table(rows, LONGEST)}"
        f"<p>Every method gets the same k-space and the same coil maps, one {settings.unit} at a time, with "
        f"{plural(settings.threads, 'thread')}. Seconds are of the reconstruction alone: not the maps, nor "
        "loading the network; for BART they hold the start of the program and its files. The residual is "
        "|A x - y| / |y| over the measured samples.</p>"
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
        rows.append(f'<tr><th scope="row">{text(pattern)}, R = {acceleration:g}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    numbers = ", ".join(map(str, settings.tuned_on))
    grid = " and ".join(_grids_in_words(tuned))
    return (
        "<h3>Regularisation</h3><p>Chosen for each acceleration by the least mean NRMSE on "
        f"{settings.unit}s {numbers}, which are scored nowhere, from {grid}. A star is at an end of the "
        "grid.</p>"
        f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _grids_in_words(tuned: Sequence[Tuned]) -> list[str]:
    """Return what weights were chosen from; of several grids with the peers and patterns that have each."""
    told = []
    for weights in (grids := dict.fromkeys(each.weights for each in tuned)):
        of = [each for each in tuned if each.weights == weights]
        methods = ", ".join(dict.fromkeys(each.method for each in of))
        patterns = ", ".join(dict.fromkeys(each.pattern for each in of))
        where = f" ({methods} on {patterns})" if len(grids) > 1 else ""
        told.append(text(", ".join(f"{weight:g}" for weight in weights) + where))
    return told


def _weight_cell(tuned: Tuned | None) -> str:
    if tuned is None:
        return "<td></td>"
    star = "*" if tuned.weight in (tuned.weights[0], tuned.weights[-1]) else ""
    return f"<td>{tuned.weight:g}{star}<small>NRMSE {min(tuned.nrmse):.4f}</small></td>"


def record_table(identity: dict[str, Any]) -> str:
    """Return what decided the results, as it stands in run.json."""
    known = ((name, _plain(value)) for name, value in identity.items() if value not in (None, {}, []))
    return table(known, LONGEST)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(f"({_plain(item)})" if isinstance(item, dict) else _plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def claim_section(settings: ExperimentSettings, finished: Finished) -> str:
    """Return what becomes of the claims, in words."""
    if not settings.claims:
        return ""
    items = []
    for claim in settings.claims:
        digits = DIGITS[claim.metric]
        words = []
        for verdict in judge(claim, finished.store.results):
            place = f"R = {verdict.acceleration:g}"
            place += f", {pattern_in_words(settings, verdict.pattern)}" if len(settings.patterns) > 1 else ""
            words.append(f"At {place} it <b>{verdict.word}</b>: {_interval(verdict.difference, digits)}.")
        compared = f"{claim.method} against {claim.against}, {TITLES[claim.metric].replace('<br>', ' ')}"
        items.append(
            f"<h3>{text(claim.says)}</h3><p>{text(compared)}. {' '.join(words) or 'Not compared.'}</p>"
        )
    return (
        "<h2>Claims</h2><p>A claim appears where the 95 % bootstrap interval of the mean difference over the "
        f"{settings.unit}s lies on its side of 0, and is undecided where the interval holds 0. Differences "
        f"are positive where the first method is better.</p>{''.join(items)}"
    )


PLAIN_CURVES = (("psnr", "PSNR (dB)"), ("ssim", "SSIM"))
VOLUME_CURVES = (*PLAIN_CURVES, (THROUGH_PLANE_NRMSE, "NRMSE through the plane"))
OF_VOLUMES = (
    "; SSIM is the mean over a volume's slices. Through the plane is the NRMSE of the differences between "
    "neighbouring slices: what flickers from slice to slice counts there"
)
MASKED_CURVES = (
    ("masked_psnr", "masked PSNR (dB), as published"),
    ("masked_ssim", "masked SSIM, as published"),
)


def write_page(path: Path, settings: ExperimentSettings, finished: Finished, lines: Sequence[Line]) -> None:
    """Write the page of a finished experiment; the lines of one scan alone come after those of all.

    Raises:
        InputError: the page cannot be written.
    """
    sections = [
        *_curves(settings, [line for line in lines if line.scan is None]),
        claim_section(settings, finished),
        "<h2>Scores</h2>",
        _explained(settings, finished),
        *_score_tables(settings, lines),
        image_sections(settings, finished),
        "<h2>Methods</h2>",
        method_table(settings, finished),
        tuning_table(settings, finished.store.tuned),
        "<h2>Provenance</h2>",
        record_table(finished.identity),
    ]
    version = text(finished.identity["sbim-deploy"])
    body = [
        f'<header><h1>{text(settings.title)}</h1><p class="lead">{text(_lead(settings, finished))}</p>',
        f'<p class="notice">{NOTICE}</p></header>',
        "<main>",
        *sections,
        "</main>",
        f'<footer><p class="soft">sbim-deploy {version}. {NOTICE}</p></footer>',
    ]
    style = html.page_asset("experiment.css")
    html.write_page(path, settings.title, style, "\n".join(body), force=True)  # the store checked its folder


def _score_tables(settings: ExperimentSettings, lines: Sequence[Line]) -> list[str]:
    sections = []
    for scan, of_scan in groupby(lines, key=lambda line: line.scan):
        group = list(of_scan)
        sections += [] if scan is None else [f"<h2>Scores of {text(scan)} alone</h2>"]
        sections += [score_table(settings, pattern, _of(group, pattern)) for pattern in settings.patterns]
    return sections


def _curves(settings: ExperimentSettings, lines: Sequence[Line]) -> list[str]:
    sections = ["<h2>Over the acceleration</h2>"]
    for pattern in settings.patterns:
        own = _of(lines, pattern)
        words = _capitalised(settings, pattern)
        plain = _plots(
            own,
            VOLUME_CURVES if settings.dimensions == 3 else PLAIN_CURVES,
            f"{words}. Mean over the {settings.unit}s, the band its 95 % bootstrap interval. Magnitudes, "
            f"data range the reference's maximum, no mask{OF_VOLUMES if settings.dimensions == 3 else ''}",
        )
        masked = _plots(
            own,
            MASKED_CURVES,
            f"{words}, by the thesis's masked metrics, as its code computed them: set "
            "to 0 up to 5 % of the reference's maximum, 8 bits each by its own maximum, a disc over the "
            "reconstruction alone. They are for comparison with its figures only",
        )
        sections += [masked, plain] if settings.metrics_first == MASKED else [plain, masked]
    return sections


def _plots(lines: Sequence[Line], curves: Sequence[tuple[str, str]], caption: str) -> str:
    """Return a plot for each metric, beside each other where there is room, with their caption."""
    shown = "".join(
        f'<img class="plot" src="{data_uri(plot_scores(lines, metric, label), "image/svg+xml")}" '
        f'alt="{text(values_in_words(lines, metric, label), html.LONGEST_ALTERNATIVE)}">'
        for metric, label in curves
    )
    cut = [label for metric, label in curves if is_cut_at_zero(lines, metric)]
    end = f"; what is below 0 in {' and '.join(cut)} is cut off" if cut else ""
    return f'<figure><div class="plots">{shown}</div><figcaption>{text(caption)}{end}.</figcaption></figure>'


def _lead(settings: ExperimentSettings, finished: Finished) -> str:
    n_scored = len(settings.scored) * len(scan_names(settings))
    accelerations = ", ".join(f"{value:g}" for value in settings.accelerations)
    if settings.simulate is not None:
        scan = settings.simulate
        of = f" of {', '.join(scan_names(settings))}" if scan.objects else ""
        slices = f"{plural(n_scored, f'simulated {settings.unit}')}{of}"
        sizes: tuple[int, ...] = (scan.size, scan.size)
        if settings.dimensions == 3:
            sizes = (scan.size, scan.partitions or scan.size, scan.size)
            slices += ", each with a phase, noise and samples of its own"
        else:
            slices += " that no network was trained on"
        data = f"{' x '.join(map(str, sizes))}, {plural(scan.coils, 'coil')}, noise {scan.noise:g}"
    else:
        slices, data = plural(n_scored, "slice"), f"from {plural(len(settings.kspace), 'file')}"
    patterns = " and ".join(pattern_in_words(settings, each) for each in settings.patterns)
    maps = "the true coil maps" if settings.maps == "true" else "coil maps estimated from the same samples"
    return (
        f"{plural(len(finished.methods), 'method')} on {slices} ({data}), "
        f"{patterns}, R = {accelerations}; {maps}, the same for every method."
    )


def _explained(settings: ExperimentSettings, finished: Finished) -> str:
    left_out, unit = ", ".join(finished.left_out), settings.unit
    missing = f" Not installed, and so left out: <b>{text(left_out)}</b>." if left_out else ""
    return (
        f"<p>Mean over the {unit}s with their standard deviation; below it the mean of the differences to "
        f"<b>{text(settings.baseline)}</b>, {unit} by {unit}, and its 95 % bootstrap interval, in colour "
        "where it leaves out 0. The best mean of each column and acceleration is bold. "
        f"{unit.capitalize()}s are resampled as if independent, and with few of them the interval is too "
        f"short.{missing}</p>"
    )


def _capitalised(settings: ExperimentSettings, pattern: str) -> str:
    words = pattern_in_words(settings, pattern)
    return words[0].upper() + words[1:]


def _of(lines: Sequence[Line], pattern: str) -> list[Line]:
    return [line for line in lines if line.setting.pattern == pattern]

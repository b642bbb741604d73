"""The page's pictures: the thesis's two plots, and a grid of images for each shown slice."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.peers import PEERS
from sbim_deploy.experiment.run import Finished
from sbim_deploy.experiment.scans import Setting, all_settings, full_slice, shown_scans
from sbim_deploy.experiment.settings import ExperimentSettings
from sbim_deploy.experiment.store import Key, Line
from sbim_deploy.experiment.volumes import picture_of, reference_volume
from sbim_deploy.pages.html import png_uri, text
from sbim_deploy.pages.panels import colour
from sbim_deploy.records import FloatArray

# Okabe and Ito's colours, which colour-blind readers can tell apart; the markers say it again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#8C564B")
# Of methods without the network: dark, thin and broken, each in a way of its own.
PEER_COLOURS = ("#1A1A1A", "#7A3E00", "#005F4B", "#7A2E5D", "#1F3A93")
PEER_DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (1, 1.5)), (0, (7, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
LEGEND_COLUMNS = 3
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Fixed, so that the same results give the same page.
STYLE: Any = {
    "svg.hashsalt": "sbim-deploy",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


def plot_scores(lines: Sequence[Line], metric: str, label: str) -> bytes:
    """Draw one pattern's curves of a metric and return an SVG.

    Args:
        lines: the lines of one pattern.
        metric: its name in the results.
        label: its axis's label.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        n_rows = math.ceil(len({line.method for line in lines}) / LEGEND_COLUMNS)
        figure = Figure(figsize=(5.6, 3.9 + 0.2 * n_rows), layout="constrained")
        axis = figure.subplots()
        _draw_panel(axis, lines, metric)
        axis.set_ylabel(label)
        handles, labels = axis.get_legend_handles_labels()
        columns = min(len(labels), LEGEND_COLUMNS)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def values_in_words(lines: Sequence[Line], metric: str, label: str) -> str:
    """Return the means of a plot, for who cannot see it."""
    told = []
    for method in dict.fromkeys(line.method for line in lines):
        means = [
            f"{line.scores[metric].mean.mean:.4g} at R = {line.setting.acceleration:g}"
            for line in lines
            if line.method == method
        ]
        told.append(f"{method} {', '.join(means)}")
    return f"{label}: {'; '.join(told)}"


def is_cut_at_zero(lines: Sequence[Line], metric: str) -> bool:
    """Tell whether a plot leaves out values below 0: a sampler that fails shall not flatten the others."""
    return any(min(line.scores[metric].mean.mean, line.scores[metric].mean.low) < 0 for line in lines)


def _draw_panel(axis: Any, lines: Sequence[Line], metric: str) -> None:
    methods = list(dict.fromkeys(line.method for line in lines))
    samplers = [name for name in methods if name not in PEERS]
    peers = [name for name in methods if name in PEERS]
    for number, method in enumerate(methods):
        own = sorted(
            (line for line in lines if line.method == method), key=lambda line: line.setting.acceleration
        )
        accelerations = [line.setting.acceleration for line in own]
        intervals = [line.scores[metric].mean for line in own]
        is_sampler = method in samplers
        place = (samplers if is_sampler else peers).index(method)
        palette = COLOURS if is_sampler else PEER_COLOURS
        colour = palette[place % len(palette)]
        axis.fill_between(
            accelerations,
            [each.low for each in intervals],
            [each.high for each in intervals],
            color=colour,
            alpha=0.13 if is_sampler else 0.07,
            linewidth=0,
        )
        axis.plot(
            accelerations,
            [each.mean for each in intervals],
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=1.8 if is_sampler else 1.2,
            linestyle="-" if is_sampler else PEER_DASHES[place % len(PEER_DASHES)],
            label=method,
        )
    if is_cut_at_zero(lines, metric):
        axis.set_ylim(bottom=0)
    axis.set_xlabel("nominal acceleration R")
    axis.set_xticks(sorted({line.setting.acceleration for line in lines}))
    axis.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")


N_COLOURS = 256


def picture(image: FloatArray, window: tuple[float, float], colormap: str) -> str:
    """Return a magnitude or error map (rows, columns) as a PNG data URI; outside the window it is clipped."""
    low, high = window
    position = np.nan_to_num((image.astype(np.float64) - low) / (high - low), nan=0.0).clip(0, 1)
    indices = np.rint(position * (N_COLOURS - 1)).astype(np.uint8)
    drawn = Image.fromarray(indices)
    if colormap != "gray":
        drawn = drawn.convert("P")
        drawn.putpalette(colour(np.linspace(0, 1, N_COLOURS), (0, 1), colormap).tobytes())
    return png_uri(drawn)


def colour_bar(colormap: str) -> str:
    """Return the colours of a window, low to high, as a PNG data URI."""
    return picture(np.tile(np.linspace(0, 1, N_COLOURS, dtype=np.float32), (12, 1)), (0, 1), colormap)


def round_up(value: float) -> float:
    """Return the next number of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten: an end of a scale to read."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return power * next(step for step in steps if step * power >= value * (1 - 1e-9))


# Of each map, and then the median of the maps: neither a few bright pixels nor a method that fails darken
# the rest.
ERROR_PERCENTILE = 99.5


OF_VOLUMES = "Of a volume the middle slice stands above the cut across all slices. "


def image_sections(settings: ExperimentSettings, finished: Finished) -> str:
    """Return the grids of all shown slices, each image above its error map.

    Raises:
        InputError: an image is missing from the experiment's folder.
    """
    if not settings.shown:
        return ""
    references = {
        (scan, index): _reference(settings, scan, index)
        for scan in shown_scans(settings)
        for index in settings.shown
    }
    largest = []
    for key in _shown_keys(settings, finished):
        reference = references[key.scan, key.slice]
        error = _error(_image(finished, key, reference), reference)
        largest.append(np.percentile(error, ERROR_PERCENTILE))
    end = round_up(float(np.median(largest)))
    grids = [
        _grid(settings, finished, scan, index, reference, end)
        for (scan, index), reference in references.items()
    ]
    return (
        f"<h2>Images</h2><p>{OF_VOLUMES if settings.dimensions == 3 else ''}Images are shown from 0 to the "
        "maximum of the reference. Below each is "
        f"the absolute error of its magnitude, every one on this page on one scale: 0 to {100 * end:g} % "
        f"of the reference's maximum; a larger error has the brightest colour.</p>{''.join(grids)}"
    )


def _grid(
    settings: ExperimentSettings,
    finished: Finished,
    scan: str,
    index: int,
    reference: FloatArray,
    end: float,
) -> str:
    uri = picture(reference, (0, float(reference.max())), "gray")
    named = f"reference, {settings.unit} {index}"
    shown = f'<figure><figcaption>reference</figcaption><img src="{uri}" alt="{named}"></figure>'
    strips = []
    for setting in all_settings(settings):
        cells = "".join(
            _cell(finished, _key(setting, scan, index, method), reference, end) for method in finished.methods
        )
        label = f"R = {setting.acceleration:g}"
        if len(settings.patterns) > 1:
            label += f", {text(setting.pattern)}"
        strips.append(f'<h4>{label}</h4><div class="strip">{shown}{cells}</div>')
    bar = (
        f'<div class="bar">error: 0 <img src="{colour_bar("error")}" alt="colours of the error"> '
        f"{100 * end:g} % of the reference's maximum</div>"
    )
    return f'<h3>{text(scan)}, {settings.unit} {index}</h3><div class="black">{"".join(strips)}{bar}</div>'


def _cell(finished: Finished, key: Key, reference: FloatArray, end: float) -> str:
    image = _image(finished, key, reference)
    result = next(each for each in finished.store.results if each.key == key)
    what = text(f"{key.method}, R = {key.acceleration:g}")
    images = (
        (picture(image, (0, float(reference.max())), "gray"), what),
        (picture(_error(image, reference), (0, end), "error"), f"error of {what}"),
    )
    shown = "".join(f'<img src="{uri}" alt="{alternative}">' for uri, alternative in images)
    return (
        f"<figure><figcaption>{text(key.method)}</figcaption>{shown}"
        f"<span>{result.psnr:.1f} dB, {result.ssim:.3f}</span></figure>"
    )


def _reference(settings: ExperimentSettings, scan: str, index: int) -> FloatArray:
    """Return the magnitude (rows, columns) that the page compares with."""
    if settings.dimensions == 3:
        return picture_of(reference_volume(settings, scan, index))
    return full_slice(settings, scan, index).reference


def _shown_keys(settings: ExperimentSettings, finished: Finished) -> list[Key]:
    return [
        _key(setting, scan, index, method)
        for scan in shown_scans(settings)
        for index in settings.shown
        for setting in all_settings(settings)
        for method in finished.methods
    ]


def _image(finished: Finished, key: Key, reference: FloatArray) -> FloatArray:
    image = finished.store.read_image(key)
    if image is None or image.shape != reference.shape:
        raise InputError(f"{finished.store.folder}: an image of {key.method} is damaged: remove the folder")
    return image


def _key(setting: Setting, scan: str, index: int, method: str) -> Key:
    return Key(setting.pattern, setting.acceleration, scan, index, method)


def _error(image: FloatArray, reference: FloatArray) -> FloatArray:
    """Return the error in units of the reference's maximum."""
    error: FloatArray = np.abs(image - reference) / reference.max()
    return error

"""A result as one page for a person at a scanner: images, how they meet the data, and how they were made."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.mri.views import ON_GRID, View
from sbim_deploy.pages.html import (
    Points,
    figure,
    log_plot,
    packed_page_asset,
    page_asset,
    png_uri,
    table,
    text,
    write_page,
)
from sbim_deploy.pages.panels import ERROR_ANCHORS, LARGEST_SIDE, colour
from sbim_deploy.records import FloatArray
from sbim_deploy.results.result_file import ResultFile, open_result
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.findings import (
    facts,
    how_it_was_made,
    percent,
    resumed,
    shown,
    step_sigmas,
    warnings,
)
from sbim_deploy.runs.pairing import PairedReference, fit_reference
from sbim_deploy.runs.references import reference_beside
from sbim_deploy.words import plural

NOTICE = "RESEARCH USE ONLY. Not for diagnosis, nor for any decision about a patient."
MAX_SLICES = 12
MAX_VOLUME_BYTES = 64 * 1024**2  # which a page can hold and a browser open
FULL_PERCENTILE = 99.95  # a single bright pixel must not take the grey levels of the others
WINDOW_PERCENTILE = 99.8

Residuals = Sequence[tuple[int, int, float]]
"""(slice, steps of the plan done, residual)."""


@dataclass(frozen=True)
class _Truth:
    """A slice's reference and error, zero where only the image reaches, and its scores in words."""

    reference: FloatArray
    error: FloatArray
    scores: str


@dataclass(frozen=True)
class _Chosen:
    """The slices on the page: ``full`` is the magnitude of 100 %, ``window`` the part of it that is white.

    ``truths`` are by position, empty where there is no reference.
    """

    positions: tuple[int, ...]
    full: float
    window: float
    full_deviation: float
    full_error: float
    views: Sequence[View]
    truths: Mapping[int, _Truth]

    def view(self, index: int) -> View:
        """Return the layout of a slice of the k-space file."""
        return self.views[index] if self.views else ON_GRID


def write_report(
    path: Path,
    result_path: Path,
    residuals: Residuals = (),
    views: Sequence[View] = (),
    force: bool = False,
    source: KspaceSource | None = None,
    volume: Path | None = None,
) -> None:
    """Write up to twelve slices of a result, evenly chosen, and what is known of them, as a page of its own.

    ``views`` has the layout of every slice of the k-space file; without them all are shown as k-space lies.
    ``residuals`` are those that :func:`sbim_deploy.runs.reconstruct_file.reconstruct_file` told on the way.
    A page that is there is replaced with ``force``. Where the ``source``, the k-space file, holds
    references, the page shows them and the errors. ``volume``, a NIfTI file of the result, is opened in it by
    NiiVue, which the page holds too.

    Raises:
        InputError: the result or the reference is not what it must be, or the page cannot be written.
    """
    with open_result(result_path) as result:
        chosen = _choose(result, views, source)
        name = shown(result.provenance.input.name)
        body = [
            f'<div class="notice">{NOTICE}</div>',
            f'<h1>Reconstruction report</h1><p class="file"><bdi>{text(name)}</bdi></p>',
            _facts(result),
            _warnings(result),
            _images(result, chosen),
            *([] if volume is None else [_volume(volume)]),
            _curves(result, residuals),
            _tables(result),
        ]
    style, script = page_asset("report.css"), page_asset("report.js")
    if volume is not None and _fits(volume):
        script = "\n".join([packed_page_asset("niivue.umd.js.gz"), script, page_asset("volume.js")])
    write_page(path, f"Reconstruction of {name}", style, "\n".join(body), script, force)


def _choose(result: ResultFile, views: Sequence[View], source: KspaceSource | None) -> _Chosen:
    n_shown = min(MAX_SLICES, result.n_slices)
    positions = np.unique(np.linspace(0, result.n_slices - 1, n_shown).round().astype(int)).tolist()
    images = [np.abs(result.read_image(position)) for position in positions]
    full, white = (float(np.percentile(images, each)) for each in (FULL_PERCENTILE, WINDOW_PERCENTILE))
    deviation = 0.0
    if result.has_standard_deviation:
        deviations = [result.read_standard_deviation(position) for position in positions]
        deviation = float(np.percentile(deviations, WINDOW_PERCENTILE))
    truths = {}
    with reference_beside(source) as reference:
        if reference is not None:
            truths = {
                position: _truth(
                    image, fit_reference(reference, result.slice_indices[position], result.shape)
                )
                for position, image in zip(positions, images, strict=True)
            }
    errors = [truth.error for truth in truths.values()]
    error = float(np.percentile(errors, WINDOW_PERCENTILE)) if errors else 0.0
    window = white / full if white else 1.0
    # An image of zeros is black whatever the window is.
    return _Chosen(tuple(positions), full or 1.0, window, deviation or 1.0, error or 1.0, views, truths)


def _truth(image: FloatArray, paired: PairedReference) -> _Truth:
    reference = np.zeros_like(image)
    reference[paired.part] = np.abs(paired.reference)
    error = np.zeros_like(image)
    error[paired.part] = np.abs(image[paired.part] - reference[paired.part])
    if not reference.any():
        return _Truth(reference, error, "the reference is zero")
    scores = score(image[paired.part], reference[paired.part])
    return _Truth(reference, error, f"{scores.psnr:.1f} dB, SSIM {scores.ssim:.3f}")


def _facts(result: ResultFile) -> str:
    items = (f"<li><b>{text(number)}</b><span>{text(what)}</span></li>" for number, what in facts(result))
    return f'<ul class="facts">{"".join(items)}</ul>'


def _warnings(result: ResultFile) -> str:
    found = [f"{each[0].upper()}{each[1:]}." for each in warnings(result.provenance)]
    if remark := resumed(result):
        found.append(remark)
    if not found:
        return (
            '<div class="warnings fine">No warnings: every image explains its data. That does not prove the '
            "images right.</div>"
        )
    listed = "".join(f"<li>{text(each)}</li>" for each in found)
    return f'<div class="warnings"><b>Before you look</b><ul>{listed}</ul></div>'


def _images(result: ResultFile, chosen: _Chosen) -> str:
    n_left = result.n_slices - len(chosen.positions)
    count = (
        f"{len(chosen.positions)} of {plural(result.n_slices, 'slice')}, evenly chosen"
        if n_left
        else "All slices"
    )
    cards = "".join(_card(result, chosen, position) for position in chosen.positions)
    white = round(100 * chosen.window)
    return (
        f"<h2>Images</h2><p>{count}, in one window: black is 0, white {white} % of the brightest tissue. "
        f"{_orientation(result, chosen)}</p>"
        f"{_window_filter(chosen.window)}{_window_controls(white)}"
        f'<div class="slices">{cards}</div>{_legend(result, chosen)}'
    )


def _orientation(result: ResultFile, chosen: _Chosen) -> str:
    if not all(chosen.view(result.slice_indices[position]).name for position in chosen.positions):
        return "Rows and columns are as the file has them: left and right cannot be told from this page."
    return (
        "Slices are upright, by the directions that the raw data give: axial ones are seen from the feet and "
        "coronal ones from the front, with the patient's right on the left; sagittal ones have the front on "
        "the left."
    )


def _card(result: ResultFile, chosen: _Chosen, position: int) -> str:
    index = result.slice_indices[position]
    view, doubts = chosen.view(index), result.provenance.doubts.get(index, {})

    def panel(address: str, caption: str, kind: str = "mr") -> str:
        return figure(address, f"{caption}, slice {index}", caption, kind)

    def coloured(values: FloatArray, full: float, caption: str) -> str:
        pixels = colour(_shrink(view.pixels(values)), (0.0, full), "error")
        return panel(png_uri(Image.fromarray(pixels)), caption, "")

    truth = chosen.truths.get(position)
    panels = [
        panel(_grey(view.pixels(result.read_zero_filled(position)), chosen), "measured data alone"),
        panel(_grey(view.pixels(np.abs(result.read_image(position))), chosen), "reconstruction"),
    ]
    if truth is not None:
        panels.insert(0, panel(_grey(view.pixels(truth.reference), chosen), "reference"))
        panels.append(coloured(truth.error, chosen.full_error, "error"))
    if result.has_standard_deviation:
        deviation = result.read_standard_deviation(position)
        panels.append(coloured(deviation, chosen.full_deviation, "standard deviation"))
    mark = " flagged" if doubts else ""
    residual = f"residual {percent(result.residual[position])}"
    note = ", ".join(filter(None, (view.name, residual, "" if truth is None else truth.scores, *doubts)))
    return (
        f'<section class="slice{mark}"><h3>Slice {index} <span>{text(note)}</span></h3>'
        f'<div class="panels">{"".join(panels)}</div></section>'
    )


def _grey(magnitude: FloatArray, chosen: _Chosen) -> str:
    levels = np.rint(255 * (_shrink(magnitude) / chosen.full).clip(0, 1))
    return png_uri(Image.fromarray(levels.astype(np.uint8)))


def _shrink(image: FloatArray) -> FloatArray:
    """Return an image of at most 512 pixels a side: more would make a heavy page."""
    largest = max(image.shape)
    if largest <= LARGEST_SIDE:
        return image
    rows, columns = (max(1, round(size * LARGEST_SIDE / largest)) for size in image.shape)
    reduced = Image.fromarray(image).resize((columns, rows), Image.Resampling.LANCZOS)
    return np.asarray(reduced, dtype=np.float32)


def _window_filter(window: float) -> str:
    """Return the filter that shows 0 to ``window`` of the range; the script only changes its numbers."""
    line = f'type="linear" slope="{1 / window:.4f}" intercept="0"'
    curves = "".join(f"<feFunc{channel} {line}/>" for channel in "RGB")
    return (
        '<svg width="0" height="0" aria-hidden="true" style="position:absolute">'
        '<filter id="window" color-interpolation-filters="sRGB">'
        f"<feComponentTransfer>{curves}</feComponentTransfer></filter></svg>"
    )


def _window_controls(white: int) -> str:
    def slider(name: str, label: str, low: int, high: int, value: float) -> str:
        return (
            f'<label>{label} <input type="range" id="{name}" min="{low}" max="{high}" step="0.5" '
            f'value="{value}"></label>'
        )

    return (
        '<div id="controls" hidden>'
        f"{slider('width', 'Window', 2, 200, white)}{slider('level', 'Level', 0, 100, white / 2)}"
        '<label>Zoom <input type="range" id="zoom" min="1" max="8" step="0.5" value="1"></label>'
        '<button type="button" id="reset">Reset</button><span id="shown" class="quiet"></span>'
        '<span class="quiet">Drag on an image: across for the window, up and down for the level. All images '
        "zoom together: double-click, or Ctrl and the wheel; Shift and a drag, or the arrow keys, "
        "move.</span></div>"
    )


def _legend(result: ResultFile, chosen: _Chosen) -> str:
    parts = [
        "<p><b>Measured data alone</b>: the acquired lines, zero-filled and combined with the coil maps, "
        "without the model. What is in the reconstruction and not in it comes from the model.</p>",
        "<p><b>Residual</b>: how much of the measured signal the image does not explain, noise included.</p>",
    ]
    if chosen.truths:
        parts.append(
            f"{_bar(chosen.full_error / chosen.full)}<p><b>Reference and error</b>: the k-space file holds "
            "the image that this should be. The error is the difference of the magnitudes, in every slice "
            "on the scale above.</p>"
        )
    if result.has_standard_deviation:
        parts.append(
            f"{_bar(chosen.full_deviation / chosen.full)}<p><b>Standard deviation</b>: how far the "
            f"{plural(result.samples, 'sample')} of a slice lie from their mean, which is the "
            "reconstruction. Bright is where they disagree. It is no bound: the true error can be larger, "
            "and what the model always gets wrong does not show.</p>"
        )
    return f'<div class="legend">{"".join(parts)}</div>'


def _bar(share: float) -> str:
    """Return the colours from 0 to a share of the brightest tissue."""
    stops = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in ERROR_ANCHORS)
    return (
        f'<div class="bar"><span>0</span><i style="background:linear-gradient(90deg, {stops})"></i>'
        f"<span>{percent(share)} of the brightest tissue</span></div>"
    )


def _fits(volume: Path) -> bool:
    return volume.stat().st_size <= MAX_VOLUME_BYTES


def _volume(volume: Path) -> str:
    """Return the volume, and what it is opened by, for a browser that runs the page's script."""
    name = f"<bdi>{text(volume.name)}</bdi>"
    if not _fits(volume):
        return (
            f"<h2>Volume</h2><p>{name} is larger than {MAX_VOLUME_BYTES // 1024**2} MiB, too large for this "
            "page: open it in a viewer of NIfTI.</p>"
        )
    stored = base64.b64encode(volume.read_bytes()).decode("ascii")
    return (
        f'<section id="volume" class="volume" data-name="{text(volume.name)}" hidden><h2>Volume</h2>'
        f'<p id="volume-told">{name} in three planes, by NiiVue, the patient\'s right on the left where the '
        "file says how the patient lay. A click moves the cross, the wheel goes through the slices, a drag "
        "with the right button sets the window.</p>"
        '<button type="button" id="open-volume">Open the volume</button>'
        '<div class="view" hidden><canvas></canvas></div>'
        f'<script type="text/plain" id="nifti">{stored}</script>'
        "</section>"
    )


def _curves(result: ResultFile, residuals: Residuals) -> str:
    if result.provenance.without_network:
        return ""
    sigmas = list(enumerate(step_sigmas(result.provenance), start=1))
    plots = [_residual_plot(residuals)] if residuals else []
    if sigmas:
        plots.append(log_plot("Noise level (sigma) of each step", "step of the plan", sigmas))
    n_slices = len({index for index, _, _ in residuals})
    sample = ", first sample of each" if result.samples > 1 else ""
    if not residuals:
        said = "No residuals were kept on the way: the slices were reconstructed by an earlier run."
    elif result.provenance.graph == "reconstruct":
        said = (
            f"{plural(n_slices, 'slice')}{sample}. The whole plan ran in one call (--graph reconstruct): the "
            "start and the end are known, and no step between."
        )
    else:
        said = (
            f"{plural(n_slices, 'slice')}{sample}: the median as a line, all of them within the band. "
            f"{_way(residuals)}"
        )
    return f'<h2>On the way to the image</h2><p>{said}</p><div class="plots">{"".join(plots)}</div>'


def _residual_plot(residuals: Residuals) -> str:
    median, low, high = (_curve(residuals, summary) for summary in ("median", "min", "max"))
    return log_plot("Residual", "steps of the plan done", median, (low, high))


def _curve(residuals: Residuals, summary: str) -> Points:
    by_step: defaultdict[int, list[float]] = defaultdict(list)
    for _, steps_done, residual in residuals:
        by_step[steps_done].append(residual)
    return [(steps_done, float(getattr(np, summary)(by_step[steps_done]))) for steps_done in sorted(by_step)]


def _way(residuals: Residuals) -> str:
    """Return in words where the residual begins and ends."""
    median = _curve(residuals, "median")
    (_, first), (_, last) = median[0], median[-1]
    began_and_ended = f"from {percent(first)} to {percent(last)}"
    if last < first:
        return f"A sampler works on a noisy image, and the residual falls with its noise: {began_and_ended}."
    return f"The residual does not fall on the way ({began_and_ended}): the start met the data as well."


def _tables(result: ResultFile) -> str:
    tables = (f"<div><h3>{name}</h3>{table(rows)}</div>" for name, rows in how_it_was_made(result).items())
    return (
        f'<h2>How it was made</h2><div class="tables">{"".join(tables)}</div>'
        '<p class="note">The output file has the whole provenance, with every number of the plan. This page '
        "holds the images: treat it as you treat the scan.</p>"
    )

"""Pictures of what comes out: slices of a result beside reference and error, and a model's own samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.mri.views import ON_GRID, View
from sbim_deploy.pages.panels import Panel, write_montage
from sbim_deploy.records import NOTICE, FloatArray
from sbim_deploy.results.provenance import Provenance, SamplesProvenance
from sbim_deploy.results.result_file import ResultFile, open_result
from sbim_deploy.results.sample_file import SampleFile, open_samples
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.findings import shown
from sbim_deploy.runs.pairing import PairedReference, fit_reference
from sbim_deploy.runs.references import Reference, reference_beside
from sbim_deploy.words import plural

MAX_ROWS = 4
ERROR_GAIN = 5  # errors are shown brighter than the images, by this factor
MAX_SAMPLES_SHOWN = 64
SAMPLE_WHITE = 1.15  # of the network's unit: the 99th percentile of an image that it was trained on is 1


def write_result_montage(
    path: Path,
    result_path: Path,
    source: KspaceSource,
    views: Sequence[View] = (),
    force: bool = False,
) -> None:
    """Draw up to four slices of a result, evenly chosen, beside the references that its k-space file holds.

    Slices of a volume beside the object, whose reference is zero, are not among them where others are.
    ``views`` has the layout of every slice of the file; without them all are drawn as k-space lies.
    A picture that is there is replaced with ``force``.

    Raises:
        InputError: a file is not what it must be, or the picture cannot be written.
    """
    with open_result(result_path) as result, reference_beside(source) as reference:
        empty = frozenset[int]() if reference is None else reference.empty
        shown = [at for at, index in enumerate(result.slice_indices) if index not in empty]
        shown = shown or list(range(result.n_slices))
        places = np.unique(np.linspace(0, len(shown) - 1, min(MAX_ROWS, len(shown))).round().astype(int))
        positions = [shown[place] for place in places]
        caption = _caption(result)
        if reference is not None:
            rows = _with_references(result, reference, positions, views)
            caption = f"all slices in one window, all errors in one of 1/{ERROR_GAIN} of it  |  {caption}"
        else:
            rows = [_without_reference(result, position, views) for position in positions]
        write_montage(path, rows, caption, force=force)


def write_sample_grid(path: Path, samples_path: Path, force: bool = False) -> None:
    """Draw the magnitudes of up to the first 64 samples, all in one window, pixel by pixel.

    A picture that is there is replaced with ``force``.

    Raises:
        InputError: the file is not what it must be, or the picture cannot be written.
    """
    with open_samples(samples_path) as samples:
        shown = min(samples.n_samples, MAX_SAMPLES_SHOWN)
        panels = [
            Panel(np.abs(samples.read_sample(index)), "", (0.0, SAMPLE_WHITE)) for index in range(shown)
        ]
        columns = math.ceil(math.sqrt(shown))
        rows = [panels[first : first + columns] for first in range(0, shown, columns)]
        write_montage(path, rows, _sample_caption(samples), enlarged=False, force=force)


def _with_references(
    result: ResultFile, reference: Reference, positions: Sequence[int], views: Sequence[View]
) -> list[list[Panel]]:
    """Return a row for each slice; all share one window, and all errors one too."""
    pairs = [fit_reference(reference, result.slice_indices[position], result.shape) for position in positions]
    white = max(float(np.abs(paired.reference).max()) for paired in pairs) or 1.0
    return [
        _with_reference(result, position, paired, white, views)
        for position, paired in zip(positions, pairs, strict=True)
    ]


def _with_reference(
    result: ResultFile, position: int, paired: PairedReference, white: float, views: Sequence[View]
) -> list[Panel]:
    index = result.slice_indices[position]
    view = views[index] if views else ON_GRID
    reference: FloatArray = np.abs(paired.reference)
    window = (0.0, white)
    image = np.abs(result.read_image(position))[paired.part]
    zero_filled = result.read_zero_filled(position)[paired.part]
    error_window = (0.0, window[1] / ERROR_GAIN)
    error = view.pixels(np.abs(image - reference))
    return [
        Panel(view.pixels(reference), "reference", window, note=_slice_note(index, view)),
        Panel(view.pixels(zero_filled), "zero-filled", window, note=_note(zero_filled, reference)),
        Panel(view.pixels(image), "reconstruction", window, note=_note(image, reference)),
        Panel(error, f"error x {ERROR_GAIN}", error_window, "error"),
    ]


def _without_reference(result: ResultFile, position: int, views: Sequence[View]) -> list[Panel]:
    index = result.slice_indices[position]
    view = views[index] if views else ON_GRID
    image = view.pixels(np.abs(result.read_image(position)))
    zero_filled = view.pixels(result.read_zero_filled(position))
    # A few bright pixels must not darken the picture.
    window = (0.0, float(np.percentile(image, 99.8)) or 1.0)
    residual = f"residual {result.residual[position]:.3f}"
    return [
        Panel(zero_filled, "zero-filled", window, note=_slice_note(index, view)),
        Panel(image, "reconstruction", window, note=residual),
    ]


def _slice_note(index: int, view: View) -> str:
    return f"slice {index}{view.name and f', {view.name}'}"


def _note(image: FloatArray, reference: FloatArray) -> str:
    if not reference.any():
        return "the reference is zero"
    scores = score(image, reference)
    return f"{scores.psnr:.1f} dB   SSIM {scores.ssim:.2f}"


def _caption(result: ResultFile) -> str:
    made = result.provenance
    parts = (
        *_origin(made),
        f"effective acceleration {shown(made.measured.acceleration, '.2f')}",
        f"maps {shown(made.sources('maps'))}",
        NOTICE,
    )
    return "  |  ".join(parts)


def _sample_caption(samples: SampleFile) -> str:
    return "  |  ".join((*_origin(samples.provenance), "samples without data", NOTICE))


def _origin(made: Provenance | SamplesProvenance) -> tuple[str, ...]:
    software = f"sbim-deploy {shown(made.software.get('sbim-deploy'))}"
    if isinstance(made, Provenance) and made.without_network:
        return (software, f"{made.maker}, without a network")
    return (
        software,
        f"{shown(made.plan.sampler)}, {plural(len(made.plan.rows), 'network call')}",
        f"model {shown(made.model.name)}",
        f"seed {shown(made.seed)}",
    )

"""The page's images: a grid for each shown slice, every error map on one scale."""

from __future__ import annotations

from html import escape

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.pictures import colour_bar, picture, round_up
from sbim_deploy.experiment.run import Finished
from sbim_deploy.experiment.scans import Setting, all_settings, full_slice, scan_names
from sbim_deploy.experiment.settings import ExperimentSettings
from sbim_deploy.experiment.store import Key
from sbim_deploy.records import FloatArray

# Of each map, and then the median of the maps: neither a few bright pixels nor a method that fails darken
# the rest.
ERROR_PERCENTILE = 99.5


def image_sections(settings: ExperimentSettings, finished: Finished) -> str:
    """Return the grids of all shown slices, each image above its error map.

    Raises:
        InputError: an image is missing from the experiment's folder.
    """
    if not settings.shown_slices:
        return ""
    scan = scan_names(settings)[0]
    references = {index: full_slice(settings, scan, index).reference for index in settings.shown_slices}
    largest = []
    for key in _shown_keys(settings, finished):
        reference = references[key.slice]
        error = _error(_image(finished, key, reference), reference)
        largest.append(np.percentile(error, ERROR_PERCENTILE))
    end = round_up(float(np.median(largest)))
    grids = [
        _grid(settings, finished, scan, index, references[index], end) for index in settings.shown_slices
    ]
    return (
        "<h2>Images</h2><p>Images are shown from 0 to the maximum of the slice's reference. Below each is "
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
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("reference", *finished.methods))
    uri = picture(reference, (0, float(reference.max())), "gray")
    shown = f'<td><img src="{uri}" alt="reference, slice {index}"></td>'
    rows = []
    for setting in all_settings(settings):
        cells = "".join(
            _cell(finished, _key(setting, scan, index, method), reference, end) for method in finished.methods
        )
        label = f"R = {setting.acceleration:g}"
        if len(settings.patterns) > 1:
            label += f"<br>{escape(setting.pattern)}"
        rows.append(f"<tr><th>{label}</th>{shown}{cells}</tr>")
    bar = (
        f'<div class="bar">error: 0 <img src="{colour_bar("error")}" alt="colours of the error"> '
        f"{100 * end:g} % of the reference's maximum</div>"
    )
    return (
        f'<h3>{escape(scan)}, slice {index}</h3><div class="black wide"><table><thead><tr><th></th>{heads}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>{bar}</div>"
    )


def _cell(finished: Finished, key: Key, reference: FloatArray, end: float) -> str:
    image = _image(finished, key, reference)
    result = next(each for each in finished.store.results if each.key == key)
    what = escape(f"{key.method}, R = {key.acceleration:g}")
    images = (
        (picture(image, (0, float(reference.max())), "gray"), what),
        (picture(_error(image, reference), (0, end), "error"), f"error of {what}"),
    )
    shown = "".join(f'<img src="{uri}" alt="{text}">' for uri, text in images)
    return f"<td>{shown}<span>{result.psnr:.1f} dB, {result.ssim:.3f}</span></td>"


def _shown_keys(settings: ExperimentSettings, finished: Finished) -> list[Key]:
    return [
        _key(setting, scan_names(settings)[0], index, method)
        for index in settings.shown_slices
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

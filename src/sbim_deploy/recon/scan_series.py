"""The images of a result, parted into the series of their scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.image_series import ImageSeries
from sbim_deploy.io.result_file import ResultFile
from sbim_deploy.recon.mrd_kspace import MrdKspace
from sbim_deploy.recon.readouts import Series
from sbim_deploy.recon.sources import KspaceSource


def positions_of_series(source: KspaceSource, indices: Sequence[int]) -> dict[Series | None, list[int]]:
    """Return for each series of the scan which of these slices are its own, as positions in ``indices``.

    A file without counters has one series, None.
    """
    found: dict[Series | None, list[int]] = {}
    for position, index in enumerate(indices):
        series = source.series(index) if isinstance(source, MrdKspace) else None
        found.setdefault(series, []).append(position)
    return found


def read_series(result: ResultFile, source: KspaceSource) -> list[ImageSeries]:
    """Read a result's magnitudes with what its k-space file says of their slices.

    Raises:
        InputError: the result is damaged, or is of another k-space file.
    """
    if max(result.slice_indices) >= source.n_slices:
        raise InputError(
            f"{result.path}: has slice {max(result.slice_indices)}, expected less than the "
            f"{source.n_slices} of {source.path}; name the k-space that it was made from"
        )
    found = positions_of_series(source, result.slice_indices)
    names = _differing(list(found))
    return [
        _one_series(result, source, number, series, positions, names)
        for number, (series, positions) in enumerate(found.items(), 1)
    ]


def _one_series(
    result: ResultFile,
    source: KspaceSource,
    number: int,
    series: Series | None,
    positions: Sequence[int],
    names: Sequence[str],
) -> ImageSeries:
    indices = [result.slice_indices[position] for position in positions]
    mrd = source if isinstance(source, MrdKspace) else None
    return ImageSeries(
        number=number,
        volume=np.stack([np.abs(result.read_image(position)) for position in positions]),
        slices=[index if mrd is None else mrd.slice_number(index) for index in indices],
        residuals=[float(result.residual[position]) for position in positions],
        geometries=[source.geometry(index) for index in indices],
        acquisitions=[None if mrd is None else mrd.slice_header(index) for index in indices],
        contrast=0 if series is None else series.contrast,
        label=" ".join(f"{name} {getattr(series, name)}" for name in names),
    )


def _differing(all_series: Sequence[Series | None]) -> list[str]:
    """Return the counters that tell the series apart."""
    counters = [asdict(series) for series in all_series if series is not None]
    return [name for name in (counters or [{}])[0] if len({each[name] for each in counters}) > 1]

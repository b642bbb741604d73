"""A series of images on its way out: what every format of images is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbim_deploy.records import FloatArray, SliceGeometry


@dataclass(frozen=True, eq=False)
class ImageSeries:
    """Images that belong together, and what is known of each.

    Attributes:
        number: what viewers show as the series' number, from 1.
        volume: magnitudes, float32 (slices, rows, columns).
        slices: the number of each slice within the scan.
        residuals: each image's relative distance from the measured data.
        geometries: where each slice lies, or None where that is unknown.
        acquisitions: the header (ACQUISITION_HEADER) of each slice's readout nearest the centre of k-space,
            or None where the source has no readouts.
        contrast: which of the scan's echo times and so on belongs to it.
        label: what tells it from the others of the scan, such as "repetition 2", or nothing.
    """

    number: int
    volume: FloatArray
    slices: Sequence[int]
    residuals: Sequence[float]
    geometries: Sequence[SliceGeometry | None]
    acquisitions: Sequence[np.void | None]
    contrast: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        """Check that there is one of everything for each slice."""
        lengths = {
            name: len(getattr(self, name))
            for name in ("volume", "slices", "residuals", "geometries", "acquisitions")
        }
        if self.volume.ndim != 3 or len(set(lengths.values())) > 1:
            raise ValueError(f"volume is {self.volume.shape} with {lengths}, expected as many of each")


def brightest(series: Sequence[ImageSeries]) -> float:
    """Return the greatest magnitude of all series: one scale for all lets them be compared."""
    return max(float(each.volume.max()) for each in series)

"""An oblique stack of slices with a few bright voxels, and what is said of it."""

import numpy as np

from sbim_deploy.mrd.header import Protocol
from sbim_deploy.records import SliceGeometry
from sbim_deploy.results.dicom_identity import make_pseudonym
from sbim_deploy.results.series import Derivation, ImageSeries

READ, PHASE = np.array([2, 2, 1]) / 3, np.array([-2, 1, 2]) / 3
NORMAL = np.cross(READ, PHASE)
CENTRE = np.array([10.0, -20.0, 30.0])
SHAPE = (24, 21)
VOXEL_MM = (2.0, 3.0, 4.0)
SPACING_MM = 5.0
DERIVATION = Derivation("0.1.0", "dds", 30, 1, "demo", "ab" * 32, 3.87, "cd" * 32, "ef" * 32)
PROTOCOL = Protocol(patient_position="HFS", vendor="Vendor", te_ms=(10.0, 20.0), tr_ms=(2000.0,))
PSEUDONYM = make_pseudonym(DERIVATION.input_key)
BRIGHT = ((0, 3, 4), (1, 12, 10), (2, 20, 15), (3, 5, 19))  # (slice, row, column)


def oblique(place_mm: float) -> SliceGeometry:
    extent = (SHAPE[0] * VOXEL_MM[0], SHAPE[1] * VOXEL_MM[1], VOXEL_MM[2])
    return SliceGeometry(tuple(CENTRE + place_mm * NORMAL), tuple(READ), tuple(PHASE), tuple(NORMAL), extent)


def stack(places=(0, 5, 10, 15), **changes) -> ImageSeries:
    """Slices at these places, in mm along the normal."""
    volume = np.zeros((len(places), *SHAPE), np.float32)
    for brightness, (index, row, column) in enumerate(BRIGHT[: len(places)], 5):
        volume[index, row, column] = brightness
    arguments = {
        "number": 1,
        "volume": volume,
        "slices": (4, 5, 6, 7),
        "residuals": [0.1] * len(places),
        "doubts": [""] * len(places),
        "geometries": [oblique(place) for place in places],
        "acquisitions": [None] * len(places),
        **changes,
    }
    return ImageSeries(**arguments)


def world(index: int, row: int, column: int, places=(0, 5, 10, 15)) -> np.ndarray:
    """Where a pixel is, in mm to the left, to the back and up: by hand from the centre of its slice."""
    across = (row - SHAPE[0] // 2) * VOXEL_MM[0] * READ + (column - SHAPE[1] // 2) * VOXEL_MM[1] * PHASE
    return CENTRE + places[index] * NORMAL + across

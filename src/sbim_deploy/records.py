"""The records that pass between rooms: plain data, checked where it enters, with no computation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ComplexArray = NDArray[np.complex64]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Vector = tuple[float, float, float]

RESEARCH_USE = "research use only"  # where an image has room for a few words
NOTICE = f"{RESEARCH_USE.capitalize()}. Not for diagnosis."

MAX_MAP_SETS = 2  # sets of coil maps: two explain an object that folds over once


DIRECTION_TOLERANCE = 0.01  # of scalar products of directions: what lies within is made square, not refused


@dataclass(frozen=True)
class SliceGeometry:
    """Where an image lies in the patient, in the coordinates of DICOM and MRD: left, posterior, superior, mm.

    An image is (rows, columns) with the readout along the rows: going down a column of pixels is along
    ``read_dir``, going along a row of pixels is along ``phase_dir``; both are unit vectors, and
    ``slice_dir`` is normal to them. ``position`` is the place of pixel (rows // 2, columns // 2).
    ``field_of_view_mm`` is the (row, column, slice) extent of the whole image.
    """

    position: Vector
    read_dir: Vector
    phase_dir: Vector
    slice_dir: Vector
    field_of_view_mm: Vector

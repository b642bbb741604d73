"""The records that pass between rooms: plain data, checked where it enters, with no computation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ComplexArray = NDArray[np.complex64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

"""What files say that hold k-space and nothing of how it was measured."""

from __future__ import annotations

from sbim_deploy.errors import InputError
from sbim_deploy.records import ComplexArray, SliceGeometry


class EmptyMapsError(InputError):
    """Coil maps are zero: of a slice an error, of a volume's partition beside the object none."""


class BareKspace:
    """A part of the readers of fastMRI's files, BART's and plain arrays."""

    def read_calibration(self, index: int) -> ComplexArray | None:
        """Return None: the lines to estimate maps from are in the slice itself."""
        return None

    def read_noise(self, index: int) -> float | None:
        """Return None: such a file does not tell the level of its noise."""
        return None

    def read_whitening(self, index: int) -> ComplexArray | None:
        """Return None: the coils are as they are in the file."""
        return None

    def geometry(self, index: int) -> SliceGeometry | None:
        """Return None: such a file does not say where a slice lies in the patient."""
        return None

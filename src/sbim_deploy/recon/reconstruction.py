"""What a reconstruction gives, of a slice and of several; notebooks show it as a picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.records import NOTICE, ComplexArray, FloatArray

SHOWN_SLICES = 8
BRIGHTEST = 99.5  # the percentile that is shown white


@dataclass(frozen=True)
class Reconstruction:
    """One slice's images, complex64 (rows, columns) in the units of its k-space.

    ``image`` is the mean of the slice's samples. ``residual`` is its |A x - y| / |y| over what was measured,
    before cropping. With two sets of maps, ``image`` combines theirs
    (:func:`sbim_deploy.mri.combine.combine_sets`). Image and deviation are zero where every map is.
    ``problem`` is what was solved. ``standard_deviation`` is there with more than one sample:
    sqrt(E |x - mean|^2), of the samples and of what the last step's data leave open
    (:mod:`sbim_deploy.recon.uncertainty`). ``model_error`` is the part of it that lines left out told, of the
    denoised image (:func:`sbim_deploy.recon.left_out.model_error`). ``prior_orientations`` says in how many
    orientations the network saw the image, in turn (:mod:`sbim_deploy.recon.orientations`): None for a slice
    on a grid.
    """

    index: int
    image: ComplexArray
    zero_filled: ComplexArray
    residual: float
    problem: SliceProblem
    standard_deviation: FloatArray | None = None
    model_error: float | None = None
    doubts: tuple[Fault, ...] = ()
    prior_orientations: int | None = None

    def _repr_png_(self) -> bytes:
        """Return the zero-filled image and this one side by side, as a notebook shows it."""
        return _png([self.zero_filled, self.image])

    def _repr_html_(self) -> str:
        """Return the picture with what is to be known of it, as a notebook shows it."""
        return _html(self._repr_png_(), f"slice {self.index}: residual {self.residual:.1%}", self.doubts)


@dataclass(frozen=True)
class Volume:
    """The images of the slices of a scan, in the order of their numbers.

    ``voxel_mm`` is (row, column, slice), None where the scan does not say. ``left_out`` says by its number
    why a slice could not be reconstructed.
    """

    slices: tuple[Reconstruction, ...]
    voxel_mm: tuple[float, float, float] | None = None
    left_out: dict[int, str] = field(default_factory=dict)

    @property
    def indices(self) -> tuple[int, ...]:
        """The slices' numbers."""
        return tuple(each.index for each in self.slices)

    @property
    def image(self) -> ComplexArray:
        """The images, complex64 (slice, rows, columns)."""
        return np.stack([each.image for each in self.slices])

    @property
    def zero_filled(self) -> ComplexArray:
        """The zero-filled images, complex64 (slice, rows, columns)."""
        return np.stack([each.zero_filled for each in self.slices])

    @property
    def standard_deviation(self) -> FloatArray | None:
        """The standard deviations, float32 (slice, rows, columns), None of one sample."""
        deviations = [each.standard_deviation for each in self.slices if each.standard_deviation is not None]
        return np.stack(deviations) if deviations else None

    @property
    def residual(self) -> FloatArray:
        """The |A x - y| / |y| of the slices, float32."""
        return np.array([each.residual for each in self.slices], np.float32)

    @property
    def doubts(self) -> dict[int, tuple[Fault, ...]]:
        """Why images may be wrong, of those that may."""
        return {each.index: each.doubts for each in self.slices if each.doubts}

    def __repr__(self) -> str:
        rows, columns = self.slices[0].image.shape
        return f"<volume of {len(self.slices)} x {rows} x {columns}, {len(self.left_out)} left out>"

    def _repr_png_(self) -> bytes:
        """Return some slices side by side, as a notebook shows them."""
        places = np.linspace(0, len(self.slices) - 1, min(SHOWN_SLICES, len(self.slices))).round()
        return _png([self.slices[int(place)].image for place in places])

    def _repr_html_(self) -> str:
        """Return the picture with what is to be known of it, as a notebook shows it."""
        lines = [
            Fault(doubt.kind, f"slice {index}: {doubt.message}", doubt.fatal)
            for index, doubts in self.doubts.items()
            for doubt in doubts
        ]
        lines += [Fault("left out", reason, True) for reason in self.left_out.values()]
        return _html(self._repr_png_(), repr(self).strip("<>"), lines)


def _png(images: Sequence[ComplexArray]) -> bytes:
    """Return the magnitudes side by side in one window, as PNG."""
    shown = np.hstack([np.abs(image) for image in images])
    white = float(np.percentile(shown, BRIGHTEST)) or 1.0
    grey = np.rint((shown / white).clip(0, 1) * 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(grey).save(written, format="PNG")
    return written.getvalue()


def _html(png: bytes, caption: str, doubts: Sequence[Fault]) -> str:
    source = base64.b64encode(png).decode("ascii")
    sentences = "".join(
        f"<li><b>{html.escape(each.kind)}</b>: {html.escape(each.message)}</li>" for each in doubts
    )
    listed = f"<ul>{sentences}</ul>" if sentences else ""
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}. {NOTICE}</figcaption></figure>{listed}"
    )

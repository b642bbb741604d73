"""The SENSE operator of multi-coil MRI along any trajectory, y = F S x.

A^H A is a convolution with the trajectory's point spread, which a Fourier transform on a grid of twice the
size applies without gridding (Toeplitz embedding: Fessler et al. 2005, doi:10.1109/TSP.2005.853152; Wajer and
Pruessmann 2001, Proc. ISMRM 767). Its spectrum is computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft

from sbim_deploy.mri.fourier import IMAGE_AXES, transform_threads
from sbim_deploy.mri.nonuniform import to_grid, to_samples
from sbim_deploy.mri.sense import Sense
from sbim_deploy.records import BoolArray, ComplexArray, FloatArray

POWER_STEPS, POWER_MARGIN = 20, 1.1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where the samples of a slice lie, ``places`` (readout, sample, 2), and what each of them counts for.

    Places are in cycles per field of view, along the rows and the columns of the image. ``areas``
    (readout, sample) are those of :func:`sbim_deploy.mri.trajectories.sample_areas`, 0 where nothing was
    measured.
    """

    places: FloatArray
    areas: FloatArray

    @property
    def noise_share(self) -> float:
        """The noise of what samples that share an area tell together, for a noise of 1 in each of them.

        The variance is a sample's area where its noise is 1, here the mean of it over k-space.
        """
        areas = self.areas.astype(np.float64)
        return float(np.sqrt(np.square(areas).sum() / areas.sum()))


class NonCartesianSense:
    """A = F S: coil maps and the Fourier transform at the places of a trajectory.

    The adjoint is the one under which a sample counts by its area W: A^H y is S^H F^H W y, and A^H A is
    S^H F^H W F S. That is 1 where k-space is sampled in full and nowhere much more, as it is on a grid, so
    that the weights and the steps of samplers mean what they do there. The data lose little by it: samples
    that share an area count as one of the same noise, which a smaller noise level makes up for on the whole
    (:attr:`Trajectory.noise_share`).

    Maps are (..., coil, rows, columns), areas (..., readout, sample) and places (..., readout, sample, 2) as
    :class:`Trajectory` has them; leading axes are slices. Images are (..., rows, columns), k-space is
    (..., coil, readout, sample). The parts are those of :class:`sbim_deploy.mri.sense.Sense`.
    """

    has_sets = False

    def __init__(
        self, maps: ComplexArray, areas: FloatArray, places: FloatArray, spectra: FloatArray | None = None
    ):
        lead = maps.shape[:-3]
        if maps.ndim < 3 or places.shape != (*lead, *areas.shape[-2:], 2) or areas.shape[:-2] != lead:
            raise ValueError(
                f"NonCartesianSense: maps have shape {maps.shape}, areas {areas.shape} and places "
                f"{places.shape}, expected (..., coil, rows, columns), (..., readout, sample) and "
                "(..., readout, sample, 2)"
            )
        self.image_shape = (int(maps.shape[-2]), int(maps.shape[-1]))
        self.maps, self.areas, self.places = maps, areas, places
        self.mask: BoolArray = areas > 0
        self._conjugate_maps = maps.conj()
        self._batch_shape = lead
        self.kspace_shape = (*maps.shape[:-2], *areas.shape[-2:])
        self._given_spectra = spectra

    @cached_property
    def norm_bound(self) -> float:
        """A bound on the eigenvalues of F^H W F, by power iteration, which comes from below, and a margin."""
        plain = NonCartesianSense(
            np.ones((*self._batch_shape, 1, *self.image_shape), np.complex64),
            self.areas,
            self.places,
            self._spectra,
        )
        drawn = np.random.default_rng(0).standard_normal((*self._batch_shape, *self.image_shape))
        image: ComplexArray = drawn.astype(np.complex64)
        largest = 0.0
        for _ in range(POWER_STEPS):
            image = plain.normal(image / np.linalg.norm(image))
            largest = float(np.linalg.norm(image))
        return POWER_MARGIN * largest

    def repeated(self, n: int) -> NonCartesianSense:
        """Return the operator of the same slices ``n`` times, one after another."""
        parts = (self.maps, self.areas, self.places, self._spectra)
        return NonCartesianSense(*(np.concatenate([part] * n) for part in parts))

    def with_mask(self, mask: BoolArray) -> NonCartesianSense:
        """Return the operator of the same slices with some of the samples, (..., readout, sample)."""
        return NonCartesianSense(self.maps, (self.areas * mask).astype(np.float32), self.places)

    def forward(self, image: ComplexArray) -> ComplexArray:
        """Return A x: the samples of an image, zero where nothing was measured."""
        self._check("image", image, self._batch_shape + self.image_shape)
        coil_images = self.maps * image[..., None, :, :]
        kspace = np.empty(self.kspace_shape, np.complex64)
        for index in np.ndindex(self._batch_shape):
            kspace[index] = to_samples(coil_images[index], self.places[index])
        kspace *= self.mask[..., None, :, :]
        return kspace

    def adjoint(self, kspace: ComplexArray) -> ComplexArray:
        """Return A^H y: the coil images of the samples by their areas, each times its conjugate map, summed.

        It is the image that density-compensated gridding makes.
        """
        self._check("k-space", kspace, self.kspace_shape)
        coil_images = np.empty_like(self.maps)
        counted = kspace * self.areas[..., None, :, :]
        for index in np.ndindex(self._batch_shape):
            coil_images[index] = to_grid(counted[index], self.places[index], self.image_shape)
        coil_images *= self._conjugate_maps
        summed: ComplexArray = coil_images.sum(axis=-3)
        return summed

    def normal(self, image: ComplexArray, out: ComplexArray | None = None) -> ComplexArray:
        """Return A^H A x, by Fourier transforms of twice the size."""
        self._check("image", image, self._batch_shape + self.image_shape)
        rows, columns = self.image_shape
        double_rows, double_columns = self._spectra.shape[-2:]
        work, workers = self.maps * image[..., None, :, :], transform_threads()
        # Of the padding no line is transformed that is zero before, or of no use after.
        work = scipy.fft.fft(work, double_rows, axis=-2, workers=workers)
        work = scipy.fft.fft(work, double_columns, axis=-1, workers=workers)
        work *= self._spectra[..., None, :, :]
        work = scipy.fft.ifft(work, axis=-1, overwrite_x=True, workers=workers)[..., :columns]
        work = scipy.fft.ifft(work, axis=-2, workers=workers)[..., :rows, :]
        work *= self._conjugate_maps
        summed: ComplexArray = np.sum(work, axis=-3, out=out)
        return summed

    @cached_property
    def _spectra(self) -> FloatArray:
        """The spectrum of each slice, (..., doubled rows, doubled columns), which A^H A alone takes."""
        if self._given_spectra is not None:
            return self._given_spectra
        indices = list(np.ndindex(self._batch_shape))
        spectra = np.stack(
            [point_spread_spectrum(self.areas[i], self.places[i], self.image_shape) for i in indices]
        )
        return spectra.reshape(*self._batch_shape, *spectra.shape[-2:])

    @staticmethod
    def _check(name: str, array: ComplexArray, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise ValueError(f"NonCartesianSense: {name} has shape {array.shape}, expected {shape}")


Operator = Sense | NonCartesianSense


def point_spread_spectrum(areas: FloatArray, places: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Return the transform on a grid of at least twice ``shape`` of what the samples make of a point.

    An image in the corner of that grid, transformed, multiplied by it and transformed back, is F^H W F of the
    image, with the areas (readout, sample) on W's diagonal.
    """
    doubled = (int(scipy.fft.next_fast_len(2 * shape[0])), int(scipy.fft.next_fast_len(2 * shape[1])))
    finer = places * np.array([many / n for many, n in zip(doubled, shape, strict=True)])
    spread = to_grid(areas, finer, doubled) * (math.sqrt(math.prod(doubled)) / math.prod(shape))
    # Farther apart than the image is wide no two pixels are; without them the spread is Hermitian.
    for axis, (many, n) in zip(IMAGE_AXES, zip(doubled, shape, strict=True), strict=True):
        distance = np.abs(np.arange(many) - many // 2)
        spread *= np.expand_dims(distance < n, -1 if axis == -2 else 0)
    spectrum: FloatArray = scipy.fft.fft2(np.fft.ifftshift(spread)).real.astype(np.float32)
    return spectrum


def make_operator(maps: ComplexArray, mask: BoolArray, trajectory: Trajectory | None) -> Operator:
    """Return the operator of samples along a trajectory, or on a grid where there is none."""
    if trajectory is None:
        return Sense(maps, mask)
    return NonCartesianSense(maps, trajectory.areas, trajectory.places)

"""The SENSE operator of multi-coil Cartesian MRI, y = P F S x.

Pruessmann et al. 1999 (doi:10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S); Dimos 2022, p. 71.
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from sbim_deploy.mri.fourier import IMAGE_AXES, centred_fft, centred_ifft, transform_threads
from sbim_deploy.records import BoolArray, ComplexArray


class Sense:
    """A = P F S: coil maps, the centred Fourier transform, the sampling mask.

    Maps are (..., coil, rows, columns). The mask is (..., 1, columns) where only phase encodes are skipped,
    (..., rows, 1) where only rows are, or (..., rows, columns); leading axes are slices and must broadcast
    with the maps' own. Images are (..., rows, columns), k-space is (..., coil, rows, columns).

    Maps with one axis more than that, (..., set, coil, rows, columns), are sets of them: A x is the sum
    over the sets of P F S_s x_s (Uecker et al. 2014, doi:10.1002/mrm.24751, equation 22), and images are
    (..., set, rows, columns).

    An instance keeps a workspace of the maps' size for :meth:`normal`, so threads must not share it.
    """

    def __init__(self, maps: ComplexArray, mask: BoolArray):
        if maps.ndim < 3:
            raise ValueError(f"Sense: maps have shape {maps.shape}, expected (..., coil, rows, columns)")
        self.image_shape = rows, columns = maps.shape[-2:]
        self.has_sets = maps.ndim >= 4 and mask.ndim == maps.ndim - 2
        fits = self.has_sets or mask.ndim == maps.ndim - 1
        if not (fits and mask.shape[-2] in (1, rows) and mask.shape[-1] in (1, columns)):
            raise ValueError(
                f"Sense: mask has shape {mask.shape}, expected (..., 1 or {rows}, 1 or {columns}) with "
                f"{maps.ndim - 1} axes to go with maps {maps.shape}"
            )
        self.maps = maps
        self.mask = mask
        self._conjugate_maps = maps.conj()
        # Along an axis that is sampled in full the transform and its inverse cancel in A^H A, and so do the
        # shifts along every axis: what is left is a circulant matrix along the undersampled axes.
        self._undersampled_axes = tuple(axis for axis in IMAGE_AXES if mask.shape[axis] > 1)
        self._unshifted_mask = np.fft.ifftshift(mask, axes=IMAGE_AXES)[..., None, :, :].astype(np.float32)
        self._workspace = np.empty_like(maps)
        self._batch_shape = maps.shape[:-3]
        self.kspace_shape = (*maps.shape[: -4 if self.has_sets else -3], *maps.shape[-3:])
        self._coil_images = np.empty(self.kspace_shape, maps.dtype) if self.has_sets else self._workspace

    norm_bound = 1.0
    """A bound on the eigenvalues of F^H P F."""

    def repeated(self, n: int) -> Sense:
        """Return the operator of the same slices ``n`` times, one after another."""
        return Sense(np.concatenate([self.maps] * n), np.concatenate([self.mask] * n))

    def with_mask(self, mask: BoolArray) -> Sense:
        """Return the operator of the same slices with another mask."""
        return Sense(self.maps, mask)

    def forward(self, image: ComplexArray) -> ComplexArray:
        """Return A x: the sampled k-space of an image, zero where it is not sampled."""
        self._check("image", image, self._batch_shape + self.image_shape)
        kspace: ComplexArray = centred_fft(self._split(image))
        kspace *= self.mask[..., None, :, :]
        return kspace

    def adjoint(self, kspace: ComplexArray) -> ComplexArray:
        """Return A^H y: the coil images of the sampled k-space, each times its conjugate map, summed."""
        self._check("k-space", kspace, self.kspace_shape)
        return self._combine(centred_ifft(kspace * self.mask[..., None, :, :]))

    def normal(self, image: ComplexArray, out: ComplexArray | None = None) -> ComplexArray:
        """Return A^H A x, by Fourier transforms along the undersampled axes alone."""
        self._check("image", image, self._batch_shape + self.image_shape)
        work, axes, workers = self._split(image), self._undersampled_axes, transform_threads()
        work = scipy.fft.fftn(work, axes=axes, overwrite_x=True, workers=workers)
        work *= self._unshifted_mask
        work = scipy.fft.ifftn(work, axes=axes, overwrite_x=True, workers=workers)
        return self._combine(work, out)

    def _split(self, image: ComplexArray) -> ComplexArray:
        """Return S x, the coils' images, in a workspace."""
        np.multiply(self.maps, image[..., None, :, :], out=self._workspace)
        if self.has_sets:
            np.sum(self._workspace, axis=-4, out=self._coil_images)
        return self._coil_images

    def _combine(self, coil_images: ComplexArray, out: ComplexArray | None = None) -> ComplexArray:
        """Return S^H of the coils' images."""
        if self.has_sets:
            coil_images = coil_images[..., None, :, :, :]
        np.multiply(coil_images, self._conjugate_maps, out=self._workspace)
        summed: ComplexArray = np.sum(self._workspace, axis=-3, out=out)
        return summed

    @staticmethod
    def _check(name: str, array: ComplexArray, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise ValueError(f"Sense: {name} has shape {array.shape}, expected {shape}")


def encoding_matrices(lines: BoolArray) -> ComplexArray:
    """Return the columns of the centred Fourier matrix that were sampled, for masks (n, size).

    The result E is (n, size, line): y = x E, with as many lines as the mask with the most of them, the others
    filled up with zeros. Where only columns are skipped, A^H A x = sum_c conj(S_c) (S_c x) E E^H.
    """
    n, size = lines.shape
    matrices = np.zeros((n, size, int(lines.sum(axis=-1).max())), dtype=np.complex64)
    fourier = centred_fft(np.eye(size, dtype=np.complex64), axes=(-1,))
    for matrix, sampled in zip(matrices, lines, strict=True):
        columns = np.flatnonzero(sampled)
        matrix[:, : columns.size] = fourier[:, columns]
    return matrices

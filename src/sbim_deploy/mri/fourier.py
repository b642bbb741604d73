"""Centred orthonormal Fourier transforms.

The image's centre is pixel n // 2 and k-space's centre is sample n // 2, for even and odd n alike: shift
undoes to the centre on the way out, inverse shift on the way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

IMAGE_AXES = (-2, -1)

_threads: ContextVar[int] = ContextVar("threads", default=-1)


def transform_threads() -> int:
    """Return how many threads operators take for their transforms: -1 is one for each core."""
    return _threads.get()


@contextmanager
def limited_threads(n: int) -> Iterator[None]:
    """Give the transforms of operators so many threads, in the thread that calls."""
    token = _threads.set(n)
    try:
        yield
    finally:
        _threads.reset(token)


def centred_fft(image: NDArray[Any], axes: Sequence[int] = IMAGE_AXES) -> NDArray[Any]:
    """Transform an image to k-space, centred and orthonormal along ``axes``.

    The precision is the input's: complex64 stays complex64.
    """
    shifted = np.fft.ifftshift(image, axes=axes)
    spectrum = scipy.fft.fftn(shifted, axes=axes, norm="ortho", overwrite_x=True)
    return np.fft.fftshift(spectrum, axes=axes)


def centred_ifft(kspace: NDArray[Any], axes: Sequence[int] = IMAGE_AXES) -> NDArray[Any]:
    """Transform k-space to an image: the inverse, and the adjoint, of :func:`centred_fft`."""
    shifted = np.fft.ifftshift(kspace, axes=axes)
    image = scipy.fft.ifftn(shifted, axes=axes, norm="ortho", overwrite_x=True)
    return np.fft.fftshift(image, axes=axes)


def turned(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image turned by 180 degrees about its centre, pixel n // 2, along the last two axes.

    It is what the transform of the other sign gives, and the conjugate of what conjugated k-space gives.
    """
    # Pixel p goes to 2 (n // 2) - p, modulo n: for even n that is a flip and a step.
    steps = tuple(1 - image.shape[axis] % 2 for axis in IMAGE_AXES)
    return np.roll(np.flip(image, IMAGE_AXES), steps, IMAGE_AXES)


def zero_filled_interpolation(image: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    """Return an image of ``size`` finer pixels along an axis: its k-space in the middle of zeros.

    The result is complex, and its scale that of an image whose k-space was padded so.
    """
    shape = list(image.shape)
    shape[axis] = size
    return centred_ifft(centre_pad(centred_fft(image, (axis,)), shape), (axis,))


def centre_crop(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Return the view of the last axes of ``array`` that keeps the centre n // 2 at the centre.

    Raises:
        ValueError: ``shape`` is larger than the array.
    """
    cropped: NDArray[Any] = array[_centre_index(array.shape[-len(shape) :], shape)]
    return cropped


def centre_pad(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Return ``array`` in the centre of zeros: the adjoint of :func:`centre_crop`."""
    n_axes = len(shape)
    padded = np.zeros((*array.shape[:-n_axes], *shape), dtype=array.dtype)
    padded[_centre_index(shape, array.shape[-n_axes:])] = array
    return padded


def _centre_index(outer: Sequence[int], inner: Sequence[int]) -> tuple[Any, ...]:
    if any(small > large for small, large in zip(inner, outer, strict=True)):
        raise ValueError(f"{tuple(inner)} does not fit into {tuple(outer)}")
    starts = [large // 2 - small // 2 for small, large in zip(inner, outer, strict=True)]
    return (..., *(slice(start, start + size) for start, size in zip(starts, inner, strict=True)))

"""Objects for simulation: the Shepp-Logan phantom and a smooth phase."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from sbim_deploy.records import ComplexArray, FloatArray

# Intensity, half axes (across, along), centre (across, along), turn in degrees: the contrast of Toft 1996,
# "The Radon Transform: Theory and Implementation", table B.3, on the ellipses of Shepp and Logan 1974.
ELLIPSES = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


def shepp_logan(shape: tuple[int, int]) -> FloatArray:
    """Return the modified Shepp-Logan phantom (rows, columns), from 0 to 1, head up."""
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    image = np.zeros(shape, dtype=np.float32)
    for intensity, across, along, centre_x, centre_y, degrees in ELLIPSES:
        turn = np.exp(-1j * np.deg2rad(degrees))
        position = ((x[None, :] - centre_x) + 1j * (-y[:, None] - centre_y)) * turn
        image[(position.real / across) ** 2 + (position.imag / along) ** 2 <= 1] += intensity
    return np.clip(image, 0, 1)


def smooth_phase(shape: tuple[int, ...], rng: np.random.Generator, smoothness: float = 0.2) -> ComplexArray:
    """Return a random unit phasor of a shape whose angle varies over ``smoothness`` of the grid.

    Its standard deviation is about one radian, which is what a gradient echo's field map does to a head.
    """
    angle = rng.standard_normal(shape)
    for axis, n in enumerate(shape):
        angle = scipy.ndimage.gaussian_filter1d(angle, smoothness * n, axis=axis, mode="reflect")
    angle = (angle - angle.mean()) / angle.std() + rng.uniform(-np.pi, np.pi)
    phasor: ComplexArray = np.exp(1j * angle).astype(np.complex64)
    return phasor

"""Images without the network, which a session may ask for, and which are sent when the model fails."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from sbim_deploy.mri.combine import combine_sets, root_sum_of_squares
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.prepare import SliceProblem, relative_residual
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.conjugate_gradient import solve_proximal

CG_STEPS, CG_WEIGHT = 12, 0.01


class Linear(StrEnum):
    """A reconstruction without the network."""

    ZERO_FILLED = "zero-filled"
    CG_SENSE = "cg-sense"


def linear_image(problem: SliceProblem, method: Linear) -> tuple[ComplexArray, float]:
    """Return the image (rows, columns) in units of k-space, and its residual |A x - y| / |y|.

    ``CG_SENSE`` minimises |A x - y|^2 + 0.01 |x|^2 by 12 conjugate-gradient steps (Pruessmann et al. 2001,
    doi:10.1002/mrm.1241); ``ZERO_FILLED`` is the minimum-variance unbiased estimate of the measured data.
    """
    image = problem.mvue if method is Linear.ZERO_FILLED else _cg_sense(problem)
    combined = combine_sets(image) if problem.n_sets > 1 else image
    cropped = np.ascontiguousarray(centre_crop(combined, problem.image_shape))
    return cropped, relative_residual(problem, image)


def coil_magnitude(kspace: ComplexArray, image_shape: tuple[int, int]) -> FloatArray:
    """Return the root sum of squares of the zero-filled coil images, cropped: it needs no maps.

    k-space is (coil, rows, columns), the image is (rows, columns).
    """
    magnitude = root_sum_of_squares(centred_ifft(kspace))
    return np.ascontiguousarray(centre_crop(magnitude, image_shape))


def _cg_sense(problem: SliceProblem) -> ComplexArray:
    sense = Sense(problem.maps, problem.mask)
    backprojection = sense.adjoint(problem.kspace)[None]

    def normal(x: ComplexArray, out: ComplexArray) -> ComplexArray:
        sense.normal(x[0], out[0])
        return out

    weight = np.full(1, CG_WEIGHT, np.float32)
    start = np.zeros_like(backprojection)
    image: ComplexArray = solve_proximal(normal, backprojection, start, weight, CG_STEPS)[0]
    return image

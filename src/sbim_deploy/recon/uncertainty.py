"""The mean and the spread of samples, and what no sample shows: what the last step leaves open."""

from __future__ import annotations

import numpy as np

from sbim_deploy.recon.grid import SliceBatch
from sbim_deploy.recon.left_out import draw_normals
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.conjugate_gradient import solve_proximal
from sbim_deploy.samplers.noise import keyed_generator
from sbim_deploy.samplers.plan import Plan, ProximalStep

PROBES = 16
# Samples are numbered from 0, so this number is none of theirs.
PROBE_KEY = 2**32 - 1


class RunningMoments:
    """Pixelwise mean and variance of complex images of one shape. Memory does not grow with their number.

    Welford 1962 (doi:10.1080/00401706.1962.10490022). The mean of one image is that image, to the bit.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.count = 0
        self.mean: ComplexArray = np.zeros(shape, dtype=np.complex64)
        self._sum_of_squares = np.zeros(shape, dtype=np.float32)

    def add(self, image: ComplexArray) -> None:
        """Take in another image."""
        self.count += 1
        if self.count == 1:
            self.mean[...] = image
            return
        offset = image - self.mean
        self.mean += offset / np.float32(self.count)
        # (x - old mean) (x - new mean)*, of which the second is the first times 1 - 1 / n.
        offset *= np.float32((1 - 1 / self.count) ** 0.5)
        self._sum_of_squares += offset.real**2 + offset.imag**2

    def variance(self) -> FloatArray:
        """Return mean |x - mean|^2, of both parts together, float32 as the images' shape."""
        variance: FloatArray = self._sum_of_squares / np.float32(self.count)
        return variance


def conditional_variance(
    batch: SliceBatch,
    plan: Plan,
    seed: int,
    model_error: FloatArray | None = None,
    n_probes: int = PROBES,
) -> FloatArray:
    """Return the variance of each pixel given the last step's x0, both parts together, in units of k-space.

    A sample ends with the solution of a Gaussian problem: the data have the noise sigma_y, and x0 has the
    variance r^2 = sigma_y^2 / g in each part. Its covariance is (A^H A / sigma_y^2 + 1 / r^2)^-1, and by the
    law of total variance the posterior's variance is the sum of that and of the variance of the solutions.
    The diagonal is estimated from solutions of problems whose data and x0 are noise (Papandreou and Yuille,
    Gaussian sampling by local perturbations, NIPS 2010): ``n_probes`` of them, without the network, the same
    for a slice in any batch.

    ``model_error`` (slice,), in units of k-space, is the standard deviation of what the network gets wrong of
    x0, which no sample shows; its square is added to r^2.

    The result has the shape of the batch's images. It is 0 where neither noise nor error is, and for guided
    plans, which solve no such problem.
    """
    step, sense = plan.steps[-1], batch.sense
    variance = np.zeros(batch.shape, dtype=np.float32)
    if not isinstance(step, ProximalStep):
        return variance
    level, noise = (
        np.array([getattr(problem, name) for problem in batch.problems], dtype=np.float32)
        for name in ("noise", "noise_on_grid")
    )
    gamma = (step.gamma + step.noise_gamma * (noise / batch.scales) ** 2).astype(np.float32)
    spread = np.divide(noise, np.sqrt(gamma), out=np.zeros_like(noise), where=gamma > 0)
    if model_error is not None:
        spread = np.hypot(spread, model_error)
    if not spread.any():
        return variance
    weight = np.divide(noise, spread, out=np.zeros_like(noise), where=spread > 0) ** 2
    generators = [keyed_generator(seed, problem.index, PROBE_KEY) for problem in batch.problems]
    for _ in range(n_probes):
        data = draw_normals(generators, batch.kspace.shape, level)
        centre = draw_normals(generators, batch.shape, spread)
        # These calls need no network, so there is time for a solution that has converged.
        solution = solve_proximal(sense.normal, sense.adjoint(data), centre, weight, 2 * step.n_cg)
        variance += (solution.real**2 + solution.imag**2) / np.float32(n_probes)
    return variance

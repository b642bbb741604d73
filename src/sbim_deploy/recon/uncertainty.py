"""The mean and the spread of samples, and what the last step's data leave open, which no sample shows."""

from __future__ import annotations

import numpy as np

from sbim_deploy.recon.grid import SliceBatch
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


def conditional_variance(batch: SliceBatch, plan: Plan, seed: int, n_probes: int = PROBES) -> FloatArray:
    """Return the variance of each pixel given the last step's x0, both parts together, in units of k-space.

    A sample ends with the solution of a Gaussian problem: the data have the noise sigma_y, and x0 has the
    variance sigma_y^2 / g in each part. Its covariance is sigma_y^2 (A^H A + g)^-1, and by the law of total
    variance the posterior's variance is the sum of that and of the variance of the solutions. The diagonal is
    estimated from solutions of problems whose data and x0 are noise (Papandreou and Yuille, Gaussian sampling
    by local perturbations, NIPS 2010): ``n_probes`` of them, without the network, the same for a slice in any
    batch.

    The result has the shape of the batch's images. It is 0 without noise, and for guided plans, which solve
    no such problem.
    """
    step, sense = plan.steps[-1], batch.sense
    variance = np.zeros(batch.shape, dtype=np.float32)
    noise = np.array([problem.noise for problem in batch.problems], dtype=np.float32)
    if not isinstance(step, ProximalStep) or not noise.any():
        return variance
    weight = (step.gamma + step.noise_gamma * (noise / batch.scales) ** 2).astype(np.float32)
    spread = np.divide(noise, np.sqrt(weight), out=np.zeros_like(noise), where=weight > 0)
    generators = [keyed_generator(seed, problem.index, PROBE_KEY) for problem in batch.problems]
    for _ in range(n_probes):
        data = _draw(generators, batch.kspace.shape, noise)
        centre = _draw(generators, batch.shape, spread)
        # These calls need no network, so there is time for a solution that has converged.
        solution = solve_proximal(sense.normal, sense.adjoint(data), centre, weight, 2 * step.n_cg)
        variance += (solution.real**2 + solution.imag**2) / np.float32(n_probes)
    return variance


def _draw(generators: list[np.random.Generator], shape: tuple[int, ...], scale: FloatArray) -> ComplexArray:
    """Return complex normals (slice, ...), with the standard deviation ``scale`` (slice,) in each part."""
    drawn = np.empty(shape, dtype=np.complex64)
    for generator, part, factor in zip(generators, drawn, scale, strict=True):
        generator.standard_normal(dtype=np.float32, out=part.view(np.float32))
        part *= factor
    return drawn

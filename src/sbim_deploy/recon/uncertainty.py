"""The spread that samples do not show: what the data and the last row leave open."""

from __future__ import annotations

import numpy as np

from sbim_deploy.recon.grid import SliceBatch
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.conjugate_gradient import solve_proximal
from sbim_deploy.samplers.noise import keyed_generator
from sbim_deploy.samplers.plan import Plan, ProximalRow

PROBES = 16
# Beside the numbers of the samples, which count from 0.
PROBE_KEY = 2**32 - 1


def conditional_variance(batch: SliceBatch, plan: Plan, seed: int, n_probes: int = PROBES) -> FloatArray:
    """Return the variance of each pixel given the last row's x0, both parts together, in units of k-space.

    A sample ends with the solution of a Gaussian problem: data with noise sigma_y, and x0 with the variance
    sigma_y^2 / g in each part. Its covariance is sigma_y^2 (A^H A + g)^-1, and by the law of total variance
    the posterior's variance is that and the variance of the solutions. The diagonal is estimated from
    solutions of problems whose data and x0 are noise (Papandreou and Yuille, Gaussian sampling by local
    perturbations, NIPS 2010): ``n_probes`` of them, without the network, the same for a slice in any batch.

    The result is (slice, rows, columns): 0 without noise, and for guided plans, which solve no such problem.
    """
    row, sense = plan.rows[-1], batch.sense
    shape = (len(batch.problems), *sense.image_shape)
    variance = np.zeros(shape, dtype=np.float32)
    noise = np.array([problem.noise for problem in batch.problems], dtype=np.float32)
    if not isinstance(row, ProximalRow) or not noise.any():
        return variance
    weight = (row.gamma + row.noise_gamma * (noise / batch.scales) ** 2).astype(np.float32)
    spread = np.divide(noise, np.sqrt(weight), out=np.zeros_like(noise), where=weight > 0)
    generators = [keyed_generator(seed, problem.index, PROBE_KEY) for problem in batch.problems]
    for _ in range(n_probes):
        data = _draw(generators, batch.kspace.shape, noise)
        centre = _draw(generators, shape, spread)
        # The network calls that are saved pay for a solution that has converged.
        solution = solve_proximal(sense.normal, sense.adjoint(data), centre, weight, 2 * row.n_cg)
        variance += (solution.real**2 + solution.imag**2) / np.float32(n_probes)
    return variance


def _draw(generators: list[np.random.Generator], shape: tuple[int, ...], scale: FloatArray) -> ComplexArray:
    """Return complex normals (slice, ...), with the standard deviation ``scale`` (slice,) in each part."""
    drawn = np.empty(shape, dtype=np.complex64)
    for generator, part, factor in zip(generators, drawn, scale, strict=True):
        generator.standard_normal(dtype=np.float32, out=part.view(np.float32))
        part *= factor
    return drawn

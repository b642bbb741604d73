"""Does a model's graph compute what its source computes? Without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.engines.parity import Parity, compare
from sbim_deploy.io.parity_reference import read_reference
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.mri.sense import Sense, phase_encode_circulant
from sbim_deploy.recon.channels import EngineScore, from_channels, to_channels
from sbim_deploy.recon.model import Model, open_engine
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.loop import run_plan
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import GuidedRow, Plan

TOLERANCE = 1e-5
SINGLE_ROUNDING = 1e-7
STEP_GRID = (48, 64)
STEP_COILS = 4


def check_model(model: Model, backend: str = "auto") -> list[Parity]:
    """Compare the score graph with PyTorch's stored outputs, and the step graph with the numpy loop.

    Raises:
        InputError: the model has no stored outputs.
        BackendMissingError: the backend is not installed.
    """
    reference = read_reference(model.folder)
    engine = open_engine(model, "score", backend)
    got = engine.run({"x": reference.x, "sigma": reference.sigma})["score"]
    sigmas = [float(sigma) for sigma in reference.sigma]
    results = [
        compare(f"score, sigma {sigma:g}, stored PyTorch", got[i], reference.score[i], tolerance(sigma))
        for i, sigma in enumerate(sigmas)
    ]
    if model.manifest.channels == 2:
        step = open_engine(model, "step", backend)
        results += [_check_step(engine, step, sigma) for sigma in sigmas]
    return results


def tolerance(sigma: float) -> float:
    """Return the relative L2 difference that passes at a level.

    Single precision itself knows a noise of sigma on an image of 1 to about 1e-7 / sigma of the noise.
    """
    return max(TOLERANCE, SINGLE_ROUNDING / sigma)


def noisy_phantom(shape: tuple[int, int], sigma: float, seed: int) -> ComplexArray:
    """Return a phantom of unit scale with a smooth phase and noise of level ``sigma``."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    image: ComplexArray = shepp_logan(shape) * smooth_phase(shape, rng) + np.float32(sigma) * noise
    return image


def step_inputs(sigma: float, seed: int = 0) -> tuple[GuidedRow, Sense, Mapping[str, ComplexArray]]:
    """Return a guided row, an operator and the complex arrays x, z and backprojection (1, rows, columns)."""
    row = GuidedRow(sigma, step_size=0.3 * sigma**2, noise_scale=0.1 * sigma, data_weight=5.0)
    maps = birdcage_maps(STEP_COILS, STEP_GRID)[None]
    sense = Sense(maps, line_mask(STEP_GRID[1], 3, "random", seed=seed)[None, None])
    truth = noisy_phantom(STEP_GRID, 0.0, seed)[None]
    noise = NoiseStream(seed, [0], STEP_GRID)
    noise.draw()
    arrays = {
        "x": noisy_phantom(STEP_GRID, sigma, seed + 1)[None],
        "z": noise.draw().copy(),
        "backprojection": sense.adjoint(sense.forward(truth)),
    }
    return row, sense, arrays


def step_tensors(row: GuidedRow, sense: Sense, arrays: Mapping[str, ComplexArray]) -> dict[str, FloatArray]:
    """Return the step graph's inputs, by name."""
    numbers = {
        "sigma": row.sigma,
        "step_size": row.step_size,
        "noise_scale": row.noise_scale,
        "data_weight": row.data_weight,
    }
    return {
        **{name: np.array([value], dtype=np.float32) for name, value in numbers.items()},
        **{name: to_channels(array) for name, array in arrays.items()},
        "maps": to_channels(sense.maps),
        "circulant": to_channels(phase_encode_circulant(sense.mask)),
    }


def _check_step(score: Engine, step: Engine, sigma: float) -> Parity:
    row, sense, arrays = step_inputs(sigma)
    fused = step.run(step_tensors(row, sense, arrays))["x_next"]
    expected = run_plan(
        Plan("step", start_image=1.0, start_noise=0.0, rows=(row,)),
        EngineScore(score, 1, STEP_GRID),
        sense.normal,
        arrays["backprojection"],
        arrays["x"],
        NoiseStream(0, [0], STEP_GRID),
        np.zeros(1, dtype=np.float32),
    )
    return compare(f"step, sigma {sigma:g}, numpy loop", from_channels(fused), expected, tolerance(sigma))

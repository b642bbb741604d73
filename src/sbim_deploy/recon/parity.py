"""Compares what a model's graphs compute with what its source computes, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbim_deploy.engines.comparison import Parity, compare
from sbim_deploy.engines.engine import Engine
from sbim_deploy.models.backends import BFLOAT16, TF32, open_engine, precision_of
from sbim_deploy.models.folder import IMAGE_NRMSE, Model, ModelManifest, score_at
from sbim_deploy.models.reference import read_reference
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centre_crop, centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.metrics import ssim
from sbim_deploy.mri.phantom import shepp_logan, smooth_phase
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.channels import EngineScore
from sbim_deploy.recon.fused import operator_inputs, plan_inputs, run_steps, run_whole
from sbim_deploy.recon.grid import GridProblem, normal_on_grid, put_on_grid, stack_slices
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, Reconstructor
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.loop import Score, run_plan
from sbim_deploy.samplers.noise import NoiseStream
from sbim_deploy.samplers.plan import GuidedStep, Plan, ProximalStep, Step
from sbim_deploy.words import plural


@dataclass(frozen=True)
class Tolerance:
    """The relative L2 differences that pass.

    ``call`` is for one call at any level, ``image`` for whole images. An image of unit scale is rounded to
    ``rounding``, so a call at a level sigma may differ by ``rounding`` / sigma.
    """

    call: float
    rounding: float
    image: float


TOLERANCES = {
    "float32": Tolerance(1e-5, 1e-7, 1e-4),
    TF32: Tolerance(5e-3, 3e-4, 1e-2),  # a mantissa of 10 bits, as FP16
    "float16": Tolerance(5e-3, 3e-4, 1e-2),
    BFLOAT16: Tolerance(4e-2, 2.4e-3, 1e-1),
}
# Sums in another order are rounded to bfloat16 otherwise, but cost the same within a tenth.
ROUNDING_MARGIN = 1.5
STEP_GRID = (48, 64)
STEP_COILS = 4
WHOLE_GRID = (64, 64)
# It names every number, since a model's stored image must not change with the sampler's defaults.
WHOLE_CHOICE = SamplerChoice("dds", steps=32, schedule="geometric", start_sigma=0.15, prior_weight=0.5)
# What the images were made with that models store: they must not change with how noise is measured.
WHOLE_NOISE = 0.042579215239974204
NOISE_LEVEL = np.array([0.02], dtype=np.float32)


def check_model(model: Model, backend: str = "auto") -> list[Parity]:
    """Compare the score graph with PyTorch's stored outputs, and the fused graphs with the numpy loop.

    Raises:
        InputError: the model has no stored outputs.
        BackendMissingError: the backend is not installed.
    """
    manifest = model.manifest
    reference = read_reference(model.folder)
    score = open_engine(model, "score", backend)
    dtype = precision_of(score.description, manifest)
    got = score.run({"x": reference.x, "sigma": reference.sigma})["score"]
    sigmas = [float(sigma) for sigma in reference.sigma]
    results = [
        compare(
            f"score, sigma {sigma:g}, stored PyTorch",
            got[i],
            reference.score[i],
            _limit(manifest, dtype, score_at(sigma), tolerance(sigma, dtype), tolerance(sigma)),
        )
        for i, sigma in enumerate(sigmas)
    ]
    # A step and the loop see the same image, and round it alike to bfloat16: what differs is the data
    # consistency and the update, which stay in FP32. TF32 rounds their products too. The images of a second
    # step differ by 1e-7, which takes some numbers to the other neighbour in bfloat16, and each layer makes
    # more of these: the scores then differ by what rounding costs.
    of_step = manifest.dtype if dtype == BFLOAT16 else dtype
    for kind in fused_kinds(manifest):
        step = open_engine(model, f"step-{kind}", backend)
        results += [
            _check_steps(score, step, f"step-{kind}", sigma, 1, manifest, of_step) for sigma in sigmas
        ]
        whole = open_engine(model, f"reconstruct-{kind}", backend)
        results.append(_check_steps(score, whole, f"reconstruct-{kind}", sigmas[1], 3, manifest, dtype))
    return results


def fused_kinds(manifest: ModelManifest) -> list[str]:
    """Return the kinds of steps that a model has fused graphs for, such as proximal-2d."""
    names = (name.removesuffix(".onnx") for name in manifest.files)
    return sorted(name.removeprefix("step-") for name in names if name.startswith("step-"))


def check_image(model: Model, backend: str = "auto", graph: str = DEFAULT_GRAPH) -> tuple[Parity, float]:
    """Compare a whole reconstruction with PyTorch's in FP32, same seed, and return its SSIM too.

    Raises:
        InputError: the model has no stored image.
    """
    expected = read_reference(model.folder).image
    reconstruct = Reconstructor(model, WHOLE_CHOICE, backend=backend, graph=graph)
    got = reconstruct([whole_problem()])[0].image
    plan = reconstruct.plan
    name = f"image, {plan.sampler} with {plural(len(plan.steps), 'call')}, {graph}, stored PyTorch"
    dtype = precision_of(reconstruct.engine.description, model.manifest)
    usual, least = TOLERANCES[dtype].image, TOLERANCES["float32"].image
    limit = _limit(model.manifest, dtype, IMAGE_NRMSE, usual, least)
    return compare(name, got, expected, limit), ssim(np.abs(got), np.abs(expected))


def whole_problem() -> SliceProblem:
    """Return a slice whose image is compared from end to end: 64 x 64, 4 coils, every third line."""
    return phantom_problem(WHOLE_GRID, STEP_COILS, 3, seed=7)


def phantom_problem(shape: tuple[int, int], n_coils: int, acceleration: float, seed: int) -> SliceProblem:
    """Return a slice of the phantom with its own coil maps: equispaced lines, noise of 0.01 in each part."""
    rng = np.random.default_rng(seed)
    maps = birdcage_maps(n_coils, shape)
    noise = rng.standard_normal((n_coils, *shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    kspace = centred_fft(maps * noisy_phantom(shape, 0.0, seed)) + np.float32(0.01) * noise
    sampled = (kspace * line_mask(shape[1], acceleration)).astype(np.complex64)
    return prepare_slice(sampled, maps=maps, noise=WHOLE_NOISE)


def whole_image(plan: Plan, score: Score, size_multiple: int) -> ComplexArray:
    """Return the image (rows, columns) of :func:`whole_problem` with a score of one's own, by numpy."""
    slice_problem = whole_problem()
    problem = put_on_grid(stack_slices([slice_problem]), plan, 0, size_multiple)
    normal = normal_on_grid(problem)
    x = run_plan(
        plan, score, normal, problem.backprojection, problem.start, problem.noise, problem.noise_level
    )
    x *= np.float32(slice_problem.scale)
    return centre_crop(x[0], WHOLE_GRID)


def tolerance(sigma: float, dtype: str = "float32") -> float:
    """Return the relative L2 difference of a call that passes at a level, for a precision."""
    limits = TOLERANCES[dtype]
    return max(limits.call, limits.rounding / sigma)


def _limit(manifest: ModelManifest, dtype: str, cost: str, usual: float, least: float) -> float:
    """Return the relative L2 difference from PyTorch that passes.

    Of an FP32 model in bfloat16 it is near what the same rounding cost in PyTorch, if export measured that.
    """
    if dtype != BFLOAT16 or manifest.dtype == BFLOAT16 or cost not in manifest.bfloat16_cost:
        return usual
    return max(ROUNDING_MARGIN * manifest.bfloat16_cost[cost], least)


def noisy_phantom(shape: tuple[int, int], sigma: float, seed: int) -> ComplexArray:
    """Return a phantom of unit scale with a smooth phase and noise of level ``sigma``."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    image: ComplexArray = shepp_logan(shape) * smooth_phase(shape, rng) + np.float32(sigma) * noise
    return image


def step_of(kind: str, sigma: float, n_cg: int) -> Step:
    """Return a step of a plan at a level, of a kind such as guided or proximal-2d."""
    if kind.startswith("guided"):
        return GuidedStep(
            sigma,
            step_size=0.3 * sigma**2,
            noise_scale=0.1 * sigma,
            data_weight=5.0,
            likelihood_weight=0.5,
            likelihood_sigma=sigma,
        )
    return ProximalStep(
        sigma, gamma=0.05, noise_gamma=1.0, n_cg=n_cg, renoise=0.3 * sigma, noise_scale=0.2 * sigma
    )


def fitting(grid: tuple[int, int], size_multiple: int) -> tuple[int, int]:
    """Return the least rows and columns of multiples that hold a grid."""
    rows, columns = (-(-size // size_multiple) * size_multiple for size in grid)
    return rows, columns


def step_problem(kind: str, sigma: float, seed: int = 0, size_multiple: int = 1) -> GridProblem:
    """Return a slice with noise of a level; both directions are undersampled where the kind ends in -2d."""
    rows, columns = grid = fitting(STEP_GRID, size_multiple)
    mask = line_mask(columns, 3, "random", seed=seed)[None, None]
    if kind.endswith("-2d"):
        mask = mask & line_mask(rows, 1.5, "random", seed=seed)[None, :, None]
    sense = Sense(birdcage_maps(STEP_COILS, grid)[None], mask)
    truth, x = noisy_phantom(grid, 0.0, seed)[None], noisy_phantom(grid, sigma, seed + 1)[None]
    backprojection = sense.adjoint(sense.forward(truth))
    return GridProblem(sense, x, backprojection, NoiseStream(seed, [0], grid), NOISE_LEVEL)


def step_tensors(step: Step, problem: GridProblem) -> dict[str, FloatArray]:
    """Return the step graph's inputs for a step, by name."""
    of_steps = plan_inputs(Plan("parity", 1.0, 0.0, (step,)), problem)
    x = of_steps.pop("x")
    first = {name.removesuffix("_of_rows"): array[0] for name, array in of_steps.items()}
    return {**operator_inputs(problem), **first, "x": x}


def _check_steps(
    score: Engine, fused: Engine, graph: str, sigma: float, n_steps: int, manifest: ModelManifest, dtype: str
) -> Parity:
    kind = graph.partition("-")[2]
    plan = Plan("parity", 1.0, 0.0, (step_of(kind, sigma, manifest.n_cg),) * n_steps)
    problem = step_problem(kind, sigma, size_multiple=manifest.size_multiple)
    run = run_steps if graph.startswith("step") else run_whole
    got = run(fused, plan, problem)
    problem = step_problem(kind, sigma, size_multiple=manifest.size_multiple)
    expected = run_plan(
        plan,
        EngineScore(score, problem.start.shape),
        problem.sense.normal,
        problem.backprojection,
        problem.start,
        problem.noise,
        problem.noise_level,
    )
    return compare(f"{graph}, sigma {sigma:g}, numpy loop", got, expected, tolerance(sigma, dtype))

"""In which precision a network's convolutions are computed on the CPU, and whether bfloat16 pays."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.engines.openvino import OPENVINO, OPENVINO_BF16
from sbim_deploy.errors import EngineIncompatibleError, InputError
from sbim_deploy.models.folder import IMAGE_NRMSE, IMAGE_SSIM, Model, ModelManifest

PRECISIONS = FP32, BF16, AUTO = ("fp32", "bf16", "auto")

# What bfloat16 may cost a model, by its manifest, for `auto` to take it: images stay within 1 %.
MAX_SCORE_ERROR = 0.05
MAX_IMAGE_NRMSE = 0.01
MIN_IMAGE_SSIM = 0.999
# And the share of FP32's time that it may take here: clearly less, as the times of single calls vary.
MAX_TIME = 0.9
MEASURED_SIZE = 128
# Calls are repeated for so many seconds, but at least and at most so often.
MEASURED_S, MIN_CALLS, MAX_CALLS = 1.0, 2, 20

# One run opens several graphs, and all of them must be of one precision.
_TIMES: dict[tuple[str, int | None], float] = {}


def backend_in(manifest: ModelManifest, backend: str, precision: str | None) -> str:
    """Return the backend that computes a model in a precision, where that needs no weighing.

    ``precision`` None is the backend's own, and so is ``auto`` before it is weighed.

    Raises:
        InputError: the precision is unknown, or is not the backend's, or the backend's name or the model says
            another.
    """
    if precision is None:
        return backend
    check_precision(precision)
    if manifest.dtype != "float32":
        if precision == AUTO or (precision, manifest.dtype) == (BF16, "bfloat16"):
            return backend
        raise InputError(
            f"precision is {precision}: {manifest.name} was exported in {manifest.dtype} and computes in it: "
            "leave it out, or export the model in fp32"
        )
    name = backend.partition("://")[0]
    if name == OPENVINO_BF16 and precision == BF16:
        return backend
    if name in (OPENVINO_BF16, "onnxruntime-cuda-tf32"):
        raise InputError(
            f"precision is {precision}: backend {name} has one of its own; leave one of them out"
        )
    if precision != BF16:
        return backend
    if name not in ("auto", OPENVINO):
        raise InputError(
            f"precision is bf16: backend {name} computes this model in float32; openvino has bf16, on a CPU "
            "with AVX512_BF16 or AMX, and a model exported with --dtype bf16 has it on a GPU"
        )
    return OPENVINO_BF16


def check_precision(precision: str | None) -> None:
    """Raise InputError for a name that is no precision's; None leaves it to the backend."""
    if precision is not None and precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: expected one of {', '.join(PRECISIONS)}")


def weigh_bfloat16(
    model: Model, threads: int | None, open_score: Callable[[str], Engine]
) -> tuple[bool, str]:
    """Tell whether a model should be computed in bfloat16 here, and why.

    A model of float32 should where its manifest has the cost, the cost is small, the processor has bfloat16,
    and calls of the score take clearly less time with it, which is measured once in a process.
    ``open_score`` opens the score graph in a backend.
    """
    if too_much := _excess(model.manifest):
        return False, f"fp32, {too_much}"
    try:
        time_of_it = _measure(model, threads, open_score)
    except EngineIncompatibleError as error:
        return False, f"fp32, {error}"
    share = f"{time_of_it:.2f} of fp32's time on this processor"
    if time_of_it > MAX_TIME:
        return False, f"fp32, bf16 takes {share}, more than {MAX_TIME:g}"
    cost = model.manifest.bfloat16_cost
    return True, (
        f"bf16 takes {share}, and an image differs by {cost[IMAGE_NRMSE]:.1e} at an SSIM of "
        f"{cost[IMAGE_SSIM]:.5f}"
    )


def _excess(manifest: ModelManifest) -> str | None:
    """Return what keeps a model's cost from being known to be small, or None."""
    cost = manifest.bfloat16_cost
    if not {IMAGE_NRMSE, IMAGE_SSIM} <= cost.keys():
        return "the model's manifest does not say what bf16 costs: export it again"
    if not cost[IMAGE_NRMSE] <= MAX_IMAGE_NRMSE:
        return f"bf16 costs an image an NRMSE of {cost[IMAGE_NRMSE]:.1e}, more than {MAX_IMAGE_NRMSE:g}"
    if not cost[IMAGE_SSIM] >= MIN_IMAGE_SSIM:
        return f"an image in bf16 has an SSIM of {cost[IMAGE_SSIM]:.4f}, less than {MIN_IMAGE_SSIM:g}"
    for name, error in cost.items():
        if name not in (IMAGE_NRMSE, IMAGE_SSIM) and not error <= MAX_SCORE_ERROR:
            return f"bf16 costs the {name} an error of {error:.1e}, more than {MAX_SCORE_ERROR:g}"
    return None


def _measure(model: Model, threads: int | None, open_score: Callable[[str], Engine]) -> float:
    """Return the share of FP32's time that a call of the score takes in bfloat16, the fastest of each."""
    key = model.digest, threads
    if key not in _TIMES:
        multiple = model.manifest.size_multiple
        size = -(-MEASURED_SIZE // multiple) * multiple
        x = np.random.default_rng(0).standard_normal(
            (1, model.manifest.channels, size, size), dtype=np.float32
        )
        inputs = {"x": x, "sigma": np.ones(1, np.float32)}
        engines = [open_score(backend) for backend in (OPENVINO_BF16, OPENVINO)]
        for engine in engines:
            engine.run(inputs)  # compiles
        seconds: list[list[float]] = [[], []]
        while len(seconds[0]) < MIN_CALLS or (
            sum(map(sum, seconds)) < MEASURED_S and len(seconds[0]) < MAX_CALLS
        ):
            for engine, taken in zip(engines, seconds, strict=True):
                before = time.perf_counter()
                engine.run(inputs)
                taken.append(time.perf_counter() - before)
        _TIMES[key] = min(seconds[0]) / min(seconds[1])
    return _TIMES[key]

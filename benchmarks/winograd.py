"""What shorter convolutions save in OpenVINO, in FP32 and in bfloat16: score calls in turns.

    python benchmarks/winograd.py MODEL [--size 384x384] [--calls 5] [--threads 2] [--min-channels 256]

The model of benchmarks/published_size.py, for one. bfloat16 is left out where the processor does not have it.
Seconds are those of the processor, over all threads, so that other programs disturb them little; with one
thread they are a call's. Needs the extra openvino.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from sbim_deploy.cli.sizes import parse_size
from sbim_deploy.engines import bfloat16, winograd
from sbim_deploy.engines.openvino import OPENVINO, OPENVINO_BF16, OpenVinoEngine
from sbim_deploy.errors import EngineIncompatibleError
from sbim_deploy.models.backends import tensor_specs
from sbim_deploy.models.folder import load_model

WAYS = {
    "FP32, direct": (OPENVINO, False),
    "FP32, shorter": (OPENVINO, True),
    "bfloat16, direct": (OPENVINO_BF16, False),
    "bfloat16, shorter": (OPENVINO_BF16, True),
}
"""The backend, and whether wide convolutions are shortened; the package takes the second and the third."""


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def compiled(engine: OpenVinoEngine, inputs: dict[str, Any], shorter: bool) -> Any:
    """Return the score of a first call, which compiles the graph one way or the other."""
    shorten, round_all = winograd.shorten_convolutions, bfloat16.round_convolutions

    def both(model: Any) -> int:
        shorten(model)
        return round_all(model)

    with ExitStack() as stack:
        if shorter:
            stack.enter_context(mock.patch.object(bfloat16, "round_convolutions", both))
        else:
            stack.enter_context(mock.patch.object(winograd, "shorten_convolutions"))
        return engine.run(inputs)["score"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--size", type=parse_size, default=(384, 384))
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--min-channels", type=int, default=winograd.MIN_CHANNELS, help="that are shortened")
    arguments = parser.parse_args()
    winograd.MIN_CHANNELS = arguments.min_channels

    model = load_model(arguments.model)
    path, (specs, _) = model.folder / "score.onnx", tensor_specs(model.manifest, "score")
    x = np.random.default_rng(0).standard_normal((1, 2, *arguments.size), dtype=np.float32)
    inputs = {"x": x, "sigma": np.ones(1, np.float32)}
    engines: dict[str, OpenVinoEngine] = {}
    scores: dict[str, Any] = {}
    for name, (backend, shorter) in WAYS.items():
        try:
            engines[name] = OpenVinoEngine(path, specs, arguments.threads, backend)
        except EngineIncompatibleError as error:
            print(f"{name} is left out: {error}")
            continue
        first, scores[name] = timed(lambda name=name, way=shorter: compiled(engines[name], inputs, way))
        print(f"{name}: first call {first:.2f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(arguments.calls):
        for name, engine in engines.items():
            seconds[name].append(timed(lambda engine=engine: engine.run(inputs))[0])
    exact = scores["FP32, direct"]
    least = {name: min(taken) for name, taken in seconds.items()}
    for name, taken in least.items():
        error = np.linalg.norm(scores[name] - exact) / np.linalg.norm(exact)
        print(f"{name}: {taken:.3f} s, {taken / least['FP32, direct']:.2f}; relative L2 {error:.1e}")


if __name__ == "__main__":
    main()

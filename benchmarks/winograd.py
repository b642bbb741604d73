"""What shorter convolutions save in OpenVINO: score calls with and without them, in turns.

    python benchmarks/winograd.py MODEL [--size 384x384] [--calls 5]

The model of benchmarks/published_size.py, for one. Needs the extra openvino.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from sbim_deploy.cli.options import parse_size
from sbim_deploy.engines import winograd
from sbim_deploy.engines.openvino import OpenVinoEngine
from sbim_deploy.models.backends import tensor_specs
from sbim_deploy.models.folder import load_model


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--size", type=parse_size, default=(384, 384))
    parser.add_argument("--calls", type=int, default=5)
    arguments = parser.parse_args()

    model = load_model(arguments.model)
    path, (specs, _) = model.folder / "score.onnx", tensor_specs(model.manifest, "score")
    x = np.random.default_rng(0).standard_normal((1, 2, *arguments.size), dtype=np.float32)
    inputs = {"x": x, "sigma": np.ones(1, np.float32)}
    engines = {name: OpenVinoEngine(path, specs) for name in ("direct", "shorter")}
    scores, seconds = {}, {name: [] for name in engines}
    with mock.patch.object(winograd, "MIN_CHANNELS", 1 << 30):
        first, scores["direct"] = timed(lambda: engines["direct"].run(inputs)["score"])
    print(f"direct: first call {first:.2f} s")
    first, scores["shorter"] = timed(lambda: engines["shorter"].run(inputs)["score"])
    print(f"shorter: first call {first:.2f} s")
    for _ in range(arguments.calls):
        for name, engine in engines.items():
            seconds[name].append(timed(lambda engine=engine: engine.run(inputs))[0])
    direct, shorter = (statistics.median(seconds[name]) for name in engines)
    print(f"a call: direct {direct:.3f} s, shorter {shorter:.3f} s, {shorter / direct:.2f} of it")
    difference = np.linalg.norm(scores["shorter"] - scores["direct"]) / np.linalg.norm(scores["direct"])
    print(f"relative L2 of the difference: {difference:.1e}")


if __name__ == "__main__":
    main()

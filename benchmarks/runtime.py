"""How fast the runtime is, as ratios measured in one run.

    python benchmarks/runtime.py [--size 128] [--coils 8] [--repeats 20]

Prints a score call and a whole reconstruction (`dds`) on ONNX Runtime and on PyTorch eager, both with their
default threads; the share of a reconstruction's time that is spent outside the engine; and ESPIRiT against
BART, where it is installed. PyTorch runs the demo model's architecture with random weights, which cost the
same. Needs the extras cpu and export.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import espirit
from sbim_deploy.engines.engine import Arrays, Engine
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.model import load_model, open_engine
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.simulate import SimulateSettings, simulate_slice
from sbim_deploy.samplers.choice import SamplerChoice


class TorchEngine:
    """PyTorch eager behind the engine's interface."""

    description: Mapping[str, str] = {"backend": "torch"}

    def __init__(self, network: ScoreNetwork):
        self._network = network.eval()

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Return the score."""
        with torch.inference_mode():
            score = self._network(torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["sigma"]))
        return {"score": score.numpy()}


class Stopwatch:
    """An engine that adds up the seconds spent inside another."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.description = engine.description
        self.seconds = 0.0

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Return the other engine's outputs."""
        before = time.perf_counter()
        outputs = self._engine.run(inputs)
        self.seconds += time.perf_counter() - before
        return outputs


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call, after two to warm up."""
    seconds = []
    for _ in range(repeats + 2):
        before = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - before)
    return statistics.median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()

    model = load_model("demo")
    architecture = ARCHITECTURES[model.manifest.architecture]
    eager = TorchEngine(ScoreNetwork(architecture, model.manifest.ngf, model.manifest.channels))
    settings = SimulateSettings(1, arguments.coils, arguments.size, 4.0)
    problem = prepare_slice(simulate_slice(settings, line_mask(settings.size, 4.0), 0).kspace)
    scan = f"{settings.size} x {settings.size}, {settings.n_coils} coils"
    print(f"{scan}, demo model, {torch.get_num_threads()} threads")

    x = np.random.default_rng(0).standard_normal((1, 2, settings.size, settings.size), dtype=np.float32)
    inputs = {"x": x, "sigma": np.ones(1, dtype=np.float32)}
    ours = open_engine(model, "score")
    times = [median_seconds(lambda e=engine: e.run(inputs), arguments.repeats) for engine in (ours, eager)]
    print_ratio("score call", *times)

    reconstructor = Reconstructor(model, SamplerChoice("dds"))
    times = []
    for engine in (ours, eager):
        reconstructor.engine = engine
        times.append(median_seconds(lambda: reconstructor([problem]), max(arguments.repeats // 6, 3)))
    print_ratio(f"reconstruction, dds with {len(reconstructor.plan.rows)} calls", *times)

    for name in ("sbim-ld", "dds"):
        reconstructor = Reconstructor(model, SamplerChoice(name))
        stopwatch = reconstructor.engine = Stopwatch(ours)
        reconstructor([problem])
        stopwatch.seconds = 0.0
        before = time.perf_counter()
        reconstructor([problem])
        total = time.perf_counter() - before
        outside = total - stopwatch.seconds
        print(f"{name}: {total:.2f} s, {100 * outside / total:.1f} % of it outside the engine")
    espirit.main([])


def print_ratio(what: str, ours: float, eager: float) -> None:
    print(
        f"{what}: ONNX Runtime {1000 * ours:.1f} ms, PyTorch eager {1000 * eager:.1f} ms, "
        f"ratio {eager / ours:.2f}"
    )


if __name__ == "__main__":
    main()

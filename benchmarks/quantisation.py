"""Would 8-bit integers do? Speed, error of the score and PSNR of reconstructions, against FP32.

    python benchmarks/quantisation.py [--model demo] [--slices 8] [--calibration 4]

Weights per channel and activations are quantised to 8 bits, calibrated on the states that the plans `dds` and
`sbim-ld` pass through on slices that are not scored; the first and the last convolution, the norms and the
activations stay in FP32. By ONNX Runtime's static quantisation, run in ONNX Runtime and OpenVINO, and by NNCF
where it is installed (`pip install nncf`). Needs the extras cpu, openvino and export.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from sbim_deploy.engines.engine import Arrays, Engine
from sbim_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sbim_deploy.engines.openvino import OpenVinoEngine
from sbim_deploy.models.backends import tensor_specs
from sbim_deploy.models.folder import Model, load_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.channels import to_channels
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice
from sbim_deploy.samplers.choice import SamplerChoice

SIZE, N_COILS, ACCELERATION = 128, 8, 4.0
CALIBRATION_PLANS = (SamplerChoice("dds"), SamplerChoice("sbim-ld", steps=16))
SIGMAS = (0.15, 0.04, 0.01)
REPEATS = 20

States = list[dict[str, np.ndarray]]
Case = tuple[SliceProblem, np.ndarray]


class RecordingEngine:
    """An engine that keeps what it is given."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.description = engine.description
        self.states: States = []

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Return the other engine's outputs."""
        self.states.append({name: array.copy() for name, array in inputs.items()})
        return self._engine.run(inputs)


def cases(start: int, n_slices: int) -> list[Case]:
    """Return (problem, reference) of simulated slices."""
    settings = SimulateSettings(start + n_slices, N_COILS, SIZE, ACCELERATION)
    mask = line_mask(SIZE, ACCELERATION)
    simulated = [simulate_slice(settings, mask, index) for index in range(start, start + n_slices)]
    return [
        (prepare_slice(each.kspace, start + i), np.abs(each.reference)) for i, each in enumerate(simulated)
    ]


def plan_states(model: Model, engine: Engine, calibration: list[Case]) -> States:
    """Return every fourth state that the plans pass through."""
    recording = RecordingEngine(engine)
    for choice in CALIBRATION_PLANS:
        reconstructor = Reconstructor(model, choice)
        reconstructor.engine = recording
        for problem, _ in calibration:
            reconstructor([problem])
    return recording.states[::4]


def edge_convolutions(path: Path) -> list[str]:
    """Return the names of the first and the last convolution's nodes."""
    names = [
        node.name for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == "Conv"
    ]
    return [names[0], names[-1]]


def quantise_by_onnxruntime(path: Path, states: States, folder: Path) -> Path:
    """Write the graph with 8-bit convolutions and return its path."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self._states: Iterator[dict[str, np.ndarray]] = iter(states)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._states, None)

    target = folder / "onnxruntime_int8.onnx"
    q.quantize_static(
        path,
        target,
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        nodes_to_exclude=edge_convolutions(path),
        calibrate_method=q.CalibrationMethod.MinMax,
    )
    return target


def quantise_by_nncf(path: Path, states: States, folder: Path) -> Path:
    """Write OpenVINO's form of the graph with 8-bit convolutions and return its path."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(path)
    convolutions = [
        op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"
    ]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(states),
        subset_size=len(states),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            names=[convolutions[0], convolutions[-1]],
            types=["MVN", "Add", "Multiply", "MaxPool", "AvgPool"],
            validate=False,
        ),
    )
    target = folder / "nncf_int8.xml"
    openvino.save_model(quantised, target, compress_to_fp16=False)
    return target


def median_ms(engines: dict[str, Engine]) -> dict[str, float]:
    """Return the median time of a score call of each engine, in turns."""
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((1, 2, SIZE, SIZE), dtype=np.float32), "sigma": np.ones(1, np.float32)}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(REPEATS + 2):
        for name, engine in engines.items():
            before = time.perf_counter()
            engine.run(inputs)
            seconds[name].append(time.perf_counter() - before)
    return {name: 1000 * statistics.median(values[2:]) for name, values in seconds.items()}


def score_error(engine: Engine, exact: Engine, held_out: list[Case], sigma: float) -> float:
    """Return the mean relative L2 error of the score of the held-out images with noise sigma."""
    errors = []
    for problem, reference in held_out:
        rng = np.random.default_rng(problem.index)
        noise = rng.standard_normal((*reference.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        x = to_channels((reference + sigma * noise).astype(np.complex64)[None])
        inputs = {"x": x, "sigma": np.full(1, sigma, np.float32)}
        got, expected = (each.run(inputs)["score"] for each in (engine, exact))
        errors.append(np.linalg.norm(got - expected) / np.linalg.norm(expected))
    return float(np.mean(errors))


def mean_psnr(model: Model, engine: Engine, held_out: list[Case]) -> float:
    """Return the mean PSNR of `dds`."""
    reconstructor = Reconstructor(model, SamplerChoice("dds"))
    reconstructor.engine = engine
    return float(np.mean([score(np.abs(reconstructor([p])[0].image), truth).psnr for p, truth in held_out]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--calibration", type=int, default=4)
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)

    model = load_model(arguments.model)
    path, (specs, _) = model.folder / "score.onnx", tensor_specs(model.manifest, "score")
    held_out, calibration = cases(0, arguments.slices), cases(arguments.slices, arguments.calibration)
    engines: dict[str, Any] = {
        "ONNX Runtime FP32": OnnxRuntimeEngine(path),
        "OpenVINO FP32": OpenVinoEngine(path, specs),
    }
    states = plan_states(model, engines["OpenVINO FP32"], calibration)
    print(f"{model.manifest.name}, {SIZE} x {SIZE}, {len(states)} states to calibrate on")
    with tempfile.TemporaryDirectory() as temporary:
        quantised = quantise_by_onnxruntime(path, states, Path(temporary))
        engines["ONNX Runtime 8 bits"] = OnnxRuntimeEngine(quantised)
        engines["OpenVINO, the same graph"] = OpenVinoEngine(quantised, specs)
        if importlib.util.find_spec("nncf") is not None:
            ir = quantise_by_nncf(path, states, Path(temporary))
            engines["OpenVINO, NNCF"] = OpenVinoEngine(ir, specs)
        times = median_ms(engines)
        print(f"| | score call ms | {' | '.join(f'error at {s:g}' for s in SIGMAS)} | PSNR of dds (dB) |")
        print("|---" * (len(SIGMAS) + 3) + "|")
        for name, engine in engines.items():
            errors = [score_error(engine, engines["ONNX Runtime FP32"], held_out, sigma) for sigma in SIGMAS]
            cells = [name, f"{times[name]:.1f}", *(f"{e:.1e}" for e in errors)]
            print(f"| {' | '.join(cells)} | {mean_psnr(model, engine, held_out):.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""What fewer network calls cost in the image, and what an L1-wavelet start gives back: docs/samplers.md.

    python benchmarks/fewer_calls.py [VOLUME:PLANE:SLICE ...] [--model FOLDER] [--size 128] [--maps true]
    python benchmarks/fewer_calls.py VOLUME:PLANE:SLICE ... --weights

VOLUME is a NIfTI volume whose slices are simulated as `sbim-deploy simulate` does it, PLANE axial, coronal or
sagittal; without one the slices are synthetic brains held out from the demo's training. Every method
reconstructs the same slices, one method after the other on each, so that the seconds compare; times are
medians over the slices, and the network's are those of `--backend` with `--threads`. With `--weights` the
table is L1-wavelet's PSNR by its weight in units of the noise, and what the default loses against the best.
BART's L1-wavelet, where it is installed, has the best weight of a grid, by the truth.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.engines.engine import Engine
from sbim_deploy.experiment.peers import PEERS, bart_version
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.classical import L1_WEIGHT, Classical, classical_image, l1_wavelet
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, brain_slice, simulate_object
from sbim_deploy.runs.volume import volume_slice
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.presets import PRESETS

SAMPLERS = {
    "8 calls, zero-filled start": SamplerChoice("dds", steps=8, prior_weight=1.0),
    "fast": PRESETS["fast"].choice,
    "16 calls, zero-filled start": SamplerChoice("dds", steps=16),
    "16 calls, L1-wavelet start": SamplerChoice("dds", steps=16, start="l1-wavelet"),
    "balanced": PRESETS["balanced"].choice,
    "32 calls, L1-wavelet start": SamplerChoice("dds", steps=32, start="l1-wavelet"),
}
BASE = "balanced"
BART = "BART L1-wavelet, best weight"
BART_WEIGHTS = (0.001, 0.003, 0.01, 0.03)
WEIGHTS = tuple(sorted({L1_WEIGHT, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0}))

Solve = Callable[[SliceProblem], FloatArray | ComplexArray]


@dataclass(frozen=True)
class Scan:
    """A slice that was simulated and prepared, and the truth."""

    problem: SliceProblem
    truth: FloatArray


def scans(arguments: argparse.Namespace, acceleration: float, noise: float) -> Iterator[Scan]:
    """Yield the slices, undersampled."""
    mask = line_mask(arguments.size, acceleration, "equispaced")
    settings = SimulateSettings(size=arguments.size, acceleration=acceleration, noise=noise)
    for number, magnitude in enumerate(magnitudes(arguments)):
        made = simulate_object(magnitude, settings, mask, number)
        maps = made.maps if arguments.maps == "true" else None
        yield Scan(prepare_slice(made.kspace, number, mask, maps), np.abs(made.reference))


def magnitudes(arguments: argparse.Namespace) -> Iterator[FloatArray]:
    """Yield what the scans are of."""
    for named in arguments.volumes:
        path, plane, index = named.rsplit(":", 2)
        yield volume_slice(Path(path), plane, int(index), arguments.size)
    if not arguments.volumes:
        for number in range(arguments.slices):
            yield brain_slice(number, arguments.size)


def methods(arguments: argparse.Namespace) -> dict[str, Solve]:
    """Return every method by its name; the samplers share their graphs."""
    found: dict[str, Solve] = {
        method.value: lambda problem, method=method: classical_image(problem, method)[0]
        for method in Classical
    }
    model, engines = load_model(arguments.model), dict[str, Engine]()

    def open_graph(name: str) -> Engine:
        if name not in engines:
            engines[name] = open_engine(model, name, arguments.backend, arguments.threads)
        return engines[name]

    for name, choice in SAMPLERS.items():
        reconstruct = Reconstructor(model, choice, open_graph=open_graph)
        found[name] = lambda problem, reconstruct=reconstruct: reconstruct([problem])[0].image
    return found


def bart_psnr(scan: Scan) -> float:
    """Return the PSNR of BART's image with the weight of the grid that the truth likes best."""
    solve = PEERS["bart-l1"].solve
    images = (centre_crop(solve(scan.problem, weight, 1), scan.truth.shape) for weight in BART_WEIGHTS)
    return max(score(np.abs(image), scan.truth).psnr for image in images)


def compare(arguments: argparse.Namespace) -> None:
    """Print PSNR and SSIM of every method at every acceleration, and its seconds."""
    solvers = methods(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    cells: dict[str, list[str]] = {name: [] for name in (*solvers, BART)}
    for acceleration in arguments.accelerations:
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name in solvers}
        bart = []
        for scan in scans(arguments, acceleration, arguments.noise[0]):
            for name, solve in solvers.items():
                before = time.perf_counter()
                image = solve(scan.problem)
                seconds[name].append(time.perf_counter() - before)
                scored = score(np.abs(image), scan.truth)
                scores[name].append((scored.psnr, scored.ssim))
            if bart_version() is not None:
                bart.append(bart_psnr(scan))
        for name, values in scores.items():
            psnr, ssim = np.mean(values, axis=0)
            cells[name].append(f"{psnr:.2f} / {ssim:.3f}")
        cells[BART].append(f"{np.mean(bart):.2f}" if bart else "not installed")
    heads = " | ".join(f"R = {each:g}" for each in arguments.accelerations)
    print(f"| PSNR (dB) / SSIM | {heads} | seconds | of {BASE} |")
    print(f"|{'---|' * (len(arguments.accelerations) + 3)}")
    of_base = seconds[BASE]
    for name, row in cells.items():
        if name == BART:
            print(f"| {name} | {' | '.join(row)} | | |")
            continue
        ratio = statistics.median(mine / base for mine, base in zip(seconds[name], of_base, strict=True))
        print(f"| {name} | {' | '.join(row)} | {statistics.median(seconds[name]):.3f} | {ratio:.3f} |")


def weigh(arguments: argparse.Namespace) -> None:
    """Print the PSNR of L1-wavelet by its weight, and what the default weight loses."""
    print(f"| R, noise | {' | '.join(f'{weight:g}' for weight in WEIGHTS)} |\n|{'---|' * (len(WEIGHTS) + 1)}")
    losses = []
    for acceleration in arguments.accelerations:
        for noise in arguments.noise:
            rows = [
                [
                    score(np.abs(l1_wavelet(scan.problem, weight * scan.problem.noise)), scan.truth).psnr
                    for weight in WEIGHTS
                ]
                for scan in scans(arguments, acceleration, noise)
            ]
            losses += [max(row) - row[WEIGHTS.index(L1_WEIGHT)] for row in rows]
            means = " | ".join(f"{mean:.2f}" for mean in np.mean(rows, axis=0))
            print(f"| {acceleration:g}, {noise:g} | {means} |", flush=True)
    print(
        f"\n{L1_WEIGHT:g} loses {np.mean(losses):.2f} dB against each slice's best, at most {max(losses):.2f}"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("volumes", nargs="*", metavar="VOLUME:PLANE:SLICE")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=4, help="synthetic ones, without a volume")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.01], help="more than one with --weights")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[4, 6])
    parser.add_argument("--maps", choices=("estimated", "true"), default="estimated")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", action="store_true")
    arguments = parser.parse_args()
    (weigh if arguments.weights else compare)(arguments)


if __name__ == "__main__":
    main()

"""How good images along a trajectory are: python benchmarks/noncartesian.py [--slices 4] [--matrix 128].

Synthetic brains that the demo model's training did not see, 8 coils, noise of 1 % on the grid, 34
golden-angle spokes; coil maps are estimated from the samples and given to every method alike. BART's pics has
the weight of a grid that is best on two slices of their own. Then the operator's time, and what a fully
sampled scan gives against the same scan on a grid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from sbim_deploy.experiment.peers import bart_version, pics
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.noncartesian import NonCartesianSense
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.trajectories import (
    TRAJECTORIES,
    full_readouts,
    make_trajectory,
    sample_areas,
)
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import (
    SimulateSettings,
    Truth,
    object_magnitude,
    sample_along,
    simulate_truth,
)
from sbim_deploy.samplers.presets import find_preset

TUNING_SLICES = (12, 13)
WEIGHTS = (1e-4, 2e-4, 3e-4, 4e-4, 6e-4, 1e-3, 2e-3, 4e-3)
ITERATIONS = 200
SEED = 7

Method = Callable[[SliceProblem], ComplexArray]


def truth_of(settings: SimulateSettings, index: int) -> Truth:
    return simulate_truth(object_magnitude(settings, index), settings, index)


def scan(
    settings: SimulateSettings, places: FloatArray, index: int, maps: str
) -> tuple[SliceProblem, FloatArray]:
    """Return a slice along a trajectory, and its truth."""
    truth = truth_of(settings, index)
    kspace = sample_along(truth, places, settings.noise)
    shape = (settings.size, settings.size)
    given = truth.maps if maps == "true" else None
    problem = prepare_trajectory_slice(kspace, places, shape, index, given)
    return problem, np.abs(truth.reference)


def bart_l1(weight: float) -> Method:
    return lambda problem: pics(problem, ("-l1", "-e", "-i", str(ITERATIONS), "-r", f"{weight:g}"))


def tuned_bart(scans: list[tuple[SliceProblem, FloatArray]]) -> float:
    mean = {
        weight: np.mean([score(np.abs(bart_l1(weight)(problem)), truth).psnr for problem, truth in scans])
        for weight in WEIGHTS
    }
    print("bart pics -l1 by weight:", {f"{weight:g}": round(float(db), 2) for weight, db in mean.items()})
    return max(mean, key=mean.__getitem__)


def methods(threads: int) -> dict[str, Method]:
    def classical(method: Classical) -> Method:
        return lambda problem: classical_image(problem, method)[0]

    def sampler(preset: str) -> Method:
        choice = find_preset(preset).choice
        run = Reconstructor(load_model("demo"), choice, seed=SEED, graph="score", threads=threads)
        return lambda problem: run([problem])[0].image

    named = {str(each): classical(each) for each in Classical}
    return named | {preset: sampler(preset) for preset in ("fast", "balanced")}


def compare(
    settings: SimulateSettings, n_slices: int, n_readouts: int, kind: str, maps: str, threads: int
) -> None:
    places = make_trajectory(kind, settings.size, n_readouts)
    print(
        f"{kind}, {n_readouts} readouts of {places.shape[1]}, {settings.size} x {settings.size}, maps {maps}"
    )
    chosen = methods(threads)
    if bart_version():
        weight = tuned_bart([scan(settings, places, index, maps) for index in TUNING_SLICES])
        chosen[f"bart pics -l1 -r {weight:g}"] = bart_l1(weight)
    scans = [scan(settings, places, index, maps) for index in range(n_slices)]
    print(f"{'':24}{'PSNR':>7}{'least':>7}{'SSIM':>8}{'s/slice':>9}")
    for name, method in chosen.items():
        before = time.perf_counter()
        images = [np.abs(method(problem)) for problem, _ in scans]
        seconds = (time.perf_counter() - before) / n_slices
        scores = [score(image, truth) for image, (_, truth) in zip(images, scans, strict=True)]
        decibels = [each.psnr for each in scores]
        ssim = np.mean([each.ssim for each in scores])
        print(f"{name:24}{np.mean(decibels):7.2f}{min(decibels):7.2f}{ssim:8.4f}{seconds:9.1f}", flush=True)


def full_against_cartesian(settings: SimulateSettings) -> None:
    """Print how far CG-SENSE of a full scan without noise is from that of the same scan on a grid."""
    truth = truth_of(settings, 0)
    shape = (settings.size, settings.size)
    on_grid = prepare_slice(centred_fft(truth.maps * truth.reference), maps=truth.maps, noise=1e-4)
    expected, _ = classical_image(on_grid, Classical.CG_SENSE)
    for kind in TRAJECTORIES:
        places = make_trajectory(kind, settings.size, 2 * full_readouts(kind, settings.size))
        samples = to_samples(truth.maps * truth.reference, places).astype(np.complex64)
        problem = prepare_trajectory_slice(samples, places, shape, 0, truth.maps, 1e-4)
        image, _ = classical_image(problem, Classical.CG_SENSE)
        # The corners of k-space are on the grid and on no trajectory here.
        inside = (
            np.hypot(*np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")) < shape[0] / 2 - 2
        )
        spectra = [centred_fft(each) * inside for each in (image, expected)]
        off = np.linalg.norm(spectra[0] - spectra[1]) / np.linalg.norm(spectra[1])
        print(f"fully sampled, {kind}: {off:.1e} off the grid's image, where both measured")


def time_operator(settings: SimulateSettings, n_readouts: int) -> None:
    shape = (settings.size, settings.size)
    places = make_trajectory("golden", settings.size, n_readouts)
    before = time.perf_counter()
    areas = sample_areas(places, np.ones((n_readouts, 1), np.bool_), shape)
    weighed = time.perf_counter()
    operator = NonCartesianSense(truth_of(settings, 0).maps, areas, places)
    made = time.perf_counter()
    image = np.ones(shape, np.complex64)
    took = {}
    for name, call in (
        ("A^H A by Toeplitz embedding", lambda: operator.normal(image)),
        ("A^H A by finufft", lambda: operator.adjoint(operator.forward(image))),
    ):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        took[name] = 1000 * float(np.median(times))
    print(f"areas {weighed - before:.2f} s, spectrum {1000 * (made - weighed):.0f} ms, once a trajectory")
    print(", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in took.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--matrix", type=int, default=128)
    parser.add_argument("--readouts", type=int, default=34)
    parser.add_argument("--trajectory", choices=TRAJECTORIES, default="golden")
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--maps", choices=("estimated", "true"), default="estimated")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    settings = SimulateSettings(size=given.matrix, noise=given.noise, seed=SEED)
    time_operator(settings, given.readouts)
    full_against_cartesian(settings)
    compare(settings, given.slices, given.readouts, given.trajectory, given.maps, given.threads)


if __name__ == "__main__":
    main()

"""Every sampler and BART's L1-wavelet on the same simulated scan, with the same maps: docs/results.md.

    python benchmarks/samplers.py [--acceleration 4] [--slices 8] [--samplers dds sbim ...] [--true-maps]

The scan is that of `sbim-deploy simulate`, the maps are estimated from its calibration lines unless asked
otherwise. Needs the extra cpu, and BART on the PATH for its row.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import astuple

import numpy as np

from sbim_deploy.experiment.bart import bart_version, pics
from sbim_deploy.mri.masks import effective_acceleration, line_mask
from sbim_deploy.recon.evaluate import Scores, score
from sbim_deploy.recon.model import load_model
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.simulate import SimulateSettings, simulate_slice
from sbim_deploy.samplers.choice import SAMPLERS, SamplerChoice

L1_WAVELET = ("-l1", "-r", "0.003")


def report(
    name: str, n_calls: int | None, reconstruct: Callable[[SliceProblem], np.ndarray], cases: list
) -> None:
    """Print a row of the table: the mean scores and the seconds a slice."""
    before = time.perf_counter()
    images = [np.abs(reconstruct(problem)) for problem, _ in cases]
    seconds = (time.perf_counter() - before) / len(cases)
    scores = [score(image, reference) for image, (_, reference) in zip(images, cases, strict=True)]
    mean = Scores(*np.mean([astuple(each) for each in scores], axis=0).tolist())
    calls = "" if n_calls is None else str(n_calls)
    cells = (name, calls, f"{mean.psnr:.2f}", f"{mean.ssim:.3f}", f"{mean.nrmse:.3f}", f"{seconds:.2f}")
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--acceleration", type=float, default=4)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--true-maps", action="store_true", help="the simulated maps, not the estimated ones")
    arguments = parser.parse_args()

    settings = SimulateSettings(
        arguments.slices, arguments.coils, arguments.size, arguments.acceleration, noise=arguments.noise
    )
    mask = line_mask(settings.size, settings.acceleration)
    cases = []
    for index in range(settings.n_slices):
        simulated = simulate_slice(settings, mask, index)
        maps = simulated.maps if arguments.true_maps else None
        cases.append((prepare_slice(simulated.kspace, index, maps=maps), np.abs(simulated.reference)))
    print(f"R = {settings.acceleration:g} ({effective_acceleration(mask):.2f} effective), {settings}\n")
    print("| sampler | network calls | PSNR (dB) | SSIM | NRMSE | s a slice |\n|---|---|---|---|---|---|")
    report("zero-filled", None, lambda problem: problem.mvue, cases)
    if bart_version():
        name = f"BART `pics -S {' '.join(L1_WAVELET)}`"
        report(name, None, lambda problem: pics(problem, L1_WAVELET, os.cpu_count() or 1), cases)
    else:
        print("BART is not installed: its row is left out")
    model = load_model(arguments.model)
    for name in arguments.samplers:
        reconstructor = Reconstructor(model, SamplerChoice(name))
        n_calls = len(reconstructor.plan.rows)
        report(f"`{name}`", n_calls, lambda problem, r=reconstructor: r([problem])[0].image, cases)


if __name__ == "__main__":
    main()

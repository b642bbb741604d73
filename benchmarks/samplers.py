"""Every sampler and BART's L1-wavelet on the same simulated scan, with the same maps: docs/results.md.

    python benchmarks/samplers.py [--acceleration 4] [--slices 8] [--samplers dds sbim ...] [--true-maps]

The scan is that of `sbim-deploy simulate`, the maps are estimated from its calibration lines unless asked
otherwise. Needs the extra cpu, and BART on the PATH for its row.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np

from sbim_deploy.mri.masks import effective_acceleration, line_mask
from sbim_deploy.recon.evaluate import Scores, score
from sbim_deploy.recon.model import load_model
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.simulate import SimulateSettings, simulate_slice
from sbim_deploy.samplers.choice import SAMPLERS, SamplerChoice

L1_WAVELET = ("pics", "-S", "-l1", "-r", "0.003")


def bart_pics(problem: SliceProblem) -> np.ndarray:
    """Return BART's L1-wavelet reconstruction (rows, columns) with the problem's maps."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        names = {name: str(Path(folder) / name) for name in ("kspace", "maps", "image")}
        write_cfl(names["kspace"], problem.kspace)
        write_cfl(names["maps"], problem.maps)
        command = ["bart", *L1_WAVELET, names["kspace"], names["maps"], names["image"]]
        subprocess.run(command, check=True, capture_output=True)
        data = np.fromfile(names["image"] + ".cfl", dtype=np.complex64)
    return data.reshape(problem.mvue.shape, order="F")


def write_cfl(name: str, coils: np.ndarray) -> None:
    """Write (coil, rows, columns) with BART's dimensions: read, phase, slice, coil, first one fastest."""
    stored = np.moveaxis(coils, 0, -1)[:, :, None, :]
    Path(name + ".hdr").write_text("# Dimensions\n" + " ".join(map(str, stored.shape)) + "\n")
    stored.astype(np.complex64).ravel(order="F").tofile(name + ".cfl")


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
    if shutil.which("bart"):
        report("BART `" + " ".join(L1_WAVELET) + "`", None, bart_pics, cases)
    else:
        print("BART is not installed: its row is left out")
    model = load_model(arguments.model)
    for name in arguments.samplers:
        reconstructor = Reconstructor(model, SamplerChoice(name))
        n_calls = len(reconstructor.plan.rows)
        report(f"`{name}`", n_calls, lambda problem, r=reconstructor: r([problem])[0].image, cases)


if __name__ == "__main__":
    main()

"""What each way of the thesis's public code costs against what is done by default: docs/samplers.md.

    python benchmarks/published.py [--slices 2] [--model demo] [--raw MODEL] [--levels published]

Slices are those of `sbim-deploy simulate`, 128 x 128, 8 coils, with their own coil maps; figures are dB of
PSNR, means over slices. RAW is the same network exported with `--raw`. `--levels published` lays the steps on
the thesis's 2311 levels instead of the model's. Needs the extra cpu.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from sbim_deploy.errors import InputError, SamplingError
from sbim_deploy.models.folder import NoiseLevels, load_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice
from sbim_deploy.samplers.choice import SamplerChoice

ACCELERATIONS = (2, 4, 6, 8)
PUBLISHED_LEVELS = NoiseLevels(232, 0.0066, 2311)
SBIM = SamplerChoice("sbim", steps=32)
CORRECTED = SamplerChoice("sbim-ld", steps=64, corrector_steps=3)
TO_ZERO = {"published": True, "denoising": "prior", "corrector_step_from": "own"}
SBIM_ROW, CORRECTED_ROW = "`sbim` 32", "`sbim-ld` 64 x 3"
WAYS = {
    SBIM_ROW: (SBIM, "centred"),
    "guided last denoising": (replace(SBIM, denoising="guided"), "centred"),
    "last predictor to 0": (replace(SBIM, published=True, denoising="prior"), "centred"),
    "`--published`": (replace(SBIM, published=True), "centred"),
    "published masks": (SBIM, "published"),
    "`--guidance likelihood`": (replace(SBIM, guidance="likelihood"), "centred"),
    "`--guidance clean-likelihood` (p. 67)": (replace(SBIM, guidance="clean-likelihood"), "centred"),
    CORRECTED_ROW: (CORRECTED, "centred"),
    "corrector step of the previous level": (replace(CORRECTED, corrector_step_from="previous"), "centred"),
    "guided last denoising ": (replace(CORRECTED, denoising="guided"), "centred"),
    "last predictor to 0 ": (replace(CORRECTED, **TO_ZERO), "centred"),
    "`--published` ": (replace(CORRECTED, published=True), "centred"),
    "`sbim-ld` 32 x 2": (SamplerChoice("sbim-ld", steps=32), "centred"),
}


Case = tuple[np.ndarray, SliceProblem]


def cases(n_slices: int, acceleration: float, convention: str) -> list[Case]:
    """Return the reference magnitude and the problem of every slice."""
    settings = SimulateSettings(n_slices, acceleration=1)
    everything = np.ones(settings.size, dtype=np.bool_)
    mask = line_mask(settings.size, acceleration, convention=convention)
    made = []
    for index in range(n_slices):
        scan = simulate_slice(settings, everything, index)
        assert scan.reference is not None
        problem = prepare_slice(scan.kspace * mask, index, mask, scan.maps)
        made.append((np.abs(scan.reference), problem))
    return made


def mean_psnr(reconstruct: Reconstructor, slices: list[Case]) -> str:
    """Return the mean PSNR as text, or that a slice diverged."""
    try:
        images = [np.abs(reconstruct([problem])[0].image) for _, problem in slices]
    except SamplingError:
        return "diverges"
    scores = [score(image, truth).psnr for image, (truth, _) in zip(images, slices, strict=True)]
    return f"{np.mean(scores):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--raw")
    parser.add_argument("--levels", choices=("model", "published"), default="model")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    rows = [(name, arguments.model, *way) for name, way in WAYS.items()]
    if arguments.raw is not None:
        rows += [("raw weights, " + name, arguments.raw, *WAYS[name]) for name in (SBIM_ROW, CORRECTED_ROW)]
    print("| | " + " | ".join(f"R = {value}" for value in ACCELERATIONS) + " |")
    print("|---" * (len(ACCELERATIONS) + 1) + "|")
    for name, path, choice, convention in rows:
        model = load_model(path)
        if arguments.levels == "published":
            model = replace(model, manifest=replace(model.manifest, noise_levels=PUBLISHED_LEVELS))
        try:
            reconstruct = Reconstructor(model, choice, threads=arguments.threads)
            cells = [mean_psnr(reconstruct, cases(arguments.slices, r, convention)) for r in ACCELERATIONS]
        except InputError as error:
            cells = [str(error), *[""] * (len(ACCELERATIONS) - 1)]
        print(f"| {name.strip()} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

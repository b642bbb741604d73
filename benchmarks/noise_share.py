"""How much of each level's noise `dds` should add again: docs/samplers.md, "The share of noise".

    python benchmarks/noise_share.py HEAD [HEAD ...] [--model demo] [--size 128] [--fractions 0.5]

HEAD is a volume (NIfTI, or .npz with `vol`), or `labels:PATH` for a label map with FreeSurfer's values. Coils
are eight loops, maps are estimated and noise is measured. Figures are PSNR in dB and SSIM, means over slices.
Needs the extras cpu and nifti, and train for label maps.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from real_scans import head_images
from sbim_deploy.models.folder import load_model, sampling_prior
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from sbim_deploy.samplers.presets import PRESETS
from search_presets import Case, scan_cases

ACCELERATIONS = (4, 6)
SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
NAMES = ("fast", "balanced")


def main() -> None:
    """Print a table with a row for each share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.5])
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    cases: dict[int, list[Case]] = {acceleration: [] for acceleration in ACCELERATIONS}
    for _, image, rng in head_images(arguments.heads, arguments.fractions, arguments.size):
        for acceleration, case in zip(
            ACCELERATIONS, scan_cases(image, rng, [arguments.noise], ACCELERATIONS), strict=True
        ):
            cases[acceleration].append(case)
    model = load_model(arguments.model)
    reconstructor = Reconstructor(model, SamplerChoice("dds"), threads=arguments.threads)
    titles = [f"`{name}`, R = {acceleration}" for name in NAMES for acceleration in ACCELERATIONS]
    print(f"| eta | {' | '.join(titles)} |\n{'|---' * (1 + len(titles))}|")
    for share in SHARES:
        cells = []
        for name in NAMES:
            choice = replace(PRESETS[name].choice, eta=share)
            reconstructor.plan = make_plan(choice, sampling_prior(model.manifest))
            for acceleration in ACCELERATIONS:
                scores = [
                    score(np.abs(reconstructor([problem])[0].image), truth)
                    for truth, problem in cases[acceleration]
                ]
                psnr, ssim = np.mean([(each.psnr, each.ssim) for each in scores], axis=0)
                cells.append(f"{psnr:.2f} / {ssim:.3f}")
        print(f"| {share:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

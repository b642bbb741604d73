"""How much priors gain on L1-wavelet on real anatomy: docs/results.md, "Real anatomy".

    python benchmarks/real_anatomy.py HEAD [HEAD ...] [--model NAME=FOLDER ...] [--size 256] [--coils 8 16]

HEAD is a volume (NIfTI, or .npz with `vol`), or `labels:PATH` for a label map with FreeSurfer's values, of
which slices of random contrast are drawn. Maps come from 24 calibration lines and noise is measured, as
`recon` does; L1-wavelet has the same maps and the weight of a grid that is best by the truth of each row's
scans. Priors are sampled by the preset `balanced`. Noise is 0.01 of the image's 99th percentile.
Figures are dB of PSNR, means over the scans. Needs the extras cpu, nifti and train.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from real_scans import coil_maps, head_images, with_noise
from sbim_deploy import load_model
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.classical import l1_wavelet
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.runs.evaluate import score

ACCELERATIONS = (4, 6, 8)
LINES = 24
NOISE = 0.01
# In units of the noise of a part of k-space.
WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.8)
L1_STEPS = 100
DEMO = "demo"


def main() -> None:
    """Print a row for each head, number of coils and acceleration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--model", nargs="+", default=[f"{DEMO}={DEMO}"], metavar="NAME=FOLDER")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--coils", type=int, nargs="+", default=[8, 16])
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.5, 0.6], help="heights of the slices"
    )
    arguments = parser.parse_args()
    models = {}
    for given in arguments.model:
        name, _, folder = given.partition("=")
        models[name] = load_model(folder)
    rows: dict[tuple[str, int, int], list[dict[str, float]]] = {}
    for head, image, rng in head_images(arguments.heads, arguments.fractions, arguments.size):
        for n_coils in arguments.coils:
            maps = coil_maps("loops", n_coils, image.shape, rng)
            kspace = with_noise(centred_fft((maps * image).astype(np.complex64)), NOISE, rng)
            for acceleration in ACCELERATIONS:
                mask = line_mask(arguments.size, acceleration, calib_width=LINES)
                problem = prepare_slice(kspace * mask, mask=mask)
                found = {
                    f"l1 {weight:g}": score(
                        np.abs(l1_wavelet(problem, weight * problem.noise, L1_STEPS)), np.abs(image)
                    ).psnr
                    for weight in WEIGHTS
                }
                for name, model in models.items():
                    result = model.reconstruct(kspace * mask, mask=mask)
                    found[name] = score(np.abs(result.image), np.abs(image)).psnr
                rows.setdefault((head, n_coils, acceleration), []).append(found)
                sys.stderr.write(f"{head}, {n_coils} coils, R = {acceleration}: {found}\n")
    print_table(rows, list(models), arguments)


def print_table(
    rows: dict[tuple[str, int, int], list[dict[str, float]]], names: list[str], arguments: argparse.Namespace
) -> None:
    """Print the means of rows, and of all."""
    print(f"| {arguments.size} x {arguments.size} | coils | R | L1-wavelet | {' | '.join(names)} |", end="")
    print(f" {' | '.join(f'{name} - L1' for name in names)} |")
    print("|---" * (4 + 2 * len(names)) + "|")
    lines = []
    for (head, n_coils, acceleration), scans in rows.items():
        means = {name: float(np.mean([scan[name] for scan in scans])) for name in scans[0]}
        best = max(value for name, value in means.items() if name.startswith("l1 "))
        lines.append([best, *(means[name] for name in names), *(means[name] - best for name in names)])
        print(f"| {head} | {n_coils} | {acceleration} | {' | '.join(f'{x:.1f}' for x in lines[-1])} |")
    print(f"| mean | | | {' | '.join(f'{x:.2f}' for x in np.mean(lines, axis=0))} |")


if __name__ == "__main__":
    main()

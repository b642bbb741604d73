"""Search the numbers of the default sampler, one at a time, on slices made for it alone.

    python benchmarks/search_dds.py [--model demo] [--slices 6] [--calls 32]

The slices come from the training generator, from seeds that neither training nor any test uses. Each round
tries the neighbours of every number, keeps what raises PSNR (dB) + 40 SSIM, the mean over R = 4 and R = 6,
and stops when nothing does: PSNR alone ends in noisy images. Needs the extras cpu and train.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace

import numpy as np

from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import smooth_phase
from sbim_deploy.recon.evaluate import score
from sbim_deploy.recon.model import load_model
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.samplers import plans
from sbim_deploy.samplers.schedules import geometric
from sbim_deploy.training.brains import held_out_slice
from sbim_deploy.training.tissues import load_tissues

FIRST_TUNING_SLICE = 1000
SIZE, N_COILS, NOISE = 128, 8, 0.01
ACCELERATIONS = (4, 6)


@dataclass(frozen=True)
class Numbers:
    """What is searched."""

    start_sigma: float = 0.3
    end_sigma: float = 0.01
    gamma: float = 0.0
    noise_weight: float = 1.0
    n_cg: int = 5
    eta: float = 1.0


NEIGHBOURS = {
    "start_sigma": (0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
    "end_sigma": (0.01, 0.014, 0.02),
    "gamma": (0.0, 0.01, 0.03),
    "noise_weight": (0.3, 0.5, 0.7, 1.0, 1.5),
    "n_cg": (3, 4, 5, 6, 8, 12),
    "eta": (0.7, 0.85, 0.95, 1.0),
}

Case = tuple[np.ndarray, SliceProblem]


def tuning_cases(n_slices: int) -> list[Case]:
    """Return (reference magnitude, problem) of every slice at every acceleration."""
    tissues, shape = load_tissues(), (SIZE, SIZE)
    maps = birdcage_maps(N_COILS, shape)
    cases = []
    for index in range(FIRST_TUNING_SLICE, FIRST_TUNING_SLICE + n_slices):
        rng = np.random.default_rng(index)
        magnitude = np.abs(held_out_slice(tissues, index, SIZE))
        kspace = centred_fft(maps * (magnitude / np.percentile(magnitude, 99) * smooth_phase(shape, rng)))
        noise = rng.standard_normal((*kspace.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        noisy = (kspace + NOISE * noise).astype(np.complex64)
        reference = magnitude / np.percentile(magnitude, 99)
        masks = (line_mask(SIZE, acceleration) for acceleration in ACCELERATIONS)
        cases += [(reference, prepare_slice(noisy * mask, index)) for mask in masks]
    return cases


def mean_scores(
    reconstructor: Reconstructor, numbers: Numbers, n_calls: int, cases: list[Case]
) -> np.ndarray:
    """Return the mean PSNR and SSIM."""
    sigmas = geometric(numbers.start_sigma, numbers.end_sigma, n_calls)
    reconstructor.plan = plans.dds(sigmas, numbers.gamma, numbers.noise_weight, numbers.n_cg, numbers.eta)
    scores = [score(np.abs(reconstructor([problem])[0].image), reference) for reference, problem in cases]
    return np.mean([(each.psnr, each.ssim) for each in scores], axis=0)


def merit(scores: np.ndarray) -> float:
    """Return what is raised: 1 dB is worth 0.025 SSIM."""
    return float(scores[0] + 40 * scores[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--calls", type=int, default=32)
    arguments = parser.parse_args()
    cases = tuning_cases(arguments.slices)
    reconstructor = Reconstructor(load_model(arguments.model))
    best = Numbers()
    seen = {best: mean_scores(reconstructor, best, arguments.calls, cases)}
    print(f"PSNR {seen[best][0]:.2f}  SSIM {seen[best][1]:.4f}  {asdict(best)}", flush=True)
    improved = True
    while improved:
        improved = False
        for name, values in NEIGHBOURS.items():
            at = values.index(getattr(best, name))
            for value in values[max(at - 1, 0) : at + 2]:
                candidate = replace(best, **{name: value})
                if candidate not in seen:
                    seen[candidate] = mean_scores(reconstructor, candidate, arguments.calls, cases)
                    print(
                        f"  {name} {value:g}: {seen[candidate][0]:.2f} {seen[candidate][1]:.4f}", flush=True
                    )
                if merit(seen[candidate]) > merit(seen[best]) + 0.01:
                    best, improved = candidate, True
        print(f"PSNR {seen[best][0]:.2f}  SSIM {seen[best][1]:.4f}  {asdict(best)}", flush=True)


if __name__ == "__main__":
    main()

"""Search the numbers of a preset: the best image for a budget of network calls.

    python benchmarks/search_presets.py HEAD [HEAD ...] --calls 32 [--family dds] [--model demo]

HEAD is a volume (NIfTI, or .npz with `vol`), or `labels:PATH` for a label map with FreeSurfer's values; none
of them may be one that a table in docs is made of. Coils are loops, maps are estimated from the calibration
lines and noise is measured, at each size and each level of noise. Each round tries the neighbours of every
number, keeps what raises PSNR (dB) + 40 SSIM, the mean over slices and accelerations, and stops when nothing
does: PSNR alone ends in noisy images. With ``--numbers`` it tries these alone, each a JSON object such as
'{"start": "l1-wavelet", "start_sigma": 0.2, "schedule": "karras", "prior_weight": 0.7, "eta": 0}'.
Families: `dds`, and the guided samplers `ddim` and `sbim-ld`, whose corrector
steps count as calls. Needs the extras cpu and nifti, and train for label maps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from real_scans import coil_maps, head_images, with_noise
from sbim_deploy.models.folder import load_model, sampling_prior
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.evaluate import score
from sbim_deploy.samplers.choice import SamplerChoice, make_plan

N_COILS = 8
ACCELERATIONS = (2, 4, 6, 8)
SIGMAS = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0)


@dataclass(frozen=True)
class Numbers:
    """What is searched; ``samples`` share the budget, ``langevin_step`` is in units of sigma^2."""

    samples: int = 1
    start_sigma: float = 0.3
    schedule: str = "geometric"
    prior_weight: float | None = None
    guidance: str | None = None
    data_weight: float | None = None
    corrector_steps: int | None = None
    langevin_step: float | None = None
    start: str | None = None
    eta: float | None = None


FAMILIES = {
    "dds": (
        Numbers(prior_weight=0.5, eta=0.2),
        {
            "start": (None, "l1-wavelet"),
            "eta": (0.0, 0.1, 0.2, 0.4, 0.6, 1.0),
            "samples": (1, 2, 3, 4),
            "start_sigma": SIGMAS,
            "schedule": ("geometric", "karras"),
            "prior_weight": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.5, 2.0),
        },
    ),
    "ddim": (
        Numbers(guidance="likelihood", data_weight=1.0),
        {
            "start_sigma": SIGMAS,
            "schedule": ("geometric", "karras"),
            "guidance": ("norm-matched", "likelihood"),
            "data_weight": (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0),
        },
    ),
    "sbim-ld": (
        Numbers(guidance="likelihood", data_weight=1.0, corrector_steps=1, langevin_step=0.5),
        {
            "start_sigma": SIGMAS,
            "schedule": ("geometric", "karras"),
            "guidance": ("norm-matched", "likelihood"),
            "data_weight": (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0),
            "corrector_steps": (1, 2, 4),
            "langevin_step": (0.06, 0.12, 0.25, 0.5, 1.0),
        },
    ),
}

Case = tuple[np.ndarray, SliceProblem]


def scan_cases(
    image: np.ndarray, rng: np.random.Generator, noises: Sequence[float], accelerations: Sequence[int]
) -> list[Case]:
    """Return a slice's scans at every noise and acceleration, in that order."""
    maps = coil_maps("loops", N_COILS, image.shape, rng)
    kspace = centred_fft((maps * image).astype(np.complex64))
    cases = []
    for noise in noises:
        noisy = with_noise(kspace, noise, rng)
        for acceleration in accelerations:
            problem = prepare_slice(noisy * line_mask(image.shape[1], acceleration))
            cases.append((np.abs(image), problem))
    return cases


def tuning_cases(
    heads: list[str],
    fractions: list[float],
    sizes: list[int],
    noises: list[float],
    accelerations: Sequence[int],
) -> list[Case]:
    """Return (reference magnitude, problem) of every slice at every size, noise and acceleration."""
    return [
        case
        for size in sizes
        for _, image, rng in head_images(heads, fractions, size)
        for case in scan_cases(image, rng, noises, accelerations)
    ]


def choice_of(family: str, numbers: Numbers, n_calls: int) -> SamplerChoice:
    """Return the sampler whose samples take at most ``n_calls`` network calls together."""
    given = {name: value for name, value in asdict(numbers).items() if name != "samples"}
    each = n_calls // numbers.samples
    # The guided samplers end with a denoising call.
    steps = each if family == "dds" else (each - 1) // (1 + (numbers.corrector_steps or 0))
    return SamplerChoice(family, steps, **given)


def mean_scores(
    reconstructor: Reconstructor, family: str, numbers: Numbers, n_calls: int, cases: list[Case]
) -> np.ndarray:
    """Return the mean PSNR and SSIM."""
    prior = sampling_prior(reconstructor.model.manifest)
    reconstructor.plan = make_plan(choice_of(family, numbers, n_calls), prior)
    reconstructor.samples = numbers.samples
    scores = [score(np.abs(reconstructor([problem])[0].image), reference) for reference, problem in cases]
    return np.mean([(each.psnr, each.ssim) for each in scores], axis=0)


def merit(scores: np.ndarray) -> float:
    """Return what is raised: 1 dB is worth 0.025 SSIM."""
    return float(scores[0] + 40 * scores[1])


def told(numbers: Numbers) -> str:
    """Return the numbers that the family has."""
    given = {field.name: getattr(numbers, field.name) for field in fields(numbers)}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def search(family: str, n_calls: int, cases: list[Case], reconstructor: Reconstructor) -> None:
    best, neighbours = FAMILIES[family]
    seen = {best: mean_scores(reconstructor, family, best, n_calls, cases)}
    improved = True
    while improved:
        print(f"PSNR {seen[best][0]:.2f}  SSIM {seen[best][1]:.4f}  {told(best)}", flush=True)
        improved = False
        for name, values in neighbours.items():
            at = values.index(getattr(best, name))
            for value in values[max(at - 1, 0) : at + 2]:
                candidate = replace(best, **{name: value})
                if candidate not in seen:
                    seen[candidate] = mean_scores(reconstructor, family, candidate, n_calls, cases)
                    got = seen[candidate]
                    print(f"  {name} {value}: {got[0]:.2f} {got[1]:.4f}", flush=True)
                if merit(seen[candidate]) > merit(seen[best]) + 0.01:
                    best, improved = candidate, True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--calls", type=int, default=32)
    parser.add_argument("--family", choices=list(FAMILIES), default="dds")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.5])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--noises", type=float, nargs="+", default=[0.005, 0.01, 0.03])
    parser.add_argument("--accelerations", type=int, nargs="+", default=list(ACCELERATIONS))
    parser.add_argument("--numbers", type=json.loads, nargs="+", default=[], metavar="JSON")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", help="fp32, bf16 or auto, of OpenVINO's convolutions")
    arguments = parser.parse_args()
    choice = choice_of(arguments.family, FAMILIES[arguments.family][0], arguments.calls)
    reconstructor = Reconstructor(
        load_model(arguments.model), choice, threads=arguments.threads, precision=arguments.precision
    )
    cases = tuning_cases(
        arguments.heads, arguments.fractions, arguments.sizes, arguments.noises, arguments.accelerations
    )
    for given in arguments.numbers:
        numbers = Numbers(**given)
        psnr, ssim = mean_scores(reconstructor, arguments.family, numbers, arguments.calls, cases)
        print(f"PSNR {psnr:.2f}  SSIM {ssim:.4f}  {told(numbers)}", flush=True)
    if not arguments.numbers:
        search(arguments.family, arguments.calls, cases, reconstructor)


if __name__ == "__main__":
    main()

"""What averaging samples gains, and what their standard deviation tells: docs/results.md, "Uncertainty".

    python benchmarks/uncertainty.py HEAD [HEAD ...] [--samples 8] [--samplers dds daps] [--model demo]

HEAD is a volume (NIfTI, or .npz with `vol`) or `synthetic`. Slices are scanned by eight coils with noise of
0.01, and reconstructed with the maps and the noise that `recon` measures, the maps from 24 calibration lines.
The truth has the phase that a scan without noise has with those maps, so that errors are complex: two
standard deviations of the true posterior cover 0.924 of them with 8 samples, and 0.982 with very many. The
last column is what they cover where only the samples and the last step's Gaussian problem count. Needs the
extras cpu and nifti.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from real_scans import coil_maps, full_kspace, head_slice
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.fourier import centred_ifft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.grid import stack_slices
from sbim_deploy.recon.prepare import SliceProblem, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction
from sbim_deploy.recon.uncertainty import conditional_variance
from sbim_deploy.runs.coverage import OBJECT_FRACTION
from sbim_deploy.runs.evaluate import score
from sbim_deploy.samplers.choice import SAMPLERS, SamplerChoice

N_COILS, NOISE, CALIBRATION_LINES = 8, 0.01, 24
COLUMNS = (
    "head",
    "R",
    "sampler",
    "calls",
    "one sample: PSNR (dB)",
    "mean: PSNR",
    "within 1 sd",
    "within 2 sd",
    "of magnitudes",
    "correlation",
    "model error",
    "2 sd of samples alone",
)
DIGITS = (2, 2, 3, 3, 3, 2, 3, 3)


def scan(head: str, fraction: float, acceleration: float, size: int) -> tuple[SliceProblem, np.ndarray]:
    """Return a slice, ready to be reconstructed, and its truth with the phase of the estimated maps."""
    seed = [int(1000 * fraction), int(10 * acceleration)]
    magnitude = head_slice(head, fraction, size, {})
    maps = coil_maps("birdcage", N_COILS, magnitude.shape, np.random.default_rng(seed))
    clean, noisy = (
        full_kspace(magnitude, maps, noise, np.random.default_rng(seed)) for noise in (0.0, NOISE)
    )
    mask = line_mask(size, acceleration, calib_width=CALIBRATION_LINES)
    problem = prepare_slice((noisy * mask).astype(np.complex64), 0, mask)
    phase = np.angle(np.sum(problem.maps.conj() * centred_ifft(clean), axis=0))
    return problem, magnitude * np.exp(1j * phase)


def measure(
    problem: SliceProblem, truth: np.ndarray, reconstruct: Reconstructor, one: Reconstruction
) -> np.ndarray:
    """Return the columns' numbers, from the PSNR of one sample on."""
    (result,) = reconstruct([problem])
    inside = np.abs(truth) >= OBJECT_FRACTION * np.abs(truth).max()
    error = np.abs(result.image - truth)[inside]
    of_magnitudes = np.abs(np.abs(result.image) - np.abs(truth))[inside]
    deviation = result.standard_deviation
    batch = stack_slices([problem])
    errors = np.array([result.model_error], np.float32)
    with_error, without = (
        conditional_variance(batch, reconstruct.plan, reconstruct.seed, each)[0] for each in (errors, None)
    )
    alone = np.sqrt(np.maximum(deviation**2 - with_error + without, 0))
    return np.array(
        [
            score(np.abs(one.image), np.abs(truth)).psnr,
            score(np.abs(result.image), np.abs(truth)).psnr,
            np.mean(error <= deviation[inside]),
            np.mean(error <= 2 * deviation[inside]),
            np.mean(of_magnitudes <= 2 * deviation[inside]),
            np.corrcoef(error, deviation[inside])[0, 1],
            result.model_error / problem.scale,
            np.mean(error <= 2 * alone[inside]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("heads", nargs="+")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=["dds", "daps"])
    parser.add_argument("--accelerations", type=float, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.5, 0.62], help="of a head's height")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for head in arguments.heads:
        for acceleration in arguments.accelerations:
            scans = [scan(head, each, acceleration, arguments.size) for each in arguments.fractions]
            for name in arguments.samplers:
                many, single = (
                    Reconstructor(model, SamplerChoice(name), threads=arguments.threads, samples=samples)
                    for samples in (arguments.samples, 1)
                )
                numbers = np.mean(
                    [measure(problem, truth, many, single([problem])[0]) for problem, truth in scans], axis=0
                )
                cells = [f"{each:.{digits}f}" for each, digits in zip(numbers, DIGITS, strict=True)]
                row = (Path(head).name, f"{acceleration:g}", name, str(many.n_calls), *cells)
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

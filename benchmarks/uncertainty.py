"""What averaging samples gains, and what their standard deviation tells: docs/results.md, "Uncertainty".

    python benchmarks/uncertainty.py [--samples 8] [--slices 4] [--preset balanced] [--model demo]

The scans are those of `sbim-deploy simulate`, reconstructed with their own coil maps, so that the error is
known as a complex number. For each acceleration the factor of the standard deviation is found on slices 12
and on, and the coverage counted on slices 0 and on, without the factor and with it. Needs the extra cpu.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sbim_deploy.runs.coverage import FileCoverage, measure_coverage
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file
from sbim_deploy.samplers.choice import PRESETS

FIRST_TUNING_SLICE = 12
COLUMNS = (
    "R",
    "one sample: PSNR (dB)",
    "SSIM",
    "mean: PSNR",
    "SSIM",
    "within 1 sd",
    "within 2 sd",
    "correlation",
    "factor",
    "within 2 factor sd",
)


def measured(kspace: Path, result: Path, settings: ReconSettings) -> FileCoverage:
    reconstruct_file(kspace, result, settings)
    coverage = measure_coverage(result, kspace)
    assert coverage is not None
    return coverage


def row(folder: Path, acceleration: float, arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the table's cells."""
    kspace, result = folder / "kspace.h5", folder / "result.h5"
    n = arguments.slices
    simulate_file(kspace, SimulateSettings(FIRST_TUNING_SLICE + n, acceleration=acceleration))
    choice = PRESETS[arguments.preset].choice

    def settings(first: int, samples: int, factor: float = 1.0) -> ReconSettings:
        given = {"maps": kspace, "choice": choice, "samples": samples, "slices": (first, first + n)}
        return ReconSettings(arguments.model, sd_factor=factor, **given)

    reconstruct_file(kspace, result, settings(0, 1))
    one = evaluate_file(result, kspace).mean_reconstruction
    factor = measured(kspace, result, settings(FIRST_TUNING_SLICE, arguments.samples)).sd_factor
    plain = measured(kspace, result, settings(0, arguments.samples))
    mean = evaluate_file(result, kspace).mean_reconstruction
    corrected = measured(kspace, result, settings(0, arguments.samples, factor))
    return (
        f"{acceleration:g}",
        *(f"{one.psnr:.2f}", f"{one.ssim:.3f}", f"{mean.psnr:.2f}", f"{mean.ssim:.3f}"),
        *(f"{plain.mean_coverage.within_one:.3f}", f"{plain.mean_coverage.within_two:.3f}"),
        *(f"{plain.mean_correlation:.2f}", f"{factor:.2f}", f"{corrected.mean_coverage.within_two:.3f}"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--accelerations", type=float, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--preset", choices=list(PRESETS), default="balanced")
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        for acceleration in arguments.accelerations:
            print(f"| {' | '.join(row(Path(folder), acceleration, arguments))} |", flush=True)


if __name__ == "__main__":
    main()

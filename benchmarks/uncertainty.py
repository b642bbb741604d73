"""What averaging samples gains, and what their standard deviation tells: docs/results.md, "Uncertainty".

    python benchmarks/uncertainty.py [--samples 1 2 4 8] [--slices 4] [--sampler dds] [--model demo]

The scan is that of `sbim-deploy simulate`, reconstructed with its own coil maps, so that the error is
known as a complex number. Needs the extra cpu.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sbim_deploy.recon.calibration import calibrate_file
from sbim_deploy.recon.evaluate import evaluate_file
from sbim_deploy.recon.simulate import SimulateSettings, simulate_file
from sbim_deploy.recon.volume import ReconSettings, reconstruct_file
from sbim_deploy.samplers.choice import DEFAULT_SAMPLER, SAMPLERS, SamplerChoice

COLUMNS = (
    "samples",
    "PSNR (dB)",
    "SSIM",
    "within 1 sd",
    "within 2 sd",
    "of the posterior",
    "correlation",
)


def row(kspace: Path, result: Path, settings: ReconSettings) -> tuple[str, ...]:
    """Reconstruct and return the table's cells."""
    reconstruct_file(kspace, result, settings)
    evaluation, calibration = evaluate_file(result, kspace), calibrate_file(result, kspace)
    mean = evaluation.mean_reconstruction
    cells = (str(settings.samples), f"{mean.psnr:.2f}", f"{mean.ssim:.3f}")
    if calibration is None:
        return (*cells, "", "", "", "")
    got, expected = calibration.mean_coverage, calibration.expected_coverage
    posterior = f"{expected.within_one:.3f}, {expected.within_two:.3f}"
    coverage = (f"{got.within_one:.3f}", f"{got.within_two:.3f}", posterior)
    return (*cells, *coverage, f"{calibration.mean_correlation:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--acceleration", type=float, default=4)
    parser.add_argument("--sampler", choices=list(SAMPLERS), default=DEFAULT_SAMPLER)
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        kspace, result = Path(folder) / "kspace.h5", Path(folder) / "result.h5"
        simulate_file(kspace, SimulateSettings(arguments.slices, acceleration=arguments.acceleration))
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for samples in arguments.samples:
            choice = SamplerChoice(arguments.sampler)
            settings = ReconSettings(arguments.model, maps=kspace, choice=choice, samples=samples)
            print(f"| {' | '.join(row(kspace, result, settings))} |", flush=True)


if __name__ == "__main__":
    main()

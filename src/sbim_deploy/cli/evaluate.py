"""``sbim-deploy evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from sbim_deploy.runs.coverage import Coverage, FileCoverage
    from sbim_deploy.runs.evaluate import Evaluation, Scores


def evaluate(
    *,
    result: Annotated[Path, typer.Argument(help="A reconstruction that recon wrote.")],
    reference: Annotated[
        Path,
        typer.Option(
            help="The k-space file with the reference image; or .npy, .npz, .mat: images, or full k-space."
        ),
    ],
    arrays: options.ArrayOptions,
    mask_below: Annotated[
        float, typer.Option(help="Set to zero where the reference is below this fraction of its maximum.")
    ] = 0.0,
    json: options.Json = False,
) -> None:
    """Score a reconstruction against its reference.

    NRMSE, PSNR and SSIM of the magnitude, with zero-filling beside it; the data range is the reference's
    maximum. Where the result has a standard deviation, how well it tells the error.
    """
    from dataclasses import asdict

    from sbim_deploy.runs.coverage import measure_coverage
    from sbim_deploy.runs.evaluate import evaluate_file

    evaluation = evaluate_file(result, reference, mask_below, arrays.reading)
    coverage = measure_coverage(result, reference, arrays.reading)
    if json:
        print_json({**asdict(evaluation), "calibration": coverage and asdict(coverage)})
        return
    print_evaluation(evaluation)
    if coverage is not None:
        _print_coverage(coverage)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the scores of each slice and their means."""
    columns = ("slice", "NRMSE", "PSNR", "SSIM", "zero-filled NRMSE", "PSNR", "SSIM", "residual")
    rows = [
        (str(each.index), *_cells(each.reconstruction), *_cells(each.zero_filled), f"{each.residual:.4f}")
        for each in evaluation.slices
    ]
    means = ("mean", *_cells(evaluation.mean_reconstruction), *_cells(evaluation.mean_zero_filled), "")
    print_table(columns, [*rows, means])


def _print_coverage(coverage: FileCoverage) -> None:
    """Print how much of the object's error one and two standard deviations cover, and should."""
    print_table(
        ("", "within 1 sd", "within 2 sd", "correlation of sd and error", "factor for 95 %"),
        [
            *(
                (
                    f"slice {each.index}",
                    *_fractions(each.coverage),
                    f"{each.correlation:.3f}",
                    f"{each.factor:.2f}",
                )
                for each in coverage.slices
            ),
            ("mean", *_fractions(coverage.mean_coverage), f"{coverage.mean_correlation:.3f}", ""),
            ("posterior", *_fractions(coverage.expected_coverage), "", ""),
        ],
    )
    note(
        f"standard deviation of {coverage.samples} samples against the {coverage.error} error, where "
        "the reference is at least 5 % of its maximum; posterior: what samples of the true one would give."
    )


def _fractions(coverage: Coverage) -> tuple[str, str]:
    return f"{coverage.within_one:.3f}", f"{coverage.within_two:.3f}"


def _cells(scores: Scores) -> tuple[str, str, str]:
    return f"{scores.nrmse:.4f}", f"{scores.psnr:.2f}", f"{scores.ssim:.4f}"

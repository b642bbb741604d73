"""``sbim-deploy evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import note, print_json, print_table
from sbim_deploy.words import plural

SCORES = ("NRMSE", "NMSE", "PSNR", "SSIM")

if TYPE_CHECKING:
    from sbim_deploy.runs.coverage import Coverage, FileCoverage
    from sbim_deploy.runs.evaluate import Evaluation, Scores


def evaluate(
    *,
    images: Annotated[
        Path,
        typer.Argument(
            help="A result, or images in fastMRI's or MRD's HDF5, DICOM (file or folder), NIfTI, .cfl, .npy, "
            ".npz or .mat."
        ),
    ],
    reference: Annotated[
        Path,
        typer.Option(
            help="The k-space file with the reference image, k-space with all of its samples, or images in "
            "any of these formats."
        ),
    ],
    data_range: Annotated[
        str,
        typer.Option(
            help="What PSNR and SSIM take for the data range: the reference's maximum in each slice, or in "
            "the volume, as fastMRI's tables do."
        ),
    ] = "slice",
    arrays: options.ArrayOptions,
    dimensions: Annotated[
        int | None,
        typer.Option(
            help="3: the images are a volume of a 3-D scan. A result of recon as HDF5 says so by itself."
        ),
    ] = None,
    mask_below: Annotated[
        float, typer.Option(help="Set to zero where the reference is below this fraction of its maximum.")
    ] = 0.0,
    json: options.Json = False,
) -> None:
    """Score images against their reference.

    NRMSE, NMSE, PSNR and SSIM of the magnitude, and of a result zero-filling beside it. Where the result has
    a standard deviation, how well it tells the error.
    """
    from dataclasses import asdict

    from sbim_deploy.runs.coverage import measure_coverage
    from sbim_deploy.runs.evaluate import evaluate_file

    evaluation = evaluate_file(images, reference, mask_below, arrays.reading, data_range, dimensions)
    coverage = measure_coverage(images, reference, arrays.reading, dimensions)
    for remark in evaluation.remarks:
        note(remark, even_quiet=True)
    if json:
        print_json({**asdict(evaluation), "calibration": coverage and asdict(coverage)})
        return
    print_evaluation(evaluation)
    if coverage is not None:
        _print_coverage(coverage)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the scores of each slice, their means, and what they are; no columns for what there is not."""
    is_result = evaluation.mean_zero_filled is not None
    columns = [
        "slice",
        *SCORES,
        *((f"zero-filled {SCORES[0]}", *SCORES[1:], "residual") if is_result else ()),
    ]
    rows = [
        _row(
            str(each.index),
            (each.reconstruction, each.zero_filled),
            "" if each.residual is None else f"{each.residual:.4f}",
        )
        for each in evaluation.slices
    ]
    rows.append(_row("mean", (evaluation.mean_reconstruction, evaluation.mean_zero_filled)))
    if evaluation.volume is not None:
        rows.append(_row("volume", (evaluation.volume, evaluation.volume_zero_filled)))
    print_table(columns, rows)
    typer.echo(evaluation.convention)


def _row(name: str, scores: tuple[Scores, Scores | None], residual: str = "") -> list[str]:
    of_images, of_zero_filled = scores
    row = [name, *_cells(of_images)]
    return row if of_zero_filled is None else [*row, *_cells(of_zero_filled), residual]


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
        f"standard deviation of {plural(coverage.samples, 'sample')} against the {coverage.error} error, "
        "where the reference is at least 5 % of its maximum; posterior: what samples of the true one would "
        "give."
    )


def _fractions(coverage: Coverage) -> tuple[str, str]:
    return f"{coverage.within_one:.3f}", f"{coverage.within_two:.3f}"


def _cells(scores: Scores) -> tuple[str, str, str, str]:
    return f"{scores.nrmse:.4f}", f"{scores.nmse:.5f}", f"{scores.psnr:.2f}", f"{scores.ssim:.4f}"

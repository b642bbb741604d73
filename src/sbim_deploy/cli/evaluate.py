"""``sbim-deploy evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbim_deploy.cli import options
from sbim_deploy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from sbim_deploy.recon.evaluate import Evaluation, Scores


def evaluate(
    result: Annotated[Path, typer.Argument(help="A reconstruction that recon wrote.")],
    reference: Annotated[Path, typer.Option(help="The k-space file with the reference image.")],
    mask_below: Annotated[
        float, typer.Option(help="Set to zero where the reference is below this fraction of its maximum.")
    ] = 0.0,
    json: options.Json = False,
) -> None:
    """Score a reconstruction against its reference.

    NRMSE, PSNR and SSIM of the magnitude, with zero-filling beside it; the data range is the reference's
    maximum.
    """
    from dataclasses import asdict

    from sbim_deploy.recon.evaluate import evaluate_file

    evaluation = evaluate_file(result, reference, mask_below)
    if json:
        print_json(asdict(evaluation))
    else:
        print_evaluation(evaluation)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the scores of each slice and their means."""
    columns = ("slice", "NRMSE", "PSNR", "SSIM", "zero-filled NRMSE", "PSNR", "SSIM", "residual")
    rows = [
        (str(each.index), *_cells(each.reconstruction), *_cells(each.zero_filled), f"{each.residual:.4f}")
        for each in evaluation.slices
    ]
    means = ("mean", *_cells(evaluation.mean_reconstruction), *_cells(evaluation.mean_zero_filled), "")
    print_table(columns, [*rows, means])


def _cells(scores: Scores) -> tuple[str, str, str]:
    return f"{scores.nrmse:.4f}", f"{scores.psnr:.2f}", f"{scores.ssim:.4f}"

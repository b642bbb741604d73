"""A reconstruction against its reference, and the measured data alone beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import GUESSED, Reading
from sbim_deploy.mri.fourier import centre_crop
from sbim_deploy.mri.metrics import nrmse, psnr, ssim
from sbim_deploy.records import ComplexArray, FloatArray
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.references import Reference, open_reference


@dataclass(frozen=True)
class Scores:
    """How close a magnitude is to the reference's; the data range is the reference's maximum."""

    nrmse: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class SliceEvaluation:
    """The scores of one slice."""

    index: int
    reconstruction: Scores
    zero_filled: Scores
    residual: float


@dataclass(frozen=True)
class Evaluation:
    """The scores of each slice and their means."""

    slices: tuple[SliceEvaluation, ...]
    mean_reconstruction: Scores
    mean_zero_filled: Scores


def evaluate_file(
    result_path: Path, reference_path: Path, mask_below: float = 0.0, reading: Reading = GUESSED
) -> Evaluation:
    """Score every slice of a result against the reference in its k-space file, or in an array.

    Where the reference is below ``mask_below`` of its maximum, all images are set to zero first.
    ``reading`` is that of an array.

    Raises:
        InputError: a file is not what it must be, there is no reference, or it is of another object.
    """
    if not 0 <= mask_below < 1:
        raise InputError(f"the mask's fraction is {mask_below:g}: expected 0 or more, and less than 1")
    with (
        open_result(result_path) as result,
        open_reference(reference_path, reading, result.provenance.orientation) as kspace,
    ):
        slices = []
        for position, index in enumerate(result.slice_indices):
            reference = reference_magnitude(kspace, index, result.shape)
            mask = reference >= mask_below * reference.max()
            slices.append(
                SliceEvaluation(
                    index,
                    score(np.abs(result.read_image(position)) * mask, reference * mask),
                    score(result.read_zero_filled(position) * mask, reference * mask),
                    float(result.residual[position]),
                )
            )
    return Evaluation(
        tuple(slices),
        _mean([each.reconstruction for each in slices]),
        _mean([each.zero_filled for each in slices]),
    )


def reference_magnitude(kspace: Reference, index: int, shape: tuple[int, int]) -> FloatArray:
    """Return the magnitude of a slice's reference, cropped to the result's shape."""
    magnitude: FloatArray = np.abs(read_reference(kspace, index, shape))
    return magnitude


def read_reference(kspace: Reference, index: int, shape: tuple[int, int]) -> ComplexArray | FloatArray:
    """Return a slice's reference, cropped to the result's shape.

    Raises:
        InputError: there is none, or it is smaller than the result, or zero.
    """
    reference = kspace.read_reference(index)
    if any(large < small for large, small in zip(reference.shape, shape, strict=True)):
        raise InputError(
            f"{kspace.path}: the reference is {reference.shape}, smaller than the result's {shape}: "
            "is it the file that was reconstructed?"
        )
    cropped: ComplexArray | FloatArray = centre_crop(reference, shape)
    if not cropped.any():
        raise InputError(f"{kspace.path}: the reference of slice {index} is zero: there is nothing to score")
    return cropped


def score(image: FloatArray, reference: FloatArray) -> Scores:
    """Return the scores of one magnitude image."""
    return Scores(nrmse(image, reference), psnr(image, reference), ssim(image, reference))


def _mean(scores: list[Scores]) -> Scores:
    return Scores(
        float(np.mean([each.nrmse for each in scores])),
        float(np.mean([each.psnr for each in scores])),
        float(np.mean([each.ssim for each in scores])),
    )

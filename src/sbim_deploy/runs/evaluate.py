"""Images against their reference, and the measured data alone beside them where the file has those too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.layouts import GUESSED, Reading
from sbim_deploy.mri.metrics import nmse, nrmse, psnr, ssim
from sbim_deploy.records import FloatArray
from sbim_deploy.results.image_files import open_images
from sbim_deploy.results.image_stack import ImageStack
from sbim_deploy.runs.pairing import Pairing, better_lie
from sbim_deploy.runs.references import Reference, open_reference
from sbim_deploy.runs.settings import DIMENSIONS
from sbim_deploy.words import plural

SLICE, VOLUME = DATA_RANGES = ("slice", "volume")
CONVENTIONS = {
    SLICE: "PSNR and SSIM take the reference's maximum in each slice for the data range",
    VOLUME: "PSNR and SSIM take the reference's maximum in the whole volume for the data range, as fastMRI's "
    "tables do; the row of the volume has NMSE and PSNR of all its pixels at once",
}
METRICS = (
    "NMSE is |image - reference|^2 / |reference|^2, NRMSE its square root; SSIM has a uniform window of 7 x "
    "7 pixels, K1 0.01, K2 0.03, the sample covariance and no border, as scikit-image's and fastMRI's"
)
# A factor between images and reference is told where it changes them by more than this, and where without it
# less than half of the squared error is left.
LEAST_FACTOR, ERROR_LEFT = 1.05, 0.5


@dataclass(frozen=True)
class Scores:
    """How close a magnitude is to the reference's."""

    nrmse: float
    nmse: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class SliceEvaluation:
    """The scores of one slice, by its number in the reference; None is what the images do not have."""

    index: int
    reconstruction: Scores
    zero_filled: Scores | None
    residual: float | None


@dataclass(frozen=True)
class Factor:
    """How many times as bright as the reference the images are, by least squares, and the means without."""

    value: float
    mean_reconstruction: Scores


@dataclass(frozen=True)
class Evaluation:
    """The scores of each slice, their means, and what they are of.

    Attributes:
        data_range: ``slice`` or ``volume``, as was asked for.
        convention: what that means, and what the metrics are, in words.
        images, reference: the kinds of the two files.
        reference_is_input: whether the reference's file is the k-space that the images were made of, by its
            hash; None where it holds no k-space, or the images do not tell.
        factor: where the images differ from the reference by one.
        remarks: what was done to compare the two, and what may be wrong with it, a sentence each.
        slices: the scores of each slice.
        mean_reconstruction, mean_zero_filled: their means.
        volume, volume_zero_filled: NRMSE, NMSE and PSNR of all pixels at once and the mean SSIM, where the
            data range is the volume's.
    """

    data_range: str
    convention: str
    images: str
    reference: str
    reference_is_input: bool | None
    factor: Factor | None
    remarks: tuple[str, ...]
    slices: tuple[SliceEvaluation, ...]
    mean_reconstruction: Scores
    mean_zero_filled: Scores | None
    volume: Scores | None
    volume_zero_filled: Scores | None


def evaluate_file(
    images_path: Path,
    reference_path: Path,
    mask_below: float = 0.0,
    reading: Reading = GUESSED,
    data_range: str = SLICE,
    dimensions: int | None = None,
) -> Evaluation:
    """Score every image of a file against the reference in its k-space file, or in images of any format.

    Where the reference is below ``mask_below`` of its maximum in a slice, all images are set to zero first.
    ``reading`` is that of an array, ``dimensions`` 3 says that the images are a volume, which a result tells
    by itself. Every file is read twice, one slice in memory at a time.

    Raises:
        InputError: a file is not what it must be, there is no reference, or it is of another object.
        BackendMissingError: the package that reads a format is not installed.
    """
    if not 0 <= mask_below < 1:
        raise InputError(f"the mask's fraction is {mask_below:g}: expected 0 or more, and less than 1")
    if data_range not in DATA_RANGES:
        raise InputError(f"unknown data range {data_range!r}: expected one of {', '.join(DATA_RANGES)}")
    if dimensions not in (None, *DIMENSIONS):
        raise InputError(f"dimensions is {dimensions}: expected 2, slices, or 3, a volume")
    with (
        open_images(images_path, Reading(reading.layout), dimensions) as images,
        open_reference(reference_path, reading, *asked_of(images, dimensions)) as reference,
    ):
        pairing = Pairing(images, reference)
        return _evaluate(images, reference, pairing, mask_below, data_range)


def asked_of(images: ImageStack, dimensions: int | None = None) -> tuple[str | None, int | None, int | None]:
    """Return what was asked for of the images' k-space: orientation, dimensions and volume; None is unknown.

    ``dimensions`` is what somebody says of images that tell of none.

    Raises:
        InputError: they are those of a result, which tells of others.
    """
    if images.result is None:
        return None, dimensions, None
    told = images.result.provenance.dimensions
    if None not in (told, dimensions) and told != dimensions:
        raise InputError(f"{images.path}: was reconstructed with --dimensions {told}, not {dimensions}")
    made = images.result.provenance
    return made.orientation, told or dimensions, made.volume


def score(image: FloatArray, reference: FloatArray, data_range: float | None = None) -> Scores:
    """Return the scores of a magnitude image; the data range is the reference's maximum unless given."""
    return Scores(
        nrmse(image, reference),
        nmse(image, reference),
        psnr(image, reference, data_range),
        ssim(image, reference, data_range),
    )


@dataclass(frozen=True)
class _Slice:
    """The magnitudes of one slice, on one grid and masked."""

    image: FloatArray
    reference: FloatArray
    zero_filled: FloatArray | None


@dataclass
class _Sums:
    """Over all pixels: sums of squares and products, and the reference's maximum."""

    peak: float = 0.0
    pixels: int = 0
    images: float = 0.0
    references: float = 0.0
    products: float = 0.0
    errors: float = 0.0
    zero_filled_errors: float = 0.0

    def add(self, each: _Slice) -> None:
        """Count a slice."""
        self.peak = max(self.peak, float(each.reference.max()))
        self.pixels += each.reference.size
        self.images += _dot(each.image, each.image)
        self.references += _dot(each.reference, each.reference)
        self.products += _dot(each.image, each.reference)
        difference = each.image - each.reference
        self.errors += _dot(difference, difference)
        if each.zero_filled is not None:
            difference = each.zero_filled - each.reference
            self.zero_filled_errors += _dot(difference, difference)


def _evaluate(
    images: ImageStack, reference: Reference, pairing: Pairing, mask_below: float, data_range: str
) -> Evaluation:
    sums = _Sums()
    lie = None
    scored = pairing.scored
    middle = scored[len(scored) // 2][0]
    for position, _ in scored:
        each = _read(images, pairing, position, mask_below)
        sums.add(each)
        if position == middle and not pairing.by_place:
            lie = better_lie(each.image, each.reference)
    peak = sums.peak if data_range == VOLUME else None
    factor, scaled = _factor(sums), []
    slices = []
    for position, index in scored:
        each = _read(images, pairing, position, mask_below)
        slices.append(
            SliceEvaluation(
                index,
                score(each.image, each.reference, peak),
                None if each.zero_filled is None else score(each.zero_filled, each.reference, peak),
                None if images.result is None else float(images.result.residual[position]),
            )
        )
        if factor is not None:
            scaled.append(score(each.image / np.float32(factor), each.reference, peak))
    zero_filled = [each.zero_filled for each in slices if each.zero_filled is not None]
    mean, mean_zero_filled = _mean([each.reconstruction for each in slices]), _mean(zero_filled)
    assert mean is not None
    mean_scaled = _mean(scaled)
    is_input = _is_input(images, reference)
    whole = data_range == VOLUME
    return Evaluation(
        data_range=data_range,
        convention=f"{CONVENTIONS[data_range]}. {METRICS}.",
        images=images.kind,
        reference=reference.kind,
        reference_is_input=is_input,
        factor=None if factor is None or mean_scaled is None else Factor(factor, mean_scaled),
        remarks=(
            *pairing.remarks,
            *_said_of_empty(len(pairing.indices) - len(scored)),
            *(() if lie is None else (_lie_remark(lie),)),
            *_doubts(images, reference, is_input, factor, mean_scaled),
        ),
        slices=tuple(slices),
        mean_reconstruction=mean,
        mean_zero_filled=mean_zero_filled,
        volume=_of_volume(sums, sums.errors, mean) if whole else None,
        volume_zero_filled=(
            _of_volume(sums, sums.zero_filled_errors, mean_zero_filled)
            if whole and mean_zero_filled is not None
            else None
        ),
    )


def _said_of_empty(n_empty: int) -> list[str]:
    left_out = plural(n_empty, "slice")
    return [f"left out: {left_out} beside the object, where the reference is zero"] if n_empty else []


def _read(images: ImageStack, pairing: Pairing, position: int, mask_below: float) -> _Slice:
    paired = pairing.read(position)
    reference: FloatArray = np.abs(paired.reference)
    mask = reference >= mask_below * reference.max()
    zero_filled = None
    if images.result is not None:
        zero_filled = images.result.read_zero_filled(position)[paired.part] * mask
    return _Slice(np.abs(images.read_image(position)[paired.part]) * mask, reference * mask, zero_filled)


def _factor(sums: _Sums) -> float | None:
    """Return how many times as bright as the references the images are, where that is most of the error."""
    if not sums.products > 0 or not sums.errors > 0:
        return None
    factor = sums.images / sums.products
    left = sums.references - sums.products**2 / sums.images  # |image / factor - reference|^2
    is_large = max(factor, 1 / factor) > LEAST_FACTOR
    return factor if is_large and left < ERROR_LEFT * sums.errors else None


def _of_volume(sums: _Sums, errors: float, mean: Scores) -> Scores:
    normalised = errors / sums.references
    peak_to_error = sums.peak**2 * sums.pixels / errors if errors else np.inf
    return Scores(float(np.sqrt(normalised)), normalised, float(10 * np.log10(peak_to_error)), mean.ssim)


def _is_input(images: ImageStack, reference: Reference) -> bool | None:
    if images.result is None or not reference.is_kspace:
        return None
    made_of = images.result.provenance.input.sha256
    return None if made_of is None else made_of == file_sha256(reference.path)


def _doubts(
    images: ImageStack,
    reference: Reference,
    is_input: bool | None,
    factor: float | None,
    scaled: Scores | None,
) -> list[str]:
    doubts = []
    if is_input is False:
        assert images.result is not None
        name = images.result.provenance.input.name
        doubts.append(
            f"{reference.path} is not the file that the images were made from ({name}, by its hash): is it "
            "of the same scan?"
        )
    if factor is not None and scaled is not None:
        doubts.append(
            f"the images are {factor:.4g} times as bright as the reference, which makes most of the error: "
            f"divided by that they have NRMSE {scaled.nrmse:.4f}, PSNR {scaled.psnr:.2f} dB, SSIM "
            f"{scaled.ssim:.4f}"
        )
    return doubts


def _lie_remark(lie: str) -> str:
    return (
        f"the reference would fit much better {lie}: the two lie otherwise, and the scores tell little; "
        "compare files that both say where in the patient they lie, such as DICOM, NIfTI or MRD"
    )


def _mean(scores: Sequence[Scores]) -> Scores | None:
    if not scores:
        return None
    return Scores(
        *(
            float(np.mean([getattr(each, name) for each in scores]))
            for name in ("nrmse", "nmse", "psnr", "ssim")
        )
    )


def _dot(one: FloatArray, other: FloatArray) -> float:
    return float(np.vdot(one.astype(np.float64), other.astype(np.float64)))

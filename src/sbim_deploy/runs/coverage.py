"""Whether the standard deviation of a result's samples tells its error, where there is a reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtr

from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.layouts import GUESSED, Reading
from sbim_deploy.records import FloatArray
from sbim_deploy.results.image_files import open_images
from sbim_deploy.results.result_file import ResultFile
from sbim_deploy.runs.evaluate import asked_of
from sbim_deploy.runs.pairing import Pairing
from sbim_deploy.runs.references import Reference, open_reference

OBJECT_FRACTION = 0.05  # of the reference's maximum, as the thesis masks its metrics


@dataclass(frozen=True)
class Coverage:
    """The fractions of pixels whose error is at most one and two standard deviations."""

    within_one: float
    within_two: float


@dataclass(frozen=True)
class SliceCoverage:
    """A slice's coverage, and the correlation of |error| and standard deviation over its pixels.

    ``factor`` is what the standard deviation needs for 95 % of the errors to lie within two of them.
    """

    index: int
    coverage: Coverage
    correlation: float
    factor: float


@dataclass(frozen=True)
class FileCoverage:
    """The slices of a result, their means, and what samples of the true posterior would give.

    Pixels count where the reference is at least 5 % of its maximum. ``error`` is what was compared:
    ``complex`` is the difference of the complex images, ``magnitude`` that of their magnitudes.
    """

    samples: int
    error: str
    slices: tuple[SliceCoverage, ...]
    mean_coverage: Coverage
    mean_correlation: float
    expected_coverage: Coverage


def measure_coverage(
    images_path: Path,
    reference_path: Path,
    reading: Reading = GUESSED,
    dimensions: int | None = None,
) -> FileCoverage | None:
    """Compare a result's standard deviation with its error; None where the images have no standard deviation.

    Raises:
        InputError: a file is not what it must be, there is no reference, or it is of another object.
        BackendMissingError: the package that reads a format is not installed.
    """
    with open_images(images_path, Reading(reading.layout), dimensions) as images:
        result = images.result
        if result is None or not result.has_standard_deviation:
            return None
        with open_reference(reference_path, reading, *asked_of(images, dimensions)) as reference:
            pairing = Pairing(images, reference)
            is_complex = _shares_phase(result, reference)
            slices = [_of_slice(result, pairing, position, is_complex) for position, _ in pairing.scored]
    return FileCoverage(
        result.samples,
        "complex" if is_complex else "magnitude",
        tuple(slices),
        Coverage(
            float(np.mean([each.coverage.within_one for each in slices])),
            float(np.mean([each.coverage.within_two for each in slices])),
        ),
        float(np.mean([each.correlation for each in slices])),
        Coverage(*(expected_coverage(n, result.samples, is_complex) for n in (1, 2))),
    )


def expected_coverage(n_deviations: float, samples: int, is_complex: bool) -> float:
    """Return how often the truth lies within so many standard deviations of the mean of K samples.

    For truth and samples from one complex Gaussian of variance V in a pixel, |error|^2 is V (1 + 1 / K) times
    an exponential variable and K sd^2 / V is of the gamma distribution of shape K - 1, which gives
    1 - (1 + n^2 / (K + 1))^-(K - 1): with many samples 1 - exp(-n^2), 0.632 and 0.982. An error in magnitude
    is that along one direction of the plane: Student's t with 2 (K - 1) degrees of freedom, with many samples
    erf(n), 0.843 and 0.995.
    """
    freedom = samples - 1
    if is_complex:
        return float(1 - (1 + n_deviations**2 / (samples + 1)) ** -freedom)
    t = n_deviations * np.sqrt(2 * freedom / (samples + 1))
    return float(2 * stdtr(2 * freedom, t) - 1)


def _of_slice(result: ResultFile, pairing: Pairing, position: int, is_complex: bool) -> SliceCoverage:
    paired = pairing.read(position)
    reference, image = paired.reference, result.read_image(position)[paired.part]
    error = np.abs(image - reference) if is_complex else np.abs(np.abs(image) - np.abs(reference))
    in_object = np.abs(reference) >= OBJECT_FRACTION * np.abs(reference).max()
    deviation = result.read_standard_deviation(position)[paired.part]
    return _compare(pairing.indices[position], error[in_object], deviation[in_object])


def _shares_phase(result: ResultFile, kspace: Reference) -> bool:
    """Tell whether image and reference can be compared as complex: estimated maps leave a phase open.

    They can where the reference is complex and the maps were those beside it.
    """
    maps = result.provenance.maps
    return kspace.has_complex_reference and maps is not None and maps.sha256 == file_sha256(kspace.path)


def _compare(index: int, error: FloatArray, deviation: FloatArray) -> SliceCoverage:
    coverage = Coverage(float(np.mean(error <= deviation)), float(np.mean(error <= 2 * deviation)))
    is_constant = np.ptp(error) == 0 or np.ptp(deviation) == 0
    correlation = float("nan") if is_constant else float(np.corrcoef(error, deviation)[0, 1])
    ratios = np.divide(
        error, deviation, out=np.where(error > 0, np.inf, 0).astype(error.dtype), where=deviation > 0
    )
    return SliceCoverage(index, coverage, correlation, float(np.quantile(ratios, 0.95)) / 2)

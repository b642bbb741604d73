"""The images of a result, parted into the series of their scan: every image format is written from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.io.documents import format_object
from sbim_deploy.kspace.slice_buffer import Series
from sbim_deploy.kspace.sources import KspaceSource, ReadoutKspace
from sbim_deploy.records import FloatArray, SliceGeometry
from sbim_deploy.results.result_file import ResultFile
from sbim_deploy.words import plural


@dataclass(frozen=True, eq=False)
class ImageSeries:
    """Images that belong together, and what is known of each.

    Attributes:
        number: what viewers show as the series' number, from 1.
        volume: magnitudes, float32 (slices, rows, columns).
        slices: the number of each slice within the scan.
        residuals: each image's relative distance from the measured data.
        doubts: the reasons why each image may be wrong, one text, empty where there are none.
        geometries: where each slice lies, or None where that is unknown.
        acquisitions: the header (ACQUISITION_HEADER) of each slice's readout nearest the centre of k-space,
            or None where the source has no readouts.
        contrast: which of the scan's echo times and so on belongs to it.
        label: what tells it from the others of the scan, such as "repetition 2", or nothing.
    """

    number: int
    volume: FloatArray
    slices: Sequence[int]
    residuals: Sequence[float]
    doubts: Sequence[str]
    geometries: Sequence[SliceGeometry | None]
    acquisitions: Sequence[np.void | None]
    contrast: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        """Check that there is one of everything for each slice."""
        lengths = {
            name: len(getattr(self, name))
            for name in ("volume", "slices", "residuals", "doubts", "geometries", "acquisitions")
        }
        if self.volume.ndim != 3 or len(set(lengths.values())) > 1:
            raise ValueError(f"volume is {self.volume.shape} with {lengths}, expected as many of each")


@dataclass(frozen=True)
class Derivation:
    """What made the images of a series.

    ``run_key`` is a hash of all that decides the images, ``input_key`` the k-space file's SHA-256. A method
    without the network makes no calls of it, and the name of its model is empty. ``prior_orientations`` is
    that of the provenance.
    """

    software_version: str
    method: str
    n_calls: int
    samples: int
    model_name: str
    model_digest: str
    acceleration: float
    run_key: str
    input_key: str
    prior_orientations: int | None = None


def derivation_of(result: ResultFile) -> Derivation:
    """Read from a result's provenance how its images came about.

    Raises:
        InputError: the provenance lacks it.
    """
    made = result.provenance
    identity = format_object(dict(sorted(result.identity.items())))
    known = {
        "software_version": made.software.get("sbim-deploy"),
        "method": made.maker,
        "acceleration": made.measured.acceleration,
        "input_key": made.input.sha256,
    }
    network = {
        "n_calls": len(made.plan.rows) or None,
        "model_name": made.model.name,
        "model_digest": made.model.digest,
    }
    known |= {"n_calls": 0, "model_name": "", "model_digest": ""} if made.without_network else network
    lacking = [name.replace("_", " ") for name, value in known.items() if value is None]
    if lacking:
        raise InputError(
            f"{result.path}: attribute 'provenance' lacks {', '.join(lacking)}, expected a result of recon; "
            "reconstruct again"
        )
    run_key = hashlib.sha256(identity.encode()).hexdigest()
    return Derivation(
        samples=result.samples,
        run_key=run_key,
        prior_orientations=made.prior_orientations,
        **known,  # type: ignore[arg-type]
    )


def derivation_steps(derivation: Derivation) -> list[str]:
    """Return what was done, step by step, each in a few words."""
    drawn = "" if derivation.samples == 1 else f", mean of {derivation.samples} samples"
    seen = "" if (n := derivation.prior_orientations) is None else f" in {n} orientations in turn"
    made_by = [
        f"score-based reconstruction: {derivation.method}, "
        f"{plural(derivation.n_calls, 'network call')}{seen}{drawn}",
        f"model {derivation.model_name} {derivation.model_digest[:16]}",
    ]
    if not derivation.n_calls:
        made_by = [f"{derivation.method} reconstruction, without a network"]
    return [
        f"sbim-deploy {derivation.software_version}",
        *made_by,
        f"effective acceleration {derivation.acceleration:.2f}",
    ]


def positions_of_series(source: KspaceSource, indices: Sequence[int]) -> dict[Series | None, list[int]]:
    """Return for each series of the scan which of these slices are its own, as positions in ``indices``.

    A file without counters has one series, None.
    """
    found: dict[Series | None, list[int]] = {}
    for position, index in enumerate(indices):
        series = source.series(index) if isinstance(source, ReadoutKspace) else None
        found.setdefault(series, []).append(position)
    return found


def read_series(result: ResultFile, source: KspaceSource) -> list[ImageSeries]:
    """Read a result's magnitudes with what its k-space file says of their slices.

    Raises:
        InputError: the result is damaged, or is of another k-space file.
    """
    if max(result.slice_indices) >= source.n_slices:
        raise InputError(
            f"{result.path}: has slice {max(result.slice_indices)}, expected less than the "
            f"{source.n_slices} of {source.path}; name the k-space that it was made from"
        )
    found = positions_of_series(source, result.slice_indices)
    names = _differing(list(found))
    return [
        _one_series(result, source, number, series, positions, names)
        for number, (series, positions) in enumerate(found.items(), 1)
    ]


def _one_series(
    result: ResultFile,
    source: KspaceSource,
    number: int,
    series: Series | None,
    positions: Sequence[int],
    names: Sequence[str],
) -> ImageSeries:
    indices = [result.slice_indices[position] for position in positions]
    mrd = source if isinstance(source, ReadoutKspace) else None
    doubts = result.provenance.doubts
    return ImageSeries(
        number=number,
        volume=np.stack([np.abs(result.read_image(position)) for position in positions]),
        slices=[index if mrd is None else mrd.slice_number(index) for index in indices],
        residuals=[float(result.residual[position]) for position in positions],
        doubts=[doubts_in_words(doubts.get(index, {}).values()) for index in indices],
        geometries=[source.geometry(index) for index in indices],
        acquisitions=[None if mrd is None else mrd.slice_header(index) for index in indices],
        contrast=0 if series is None else series.contrast,
        label=" ".join(f"{name} {getattr(series, name)}" for name in names),
    )


def doubts_in_words(reasons: Iterable[str]) -> str:
    """Return why an image may be wrong, for a comment beside it; nothing where there is no reason."""
    listed = "; ".join(reasons)
    return f"DOUBTFUL: {listed}" if listed else ""


def _differing(all_series: Sequence[Series | None]) -> list[str]:
    """Return the counters that tell the series apart."""
    counters = [asdict(series) for series in all_series if series is not None]
    return [name for name in (counters or [{}])[0] if len({each[name] for each in counters}) > 1]

"""An open k-space file and the steps of its reconstruction, for one process or for many that share it.

A slice is read once, when its turn comes: that it is damaged is known then.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.kspace.along_trajectory import NonCartesianKspace
from sbim_deploy.kspace.sources import KspaceSource, MapsSource, open_source_maps
from sbim_deploy.kspace.stack import StackKspace, StackMaps
from sbim_deploy.kspace.volume import VolumeKspace
from sbim_deploy.models.folder import Model, ModelManifest
from sbim_deploy.mri.combine import resample_maps
from sbim_deploy.mri.fourier import turned
from sbim_deploy.mri.map_choice import AUTO
from sbim_deploy.mri.masks import calibration_block, effective_acceleration, line_mask, sampled_mask
from sbim_deploy.recon.prepare import GIVEN, NOISE_READOUTS, OWN, SliceProblem, measured_mask, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction
from sbim_deploy.recon.self_check import check_converged
from sbim_deploy.recon.volume_survey import WholeVolume, survey_volume
from sbim_deploy.records import NOTICE, BoolArray, ComplexArray
from sbim_deploy.results.provenance import (
    GRID,
    SAMPLER,
    Measured,
    ModelIdentity,
    ModelRecord,
    NamedFile,
    PlanRecord,
    Provenance,
    RemovedLines,
    RunIdentity,
    SliceNotes,
    Timings,
)
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.trajectories import (
    check_along_trajectory,
    describe_sampling,
    prior_orientations,
    read_along_trajectory,
)
from sbim_deploy.runs.whole_volume import open_volume_maps, slice_indices
from sbim_deploy.samplers.plan import Plan, plan_as_dict

T = TypeVar("T")


@dataclass(frozen=True)
class Scan:
    """An open k-space file, the slices of it that are wanted, its sampling mask and its maps if given."""

    kspace: KspaceSource
    indices: range
    mask: BoolArray | None
    maps: MapsSource | None
    noise: float | None = None
    map_method: str = AUTO
    map_sets: int = 1


@dataclass
class Tally:
    """What a run has met so far.

    Attributes:
        preparation_s, sampling_s: the seconds that its slices took.
        sampling: the acceleration and the calibration lines of the first slice that was read.
        unread: the slices that cannot be reconstructed, each with the reason.
        volume: what the slices of a 3-D scan share, once the first was read.
    """

    preparation_s: float = 0.0
    sampling_s: float = 0.0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)
    volume: WholeVolume | None = None


@contextmanager
def open_scan(kspace: KspaceSource, settings: ReconSettings) -> Iterator[Scan]:
    """Choose what is wanted of an open k-space file, and open the maps that go with it.

    Raises:
        InputError: the mask, the maps or the range of slices is not what it must be.
    """
    if isinstance(kspace, NonCartesianKspace):
        check_along_trajectory(settings, kspace.path)
    indices = slice_indices(settings.slices, kspace)
    mask = _sampling_mask(settings, kspace)
    if settings.maps is None:
        yield Scan(kspace, indices, mask, None, settings.noise, settings.map_method, settings.map_sets)
        return
    if isinstance(kspace, VolumeKspace):
        with open_volume_maps(settings.maps, kspace) as maps_of_volume:
            yield Scan(kspace, indices, mask, maps_of_volume, settings.noise)
        return
    shapes = [(kspace.n_rows, kspace.n_columns), kspace.stored_shape]
    if kspace.recon_shape is not None:
        shapes.append((kspace.recon_shape[0], kspace.n_columns))  # maps of the readout that is kept
    with open_source_maps(settings.maps, kspace.n_slices, kspace.n_coils, shapes) as maps:
        turned_over = StackMaps(maps, kspace) if isinstance(kspace, StackKspace) else maps
        yield Scan(kspace, indices, mask, turned_over, settings.noise)


def make_reconstructor(settings: ReconSettings, model: Model, streams: int = 1) -> Reconstructor:
    """Return what reconstructs a file's slices; see :class:`Reconstructor` for what it raises."""
    return Reconstructor(
        model,
        settings.choice,
        settings.seed,
        settings.backend,
        settings.threads,
        settings.graph,
        settings.samples,
        min(settings.samples, settings.batch),
        precision=settings.precision,
        streams=streams,
    )


def survey_slices(scan: Scan, tally: Tally) -> list[tuple[int, ...]]:
    """Read every slice once, and return the shape of what was measured of each: (1, columns) and so on.

    Raises:
        InputError: a slice is damaged or all zero.
    """
    _share_volume(scan, tally)
    shapes = []
    for index in scan.indices:
        shapes.append(_measure(scan, index, tally).shape)
        if scan.maps is not None:
            scan.maps.read_maps(index)
    return shapes


def software_versions() -> dict[str, str]:
    """Return the versions that decide an image, beside the engine's."""
    return {
        "sbim-deploy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def run_identity(
    kspace: KspaceSource, settings: ReconSettings, model: Model | None, plan: Plan | None, backend: str
) -> RunIdentity:
    """Return what decides the image: a run resumes only one with the same.

    A method without the network has no model and no plan.
    """
    undersampling = settings.undersampling
    return RunIdentity(
        software=software_versions(),
        input=NamedFile(kspace.path.name, file_sha256(kspace.path)),
        dimensions=settings.dimensions,
        through_plane=settings.through_plane,
        volume=settings.volume,
        layout=settings.reading.layout,
        variable=settings.reading.variable,
        trajectory=named_file(settings.reading.trajectory),
        matrix=settings.reading.matrix,
        maps=named_file(settings.maps),
        method=SAMPLER if settings.method is None else settings.method.value,
        model=ModelIdentity()
        if model is None
        else ModelIdentity(model.manifest.name, model.digest, model.manifest.ema),
        backend=backend,
        graph=settings.graph if settings.method is None else None,
        prior_orientations=prior_orientations(kspace, model, settings.through_plane),
        seed=settings.seed,
        samples=settings.samples,
        slices=settings.slices,
        noise=settings.noise,
        map_method=settings.map_method,
        map_sets=settings.map_sets,
        orientation=settings.orientation,
        undersampling=None if undersampling is None else RemovedLines(**asdict(undersampling)),
        plan=PlanRecord() if plan is None else PlanRecord(**plan_as_dict(plan)),
    )


def named_file(path: Path | None) -> NamedFile | None:
    """Return a file by its name and what is in it."""
    return None if path is None else NamedFile(path.name, file_sha256(path))


def describe_scan(scan: Scan, tally: Tally) -> Measured:
    """Return how the first slice of a scan was sampled, and what the file is.

    Raises:
        InputError: a run that has nothing left to do cannot read it.
    """
    if not tally.sampling:
        first = next(index for index in scan.indices if index not in tally.unread)
        _measure(scan, first, tally)
    return Measured(**tally.sampling, scan=scan.kspace.describe())


def read_problem(index: int, scan: Scan, tally: Tally) -> SliceProblem:
    """Read a slice and prepare it.

    Raises:
        InputError: the slice is damaged, nothing was measured of it, or it has too few calibration lines.
    """
    before = time.perf_counter()
    if (whole := _share_volume(scan, tally)) is None:
        noise = scan.noise if scan.noise is not None else scan.kspace.read_noise(index)
        source, method = GIVEN if scan.noise is not None else NOISE_READOUTS, scan.map_method
    else:
        noise, source, method = whole.noise, whole.noise_source, whole.map_method
    kspace, calibration = scan.kspace.read_slice(index), scan.kspace.read_calibration(index)
    maps = _read_maps(index, scan)
    if isinstance(scan.kspace, NonCartesianKspace):
        problem = read_along_trajectory(scan.kspace, kspace, index, maps, noise, method, source)
        tally.sampling = tally.sampling or describe_sampling(scan.kspace, kspace, index)
    else:
        problem = prepare_slice(
            kspace,
            index,
            scan.mask,
            maps,
            scan.kspace.recon_shape,
            calibration if scan.maps is None else None,
            noise,
            method,
            source,
            scan.map_sets,
            volume=OWN if tally.volume is None else tally.volume.shared,
            whitening=scan.kspace.read_whitening(index),
        )
        _tell_sampling(problem.mask, kspace, calibration, tally)
    tally.preparation_s += time.perf_counter() - before
    return problem


def _share_volume(scan: Scan, tally: Tally) -> WholeVolume | None:
    """Find what the slices of a volume share, the first time, and return it; None of slices."""
    if tally.volume is None and isinstance(scan.kspace, VolumeKspace):
        maps = partial(_read_maps, scan=scan)
        tally.volume = survey_volume(scan.kspace, maps, scan.mask, scan.noise, scan.map_method, scan.map_sets)
    return tally.volume


def _read_maps(index: int, scan: Scan) -> ComplexArray | None:
    """Read a slice's maps; those of k-space as it is stored go with its padding and its sign."""
    if scan.maps is None:
        return None
    maps, kspace = scan.maps.read_maps(index), scan.kspace
    if maps.shape[-2:] == kspace.stored_shape:
        maps = resample_maps(maps, (kspace.n_rows, kspace.n_columns))
    return turned(maps).conj() if kspace.conjugated else maps


def readable_problems(
    indices: Iterable[int], scan: Scan, tally: Tally, on_unread: Callable[[str], None] | None = None
) -> Iterator[SliceProblem]:
    """Read and prepare slices one after another, as they are asked for.

    One that cannot be read does not stop the others: ``on_unread`` hears why at once, and ``tally`` keeps it.

    Raises:
        InputError: what the slices of a volume share cannot be found out.
    """
    for index in indices:
        _share_volume(scan, tally)
        try:
            yield read_problem(index, scan, tally)
        except InputError as error:
            tally.unread[index] = str(error)
            if on_unread is not None:
                on_unread(str(error))


def batches_of_problems(
    problems: Iterable[SliceProblem], settings: ReconSettings
) -> Iterator[list[SliceProblem]]:
    """Group slices in order; those that were sampled in another way start a new batch."""
    return _batches(problems, settings, lambda problem: problem.mask.shape)


def batches_of_indices(
    indices: Sequence[int], shapes: Sequence[tuple[int, ...]], settings: ReconSettings
) -> list[list[int]]:
    """Return the batches of :func:`batches_of_problems`, by what :func:`survey_slices` returns."""
    pairs = zip(indices, shapes, strict=True)
    return [[index for index, _ in batch] for batch in _batches(pairs, settings, lambda pair: pair[1])]


def slice_notes(result: Reconstruction) -> SliceNotes:
    """Return what was found out of a slice, for the output.

    Raises:
        SamplingError: the image has nothing to do with its data.
    """
    check_converged(result.index, result.doubts)
    problem = result.problem
    doubts = {doubt.kind: doubt.message for doubt in result.doubts}
    return SliceNotes(problem.noise, problem.noise_source, problem.map_source, doubts)


def run_provenance(
    identity: RunIdentity,
    settings: ReconSettings,
    manifest: ModelManifest | None,
    engine: Mapping[str, str],
    measured: Measured,
    timings_s: Timings,
    notes: Mapping[str, SliceNotes],
) -> Provenance:
    """Return how the images of a run came about, for the output."""
    model = ModelRecord() if manifest is None else model_record(identity.model, manifest)
    return Provenance(
        **{**vars(identity), "model": model},
        grid=GRID,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        engine=dict(engine),
        batch=settings.batch,
        measured=measured,
        timings_s=timings_s,
        notice=NOTICE,
        slice_notes=dict(notes),
    )


def model_record(identity: ModelIdentity, manifest: ModelManifest) -> ModelRecord:
    """Return a model with what its manifest says of it."""
    return ModelRecord(
        **vars(identity),
        training_data=manifest.training_data,
        intended_use=manifest.intended_use,
        noise_left=dict(manifest.noise_left),
    )


def _measure(scan: Scan, index: int, tally: Tally) -> BoolArray:
    kspace, calibration = scan.kspace.read_slice(index), scan.kspace.read_calibration(index)
    if isinstance(scan.kspace, NonCartesianKspace):
        tally.sampling = tally.sampling or describe_sampling(scan.kspace, kspace, index)
        return np.asarray((kspace != 0).any(axis=0))
    measured = measured_mask(kspace, index, scan.mask)
    _tell_sampling(measured, kspace, calibration, tally)
    return measured


def _tell_sampling(
    measured: BoolArray, kspace: ComplexArray, calibration: ComplexArray | None, tally: Tally
) -> None:
    if tally.sampling:
        return
    lines = measured if calibration is None else sampled_mask(calibration)
    block = calibration_block(lines, kspace.shape[-2:])
    tally.sampling = {
        "acceleration": effective_acceleration(measured),
        "calibration_lines": min(int(part.stop - part.start) for part in block),
    }


def _batches(items: Iterable[T], settings: ReconSettings, kind: Callable[[T], Hashable]) -> Iterator[list[T]]:
    size = settings.slices_a_batch
    for _, alike in itertools.groupby(items, key=kind):
        while batch := list(itertools.islice(alike, size)):
            yield batch


def _sampling_mask(settings: ReconSettings, kspace: KspaceSource) -> BoolArray | None:
    wanted = settings.undersampling
    if wanted is None:
        return kspace.mask
    try:
        lines = line_mask(
            kspace.n_columns,
            wanted.acceleration,
            wanted.pattern,
            seed=settings.seed,
            convention=wanted.convention,
        )
    except ValueError as error:
        raise InputError(f"{kspace.path}: cannot undersample: {error}") from error
    return lines if kspace.mask is None else np.logical_and(kspace.mask, lines)

"""An open k-space file and the steps of its reconstruction, for one process or for many that share it."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.kspace.sources import (
    KspaceSource,
    MapsSource,
    describe_measured,
    open_source,
    open_source_maps,
)
from sbim_deploy.models.folder import Model, ModelManifest
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.prepare import SliceProblem, measured_mask, prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.records import BoolArray
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.plan import Plan, plan_as_dict

NOTICE = "Research use only. Not for diagnosis."

T = TypeVar("T")


@dataclass(frozen=True)
class Scan:
    """An open k-space file, the slices of it that are wanted, its sampling mask and its maps if given."""

    kspace: KspaceSource
    indices: range
    mask: BoolArray | None
    maps: MapsSource | None


@dataclass
class Timings:
    """The time that the slices of a run took, in seconds."""

    preparation_s: float = 0.0
    sampling_s: float = 0.0


@contextmanager
def open_scan(kspace_path: Path, settings: ReconSettings) -> Iterator[Scan]:
    """Open a k-space file for a `with` statement.

    Raises:
        InputError: the file, the mask, the maps or the range of slices is not what it must be.
    """
    with ExitStack() as stack:
        kspace = stack.enter_context(open_source(kspace_path))
        indices = _slice_indices(settings.slices, kspace)
        mask = _sampling_mask(settings, kspace)
        yield Scan(kspace, indices, mask, _open_maps(settings, kspace, stack))


def make_reconstructor(settings: ReconSettings, model: Model) -> Reconstructor:
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
        settings.sd_factor,
    )


def check_slices(indices: Sequence[int], scan: Scan) -> None:
    """Read every slice once before the first is reconstructed: a bad one must not end hours of work.

    Raises:
        InputError: a slice is damaged or all zero.
    """
    for index in indices:
        if not scan.kspace.read_slice(index).any():
            raise InputError(
                f"{scan.kspace.path}: k-space of slice {index} is all zero: leave it out (--slices)"
            )
        if scan.maps is not None:
            scan.maps.read_maps(index)


def software_versions() -> dict[str, str]:
    """Return the versions that decide an image, beside the engine's."""
    return {
        "sbim-deploy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def run_identity(
    kspace_path: Path, settings: ReconSettings, model: Model, plan: Plan, backend: str
) -> dict[str, Any]:
    """Return what decides the image: a run resumes only one with the same."""
    undersampling = settings.undersampling
    return {
        "software": software_versions(),
        "input": {"name": kspace_path.name, "sha256": file_sha256(kspace_path)},
        "maps": None
        if settings.maps is None
        else {"name": settings.maps.name, "sha256": file_sha256(settings.maps)},
        "model": {"name": model.manifest.name, "digest": model.digest, "ema": model.manifest.ema},
        "backend": backend,
        "graph": settings.graph,
        "seed": settings.seed,
        "samples": settings.samples,
        "sd_factor": settings.sd_factor,
        "slices": settings.slices,
        "undersampling": None if undersampling is None else asdict(undersampling),
        "plan": plan_as_dict(plan),
    }


def describe_scan(scan: Scan) -> dict[str, Any]:
    """Return the acceleration and the calibration lines of the first slice, and where the maps are from."""
    first = scan.indices[0]
    return {
        **describe_measured(scan.kspace, first, _measured(scan, first)),
        "maps": "ESPIRiT" if scan.maps is None else "given",
    }


def slice_problems(indices: Iterable[int], scan: Scan, timings: Timings) -> Iterator[SliceProblem]:
    """Prepare slices one after another, as they are asked for."""
    for index in indices:
        before = time.perf_counter()
        problem = prepare_slice(
            scan.kspace.read_slice(index),
            index,
            scan.mask,
            None if scan.maps is None else scan.maps.read_maps(index),
            scan.kspace.recon_shape,
            scan.kspace.read_calibration(index) if scan.maps is None else None,
        )
        timings.preparation_s += time.perf_counter() - before
        yield problem


def batches_of_problems(
    problems: Iterable[SliceProblem], settings: ReconSettings
) -> Iterator[list[SliceProblem]]:
    """Group slices in order; those that were sampled in another way start a new batch."""
    return _batches(problems, settings, lambda problem: problem.mask.shape)


def batches_of_indices(indices: Iterable[int], scan: Scan, settings: ReconSettings) -> list[list[int]]:
    """Return the batches of :func:`batches_of_problems` without preparing the slices."""
    return list(_batches(indices, settings, lambda index: _measured(scan, index).shape))


def run_provenance(
    identity: Mapping[str, Any],
    settings: ReconSettings,
    manifest: ModelManifest,
    engine: Mapping[str, str],
    measured: Mapping[str, Any],
    timings_s: Mapping[str, Any],
) -> dict[str, Any]:
    """Return how the images of a run came about, for the output."""
    return {
        **identity,
        "model": {
            **identity["model"],
            "training_data": manifest.training_data,
            "intended_use": manifest.intended_use,
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": dict(engine),
        "batch": settings.batch,
        "measured": dict(measured),
        "timings_s": dict(timings_s),
        "notice": NOTICE,
    }


def _measured(scan: Scan, index: int) -> BoolArray:
    return measured_mask(scan.kspace.read_slice(index), index, scan.mask)


def _batches(items: Iterable[T], settings: ReconSettings, kind: Callable[[T], Hashable]) -> Iterator[list[T]]:
    size = max(1, settings.batch // settings.samples)
    for _, alike in itertools.groupby(items, key=kind):
        while batch := list(itertools.islice(alike, size)):
            yield batch


def _slice_indices(bounds: tuple[int, int] | None, kspace: KspaceSource) -> range:
    start, stop = bounds or (0, kspace.n_slices)
    if not 0 <= start < stop <= kspace.n_slices:
        raise InputError(
            f"{kspace.path}: slices {start}:{stop} asked for, expected a range within 0:{kspace.n_slices}"
        )
    return range(start, stop)


def _sampling_mask(settings: ReconSettings, kspace: KspaceSource) -> BoolArray | None:
    wanted = settings.undersampling
    if wanted is None:
        return kspace.mask
    try:
        lines = line_mask(kspace.n_columns, wanted.acceleration, wanted.pattern, seed=settings.seed)
    except ValueError as error:
        raise InputError(f"{kspace.path}: cannot undersample: {error}") from error
    return lines if kspace.mask is None else np.logical_and(kspace.mask, lines)


def _open_maps(settings: ReconSettings, kspace: KspaceSource, stack: ExitStack) -> MapsSource | None:
    if settings.maps is None:
        return None
    shapes = [(kspace.n_rows, kspace.n_columns)]
    if kspace.recon_shape is not None:
        # Maps of the readout that is kept will do.
        shapes.append((kspace.recon_shape[0], kspace.n_columns))
    return stack.enter_context(open_source_maps(settings.maps, kspace.n_slices, kspace.n_coils, shapes))

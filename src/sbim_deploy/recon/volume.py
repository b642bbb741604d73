"""A k-space file in, a reconstruction file out: slices stream through, so memory does not grow with them."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy

from sbim_deploy import __version__
from sbim_deploy.errors import InputError
from sbim_deploy.io.atomic import check_writable
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.io.results import ResultWriter
from sbim_deploy.mri.masks import PATTERNS, line_mask
from sbim_deploy.recon.model import DEMO, load_model
from sbim_deploy.recon.prepare import SliceProblem, measured_mask, prepare_slice
from sbim_deploy.recon.reconstruct import DEFAULT_GRAPH, OnResidual, Reconstructor
from sbim_deploy.recon.sources import (
    KspaceSource,
    MapsSource,
    describe_measured,
    open_source,
    open_source_maps,
)
from sbim_deploy.records import BoolArray
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.plan import plan_as_dict

NOTICE = "Research use only. Not for diagnosis."


@dataclass(frozen=True)
class Undersampling:
    """Lines to take away from a fully sampled file, for experiments."""

    pattern: str
    acceleration: float

    def __post_init__(self) -> None:
        """Check the pattern; the acceleration is checked against the file's lines."""
        if self.pattern not in PATTERNS:
            raise InputError(f"unknown pattern {self.pattern!r}: expected one of {', '.join(PATTERNS)}")


@dataclass(frozen=True)
class ReconSettings:
    """How to reconstruct a file; ``slices`` is a half-open range, None is all of them.

    ``batch`` counts the images in a call of the engine: slices, and with several ``samples`` those of a slice
    first.
    """

    model: str | Path = DEMO
    maps: Path | None = None
    choice: SamplerChoice = field(default_factory=SamplerChoice)
    seed: int = 0
    samples: int = 1
    slices: tuple[int, int] | None = None
    batch: int = 1
    backend: str = "auto"
    threads: int | None = None
    graph: str = DEFAULT_GRAPH
    undersampling: Undersampling | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("samples", self.samples), ("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1")


class Progress(Protocol):
    """What is told of a run while it goes on."""

    def started(self, n_slices: int, n_done: int, n_rows: int, engine: Mapping[str, str]) -> None:
        """Begin: the slices of the run, how many an earlier run has done, the calls of each over all samples.

        ``engine`` is the description of what runs the network.
        """

    def advanced(self, n_rows: int) -> None:
        """So many rows are done, over all slices of a batch and all samples."""


def reconstruct_file(
    kspace_path: Path,
    output_path: Path,
    settings: ReconSettings,
    progress: Progress | None = None,
    on_residual: OnResidual | None = None,
) -> dict[str, Any]:
    """Reconstruct a fastMRI or an MRD file and return the output's provenance.

    The output appears under its name when it is whole; a run that was stopped continues with ``resume``.
    ``on_residual`` hears of the residual after every row, which it costs time to compute.

    Raises:
        InputError: a file, the model or a setting is not what it must be.
        SamplingError: the sampler diverged.
        ChecksumError, BackendMissingError: see :func:`sbim_deploy.recon.model.load_model`.
    """
    started = time.perf_counter()
    check_writable(output_path)
    with ExitStack() as stack:
        kspace = stack.enter_context(open_source(kspace_path))
        indices = _slice_indices(settings.slices, kspace)
        mask = _sampling_mask(settings, kspace)
        maps = _open_maps(settings, kspace, stack)
        reconstructor = Reconstructor(
            load_model(settings.model),
            settings.choice,
            settings.seed,
            settings.backend,
            settings.threads,
            settings.graph,
            settings.samples,
            min(settings.samples, settings.batch),
        )
        identity = _identity(kspace_path, settings, reconstructor)
        writer = stack.enter_context(ResultWriter(output_path, identity, indices, settings.resume))
        pending = writer.pending
        _check_slices(pending, kspace, maps)
        measured = measured_mask(kspace.read_slice(indices[0]), indices[0], mask)
        if progress is not None:
            n_done, engine = len(indices) - len(pending), reconstructor.engine.description
            progress.started(len(indices), n_done, reconstructor.n_calls, engine)
        timings = _Timings()
        problems = _problems(pending, kspace, mask, maps, timings)
        for batch in _batches(problems, max(1, settings.batch // settings.samples)):
            before = time.perf_counter()
            on_row = None if progress is None else _row_counter(progress, len(batch))
            for result in reconstructor(batch, on_row, on_residual):
                writer.write(
                    result.index,
                    result.image,
                    result.zero_filled,
                    result.residual,
                    result.standard_deviation,
                )
            timings.sampling_s += time.perf_counter() - before
        provenance = {
            **identity,
            "model": {
                **identity["model"],
                "training_data": reconstructor.model.manifest.training_data,
                "intended_use": reconstructor.model.manifest.intended_use,
            },
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "engine": dict(reconstructor.engine.description),
            "batch": settings.batch,
            "measured": {
                **describe_measured(kspace, indices[0], measured),
                "maps": "ESPIRiT" if maps is None else "given",
            },
            "timings_s": {
                "total": round(time.perf_counter() - started, 3),
                "preparation": round(timings.preparation_s, 3),
                "sampling": round(timings.sampling_s, 3),
                "slices": len(pending),
            },
            "notice": NOTICE,
        }
        writer.finish(provenance)
    return provenance


@dataclass
class _Timings:
    """The time that the slices of a run took."""

    preparation_s: float = 0.0
    sampling_s: float = 0.0


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


def _check_slices(indices: Sequence[int], kspace: KspaceSource, maps: MapsSource | None) -> None:
    """Read every slice once before the first is reconstructed: a bad one must not end hours of work."""
    for index in indices:
        if not kspace.read_slice(index).any():
            raise InputError(f"{kspace.path}: k-space of slice {index} is all zero: leave it out (--slices)")
        if maps is not None:
            maps.read_maps(index)


def _open_maps(settings: ReconSettings, kspace: KspaceSource, stack: ExitStack) -> MapsSource | None:
    if settings.maps is None:
        return None
    shapes = [(kspace.n_rows, kspace.n_columns)]
    if kspace.recon_shape is not None:
        # Maps of the readout that is kept will do.
        shapes.append((kspace.recon_shape[0], kspace.n_columns))
    return stack.enter_context(open_source_maps(settings.maps, kspace.n_slices, kspace.n_coils, shapes))


def _identity(kspace_path: Path, settings: ReconSettings, reconstructor: Reconstructor) -> dict[str, Any]:
    """Return what decides the image: a run resumes only one with the same."""
    model = reconstructor.model
    undersampling = settings.undersampling
    return {
        "software": {
            "sbim-deploy": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "input": {"name": kspace_path.name, "sha256": file_sha256(kspace_path)},
        "maps": None
        if settings.maps is None
        else {"name": settings.maps.name, "sha256": file_sha256(settings.maps)},
        "model": {"name": model.manifest.name, "digest": model.digest, "ema": model.manifest.ema},
        "backend": reconstructor.engine.description["backend"],
        "graph": reconstructor.graph,
        "seed": settings.seed,
        "samples": settings.samples,
        "slices": settings.slices,
        "undersampling": None if undersampling is None else asdict(undersampling),
        "plan": plan_as_dict(reconstructor.plan),
    }


def _problems(
    indices: Sequence[int],
    kspace: KspaceSource,
    mask: BoolArray | None,
    maps: MapsSource | None,
    timings: _Timings,
) -> Iterator[SliceProblem]:
    for index in indices:
        before = time.perf_counter()
        problem = prepare_slice(
            kspace.read_slice(index),
            index,
            mask,
            None if maps is None else maps.read_maps(index),
            kspace.recon_shape,
            kspace.read_calibration(index) if maps is None else None,
        )
        timings.preparation_s += time.perf_counter() - before
        yield problem


def _batches(problems: Iterator[SliceProblem], size: int) -> Iterator[list[SliceProblem]]:
    """Group slices in order, ``size`` together; slices that were sampled in another way start a new batch."""
    for _, alike in itertools.groupby(problems, key=lambda problem: problem.mask.shape):
        while batch := list(itertools.islice(alike, size)):
            yield batch


def _row_counter(progress: Progress, n_slices: int) -> Callable[[int], None]:
    counted = 0

    def on_row(n_calls: int) -> None:
        nonlocal counted
        progress.advanced((n_calls - counted) * n_slices)
        counted = n_calls

    return on_row

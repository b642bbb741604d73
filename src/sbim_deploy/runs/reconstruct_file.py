"""A k-space file in, a reconstruction file out: slices stream through, so memory does not grow with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from sbim_deploy.io.atomic import check_writable
from sbim_deploy.models.folder import load_model
from sbim_deploy.recon.reconstruct import OnResidual
from sbim_deploy.results.result_file import ResultWriter
from sbim_deploy.runs.scan import (
    Timings,
    batches_of_problems,
    check_slices,
    describe_scan,
    make_reconstructor,
    open_scan,
    run_identity,
    run_provenance,
    slice_problems,
)
from sbim_deploy.runs.settings import ReconSettings


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
    """Reconstruct a k-space file and return the output's provenance.

    The output appears under its name when it is whole; a run that was stopped continues with ``resume``.
    ``on_residual`` hears of the residual after every row, which it costs time to compute.

    Raises:
        InputError: a file, the model or a setting is not what it must be.
        SamplingError: the sampler diverged.
        ChecksumError, BackendMissingError: see :func:`sbim_deploy.models.folder.load_model`.
    """
    started = time.perf_counter()
    check_writable(output_path)
    with ExitStack() as stack:
        scan = stack.enter_context(open_scan(kspace_path, settings))
        reconstructor = make_reconstructor(settings, load_model(settings.model))
        engine = reconstructor.engine.description
        identity = run_identity(
            kspace_path, settings, reconstructor.model, reconstructor.plan, engine["backend"]
        )
        writer = stack.enter_context(ResultWriter(output_path, identity, scan.indices, settings.resume))
        pending = writer.pending
        check_slices(pending, scan)
        measured = describe_scan(scan)
        if progress is not None:
            n_slices = len(scan.indices)
            progress.started(n_slices, n_slices - len(pending), reconstructor.n_calls, engine)
        timings = Timings()
        for batch in batches_of_problems(slice_problems(pending, scan, timings), settings):
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
        timings_s = {
            "total": round(time.perf_counter() - started, 3),
            "preparation": round(timings.preparation_s, 3),
            "sampling": round(timings.sampling_s, 3),
            "slices": len(pending),
        }
        manifest = reconstructor.model.manifest
        provenance = run_provenance(identity, settings, manifest, engine, measured, timings_s)
        writer.finish(provenance)
    return provenance


def _row_counter(progress: Progress, n_slices: int) -> Callable[[int], None]:
    counted = 0

    def on_row(n_calls: int) -> None:
        nonlocal counted
        progress.advanced((n_calls - counted) * n_slices)
        counted = n_calls

    return on_row

"""A k-space file in, a reconstruction file out: slices stream through, so memory does not grow with them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from sbim_deploy.errors import InputError
from sbim_deploy.io.locks import owning_file
from sbim_deploy.kspace.along_trajectory import NonCartesianKspace
from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.models.folder import Model, load_model
from sbim_deploy.recon.reconstruct import ClassicalReconstructor, OnResidual, Reconstructor
from sbim_deploy.recon.streams import count_streams, work_bytes
from sbim_deploy.results.provenance import Provenance, Timings
from sbim_deploy.results.result_file import ResultWriter, check_result_place
from sbim_deploy.runs.scan import (
    Scan,
    Tally,
    batches_of_problems,
    describe_scan,
    make_reconstructor,
    open_scan,
    readable_problems,
    run_identity,
    run_provenance,
    slice_notes,
)
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.side_by_side import Reconstruct, reconstruct_batches
from sbim_deploy.runs.through_plane import reconstruct_together
from sbim_deploy.runs.trajectories import settings_for
from sbim_deploy.runs.whole_volume import open_input
from sbim_deploy.samplers.plan import Plan
from sbim_deploy.words import plural


class Progress(Protocol):
    """What is told of a run while it goes on."""

    def started(self, n_slices: int, n_done: int, n_calls: int, engine: Mapping[str, str]) -> None:
        """Begin: the slices of the run, how many an earlier run has done, the calls of each over all samples.

        ``engine`` is the description of what runs the network.
        """

    def advanced(self, n_calls: int) -> None:
        """So many more network calls are done, over all slices of a batch and all samples.

        Where slices are reconstructed side by side this is called in their threads, one at a time.
        """

    def doubted(self, index: int, doubts: Mapping[str, str]) -> None:
        """A slice's image is doubtful, for these reasons by their short names."""

    def left_out(self, reason: str) -> None:
        """A slice cannot be read; the run goes on with the others."""


def reconstruct_file(
    kspace_path: Path,
    output_path: Path,
    settings: ReconSettings,
    progress: Progress | None = None,
    on_residual: OnResidual | None = None,
) -> Provenance:
    """Open a k-space file, reconstruct it and return the output's provenance; see :func:`reconstruct`.

    Raises:
        InputError: see :func:`sbim_deploy.kspace.sources.open_source` and :func:`reconstruct`.
        SamplingError, ChecksumError, BackendMissingError: see :func:`reconstruct`.
    """
    with (
        owning_file(output_path),
        open_input(kspace_path, output_path, settings) as source,
    ):
        return reconstruct(source, output_path, settings, progress, on_residual)


def reconstruct(
    source: KspaceSource,
    output_path: Path,
    settings: ReconSettings,
    progress: Progress | None = None,
    on_residual: OnResidual | None = None,
) -> Provenance:
    """Reconstruct an open k-space file and return the output's provenance.

    The caller sees to it that no other run writes the output: :func:`sbim_deploy.io.locks.owning_file`.

    The output appears under its name when it is whole; a run that was stopped continues with ``resume``.
    ``on_residual`` hears of the residual after every step, which it costs time to compute. A backend that
    gains by it reconstructs slices side by side (:mod:`sbim_deploy.runs.side_by_side`).

    A slice that cannot be read does not stop the others, whose images are kept; an error tells of it at the
    end. Where nothing else is left to do, ``resume`` writes the output without it, and the provenance says
    so under ``left_out``.

    Raises:
        InputError: a file, a slice, the model or a setting is not what it must be.
        SamplingError: the sampler diverged.
        ChecksumError, BackendMissingError: see :func:`sbim_deploy.models.folder.load_model`.
    """
    started = time.perf_counter()
    check_result_place(output_path, settings.resume, settings.force)
    settings = settings_for(source, settings)
    with ExitStack() as stack:
        scan = stack.enter_context(open_scan(source, settings))
        reconstructor: Reconstruct
        model: Model | None = None
        plan: Plan | None = None
        if settings.method is None:
            model = load_model(settings.model)
            sampler = make_reconstructor(settings, model, _count_streams(scan, settings, model))
            reconstructor, plan, engine = sampler, sampler.plan, sampler.engine.description
        else:
            classical = ClassicalReconstructor(settings.method)
            reconstructor, engine = classical, classical.description
        identity = run_identity(source, settings, model, plan, engine["backend"])
        writer = stack.enter_context(
            ResultWriter(output_path, identity.as_dict(), scan.indices, settings.resume, settings.force)
        )
        pending = writer.pending
        if progress is not None:
            n_slices, n_calls = len(scan.indices), reconstructor.n_calls
            n_done = n_slices - len(pending)
            if settings.through_plane and pending:
                # The finished ones are made again with the others, and each waits for all to be prepared.
                n_done, n_calls = 0, n_calls + 1
            progress.started(n_slices, n_done, n_calls, engine)
        tally = Tally()
        on_unread = None if progress is None else progress.left_out
        on_calls = None if progress is None else progress.advanced
        if settings.through_plane and isinstance(reconstructor, Reconstructor):
            made = reconstruct_together(
                reconstructor, scan, tally, output_path.parent, settings.batch, pending, on_calls, on_unread
            )
        else:
            problems = readable_problems(pending, scan, tally, on_unread)
            batches = batches_of_problems(problems, settings)
            made = reconstruct_batches(reconstructor, batches, on_calls, on_residual)
        with closing(made) as done:
            for results, seconds in done:
                before = time.perf_counter()
                for result in results:
                    notes = slice_notes(result)
                    writer.write(
                        result.index,
                        result.image,
                        result.zero_filled,
                        result.residual,
                        result.standard_deviation,
                        notes,
                    )
                    if progress is not None and notes.doubts:
                        progress.doubted(result.index, notes.doubts)
                tally.sampling_s += seconds + time.perf_counter() - before
        _leave_out(tally.unread, writer, pending, source.path)
        timings_s = Timings(
            total=round(time.perf_counter() - started, 3),
            preparation=round(tally.preparation_s, 3),
            sampling=round(tally.sampling_s, 3),
            slices=len(pending) - len(tally.unread),
        )
        measured = describe_scan(scan, tally)
        manifest = None if model is None else model.manifest
        provenance = run_provenance(identity, settings, manifest, engine, measured, timings_s, writer.notes)
        left_out = {str(index): reason for index, reason in tally.unread.items()}
        provenance = replace(provenance, left_out=left_out)
        writer.finish(provenance.as_dict())
    return provenance


def _count_streams(scan: Scan, settings: ReconSettings, model: Model) -> int:
    """Return how many batches of a scan are reconstructed side by side, where the backend gains by that.

    All slices count, those too that a run has finished before it was stopped: the number decides the threads
    of each, and those the last bits of an image. Along a trajectory the Fourier transforms take the threads.
    """
    kspace = scan.kspace
    if isinstance(kspace, NonCartesianKspace):
        return 1
    shape = (kspace.n_coils, kspace.n_rows, kspace.n_columns)
    batch_bytes = settings.batch * scan.map_sets * work_bytes(shape, model.manifest.ngf)
    n_batches = -(-len(scan.indices) // settings.slices_a_batch)
    return count_streams(n_batches, batch_bytes, settings.threads)


def _leave_out(unread: Mapping[int, str], writer: ResultWriter, pending: Sequence[int], path: Path) -> None:
    """Leave slices out of the output where all others are done; InputError where that is news to the user."""
    if not unread:
        return
    reason = next(iter(unread.values()))
    n_done = len(writer.slice_indices) - len(unread)
    if not n_done:
        raise InputError(reason)
    if len(unread) < len(pending):
        raise InputError(
            f"{path}: {len(unread)} of {plural(len(writer.slice_indices), 'slice')} cannot be read "
            f"({reason.removeprefix(f'{path}: ')}); the other {n_done} are finished and kept, and --resume "
            "writes them without"
        )
    writer.leave_out(unread)

"""A k-space file in, a reconstruction file out: slices stream through, so memory does not grow with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from sbim_deploy.errors import InputError
from sbim_deploy.io.locks import owning_file
from sbim_deploy.kspace.sources import KspaceSource
from sbim_deploy.models.folder import load_model
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import ClassicalReconstructor, OnResidual, Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction
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
from sbim_deploy.runs.through_plane import reconstruct_together
from sbim_deploy.runs.trajectories import settings_for
from sbim_deploy.runs.whole_volume import open_input
from sbim_deploy.words import plural


class Progress(Protocol):
    """What is told of a run while it goes on."""

    def started(self, n_slices: int, n_done: int, n_calls: int, engine: Mapping[str, str]) -> None:
        """Begin: the slices of the run, how many an earlier run has done, the calls of each over all samples.

        ``engine`` is the description of what runs the network.
        """

    def advanced(self, n_calls: int) -> None:
        """So many network calls are done, over all slices of a batch and all samples."""

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
    ``on_residual`` hears of the residual after every step, which it costs time to compute.

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
        reconstructor: Reconstructor | ClassicalReconstructor
        if settings.method is None:
            reconstructor = make_reconstructor(settings, load_model(settings.model))
            model, plan, engine = reconstructor.model, reconstructor.plan, reconstructor.engine.description
        else:
            reconstructor = ClassicalReconstructor(settings.method)
            model, plan, engine = None, None, reconstructor.description
        identity = run_identity(source.path, settings, model, plan, engine["backend"])
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
        batches: Iterator[Sequence[Reconstruction]]
        if settings.through_plane and isinstance(reconstructor, Reconstructor):
            batches = _together(reconstructor, scan, tally, output_path.parent, settings, pending, progress)
        else:
            problems = readable_problems(pending, scan, tally, on_unread)
            batches = _one_by_one(reconstructor, problems, settings, progress, on_residual)
        while True:
            before = time.perf_counter()
            results = next(batches, None)
            if results is None:
                break
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
            tally.sampling_s += time.perf_counter() - before
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


def _one_by_one(
    reconstructor: Reconstructor | ClassicalReconstructor,
    problems: Iterator[SliceProblem],
    settings: ReconSettings,
    progress: Progress | None,
    on_residual: OnResidual | None,
) -> Iterator[Sequence[Reconstruction]]:
    for batch in batches_of_problems(problems, settings):
        on_step = None if progress is None else _call_counter(progress, len(batch))
        yield reconstructor(batch, on_step, on_residual)


def _together(
    reconstructor: Reconstructor,
    scan: Scan,
    tally: Tally,
    folder: Path,
    settings: ReconSettings,
    pending: Sequence[int],
    progress: Progress | None,
) -> Iterator[Sequence[Reconstruction]]:
    if not pending:
        return
    on_call = (lambda _: None) if progress is None else _call_counter(progress, 1)
    on_unread = None if progress is None else progress.left_out
    for result in reconstruct_together(
        reconstructor, scan, tally, folder, settings.batch, on_call, on_unread
    ):
        if result.index in pending:
            yield [result]


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


def _call_counter(progress: Progress, n_slices: int) -> Callable[[int], None]:
    counted = 0

    def on_step(n_calls: int) -> None:
        nonlocal counted
        progress.advanced((n_calls - counted) * n_slices)
        counted = n_calls

    return on_step

"""A 3-D scan whose slices are reconstructed together: they wait on disk and are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.slice_store import SliceStore
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.reconstruction import Reconstruction
from sbim_deploy.recon.through_plane import plane_directions, reconstruct_through_planes
from sbim_deploy.runs.scan import Scan, Tally, readable_problems


def reconstruct_together(
    reconstructor: Reconstructor,
    scan: Scan,
    tally: Tally,
    folder: Path,
    planes_at_once: int,
    on_call: Callable[[int], None] = lambda _calls: None,
    on_unread: Callable[[str], None] | None = None,
) -> Iterator[Reconstruction]:
    """Reconstruct the slices of a volume together, and yield them in their order.

    Args:
        reconstructor: the model and the plan, on the graph ``score``.
        scan: the volume, and which of its slices are wanted.
        tally: gets what is met.
        folder: where the slices wait, in a file without a name.
        planes_at_once: planes in a call of the engine.
        on_call: gets how many network calls are done, over all slices; a slice's preparation counts as one.
        on_unread: hears why a slice cannot be read. The prior fills it in, and it is not yielded.

    Raises:
        InputError: there is no room; see :func:`reconstruct_through_planes`.
        SamplingError: the sampler diverged.
    """
    directions = _directions(scan)
    n_slices = len(scan.indices)
    with closing(_KeptSlices(folder, n_slices)) as kept:
        for n_done, problem in enumerate(readable_problems(scan.indices, scan, tally, on_unread), 1):
            kept.keep(problem.index - scan.indices.start, problem)
            on_call(n_done)
        n_calls = n_slices * len(reconstructor.plan.steps)
        yield from reconstruct_through_planes(
            reconstructor,
            n_slices,
            kept.read,
            directions,
            planes_at_once,
            lambda share: on_call(n_slices + round(share * n_calls)),
        )


def _directions(scan: Scan) -> tuple[int, ...]:
    """Return the axes of (slice, row, column) that planes lie across."""
    if scan.kspace.voxel_mm is None:
        return plane_directions(None)
    row, column, along = scan.kspace.voxel_mm
    try:
        return plane_directions((along, row, column))
    except InputError as error:
        raise InputError(f"{scan.kspace.path}: {error}") from error


class _KeptSlices:
    """Slices in a temporary file: the arrays of one are in memory at a time."""

    def __init__(self, folder: Path, n_slices: int) -> None:
        self._folder = folder
        self._store: SliceStore | None = None
        self._rest: list[SliceProblem | None] = [None] * n_slices

    def close(self) -> None:
        """Give the space back."""
        if self._store is not None:
            self._store.close()

    def keep(self, place: int, problem: SliceProblem) -> None:
        """Keep a slice.

        Raises:
            InputError: there is no room.
        """
        arrays = np.concatenate([problem.kspace, problem.maps, problem.mvue[None]])
        if self._store is None:
            self._store = SliceStore(self._folder, len(self._rest), len(arrays), arrays.shape[1:])
        self._store.write_slice(place, arrays)
        nothing = np.empty(0, np.complex64)
        self._rest[place] = replace(problem, kspace=nothing, maps=nothing, mvue=nothing)

    def read(self, place: int) -> SliceProblem | None:
        """Read a slice; None is one that was not kept."""
        problem = self._rest[place]
        if problem is None or self._store is None:
            return None
        arrays = self._store.read(place)
        n_coils = len(arrays) // 2
        return replace(
            problem, kspace=arrays[:n_coils], maps=arrays[n_coils : 2 * n_coils], mvue=arrays[2 * n_coils]
        )

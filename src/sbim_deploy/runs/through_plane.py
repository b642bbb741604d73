"""A 3-D scan whose slices are reconstructed together: they wait on disk and are read one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from sbim_deploy.kspace.slice_store import SliceStore
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.through_plane import reconstruct_through_planes
from sbim_deploy.runs.scan import Scan, Tally, readable_problems
from sbim_deploy.runs.side_by_side import Done
from sbim_deploy.runs.whole_volume import plane_directions_of


def reconstruct_together(
    reconstructor: Reconstructor,
    scan: Scan,
    tally: Tally,
    folder: Path,
    planes_at_once: int,
    wanted: Sequence[int],
    on_calls: Callable[[int], None] | None = None,
    on_unread: Callable[[str], None] | None = None,
) -> Generator[Done, None, None]:
    """Reconstruct the slices of a volume together, and yield those that are wanted in their order.

    Args:
        reconstructor: the model and the plan, on the graph ``score``.
        scan: the volume, and which of its slices are taken.
        tally: gets what is met.
        folder: where the slices wait, in a file without a name.
        planes_at_once: planes in a call of the engine.
        wanted: the slices to yield; where there are none that can be read, nothing is reconstructed.
        on_calls: hears of so many more network calls, over all slices; a slice's preparation counts as one.
        on_unread: hears why a slice cannot be read. The prior fills it in, and it is not yielded.

    Raises:
        InputError: there is no room; see :func:`sbim_deploy.runs.whole_volume.plane_directions_of` and
            :func:`reconstruct_through_planes`.
        SamplingError: the sampler diverged.
    """
    if not wanted:
        return
    n_slices = len(scan.indices)
    directions = plane_directions_of(scan.kspace, n_slices)
    n_calls, n_told = n_slices * len(reconstructor.plan.steps), 0

    def tell(share: float) -> None:
        nonlocal n_told
        n_more = round(share * n_calls) - n_told
        n_told += n_more
        if on_calls is not None and n_more:
            on_calls(n_more)

    with closing(KeptSlices(folder, n_slices)) as kept:
        for problem in readable_problems(scan.indices, scan, tally, on_unread):
            kept.keep(problem.index - scan.indices.start, problem)
            if on_calls is not None:
                on_calls(1)
        if tally.unread.keys() >= set(wanted):
            return
        before = time.perf_counter()
        results = reconstruct_through_planes(
            reconstructor, n_slices, kept.read, directions, planes_at_once, tell
        )
        for result in results:
            if result.index in wanted:
                yield [result], time.perf_counter() - before
                before = time.perf_counter()


class KeptSlices:
    """Slices in a temporary file: the arrays of one are in memory at a time.

    Attributes:
        folder: where the file is, without a name.
        n_slices: how many there are, some of which may not be kept.
    """

    def __init__(self, folder: Path, n_slices: int) -> None:
        self.folder, self.n_slices = folder, n_slices
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
            self._store = SliceStore(self.folder, self.n_slices, len(arrays), arrays.shape[1:])
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

    def read_kept(self, place: int) -> SliceProblem:
        """Read a slice of which it is known that it was kept."""
        problem = self.read(place)
        if problem is None:
            raise ValueError(f"slice {place} was not kept")
        return problem

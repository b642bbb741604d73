"""Many slices at once, drawn by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from functools import partial

import numpy as np

from sbim_deploy.records import ComplexArray
from sbim_deploy.training.brains import held_out_slice, training_slice
from sbim_deploy.training.tissues import Tissues, load_tissues

DrawSlice = Callable[[Tissues, int, int], ComplexArray]

# A process loads its own maps: below this many slices that takes longer than drawing them.
MIN_SLICES_A_WORKER = 128


def training_pool(n_slices: int, size: int) -> ComplexArray:
    """Return the first training slices (n_slices, size, size)."""
    return _draw(training_slice, n_slices, size)


def held_out_pool(n_slices: int, size: int) -> ComplexArray:
    """Return the first held-out slices (n_slices, size, size)."""
    return _draw(held_out_slice, n_slices, size)


def _draw(draw_slice: DrawSlice, n_slices: int, size: int) -> ComplexArray:
    draw = partial(_slice, draw_slice, size)
    n_workers = min(os.cpu_count() or 1, n_slices // MIN_SLICES_A_WORKER)
    pool = np.empty((n_slices, size, size), np.complex64)
    if n_workers < 2:
        for index in range(n_slices):
            pool[index] = draw(index)
        return pool
    with multiprocessing.get_context("spawn").Pool(n_workers, _use_one_thread) as workers:
        for index, image in enumerate(workers.imap(draw, range(n_slices), chunksize=16)):
            pool[index] = image
    return pool


def _slice(draw_slice: DrawSlice, size: int, index: int) -> ComplexArray:
    # The maps are loaded here, once in each worker, rather than sent to it.
    return draw_slice(load_tissues(), index, size)


def _use_one_thread() -> None:
    # Many processes with many BLAS threads each are ten times slower; comes with nilearn.
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)

"""How fast the synthetic brains are drawn, and the batches that augment them: docs/training.md.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/generation.py [--slices 256] [--workers 2]

Slices for each second that one process has a core, which other work on the machine changes less; slices a
second on the clock by a pool of workers, with the time that they take to start; then ``training_batch`` on
one core, from a pool of 256. Needs the extra train.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from sbim_deploy.training import brains as pool
from sbim_deploy.training.brains import training_slice
from sbim_deploy.training.dsm import detail_draw, training_batch
from sbim_deploy.training.tissues import load_tissues

SIZES = (128, 256)
BATCH, N_BATCHES, N_POOL = 32, 20, 256


def core_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def slices_a_core_second(size: int, n_slices: int) -> float:
    tissues = load_tissues()
    training_slice(tissues, 0, size)
    return n_slices / core_seconds(
        lambda: [training_slice(tissues, index, size) for index in range(n_slices)]
    )


def pooled_slices_a_second(size: int, n_slices: int) -> float:
    start = time.perf_counter()
    pool.training_pool(n_slices, size)
    return n_slices / (time.perf_counter() - start)


def batches_a_core_second(size: int) -> float:
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((N_POOL, size, size, 2), dtype=np.float32)
    images = torch.view_as_complex(torch.from_numpy(parts))

    def draw(steps: range) -> None:
        for step in steps:
            training_batch([images], BATCH, detail_draw(50.0, 0.01), 0, step)

    draw(range(2))
    return N_BATCHES / core_seconds(lambda: draw(range(2, 2 + N_BATCHES)))


def main() -> None:
    """Print a row for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slices", type=int, default=256)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n_slices, n_workers = arguments.slices, arguments.workers
    pool.MIN_SLICES_A_WORKER = 1
    os.cpu_count = lambda: n_workers

    row("what", [f"{size} x {size}" for size in SIZES])
    row("---", ["---"] * len(SIZES))
    row("slices a second of a core", [f"{slices_a_core_second(size, n_slices):.1f}" for size in SIZES])
    pooled = [f"{pooled_slices_a_second(size, n_slices):.1f}" for size in SIZES]
    row(f"slices a second, {n_workers} workers and their start", pooled)
    batches = [batches_a_core_second(size) for size in SIZES]
    row(f"batches of {BATCH} a second of a core", [f"{rate:.1f}" for rate in batches])
    row("images a second of a core, in batches", [f"{BATCH * rate:.0f}" for rate in batches])


def row(name: str, cells: list[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

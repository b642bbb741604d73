"""What a slice costs where many wait: one after the other, in batches, in streams, and in processes.

    python benchmarks/throughput.py demo [--size 128x128] [--coils 8] [--precision fp32] [--rounds 3]

Every way reconstructs the same slices with the same preset on the same cores; a way with n streams or
processes gives each of them its share of the threads. Streams are those of `recon`, by the code that runs
them there. Ways take turns, each after a warm-up that opens and compiles its graphs, and the least of the
rounds counts. Slices are prepared phantoms whose maps are given.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from sbim_deploy.cli.sizes import parse_size
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.recon.parity import phantom_problem
from sbim_deploy.recon.prepare import SliceProblem
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.runs.bench import ACCELERATION, peak_memory_mb
from sbim_deploy.runs.side_by_side import reconstruct_batches

_kept: Reconstructor | None = None


def opened(folder: Path, precision: str, threads: int, streams: int = 1) -> Reconstructor:
    """Return what reconstructs a batch of slices by the default preset on so many threads."""
    return Reconstructor(load_model(folder), threads=threads, precision=precision, streams=streams)


def begin(folder: Path, precision: str, threads: int) -> None:
    """Open the model in a process of its own."""
    global _kept
    _kept = opened(folder, precision, threads)


def reconstruct_there(problems: Sequence[SliceProblem]) -> float | None:
    """Reconstruct a batch in such a process, and return the most memory that it has held."""
    assert _kept is not None
    _kept(problems)
    return peak_memory_mb()


def batched(problems: Sequence[SliceProblem], size: int) -> list[Sequence[SliceProblem]]:
    return [problems[first : first + size] for first in range(0, len(problems), size)]


def run_batches(reconstructor: Reconstructor, size: int, problems: Sequence[SliceProblem]) -> None:
    for _ in reconstruct_batches(reconstructor, batched(problems, size)):
        pass


def run_processes(pool: Executor, problems: Sequence[SliceProblem]) -> None:
    list(pool.map(reconstruct_there, batched(problems, 1)))


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="a model folder, or demo")
    parser.add_argument("--size", type=parse_size, default=(128, 128))
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 4])
    arguments = parser.parse_args()

    cores = len(os.sched_getaffinity(0))
    if arguments.slices < 1 or arguments.slices % cores:
        parser.error(f"--slices is {arguments.slices}: expected a multiple of the {cores} cores")
    folder = DEMO_FOLDER if arguments.model == "demo" else Path(arguments.model)
    problems = [
        phantom_problem(arguments.size, arguments.coils, ACCELERATION, seed)
        for seed in range(arguments.slices)
    ]
    with ExitStack() as stack:
        whole = opened(folder, arguments.precision, cores)
        ways: dict[str, Callable[[Sequence[SliceProblem]], None]] = {
            f"one after the other, {cores} threads": partial(run_batches, whole, 1)
        }
        for size in arguments.batches:
            ways[f"batches of {size}, {cores} threads"] = partial(run_batches, whole, size)
        if cores > 1:
            streams = opened(folder, arguments.precision, cores, cores)
            if streams.streams != cores:
                parser.error(f"{streams.engine.description['backend']} computes one slice at a time")
            ways[f"{cores} streams, 1 thread each"] = partial(run_batches, streams, 1)
            processes = stack.enter_context(
                ProcessPoolExecutor(
                    cores, get_context("spawn"), initializer=begin, initargs=(folder, arguments.precision, 1)
                )
            )
            ways[f"{cores} processes, 1 thread each"] = partial(run_processes, processes)
        for way in ways.values():
            way(problems)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                taken[name].append(seconds(partial(way, problems)))
        first = min(next(iter(taken.values())))
        for name, each in taken.items():
            least = min(each)
            print(f"{name}: {least / len(problems):.3f} s a slice, {least / first:.2f} of the first")
        print(f"memory of this process: {peak_memory_mb():.0f} MB")


if __name__ == "__main__":
    main()

"""What a biobank costs, and what binds as workers grow: docs/scale.md.

    python benchmarks/scale.py --slice-s 0.82 [--workers 1,10,100,1000] [--NAME VALUE ...]
    sbim-deploy bench MODEL --size 320x320 --coils 16 --json > bench.json
    python benchmarks/scale.py --bench bench.json --backend openvino

Every figure that it does not compute is an argument; --help says where its default comes from. The cost is
arithmetic. What binds is found twice: by the limits that the arithmetic gives, and by a simulation of
workers that ask one scheduler for tasks and read and write through one file system.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

GB, TB, HOUR = 1e9, 1e12, 3600.0
TASKS_A_WORKER, MIN_TASKS, JITTER = 24, 400, 0.2


def _assumed(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": f"{text}; default {default:g}"})


@dataclass(frozen=True)
class Study:
    """The study and what it runs on; every field is an argument."""

    slice_s: float = _assumed(1.0, "seconds of a worker's GPU (or processor) for a slice: measured, by bench")
    prepare_s: float = _assumed(
        0.1, "seconds outside it for a slice: 0.07 for the maps (docs/results.md), the rest an assumption"
    )
    volumes: float = _assumed(100_000, "volumes: UK Biobank has imaged 100,000 people")
    slices: float = _assumed(100, "slices of a volume: assumption")
    coils: float = _assumed(16, "coils: assumption")
    rows: float = _assumed(640, "samples of a readout, with its oversampling: assumption")
    columns: float = _assumed(320, "lines of a slice, complex64, stored whole: assumption")
    image_side: float = _assumed(320, "rows and columns of an image: assumption")
    output_bytes: float = _assumed(17.2, "bytes a pixel: a result file of 4 slices of 64 x 64 has 281,960")
    slices_a_task: float = _assumed(10, "slices of a task: assumption")
    tasks_s: float = _assumed(
        1000, "tasks a second of a scheduler: distributed.dask.org says about 1 ms a task"
    )
    files_gbs: float = _assumed(10, "GB/s of the shared file system: assumption")
    link_gbs: float = _assumed(1.25, "GB/s of a worker's network, 10 Gbit/s: assumption")
    gpu_price: float = _assumed(2.0, "currency for an hour of a worker: assumption")
    egress_price: float = _assumed(0.09, "currency for a GB that leaves the cloud: assumption")

    def __post_init__(self) -> None:
        """Refuse what is no positive number."""
        for each in fields(self):
            if not 0 < getattr(self, each.name) < 1e18 and each.name not in (
                "prepare_s",
                "egress_price",
                "gpu_price",
            ):
                raise SystemExit(
                    f"--{each.name.replace('_', '-')} is {getattr(self, each.name)}: expected more than 0"
                )


@dataclass(frozen=True)
class Outcome:
    """What a simulation came to: slices a second, and how busy each part was, from 0 to 1."""

    slices_s: float
    workers: float
    files: float
    scheduler: float

    @property
    def binding(self) -> str:
        """The busiest part."""
        return max(("workers", "files", "scheduler"), key=lambda name: float(getattr(self, name)))


def bytes_a_slice(study: Study) -> tuple[float, float]:
    """Return the bytes that a slice's k-space and its images have."""
    return study.coils * study.rows * study.columns * 8, study.image_side**2 * study.output_bytes


def limits(study: Study, workers: int) -> dict[str, float]:
    """Return the slices a second that each part could do if the others took no time."""
    return {
        "workers": workers / busy_s(study),
        "files": study.files_gbs * GB / sum(bytes_a_slice(study)),
        "scheduler": study.tasks_s * study.slices_a_task,
    }


def busy_s(study: Study) -> float:
    """Return the seconds of a slice in a worker that is alone: it reads, computes and writes in turn."""
    alone = min(study.link_gbs, study.files_gbs) * GB
    return study.slice_s + study.prepare_s + sum(bytes_a_slice(study)) / alone


class SharedLink:
    """A file system that gives each of n transfers the same, the smaller of a worker's link and its n-th."""

    def __init__(self, total: float, each: float):
        self._total, self._each = total, each
        self._transfers: list[tuple[float, int]] = []
        self._given = 0.0  # bytes that a transfer would have had that was there from the start
        self._now = 0.0
        self.moved = 0.0

    def start(self, now: float, n_bytes: float, who: int) -> None:
        """Begin a transfer."""
        self.go_to(now)
        heapq.heappush(self._transfers, (self._given + n_bytes, who))

    def next_end(self) -> float:
        """Return when the next transfer is over, if no other begins."""
        if not self._transfers:
            return float("inf")
        return self._now + max(0.0, self._transfers[0][0] - self._given) / self._rate()

    def finish(self, now: float) -> int:
        """Return whose transfer is over."""
        self.go_to(now)
        return heapq.heappop(self._transfers)[1]

    def go_to(self, now: float) -> None:
        """Move the bytes of the time that has passed."""
        if self._transfers:
            given = (now - self._now) * self._rate()
            self._given += given
            self.moved += given * len(self._transfers)
        self._now = now

    def _rate(self) -> float:
        return min(self._each, self._total / len(self._transfers))


def simulate(study: Study, workers: int, seed: int = 0) -> Outcome:
    """Run tasks through workers: from the scheduler, reading, computing, writing; its middle half counts."""
    rng = random.Random(seed)
    read, write = (n * study.slices_a_task for n in bytes_a_slice(study))
    compute = (study.slice_s + study.prepare_s) * study.slices_a_task
    link = SharedLink(study.files_gbs * GB, study.link_gbs * GB)
    # Those that wait for a task; until when they all are served; what happens when, and to whom.
    waiting, free_at, timers = deque(range(workers)), 0.0, []
    writing = [False] * workers
    n_tasks = max(MIN_TASKS, TASKS_A_WORKER * workers)
    middle = n_tasks // 4, n_tasks - n_tasks // 4
    now, computed, done = 0.0, 0.0, 0
    marks: list[tuple[float, float, float]] = []
    while done < middle[1]:
        while waiting:
            free_at = max(free_at, now) + 1 / study.tasks_s
            heapq.heappush(timers, (free_at, waiting.popleft()))
        if timers and timers[0][0] <= link.next_end():
            now, who = heapq.heappop(timers)
            link.start(now, write if writing[who] else read, who)
            continue
        now = link.next_end()
        who = link.finish(now)
        if writing[who]:
            done += 1
            waiting.append(who)
            if done in middle:
                marks.append((now, computed, link.moved))
        else:
            seconds = compute * max(0.1, rng.gauss(1, JITTER))
            computed += seconds
            heapq.heappush(timers, (now + seconds, who))
        writing[who] = not writing[who]
    (t0, computed0, moved0), (t1, computed1, moved1) = marks
    time_s, tasks = t1 - t0, middle[1] - middle[0]
    alone = min(study.link_gbs, study.files_gbs) * GB
    return Outcome(
        slices_s=tasks * study.slices_a_task / time_s,
        workers=(computed1 - computed0 + tasks * (read + write) / alone) / (workers * time_s),
        files=(moved1 - moved0) / (study.files_gbs * GB * time_s),
        scheduler=tasks / (study.tasks_s * time_s),
    )


def print_cost(study: Study) -> None:
    """Print what the study takes, however many workers share it."""
    n_slices = study.volumes * study.slices
    read, written = (n * n_slices for n in bytes_a_slice(study))
    hours = n_slices * study.slice_s / HOUR
    held = n_slices * (study.slice_s + study.prepare_s) / HOUR
    rows = (
        ("slices", f"{n_slices:,.0f}"),
        ("hours of computing", f"{hours:,.0f}"),
        ("hours that a worker is held, with what is outside", f"{held:,.0f}"),
        ("price of these", f"{held * study.gpu_price:,.0f}"),
        ("k-space read", f"{read / TB:,.1f} TB, {bytes_a_slice(study)[0] / 1e6:.1f} MB a slice"),
        ("images written", f"{written / TB:,.1f} TB, {bytes_a_slice(study)[1] / 1e6:.2f} MB a slice"),
        ("price of the images leaving the cloud", f"{written / GB * study.egress_price:,.0f}"),
        ("price of the k-space leaving it", f"{read / GB * study.egress_price:,.0f}"),
    )
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def print_growth(study: Study, counts: Sequence[int]) -> None:
    """Print what binds as workers grow, by simulation, with the limits beside it."""
    one = limits(study, 1)
    knees = {name: f"{one[name] / one['workers']:,.0f}" for name in ("files", "scheduler")}
    print(
        f"\nLimits: a worker {one['workers']:.2f} slices/s, the file system {one['files']:,.0f}, the "
        f"scheduler {one['scheduler']:,.0f}: the file system binds from {knees['files']} workers, the "
        f"scheduler from {knees['scheduler']}\n"
    )
    print("| workers | slices/s | days | of the workers' limit | files busy | scheduler busy | binds |")
    print("|---|---|---|---|---|---|---|")
    n_slices = study.volumes * study.slices
    for count in counts:
        got = simulate(study, count)
        share = got.slices_s / limits(study, count)["workers"]
        print(
            f"| {count:,} | {got.slices_s:,.1f} | {n_slices / got.slices_s / 86400:,.1f} | {share:.0%} "
            f"| {got.files:.0%} | {got.scheduler:.0%} | {got.binding} |"
        )


def roofline_s(calls: float, tflop: float, tflops: float, efficiency: float) -> float:
    """Return the seconds of a slice that arithmetic alone would take: an estimate, nothing is measured."""
    return calls * tflop / (tflops * efficiency)


def _measured(path: Path, backend: str | None) -> float:
    """Return the seconds of a slice from the output of ``sbim-deploy bench --json``."""
    rows = json.loads(path.read_text(encoding="utf-8"))["backends"]
    found = {row["backend"]: float(row["recon_s"]) for row in rows}
    if backend not in found and not (backend is None and len(found) == 1):
        raise SystemExit(f"--backend is {backend}: {path} has {', '.join(found)}")
    return found[backend] if backend in found else next(iter(found.values()))


def main() -> None:
    """Print the cost, and what binds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for each in fields(Study):
        name = f"--{each.name.replace('_', '-')}"
        parser.add_argument(name, type=float, default=None, help=each.metadata["help"])
    parser.add_argument(
        "--bench", type=Path, help="output of sbim-deploy bench --json, in place of --slice-s"
    )
    parser.add_argument("--backend", help="which of its backends")
    parser.add_argument(
        "--roofline",
        metavar="CALLS,TFLOP,TFLOPS,EFFICIENCY",
        help="in place of --slice-s an ESTIMATE: network calls of a slice, arithmetic of a call,\n"
        "the GPU's peak, and the part of it that is reached",
    )
    parser.add_argument("--workers", default="1,10,100,1000,10000", help="numbers of workers")
    arguments = vars(parser.parse_args())
    given = {each.name: arguments[each.name] for each in fields(Study) if arguments[each.name] is not None}
    if arguments["bench"]:
        given["slice_s"] = _measured(arguments["bench"], arguments["backend"])
    if arguments["roofline"]:
        given["slice_s"] = roofline_s(*map(float, arguments["roofline"].split(",")))
        print("The seconds of a slice are an ESTIMATE from arithmetic.", end=" ")
    if "slice_s" not in given:
        parser.error("give --slice-s, --bench or --roofline")
    study = Study(**given)
    print(f"{study.slice_s:.3g} s a slice.\n")
    print_cost(study)
    print_growth(study, [int(count) for count in arguments["workers"].split(",")])


if __name__ == "__main__":
    main()

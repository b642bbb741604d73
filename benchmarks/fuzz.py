"""Hand damaged inputs of every kind to the readers, and count what became of them.

The kinds and their readers are those of ``tests/hostile_files.py``, with ten times as many inputs as in the
tests. Each block of inputs is read in a process of its own: one that ends is a crash, one that takes longer
than ``--limit`` is a hang and is ended. Prints a row a kind: inputs, read, refused in one line, tracebacks
(warnings of Python and NumPy count as one), crashes, hangs, the longest in seconds, and the memory that
was taken above that of a good input. Exit code 1 where there is a traceback, a crash or a hang.
Needs the extras cpu, experiment, export and train, and Hypothesis.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))
from hostile_files import N_IN_TESTS, Kind, kinds  # noqa: E402

BLOCK = 100  # inputs of a process
OUTCOMES = ("read", "refused", "traceback", "crash", "hang")
MAX_SHOWN = 300


def resident_mib(which: str) -> float:
    """Return VmRSS or VmHWM of this process, 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(which)), 0.0)


def tell(**what: Any) -> None:
    """Write a line of JSON to the parent."""
    print(json.dumps(what), flush=True)


def work(kind: Kind, first_seed: int, n_inputs: int) -> None:
    """Read a block of inputs, telling each before it is read and what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "input"
        # Twice, for what is imported and cached with the first.
        for _ in range(2):
            tell(begin="a good input")
            tell(outcome=kind.outcome(kind.nothing, place), good=True)
        before = resident_mib("VmRSS")

        @seed(first_seed)
        @settings(
            max_examples=n_inputs,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(kind.edits)
        def read(edits: Any) -> None:
            tell(begin=repr(edits)[:MAX_SHOWN])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    outcome, fault = kind.outcome(edits, place), None
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                outcome, fault = (
                    "traceback",
                    f"{type(error).__name__} at {last.filename}:{last.lineno}: {error}",
                )
            tell(outcome=outcome, fault=fault and fault[:MAX_SHOWN])

        read()
        tell(taken_mib=resident_mib("VmHWM") - before)


def lines_of(process: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """Collect what a process prints, with None at its end, so that it can be waited for."""
    lines: queue.Queue[str | None] = queue.Queue()

    def collect() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=collect, daemon=True).start()
    return lines


def run_block(
    kind: Kind, first_seed: int, n_inputs: int, limit_s: float, counts: Counter[str], worst: dict[str, float]
) -> None:
    """Read a block of inputs in a process of its own and count what became of them."""
    command = [sys.executable, __file__, "--worker", kind.name, str(first_seed), str(n_inputs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines, told, started, patience = lines_of(process), "", time.perf_counter(), 120.0
    try:
        while True:
            try:
                line = lines.get(timeout=patience)
            except queue.Empty:
                counts["hang"] += 1
                print(f"  {kind.name}: hang with {told}", file=sys.stderr)
                return
            if line is None:
                break
            event = json.loads(line)
            if "begin" in event:
                told, started = event["begin"], time.perf_counter()
            elif "taken_mib" in event:
                worst["mib"] = max(worst["mib"], event["taken_mib"])
            elif not event.get("good"):
                patience = limit_s
                counts[event["outcome"]] += 1
                worst["s"] = max(worst["s"], time.perf_counter() - started)
                if event["fault"]:
                    print(f"  {kind.name}: {event['fault']} with {told}", file=sys.stderr)
            elif event["outcome"] != "read":
                raise SystemExit(f"{kind.name}: the undamaged input is {event['outcome']}")
        if process.wait():
            counts["crash"] += 1
            print(f"  {kind.name}: exit code {process.returncode} with {told}", file=sys.stderr)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Print the table."""
    every = {kind.name: kind for kind in kinds()}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"some of: {', '.join(every)}; all unless given")
    parser.add_argument("--inputs", type=int, default=10 * N_IN_TESTS, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one input")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, first_seed, n_inputs = arguments.worker
        work(every[name], int(first_seed), int(n_inputs))
        return
    if unknown := set(arguments.kinds) - set(every):
        parser.error(f"no kind {', '.join(unknown)}")
    print("| kind | inputs | read | refused | tracebacks | crashes | hangs | longest, s | memory, MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for name in arguments.kinds or every:
        counts: Counter[str] = Counter()
        worst = {"s": 0.0, "mib": 0.0}
        first_seed = arguments.seed
        while (left := arguments.inputs - sum(counts.values())) > 0:
            run_block(every[name], first_seed, min(BLOCK, left), arguments.limit, counts, worst)
            first_seed += 1
        total += counts
        cells = [name, sum(counts.values()), *(counts[each] for each in OUTCOMES)]
        print(f"| {' | '.join(map(str, cells))} | {worst['s']:.1f} | {worst['mib']:.0f} |", flush=True)
    print(f"| all | {sum(total.values())} | {' | '.join(str(total[each]) for each in OUTCOMES)} | | |")
    raise SystemExit(any(total[each] for each in OUTCOMES[2:]))


if __name__ == "__main__":
    main()

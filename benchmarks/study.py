"""Time a study on one worker and on two, and compare its images with those of one process, to the bit.

Simulates the files, then runs ``sbim-deploy recon FOLDER -o OUT --workers N`` for N of 1 and 2, each worker
with one thread, one after the other. The times are of whole commands, with the start of the processes. Then a
worker is killed, then the client, whose study is resumed: the images must stay what they are. Needs the
extras cluster and dev.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file

PROGRAM = "from sbim_deploy.cli.app import main; main()"
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "recon", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(errors)


def images(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("*.h5")):
        with open_result(path) as result:
            found[path.name] = np.stack([result.read_image(i) for i in range(result.n_slices)])
    return found


def check_equal(folder: Path, expected: dict[str, np.ndarray], what: str) -> None:
    got = images(folder)
    assert got.keys() == expected.keys(), what
    for name, pictures in expected.items():
        np.testing.assert_array_equal(got[name], pictures, err_msg=f"{what}: {name}")
    print(f"{what}: equal to one process to the bit, {len(got)} files")


def workers_of(client: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(client.pid).children(recursive=True)
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


def wait_for_files(folder: Path, n_files: int) -> None:
    while len(list(folder.glob("*.h5"))) < n_files:
        time.sleep(0.05)


def report(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return read


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--backend", default="onnxruntime")
    args = parser.parse_args()
    options = ("--steps", args.steps, "--batch", args.batch, "--backend", args.backend, "--threads", 1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        scans = root / "scans"
        for name in ("scans", "alone"):
            (root / name).mkdir()
        for seed in range(args.files):
            settings = SimulateSettings(args.slices, 8, args.size, 3.0, seed=seed)
            simulate_file(scans / f"scan{seed:03d}.h5", settings)
        for path in sorted(scans.iterdir()):
            finish(start(path, "-o", root / "alone" / path.name, *options))
        expected = images(root / "alone")
        seconds = {}
        for n_workers in (1, 2):
            out = root / f"workers{n_workers}"
            before = time.perf_counter()
            finish(start(scans, "-o", out, "--workers", n_workers, *options))
            seconds[n_workers] = time.perf_counter() - before
            computing = sum(record["compute_seconds"] for record in report(out)["files"]) / n_workers
            print(
                f"{n_workers} workers: {seconds[n_workers]:.1f} s, {computing:.1f} s of it computing in each"
            )
            check_equal(out, expected, f"{n_workers} workers")
        print(f"two workers take {seconds[2] / seconds[1]:.2f} of the time of one")

        out = root / "killed_worker"
        client = start(scans, "-o", out, "--workers", 2, *options)
        wait_for_files(out, args.files // 4)
        workers_of(client)[0].kill()
        finish(client)
        check_equal(out, expected, f"a worker killed, {report(out)['counts']}")

        out = root / "killed_client"
        client = start(scans, "-o", out, "--workers", 2, *options)
        wait_for_files(out, args.files // 4)
        workers = workers_of(client)
        client.kill()
        client.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        print(f"the client killed: {len(alive)} of its workers live on")
        finish(start(scans, "-o", out, "--workers", 2, "--resume", *options))
        check_equal(out, expected, f"resumed, {report(out)['counts']}")

        (scans / "truncated.h5").write_bytes((scans / "scan000.h5").read_bytes()[:20_000])
        client = start(scans, "-o", out, "--workers", 2, "--resume", *options)
        printed, _ = client.communicate()
        print(f"a truncated file among them: exit {client.returncode}; {printed.splitlines()[-1][:90]}")
        check_equal(out, expected, f"the others, {report(out)['counts']}")


if __name__ == "__main__":
    main()

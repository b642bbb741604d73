"""Kill commands at random moments, look at what they left under final names, and let them go on.

Each of recon, a study, an experiment, export and train is run once to its end, then killed (SIGKILL, its
processes with it) after a random part of that time, ``--kills`` times. After each kill everything under a
final name must be whole; then the command is told to go on, and what it makes must be what the first run
made, to the bit. Counts kills, half-written files, and runs that ended with other bits.
Needs the extras cpu, cluster, experiment, export and train.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sbim_deploy.export.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.models.folder import load_model
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file

PROGRAM = "from sbim_deploy.cli.app import main; main()"
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
RECON = ("--steps", "16", "--backend", "onnxruntime", "--threads", "1")
CONFIG = {
    "data": {"channels": 2},
    "model": {"ngf": 4, "sigma_begin": 50, "sigma_end": 0.01, "num_classes": 50, "ema": True},
    "training": {"checkpoint_interval": 2, "held_out_interval": 4},
}
TRAIN = ("--iterations", "12", "--size", "32", "--batch", "2", "--pool", "4", "--no-compile")
EXPERIMENT = {
    "title": "killed",
    "accelerations": [2, 3],
    "simulate": {"size": 64, "coils": 4, "noise": 0.01},
    "slices": [0, 1, 2],
    "tuning_slices": [5],
    "methods": [{"sampler": "dds", "steps": 8}],
    "baseline": "zero-filled",
    "peers": ["zero-filled"],
}


@dataclass(frozen=True)
class Command:
    """A command that writes ``out``: how it begins, how it goes on, and what is whole of what it has made.

    ``read`` returns the contents by name and raises for a file that is not whole.
    """

    name: str
    begin: tuple[str, ...]
    go_on: Callable[[Path], tuple[str, ...]]
    out: str
    read: Callable[[Path], dict[str, Any]]


def read_results(path: Path) -> dict[str, Any]:
    """Return the images of a result, or of each in a folder."""
    found = {}
    for file in [path] if path.suffix else sorted(path.glob("*.h5")):
        if file.exists():
            with open_result(file) as result:
                images = [result.read_image(place) for place in range(result.n_slices)]
            found[file.name] = np.stack(images).tobytes()
    if (path / "study.json").exists():
        json.loads((path / "study.json").read_text())
    return found


def read_experiment(folder: Path) -> dict[str, Any]:
    """Return the results without the seconds; a line that a kill cut short is left out when it goes on."""
    for image in folder.glob("images/*.npy"):
        if not image.name.startswith("."):
            np.load(image)
    for page in folder.glob("index.html"):
        assert page.read_text().rstrip().endswith("</html>")
    results = folder / "results.csv"
    if not results.exists():
        return {}
    text = results.read_text()
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return {str((row["method"], row["acceleration"], row["slice"])): row["psnr"] for row in rows}


def read_model(folder: Path) -> dict[str, Any]:
    """Return the digest of a model, whose hashes are compared."""
    return {"model": load_model(folder).digest} if folder.exists() else {}


def read_training(folder: Path) -> dict[str, Any]:
    """Return the step and the weights of a checkpoint."""
    if not (folder / "checkpoint.pth").exists():
        return {}
    checkpoint = read_checkpoint(folder / "checkpoint.pth")
    return {
        "step": checkpoint.step,
        **{name: each.numpy().tobytes() for name, each in checkpoint.raw.items()},
    }


def commands(root: Path) -> list[Command]:
    """Return the commands, with the inputs that they need in a folder."""
    (root / "scans").mkdir()
    for seed in range(3):
        simulate_file(root / "scans" / f"scan{seed}.h5", SimulateSettings(3, 4, 64, 2.0, seed=seed))
    (root / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    torch.manual_seed(0)
    weights = ScoreNetwork(ARCHITECTURES["NCSNv2"], 4, channels=2).state_dict()
    write_checkpoint(root / "checkpoint.pth", Checkpoint(weights, weights, {}, 0, 0))
    config = ("--config", str(root / "config.yaml"))
    scan, scans = str(root / "scans" / "scan0.h5"), str(root / "scans")

    def go_on_training(out: Path) -> tuple[str, ...]:
        return ("--resume",) if (out / "checkpoint.pth").exists() else ("--force",)

    return [
        Command("recon", ("recon", scan, *RECON), lambda _: ("--resume",), "out.h5", read_results),
        Command(
            "study",
            ("recon", scans, "--workers", "1", *RECON),
            lambda _: ("--resume",),
            "study",
            read_results,
        ),
        Command(
            "experiment",
            ("experiment", str(root / "experiment.yaml")),
            lambda _: (),
            "experiment",
            read_experiment,
        ),
        Command(
            "export",
            ("export", str(root / "checkpoint.pth"), *config),
            lambda _: ("--force",),
            "model",
            read_model,
        ),
        Command("train", ("train", *config, *TRAIN), go_on_training, "run", read_training),
    ]


def run(command: Command, folder: Path, more: tuple[str, ...] = (), limit_s: float | None = None) -> int:
    """Run a command in a folder, to its end or until it is killed; return its exit code."""
    arguments = [*command.begin, "-o", str(folder / command.out), *more]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return -signal.SIGKILL
    if process.returncode:
        sys.stderr.write(errors)
    return process.returncode


def main() -> None:
    """Kill, look, go on, compare, and print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="these commands alone")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print("| command | seconds | kills | half-written under a final name | other bits after going on |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for command in commands(root):
            if arguments.only and command.name not in arguments.only:
                continue
            whole = root / f"{command.name}-whole"
            whole.mkdir()
            before = time.monotonic()
            assert run(command, whole) == 0
            seconds = time.monotonic() - before
            expected = command.read(whole / command.out)
            n_half = n_other = n_kills = 0
            while n_kills < arguments.kills:
                folder = root / f"{command.name}-{n_kills}"
                folder.mkdir(exist_ok=True)
                # The start of Python and of its libraries writes nothing.
                if run(command, folder, limit_s=rng.uniform(0.3, 1) * seconds) == 0:
                    folder.rename(root / f"{command.name}-done-{time.monotonic_ns()}")
                    continue
                n_kills += 1
                out = folder / command.out
                try:
                    command.read(out)
                except Exception as error:
                    n_half += 1
                    sys.stderr.write(f"{command.name}: {error}\n")
                go_on = command.go_on(out) if out.exists() or command.name != "export" else ()
                code = run(command, folder, go_on)
                n_other += code != 0 or command.read(out) != expected
            print(f"| {command.name} | {seconds:.0f} | {n_kills} | {n_half} | {n_other} |", flush=True)


if __name__ == "__main__":
    main()

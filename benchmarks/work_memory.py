"""Measure what the work on a slice takes, beside what the server keeps free for it.

    python benchmarks/work_memory.py [--backend onnxruntime]

For some sizes of k-space, on a grid and along spokes, a process of its own prepares a slice, runs two steps
of the sampler and makes the images without the network. Prints the growth of its resident memory, and
`recon.streams.work_bytes`, which must not be less; exits with 1 where it is. Needs psutil. A few minutes on
two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading

import numpy as np
import psutil

from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.trajectories import GOLDEN, make_trajectory
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.reconstruct import SCORE_GRAPH, Reconstructor
from sbim_deploy.recon.streams import work_bytes
from sbim_deploy.runs.simulate import SimulateSettings, object_magnitude, simulate_slice, simulate_truth
from sbim_deploy.samplers.choice import SamplerChoice

SIZES = ((1, 256), (4, 256), (8, 256), (8, 512), (32, 256), (96, 128))
SPOKES = ((1, 128, 200), (8, 128, 34), (8, 256, 101), (32, 128, 400))  # coils, size, how many
MIB = 1024**2


def measure(n_coils: int, size: int, n_spokes: int, backend: str) -> int:
    """Return the bytes by which this process grows at most while it works on a slice; 0 spokes are a grid."""
    model = load_model("demo")
    mask = line_mask(size, 2.0)
    kspace = simulate_slice(SimulateSettings(16, n_coils, size, 2.0), mask, 0).kspace.astype(np.complex64)
    small = simulate_slice(SimulateSettings(16, 4, 48, 2.0), line_mask(48, 2.0), 0).kspace
    sampler = Reconstructor(model, SamplerChoice(steps=2), backend=backend, threads=1)
    sampler([prepare_slice(small)])  # weights, code and heaps
    if n_spokes:
        places = make_trajectory(GOLDEN, size, n_spokes)
        kspace = to_samples(simulated_coils(n_coils, size), places).astype(np.complex64)
        sampler = Reconstructor(model, SamplerChoice(steps=2), backend=backend, threads=1, graph=SCORE_GRAPH)
    process = psutil.Process()
    before = largest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.003):
            largest = max(largest, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    problem = prepare_trajectory_slice(kspace, places, (size, size)) if n_spokes else prepare_slice(kspace)
    sampler([problem])
    for method in Classical:
        classical_image(problem, method)
    done.set()
    watching.join()
    return largest - before


def simulated_coils(n_coils: int, size: int) -> np.ndarray:
    """Return the coil images of a slice, (coil, rows, columns)."""
    settings = SimulateSettings(16, n_coils, size, 2.0)
    truth = simulate_truth(object_magnitude(settings, 0), settings, 0)
    return truth.maps * truth.reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(*map(int, arguments.one.split(",")), arguments.backend))
        return
    width, enough = load_model("demo").manifest.ngf, True
    print("| coils | size | spokes | k-space, MiB | taken, MiB | kept free, MiB |")
    print("|---|---|---|---|---|---|")
    for n_coils, size, n_spokes in (*((*each, 0) for each in SIZES), *SPOKES):
        one = f"{n_coils},{size},{n_spokes}"
        command = [sys.executable, __file__, "--backend", arguments.backend, "--one", one]
        taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        n_samples = 2 * size * n_spokes
        kept = work_bytes((n_coils, size, size), width, n_samples)
        enough &= taken <= kept
        mib = (n_coils * (n_samples or size**2) * 8 / MIB, taken / MIB, kept / MIB)
        row = f"| {n_coils} | {size} | {n_spokes or '-'} | {mib[0]:.1f} | {mib[1]:.0f} | {mib[2]:.0f} |"
        print(row, flush=True)
    sys.exit(0 if enough else 1)


if __name__ == "__main__":
    main()

"""What serving costs a slice: from its last readout sent to its image received, beside recon's own time.

    python benchmarks/served_latency.py [--pairs 15] [--size 128] [--coils 8] [--config fast] [--backend auto]

The server is the command, in a process of its own, on loopback; recon's own time is preparation and sampling
of the same slice in this process. The two take turns, so that other work on the machine slows both; medians
are compared. Needs the extra serve.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np

from sbim_deploy.models.folder import load_model
from sbim_deploy.mrd.header import Encoding, Space, format_header
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Close, ConfigFile, Flag, Header, Image, Readout
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.records import ComplexArray
from sbim_deploy.runs.bench import machine
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice
from sbim_deploy.serving.parameters import CONFIGURATIONS, Classical

LIMITS = Limits()
COMMAND = "from sbim_deploy.cli.app import main; main()"


@contextmanager
def served(backend: str, threads: int | None) -> Iterator[SocketStream]:
    command = [sys.executable, "-c", COMMAND, "serve", "--port", "0", "--backend", backend]
    command += [] if threads is None else ["--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        with SocketStream(socket.create_connection(("127.0.0.1", port)), 600, 60) as stream:
            yield stream
            stream.send(Close())
            stream.receive(LIMITS)
        process.terminate()


def as_readouts(kspace: ComplexArray, repetition: int) -> list[Readout]:
    lines = np.flatnonzero(kspace.any(axis=(0, 1)))
    readouts = []
    for line in lines:
        header = np.zeros((), ACQUISITION_HEADER)[()]
        header["number_of_samples"], header["center_sample"] = kspace.shape[1], kspace.shape[1] // 2
        header["active_channels"] = len(kspace)
        header["idx"]["kspace_encode_step_1"], header["idx"]["repetition"] = line, repetition
        header["flags"] = 1 << (Flag.LAST_IN_SLICE - 1) if line == lines[-1] else 0
        readouts.append(Readout(header, np.ascontiguousarray(kspace[:, :, line])))
    return readouts


def served_seconds(stream: SocketStream, kspace: ComplexArray, repetition: int) -> float:
    *others, last = as_readouts(kspace, repetition)
    for readout in others:
        stream.send(readout)
    start = time.perf_counter()
    stream.send(last)
    image = stream.receive(LIMITS)
    seconds = time.perf_counter() - start
    assert isinstance(image, Image)
    assert "fallback" not in image.attributes
    return seconds


def own_seconds(reconstructor: Reconstructor, kspace: ComplexArray) -> float:
    start = time.perf_counter()
    reconstructor([prepare_slice(kspace)])
    return time.perf_counter() - start


def main() -> None:
    """Print the medians, their ratio, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--coils", type=int, default=8)
    sampled = [name for name, each in CONFIGURATIONS.items() if not isinstance(each.method, Classical)]
    parser.add_argument("--config", default="balanced", choices=sampled)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()

    space = Space((options.size, options.size, 1), (220.0, 220.0, 5.0))
    settings = SimulateSettings(1, options.coils, options.size, 4.0)
    kspace = simulate_slice(settings, line_mask(options.size, 4.0), 0).kspace
    method = CONFIGURATIONS[options.config].method
    assert not isinstance(method, Classical)
    own = Reconstructor(load_model("demo"), method, backend=options.backend, threads=options.threads)
    times: dict[str, list[float]] = {"served": [], "own": []}
    with served(options.backend, options.threads) as stream:
        stream.send(ConfigFile(options.config))
        stream.send(Header(format_header(Encoding(space, space))))
        for pair in range(options.pairs + 1):
            latency, alone = served_seconds(stream, kspace, pair), own_seconds(own, kspace)
            if pair:  # the first of each warms up
                times["served"].append(latency)
                times["own"].append(alone)

    ratio = median(times["served"]) / median(times["own"])
    size = f"{options.size} x {options.size}"
    print(f"| {options.config}, {size}, {options.coils} coils | median s | least | most |")
    print("|---|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {median(seconds):.3f} | {min(seconds):.3f} | {max(seconds):.3f} |")
    backend = own.engine.description["backend"]
    print(f"served / own: {ratio:.3f} over {options.pairs} pairs, {backend}")
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


if __name__ == "__main__":
    main()

"""The server under attack and the honest client beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from hostile_messages import Scan
from sbim_deploy.mrd.messages import Close, Image, ProtocolError
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits

CONFIG, PARAMETERS = "fast", '{"version": "1", "parameters": {"seed": 1}}'


@contextmanager
def cores_of_the_server():
    """Give the processes that are started here half of the cores, and the other half to this process then.

    Attackers have machines of their own; here they would take the server's time. Systems that cannot say
    which process runs where share all cores.
    """
    if not hasattr(os, "sched_setaffinity") or len(cores := sorted(os.sched_getaffinity(0))) < 2:
        yield
        return
    os.sched_setaffinity(0, cores[len(cores) // 2 :])
    yield
    os.sched_setaffinity(0, cores[: len(cores) // 2])


class Server:
    """`sbim-deploy serve` as a process, with its memory."""

    def __init__(self, folder: Path, idle_timeout: float) -> None:
        self._log = folder / "log"
        program = "from sbim_deploy.cli.app import main; main()"
        options = [
            "--port",
            "0",
            "--idle-timeout",
            str(idle_timeout),
            "--max-sessions",
            "64",
            "--threads",
            "1",
        ]
        with self._log.open("w") as log, cores_of_the_server():
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, "serve", *options, "--log-json"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = self._process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit(f"the server did not start: {self._log.read_text()}")
        self.port = int(line.rpartition(":")[2])
        self._psutil = psutil.Process(self._process.pid)

    def memory(self) -> int:
        """Give the resident bytes."""
        return self._psutil.memory_info().rss

    def handles(self) -> tuple[int, int]:
        """Give the number of open files and of threads."""
        return self._psutil.num_fds(), self._psutil.num_threads()

    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    def stop(self) -> int | None:
        """Ask it to end, and give its exit code, or None where it had to be killed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None

    def outcomes(self) -> Counter[str]:
        """Count the sessions by their outcome, and tracebacks, in the log."""
        counts: Counter[str] = Counter()
        for line in self._log.read_text().splitlines():
            if line.startswith("Traceback"):
                counts["traceback"] += 1
            with suppress(json.JSONDecodeError):
                counts[json.loads(line).get("outcome", "")] += 1
        return counts


@dataclass
class Honest:
    """A client that sends a scan again and again, and compares the images with the first ones."""

    port: int
    scan: Scan
    expected: list[np.ndarray] = field(default_factory=list)
    n_right: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def session(self, config: str = CONFIG, parameters: str = PARAMETERS) -> list[np.ndarray]:
        """Send the scan; give the images' pixels (y, x)."""
        images = []
        connection = socket.create_connection(("127.0.0.1", self.port), 60)
        with SocketStream(connection, 60, 60) as stream:
            for message in self.scan.messages(config, parameters):
                stream.send(message)
            while not isinstance(message := stream.receive(Limits()), Close):
                if not isinstance(message, Image):
                    raise ProtocolError(f"got {message}, expected an image")
                images.append(message.data[0, 0].astype(np.float64))
        return images

    def run(self) -> None:
        """Send scans until `stop`."""
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                images = self.session()
            except (ProtocolError, OSError) as error:
                self.problems.append(str(error))
                continue
            self.seconds.append(time.monotonic() - started)
            same = len(images) == len(self.expected) and all(
                np.max(np.abs(ours - first)) <= 1 for ours, first in zip(images, self.expected, strict=True)
            )
            if same:
                self.n_right += 1
            else:
                self.problems.append("an image differs from the first session's")

    @contextmanager
    def beside(self):
        """Send scans in a thread while the block runs."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def times(self, alone: float) -> str:
        """Give a scan's time without and with the attack, in words."""
        return f"{alone:.2f}, {np.median(self.seconds):.2f}, {max(self.seconds):.2f}"

    def n_slow(self, alone: float) -> int:
        """Give how many scans took more than twice the time of one without the attack."""
        return sum(taken > 2 * alone for taken in self.seconds)

    def error(self, images: list[np.ndarray]) -> float:
        """Give images' NRMSE to the truth, each at the scale that fits best."""
        errors = []
        for image, truth in zip(images, self.scan.truth, strict=True):
            ours = image.T * (np.vdot(image.T, truth) / np.vdot(image, image))
            errors.append(np.linalg.norm(ours - truth) / np.linalg.norm(truth))
        return float(np.mean(errors))


@contextmanager
def watched(server: Server, memory: list[int]):
    """Append the server's memory to a list, four times a second, while the block runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.25) and server.is_alive():
            memory.append(server.memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

"""Attack a server while an honest client uses it, and measure what both suffer.

    python benchmarks/hostile_sessions.py [--messages 20000] [--sessions 500]

Starts `sbim-deploy serve` with the demo model, warms it up, and sends malformed messages and hostile sessions
from several threads while an honest client sends scans without a pause. Prints a table; exits with 1 where a
line of it fails. Needs the extras serve and cpu, and psutil. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from hostile_messages import Malformed, Scan, as_bytes, simulate_scan
from hostile_server import Honest, Server, watched
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, ConfigFile, Flag, Header, Readout

IDLE_S = 5.0  # the server's time-out, for silence and for a message
MARGIN_S = 10.0  # beyond it, on a busy machine, before a session counts as hung
SIZE, COILS, ACCELERATION, SLICES = 128, 4, 4.0, 2
WARM_UP_SCANS, WARM_UP_MESSAGES, WARM_UP_SESSIONS = 4, 1000, 48
MEMORY_GROWTH = 0.10
RESET = struct.pack("ii", 1, 0)


class Attack:
    """What is thrown at the server, from any thread; counts what comes of it."""

    def __init__(self, port: int, scan: Scan) -> None:
        self._port = port
        self._opening = as_bytes(ConfigFile("zero-filled"), Header(scan.xml))
        self._half = self._opening + as_bytes(*scan.slices[0][: len(scan.slices[0]) // 2])
        self._whole = as_bytes(*scan.messages("zero-filled", "{}"))
        self.ends: Counter[str] = Counter()
        self.longest = 0.0
        self._lock = threading.Lock()
        huge = as_bytes(ConfigFile("zero-filled"), Header(huge_grid(scan.xml)), *hollow_readouts())
        self.sessions = {
            "unknown id": lambda: self._send(self._half + b"\xff\xff"),
            "4 GiB text": lambda: self._send(self._opening + struct.pack("<HI", 5, 2**32 - 1), end=False),
            "4 GiB attributes": lambda: self._send(
                self._half + b"\xfe\x03" + b"\1" * 198 + b"\xff" * 8, False
            ),
            "truncation": lambda: self._send(self._half[:-100]),
            "wrong order": lambda: self._send(self._half + self._opening, end=False),
            "garbage": lambda: self._send(np.random.default_rng(0).bytes(2**20), end=False),
            "stall in a slice": lambda: self._send(self._half, end=False),
            "stall in a message": lambda: self._send(self._half[:-100], end=False),
            "a huge grid": lambda: self._send(huge, end=False),
            "stall at once": lambda: self._send(b"", end=False),
            "a byte now and then": self._drip,
            "vanishing in a slice": lambda: self._vanish(self._half),
            "vanishing before the images": lambda: self._vanish(self._whole),
        }

    def message(self, data: bytes) -> None:
        """Send malformed bytes and wait for the server's end of the session."""
        self._send(data)

    def _send(self, data: bytes, end: bool = True) -> None:
        with self._connect() as connection:
            with suppress(OSError):
                connection.sendall(data)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            self._await_end(connection)

    def _drip(self) -> None:
        with self._connect() as connection:
            connection.sendall(self._opening)
            started = time.monotonic()
            with suppress(OSError):
                for byte in self._half[len(self._opening) :]:
                    connection.send(bytes([byte]))
                    time.sleep(0.2)
                    if time.monotonic() - started > IDLE_S + MARGIN_S:
                        break
            self._await_end(connection, started)

    def _vanish(self, data: bytes) -> None:
        with self._connect() as connection, suppress(OSError):
            connection.sendall(data)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._count("we vanished", 0.0)

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), IDLE_S + MARGIN_S)

    def _await_end(self, connection: socket.socket, started: float | None = None) -> None:
        started = time.monotonic() if started is None else started
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
            end = "told why" if b"sbim-deploy: error" in received else "closed"
        except TimeoutError:
            end = "hung"
        except OSError:
            end = "reset"
        self._count(end, time.monotonic() - started)

    def _count(self, end: str, seconds: float) -> None:
        with self._lock:
            self.ends[end] += 1
            self.longest = max(self.longest, seconds)


def huge_grid(xml: str) -> str:
    """Return a header whose encoded and reconstructed matrices are 4096 x 4096, and nothing else."""
    for axis in "xy":
        xml = re.sub(rf"(<matrixSize>.*?<{axis}>)\d+", r"\g<1>4096", xml, flags=re.DOTALL)
    return re.sub(r"<encodingLimits>.*?</encodingLimits>", "", xml, flags=re.DOTALL)


def hollow_readouts() -> list[Readout]:
    """Return 32 readouts of 64 samples and 8 channels, at the edge of 4096: 131 kB for 1 GiB of k-space."""
    made = []
    for line in range(2048 - 16, 2048 + 16):
        header = np.zeros((), ACQUISITION_HEADER)[()]
        header["active_channels"], header["number_of_samples"], header["center_sample"] = 8, 64, 2048
        header["idx"]["kspace_encode_step_1"] = line
        header["flags"] = 1 << (Flag.LAST_IN_SLICE - 1) if line == 2048 + 15 else 0
        made.append(Readout(header, np.ones((8, 64), np.complex64)))
    return made


def throw(attack: Attack, malformed: Malformed, n_messages: int, n_sessions: int, n_threads: int) -> None:
    """Send messages of every kind in turn, then sessions of every kind in turn."""
    kinds, sessions = malformed.kinds, list(attack.sessions.values())
    messages = (malformed.make(kinds[index % len(kinds)]) for index in range(n_messages))
    with ThreadPoolExecutor(n_threads) as pool:
        while some := list(islice(messages, 500)):  # not all in memory at once
            list(pool.map(attack.message, some))
    with ThreadPoolExecutor(3 * n_threads) as pool:
        list(pool.map(lambda index: sessions[index % len(sessions)](), range(n_sessions)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    scan = simulate_scan(SLICES, SIZE, COILS, ACCELERATION)
    malformed = Malformed(scan, arguments.seed)
    memory: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), IDLE_S)
        honest = Honest(server.port, scan)
        honest.expected = honest.session()
        zero_filled = honest.session("zero-filled", "{}")
        alone = min(timed(honest.session) for _ in range(WARM_UP_SCANS))
        throw(Attack(server.port, scan), malformed, WARM_UP_MESSAGES, WARM_UP_SESSIONS, arguments.threads)
        settle()
        before, handles = server.memory(), server.handles()

        attack = Attack(server.port, scan)
        started = time.monotonic()
        with watched(server, memory), honest.beside():
            throw(attack, malformed, arguments.messages, arguments.sessions, arguments.threads)
        seconds = time.monotonic() - started
        settle()
        alive, after, handles_after = server.is_alive(), server.memory(), server.handles()
        code, outcomes = server.stop(), server.outcomes()

    n_scans = honest.n_right + len(honest.problems)
    n_attacks = arguments.messages + arguments.sessions
    limit = IDLE_S + MARGIN_S
    rows = [
        ("malformed messages, hostile sessions", f"{arguments.messages}, {arguments.sessions}", True),
        ("seconds", f"{seconds:.0f}", True),
        ("server alive at the end, exit code on SIGTERM", f"{alive}, {code}", alive and code == 0),
        (
            "tracebacks, failed sessions in its log",
            counted(outcomes, "traceback", "failed"),
            not_any(outcomes),
        ),
        (
            "sessions told why, closed, reset, hung; vanished",
            counted(attack.ends, "told why", "closed", "reset", "hung", "we vanished"),
            not attack.ends["hung"] and sum(attack.ends.values()) == n_attacks,
        ),
        (
            f"longest wait for the end, s (at most {limit:g})",
            f"{attack.longest:.1f}",
            attack.longest <= limit,
        ),
        ("honest scans, of which right", f"{n_scans}, {honest.n_right}", n_scans == honest.n_right > 0),
        (
            "NRMSE to the truth: honest images, zero-filled",
            f"{honest.error(honest.expected):.3f}, {honest.error(zero_filled):.3f}",
            True,
        ),
        ("honest scan, s: alone, median, longest", honest.times(alone), True),
        (
            "honest scans that took more than twice the time alone",
            str(honest.n_slow(alone)),
            not honest.n_slow(alone),
        ),
        ("resident MiB before, at most, after", mib(before, max(memory), after), True),
        (
            f"change of resident memory (at most {MEMORY_GROWTH:.0%})",
            f"{after / before - 1:+.1%}",
            abs(after / before - 1) <= MEMORY_GROWTH,
        ),
        ("open files and threads before, after", f"{handles}, {handles_after}", handles_after <= handles),
    ]
    print("| | | |")
    print("|---|---|---|")
    for name, value, passed in rows:
        print(f"| {name} | {value} | {'ok' if passed else 'FAILED'} |")
    for problem in honest.problems[:5]:
        print(f"honest client: {problem}")
    sys.exit(0 if all(passed for *_, passed in rows) else 1)


def timed(work) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def settle() -> None:
    """Wait until the server has let go of the sessions that ended last."""
    time.sleep(4)


def counted(counts: Counter[str], *names: str) -> str:
    return ", ".join(str(counts[name]) for name in names)


def not_any(outcomes: Counter[str]) -> bool:
    return not outcomes["traceback"] and not outcomes["failed"]


def mib(*sizes: int) -> str:
    return ", ".join(f"{size / 2**20:.0f}" for size in sizes)


if __name__ == "__main__":
    main()

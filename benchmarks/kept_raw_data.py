"""Kill a server at random moments while it keeps raw data, and let its disk fill up; count what is left.

    python benchmarks/kept_raw_data.py [--kills 20] [--small-disk FOLDER]

Starts `sbim-deploy serve --save-raw`, sends a scan and kills the server (SIGKILL) at a random moment: what
was kept must be a prefix of what was sent, to the bit, and nothing may lie under a final name that is not
whole. With --small-disk, a folder on a disk of some MiB (`mount -t tmpfs -o size=6m none FOLDER`), two
clients send scans that do not fit it: both must get their images, and the server must live. Prints a table;
exits with 1 where a line fails. Needs the extras serve and cpu. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from hostile_messages import Scan, simulate_scan
from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import Close, Image, ProtocolError, Readout
from sbim_deploy.mrd.recording import is_recording, open_scan
from sbim_deploy.mrd.socket import SocketStream
from sbim_deploy.mrd.stream import Limits

CONFIG = "zero-filled"
SCAN_S = 0.4  # a scan is sent in so many seconds
PROGRAM = "from sbim_deploy.cli.app import main; main()"


def start(folder: Path, log: Path) -> tuple[subprocess.Popen[str], int]:
    """Return a server that keeps raw data in a folder, and its port."""
    command = [sys.executable, "-c", PROGRAM, "serve", "--port", "0", "--threads", "1", "--log-json"]
    server = subprocess.Popen(
        [*command, "--save-raw", str(folder)], stdout=subprocess.PIPE, stderr=log.open("w"), text=True
    )
    line = server.stdout.readline()
    if not line.startswith("listening on "):
        raise SystemExit(f"the server did not start: {log.read_text()}")
    return server, int(line.rpartition(":")[2])


def send(port: int, scan: Scan, until: float = float("inf")) -> list[object]:
    """Send a scan up to a moment, and return what came back; the server may go away."""
    messages, received = scan.messages(CONFIG, "{}"), []
    with SocketStream(socket.create_connection(("127.0.0.1", port), 30), 30, 30) as stream:
        for message in messages:
            if time.monotonic() > until:
                return received
            stream.send(message)
            if until < float("inf"):
                time.sleep(SCAN_S / len(messages))
        while not isinstance(message := stream.receive(Limits()), Close):
            received.append(message)
    return received


def kill_once(folder: Path, scan: Scan, sent: list[Readout], moment: float) -> tuple[int, bool]:
    """Kill a server at a moment of a scan; return how many readouts are left, and whether all is right."""
    server, port = start(folder, folder.parent / "log")
    with suppress(ProtocolError):
        send(port, scan, time.monotonic() + moment)
    server.kill()
    server.wait()
    left, right = 0, True
    for path in folder.iterdir():
        try:
            with open_scan(path) as kept:
                left += kept.n_readouts
                pairs = zip(kept.readouts(), sent, strict=False)
                right &= all(a.data.tobytes() == b.data.tobytes() for a, b in pairs)
                right &= path.suffix == ".partial" or not kept.remarks
        except InputError:  # before the first readout
            right &= path.suffix == ".partial"
        path.unlink()
    return left, right


def fill(folder: Path, scan: Scan, log: Path) -> tuple[bool, int, int, int]:
    """Return whether a server on a small disk ended well, its images, its words, and the readouts left."""
    server, port = start(folder, log)
    images = sum(isinstance(each, Image) for _ in range(2) for each in send(port, scan))
    server.send_signal(signal.SIGTERM)
    code = server.wait(60)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    told = sum(line["event"] == "raw-data-not-saved" for line in lines)
    readable = 0
    for path in folder.iterdir():
        if is_recording(path):
            with suppress(InputError), open_scan(path) as kept:
                readable += kept.n_readouts
        path.unlink()
    return code == 0, images, told, readable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--small-disk", type=Path)
    arguments = parser.parse_args()
    draw, scan, passed = random.Random(0), simulate_scan(4, 128, 4, 4.0), True
    sent = [each for each in scan.messages(CONFIG, "{}") if isinstance(each, Readout)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "raw"
        folder.mkdir()
        ends = [kill_once(folder, scan, sent, draw.uniform(0, 1.5 * SCAN_S)) for _ in range(arguments.kills)]
        print("| | |")
        print("|---|---|")
        right = sum(each for _, each in ends)
        lefts = sorted(left for left, _ in ends)
        least, median, most = lefts[0], lefts[len(lefts) // 2], lefts[-1]
        print(f"| kills, of which all that was kept is right | {len(ends)}, {right} |")
        print(f"| readouts left of {len(sent)}: least, median, most | {least}, {median}, {most} |")
        passed &= right == len(ends)
        if arguments.small_disk is not None:
            large = simulate_scan(8, 256, 8, 2.0)
            well, images, told, readable = fill(arguments.small_disk, large, Path(temporary) / "log")
            print(
                "| full disk: server ended well, images of 16, told, readouts left "
                f"| {well}, {images}, {told}, {readable} |"
            )
            passed &= well and images == 16 and told == 2
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()

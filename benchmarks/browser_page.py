"""Time and memory of the page that reconstructs in the browser, on the demo scan, in headless Chromium.

    python benchmarks/browser_page.py            # isolated, so with threads
    python benchmarks/browser_page.py --alone    # as a plain web server sends it: one thread

Seconds of the CPU are the tab's, whatever else the machine does; memory is the most that its process had for
itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs" / "try"), str(ROOT / "tests")]

import build_page  # noqa: E402

from chromium import Chromium  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--alone", action="store_true")
    if parser.parse_args().alone:
        build_page.ISOLATION.clear()
    with tempfile.TemporaryDirectory() as folder:
        build_page.build(Path(folder, "page"))
        with (
            build_page.page_server(Path(folder, "page"), 0) as server,
            Chromium(Path(folder, "profile")) as tab,
        ):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            measure(tab, f"http://localhost:{server.server_port}/index.html")
            server.shutdown()


def measure(tab: Chromium, address: str) -> None:
    tab.visit(address)
    everyone = psutil.Process(tab._process.pid).children(recursive=True)
    tabs = [each for each in everyone if "--type=renderer" in each.cmdline()]

    def cpu_seconds() -> float:
        return sum(sum(each.cpu_times()[:2]) for each in tabs if each.is_running())

    def megabytes() -> float:
        return sum(each.memory_full_info().uss for each in tabs if each.is_running()) / 1e6

    def state() -> str:
        return str(tab.evaluate("document.documentElement.dataset.state"))

    before, most = megabytes(), 0.0
    tab.evaluate("document.querySelector('#demo').click()")
    while state() != "ready":
        time.sleep(0.1)
    began, used, parts = time.monotonic(), cpu_seconds(), {}
    tab.evaluate("document.querySelector('#start').click()")
    while (now := state()) not in ("done", "failed"):
        stage = tab.evaluate("document.querySelector('#status').innerText.replace(/\\d+/, '')")
        parts.setdefault(stage, (time.monotonic() - began, cpu_seconds() - used))
        most = max(most, megabytes())
        time.sleep(0.1)
    parts[now] = (time.monotonic() - began, cpu_seconds() - used)
    for stage, (seconds, of_cpu) in parts.items():
        print(f"{seconds:6.1f} s, {of_cpu:5.1f} s of the CPU: {stage}")
    print(f"memory: {before:.0f} MB before, {most:.0f} MB at most")
    print(tab.evaluate("document.querySelector('#facts').innerText"))


if __name__ == "__main__":
    main()

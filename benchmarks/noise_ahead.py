"""What drawing noise in threads saves: draws of a batch of slices, one after the other and at once, in turns.

python benchmarks/noise_ahead.py [--size 384x384] [--slices 8] [--draws 20]
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

from sbim_deploy.cli.sizes import parse_size
from sbim_deploy.samplers import noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=(384, 384))
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()

    in_turn, at_once = (noise.NoiseStream(0, range(arguments.slices), arguments.size) for _ in range(2))
    seconds: dict[str, list[float]] = {"one after the other": [], "in threads": []}
    for _ in range(arguments.draws):
        with mock.patch.object(noise, "MIN_THREADED", 2**62):
            seconds["one after the other"].append(_timed(in_turn))
        seconds["in threads"].append(_timed(at_once))
    for name, each in seconds.items():
        print(f"{name}: {1000 * statistics.median(each) / arguments.slices:.2f} ms a slice and draw")
    before, after = (statistics.median(each) for each in seconds.values())
    print(f"ratio {after / before:.2f}")


def _timed(stream: noise.NoiseStream) -> float:
    begun = time.perf_counter()
    stream.draw()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()

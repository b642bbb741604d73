"""An experiment small enough for a test, a stand-in for a peer that may not be installed, and readers."""

import csv
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np

from sbim_deploy.experiment.peers import Peer
from sbim_deploy.recon.prepare import SliceProblem

TINY = {
    "title": "A <tiny> experiment & its page",
    "accelerations": [2, 3],
    "simulate": {"size": 64, "coils": 3, "noise": 0.01},
    "slices": [0, 2],
    "tuning_slices": [5],
    "methods": [{"sampler": "dds", "steps": 2}, {"sampler": "sbim", "steps": 2}],
    "baseline": "zero-filled",
    "peers": ["zero-filled", "bart-l1"],
}


@dataclass
class CountedPeer:
    """The measured image, darker the farther the weight is from 0.01.

    ``calls`` are the slices and weights that it was given; the one after ``stop_after`` is a Ctrl-C.
    """

    calls: list[tuple[int, float]] = field(default_factory=list)
    stop_after: int | None = None

    def as_peer(self) -> Peer:
        return Peer("a stand-in", self.solve, (0.001, 0.01, 0.1), lambda: "1.0", "nothing")

    def solve(self, problem: SliceProblem, weight: float, _threads: int) -> np.ndarray:
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((problem.index, weight))
        return problem.mvue / np.float32(1 + abs(np.log10(weight / 0.01)))


def rows_of(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(folder):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows_of(folder)]


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.words += f" {data}"

"""PyTorch eager behind the engine's interface, to measure the engines against."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from sbim_deploy.engines.engine import Arrays, Recurrence
from sbim_deploy.errors import BackendMissingError
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.recon.bench import Case, Measurement, measure
from sbim_deploy.recon.model import Model, load_model

EAGER = "pytorch-eager"


class EagerEngine:
    """A network of a model's architecture and size with random weights, which take the same time."""

    def __init__(self, model: Model):
        manifest = model.manifest
        if manifest.architecture not in ARCHITECTURES:
            raise BackendMissingError(
                f"{EAGER} measures {', '.join(ARCHITECTURES)}: {manifest.architecture} is not built here"
            )
        architecture = ARCHITECTURES[manifest.architecture]
        self._network = ScoreNetwork(architecture, manifest.ngf, manifest.channels).eval()
        self.description: Mapping[str, str] = {
            "backend": EAGER,
            "version": torch.__version__,
            "device": "cpu",
        }

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the score."""
        with torch.inference_mode():
            score = self._network(torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["sigma"]))
        return {"score": score.numpy()}

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Refuse: there is nothing of a graph to keep where it runs."""
        raise NotImplementedError("PyTorch eager runs no recurrence")


def measure_eager(folder: Path, case: Case) -> Measurement:
    """Measure PyTorch eager; see :func:`sbim_deploy.recon.bench.measure`."""
    # One for each core, as the engines take, whatever the environment says to OpenMP.
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model(folder)
    return measure(model, case, lambda _graph: EagerEngine(model), "score")

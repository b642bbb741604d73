"""How the graphs of a model are called by a Triton server, and how the one that is meant is known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sbim_deploy.engines.triton import TritonEngine
from sbim_deploy.errors import InputError
from sbim_deploy.io.model_folder import ModelManifest
from sbim_deploy.recon.engine_files import graph_hashes

if TYPE_CHECKING:
    from sbim_deploy.recon.model import Model

SUFFIXES = {"triton": "", "triton-trt": "-trt"}
"""What follows a graph's name in a served model's, by backend: ONNX Runtime's, and TensorRT's."""


def served_name(manifest: ModelManifest, graph: str, backend: str = "triton") -> str:
    """Return the name of a served model, such as ``demo-step-proximal``: it is a folder's name too.

    Raises:
        InputError: nothing of the model's name can be in one.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", manifest.name).strip(".-")[:80]
    if not name:
        raise InputError(f"the model's name is {manifest.name[:80]!r}: expected a letter or a digit in it")
    return f"{name}-{graph}{SUFFIXES[backend]}"


def identity(folder: Path, manifest: ModelManifest, graph: str) -> dict[str, str]:
    """Return the parameters that tie a served model to a graph and its weights.

    Raises:
        InputError: the model does not have them.
    """
    onnx_sha256, weights_sha256 = graph_hashes(folder, manifest, graph)
    return {"sbim_deploy.onnx_sha256": onnx_sha256, "sbim_deploy.weights_sha256": weights_sha256}


def open_served(model: Model, graph: str, backend: str, url: str) -> TritonEngine:
    """Open a graph on the Triton server at HOST:PORT, ``backend`` being ``triton`` or ``triton-trt``.

    Raises:
        InputError, BackendMissingError, EngineIncompatibleError: see :class:`TritonEngine`.
    """
    return TritonEngine(
        url,
        served_name(model.manifest, graph, backend),
        model.folder / f"{graph}.onnx",
        identity(model.folder, model.manifest, graph),
        backend,
    )

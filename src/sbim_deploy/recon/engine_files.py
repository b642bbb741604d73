"""Opening the TensorRT engines of a model folder: the one that fits, or an error that says what does not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sbim_deploy.engines.cuda import current_device
from sbim_deploy.engines.tensorrt import RuntimeCache, TensorRTEngine
from sbim_deploy.engines.tensorrt_builder import Range
from sbim_deploy.engines.tensorrt_package import import_package
from sbim_deploy.errors import EngineIncompatibleError, InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.engine_folder import EngineRecord, read_engine, read_records
from sbim_deploy.io.model_folder import ModelManifest

ENGINES = "engines"
WEIGHTS = "weights.bin"
CACHE_SUFFIX = ".cache"


def open_tensorrt(
    folder: Path, manifest: ModelManifest, graph: str, backend: str, engines: Path | None = None
) -> TensorRTEngine:
    """Open the engine of a graph for the GPU that is here, ``backend`` being ``trt`` or ``rtx``.

    ``engines`` is the folder they were built into; None is the model's own. The model's files must have been
    verified. Everything is compared before the engine is deserialised.

    Raises:
        InputError: the model has no such graph, or a record is damaged.
        BackendMissingError: the package is not installed, or there is no GPU.
        EngineIncompatibleError: no engine fits: the message says what the nearest one was built for.
        ChecksumError: the engine's file is not the one that its record describes.
    """
    onnx_sha256, weights_sha256 = graph_hashes(folder, manifest, graph)
    trt = import_package(backend)
    capability = current_device().compute_capability
    expected = {
        "onnx_sha256": onnx_sha256,
        "weights_sha256": weights_sha256,
        "backend_version": str(trt.__version__),
        "precision": manifest.dtype,
        "compute_capability": capability,
    }
    where = engines or folder / ENGINES
    way_out = (
        f"build it with: sbim-deploy build {folder} --backend {backend} --graph {graph}"
        + (f" --sm {capability}" if backend == "rtx" else "")
        + (f" -o {engines}" if engines else "")
    )
    records = read_records(where, graph, backend)
    if not records:
        raise EngineIncompatibleError(f"{where}: there is no {backend} engine of {graph}; {way_out}")
    differences = {path: _differences(record, expected) for path, record in records.items()}
    path = min(differences, key=lambda each: len(differences[each]))
    if differences[path]:
        raise EngineIncompatibleError(f"{path}: does not fit: {'; '.join(differences[path])}; {way_out}")
    record = records[path]
    return TensorRTEngine(
        backend,
        read_engine(path, record),
        {name: tuple(shape) for name, shape in record.inputs.items()},
        {name: Range(*sizes) for name, sizes in record.shapes.items()},
        _runtime_cache(path.with_suffix(CACHE_SUFFIX)),
    )


def graph_hashes(folder: Path, manifest: ModelManifest, graph: str) -> tuple[str, str]:
    """Return the SHA-256 of a graph and of the weights.

    Raises:
        InputError: the model does not have them.
    """
    for name in (f"{graph}.onnx", WEIGHTS):
        if name not in manifest.files:
            raise InputError(f"{folder}: the model has no {name}: export it again")
    return manifest.files[f"{graph}.onnx"].sha256, manifest.files[WEIGHTS].sha256


def _differences(record: EngineRecord, expected: Mapping[str, Any]) -> list[str]:
    def short(value: object) -> str:
        return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)

    return [
        f"{name} is {short(getattr(record, name))}, expected {short(value)}"
        for name, value in expected.items()
        if getattr(record, name) != value
    ]


def _runtime_cache(path: Path) -> RuntimeCache:
    def keep(kernels: bytes) -> str:
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(kernels)
        except InputError as error:
            return f"not kept: {error}"
        return f"kept in {path.name}"

    stored = path.read_bytes() if os.access(path, os.R_OK) else b""
    return RuntimeCache(stored, keep)

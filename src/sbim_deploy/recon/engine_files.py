"""Opening the TensorRT engines of a model folder: the one that fits, or an error that says what does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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
    verified. Everything is compared before the engine is deserialised, and what needs no GPU before one is
    sought: an engine that is out of date is so on every machine.

    Raises:
        InputError: the model has no such graph, or a record is damaged.
        BackendMissingError: the package is not installed, or there is no GPU.
        EngineIncompatibleError: no engine fits: the message says what the nearest one was built for.
        ChecksumError: the engine's file is not the one that its record describes.
    """
    onnx_sha256, weights_sha256 = graph_hashes(folder, manifest, graph)
    trt = import_package(backend)
    expected = {
        "onnx_sha256": onnx_sha256,
        "weights_sha256": weights_sha256,
        "backend_version": str(trt.__version__),
        "precision": manifest.dtype,
    }
    where = engines or folder / ENGINES

    def way_out(capability: int) -> str:
        return (
            f"build it with: sbim-deploy build {folder} --backend {backend} --graph {graph}"
            + (f" --sm {capability}" if backend == "rtx" else "")
            + (f" -o {engines}" if engines else "")
        )

    records = read_records(where, graph, backend)
    if records:
        records = _fitting(records, expected, way_out)
    capability = current_device().compute_capability
    if not records:
        missing = f"{where}: there is no {backend} engine of {graph}"
        raise EngineIncompatibleError(f"{missing}; {way_out(capability)}")
    records = _fitting(records, {"compute_capability": capability}, lambda _built_for: way_out(capability))
    path, record = next(iter(records.items()))
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


def _fitting(
    records: Mapping[Path, EngineRecord], expected: Mapping[str, Any], way_out: Callable[[int], str]
) -> dict[Path, EngineRecord]:
    """Return the records that are as expected; ``way_out`` takes the compute capability to build for.

    Raises:
        EngineIncompatibleError: none is: the message says what is different in the nearest one.
    """
    differences = {path: _differences(record, expected) for path, record in records.items()}
    nearest = min(differences, key=lambda path: len(differences[path]))
    if differences[nearest]:
        mended = way_out(records[nearest].compute_capability)
        raise EngineIncompatibleError(f"{nearest}: does not fit: {'; '.join(differences[nearest])}; {mended}")
    return {path: record for path, record in records.items() if not differences[path]}


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

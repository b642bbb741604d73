"""The TensorRT engines of a model folder: what each was built from and for, and which fits this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from sbim_deploy.engines.cuda import current_device
from sbim_deploy.engines.tensorrt import RuntimeCache, TensorRTEngine
from sbim_deploy.engines.tensorrt_builder import Range, check_supported, import_package
from sbim_deploy.errors import ChecksumError, EngineIncompatibleError, InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.documents import (
    Count,
    Natural,
    Number,
    Sha256,
    check_version,
    convert,
    format_object,
    one_of,
    read_object,
)
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.models.folder import WEIGHTS, ModelManifest

FORMAT_VERSION = 1
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
WAY_OUT = "delete it and build the engine again with: sbim-deploy build"

_HASH_LETTERS = 8

GraphName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z", extra={"expected": "a plain name"})
]
Precision = Annotated[str, one_of(*PRECISIONS)]
Sizes = Annotated[
    Sequence[Count],
    Meta(min_length=3, max_length=3, extra={"expected": "a list of [least, best, greatest]"}),
]


@dataclass(frozen=True)
class EngineRecord:
    """What an engine was built from, with and for.

    ``inputs`` are the graph's inputs with their shapes, free sizes by name; ``shapes`` gives each of these
    names the least, the best and the greatest size. ``settings`` are the builder's. Compute capability 8.9 is
    89.
    """

    format_version: int
    graph: GraphName
    onnx_sha256: Sha256
    weights_sha256: Sha256
    backend: str
    backend_version: str
    precision: Precision
    compute_capability: Count
    inputs: Mapping[str, Sequence[int | str]]
    shapes: Mapping[str, Sizes]
    settings: Mapping[str, Number | None]
    built_with: Mapping[str, str]
    engine_sha256: Sha256 = "0" * 64
    engine_bytes: Natural = 0

    def __post_init__(self) -> None:
        """Raise InputError for sizes that fall, and names of sizes without a range."""
        for name, (least, best, greatest) in self.shapes.items():
            if not least <= best <= greatest:
                raise InputError(
                    f"shapes[{name!r}] is {[least, best, greatest]}, expected [least, best, greatest]"
                )
        named = {size for shape in self.inputs.values() for size in shape if isinstance(size, str)}
        if unknown := sorted(named - self.shapes.keys()):
            raise InputError(f"inputs have sizes {unknown[:5]}, expected some of {sorted(self.shapes)[:20]}")


def engine_file_name(record: EngineRecord) -> str:
    """Return the file name: graph, hash of graph and weights, precision, compute capability and version."""
    digest = hashlib.sha256((record.onnx_sha256 + record.weights_sha256).encode()).hexdigest()
    return "-".join(
        (
            record.graph,
            digest[:_HASH_LETTERS],
            PRECISIONS[record.precision],
            f"sm{record.compute_capability}",
            f"{record.backend}{'.'.join(record.backend_version.split('.')[:3])}.engine",
        )
    )


def read_records(folder: Path, graph: str, backend: str) -> dict[Path, EngineRecord]:
    """Return the records of a graph's engines for a backend, by the path of the engine.

    Raises:
        InputError: a record is not as it must be.
    """
    letters = "[0-9a-f]" * _HASH_LETTERS
    paths = sorted(folder.glob(f"{graph}-{letters}-*-sm*-{backend}*.json"))
    return {path.with_suffix(".engine"): read_record(path) for path in paths}


def read_record(path: Path) -> EngineRecord:
    """Read and check the record of an engine.

    Raises:
        InputError: it is not as it must be.
    """
    stored = read_object(path, WAY_OUT)
    check_version(stored, FORMAT_VERSION, str(path), WAY_OUT)
    return convert(stored, EngineRecord, str(path), WAY_OUT)


def write_engine(folder: Path, record: EngineRecord, write: Callable[[Path], object]) -> Path:
    """Let ``write`` make the engine's file, then its record, each whole or not at all; return the path.

    The record gets the file's size and hash here. A file without a record is not an engine to anyone.

    Raises:
        InputError: the folder cannot be written.
    """
    path = folder / engine_file_name(record)
    with replacing(path) as temporary:
        write(temporary)
        # Hashed before it has its name: what is read back is what was written.
        whole = replace(record, engine_sha256=file_sha256(temporary), engine_bytes=temporary.stat().st_size)
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(format_object(asdict(whole), indent=2) + "\n", encoding="utf-8")
    return path


def read_engine(path: Path, record: EngineRecord) -> bytes:
    """Return an engine's bytes, once they are those of its record: a deserialised engine is code that runs.

    Raises:
        ChecksumError: the file is missing or is another.
    """
    way_out = "build it again with: sbim-deploy build --force"
    if not path.is_file():
        raise ChecksumError(f"{path}: is missing, {path.with_suffix('.json').name} describes it; {way_out}")
    engine = path.read_bytes()
    digest = hashlib.sha256(engine).hexdigest()
    if (len(engine), digest) != (record.engine_bytes, record.engine_sha256):
        raise ChecksumError(
            f"{path}: got SHA-256 {digest[:12]}... and {len(engine)} bytes, its record expects "
            f"{record.engine_sha256[:12]}... and {record.engine_bytes}; {way_out}"
        )
    return engine


ENGINES = "engines"
CACHE_SUFFIX = ".cache"


def open_tensorrt(
    folder: Path,
    manifest: ModelManifest,
    graph: str,
    backend: str,
    engines: Path | None = None,
    device_index: int = 0,
) -> TensorRTEngine:
    """Open the engine of a graph for the GPU of a number, ``backend`` being ``trt`` or ``rtx``.

    ``engines`` is the folder they were built into; None is the model's own. The model's files must have been
    verified. Everything is compared before the engine is deserialised, and what needs no GPU before one is
    sought: an engine that is out of date is so on every machine.

    Raises:
        InputError: the model has no such graph, or a record is damaged.
        BackendMissingError: the package is not installed, or there is no GPU that it supports.
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
    device = current_device(device_index)
    capability = device.compute_capability
    check_supported(trt, device.name, capability)
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
        device_index,
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

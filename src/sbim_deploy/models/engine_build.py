"""Building the TensorRT engines of a model folder: which graphs, for which sizes and GPUs."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sbim_deploy import __version__
from sbim_deploy.engines.cuda import current_device
from sbim_deploy.engines.tensorrt_builder import (
    BuildSettings,
    Network,
    Progress,
    Range,
    build_engine,
    check_precision,
    check_supported,
    import_package,
    known_capabilities,
    parse_graph,
)
from sbim_deploy.errors import BackendMissingError, ChecksumError, InputError
from sbim_deploy.io.atomic import replacing
from sbim_deploy.io.locks import owning_file
from sbim_deploy.io.overwriting import check_new
from sbim_deploy.models.backends import LINES_MULTIPLE
from sbim_deploy.models.engine_folder import (
    CACHE_SUFFIX,
    FORMAT_VERSION,
    EngineRecord,
    engine_file_name,
    graph_hashes,
    read_engine,
    read_record,
    write_engine,
)
from sbim_deploy.models.folder import ModelManifest, graph_beside_weights

BATCH, COILS, PLAN_ROWS = Range(1, 1, 8), Range(1, 8, 32), Range(1, 32, 2048)
SIZES = (64, 320, 512)
TURING = 75


@dataclass(frozen=True)
class BuildRequest:
    """What to build engines for, by which backend, and into which folder.

    ``ranges`` are by dimensions' names. ``timing_cache`` is read where it exists, and written.
    """

    backend: str
    ranges: Mapping[str, Range]
    settings: BuildSettings
    output: Path
    timing_cache: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for what the backend does not have."""
        if self.timing_cache is not None and self.backend == "rtx":
            raise InputError("timing-cache: TensorRT-RTX has none; leave it out")


@dataclass(frozen=True)
class BuiltEngine:
    """What a build came to: the engine's file and its record, or those that were there and are equal.

    ``timing_cache`` says in words what became of the timing cache, where it was not kept.
    """

    path: Path
    record: EngineRecord
    was_there: bool
    timing_cache: str = ""


def select_graphs(manifest: ModelManifest, kind: str) -> list[str]:
    """Return the graph named ``kind``, or else all that are named ``kind-...``, without their suffix.

    Raises:
        InputError: the model has none.
    """
    graphs = sorted(Path(name).stem for name in manifest.files if name.endswith(".onnx"))
    if kind in graphs:
        return [kind]
    chosen = [graph for graph in graphs if graph.startswith(f"{kind}-")]
    if not chosen:
        raise InputError(f"unknown graph {kind!r}: expected a kind of {', '.join(graphs)}")
    return chosen


def shape_ranges(
    manifest: ModelManifest,
    batch: Range = BATCH,
    coils: Range = COILS,
    size: tuple[int, int] | None = None,
    lines: Range | None = None,
) -> dict[str, Range]:
    """Return the sizes to build for, by the names that free dimensions have in the graphs.

    Without ``size`` (rows, columns) any from 64 to 512 is allowed. ``lines`` are sampled lines of k-space.

    Raises:
        InputError: a size that is no multiple of the model's.
    """
    multiple = manifest.size_multiple
    if size and any(length < 1 or length % multiple for length in size):
        raise InputError(f"--size is {size[0]}x{size[1]}: expected multiples of {multiple} for this model")
    if size == (multiple, multiple):
        raise InputError(
            f"--size is {size[0]}x{size[1]}: it leaves one pixel at the network's coarsest level, which has "
            f"no norm; expected at least {2 * multiple} rows or columns"
        )
    default = Range(*(-(-length // multiple) * multiple for length in SIZES))
    rows, columns = (Range(n, n, n) for n in size) if size else (default, default)
    factor = f"{multiple}*" if multiple > 1 else ""
    return {
        "batch": batch,
        "coil": coils,
        f"{factor}h": rows,
        f"{factor}w": columns,
        "line": _padded(lines or _lines(columns)),
        "row_line": _padded(lines or _lines(rows)),
        "rows": PLAN_ROWS,
    }


def target_capability(backend: str, asked: int | None, graphs: Sequence[str] = ("score",)) -> int:
    """Return the compute capability to build graphs for; None asks for that of the GPU that is here.

    Raises:
        InputError: one that the backend cannot build for, or not these graphs.
        BackendMissingError: the package is not installed, or the GPU that is here is none that it supports.
    """
    if asked is not None and backend == "trt":
        raise InputError(
            f"sm is {asked}: TensorRT builds only for the GPU that is here; leave --sm out, "
            "or take --backend rtx"
        )
    trt = import_package(backend)
    known = known_capabilities(trt)
    if asked is not None:
        if asked not in known:
            raise InputError(f"sm is {asked}: expected one of {', '.join(map(str, known))}; 8.9 is 89")
        _check_turing(asked, graphs)
        return asked
    try:
        device = current_device()
    except BackendMissingError as error:
        if backend == "trt":
            hint = "TensorRT builds only where the GPU is; --backend rtx with --sm builds without one"
        else:
            hint = "name the GPU that will run the engine, such as --sm 89, to build without one"
        raise BackendMissingError(f"{error}; {hint}") from error
    check_supported(trt, device.name, device.compute_capability)
    if backend == "rtx":
        _check_turing(device.compute_capability, graphs)
    return device.compute_capability


def _check_turing(capability: int, graphs: Sequence[str]) -> None:
    fused = [graph for graph in graphs if graph != "score"]
    if capability == TURING and fused:
        raise InputError(
            f"sm is {capability}: TensorRT-RTX has no matrix products in FP32 for Turing, which "
            f"{', '.join(fused)} cannot do without: build --graph score, and reconstruct with recon --graph "
            "score"
        )


def build_engine_file(
    folder: Path,
    manifest: ModelManifest,
    graph: str,
    request: BuildRequest,
    on_progress: Progress = lambda _: None,
) -> BuiltEngine:
    """Build the engine of one graph, unless an equal one is there; the model's files must have been verified.

    ``on_progress`` gets the fraction that is done.

    Raises:
        InputError: a graph that TensorRT cannot parse or build, or an output that cannot be written.
        BackendMissingError: the package is not installed, or the GPU that is needed is not here.
        EngineIncompatibleError: the graph's precision is not the manifest's.
    """
    capability = target_capability(request.backend, request.settings.compute_capability, [graph])
    hashes = graph_hashes(folder, manifest, graph)
    with graph_beside_weights(folder, graph) as path:
        network = parse_graph(import_package(request.backend), path)
    check_precision(network, manifest.dtype)
    record = _record_of(network, manifest, hashes, capability, request)
    path = request.output / engine_file_name(record)
    if not request.force and _is_there(path, record):
        return BuiltEngine(path, record, was_there=True)
    _make_folder(request.output)
    with owning_file(path):
        _check_engine_place(path, request.force)
        serialised, tactics = _build(network, request, on_progress)
        path.with_suffix(CACHE_SUFFIX).unlink(missing_ok=True)  # kernels of the engine that this one replaces
        write_engine(request.output, record, lambda temporary: temporary.write_bytes(serialised))
        said = "" if request.timing_cache is None else _keep_timing_cache(request.timing_cache, tactics)
    return BuiltEngine(path, read_record(path.with_suffix(".json")), was_there=False, timing_cache=said)


def _build(network: Network, request: BuildRequest, on_progress: Progress) -> tuple[memoryview, bytes]:
    tactics = b""
    if request.timing_cache is not None:
        check_new(request.timing_cache, force=True)  # it is read, and added to
        tactics = request.timing_cache.read_bytes() if request.timing_cache.exists() else b""
    serialised, tactics = build_engine(network, request.ranges, request.settings, on_progress, tactics)
    return memoryview(serialised), tactics


def _keep_timing_cache(path: Path, tactics: bytes) -> str:
    """Write the timing cache, once the engine is safe, and say in words where it was not kept."""
    if not tactics:
        return (
            f"{path}: TensorRT refused it (made on another GPU, or by another version); it was left as it is"
        )
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(tactics)
    except InputError as error:
        return f"the timing cache was not kept: {error}"
    return ""


def _record_of(
    network: Network,
    manifest: ModelManifest,
    hashes: tuple[str, str],
    capability: int,
    request: BuildRequest,
) -> EngineRecord:
    used = {size for shape in network.inputs.values() for size in shape}
    sizes = {name: each for name, each in request.ranges.items() if name in used}
    return EngineRecord(
        format_version=FORMAT_VERSION,
        graph=network.path.stem,
        onnx_sha256=hashes[0],
        weights_sha256=hashes[1],
        backend=request.backend,
        backend_version=str(network.trt.__version__),
        precision=manifest.dtype,
        compute_capability=capability,
        inputs={name: list(shape) for name, shape in network.inputs.items()},
        shapes={name: [each.minimum, each.optimum, each.maximum] for name, each in sizes.items()},
        settings={
            "workspace_gib": request.settings.workspace_gib,
            "opt_level": request.settings.opt_level,
        },
        built_with={
            "sbim-deploy": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    )


def _is_there(path: Path, record: EngineRecord) -> bool:
    """Whether the engine is there, whole, and built from and for the same."""
    try:
        found = read_record(path.with_suffix(".json"))
        read_engine(path, found)
    except (InputError, ChecksumError):
        return False
    made = {name: getattr(record, name) for name in ("built_with", "engine_sha256", "engine_bytes")}
    return replace(found, **made) == record


def _check_engine_place(path: Path, force: bool) -> None:
    """Refuse to replace an engine that was built otherwise, unless that was asked for."""
    if os.path.lexists(path) and not force:
        raise InputError(
            f"{path}: is there already, built for other sizes or damaged; give --force to replace it, or "
            "name another folder with -o"
        )
    check_new(path, force)


def _lines(length: Range) -> Range:
    return Range(1, max(1, length.optimum // 4), length.maximum)


def _padded(lines: Range) -> Range:
    """Return the range that holds the lines once they are padded."""
    best, most = (-(-n // LINES_MULTIPLE) * LINES_MULTIPLE for n in (lines.optimum, lines.maximum))
    return Range(lines.minimum, best, most)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot make the folder ({error.strerror}); name another one with -o"
        ) from error

"""Which engine runs a model's graph: the one asked for, or the best that is here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sbim_deploy.engines.engine import Engine, TensorSpec, available_cores
from sbim_deploy.engines.onnxruntime import CUDA_TF32, OnnxRuntimeEngine
from sbim_deploy.engines.openvino import OPENVINO, OPENVINO_BF16, OpenVinoEngine
from sbim_deploy.engines.tensorrt import DISTRIBUTIONS
from sbim_deploy.engines.triton import TritonEngine
from sbim_deploy.engines.triton_client import check_address
from sbim_deploy.errors import BackendMissingError, EngineIncompatibleError, InputError, install_command
from sbim_deploy.models.engine_folder import ENGINES, graph_hashes, open_tensorrt, read_records
from sbim_deploy.models.folder import Model, ModelManifest, graph_beside_weights
from sbim_deploy.models.precision import AUTO, backend_in, weigh_bfloat16

SUFFIXES = {"triton": "", "triton-trt": "-trt"}
"""What follows a graph's name in a served model's, by backend: ONNX Runtime's, and TensorRT's."""

BEST_FIRST = ("trt", "rtx", "onnxruntime-cuda", "openvino", "onnxruntime")
MEASURED = ("trt", "rtx", "onnxruntime-cuda", OPENVINO_BF16, "openvino", "onnxruntime")
"""Those that are compared: openvino in bfloat16 too, which recon takes where that is asked for."""
SERVED = tuple(SUFFIXES)
"""Of a server, and never taken unasked: they are named with its address, such as triton://127.0.0.1:8001."""
BACKENDS = ("auto", *BEST_FIRST, OPENVINO_BF16, CUDA_TF32, *SERVED)
TF32, BFLOAT16 = "tf32", "bfloat16"
LOWER = {CUDA_TF32: TF32, OPENVINO_BF16: BFLOAT16}
"""The backends that compute an FP32 model in less, and in what."""
SIDE_BY_SIDE = (OPENVINO, OPENVINO_BF16)
"""The backends that gain by computing several calls at once, each on its share of the threads."""
LINES_MULTIPLE = 8
"""Sampled lines are padded with zeros to a multiple: engines then need not compile for each mask's number."""
ON_GPUS = ("auto", "trt", "rtx", "onnxruntime-cuda", CUDA_TF32)
"""They take the number of a GPU, such as trt://1; ``auto`` has it for those that take one."""


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


def tensor_specs(manifest: ModelManifest, graph: str) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """Return a graph's inputs and outputs by name, as engines take them.

    Raises:
        InputError: the model does not have the graph.
    """
    if graph not in manifest.graphs:
        raise InputError(f"{manifest.name}: the model has no {graph}.onnx: export it again")
    entry = manifest.graphs[graph]
    inputs, outputs = (
        {name: TensorSpec(name, np.dtype(each.dtype), tuple(each.shape)) for name, each in tensors.items()}
        for tensors in (entry.inputs, entry.outputs)
    )
    return inputs, outputs


def open_served(model: Model, graph: str, backend: str, url: str) -> TritonEngine:
    """Open a graph on the Triton server at HOST:PORT, ``backend`` being ``triton`` or ``triton-trt``.

    Raises:
        InputError, BackendMissingError, EngineIncompatibleError: see :class:`TritonEngine`.
    """
    return TritonEngine(
        url,
        served_name(model.manifest, graph, backend),
        *tensor_specs(model.manifest, graph),
        identity(model.folder, model.manifest, graph),
        backend,
    )


def open_engine(
    model: Model,
    graph: str,
    backend: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    streams: int = 1,
) -> Engine:
    """Return an engine for one of the model's graphs, such as ``score``.

    A backend that is named is that one or an error. ``auto`` is the first of ``BEST_FIRST`` that is here.
    ``precision`` is that of convolutions, one of ``PRECISIONS``: ``auto`` takes bfloat16 in OpenVINO where
    :func:`sbim_deploy.models.precision.weigh_bfloat16` says so; None is the model's, or what the backend's
    name says. ``streams`` are the calls that threads make of it at once: backends of ``SIDE_BY_SIDE`` compute
    so many side by side and share the threads out, others compute one after another. The engine's
    ``description["chosen"]`` says why it is that one, and ``description["failed"]``
    which better ones are here and cannot be used, where there are such.

    Raises:
        InputError: an unknown backend or precision, a backend that has no such precision, or a graph that the
            model does not have.
        BackendMissingError: the backend, or with ``auto`` every backend, is not here.
        EngineIncompatibleError: the engine was built for something else.
    """
    check_backend(backend)
    if f"{graph}.onnx" not in model.manifest.files:
        raise InputError(f"{model.folder}: the model has no {graph}.onnx: export it again")
    named = backend_in(model.manifest, backend, precision)
    if named.partition("://")[0] == "auto":
        engine, chosen, failed = _open_best(model, graph, threads, named.removeprefix("auto"), streams)
    else:
        engine, failed = _open(model, graph, named, threads, streams), []
        chosen = "asked for" if backend == named else f"precision {precision} was asked for"
    if precision == AUTO:
        takes_bfloat16, why = False, f"{model.manifest.dtype}, the only one of this model in this backend"
        if engine.description["backend"] == OPENVINO and model.manifest.dtype == "float32":
            of_a_call = threads if streams == 1 else max(1, (threads or available_cores()) // streams)
            takes_bfloat16, why = weigh_bfloat16(
                model, of_a_call, lambda each: _open(model, "score", each, of_a_call, 1)
            )
        if takes_bfloat16:
            engine = _open(model, graph, OPENVINO_BF16, threads, streams)
        chosen += f"; precision auto: {why}"
    engine.description = {**engine.description, "chosen": chosen}
    if failed:
        engine.description = {**engine.description, "failed": "; ".join(failed)}
    return engine


def check_backend(backend: str) -> None:
    """Raise InputError for a name that is no backend's, or an address that is missing or too many."""
    name, _, address = backend.partition("://")
    if name not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if name in SERVED:
        if not address:
            raise InputError(
                f"backend {name} needs the server's address: give --server HOST:PORT, or --backend {name}://HOST:PORT"
            )
        check_address(address)
    elif name != backend and not (name in ON_GPUS and re.fullmatch(r"\d{1,3}", address, re.ASCII)):
        wanted = "a GPU's number, such as 0" if name in ON_GPUS else "no address"
        raise InputError(f"backend {name} takes {wanted}, got {backend!r}")


def backend_of(description: Mapping[str, str]) -> str:
    """Return the name by which the backend of an engine's description is asked for."""
    name = description["backend"]
    if name in SERVED:
        return f"{name}://{description['url']}"
    asked = {distribution: asked for asked, distribution in DISTRIBUTIONS.items()}.get(name, name)
    index = description.get("device_index", "0")
    return asked if index == "0" else f"{asked}://{index}"


def precision_of(description: Mapping[str, str], manifest: ModelManifest) -> str:
    """Return the precision that an engine computes in: that of the backend's name, or the model's."""
    return LOWER.get(description["backend"], manifest.dtype)


def is_served(backend: str) -> bool:
    """Tell whether a backend, with its address or without, is a server's, which has threads of its own."""
    return backend.partition("://")[0] in SERVED


def missing_reason(model: Model, graph: str, backend: str) -> str | None:
    """Say in a few words why a backend cannot be here, or None where it may be, without importing it."""
    if backend in ("trt", "rtx"):
        return None if read_records(model.folder / ENGINES, graph, backend) else "no engine built"
    if backend == OPENVINO_BF16 and model.manifest.dtype != "float32":
        return f"the model computes in {model.manifest.dtype}"
    if backend in ("onnxruntime-cuda", CUDA_TF32):
        return None if _is_distributed("onnxruntime-gpu") else "onnxruntime-gpu not installed"
    package = {"openvino": "openvino", OPENVINO_BF16: "openvino", "onnxruntime": "onnxruntime"}[backend]
    return None if importlib.util.find_spec(package) is not None else "not installed"


def _open_best(
    model: Model, graph: str, threads: int | None, address: str, streams: int
) -> tuple[Engine, str, list[str]]:
    """Return the engine of the first backend that is here, why it is that, and which before it failed."""
    passed: list[str] = []
    failed: list[str] = []
    for backend in BEST_FIRST:
        reason = missing_reason(model, graph, backend)
        if reason is None:
            try:
                engine = _open(
                    model, graph, backend + (address if backend in ON_GPUS else ""), threads, streams
                )
            except (BackendMissingError, EngineIncompatibleError) as error:
                reason = str(error)
                failed.append(f"{backend}: {reason}")
            else:
                because = f", the best that is here: {'; '.join(passed)}" if passed else ""
                return engine, f"auto{because}", failed
        passed.append(f"{backend}: {reason}")
    raise BackendMissingError(
        f"no backend is here: {install_command('cpu')}, or the extra openvino ({'; '.join(passed)})"
    )


def _open(model: Model, graph: str, backend: str, threads: int | None, streams: int) -> Engine:
    name, _, address = backend.partition("://")
    if name in SERVED:
        if threads is not None:
            raise InputError(f"threads is {threads}: backend {name} computes with the server's: leave it out")
        return open_served(model, graph, name, address)
    device_index = int(address or 0)
    if name in ("trt", "rtx"):
        return open_tensorrt(model.folder, model.manifest, graph, name, device_index=device_index)
    if name in LOWER and model.manifest.dtype != "float32":
        raise InputError(
            f"backend {name}: {model.folder} computes in {model.manifest.dtype}, expected float32: take "
            f"{name.rpartition('-')[0]}"
        )
    if name == "onnxruntime" and model.manifest.dtype == "bfloat16":
        raise EngineIncompatibleError(
            f"{model.folder / graph}.onnx: ONNX Runtime has no bfloat16 convolutions on the CPU: use "
            "--backend openvino, an engine made by sbim-deploy build, or a model exported in fp16"
        )
    with graph_beside_weights(model.folder, graph) as path:
        if name in ("onnxruntime-cuda", CUDA_TF32):
            return OnnxRuntimeEngine(path, threads, name, device_index)
        if name in SIDE_BY_SIDE:
            return OpenVinoEngine(path, tensor_specs(model.manifest, graph)[0], threads, name, streams)
        return OnnxRuntimeEngine(path, threads)


def _is_distributed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

"""ONNX Runtime's CUDA provider: its libraries, its options, and the nodes that it leaves to the CPU."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from sbim_deploy.engines import cuda
from sbim_deploy.errors import BackendMissingError, EngineIncompatibleError, SbimDeployError, install_command

PROVIDER = "CUDAExecutionProvider"
RECORD_ASSIGNMENT = ("session.record_ep_graph_assignment_info", "1")
# Where a graph that is given as bytes finds its weights.
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# Operators that only images go through. Others compute shapes too, which belongs on the CPU.
# fmt: off
OF_IMAGES = frozenset({
    "AveragePool", "Conv", "ConvTranspose", "Elu", "Erf", "Exp", "FusedConv", "Gemm", "InstanceNormalization",
    "LayerNormalization", "MatMul", "MaxPool", "ReduceMean", "Resize", "Sigmoid", "Softmax", "Sqrt",
})
# fmt: on
_CUDA_FAILURE = re.compile(r"CUDA (?:failure|error)[ :]+(?P<code>\d+)\b", re.IGNORECASE)
_MISSING_LIBRARY = re.compile(r"(?P<library>[\w.+-]+): cannot open shared object")
DRIVER_LIBRARY = "libcuda.so.1"
TF32_COST = (
    "on: factors of products are rounded to 10 bits, which costs the score a relative L2 error of 1.1e-3 "
    "to 5.4e-3, greatest at the least noise level (emulated)"
)


def check_device(onnxruntime: Any, index: int) -> None:
    """Load CUDA's libraries and put a number on the GPU: the provider is listed even where there is none.

    Raises:
        BackendMissingError: a library is missing, or there is no GPU: the message says which.
        InputError: there is no GPU of this number.
    """
    said = StringIO()
    with redirect_stdout(said):  # preload_dlls prints what it does not find, and stdout is the command's
        onnxruntime.preload_dlls()
    version = f"onnxruntime {onnxruntime.__version__}"
    if missing := _missing_library(onnxruntime):
        needed = _cuda_version(onnxruntime)
        if missing == DRIVER_LIBRARY:
            raise BackendMissingError(
                f"{cuda.driver_too_old(needed)}; or choose another backend ({version}: no {missing})"
            )
        raise BackendMissingError(
            f"{version} cannot load {missing}, of CUDA {needed} or cuDNN: "
            f"{install_command('gpu')} brings them; or choose another backend"
        )
    try:
        onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", index)
    except Exception as error:
        if known := as_cuda_error(onnxruntime, error):
            raise known from error
        reason = " ".join(f"{error} {said.getvalue()}".split())
        raise BackendMissingError(
            f"{version} has CUDA but cannot use a GPU here: check the driver, or choose another backend "
            f"({reason})"
        ) from error


def as_cuda_error(onnxruntime: Any, error: Exception) -> SbimDeployError | None:
    """Return what an exception of the provider says of the GPU, or None where it says nothing of it."""
    if code := _CUDA_FAILURE.search(str(error)):
        where = f"onnxruntime {onnxruntime.__version__}"
        return cuda.known_error(int(code["code"]), where, _cuda_version(onnxruntime))
    return None


def provider_options(tf32: bool, device_index: int) -> dict[str, str]:
    """Return the provider's options. TF32, its own default, is on only where it is asked for."""
    return {"use_tf32": "1" if tf32 else "0", "device_id": str(device_index)}


def check_options(session: Any, options: dict[str, str], path: Path) -> None:
    """Raise EngineIncompatibleError where a session does not run with the options that it was given."""
    got = session.get_provider_options().get(PROVIDER, {})
    wrong = {name: got[name] for name, value in options.items() if got.get(name, value) != value}
    if wrong:
        raise EngineIncompatibleError(
            f"{path}: ONNX Runtime runs with {wrong}, expected {options}: not run; choose another backend, "
            "or another version of onnxruntime-gpu"
        )


def nodes_on_cpu(session: Any, path: Path) -> str:
    """Return in words which of a session's nodes the provider left to the CPU.

    Those that compute shapes belong there. Each that an image goes through costs two copies of it a call.

    Raises:
        EngineIncompatibleError: an image would go through the CPU.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", list)
    nodes = [(each.ep_name, node.op_type) for each in tell() for node in each.get_nodes()]
    if not nodes:
        return "not told by this version of ONNX Runtime"
    left = Counter(operator for provider, operator in nodes if provider != PROVIDER)
    if split := OF_IMAGES & left.keys():
        raise EngineIncompatibleError(
            f"{path}: ONNX Runtime's CUDA has no kernel for {_counted(left, sorted(split))} of the network, "
            "which would run on the CPU with copies around it: not run; choose another backend, or export "
            "the model with another --dtype"
        )
    return f"{left.total()} of {len(nodes)}: {_counted(left, sorted(left)) or 'none'}"


def _counted(counts: Counter[str], operators: list[str]) -> str:
    return ", ".join(f"{counts[each]} {each}" for each in operators)


def _missing_library(onnxruntime: Any) -> str | None:
    """Return the library that the provider's own cannot be loaded without; its package only logs the name."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    for path in (folder / f"libonnxruntime_providers_{name}.so" for name in ("shared", "cuda")):
        try:
            if path.exists():
                ctypes.CDLL(str(path))
        except OSError as error:
            found = _MISSING_LIBRARY.search(str(error))
            return found["library"] if found else str(error)
    return None


def _cuda_version(onnxruntime: Any) -> str:
    return getattr(onnxruntime, "cuda_version", "") or "13"

"""One copy of a model's weights on a GPU, for all its graphs that ONNX Runtime's CUDA has open.

Each session would have its own. An initializer that a session is given is used in place where it lies on the
device that the session plans for it (ONNX Runtime, ``SaveInitializedTensors`` in session_state_utils.cc since
its pull request 5092; elsewhere the session logs a warning and makes its own).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines.onnx_bytes import (
    DATA_TYPE,
    ENTRY_KEY,
    ENTRY_VALUE,
    EXTERNAL,
    FLOATS,
    GRAPH_OF_MODEL,
    INITIALIZER,
    SIZES,
    TENSOR_NAME,
    Bytes,
    fields,
    texts,
    varint,
)


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor of a graph whose elements lie in a file beside it, from a byte on."""

    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class SharedWeights:
    """The tensors of one file on one GPU, each put there when the first graph asks for it."""

    def __init__(self) -> None:
        self._values: dict[ExternalTensor, Any] = {}

    def value(self, onnxruntime: Any, tensor: ExternalTensor, stored: NDArray[Any], device: int) -> Any:
        """Return a tensor on the GPU; ``stored`` are the bytes of its file."""
        if tensor not in self._values:
            n_bytes = int(np.prod(tensor.shape)) * tensor.dtype.itemsize
            elements = stored[tensor.offset : tensor.offset + n_bytes]
            if elements.size != n_bytes:
                raise ValueError(f"{tensor.file} ends within its tensors")
            array = np.array(elements).view(tensor.dtype).reshape(tensor.shape)  # aligned, wherever it began
            self._values[tensor] = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", device)
        return self._values[tensor]


_in_use: WeakValueDictionary[tuple[bytes, int], SharedWeights] = WeakValueDictionary()
_lock = threading.Lock()


def share_weights(
    onnxruntime: Any, options: Any, model: bytes, folder: Path, device: int
) -> tuple[list[SharedWeights], int]:
    """Give a session's options the weights of a graph that are on a GPU already, or put them there.

    Returns what must live as long as the session, and how many tensors it shares. Those whose elements numpy
    does not have (bfloat16) are left to the session.

    Args:
        onnxruntime: the package.
        options: the session's.
        model: the graph's bytes.
        folder: where the files of its weights lie.
        device: the number of the GPU.

    Raises:
        ValueError: the bytes are no graph, or a file is too short.
        OSError: a file cannot be read.
    """
    tensors = external_tensors(model)
    kept = []
    with _lock:
        for file in sorted({tensor.file for tensor in tensors.values()}):
            stored = np.memmap(folder / file, np.uint8, "r")
            key = hashlib.sha256(stored.data).digest(), device
            weights = _in_use.get(key) or SharedWeights()
            _in_use[key] = weights
            kept.append(weights)
            for name, tensor in tensors.items():
                if tensor.file == file:
                    options.add_initializer(name, weights.value(onnxruntime, tensor, stored, device))
    return kept, len(tensors)


def external_tensors(model: bytes) -> Mapping[str, ExternalTensor]:
    """Return a graph's tensors of FP32 and FP16 that lie in files of its folder, by name.

    Raises:
        ValueError: the bytes are no graph.
    """
    found: dict[str, ExternalTensor] = {}
    for number, _, graph in fields(memoryview(model)):
        if number == GRAPH_OF_MODEL:
            for kind, _, tensor in fields(graph):
                if kind == INITIALIZER:
                    found |= _external(tensor)
    return found


def _external(tensor: Bytes) -> dict[str, ExternalTensor]:
    where: dict[str, str] = {}
    shape: list[int] = []
    dtype = None
    for number, _, value in fields(tensor):
        if number == EXTERNAL:
            where |= dict(zip(texts(value, ENTRY_KEY), texts(value, ENTRY_VALUE), strict=True))
        elif number == SIZES:  # one, or all of them packed
            at = 0
            while at < len(value):
                size, at = varint(value, at)
                shape.append(size)
        elif number == DATA_TYPE:
            dtype = FLOATS.get(varint(value, 0)[0])
    file = where.get("location", "")
    if dtype is None or not file or Path(file).name != file:
        return {}
    (name,) = texts(tensor, TENSOR_NAME)
    return {name: ExternalTensor(file, int(where.get("offset", 0)), tuple(shape), dtype)}

"""An execution context for one set of shapes, and the device memory that it works in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from sbim_deploy.engines import cuda
from sbim_deploy.engines.tensorrt_package import take_errors
from sbim_deploy.errors import SbimDeployError

DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


class FixedContext:
    """A context whose shapes never change, since TensorRT may not change them under a captured graph.

    Args:
        trt: the package.
        context: an execution context that leaves its device memory to its user.
        owners: what must live as long as the context.
        outputs: the outputs' dtypes, by name.
        shapes: the inputs' shapes, by name.
        stack: frees the device memory.

    Raises:
        InputError: the GPU is out of memory.
        SbimDeployError: TensorRT refuses the shapes.
    """

    def __init__(
        self,
        trt: Any,
        context: Any,
        owners: tuple[Any, ...],
        outputs: Mapping[str, np.dtype[Any]],
        shapes: Mapping[str, tuple[int, ...]],
        stack: ExitStack,
    ):
        self._trt, self._context, self._owners = trt, context, owners
        for name, shape in shapes.items():
            self._must(self._context.set_input_shape(name, shape), f"the shape {shape} of input {name!r}")
        unknown = self._context.infer_shapes()
        self._must(not unknown, f"the shapes: it does not know those of {unknown}")
        n_bytes = int(self._context.update_device_memory_size_for_shapes())
        if n_bytes:
            self._context.set_device_memory(cuda.allocate(stack, n_bytes), n_bytes)
        self.outputs = {
            name: (tuple(int(n) for n in self._context.get_tensor_shape(name)), dtype)
            for name, dtype in outputs.items()
        }

    def allocate_outputs(self, stack: ExitStack) -> dict[str, int]:
        """Return the addresses of new device memory for the outputs, by name."""
        return {
            name: cuda.allocate(stack, int(np.prod(shape)) * dtype.itemsize)
            for name, (shape, dtype) in self.outputs.items()
        }

    def is_capturable(self, stream: Any) -> bool:
        """Whether TensorRT says that its work can be captured; TensorRT itself has no such question."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(int(stream)))

    def enqueue(self, addresses: Mapping[str, int], stream: Any) -> None:
        """Put one run on the stream, with the tensors at these addresses.

        Raises:
            SbimDeployError: TensorRT refuses.
        """
        for name, address in addresses.items():
            self._must(self._context.set_tensor_address(name, address), f"the address of {name!r}")
        self._must(self._context.execute_async_v3(int(stream)), "the run")

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise SbimDeployError(f"TensorRT refuses {what}: {take_errors(self._trt)}")

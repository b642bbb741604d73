"""TensorRT and TensorRT-RTX on one GPU, without PyTorch or CuPy."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines import cuda
from sbim_deploy.engines.engine import Arrays, Recurrence, TensorSpec, check_inputs
from sbim_deploy.engines.kept_recurrence import RecurrenceKeeper
from sbim_deploy.engines.tensorrt_builder import Range, Shape, import_package, logger_of, take_errors
from sbim_deploy.engines.tensorrt_recurrence import DTYPES, FixedContext, TensorRTRecurrence
from sbim_deploy.errors import EngineIncompatibleError

DISTRIBUTIONS = {"trt": "tensorrt", "rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class RuntimeCache:
    """The kernels that TensorRT-RTX compiles for this GPU.

    ``stored`` are those that an earlier run kept. ``keep`` keeps those that are compiled now, and returns in
    words what became of them.
    """

    stored: bytes
    keep: Callable[[bytes], str]


class TensorRTEngine:
    """An engine on the GPU of this machine.

    It is freed by :meth:`close`, at the end of a ``with`` block, or when nothing refers to it.

    Args:
        backend: ``trt`` or ``rtx``.
        serialised: the engine as TensorRT writes it. It is code: the caller has checked where it comes from.
        inputs: the graph's inputs and their shapes, with names for free sizes.
        ranges: the sizes that the engine was built for, by dimensions' names.
        runtime_cache: kernels of TensorRT-RTX; None keeps none.
        device_index: the number of the GPU.

    Raises:
        BackendMissingError: the package is not installed, or there is no GPU.
        EngineIncompatibleError: the engine cannot be deserialised here.
    """

    def __init__(
        self,
        backend: str,
        serialised: bytes,
        inputs: Mapping[str, Shape],
        ranges: Mapping[str, Range],
        runtime_cache: RuntimeCache | None = None,
        device_index: int = 0,
    ):
        trt = import_package(backend)
        device = cuda.current_device(device_index)
        self._device = device_index
        logger_of(trt).errors.clear()
        self._trt, self._ranges = trt, ranges
        self._runtime = trt.Runtime(logger_of(trt))
        self._engine = self._runtime.deserialize_cuda_engine(serialised)
        if self._engine is None:
            raise EngineIncompatibleError(
                f"{DISTRIBUTIONS[backend]} {trt.__version__} cannot load the engine on {device.name}: "
                f"{take_errors(trt)}: build it again with: sbim-deploy build"
            )
        self.inputs = {name: TensorSpec(name, self._dtype(name), shape) for name, shape in inputs.items()}
        self.outputs = self._output_names()
        self._cache = runtime_cache
        self._runtime_config: Any = None
        self._kernels: Any = None
        self._kept = runtime_cache.stored if runtime_cache else b""
        if hasattr(trt, "IRuntimeCache"):
            self._runtime_config = self._configure_runtime()
        # How recurrences run, and whether the runtime cache was kept, is known after their first run.
        self.description: Mapping[str, str] = {
            "backend": DISTRIBUTIONS[backend],
            "version": str(trt.__version__),
            "device": f"{device.name}, compute capability {device.compute_capability / 10:.1f}",
            "device_index": str(device_index),
            "cuda_graph": "none yet",
        }
        self._keeper = RecurrenceKeeper()
        self._last_run: _Run | None = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs by name.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
            EngineIncompatibleError: the engine was not built for such sizes.
        """
        self._check(inputs)
        shapes = {name: array.shape for name, array in inputs.items()}
        if self._last_run is not None and self._last_run.shapes == shapes:
            return self._last_run(inputs)
        self._forget_run()
        self._last_run = _Run(self, inputs)
        outputs = self._last_run(inputs)
        self.keep_runtime_cache()
        return outputs

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Begin a recurrence from ``inputs``, all of them, in which ``output`` becomes the input ``state``.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
            EngineIncompatibleError: the engine was not built for such sizes.
        """
        self._check(inputs)
        return self._keeper.begin(
            state, output, inputs, lambda: TensorRTRecurrence(self, state, output, inputs)
        )

    def close(self) -> None:
        """Free what is on the GPU, the weights as soon as the last recurrence is gone too."""
        self._keeper.drop()
        self._forget_run()
        cuda.use_device(self._device)
        self._engine = self._runtime = self._runtime_config = self._kernels = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fix(self, shapes: Mapping[str, tuple[int, ...]], stack: ExitStack) -> FixedContext:
        """Return a context for inputs of these shapes, whose memory the stack frees."""
        user_managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        how = user_managed if self._runtime_config is None else self._runtime_config
        context = self._engine.create_execution_context(how)
        if context is None:
            raise EngineIncompatibleError(f"TensorRT cannot make a context: {take_errors(self._trt)}")
        owners = self._runtime, self._engine, self._runtime_config, self._kernels
        return FixedContext(self._trt, context, owners, self.outputs, shapes, stack)

    def keep_runtime_cache(self) -> None:
        """Keep the kernels that TensorRT-RTX has compiled, if there is a cache for them."""
        if self._cache is None or self._kernels is None:
            return
        compiled = bytes(self._kernels.serialize())
        if compiled != self._kept:
            self._describe("runtime_cache", self._cache.keep(compiled))
            self._kept = compiled

    def say_cuda_graph(self, text: str) -> None:
        """Put into the description how recurrences run."""
        self._describe("cuda_graph", text)

    def _describe(self, name: str, text: str) -> None:
        self.description = {**self.description, name: text}

    def _check(self, inputs: Arrays) -> None:
        if self._engine is None:
            raise ValueError("the engine is closed: open it again")
        cuda.use_device(self._device)
        check_inputs(self.inputs, inputs)
        for name, spec in self.inputs.items():
            for got, size in zip(inputs[name].shape, spec.shape, strict=True):
                if isinstance(size, int):
                    continue
                allowed = self._ranges[size]
                if not allowed.minimum <= got <= allowed.maximum:
                    raise EngineIncompatibleError(
                        f"input {name!r} has {size} = {got}, the engine was built for {allowed.minimum} to "
                        f"{allowed.maximum}: build it again with: sbim-deploy build, and the ranges needed"
                    )

    def _forget_run(self) -> None:
        if self._last_run is not None:
            self._last_run.close()
        self._last_run = None

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(DTYPES[self._engine.get_tensor_dtype(name).name])

    def _output_names(self) -> dict[str, np.dtype[Any]]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        output = self._trt.TensorIOMode.OUTPUT
        return {name: self._dtype(name) for name in names if self._engine.get_tensor_mode(name) == output}

    def _configure_runtime(self) -> Any:
        trt = self._trt
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # With EAGER the kernels for these shapes are there after the first run. Lazy ones would come later,
        # and a captured graph would replay the fallback for ever.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if self._cache is not None:
            self._kernels = config.create_runtime_cache()
            if self._cache.stored:
                # It returns False for those of another driver; then they are compiled anew.
                self._kernels.deserialize(self._cache.stored)
            config.set_runtime_cache(self._kernels)
        return config


class _Run:
    """The memory, the stream and the context for inputs of some shapes."""

    def __init__(self, engine: TensorRTEngine, inputs: Arrays):
        self.shapes = {name: array.shape for name, array in inputs.items()}
        with ExitStack() as stack:
            self._stream = cuda.new_stream(stack)
            self._fixed = engine.fix(self.shapes, stack)
            self._addresses = {name: cuda.allocate(stack, array.nbytes) for name, array in inputs.items()}
            self._addresses |= self._fixed.allocate_outputs(stack)
            device = cuda.call("cudaGetDevice")
            self._free = weakref.finalize(self, cuda.free_after, stack.pop_all(), [self._stream], device)

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        kept = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in kept.items():
            cuda.upload(self._addresses[name], array, self._stream)
        self._fixed.enqueue(self._addresses, self._stream)
        return {
            name: cuda.download(self._addresses[name], shape, dtype, self._stream)
            for name, (shape, dtype) in self._fixed.outputs.items()
        }

    def close(self) -> None:
        self._free()

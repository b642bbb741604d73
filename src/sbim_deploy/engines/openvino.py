"""OpenVINO on the CPU, the faster engine where there is no GPU."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines.engine import (
    Arrays,
    Recurrence,
    TensorSpec,
    available_cores,
    check_changed,
    check_inputs,
    running,
)
from sbim_deploy.errors import BackendMissingError, EngineIncompatibleError, InputError, install_command

# A volume has planes of three shapes; slices have batches of one, and a last one of another. Each graph holds
# a copy of the weights.
MAX_COMPILED = 3
NAME = "OpenVINO"
OPENVINO, OPENVINO_BF16 = "openvino", "openvino-bf16"


class OpenVinoEngine:
    """A graph in OpenVINO's CPU plugin, compiled for each set of shapes that it meets.

    It is computed in FP32; as ``openvino-bf16`` its convolutions, but the first and the last, in bfloat16.

    Fixed shapes run faster than free ones and compile in about the time of a few calls; those of the last
    ``MAX_COMPILED`` sets are kept.

    Threads may share it. With several streams so many of their calls are computed side by side, and the
    streams share the weights of a compiled graph; further calls wait for their turn.

    Args:
        path: the graph; its external weights lie beside it.
        inputs: the graph's inputs by name, as OpenVINO forgets the names of free sizes.
        threads: threads of all streams together; None is one for each core.
        backend: ``openvino`` or ``openvino-bf16``.
        streams: the calls that are computed at once, each on its share of the threads.

    Raises:
        BackendMissingError: OpenVINO is not installed.
        EngineIncompatibleError: the processor has no bfloat16.
        InputError: the graph cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        inputs: Mapping[str, TensorSpec],
        threads: int | None = None,
        backend: str = OPENVINO,
        streams: int = 1,
    ):
        self._path = path
        self._openvino = _import_openvino()
        self.inputs = inputs
        self._core = self._openvino.Core()
        self._in_bfloat16 = backend == OPENVINO_BF16
        if self._in_bfloat16 and not _offers_bfloat16(self._core):
            device = self._core.get_property("CPU", "FULL_DEVICE_NAME")
            raise EngineIncompatibleError(
                f"backend {OPENVINO_BF16}: {device} has no instructions for bfloat16 (AVX512_BF16 or AMX): "
                "take openvino"
            )
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: OpenVINO cannot load it: {reason}") from error
        if streams > 1:
            threads = (threads or available_cores()) // streams * streams
        self._settings = _settings(threads, streams)
        self._compiled: OrderedDict[tuple[tuple[int, ...], ...], _Compiled] = OrderedDict()
        self._compiling = threading.Lock()
        self.description: Mapping[str, str] = {
            "backend": backend,
            "version": self._openvino.__version__.partition("-")[0],
            "device": self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            "streams": str(streams),
            **({} if threads is None else {"threads": str(threads)}),
            **self._bfloat16_description(),
        }

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs by name.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
        """
        check_inputs(self.inputs, inputs)
        with self._compiled_for(inputs).request() as request:
            for name, array in inputs.items():
                request.set_tensor(name, self._tensor(np.ascontiguousarray(array)))
            outputs = {
                port.any_name: np.empty(tuple(port.shape), port.element_type.to_dtype())
                for port in request.model_outputs
            }
            for name, array in outputs.items():
                request.set_tensor(name, self._tensor(array))
            with running(self._path, NAME, inputs):
                request.infer()
        return outputs

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Begin a recurrence from ``inputs``, all of them, in which ``output`` becomes the input ``state``.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
        """
        check_inputs(self.inputs, inputs)
        request = self._compiled_for(inputs).model.create_infer_request()
        tensors = {name: self._tensor(np.array(array, order="C")) for name, array in inputs.items()}
        other = self._tensor(np.array(inputs[state], order="C"))
        return _BoundRecurrence(self._path, request, state, output, tensors, other)

    def _bfloat16_description(self) -> dict[str, str]:
        """Say what computes convolutions in bfloat16, where there are any, and whether the processor can."""
        from sbim_deploy.engines.bfloat16 import convolution_kernel, has_bfloat16

        if not (self._in_bfloat16 or has_bfloat16(self._model)):
            return {}
        kernel = convolution_kernel(self._core, self._settings)
        if not kernel.endswith("bf16"):
            kernel = f"{kernel}: in FP32 from weights in bfloat16, which this processor does not have"
        elif not _offers_bfloat16(self._core):
            kernel = f"{kernel}: bfloat16 is emulated, which is slow: this processor does not have it"
        return {"convolutions": kernel}

    def _compiled_for(self, inputs: Arrays) -> _Compiled:
        """Return the model compiled for the shapes of ``inputs``; who comes first compiles it."""
        shapes = tuple(inputs[name].shape for name in self.inputs)
        with self._compiling:
            if shapes in self._compiled:
                self._compiled.move_to_end(shapes)
                return self._compiled[shapes]
            while len(self._compiled) >= MAX_COMPILED:
                self._compiled.popitem(last=False)
            compiled = self._compiled[shapes] = _Compiled(self._compile(shapes, inputs))
            return compiled

    def _compile(self, shapes: tuple[tuple[int, ...], ...], inputs: Arrays) -> Any:
        from sbim_deploy.engines.bfloat16 import round_convolutions
        from sbim_deploy.engines.one_image import drop_sums_over_one
        from sbim_deploy.engines.winograd import shorten_convolutions

        try:
            model = self._model.clone()
            model.reshape(dict(zip(self.inputs, map(list, shapes), strict=True)))
            drop_sums_over_one(model)
            if self._in_bfloat16:
                round_convolutions(model)
            else:
                shorten_convolutions(model)
            with running(self._path, NAME, inputs):
                return self._core.compile_model(model, "CPU", self._settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the graph does not take the shapes {shapes}: {reason}") from error

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self._openvino.Tensor(array, shared_memory=True)


class _Compiled:
    """A compiled model, and requests of it that are idle: a call takes one, or makes another."""

    def __init__(self, model: Any):
        self.model = model
        self._idle: list[Any] = []

    @contextmanager
    def request(self) -> Iterator[Any]:
        """Lend a request; one whose call has failed does not come back."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.model.create_infer_request()
        yield request
        self._idle.append(request)


class _BoundRecurrence:
    """A recurrence on one request, whose state and output change places after every run."""

    def __init__(
        self, path: Path, request: Any, state: str, output: str, tensors: dict[str, Any], other: Any
    ):
        self._path, self._request = path, request
        self._state, self._output = state, output
        self._begun = {name: tensor.data for name, tensor in tensors.items()}
        # These hold the memory that the request reads and writes.
        self._tensors = tensors
        self._now, self._next = tensors[state], other
        for name, tensor in tensors.items():
            request.set_tensor(name, tensor)

    def advance(self, changed: Arrays) -> None:
        """Run the graph once; see :class:`sbim_deploy.engines.engine.Recurrence`."""
        check_changed(self._begun, changed)
        for name, array in changed.items():
            (self._now if name == self._state else self._tensors[name]).data[...] = array
        self._request.set_tensor(self._state, self._now)
        self._request.set_tensor(self._output, self._next)
        with running(self._path, NAME, self._begun):
            self._request.infer()
        self._now, self._next = self._next, self._now

    def read(self) -> NDArray[Any]:
        """Return a copy of the state."""
        state: NDArray[Any] = np.array(self._now.data)
        return state


def _offers_bfloat16(core: Any) -> bool:
    """Tell whether the processor has instructions for bfloat16, AVX512_BF16 or AMX."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _settings(threads: int | None, streams: int) -> dict[Any, Any]:
    """Return the plugin's settings: calls on the threads of their stream, in the precision of the model."""
    from openvino import properties

    hint = properties.hint
    mode = hint.PerformanceMode
    settings = {
        hint.performance_mode: mode.LATENCY if streams == 1 else mode.THROUGHPUT,
        hint.execution_mode: hint.ExecutionMode.ACCURACY,
        hint.inference_precision: "f32",
        # Pinned threads of several processes would all take the same first cores.
        hint.enable_cpu_pinning: False,
    }
    if threads is not None:
        settings[properties.inference_num_threads] = threads
    if streams > 1:
        settings[properties.num_streams] = streams
    return settings


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendMissingError(f"OpenVINO is not installed: {install_command('openvino')}") from error
    return openvino

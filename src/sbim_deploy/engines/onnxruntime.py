"""ONNX Runtime, the engine that runs on every machine."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines import onnxruntime_cuda
from sbim_deploy.engines.engine import (
    Arrays,
    Recurrence,
    TensorSpec,
    check_changed,
    check_inputs,
    running,
)
from sbim_deploy.engines.kept_recurrence import RecurrenceKeeper
from sbim_deploy.engines.onnx_elu import put_elu_back
from sbim_deploy.engines.onnx_weights import SharedWeights, share_weights
from sbim_deploy.errors import (
    BackendMissingError,
    EngineIncompatibleError,
    InputError,
    SbimDeployError,
    install_command,
)

NAME = "ONNX Runtime"
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
CPU, CUDA, CUDA_TF32 = "onnxruntime", "onnxruntime-cuda", "onnxruntime-cuda-tf32"
BACKENDS = (CPU, CUDA, CUDA_TF32)
"""The last computes FP32 models in TF32, which only those get who name it."""
DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(float16)": np.float16}


class OnnxRuntimeEngine:
    """A graph in an ONNX Runtime session on one execution provider, and on no other.

    Args:
        path: the graph; its external weights lie beside it.
        threads: threads inside an operator; None is one for each core.
        backend: one of ``BACKENDS``, which decides on the provider and the precision.
        device_index: the number of the GPU; the CPU has none.

    Raises:
        BackendMissingError: ONNX Runtime is not installed, has no such provider, or no GPU to run it on.
        InputError: the graph cannot be loaded.
        EngineIncompatibleError: it does not run where and how it was asked to.
    """

    def __init__(self, path: Path, threads: int | None = None, backend: str = CPU, device_index: int = 0):
        self._path = path
        onnxruntime = _import_onnxruntime()
        provider = "CPUExecutionProvider" if backend == CPU else onnxruntime_cuda.PROVIDER
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise BackendMissingError(
                f"onnxruntime {onnxruntime.__version__} has no {provider}, only {', '.join(available)}: "
                f"{install_command('gpu')} for CUDA, or choose another backend"
            )
        given: dict[str, str] = {}
        model: Path | bytes = path
        n_elu = n_shared = 0
        self._weights: list[SharedWeights] = []
        if backend != CPU:
            onnxruntime_cuda.check_device(onnxruntime, device_index)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if backend != CPU:
            given = onnxruntime_cuda.provider_options(backend == CUDA_TF32, device_index)
            options.add_session_config_entry(*onnxruntime_cuda.RECORD_ASSIGNMENT)
            options.add_session_config_entry(onnxruntime_cuda.WEIGHTS_FOLDER, str(path.parent.absolute()))
            with _loading(path), _cuda_errors():
                model, n_elu = put_elu_back(path.read_bytes())
                self._weights, n_shared = share_weights(
                    onnxruntime, options, model, path.parent, device_index
                )
        if threads is not None:
            options.intra_op_num_threads = threads
        with _loading(path):
            self._session = onnxruntime.InferenceSession(
                model, sess_options=options, providers=[(provider, given)], enable_fallback=0
            )
        in_use = self._session.get_providers()
        if in_use[0] != provider:
            raise EngineIncompatibleError(f"{path}: asked for {provider}, got {in_use[0]}: not run")
        self._device = ("cpu", 0) if backend == CPU else ("cuda", device_index)
        # On the CPU a new one takes no longer than another start.
        self._keeper = None if backend == CPU else RecurrenceKeeper()
        self._output_names = [output.name for output in self._session.get_outputs()]
        self.inputs = {node.name: _spec(node) for node in self._session.get_inputs()}
        self.description: Mapping[str, str] = {
            "backend": backend,
            "version": onnxruntime.__version__,
            "provider": provider,
        }
        if backend != CPU:
            onnxruntime_cuda.check_options(self._session, given, path)
            tf32 = onnxruntime_cuda.TF32_COST if backend == CUDA_TF32 else "off"
            on_cpu = onnxruntime_cuda.nodes_on_cpu(self._session, path)
            self.description = {**self.description, "tf32": tf32, "nodes_on_cpu": on_cpu}
            self.description = {
                **self.description,
                "device_index": str(device_index),
                "elu": f"{n_elu} put back",
                "weights": f"{n_shared} on the GPU once for all graphs of the model"
                if n_shared
                else "a copy for each graph",
            }

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs by name.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
        """
        check_inputs(self.inputs, inputs)
        with running(self._path, NAME, inputs), _cuda_errors():
            outputs = self._session.run(self._output_names, dict(inputs))
        return dict(zip(self._output_names, outputs, strict=True))

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Begin a recurrence from ``inputs``, all of them, in which ``output`` becomes the input ``state``.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
        """
        check_inputs(self.inputs, inputs)

        def make() -> _BoundRecurrence:
            owners = self._session, self._weights
            return _BoundRecurrence(self._path, owners, self._device, state, output, inputs)

        if self._keeper is None:
            return make()
        with _cuda_errors():
            return self._keeper.begin(state, output, inputs, make)


class _BoundRecurrence:
    """A recurrence on two bindings of one session, which write to the two buffers of the state in turn.

    ``owners`` are the session and the weights that must live as long as it.
    """

    def __init__(
        self,
        path: Path,
        owners: tuple[Any, list[SharedWeights]],
        device: tuple[str, int],
        state: str,
        output: str,
        inputs: Arrays,
    ):
        self._path, (self._session, self._weights), self._state = path, owners, state
        self._begun = dict(inputs)
        self._values = {name: _copy(array, device) for name, array in inputs.items()}
        self._now, self._next = (_copy(inputs[state], device) for _ in range(2))
        self._binding, self._other = (
            self._bind(state, output, source, target)
            for source, target in ((self._now, self._next), (self._next, self._now))
        )

    def restart(self, inputs: Arrays) -> None:
        """Begin again from ``inputs``, all of them and of the same shapes, in the same memory."""
        check_changed(self._begun, inputs)
        self._begun = dict(inputs)
        for name, array in inputs.items():
            value = self._now if name == self._state else self._values[name]
            value.update_inplace(np.ascontiguousarray(array))

    def close(self) -> None:
        """Free its memory."""
        self._binding = self._other = self._now = self._next = None
        self._values = {}

    def _bind(self, state: str, output: str, source: Any, target: Any) -> Any:
        binding = self._session.io_binding()
        for name, value in self._values.items():
            binding.bind_ortvalue_input(name, source if name == state else value)
        binding.bind_ortvalue_output(output, target)
        return binding

    def advance(self, changed: Arrays) -> None:
        """Run the graph once; see :class:`sbim_deploy.engines.engine.Recurrence`."""
        check_changed(self._begun, changed)
        with running(self._path, NAME, self._begun), _cuda_errors():
            for name, array in changed.items():
                self._values[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(self._binding)
        self._now, self._next = self._next, self._now
        self._binding, self._other = self._other, self._binding

    def read(self) -> NDArray[Any]:
        """Return a copy of the state."""
        with _cuda_errors():
            state: NDArray[Any] = np.array(self._now.numpy())
        return state


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Turn whatever a graph cannot be loaded for into the error that names it."""
    try:
        yield
    except SbimDeployError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: ONNX Runtime cannot load it: {reason}") from error


@contextmanager
def _cuda_errors() -> Iterator[None]:
    """Turn an exception that tells of the GPU into the error that says what to do."""
    import onnxruntime

    try:
        yield
    except Exception as error:
        known = onnxruntime_cuda.as_cuda_error(onnxruntime, error)
        if known is None:
            raise
        raise known from error


def _import_onnxruntime() -> Any:
    """Import ONNX Runtime. Only one of its distributions may be installed, since they share their files."""
    installed = [name for name in DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise BackendMissingError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: uninstall "
            f"both, then {install_command('cpu')}, or the extra gpu for CUDA"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissingError(
            f"ONNX Runtime is not installed: {install_command('cpu')}, or the extra gpu for CUDA"
        ) from error
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _copy(array: NDArray[Any], device: tuple[str, int]) -> Any:
    from onnxruntime import OrtValue

    # On the CPU an OrtValue is the array's own memory, which update_inplace would write to.
    return OrtValue.ortvalue_from_numpy(np.array(array, order="C"), *device)


def _spec(node: Any) -> TensorSpec:
    # Sizes without a name, and expressions, become texts that match no other size.
    shape = tuple(size if isinstance(size, int) else str(size) for size in node.shape)
    return TensorSpec(node.name, np.dtype(DTYPES[node.type]), shape)

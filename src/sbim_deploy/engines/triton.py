"""The engine that asks a Triton Inference Server, in another process or on another machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines.engine import Arrays, Recurrence, TensorSpec, check_changed, check_inputs
from sbim_deploy.engines.triton_client import (
    CALL_TIMEOUT_S,
    Exchange,
    MessageExchange,
    SharedExchange,
    TritonServer,
    Wire,
    one_line,
    same_shapes,
    try_shared_memory,
)
from sbim_deploy.errors import BackendMissingError, EngineIncompatibleError, InputError, SbimDeployError
from sbim_deploy.words import plural

DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.float16): "FP16", np.dtype(np.int64): "INT64"}
IN_SHARED_MEMORY = "system shared memory"
IN_MESSAGES = "bytes in gRPC messages"


class TritonEngine:
    """A served model, whose parameters must say which graph it is.

    On one host the tensors go through shared memory if the server can map it, and otherwise as bytes in the
    messages. ``description["tensors"]`` says which, and why.

    Args:
        url: HOST:PORT of the server's gRPC.
        model: the served model's name.
        inputs, outputs: the graph's tensors by name, as the protocol forgets the names of free sizes.
        identity: the parameters that the served model must have, by key.
        backend: what the description calls it.
        timeout_s: of an inference.

    Raises:
        InputError: the address is not HOST:PORT.
        BackendMissingError: tritonclient is not installed, or no server answers.
        EngineIncompatibleError: the server has no such model, or another one of its name.
    """

    def __init__(
        self,
        url: str,
        model: str,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        identity: Mapping[str, str],
        backend: str = "triton",
        timeout_s: float = CALL_TIMEOUT_S,
    ):
        self.inputs, self._outputs = inputs, outputs
        self._server = TritonServer(url, timeout_s)
        self._model = model
        self._config = self._server.config(model)
        self._check_identity(identity)
        self._check_tensors()
        self._exchange: Exchange | None = None
        self._wires: dict[str, Wire] = {}
        self.description: Mapping[str, str] = {
            "backend": backend,
            "version": self._server.version,
            "url": url,
            "model": model,
            "platform": one_line(self._config.platform or self._config.backend),
        }
        self._share("" if self._server.is_local else "the server is elsewhere")
        if self._is_shared:
            try:
                try_shared_memory(self._server)
            except BackendMissingError:
                raise
            except SbimDeployError as error:
                self._share(f"no shared memory: {error}")

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs by name.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
            InputError: the batch is larger than the server takes.
            BackendMissingError: the server is gone.
        """
        check_inputs(self.inputs, inputs)
        if self._exchange is None or not same_shapes(inputs, self._wires):
            self._exchange = None  # so that the server forgets the old memory before it maps the new
            self._wires, self._exchange = self._open_exchange(inputs)
        for name, array in inputs.items():
            self._exchange.put(name, array)
        self._exchange.run()
        return {name: self._exchange.get(name) for name in self._outputs}

    def recur(self, state: str, output: str, inputs: Arrays) -> Recurrence:
        """Begin a recurrence from ``inputs``, all of them, in which ``output`` becomes the input ``state``.

        Raises:
            ValueError: names, dtypes or shapes are not the graph's.
            InputError: the batch is larger than the server takes.
        """
        check_inputs(self.inputs, inputs)
        _, exchange = self._open_exchange(inputs)
        for name, array in inputs.items():
            exchange.put(name, array)
        return _ServedRecurrence(exchange, state, output, inputs)

    def _open_exchange(self, inputs: Arrays) -> tuple[dict[str, Wire], Exchange]:
        wires, outputs = self._wires_of(inputs)
        if self._is_shared:
            try:
                return wires, SharedExchange(self._server, self._model, [*wires.values()], outputs)
            except BackendMissingError:
                raise
            except SbimDeployError as error:
                self._share(f"no shared memory: {error}")
        return wires, MessageExchange(self._server, self._model, [*wires.values()], outputs)

    def _share(self, obstacle: str) -> None:
        """Decide whether tensors go through shared memory, and put it into the description."""
        self._is_shared = not obstacle
        way = IN_SHARED_MEMORY if self._is_shared else f"{IN_MESSAGES}, {obstacle}"
        self.description = {**self.description, "tensors": way}

    def _wires_of(self, inputs: Arrays) -> tuple[dict[str, Wire], list[Wire]]:
        """Return the inputs' and the outputs' shapes, as the graph has them and as the protocol does."""
        sizes: dict[str, int] = {}
        for name, spec in self.inputs.items():
            sizes |= {
                axis: n
                for axis, n in zip(spec.shape, inputs[name].shape, strict=True)
                if isinstance(axis, str)
            }
        limit = self._config.max_batch_size
        if limit and sizes.get("batch", 1) > limit:
            raise InputError(
                f"{self._server.url}: {self._model} takes {plural(limit, 'slice')} at once, got "
                f"{sizes['batch']}: take a smaller --batch, or write the repository with a larger --max-batch"
            )
        configured = {each.name: each for each in (*self._config.input, *self._config.output)}
        wires = {
            name: _wire(spec, inputs[name].shape, configured[name]) for name, spec in self.inputs.items()
        }
        outputs = []
        for name, spec in self._outputs.items():
            shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape)
            outputs.append(_wire(spec, shape, configured[name]))
        return wires, outputs

    def _check_identity(self, expected: Mapping[str, str]) -> None:
        parameters = {key: value.string_value for key, value in self._config.parameters.items()}
        wrong = [
            f"{key} is {parameters.get(key, '')[:12] or 'not said'}, expected {value[:12]}"
            for key, value in expected.items()
            if parameters.get(key) != value
        ]
        if wrong:
            raise EngineIncompatibleError(
                f"{self._server.url}: the served {self._model} is not this model's: {'; '.join(wrong)}; "
                "write its repository again with sbim-deploy triton and restart the server"
            )

    def _check_tensors(self) -> None:
        """Compare names and types with the graph's, on which everything else relies."""
        for what, specs, served in (
            ("inputs", self.inputs, self._config.input),
            ("outputs", self._outputs, self._config.output),
        ):
            expected = {name: f"TYPE_{DATATYPES[spec.dtype]}" for name, spec in specs.items()}
            kinds = self._config.DESCRIPTOR.fields_by_name[what[:-1]].message_type.fields_by_name["data_type"]
            got = {each.name: kinds.enum_type.values_by_number[each.data_type].name for each in served}
            if got != expected:
                raise EngineIncompatibleError(
                    f"{self._server.url}: the served {self._model} has {what} {got}, expected {expected}"
                )


class _ServedRecurrence:
    """A recurrence whose state stays in the shared memory, or goes to the server and back in messages."""

    def __init__(self, exchange: Exchange, state: str, output: str, inputs: Arrays):
        self._exchange, self._state, self._output = exchange, state, output
        self._begun = dict(inputs)

    def advance(self, changed: Arrays) -> None:
        """Run the graph once; see :class:`sbim_deploy.engines.engine.Recurrence`."""
        check_changed(self._begun, changed)
        for name, array in changed.items():
            self._exchange.put(name, array)
        self._exchange.run()
        self._exchange.feed(self._output, self._state)

    def read(self) -> NDArray[Any]:
        """Return a copy of the state."""
        return self._exchange.get(self._state)


def _wire(spec: TensorSpec, shape: Sequence[int], configured: Any) -> Wire:
    """Return a tensor with its shape in the protocol, which has no tensors of the batch's axis alone."""
    wire_shape = (*shape, 1) if configured.HasField("reshape") else tuple(shape)
    return Wire(spec.name, tuple(shape), wire_shape, spec.dtype, DATATYPES[spec.dtype])

"""A client of a Triton Inference Server, with time-outs, one-line errors and shared memory."""

from __future__ import annotations

import ipaddress
import mmap
import os
import re
import secrets
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines.engine import Arrays
from sbim_deploy.errors import (
    BackendMissingError,
    EngineIncompatibleError,
    InputError,
    SbimDeployError,
    install_command,
)

CONTROL_TIMEOUT_S = 10.0  # for calls that compute nothing
CALL_TIMEOUT_S = 600.0  # for an inference, with its time in the server's queue
MAX_ANSWER_BYTES = 256 * 1024**2
MAX_MESSAGE = 300

_ADDRESS = re.compile(
    r"(?:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))|\[(?P<ip>[0-9A-Fa-f:.]{2,45})\]):(?P<port>\d{1,5})"
)

SHARED = Path("/dev/shm")  # noqa: S108  Linux keeps POSIX shared memory there; the names are random
ALIGNMENT = 64


class TritonServer:
    """A server at HOST:PORT, its gRPC port, which has answered once.

    Args:
        url: the address, such as 127.0.0.1:8001 or [::1]:8001.
        timeout_s: how long an inference may take.

    Raises:
        InputError: the address is not HOST:PORT.
        BackendMissingError: tritonclient is not installed, or no server answers.
    """

    def __init__(self, url: str, timeout_s: float = CALL_TIMEOUT_S):
        self.url, self._timeout_s = url, timeout_s
        self.is_local = _is_loopback(url)
        self._triton = _import_tritonclient()
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ]
        if self.is_local:
            options.append(("grpc.enable_http_proxy", 0))
        self._client = self._triton.InferenceServerClient(url, channel_args=options)
        metadata = self._control("get_server_metadata")
        self.version = one_line(metadata.version)

    def config(self, model: str) -> Any:
        """Return a served model's ModelConfig.

        Raises:
            EngineIncompatibleError: the server does not serve it: the message says what it serves.
        """
        if not self._control("is_model_ready", model):
            index = self._control("get_model_repository_index")
            ready = [one_line(each.name) for each in index.models if each.state in ("READY", "")]
            raise EngineIncompatibleError(
                f"{self.url}: the server has no model {model} ready, only {_listed(ready)}: write its "
                "repository with sbim-deploy triton and start the server on it"
            )
        return self._control("get_model_config", model).config

    def infer(self, model: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Return the answer to an inference, tritonclient's InferResult.

        Raises:
            BackendMissingError: the server is gone, or did not answer in time.
            InputError: it refuses the request.
        """
        return self._ask(
            lambda: self._client.infer(
                model, list(inputs), outputs=list(outputs), client_timeout=self._timeout_s
            ),
            self._timeout_s,
        )

    def register_memory(self, name: str, n_bytes: int) -> None:
        """Let the server map the shared memory of a name.

        Raises:
            SbimDeployError: it cannot.
        """
        self._control("register_system_shared_memory", name, f"/{name}", n_bytes)

    def forget_memory(self, name: str) -> None:
        """Let the server unmap shared memory. Nothing is to do where the server is gone."""
        try:
            self._control("unregister_system_shared_memory", name)
        except SbimDeployError:
            return

    def new_input(self, name: str, shape: Sequence[int], datatype: str) -> Any:
        """Return tritonclient's InferInput."""
        return self._triton.InferInput(name, list(shape), datatype)

    def new_output(self, name: str) -> Any:
        """Return tritonclient's InferRequestedOutput."""
        return self._triton.InferRequestedOutput(name)

    def _control(self, call: str, *arguments: Any) -> Any:
        bound = getattr(self._client, call)
        return self._ask(lambda: bound(*arguments, client_timeout=CONTROL_TIMEOUT_S), CONTROL_TIMEOUT_S)

    def _ask(self, call: Callable[[], Any], timeout_s: float) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as error:
            raise self._as_ours(error, timeout_s) from error

    def _as_ours(self, error: Any, timeout_s: float) -> SbimDeployError:
        status = str(error.status()).removeprefix("StatusCode.")
        reason = one_line(str(error.message()))
        if status == "UNAVAILABLE":
            return BackendMissingError(
                f"{self.url}: no Triton server answers ({reason}): start it, or check the address"
            )
        if status == "DEADLINE_EXCEEDED":
            return BackendMissingError(
                f"{self.url}: the Triton server did not answer within {timeout_s:g} s: see its log"
            )
        if status in ("INVALID_ARGUMENT", "NOT_FOUND"):
            return InputError(f"{self.url}: the Triton server refuses the request: {reason}")
        return SbimDeployError(f"{self.url}: the Triton server failed, {status}: {reason}")


def check_address(url: str) -> None:
    """Raise InputError where ``url`` is not HOST:PORT."""
    match = _ADDRESS.fullmatch(url)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InputError(
            f"url is {url[:80]!r}: expected HOST:PORT of a server's gRPC, such as 127.0.0.1:8001"
        )


def one_line(text: str) -> str:
    """Return what a server says as one short line of printable characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]}..."


@dataclass(frozen=True)
class Wire:
    """A tensor of a graph, with its name, shape and type in the server's protocol."""

    name: str
    shape: tuple[int, ...]
    wire_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    datatype: str

    @property
    def n_bytes(self) -> int:
        """The bytes of the tensor."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Exchange(Protocol):
    """A model's tensors of one set of shapes, ready to be sent again and again."""

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Give an input a new value."""
        ...

    def run(self) -> None:
        """Run the model once."""
        ...

    def get(self, name: str) -> NDArray[Any]:
        """Return a copy of an output of the last run, or of an input."""
        ...

    def feed(self, output: str, state: str) -> None:
        """Make an output of the last run the input ``state``."""
        ...


class MessageExchange:
    """Sends tensors as bytes in the messages, and sends again even those that have not changed."""

    def __init__(self, server: TritonServer, model: str, inputs: Sequence[Wire], outputs: Sequence[Wire]):
        self._server, self._model = server, model
        self._wires = {wire.name: wire for wire in inputs}
        self._expected = {wire.name: wire for wire in outputs}
        self._inputs = {
            wire.name: server.new_input(wire.name, wire.wire_shape, wire.datatype) for wire in inputs
        }
        self._asked = [server.new_output(wire.name) for wire in outputs]
        self._arrays: dict[str, NDArray[Any]] = {}

    def put(self, name: str, array: NDArray[Any]) -> None:
        """See :class:`Exchange`."""
        self._inputs[name].set_data_from_numpy(array.reshape(self._wires[name].wire_shape))
        self._arrays[name] = array

    def run(self) -> None:
        """See :class:`Exchange`."""
        result = self._server.infer(self._model, list(self._inputs.values()), self._asked)
        for name, wire in self._expected.items():
            check_output(self._server.url, result, wire)
            try:
                self._arrays[name] = result.as_numpy(name).reshape(wire.shape)
            except ValueError as error:
                raise _wrong(self._server.url, wire, "fewer or more bytes than its shape has") from error

    def get(self, name: str) -> NDArray[Any]:
        """See :class:`Exchange`."""
        return np.array(self._arrays[name])

    def feed(self, output: str, state: str) -> None:
        """See :class:`Exchange`."""
        self.put(state, self._arrays[output])


class SharedExchange:
    """Keeps tensors in one region of memory that the server maps too; messages only name the places in it.

    A state and its output change places after a run, so that nothing is copied. The region's file is removed
    as soon as both have mapped it, so that none is left behind, whatever happens to this process.

    Raises:
        SbimDeployError: the memory cannot be had, or the server cannot map it.
    """

    def __init__(self, server: TritonServer, model: str, inputs: Sequence[Wire], outputs: Sequence[Wire]):
        self._server, self._model = server, model
        self._inputs = {wire.name: wire for wire in inputs}
        self._outputs = {wire.name: wire for wire in outputs}
        self._offsets, total = _layout([*inputs, *outputs])
        self._region, self._memory = _share_memory(server, total)
        weakref.finalize(self, server.forget_memory, self._region)

    def put(self, name: str, array: NDArray[Any]) -> None:
        """See :class:`Exchange`."""
        self._view(self._inputs[name])[...] = array

    def run(self) -> None:
        """See :class:`Exchange`."""
        for wire in self._outputs.values():
            self._view(wire)[...] = np.nan  # an old value must not pass for an answer of the server
        inputs = [
            self._placed(wire, self._server.new_input(wire.name, wire.wire_shape, wire.datatype))
            for wire in self._inputs.values()
        ]
        outputs = [self._placed(wire, self._server.new_output(wire.name)) for wire in self._outputs.values()]
        result = self._server.infer(self._model, inputs, outputs)
        for wire in self._outputs.values():
            check_output(self._server.url, result, wire)

    def get(self, name: str) -> NDArray[Any]:
        """See :class:`Exchange`."""
        return np.array(self._view(self._outputs.get(name) or self._inputs[name]))

    def feed(self, output: str, state: str) -> None:
        """See :class:`Exchange`."""
        offsets = self._offsets
        offsets[state], offsets[output] = offsets[output], offsets[state]

    def _placed(self, wire: Wire, tensor: Any) -> Any:
        tensor.set_shared_memory(self._region, wire.n_bytes, self._offsets[wire.name])
        return tensor

    def _view(self, wire: Wire) -> NDArray[Any]:
        n = int(np.prod(wire.shape))
        return np.frombuffer(self._memory, wire.dtype, n, self._offsets[wire.name]).reshape(wire.shape)


def try_shared_memory(server: TritonServer) -> None:
    """Raise SbimDeployError where a server cannot map memory of this process."""
    name, _ = _share_memory(server, ALIGNMENT)
    server.forget_memory(name)


def check_output(url: str, result: Any, wire: Wire) -> None:
    """Raise SbimDeployError where an output in the answer has another type or shape than expected."""
    output = result.get_output(wire.name)
    if output is None:
        raise _wrong(url, wire, "none")
    got = output.datatype, tuple(output.shape)
    if got != (wire.datatype, wire.wire_shape):
        raise _wrong(url, wire, f"{got[0][:20]} {got[1][:8]}")


def same_shapes(inputs: Arrays, wires: Mapping[str, Wire]) -> bool:
    """Whether arrays have the shapes of an exchange's inputs."""
    return all(array.shape == wires[name].shape for name, array in inputs.items())


def _is_loopback(url: str) -> bool:
    check_address(url)
    match = _ADDRESS.fullmatch(url)
    assert match is not None
    host = match["ip"] or match["name"]
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _import_tritonclient() -> Any:
    try:
        import tritonclient.grpc
    except ImportError as error:
        raise BackendMissingError(
            f"the client of Triton is not installed: {install_command('triton')}"
        ) from error
    return tritonclient.grpc


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "none"


def _share_memory(server: TritonServer, n_bytes: int) -> tuple[str, mmap.mmap]:
    """Return memory that the server has mapped, and the name that it has there."""
    name = f"sbim-deploy-{secrets.token_hex(12)}"
    path = SHARED / name
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except OSError as error:
        raise SbimDeployError(f"{SHARED} cannot be written ({error.strerror})") from error
    try:
        os.posix_fallocate(handle, 0, n_bytes)  # without it, writing to a full /dev/shm would end the process
        memory = mmap.mmap(handle, n_bytes)
        server.register_memory(name, n_bytes)
    except OSError as error:
        raise SbimDeployError(f"{SHARED} has no {n_bytes} bytes ({error.strerror})") from error
    finally:
        os.close(handle)
        path.unlink()
    return name, memory


def _wrong(url: str, wire: Wire, got: str) -> SbimDeployError:
    return SbimDeployError(
        f"{url}: the Triton server's output {wire.name} is {got}, expected {wire.datatype} {wire.wire_shape}"
    )


def _layout(wires: Sequence[Wire]) -> tuple[dict[str, int], int]:
    """Return the tensors' offsets, and the size of them all."""
    offsets: dict[str, int] = {}
    end = 0
    for wire in wires:
        offsets[wire.name] = end
        end += -(-wire.n_bytes // ALIGNMENT) * ALIGNMENT
    return offsets, end

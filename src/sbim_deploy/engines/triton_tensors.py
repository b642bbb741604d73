"""How tensors go to a Triton server and back: as bytes in the messages, or through memory that both share."""

from __future__ import annotations

import mmap
import os
import secrets
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines.engine import Arrays
from sbim_deploy.engines.triton_server import TritonServer
from sbim_deploy.errors import SbimDeployError

SHARED = Path("/dev/shm")  # noqa: S108  where Linux keeps POSIX shared memory; the names are random
ALIGNMENT = 64


@dataclass(frozen=True)
class Wire:
    """How a tensor of a graph is called and shaped in the server's protocol."""

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
    """Tensors as bytes in the messages; what does not change is sent again all the same."""

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
    """Tensors in one region of memory that the server maps too; the messages only name the places.

    A state and its output change places after a run, so that nothing is copied here. The region's file is
    removed as soon as both have mapped it: nothing is left behind, whatever happens to this process.

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
            self._view(wire)[...] = np.nan  # what a server leaves unwritten must not pass for an answer
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
    """Raise SbimDeployError where an answer's tensor is not as it must be."""
    output = result.get_output(wire.name)
    if output is None:
        raise _wrong(url, wire, "none")
    got = output.datatype, tuple(output.shape)
    if got != (wire.datatype, wire.wire_shape):
        raise _wrong(url, wire, f"{got[0][:20]} {got[1][:8]}")


def _share_memory(server: TritonServer, n_bytes: int) -> tuple[str, mmap.mmap]:
    """Return memory that the server has mapped, and the name that it has there."""
    name = f"sbim-deploy-{secrets.token_hex(12)}"
    path = SHARED / name
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except OSError as error:
        raise SbimDeployError(f"{SHARED} cannot be written ({error.strerror})") from error
    try:
        os.posix_fallocate(handle, 0, n_bytes)  # else a full one ends the process at the first writing
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


def same_shapes(inputs: Arrays, wires: Mapping[str, Wire]) -> bool:
    """Whether arrays have the shapes of an exchange's inputs."""
    return all(array.shape == wires[name].shape for name, array in inputs.items())

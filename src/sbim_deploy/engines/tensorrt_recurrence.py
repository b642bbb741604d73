"""TensorRT contexts, and a recurrence on the GPU that uploads the next inputs while a step runs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.engines import cuda
from sbim_deploy.engines.engine import Arrays, TensorSpec, check_changed
from sbim_deploy.engines.tensorrt_builder import take_errors
from sbim_deploy.errors import SbimDeployError

DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


class FixedContext:
    """A context whose shapes never change, because they must not change under a captured graph.

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
        # 0 says that it failed, or that nothing is needed. What the engine needs at its greatest always does.
        n_bytes = int(self._context.update_device_memory_size_for_shapes()) or int(
            self._context.engine.get_device_memory_size_for_profile_v2(0)
        )
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
        """Whether the work can be captured. TensorRT-RTX tells; TensorRT cannot be asked, so it is tried."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(int(stream)))

    def enqueue(self, addresses: Mapping[str, int], stream: Any) -> None:
        """Put one run on the stream, with the tensors at these addresses.

        Raises:
            SbimDeployError: TensorRT refuses.
            DeviceLostError: it refuses because the GPU failed before.
        """
        for name, address in addresses.items():
            self._must(self._context.set_tensor_address(name, address), f"the address of {name!r}")
        self._must(self._context.execute_async_v3(int(stream)), "the run")

    def _must(self, done: bool, what: str) -> None:
        if not done:
            cuda.raise_if_lost("TensorRT")
            raise SbimDeployError(f"TensorRT refuses {what}: {take_errors(self._trt)}")


class LoadedEngine(Protocol):
    """What a recurrence needs of an engine."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, np.dtype[Any]]

    def fix(self, shapes: Mapping[str, tuple[int, ...]], stack: ExitStack) -> FixedContext:
        """Return a context for inputs of these shapes, whose memory the stack frees."""
        ...

    def keep_runtime_cache(self) -> None:
        """Keep what has been compiled."""
        ...

    def say_cuda_graph(self, text: str) -> None:
        """Put into the description how recurrences run."""
        ...


class TensorRTRecurrence:
    """A recurrence whose steps take turns, 0 and 1.

    Each turn has its own copies of the inputs that change, and its own CUDA graph. While the step of one turn
    computes on its copies, those of the other are uploaded from pinned memory on a second stream. The event
    ``_uploaded[turn]`` is recorded when a turn's uploads are over, ``_computed[turn]`` when its step is.

    The first step runs plainly, since TensorRT finishes its preparations in it. After it each turn is
    captured once and then replayed. Where that fails, every step runs plainly, and the description says why.
    Both graphs are of one context, as NVIDIA's own EngineExecutor keeps a graph for each set of bindings of
    its one (TensorRT Edge-LLM 0.8, C++ API): they never run at once, since both run on one stream.
    """

    def __init__(self, engine: LoadedEngine, state: str, output: str, inputs: Arrays):
        self._state_name, self._output = state, output
        self._engine = weakref.ref(engine)  # which may keep this recurrence
        self._begun = dict(inputs)
        self._check_names(engine)
        self._device = cuda.call("cudaGetDevice")
        shapes = {name: array.shape for name, array in inputs.items()}
        with ExitStack() as stack:
            self._compute, self._upload = cuda.new_stream(stack), cuda.new_stream(stack)
            self._uploaded = [cuda.new_event(stack), cuda.new_event(stack)]
            self._computed = [cuda.new_event(stack), cuda.new_event(stack)]
            self._fixed = engine.fix(shapes, stack)
            self._check_output()
            shared = self._fixed.allocate_outputs(stack)
            shared |= {name: cuda.allocate(stack, array.nbytes) for name, array in inputs.items()}
            ends = shared[state], shared[output]
            # The tensors that each turn binds: the state goes from one end to the other and back.
            self._bound = [
                shared | {state: source, output: target} for source, target in (ends, reversed(ends))
            ]
            self._stack = stack.pop_all()
        streams = [self._upload, self._compute]
        self._free = weakref.finalize(self, cuda.free_after, self._stack, streams, self._device)
        self._staging: list[dict[str, NDArray[Any]]] = [{}, {}]
        self._behind: list[set[str]] = [set(), set()]
        self._graphs: list[Any] = [None, None]
        self._is_warm, self._may_capture = False, True
        self._turn = 0
        self._fill()

    def restart(self, inputs: Arrays) -> None:
        """Begin again from ``inputs``, all of them and of the same shapes, with what is captured already."""
        self._enter()
        check_changed(self._begun, inputs)
        for stream in (self._upload, self._compute):
            cuda.call("cudaStreamSynchronize", stream)
        self._begun = dict(inputs)
        self._behind, self._turn = [set(), set()], 0
        self._fill()

    def advance(self, changed: Arrays) -> None:
        """Run the graph once; see :class:`sbim_deploy.engines.engine.Recurrence`."""
        self._enter()
        check_changed(self._begun, changed)
        if self._state_name in changed:
            raise ValueError(f"input {self._state_name!r} is the state, expected other inputs to change")
        turn = self._turn
        self._give_copies(changed)
        self._send(changed, turn)
        cuda.call("cudaStreamWaitEvent", self._compute, self._uploaded[turn], 0)
        self._step(turn)
        cuda.call("cudaEventRecord", self._computed[turn], self._compute)
        self._turn = 1 - turn

    def read(self) -> NDArray[Any]:
        """Return a copy of the state, once every step is over."""
        self._enter()
        like = self._begun[self._state_name]
        return cuda.download(self._bound[self._turn][self._state_name], like.shape, like.dtype, self._compute)

    def close(self) -> None:
        """Free everything on the GPU."""
        self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self) -> None:
        """Upload the inputs that a recurrence begins with, to both turns where each has a copy."""
        whole = {name: np.ascontiguousarray(array) for name, array in self._begun.items()}
        for name, array in whole.items():
            cuda.upload(self._bound[0][name], array, self._compute)
            if name in self._staging[1]:
                cuda.upload(self._bound[1][name], array, self._compute)
        cuda.call("cudaStreamSynchronize", self._compute)

    def _give_copies(self, changed: Arrays) -> None:
        """Give the turns a copy each of the inputs that change for the first time."""
        new = [name for name in changed if name not in self._staging[0]]
        if not new:
            return
        # A step that still runs reads the copy that both turns have shared; captured graphs hold its address.
        cuda.call("cudaStreamSynchronize", self._compute)
        self._graphs = [None, None]
        for name in new:
            array = self._begun[name]
            self._bound[1][name] = cuda.allocate(self._stack, array.nbytes)
            for staging in self._staging:
                staging[name] = cuda.allocate_pinned(self._stack, array.shape, array.dtype)

    def _send(self, changed: Arrays, turn: int) -> None:
        """Bring a turn's copies up to date: new values from the host, older ones from the other turn."""
        mine, others = self._bound[turn], self._bound[1 - turn]
        # The last uploads of this turn have left its staging memory; its last step has read its copies.
        cuda.call("cudaEventSynchronize", self._uploaded[turn])
        cuda.call("cudaStreamWaitEvent", self._upload, self._computed[turn], 0)
        for name in self._behind[turn] - changed.keys():
            cuda.copy(mine[name], others[name], self._begun[name].nbytes, self._upload)
        for name, array in changed.items():
            staging = self._staging[turn][name]
            staging[...] = array
            cuda.upload(mine[name], staging, self._upload)
        cuda.call("cudaEventRecord", self._uploaded[turn], self._upload)
        self._behind[turn] = set()
        self._behind[1 - turn].update(changed)

    def _step(self, turn: int) -> None:
        if self._is_warm and self._may_capture and self._graphs[turn] is None:
            self._graphs[turn] = self._captured(turn)
        if self._graphs[turn] is None:
            self._fixed.enqueue(self._bound[turn], self._compute)
        else:
            cuda.call("cudaGraphLaunch", self._graphs[turn], self._compute)
        if not self._is_warm:
            if engine := self._engine():
                engine.keep_runtime_cache()
            self._is_warm = True

    def _captured(self, turn: int) -> Any:
        """Return the graph of a turn, or None where there can be none: then no turn is tried again."""
        try:
            if not self._fixed.is_capturable(self._compute):
                raise SbimDeployError("TensorRT says that the stream cannot be captured")
            graph = cuda.capture(
                self._stack, self._compute, lambda: self._fixed.enqueue(self._bound[turn], self._compute)
            )
        except SbimDeployError as error:
            self._may_capture, self._graphs = False, [None, None]
            self._say(f"none, every step is enqueued: {error}")
            return None
        self._say("replayed")
        return graph

    def _say(self, text: str) -> None:
        if engine := self._engine():
            engine.say_cuda_graph(text)

    def _check_names(self, engine: LoadedEngine) -> None:
        for what, name, known in (
            ("input", self._state_name, engine.inputs),
            ("output", self._output, engine.outputs),
        ):
            if name not in known:
                raise ValueError(f"{what} {name!r} is unknown, expected one of {sorted(known)}")

    def _check_output(self) -> None:
        shape, dtype = self._fixed.outputs[self._output]
        begun = self._begun[self._state_name]
        if (shape, dtype) != (begun.shape, begun.dtype):
            raise ValueError(
                f"output {self._output!r} is {dtype} {shape}, expected {begun.dtype} {begun.shape} "
                f"as input {self._state_name!r}"
            )

    def _enter(self) -> None:
        """Turn this thread to the recurrence's GPU."""
        if not self._free.alive:
            raise ValueError("the recurrence is closed: begin another one")
        cuda.use_device(self._device)

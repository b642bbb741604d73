"""A CUDA runtime in numpy whose streams run late, early or in any order that their events allow.

Copies and kernels read memory when they run, not when they are put on a stream: whoever overwrites memory too
early, or waits for too little, gets wrong numbers.
"""

import ctypes
import threading
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace

import numpy as np


class Status(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorLaunchFailure = 719
    cudaErrorSystemNotReady = 802
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


@dataclass(eq=False)
class Stream:
    number: int
    device: int
    queue: deque = field(default_factory=deque)
    captured: list | None = None

    def __int__(self):
        return 1000 + self.number


@dataclass(eq=False)
class Event:
    recorded: int = 0
    reached: int = 0


class FakeCuda:
    """What the engines use of `cuda.bindings.runtime`.

    ``eager`` are the numbers of the streams that run at once as far as they can; with ``random`` any stream
    may run a little after any call. The others run when somebody waits for them.
    """

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, eager=(), random=None):
        self.eager, self.random = set(eager), random
        self.memory = {}
        self.streams = []
        self.events, self.graphs = set(), set()
        self.faults = []
        self.n_allocations, self.fail_allocation = 0, None
        self.fail_end_capture = False
        self.sticky = Status.cudaSuccess
        self.launches = 0
        self.n_devices, self.thread = 2, threading.local()

    @property
    def device(self):
        """The GPU that this thread's calls go to."""
        return getattr(self.thread, "device", 0)

    # What a test looks at

    def alive(self):
        return [*self.memory, *(s for s in self.streams if s is not None), *self.events, *self.graphs]

    def array(self, address, shape, dtype=np.float32):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if address not in self.memory or self.memory[address][1].nbytes < size:
            self.faults.append(f"{size} bytes at {address} are not allocated")
        return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype).reshape(shape)

    # Streams

    def put(self, stream, operation):
        """Put ("run", function), ("record", event, number) or ("wait", event, number) on a stream."""
        if stream.device != self.device:
            self.faults.append(f"a stream of GPU {stream.device} is used by a thread of GPU {self.device}")
        if stream.captured is not None:
            stream.captured.append(operation)
        else:
            stream.queue.append(operation)
        self._run_some()

    def stream_of(self, handle):
        return next(s for s in self.streams if s is not None and int(s) == int(handle))

    def _run_some(self):
        for stream in self.streams:
            if stream is not None and stream.number in self.eager:
                while self._run_head(stream):
                    pass
        for _ in range(0 if self.random is None else self.random.integers(0, 4)):
            stream = self.streams[self.random.integers(len(self.streams))]
            if stream is not None:
                self._run_head(stream)

    def _run_head(self, stream):
        if not stream.queue:
            return False
        kind, what, *number = stream.queue[0]
        if kind == "wait" and what.reached < number[0]:
            return False
        stream.queue.popleft()
        if kind == "run":
            what()
        elif kind == "record":
            what.reached = max(what.reached, number[0])
        return True

    def _reach(self, event, number):
        while event.reached < number:
            stream = next(s for s in self.streams if s is not None and ("record", event, number) in s.queue)
            self._finish_head(stream)

    def _finish_head(self, stream):
        kind, what, *number = stream.queue[0]
        if kind == "wait":
            self._reach(what, number[0])
        self._run_head(stream)

    def _allocate(self, kind, n_bytes):
        self.n_allocations += 1
        if self.n_allocations == self.fail_allocation:
            return Status.cudaErrorMemoryAllocation, None
        if any(s is not None and s.captured is not None for s in self.streams):
            return Status.cudaErrorStreamCaptureUnsupported, None
        block = np.full(max(n_bytes, 4), 0xFF, np.uint8)  # NaN as float32
        self.memory[block.ctypes.data] = (kind, block)
        return Status.cudaSuccess, block.ctypes.data

    def _free(self, kind, address):
        if self.memory.get(address, (None,))[0] != kind:
            self.faults.append(f"free of {address}, which is no {kind} memory")
            return (Status.cudaErrorInvalidValue,)
        if any(s is not None and s.queue for s in self.streams):
            self.faults.append("memory is freed while a stream has work")
        del self.memory[address]
        return (Status.cudaSuccess,)

    # The runtime's functions

    def cudaRuntimeGetVersion(self):
        return Status.cudaSuccess, 13050

    def cudaSetDevice(self, device):
        if not 0 <= device < self.n_devices:
            return (Status.cudaErrorInvalidDevice,)
        self.thread.device = device
        return (Status.cudaSuccess,)

    def cudaGetDevice(self):
        return Status.cudaSuccess, self.device

    def cudaGetDeviceProperties(self, device):
        return Status.cudaSuccess, SimpleNamespace(name=b"Fake 4090", major=8, minor=9)

    def cudaGetLastError(self):
        status, self.sticky = self.sticky, Status.cudaSuccess
        return (status,)

    def cudaMalloc(self, size):
        return self._allocate("device", size)

    def cudaMallocHost(self, size):
        return self._allocate("pinned", size)

    def cudaFree(self, devPtr):
        return self._free("device", devPtr)

    def cudaFreeHost(self, ptr):
        return self._free("pinned", ptr)

    def cudaStreamCreateWithFlags(self, flags):
        self.streams.append(Stream(len(self.streams), self.device))
        return Status.cudaSuccess, self.streams[-1]

    def cudaStreamDestroy(self, stream):
        self.streams[stream.number] = None
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        while stream.queue:
            self._finish_head(stream)
        return (Status.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags):
        event = Event()
        self.events.add(event)
        return Status.cudaSuccess, event

    def cudaEventDestroy(self, event):
        self.events.remove(event)
        return (Status.cudaSuccess,)

    def cudaEventRecord(self, event, stream):
        event.recorded += 1
        self.put(stream, ("record", event, event.recorded))
        return (Status.cudaSuccess,)

    def cudaEventSynchronize(self, event):
        self._reach(event, event.recorded)
        return (Status.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        self.put(stream, ("wait", event, event.recorded))
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        def run():
            for address, must_be in ((dst, kind in (1, 3)), (src, kind in (2, 3))):
                if must_be and self.memory.get(address, (None,))[0] != "device":
                    self.faults.append(f"copy of kind {kind} with {address}, which is no device memory")
                    return
            ctypes.memmove(dst, src, count)

        self.put(stream, ("run", run))
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        stream.captured = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        graph, stream.captured = stream.captured, None
        if self.fail_end_capture or graph is None:
            self.sticky = Status.cudaErrorStreamCaptureInvalidated
            return Status.cudaErrorStreamCaptureInvalidated, None
        self.graphs.add(id(graph))
        return Status.cudaSuccess, graph

    def cudaGraphDestroy(self, graph):
        self.graphs.remove(id(graph))
        return (Status.cudaSuccess,)

    def cudaGraphInstantiate(self, graph, flags):
        executable = SimpleNamespace(operations=list(graph))
        self.graphs.add(id(executable))
        return Status.cudaSuccess, executable

    def cudaGraphExecDestroy(self, graphExec):
        self.graphs.remove(id(graphExec))
        return (Status.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec, stream):
        self.launches += 1
        for operation in graphExec.operations:
            self.put(stream, operation)
        return (Status.cudaSuccess,)

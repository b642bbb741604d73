"""The CUDA runtime by cuda-bindings. Every call is checked, and a stack frees every resource."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbim_deploy.errors import (
    BackendMissingError,
    DeviceLostError,
    InputError,
    SbimDeployError,
    install_command,
)

# What keeps the GPU from being used at all, by CUDA's code: its name, and the way out.
NO_GPU = {
    3: ("cudaErrorInitializationError", "the driver does not start: restart the program, then the machine"),
    35: ("cudaErrorInsufficientDriver", ""),  # driver_too_old says it
    46: (
        "cudaErrorDevicesUnavailable",
        "every GPU is busy or held by another program: nvidia-smi shows which; end it, or wait",
    ),
    100: (
        "cudaErrorNoDevice",
        "no NVIDIA GPU is seen here: run it on the machine with the GPU, or check CUDA_VISIBLE_DEVICES",
    ),
    802: (
        "cudaErrorSystemNotReady",
        "the GPUs are not ready: start NVIDIA's Fabric Manager, or wait until the driver has started",
    ),
    803: (
        "cudaErrorSystemDriverMismatch",
        "the driver's kernel module and its libraries are of different versions: restart the machine",
    ),
    804: (
        "cudaErrorCompatNotSupportedOnDevice",
        "CUDA's compatibility libraries do not support this GPU: update the driver, or take cuda-compat "
        "out of LD_LIBRARY_PATH",
    ),
}
NO_SUCH_DEVICE = 101
# After these every call of the process fails, whatever it does.
LOST = {
    214: "cudaErrorECCUncorrectable",
    220: "cudaErrorNvlinkUncorrectable",
    226: "cudaErrorContained",
    700: "cudaErrorIllegalAddress",
    702: "cudaErrorLaunchTimeout",
    709: "cudaErrorContextIsDestroyed",
    710: "cudaErrorAssert",
    714: "cudaErrorHardwareStackError",
    715: "cudaErrorIllegalInstruction",
    716: "cudaErrorMisalignedAddress",
    717: "cudaErrorInvalidAddressSpace",
    718: "cudaErrorInvalidPc",
    719: "cudaErrorLaunchFailure",
    721: "cudaErrorTensorMemoryLeak",
    806: "cudaErrorMpsRpcFailure",
    810: "cudaErrorMpsClientTerminated",
}
MIB = 1024**2


@dataclass(frozen=True)
class Device:
    """The current GPU. A compute capability of 8.9 is written as 89."""

    name: str
    compute_capability: int


def runtime() -> Any:
    """Return cuda-bindings' module of the runtime.

    Raises:
        BackendMissingError: it is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendMissingError(
            f"cuda-bindings is not installed: {install_command('rtx')}, or the extra trt"
        ) from error
    return runtime


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and return what it gives beside its return code.

    Raises:
        BackendMissingError: there is no driver or no GPU.
        InputError: the GPU's memory, or page-locked memory, is used up; or there is no such GPU.
        DeviceLostError: the GPU failed, and this process cannot use it any more.
        SbimDeployError: any other error, with the names of the call and of the error.
    """
    status, *values = getattr(runtime(), name)(*arguments)
    if status != 0:
        raise _error(name, status, arguments)
    return values[0] if len(values) == 1 else tuple(values)


def known_error(code: int, where: str, runtime_version: str | None = None) -> SbimDeployError | None:
    """Return the error of a code of CUDA that tells why no GPU can be used now, or None for other codes.

    ``where`` is the call or the package that got it, ``runtime_version`` the CUDA that it needs, as
    13.0; None is that of cuda-bindings.
    """
    if code == NO_SUCH_DEVICE:
        return InputError(f"--device: this machine has no GPU of that number, the first is 0 ({where})")
    if code in LOST:
        return DeviceLostError(
            f"the GPU failed ({where}: {LOST[code]}), and this program cannot use it any more: start it "
            "again; the system's log (Xid) tells more"
        )
    if code not in NO_GPU:
        return None
    name, way_out = NO_GPU[code]
    if not way_out:
        way_out = driver_too_old(runtime_version or _dotted(runtime().cudaRuntimeGetVersion()[1]))
    return BackendMissingError(f"{way_out}; or choose another backend ({where}: {name})")


def raise_if_lost(where: str) -> None:
    """Raise DeviceLostError where the GPU failed before ``where``, which a package does not tell itself."""
    (status,) = runtime().cudaGetLastError()
    if int(status) in LOST and (error := known_error(int(status), where)):
        raise error


def driver_too_old(runtime_version: str) -> str:
    """Return a line with the driver's version, which the system tells without CUDA, and the runtime's."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return f"no NVIDIA driver is installed here, and CUDA {runtime_version} needs one"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return (
        f"the NVIDIA driver is too old: it is for CUDA {_dotted(version.value)}, and CUDA {runtime_version} "
        "is needed: update the driver"
    )


def use_device(index: int) -> None:
    """Let this thread's calls go to a GPU. Each thread has its own, 0 at first, so each that calls says it.

    Raises:
        InputError: there is no GPU of this number.
        BackendMissingError: there is none at all, or no driver for it.
    """
    call("cudaSetDevice", index)


def current_device(index: int = 0) -> Device:
    """Return a GPU of this machine, which this thread's calls go to from now on.

    Raises:
        InputError, BackendMissingError: see :func:`use_device`.
    """
    use_device(index)
    properties = call("cudaGetDeviceProperties", index)
    name = properties.name
    return Device(
        name.decode(errors="replace") if isinstance(name, bytes) else str(name),
        10 * int(properties.major) + int(properties.minor),
    )


def new_stream(stack: ExitStack) -> Any:
    """Return a stream that does not wait for the default one."""
    stream = call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking)
    stack.callback(_release, "cudaStreamDestroy", stream)
    return stream


def new_event(stack: ExitStack) -> Any:
    """Return an event without a clock. An event that was never recorded counts as over."""
    event = call("cudaEventCreateWithFlags", runtime().cudaEventDisableTiming)
    stack.callback(_release, "cudaEventDestroy", event)
    return event


def allocate(stack: ExitStack, n_bytes: int) -> int:
    """Return the address of device memory."""
    address = int(call("cudaMalloc", n_bytes))
    stack.callback(_release, "cudaFree", address)
    return address


def allocate_pinned(stack: ExitStack, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array in page-locked memory: copies from it to the device run while the host goes on."""
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    address = int(call("cudaMallocHost", n_bytes))
    stack.callback(_release, "cudaFreeHost", address)
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))
    return memory.view(dtype).reshape(shape)


def upload(address: int, array: NDArray[Any], stream: Any) -> None:
    """Copy a contiguous array to the device. From pinned memory this returns before the copy is over."""
    kind = runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
    call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)


def copy(target: int, source: int, n_bytes: int, stream: Any) -> None:
    """Copy from the device to the device. This returns before the copy is over."""
    kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice
    call("cudaMemcpyAsync", target, source, n_bytes, kind, stream)


def download(address: int, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Any) -> NDArray[Any]:
    """Return a copy of a tensor on the device, once the stream's work is over."""
    array = np.empty(shape, dtype)
    kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)
    call("cudaStreamSynchronize", stream)
    return array


def capture(stack: ExitStack, stream: Any, enqueue: Callable[[], None]) -> Any:
    """Return what ``enqueue()`` puts on the stream as a graph to launch, without running it.

    Raises:
        SbimDeployError: it cannot be captured. The stream is then as it was before.
    """
    mode = runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    try:
        call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        finally:
            graph = call("cudaStreamEndCapture", stream)
        with ExitStack() as once:
            once.callback(_release, "cudaGraphDestroy", graph)
            executable = call("cudaGraphInstantiate", graph, 0)
    except SbimDeployError:
        runtime().cudaGetLastError()  # otherwise the next kernel's launch would report this error
        raise
    stack.callback(_release, "cudaGraphExecDestroy", executable)
    return executable


def free_after(stack: ExitStack, streams: Sequence[Any], device: int) -> None:
    """Free what a stack holds on a GPU, once the streams' work is over, in whatever thread this is."""
    _release("cudaSetDevice", device)
    for stream in streams:
        _release("cudaStreamSynchronize", stream)
    stack.close()


def _release(name: str, resource: Any) -> None:
    # Its error is left alone. After a failed kernel every call fails, and that was raised; at exit the driver
    # may be gone.
    getattr(runtime(), name)(resource)


def _error(name: str, status: Any, arguments: tuple[Any, ...]) -> SbimDeployError:
    known = known_error(int(status), name)
    if known is not None:
        return known
    if status.name == "cudaErrorMemoryAllocation":
        asked = f" for {arguments[0] / MIB:.0f} MiB" if name.startswith("cudaMalloc") else ""
        return InputError(
            f"the GPU is out of memory ({name}{asked}): take a smaller batch, or free the GPU's memory"
        )
    return SbimDeployError(f"CUDA failed: {name} returned {status.name}")


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"

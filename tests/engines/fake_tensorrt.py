"""A TensorRT that runs one graph on a fake CUDA: x_next = weight * x + noise + bias, and its sum."""

from enum import Enum, IntEnum
from types import ModuleType, SimpleNamespace

import numpy as np

INPUTS = {"x": ("n", "k"), "weight": ("n",), "noise": ("n", "k"), "bias": ("n", "k")}
SERIALISED = b"engine"


def expected_next(inputs):
    x = np.asarray(inputs["weight"])[:, None] * inputs["x"] + inputs["noise"] + inputs["bias"]
    return x.astype(np.float32)


class Logger:
    ERROR = 1


class DataType(Enum):
    FLOAT = 0


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class Strategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class Kernels(Enum):
    EAGER = 1


class IExecutionContext:
    def __init__(self, package):
        self._package = package
        self._shapes, self._addresses = {}, {}
        self._memory = None
        self._is_warm = False

    def set_input_shape(self, name, shape):
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self):
        return sorted(INPUTS.keys() - self._shapes.keys())

    @property
    def engine(self):
        return ICudaEngine(self._package)

    def update_device_memory_size_for_shapes(self):
        return self._package.memory_of_shapes

    def set_device_memory(self, memory, size):
        assert size >= 64
        self._memory = (memory, size)

    def get_tensor_shape(self, name):
        return {"x_next": self._shapes["x"], "sum": (1,)}[name]

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def is_stream_capturable(self, stream):
        return self._package.capturable

    def execute_async_v3(self, stream_handle):
        cuda = self._package.cuda
        stream = cuda.stream_of(stream_handle)
        if stream.captured is not None and (self._package.fail_in_capture or not self._is_warm):
            return False
        self._is_warm = True
        self._package.enqueued += 1
        at, shapes = dict(self._addresses), dict(self._shapes)

        def run():
            cuda.array(self._memory[0], (16,))[:] = 0
            values = {name: cuda.array(at[name], shapes[name]).copy() for name in INPUTS}
            following = expected_next(values)
            cuda.array(at["x_next"], shapes["x"])[:] = following
            cuda.array(at["sum"], (1,))[:] = following.sum()

        cuda.put(stream, ("run", run))
        return True


class IRuntimeCache:
    def __init__(self, package):
        self._package = package

    def deserialize(self, blob):
        self._package.cached = bytes(blob)
        return True

    def serialize(self):
        return b"kernels"


class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = None

    def __init__(self, package):
        self._package = package

    def create_runtime_cache(self):
        return IRuntimeCache(self._package)

    def set_runtime_cache(self, cache):
        return True

    def set_execution_context_allocation_strategy(self, strategy):
        assert strategy == Strategy.USER_MANAGED


class ICudaEngine:
    num_io_tensors = len(INPUTS) + 2

    def __init__(self, package):
        self._package = package

    def create_runtime_config(self):
        return IRuntimeConfig(self._package)

    def create_execution_context(self, how):
        return IExecutionContext(self._package)

    def get_device_memory_size_for_profile_v2(self, profile_index):
        return 4096

    def get_tensor_name(self, index):
        return [*INPUTS, "x_next", "sum"][index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in INPUTS else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType.FLOAT


def make_package(cuda, rtx=True):
    """Return a module such as `tensorrt_rtx`, or `tensorrt`, whose engines run on a fake CUDA."""
    package = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    package.__version__ = "1.7.1.116" if rtx else "11.4.0.106"
    package.cuda, package.memory_of_shapes = cuda, 64
    package.capturable, package.fail_in_capture = True, False
    package.enqueued, package.cached = 0, None

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine):
            if serialized_engine != SERIALISED:
                self._logger.log(1, "this is\nno engine")
                return None
            return ICudaEngine(package)

    package.Runtime, package.ILogger = Runtime, Logger
    package.TensorIOMode, package.ExecutionContextAllocationStrategy = TensorIOMode, Strategy
    if rtx:
        package.IRuntimeCache = IRuntimeCache
        package.DynamicShapesKernelSpecializationStrategy = Kernels
        package.ComputeCapability = SimpleNamespace(__members__={"SM89": 89, "SM120": 120, "CURRENT": 1})
    return package

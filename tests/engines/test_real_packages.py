"""What the fakes and the runner call exists in the real packages, with these parameters."""

import ast
import inspect
import re
from pathlib import Path

import fake_tensorrt
import pytest
from fake_cuda import FakeCuda

from sbim_deploy.engines import cuda as cuda_module

NEEDED = {
    "BuilderFlag": {"TF32"},
    "ProfilingVerbosity": {"DETAILED"},
    "PreviewFeature": {"RUNTIME_ACTIVATION_RESIZE_10_10"},
    "ExecutionContextAllocationStrategy": {"USER_MANAGED"},
    "DynamicShapesKernelSpecializationStrategy": {"EAGER"},
    "TensorIOMode": {"OUTPUT"},
    "DataType": {"FLOAT", "HALF", "BF16", "INT32", "INT64", "BOOL"},
    "IRuntimeConfig": {"dynamic_shapes_kernel_specialization_strategy"},
}


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-bindings is not installed: the CUDA calls are not compared"
    )


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip(
        "tensorrt_rtx", reason="tensorrt-rtx is not installed: the TensorRT calls are not compared"
    )


def cuda_functions():
    functions = {name: value for name, value in vars(FakeCuda).items() if inspect.isfunction(value)}
    return {name: value for name, value in functions.items() if name.startswith("cuda")}


def test_the_fake_has_every_cuda_function_that_is_called():
    engines = Path(cuda_module.__file__).parent
    names = {
        node.value
        for path in engines.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"cuda[A-Z]\w+", node.value) and not node.value.startswith("cudaError")
    }
    assert names - cuda_functions().keys() == set()
    assert len(names) > 15


@pytest.mark.parametrize("name", sorted(cuda_functions()))
def test_cuda_functions_have_these_parameters(runtime, name):
    ours = list(inspect.signature(cuda_functions()[name]).parameters)[1:]
    assert list(inspect.signature(getattr(runtime, name)).parameters) == ours


def test_cuda_constants_exist_and_its_codes_have_names(runtime):
    assert runtime.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
    assert runtime.cudaEventDisableTiming == FakeCuda.cudaEventDisableTiming
    for group in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        for name, value in vars(getattr(FakeCuda, group)).items():
            assert getattr(getattr(runtime, group), name) == value
    assert runtime.cudaError_t.cudaSuccess == 0
    assert "cudaErrorMemoryAllocation" in runtime.cudaError_t.__members__
    names = {code: name for code, (name, _) in cuda_module.NO_GPU.items()} | cuda_module.LOST
    for code, name in (names | {cuda_module.NO_SUCH_DEVICE: "cudaErrorInvalidDevice"}).items():
        assert getattr(runtime.cudaError_t, name) == code
    assert {"name", "major", "minor"} <= set(dir(runtime.cudaDeviceProp))
    assert int(runtime.cudaStream_t(1000)) == 1000


def parameters(function):
    """Return the parameters of each overload in a pybind11 docstring, but for self."""
    signatures = re.findall(rf"^(?:\d+\. )?{function.__name__}\((self.*)\) -> ", function.__doc__, re.M)
    return [[part.split(":")[0] for part in re.split(r", (?=\w+:)", each)][1:] for each in signatures]


@pytest.mark.parametrize("kind", ["ICudaEngine", "IExecutionContext", "IRuntimeCache", "IRuntimeConfig"])
def test_tensorrt_methods_have_these_parameters(trt, kind):
    fake, real = getattr(fake_tensorrt, kind), getattr(trt, kind)
    for name, function in vars(fake).items():
        if name.startswith("_"):
            continue
        if not callable(function):
            assert hasattr(real, name)
            continue
        n_ours = len(inspect.signature(function).parameters) - 1
        overloads = parameters(getattr(real, name))
        assert n_ours in [len(each) for each in overloads], f"{kind}.{name}: {overloads}"


def test_tensorrt_names_exist(trt):
    for group, names in NEEDED.items():
        assert names <= set(dir(getattr(trt, group))), group
    assert parameters(trt.Runtime.deserialize_cuda_engine)[0] == ["serialized_engine"]

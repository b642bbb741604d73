"""ONNX Runtime's CUDA provider: what is asked of it, on a fake that computes on the CPU."""

import ctypes
import inspect
import re
import sys
from types import SimpleNamespace

import fake_onnxruntime
import numpy as np
import pytest

from sbim_deploy.engines import onnxruntime_cuda
from sbim_deploy.engines.onnxruntime import CUDA, CUDA_TF32, OnnxRuntimeEngine
from sbim_deploy.errors import (
    BackendMissingError,
    DeviceLostError,
    EngineIncompatibleError,
    InputError,
    install_command,
)
from sbim_deploy.models.folder import DEMO_FOLDER

SCORE = DEMO_FOLDER / "score.onnx"


@pytest.fixture
def runtime(monkeypatch):
    fake = fake_onnxruntime.FakeRuntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def test_the_fake_takes_the_calls_that_the_real_package_takes():
    import onnxruntime

    fake = fake_onnxruntime.FakeRuntime()
    for name in ("get_providers", "get_provider_options", "get_provider_graph_assignment_info"):
        ours = inspect.signature(getattr(fake.InferenceSession, name))
        assert list(ours.parameters) == list(
            inspect.signature(getattr(onnxruntime.InferenceSession, name)).parameters
        )
    real = inspect.signature(onnxruntime.InferenceSession.__init__).parameters
    assert list(real)[1:5] == ["path_or_bytes", "sess_options", "providers", "provider_options"]
    real = inspect.signature(onnxruntime.OrtValue.ortvalue_from_numpy).parameters
    assert list(real)[:3] == ["numpy_obj", "device_type", "device_id"]
    real = inspect.signature(onnxruntime.preload_dlls).parameters
    assert list(inspect.signature(fake.preload_dlls).parameters) == list(real)


def test_fp32_is_never_tf32_unless_that_is_asked_for(runtime):
    engine = OnnxRuntimeEngine(SCORE, backend=CUDA)
    assert runtime.sessions[-1].get_provider_options()["CUDAExecutionProvider"]["use_tf32"] == "0"
    assert (engine.description["backend"], engine.description["tf32"]) == ("onnxruntime-cuda", "off")
    engine = OnnxRuntimeEngine(SCORE, backend=CUDA_TF32)
    assert runtime.sessions[-1].get_provider_options()["CUDAExecutionProvider"]["use_tf32"] == "1"
    assert engine.description["backend"] == "onnxruntime-cuda-tf32"
    assert "relative L2 error of 1.1e-3 to 5.4e-3" in engine.description["tf32"]


def test_an_option_that_the_provider_did_not_take_is_refused(runtime):
    runtime.ignored = {"use_tf32": "1"}
    with pytest.raises(EngineIncompatibleError, match=r"runs with \{'use_tf32': '1'\}, expected .*'0'"):
        OnnxRuntimeEngine(SCORE, backend=CUDA)


@pytest.fixture
def without(runtime, monkeypatch, tmp_path):
    """Let the provider's own library find no other of this name, as the loader of Linux says it."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    runtime.__file__ = str(tmp_path / "__init__.py")

    def use(library):
        def load(name):
            raise OSError(f"{library}: cannot open shared object file: No such file or directory")

        monkeypatch.setattr(ctypes, "CDLL", load)

    return use


def test_a_library_that_is_missing_is_named_with_what_brings_it(runtime, without, capfd):
    runtime.printed = "Failed to load libcublasLt.so.13: no such file\n"
    without("libcublasLt.so.13")
    with pytest.raises(
        BackendMissingError,
        match=r"cannot load libcublasLt\.so\.13, of CUDA 13\.0 .*"
        + re.escape(install_command("gpu"))
        + " brings",
    ):
        OnnxRuntimeEngine(SCORE, backend=CUDA)
    assert capfd.readouterr() == ("", "")  # stdout is the command's, --json among it


def test_a_driver_that_is_missing_is_not_looked_for_in_pip(runtime, without):
    without("libcuda.so.1")
    with pytest.raises(
        BackendMissingError, match=r"no NVIDIA driver is installed here, and CUDA 13\.0 needs one"
    ):
        OnnxRuntimeEngine(SCORE, backend=CUDA)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (35, r"driver .*CUDA 13\.0"),
        (802, "Fabric Manager"),
        (46, "nvidia-smi"),
        (3, "does not start"),
        (804, "cuda-compat"),
    ],
)
def test_what_keeps_the_gpu_from_being_used_is_said_and_auto_goes_on(runtime, code, says):
    runtime.printed = "Failed to load libnvrtc.so.13: no such file\n"  # which is not why
    # As onnxruntime-gpu 1.31.1 says it of a driver that gives this code.
    runtime.placing = RuntimeError(
        f"cuda_call.cc:154 std::conditional_t<THRW, void> CudaCall() CUDA failure {code}: words ; GPU=-1 ; "
    )
    with pytest.raises(BackendMissingError, match=says):
        OnnxRuntimeEngine(SCORE, backend=CUDA)


def test_libraries_that_were_not_found_do_not_matter_where_the_gpu_works(runtime):
    runtime.printed = "Failed to load libnvrtc.so.13: no such file\n"
    assert OnnxRuntimeEngine(SCORE, backend=CUDA).description["tf32"] == "off"


def test_the_gpu_that_was_asked_for_is_the_sessions_and_the_buffers(runtime):
    engine = OnnxRuntimeEngine(SCORE, backend=CUDA, device_index=1)
    assert runtime.sessions[-1].get_provider_options()["CUDAExecutionProvider"]["device_id"] == "1"
    x = np.zeros((1, 2, 8, 8), np.float32)
    engine.recur("x", "score", {"x": x, "sigma": np.ones(1, np.float32)})
    assert set(runtime.placed) == {1}
    assert engine.description["device_index"] == "1"


def test_the_buffers_of_the_last_shapes_are_kept(runtime):
    engine = OnnxRuntimeEngine(SCORE, backend=CUDA)
    rng = np.random.default_rng(0)
    numbers = []
    for _ in range(3):
        inputs = {
            "x": rng.standard_normal((1, 2, 8, 8), dtype=np.float32),
            "sigma": np.full(1, 2, np.float32),
        }
        recurrence = engine.recur("x", "score", inputs)
        recurrence.advance({"sigma": np.ones(1, np.float32)})
        recurrence.advance({})
        once = engine.run({**inputs, "sigma": np.ones(1, np.float32)})["score"]
        twice = engine.run({"x": once, "sigma": np.ones(1, np.float32)})["score"]
        np.testing.assert_allclose(recurrence.read(), twice, rtol=1e-4, atol=1e-4 * np.abs(twice).max())
        numbers.append(len(runtime.placed))
        del recurrence
    assert len(set(numbers)) == 1


@pytest.mark.parametrize("call", ["run", "recur", "advance", "read"])
def test_a_gpu_that_failed_is_lost_whatever_is_called(runtime, monkeypatch, call):
    engine = OnnxRuntimeEngine(SCORE, backend=CUDA)
    inputs = {"x": np.zeros((1, 2, 8, 8), np.float32), "sigma": np.ones(1, np.float32)}
    recurrence = engine.recur("x", "score", inputs)
    failure = RuntimeError(
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=here"
    )

    def fail(*_):
        raise failure

    runtime.placing = failure
    monkeypatch.setattr(runtime.sessions[-1], "run", fail, raising=False)
    monkeypatch.setattr(runtime.sessions[-1], "run_with_iobinding", fail, raising=False)
    monkeypatch.setattr(recurrence._recurrence, "_now", SimpleNamespace(numpy=fail))
    others = {"x": np.zeros((2, 2, 8, 8), np.float32), "sigma": np.ones(2, np.float32)}
    calls = {
        "run": lambda: engine.run(inputs),
        "recur": lambda: engine.recur("x", "score", others),
        "advance": lambda: recurrence.advance({}),
        "read": recurrence.read,
    }
    with pytest.raises(DeviceLostError, match=r"onnxruntime 1\.31\.1: cudaErrorIllegalAddress"):
        calls[call]()


def test_a_gpu_that_is_not_there_is_named_by_the_option(runtime):
    runtime.placing = RuntimeError("CUDA failure 101: invalid device ordinal ; GPU=-1 ; hostname=here")
    with pytest.raises(InputError, match="--device: this machine has no GPU of that number"):
        OnnxRuntimeEngine(SCORE, backend=CUDA, device_index=7)


def test_nodes_that_fall_to_the_cpu_are_counted_and_said(runtime):
    runtime.assigned = [
        fake_onnxruntime.assigned("CUDAExecutionProvider", *["Conv"] * 5, "Loop"),
        fake_onnxruntime.assigned("CPUExecutionProvider", "Shape", "Shape"),
        fake_onnxruntime.assigned("CPUExecutionProvider", "Gather"),
    ]
    description = OnnxRuntimeEngine(SCORE, backend=CUDA).description
    assert description["nodes_on_cpu"] == "3 of 9: 1 Gather, 2 Shape"
    runtime.assigned = runtime.assigned[:1]
    assert OnnxRuntimeEngine(SCORE, backend=CUDA).description["nodes_on_cpu"] == "0 of 6: none"
    runtime.assigned = []
    assert "not told" in OnnxRuntimeEngine(SCORE, backend=CUDA).description["nodes_on_cpu"]


def test_a_network_that_is_split_between_gpu_and_cpu_is_refused(runtime):
    runtime.assigned = [
        fake_onnxruntime.assigned("CUDAExecutionProvider", "Conv"),
        fake_onnxruntime.assigned("CPUExecutionProvider", "Shape", "MaxPool", "MaxPool"),
    ]
    with pytest.raises(EngineIncompatibleError, match=r"no kernel for 2 MaxPool of the network.*--dtype"):
        OnnxRuntimeEngine(SCORE, backend=CUDA)


@pytest.mark.parametrize("graph", ["score", "reconstruct-proximal"])
def test_the_real_package_tells_where_nodes_run(graph):
    """In the body of a loop too."""
    import onnxruntime

    path = DEMO_FOLDER / f"{graph}.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*onnxruntime_cuda.RECORD_ASSIGNMENT)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    with pytest.raises(EngineIncompatibleError, match="113 Conv"):  # all are on the CPU here
        onnxruntime_cuda.nodes_on_cpu(session, path)


def test_it_computes_what_the_cpu_does(runtime):
    inputs = {
        "x": np.random.default_rng(0).standard_normal((1, 2, 16, 16), dtype=np.float32),
        "sigma": np.ones(1, np.float32),
    }
    engine = OnnxRuntimeEngine(SCORE, backend=CUDA)
    expected = OnnxRuntimeEngine(SCORE).run(inputs)["score"]
    got = engine.run(inputs)["score"]
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)
    assert engine.description["elu"] == "91 put back"


def test_a_damaged_graph_is_an_input_error_here_too(runtime, tmp_path):
    damaged = tmp_path / "score.onnx"
    damaged.write_bytes(SCORE.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot load it: the graph ends within"):
        OnnxRuntimeEngine(damaged, backend=CUDA)
    damaged.write_bytes(SCORE.read_bytes())  # and one whose weights are not beside it
    with pytest.raises(InputError, match=r"weights\.bin"):
        OnnxRuntimeEngine(damaged, backend=CUDA)

import errno
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from linked_models import LAYOUTS, as_dvc
from sbim_deploy.cli import options
from sbim_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sbim_deploy.errors import BackendMissingError, EngineIncompatibleError, InputError
from sbim_deploy.models import backends
from sbim_deploy.models.backends import BACKENDS, BEST_FIRST, open_engine
from sbim_deploy.models.folder import DEMO_FOLDER, graph_beside_weights, load_model

MODEL = load_model("demo")
EVERY_OTHER = "trt: no engine built; rtx: no engine built; onnxruntime-cuda: onnxruntime-gpu not installed"


@pytest.fixture(autouse=True)
def _users_order(monkeypatch):
    """Choose as for users, not as for the other tests."""
    monkeypatch.setattr(backends, "BEST_FIRST", BEST_FIRST)


@pytest.fixture
def here(monkeypatch):
    """Say which backends are here and which of them fail when they are opened; nothing is imported."""

    def set_up(*names, failing=()):
        def opened(model, graph, backend, threads, streams):
            if backend in failing:
                raise failing[backend]
            return SimpleNamespace(description={"backend": backend})

        monkeypatch.setattr(
            backends, "missing_reason", lambda model, graph, name: None if name in names else "not here"
        )
        monkeypatch.setattr(backends, "_open", opened)

    return set_up


@pytest.mark.parametrize("first", range(len(BEST_FIRST)))
def test_auto_takes_the_best_that_is_here_and_says_why(here, first):
    here(*BEST_FIRST[first:])
    description = open_engine(MODEL, "score").description
    assert description["backend"] == BEST_FIRST[first]
    assert description["chosen"].startswith("auto")
    assert all(f"{name}: not here" in description["chosen"] for name in BEST_FIRST[:first])


@pytest.mark.parametrize("error", [BackendMissingError("no driver"), EngineIncompatibleError("stale")])
def test_auto_goes_on_where_a_backend_cannot_start_and_says_so(here, error):
    here("onnxruntime-cuda", "onnxruntime", failing={"onnxruntime-cuda": error})
    description = open_engine(MODEL, "score").description
    assert description["backend"] == "onnxruntime"
    assert f"onnxruntime-cuda: {error}" in description["chosen"]


def test_auto_does_not_hide_a_damaged_graph(here):
    here("openvino", "onnxruntime", failing={"openvino": InputError("damaged")})
    with pytest.raises(InputError, match="damaged"):
        open_engine(MODEL, "score")


def test_auto_without_any_backend_says_what_to_install(here):
    here()
    with pytest.raises(BackendMissingError, match=r'pip install .*\[cpu\]".*openvino: not here'):
        open_engine(MODEL, "score")


@pytest.mark.parametrize("name", BEST_FIRST)
def test_a_backend_that_is_named_is_never_another(here, name):
    here(*BEST_FIRST, failing={name: BackendMissingError("no driver")})
    with pytest.raises(BackendMissingError, match="no driver"):
        open_engine(MODEL, "score", name)
    here(*BEST_FIRST)
    assert open_engine(MODEL, "score", name).description == {"backend": name, "chosen": "asked for"}


@pytest.mark.parametrize("name", backends.SIDE_BY_SIDE)
def test_streams_reach_the_backends_that_gain_by_them(monkeypatch, name):
    def opened(_path, _inputs, threads, backend, streams):
        return SimpleNamespace(description={"backend": backend, "threads": threads, "streams": streams})

    monkeypatch.setattr(backends, "OpenVinoEngine", opened)
    described = open_engine(MODEL, "score", name, threads=4, streams=2).description
    assert described == {"backend": name, "threads": 4, "streams": 2, "chosen": "asked for"}


def test_other_backends_compute_one_call_at_a_time_whatever_is_asked():
    assert "streams" not in open_engine(MODEL, "score", "onnxruntime", threads=1, streams=2).description


def test_what_is_installed_decides(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    monkeypatch.setattr(backends, "_is_distributed", lambda name: False)
    engine = open_engine(MODEL, "score")
    assert engine.description["backend"] == "onnxruntime"
    assert engine.description["chosen"] == (
        f"auto, the best that is here: {EVERY_OTHER}; openvino: not installed"
    )


def test_auto_is_openvino_where_it_is_installed():
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if backends._is_distributed("onnxruntime-gpu"):
        pytest.skip("onnxruntime-gpu is installed")
    description = open_engine(MODEL, "score").description
    assert description["backend"] == "openvino"
    assert description["chosen"] == f"auto, the best that is here: {EVERY_OTHER}"


def test_the_onnxruntime_that_has_cuda_but_no_gpu_is_no_backend(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(backends, "_is_distributed", lambda name: True)
    with pytest.raises(BackendMissingError, match="cannot use a GPU here"):
        open_engine(MODEL, "score", "onnxruntime-cuda")
    description = open_engine(MODEL, "score").description
    assert description["backend"] in ("openvino", "onnxruntime")
    assert "onnxruntime-cuda: onnxruntime" in description["chosen"]


@pytest.mark.parametrize("name", ["trt", "rtx"])
def test_tensorrt_without_its_package_its_gpu_or_an_engine_says_which(name):
    with pytest.raises(
        (BackendMissingError, EngineIncompatibleError), match=r"not installed|no NVIDIA|sbim-deploy build"
    ):
        open_engine(MODEL, "score", name)


@pytest.mark.parametrize("built", [True, False])
def test_auto_looks_for_engines_in_the_models_folder(monkeypatch, built):
    asked = []

    def records(folder, graph, backend):
        asked.append((folder, graph, backend))
        return {"an engine": "its record"} if built else {}

    monkeypatch.setattr(backends, "read_records", records)
    reason = backends.missing_reason(MODEL, "step-guided", "rtx")
    assert reason == (None if built else "no engine built")
    assert asked == [(DEMO_FOLDER / "engines", "step-guided", "rtx")]


def test_bfloat16_is_refused_by_onnx_runtime_with_the_ways_out():
    half = replace(MODEL, manifest=replace(MODEL.manifest, dtype="bfloat16"))
    with pytest.raises(EngineIncompatibleError, match="no bfloat16 convolutions on the CPU: use --backend"):
        open_engine(half, "score", "onnxruntime")


def test_unknown_names_are_refused_with_the_known():
    with pytest.raises(InputError, match=f"expected one of {', '.join(BACKENDS)}"):
        open_engine(MODEL, "score", "tpu")
    with pytest.raises(InputError, match=r"the model has no other.onnx"):
        open_engine(MODEL, "other")


def test_the_distributions_are_looked_up():
    assert backends._is_distributed("numpy")
    assert not backends._is_distributed("sbim-deploy-nothing")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_that_is_not_taken_is_not_imported(backend):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    code = (
        "import sys; from sbim_deploy.models.backends import open_engine; "
        "from sbim_deploy.models.folder import load_model; "
        f"open_engine(load_model('demo'), 'score', '{backend}'); "
        "print(*({'openvino', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [backend]


def test_the_backends_compute_the_same():
    x = np.random.default_rng(0).standard_normal((1, 2, 32, 32), dtype=np.float32)
    inputs = {"x": x, "sigma": np.ones(1, np.float32)}
    expected = OnnxRuntimeEngine(DEMO_FOLDER / "score.onnx").run(inputs)["score"]
    got = open_engine(MODEL, "score").run(inputs)["score"]
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


def test_tf32_is_taken_only_by_name_and_only_for_float32():
    assert "onnxruntime-cuda-tf32" not in BEST_FIRST
    half = replace(MODEL, manifest=replace(MODEL.manifest, dtype="float16"))
    with pytest.raises(InputError, match="computes in float16, expected float32: take onnxruntime-cuda"):
        open_engine(half, "score", "onnxruntime-cuda-tf32")


def test_the_precision_is_the_models_or_tf32():
    assert backends.precision_of({"backend": "onnxruntime-cuda-tf32"}, MODEL.manifest) == "tf32"
    assert backends.precision_of({"backend": "onnxruntime-cuda"}, MODEL.manifest) == "float32"


@pytest.mark.parametrize("name", ["trt", "rtx", "onnxruntime-cuda", "auto"])
def test_the_number_of_a_gpu_goes_with_the_backends_name(monkeypatch, here, name):
    opened = []
    here(*BEST_FIRST)
    monkeypatch.setattr(backends, "_open", lambda model, graph, *rest: opened.append(rest) or _Opened())
    open_engine(MODEL, "score", f"{name}://1")
    assert opened == [(f"{'trt' if name == 'auto' else name}://1", None, 1)]
    with pytest.raises(InputError, match="takes a GPU's number, such as 0, got"):
        open_engine(MODEL, "score", f"{name}://first")


class _Opened:
    description: ClassVar = {"backend": "tensorrt", "device_index": "1"}


def test_a_cpu_has_no_number_and_auto_does_not_give_it_one(here):
    here("openvino")
    assert open_engine(MODEL, "score", "auto://1").description["backend"] == "openvino"
    with pytest.raises(InputError, match="openvino takes no address"):
        open_engine(MODEL, "score", "openvino://1")


def test_an_engine_is_asked_for_again_on_its_own_gpu():
    assert backends.backend_of({"backend": "tensorrt-rtx", "device_index": "1"}) == "rtx://1"
    assert backends.backend_of({"backend": "onnxruntime-cuda", "device_index": "0"}) == "onnxruntime-cuda"


def test_the_number_reaches_the_engine(monkeypatch):
    made = []
    monkeypatch.setattr(backends, "open_tensorrt", lambda *given, **named: made.append(named) or _Opened())
    monkeypatch.setattr(backends, "OnnxRuntimeEngine", lambda *given: made.append(given) or _Opened())
    open_engine(MODEL, "score", "rtx://2")
    open_engine(MODEL, "score", "onnxruntime-cuda-tf32://3", threads=1)
    assert made == [{"device_index": 2}, (DEMO_FOLDER / "score.onnx", 1, "onnxruntime-cuda-tf32", 3)]


def test_the_command_lines_names_are_the_backends():
    assert (options.ON_GPUS, options.SERVED) == (backends.ON_GPUS, backends.SERVED)
    assert options.backend_at("trt", None, 1) == "trt://1"
    assert options.backend_at("auto", None, 0) == "auto"
    with pytest.raises(InputError, match="--device is 1 with --backend openvino: only auto, trt"):
        options.backend_at("openvino", None, 1)
    with pytest.raises(InputError, match="--device is -1: expected a GPU's number"):
        options.backend_at("trt", None, -1)


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "auto"])
def test_a_model_of_links_computes_the_same_and_leaves_nothing_behind(tmp_path, monkeypatch, make, backend):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    linked = load_model(make(tmp_path))
    assert linked.digest == MODEL.digest
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(1, 2, 32, 32)).astype(np.float32), "sigma": np.ones(1, np.float32)}
    engines = [open_engine(model, "score", backend, 1) for model in (linked, MODEL)]
    assert list(temporary.iterdir()) == []
    ours, theirs = (engine.run(inputs) for engine in engines)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])
    descriptions = [engine.description for engine in engines]
    assert descriptions[0] == descriptions[1]


def test_a_model_of_links_is_copied_where_it_cannot_be_linked_and_a_full_disk_is_told(tmp_path, monkeypatch):
    linked = load_model(as_dvc(tmp_path))

    def on_another_disk(*_arguments):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", on_another_disk)
    with graph_beside_weights(linked.folder, "score") as path:
        assert [each.is_symlink() for each in path.parent.iterdir()] == [False, False]
        assert path.parent.joinpath("weights.bin").read_bytes() == (DEMO_FOLDER / "weights.bin").read_bytes()

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"No space left on device.*set TMPDIR"):
        open_engine(linked, "score", "onnxruntime", 1)

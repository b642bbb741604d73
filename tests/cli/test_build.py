"""`sbim-deploy build`: real engines ahead of time, where TensorRT-RTX is installed, and every bad input."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sbim_deploy.errors import install_command
from sbim_deploy.models import engine_build
from sbim_deploy.models.folder import DEMO_FOLDER, describe_file, read_manifest, write_manifest


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: no engine is built")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build") / "model"
    shutil.copytree(DEMO_FOLDER, folder)
    return folder


def records(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


@pytest.mark.slow
def test_the_demo_model_is_built_for_a_gpu_that_is_not_here(cli, rtx, model):
    for options in (("--graph", "step-guided"), ("--graph", "score", "--size", "64x64")):
        done = cli("build", model, "--backend", "rtx", "--sm", 89, *options)
        assert done.code == 0, done.err
        assert len(done.err.splitlines()) == 2
        assert "float32, compute capability 8.9" in done.err
    engines = records(model / "engines")
    assert {record["graph"] for record in engines.values()} == {"step-guided", "score"}
    for name, record in engines.items():
        engine = model / "engines" / f"{name}.engine"
        assert engine.stat().st_size == record["engine_bytes"] > 1e6
        assert record["backend_version"] == rtx.__version__
        assert record["inputs"]["x"] == ["batch", 2, "8*h", "8*w"]
        assert record["shapes"]["8*h"] == ([64, 64, 64] if record["graph"] == "score" else [64, 320, 512])
        assert record["compute_capability"] == 89
        version = ".".join(rtx.__version__.split(".")[:3])
        assert name.startswith(f"{record['graph']}-")
        assert name.endswith(f"-fp32-sm89-rtx{version}")
    assert len(list((model / "engines").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--workspace", 1e-6), "--workspace is 1e-06 GiB, too little"),
        (("--batch", "1:1:999999"), "(batch 999999, 8*h 512, 8*w 512): narrow --batch"),
    ],
)
def test_the_option_that_a_build_fails_by_is_named_and_not_the_compilers_text(
    cli, rtx, model, tmp_path, options, says
):
    done = cli("build", model, "--backend", "rtx", "--sm", 89, "--graph", "score", "-o", tmp_path, *options)
    assert done.code == 2
    assert says in done.error_line
    assert "Error Code" not in done.error_line


@pytest.fixture
def tiny_model(tmp_path):
    """A model folder whose score is one convolution, which is built in an instant."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graph to build")
    folder = tmp_path / "tiny"
    shutil.copytree(DEMO_FOLDER, folder)
    x, score = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 1, "8*h", "8*w"])
        for name in ("x", "score")
    )
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, (1, 1, 1, 1), [2.0])
    node = onnx.helper.make_node("Conv", ["x", "w"], ["score"])
    graph = onnx.helper.make_graph([node], "graph", [x], [score], [weight])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    (folder / "score.onnx").write_bytes(made.SerializeToString())
    manifest = read_manifest(folder)
    files = {**manifest.files, "score.onnx": describe_file(folder / "score.onnx")}
    write_manifest(folder, replace(manifest, files=files))
    return folder


def test_each_gpu_that_is_named_gets_an_engine_of_its_own(cli, rtx, tiny_model):
    done = cli("build", tiny_model, "--backend", "rtx", "--sm", 89, "--sm", 120, "--graph", "score")
    assert done.code == 0, done.err
    assert len(done.err.splitlines()) == 3
    assert "float32, compute capability 12.0" in done.err
    engines = records(tiny_model / "engines")
    assert {(name.split("-")[-2], record["compute_capability"]) for name, record in engines.items()} == {
        ("sm89", 89),
        ("sm120", 120),
    }


def test_an_equal_engine_is_kept_and_another_is_replaced_by_force_alone(cli, rtx, tiny_model):
    def build(*options):
        done = cli("build", tiny_model, "--backend", "rtx", "--sm", 89, "--graph", "score", *options)
        assert done.code == 0, done.err
        return "an equal engine is there" not in done.err

    assert build()
    (engine,) = (tiny_model / "engines").glob("*.engine")
    cache = engine.with_suffix(".cache")
    cache.write_bytes(b"kernels")
    assert not build()
    assert cache.exists()
    other = ("--batch", "1:1:1", "--opt-level", 0)
    done = cli("build", tiny_model, "--backend", "rtx", "--sm", 89, "--graph", "score", *other)
    assert done.code == 2
    assert "built for other sizes or damaged; give --force" in done.error_line
    assert cache.exists()
    assert build(*other, "--force")
    assert not cache.exists()
    assert not build("--batch", "1:1:1", "--opt-level", 0)
    assert build("--batch", "1:1:1", "--opt-level", 0, "--force")
    engine.write_bytes(b"damaged")
    assert build("--batch", "1:1:1", "--opt-level", 0, "--force")
    assert len(list(engine.parent.iterdir())) == 2


def test_a_precision_that_is_not_the_manifests_is_exit_5(cli, rtx, tiny_model):
    write_manifest(tiny_model, replace(read_manifest(tiny_model), dtype="float16"))
    done = cli("build", tiny_model, "--backend", "rtx", "--sm", 89, "--graph", "score")
    assert done.code == 5
    assert "1 of 1 convolutions" in done.error_line
    assert "expected float16" in done.error_line
    assert not (tiny_model / "engines").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sm", 90), "sm is 90: expected one of 75, 80, 86, 89, 120, 121"),
        (("--sm", 75), "TensorRT-RTX has no matrix products in FP32 for Turing, which step-guided, "),
        (
            ("--sm", 89, "--sm", 75, "--graph", "reconstruct"),
            "build --graph score, and reconstruct with recon",
        ),
        (("--sm", 89, "--size", "8x8"), "--size is 8x8: it leaves one pixel at the network's coarsest level"),
        (("--sm", 89, "--size", "60x64"), "--size is 60x64: expected multiples of 8"),
    ],
)
def test_rtx_refuses_what_it_cannot_build_for(cli, rtx, model, tmp_path, options, message):
    done = cli("build", model, "--backend", "rtx", *options, "-o", tmp_path / "e")
    assert done.code == 2
    assert message in done.error_line
    assert list(tmp_path.iterdir()) == []


def test_what_became_of_the_timing_cache_is_said(cli, model, tmp_path, monkeypatch):
    record = SimpleNamespace(precision="float32", compute_capability=90, engine_bytes=2**20)
    built = engine_build.BuiltEngine(tmp_path / "score.engine", record, False, "tactics: TensorRT refused it")
    monkeypatch.setattr(engine_build, "target_capability", lambda *_: 90)
    monkeypatch.setattr(engine_build, "build_engine_file", lambda *_: built)
    cache = ("--timing-cache", tmp_path / "tactics")
    done = cli("build", model, "--backend", "trt", "--graph", "score", *cache)
    assert done.code == 0, done.err
    assert "score.engine: float32, compute capability 9.0" in done.err
    assert done.err.splitlines()[-1] == "tactics: TensorRT refused it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "tpu"), "unknown backend 'tpu': expected one of trt, rtx"),
        (("--backend", "rtx", "--graph", "sore"), "unknown graph 'sore': expected a kind of "),
        (("--backend", "rtx", "--batch", "4:2:8"), "--batch: the range is 4:2:8, expected MIN:OPT:MAX"),
        (("--backend", "rtx", "--coils", "0:1:2"), "--coils: the range is 0:1:2"),
        (("--backend", "rtx", "--lines", "8:9"), "--lines is '8:9': expected MIN:OPT:MAX"),
        (("--backend", "rtx", "--batch", "1:2:-3"), "--batch is '1:2:-3'"),
        (("--backend", "rtx", "--size", "320x"), "--size is '320x': expected rows x columns"),
        (("--backend", "rtx", "--size", "320x324"), "--size is 320x324: expected multiples of 8"),
        (("--backend", "rtx", "--workspace", 0), "workspace is 0.0 GiB, expected more than 0"),
        (("--backend", "rtx", "--opt-level", 9), "opt-level is 9, expected 0 to 5"),
        (("--backend", "rtx", "--sm", 89, "--current"), "--sm and --current exclude each other"),
        (("--backend", "rtx", "--timing-cache", "c"), "timing-cache: TensorRT-RTX has none"),
        (("--backend", "trt", "--sm", 89), "TensorRT builds only for the GPU that is here"),
    ],
)
def test_bad_options_are_refused_before_any_work(cli, model, tmp_path, options, message):
    done = cli("build", model, *options, "-o", tmp_path / "e")
    assert done.code == 2
    assert message in done.error_line
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_none_or_was_changed_is_refused(cli, tmp_path):
    assert cli("build", tmp_path / "nowhere", "--backend", "rtx").code == 2
    model = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, model)
    (model / "score.onnx").write_bytes(b"")
    assert cli("build", model, "--backend", "rtx").code == 6


def test_an_output_that_cannot_be_made_is_refused(cli, rtx, model):
    done = cli("build", model, "--backend", "rtx", "--sm", 89, "-o", "/dev/null/engines")
    assert done.code == 2
    assert "cannot make the folder" in done.error_line


@pytest.mark.parametrize(("backend", "package"), [("trt", "tensorrt"), ("rtx", "tensorrt_rtx")])
def test_a_missing_package_is_exit_4_and_names_the_extra(cli, model, monkeypatch, backend, package):
    monkeypatch.setitem(sys.modules, package, None)
    done = cli("build", model, "--backend", backend)
    assert done.code == 4
    assert f"{package} is not installed: {install_command(backend)}" in done.error_line


def test_without_a_gpu_current_is_exit_4_and_says_how_to_build_without_one(cli, rtx, model, monkeypatch):
    from sbim_deploy.engines import cuda

    class NoGpu:
        class Status(int):
            name = "cudaErrorNoDevice"

        def cudaSetDevice(self, device):
            return (self.Status(100),)

    monkeypatch.setattr(cuda, "runtime", NoGpu)
    for options in ((), ("--current",)):
        done = cli("build", model, "--backend", "rtx", *options)
        assert done.code == 4
        assert "no NVIDIA GPU" in done.error_line
        assert "such as --sm 89" in done.error_line

"""An engine is opened only where everything that it was built from and for is here."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sbim_deploy.engines.cuda import Device
from sbim_deploy.errors import BackendMissingError, ChecksumError, EngineIncompatibleError, InputError
from sbim_deploy.models import engine_folder as engine_files
from sbim_deploy.models.engine_folder import EngineRecord, open_tensorrt, write_engine
from sbim_deploy.models.folder import DEMO_FOLDER, FileEntry, load_model

VERSION = "1.7.1.116"


@pytest.fixture
def opened(monkeypatch):
    """Stand for the package, the GPU and the engine; the list holds what engines were opened with."""
    made = []
    monkeypatch.setattr(engine_files, "import_package", lambda backend: SimpleNamespace(__version__=VERSION))
    monkeypatch.setattr(engine_files, "current_device", lambda index: Device("a GPU", 89))
    monkeypatch.setattr(engine_files, "TensorRTEngine", lambda *arguments: made.append(arguments))
    return made


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DEMO_FOLDER, folder)
    (folder / "engines").mkdir()
    return load_model(folder)


def add_engine(model, engine=b"engine", **changes):
    files = model.manifest.files
    record = EngineRecord(
        format_version=1,
        graph="score",
        onnx_sha256=files["score.onnx"].sha256,
        weights_sha256=files["weights.bin"].sha256,
        backend="rtx",
        backend_version=VERSION,
        precision="float32",
        compute_capability=89,
        inputs={"x": ["batch", 2]},
        shapes={"batch": [1, 2, 4]},
        settings={},
        built_with={},
    )
    return write_engine(
        model.folder / "engines", replace(record, **changes), lambda path: path.write_bytes(engine)
    )


def open_score(model, **changes):
    return open_tensorrt(model.folder, replace(model.manifest, **changes), "score", "rtx")


def test_the_engine_that_fits_is_opened_with_its_ranges_and_its_kernels(model, opened):
    add_engine(model, b"other", compute_capability=120)
    path = add_engine(model)
    path.with_suffix(".cache").write_bytes(b"kernels")
    open_score(model)
    ((backend, serialised, inputs, ranges, cache, device_index),) = opened
    assert (backend, serialised, inputs) == ("rtx", b"engine", {"x": ("batch", 2)})
    assert (ranges["batch"].minimum, ranges["batch"].maximum) == (1, 4)
    assert cache.stored == b"kernels"
    assert device_index == 0
    assert cache.keep(b"more") == f"kept in {path.stem}.cache"
    assert path.with_suffix(".cache").read_bytes() == b"more"
    shutil.rmtree(path.parent)
    assert "not kept" in cache.keep(b"more")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx_sha256": "a" * 64}, "onnx_sha256 is aaaaaaaaaaaa..., expected "),
        ({"weights_sha256": "a" * 64}, "weights_sha256 is aaaaaaaaaaaa..., expected "),
        ({"backend_version": "1.6.1.120"}, "backend_version is 1.6.1.120, expected 1.7.1.116"),
        ({"compute_capability": 120}, "compute_capability is 120, expected 89"),
        ({"precision": "float16"}, "precision is float16, expected float32"),
    ],
)
def test_a_stale_engine_is_never_opened(model, opened, changes, message):
    add_engine(model, **changes)
    with pytest.raises(EngineIncompatibleError) as error:
        open_score(model)
    assert message in str(error.value)
    way_out = f"build it with: sbim-deploy build {model.folder} --backend rtx --graph score --sm 89"
    assert str(error.value).endswith(way_out)
    assert opened == []


def test_changed_graph_bytes_make_an_engine_stale(model, opened):
    add_engine(model)
    graph = model.folder / "score.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    files = {**model.manifest.files, "score.onnx": FileEntry("c" * 64, graph.stat().st_size)}
    with pytest.raises(EngineIncompatibleError, match=r"onnx_sha256 is .* expected cccccccccccc"):
        open_score(model, files=files)


def test_the_nearest_engine_is_the_one_that_is_named(model, opened):
    add_engine(model, compute_capability=120, backend_version="1.0")
    path = add_engine(model, compute_capability=120)
    with pytest.raises(EngineIncompatibleError, match=path.name):
        open_score(model)


def test_no_engine_says_how_to_build_one_and_where(model, opened, tmp_path):
    with pytest.raises(
        EngineIncompatibleError, match=r"no rtx engine of score; build it with: sbim-deploy build"
    ):
        open_score(model)
    with pytest.raises(EngineIncompatibleError, match=f"-o {tmp_path}"):
        open_tensorrt(model.folder, model.manifest, "score", "rtx", tmp_path)
    with pytest.raises(InputError, match=r"has no sore\.onnx"):
        open_tensorrt(model.folder, model.manifest, "sore", "rtx")


def test_a_gpu_that_rtx_does_not_support_is_a_backend_that_is_missing(model, opened, monkeypatch):
    members = SimpleNamespace(__members__=dict.fromkeys(["CURRENT", "SM89", "SM120"]))
    package = SimpleNamespace(__version__=VERSION, ComputeCapability=members)
    monkeypatch.setattr(engine_files, "import_package", lambda backend: package)
    monkeypatch.setattr(engine_files, "current_device", lambda index: Device("NVIDIA H200", 90))
    add_engine(model)
    with pytest.raises(
        BackendMissingError,
        match=r"does not support NVIDIA H200, .* 9\.0, but 8\.9, 12\.0: take --backend trt or",
    ):
        open_score(model)
    assert opened == []


def test_a_changed_engine_and_a_damaged_record_are_not_opened(model, opened):
    path = add_engine(model)
    path.write_bytes(b"plaN")
    with pytest.raises(ChecksumError, match=r"build it again"):
        open_score(model)
    record = path.with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "shapes": 3}))
    with pytest.raises(InputError, match="shapes is 3, expected a mapping"):
        open_score(model)
    assert opened == []


def test_without_a_gpu_the_backend_is_missing_but_what_is_out_of_date_is_so_anywhere(model, monkeypatch):
    monkeypatch.setattr(engine_files, "import_package", lambda backend: SimpleNamespace(__version__=VERSION))

    def no_gpu(index):
        raise BackendMissingError("no NVIDIA GPU")

    monkeypatch.setattr(engine_files, "current_device", no_gpu)
    with pytest.raises(BackendMissingError, match="no NVIDIA GPU"):
        open_score(model)
    add_engine(model, compute_capability=120)
    with pytest.raises(BackendMissingError, match="no NVIDIA GPU"):
        open_score(model)
    with pytest.raises(EngineIncompatibleError, match=r"precision is float32, expected float16.*--sm 120$"):
        open_score(model, dtype="float16")

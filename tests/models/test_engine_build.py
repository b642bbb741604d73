import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sbim_deploy.engines.cuda import Device
from sbim_deploy.engines.tensorrt_builder import BuildSettings, Range
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.models import engine_build
from sbim_deploy.models.engine_build import (
    BuildRequest,
    build_engine_file,
    select_graphs,
    shape_ranges,
    target_capability,
)
from sbim_deploy.models.folder import load_model

RTX = SimpleNamespace(
    __version__="1.7",
    ComputeCapability=SimpleNamespace(
        __members__=dict.fromkeys(["NONE", "CURRENT", "SM75", "SM89", "SM120"])
    ),
)


@pytest.fixture(scope="module")
def manifest():
    return load_model("demo").manifest


def test_a_kind_of_graph_is_all_whose_names_begin_with_it_but_for_its_own(manifest):
    entry = manifest.files["score.onnx"]
    names = ("score", "step-guided", "step-guided-2d", "stepwise", "reconstruct-2d")
    files = {**{f"{name}.onnx": entry for name in names}, "weights.bin": entry}
    many = replace(manifest, files=files, graphs=dict.fromkeys(names, manifest.graphs["score"]))
    assert select_graphs(many, "step") == ["step-guided", "step-guided-2d"]
    assert select_graphs(many, "reconstruct") == ["reconstruct-2d"]
    assert select_graphs(many, "step-guided") == ["step-guided"]
    with pytest.raises(InputError, match="unknown graph 'weights': expected a kind of reconstruct-2d, score"):
        select_graphs(many, "weights")


def test_without_a_size_there_is_a_range_of_them_and_lines_follow_it(manifest):
    ranges = shape_ranges(manifest)
    assert ranges["batch"] == Range(1, 1, 8)
    assert ranges["coil"] == Range(1, 8, 32)
    assert ranges["8*h"] == ranges["8*w"] == Range(64, 320, 512)
    assert ranges["line"] == Range(1, 80, 512)
    odd = shape_ranges(replace(manifest, size_multiple=48))
    assert odd["48*h"] == Range(96, 336, 528)


def test_a_size_is_rows_by_columns_and_of_the_models_multiple(manifest):
    ranges = shape_ranges(manifest, size=(640, 320))
    assert (ranges["8*h"], ranges["8*w"]) == (Range(640, 640, 640), Range(320, 320, 320))
    assert (ranges["row_line"].maximum, ranges["line"].maximum) == (640, 320)
    # Masks are padded to multiples of 8 lines, so one of 60 has 64.
    assert shape_ranges(manifest, lines=Range(20, 41, 60))["line"] == Range(20, 48, 64)
    for size in ((321, 320), (320, 0)):
        with pytest.raises(InputError, match="expected multiples of 8"):
            shape_ranges(manifest, size=size)


def test_tensorrt_builds_for_the_gpu_that_is_here_and_rtx_for_those_that_it_knows(monkeypatch):
    packages = {"trt": SimpleNamespace(), "rtx": RTX}
    monkeypatch.setattr(engine_build, "import_package", packages.get)
    monkeypatch.setattr(engine_build, "current_device", lambda: Device("a GPU", 90))
    assert target_capability("trt", None) == 90
    with pytest.raises(
        BackendMissingError,
        match=r"1\.7 does not support a GPU, compute capability 9\.0, but 7\.5, 8\.9, 12\.0",
    ):
        target_capability("rtx", None)
    monkeypatch.setattr(engine_build, "current_device", lambda: Device("a GPU", 89))
    assert target_capability("rtx", None) == 89
    assert target_capability("rtx", 120) == 120
    with pytest.raises(InputError, match=r"sm is 90: expected one of 75, 89, 120; 8\.9 is 89"):
        target_capability("rtx", 90)
    with pytest.raises(InputError, match="TensorRT builds only for the GPU that is here"):
        target_capability("trt", 89)

    def no_gpu():
        raise BackendMissingError("no NVIDIA GPU")

    monkeypatch.setattr(engine_build, "current_device", no_gpu)
    with pytest.raises(BackendMissingError, match="TensorRT builds only where the GPU is; --backend rtx"):
        target_capability("trt", None)
    with pytest.raises(BackendMissingError, match="such as --sm 89, to build without one"):
        target_capability("rtx", None)


def test_turing_builds_score_alone(monkeypatch):
    monkeypatch.setattr(engine_build, "import_package", lambda backend: RTX)
    monkeypatch.setattr(engine_build, "current_device", lambda: Device("a GPU", 75))
    assert target_capability("rtx", 75, ["score"]) == target_capability("rtx", None, ["score"]) == 75
    for asked in (75, None):
        with pytest.raises(
            InputError, match=r"no matrix products in FP32 for Turing, which step-guided cannot"
        ):
            target_capability("rtx", asked, ["step-guided"])


def test_a_size_of_one_pixel_at_the_coarsest_level_is_refused(manifest):
    with pytest.raises(InputError, match=r"--size is 8x8: .* expected at least 16 rows or columns"):
        shape_ranges(manifest, size=(8, 8))
    assert shape_ranges(manifest, size=(8, 16))["8*w"].maximum == 16


@pytest.mark.parametrize(
    ("tactics", "can_be_written", "says"),
    [
        (b"measured", True, ""),
        (b"", True, "refused it (made on another GPU, or by another version); it was left as it is"),
        (b"measured", False, "the timing cache was not kept: "),
    ],
)
def test_whatever_becomes_of_the_timing_cache_the_engine_is_kept(
    monkeypatch, tmp_path, manifest, tactics, can_be_written, says
):
    cache = tmp_path / "c" / "tactics.bin"
    cache.parent.mkdir()
    cache.write_bytes(b"earlier")

    def build(network, ranges, settings, on_progress, earlier):
        assert earlier == b"earlier"
        if not can_be_written:
            shutil.rmtree(cache.parent)
        return b"engine", tactics

    network = SimpleNamespace(path=Path("score.onnx"), inputs={}, trt=SimpleNamespace(__version__="11.4.0.1"))
    monkeypatch.setattr(engine_build, "import_package", lambda backend: SimpleNamespace())
    monkeypatch.setattr(engine_build, "current_device", lambda: Device("a GPU", 90))
    monkeypatch.setattr(engine_build, "parse_graph", lambda trt, path: network)
    monkeypatch.setattr(engine_build, "check_precision", lambda network, dtype: None)
    monkeypatch.setattr(engine_build, "build_engine", build)
    request = BuildRequest("trt", {}, BuildSettings(), tmp_path / "engines", timing_cache=cache)
    built = build_engine_file(tmp_path, manifest, "score", request)
    assert built.path.read_bytes() == b"engine"
    assert says in built.timing_cache if says else built.timing_cache == ""
    if can_be_written:
        assert cache.read_bytes() == (tactics or b"earlier")


def test_rtx_has_no_timing_cache(tmp_path):
    with pytest.raises(InputError, match="TensorRT-RTX has none"):
        BuildRequest("rtx", {}, BuildSettings(), tmp_path, timing_cache=tmp_path / "c")

"""Parsing, precision and profiles with the real TensorRT-RTX, which needs no GPU for them."""

from types import SimpleNamespace

import numpy as np
import pytest

from sbim_deploy.engines import tensorrt_builder
from sbim_deploy.engines.tensorrt_builder import (
    BuildSettings,
    Range,
    _fraction,
    _make_monitor,
    build_engine,
    check_precision,
    parse_graph,
)
from sbim_deploy.errors import EngineIncompatibleError, InputError

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no graphs to parse")


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: nothing is built")


def write_graph(path, element, operator="Conv", domain=""):
    """Write a graph of one node, whose inputs and outputs are of an ONNX element type."""
    shape = ["batch", 1, "h", "w"]
    x, y = (onnx.helper.make_tensor_value_info(name, element, shape) for name in "xy")
    values = np.ones((1, 1, 3, 3)).astype(onnx.helper.tensor_dtype_to_np_dtype(element))
    weight = onnx.helper.make_tensor("w", element, values.shape, values.tobytes(), raw=True)
    inputs = ["x", "w"] if operator == "Conv" else ["x"]
    attributes = {"pads": [1, 1, 1, 1]} if operator == "Conv" else {}
    node = onnx.helper.make_node(operator, inputs, ["y"], name="the_node", domain=domain, **attributes)
    graph = onnx.helper.make_graph([node], "graph", [x], [y], [weight] if operator == "Conv" else [])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


RANGES = {"batch": Range(1, 1, 2), "h": Range(8, 8, 16), "w": Range(8, 8, 16)}


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_precision_is_that_of_the_convolutions(trt, tmp_path, precision):
    element = {
        "float32": onnx.TensorProto.FLOAT,
        "float16": onnx.TensorProto.FLOAT16,
        "bfloat16": onnx.TensorProto.BFLOAT16,
    }
    network = parse_graph(trt, write_graph(tmp_path / "g.onnx", element[precision]))
    check_precision(network, precision)
    assert network.inputs == {"x": ("batch", 1, "h", "w")}
    other = "float16" if precision == "float32" else "float32"
    with pytest.raises(EngineIncompatibleError, match=rf"1 of 1 convolutions .* expected {other}"):
        check_precision(network, other)


def test_a_precision_that_nobody_knows_is_refused(trt, tmp_path):
    network = parse_graph(trt, write_graph(tmp_path / "g.onnx", onnx.TensorProto.FLOAT))
    with pytest.raises(InputError, match="dtype is 'int8', expected one of float32"):
        check_precision(network, "int8")


def test_a_graph_without_convolutions_has_no_precision_to_speak_of(trt, tmp_path):
    network = parse_graph(trt, write_graph(tmp_path / "g.onnx", onnx.TensorProto.FLOAT, "Relu"))
    with pytest.raises(EngineIncompatibleError, match="0 of 0 convolutions"):
        check_precision(network, "float32")


def test_half_precision_builds(trt, tmp_path):
    network = parse_graph(trt, write_graph(tmp_path / "g.onnx", onnx.TensorProto.FLOAT16))
    fractions = []
    serialised, tactics = build_engine(network, RANGES, BuildSettings(89, 1, 0), fractions.append)
    assert memoryview(serialised).nbytes > 1000
    assert tactics == b""
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_a_node_that_the_parser_rejects_is_named(trt, tmp_path):
    path = write_graph(tmp_path / "g.onnx", onnx.TensorProto.FLOAT, "Wavelet", "nowhere")
    with pytest.raises(InputError, match=r"g\.onnx: TensorRT cannot parse it: node 'the_node' \(Wavelet\): "):
        parse_graph(trt, path)
    path.write_bytes(b"no graph")
    with pytest.raises(InputError, match="TensorRT cannot parse it"):
        parse_graph(trt, path)


def test_a_dimension_that_no_range_covers_is_named(trt, tmp_path):
    network = parse_graph(trt, write_graph(tmp_path / "g.onnx", onnx.TensorProto.FLOAT))
    with pytest.raises(InputError, match=r"free dimensions \['w'\] are unknown"):
        build_engine(network, {"batch": RANGES["batch"], "h": RANGES["h"]}, BuildSettings(89), print)


def test_what_stops_the_progress_stops_the_build(trt, tmp_path):
    network = parse_graph(trt, write_graph(tmp_path / "g.onnx", onnx.TensorProto.FLOAT))

    def stop(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(network, RANGES, BuildSettings(89), stop)


def test_a_build_that_fails_says_why(trt, tmp_path):
    # A kernel that is larger than the image: the parser takes it, the builder does not.
    path = write_graph(tmp_path / "g.onnx", onnx.TensorProto.FLOAT)
    network = parse_graph(trt, path)
    huge = {**RANGES, "h": Range(2**20, 2**20, 2**20), "w": Range(2**20, 2**20, 2**20)}
    with pytest.raises(InputError, match=r"the greatest sizes need more memory .*narrow --batch"):
        build_engine(network, huge, BuildSettings(89), lambda _: None)


NO_TACTIC = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([tactic.cpp:1676: enumerate_tactics] Tactic "
    "Selection: no tactics to implement the operation within workspace limit.)"
)
TOO_LARGE = (
    "[localCheckMacros.cpp::getErrorStr::132] Error Code 2: OutOfMemory (Requested size was 68725448648.)"
)


@pytest.mark.parametrize(
    ("workspace", "text", "says"),
    [
        (1e-6, NO_TACTIC, "g.onnx: --workspace is 1e-06 GiB, too little for any kernel"),
        (None, TOO_LARGE, r"g.onnx: the greatest sizes .* \(batch 2, h 16, w 16\): narrow --batch, --coils"),
        (None, "a fault of its own", "g.onnx: TensorRT cannot build it: a fault of its own"),
    ],
)
def test_the_option_that_a_build_fails_by_is_named(monkeypatch, tmp_path, workspace, text, says):
    monkeypatch.setattr(tensorrt_builder, "take_errors", lambda trt: text)
    shape = {"x": ("batch", 1, "h", "w")}
    network = tensorrt_builder.Network(None, None, None, None, tmp_path / "g.onnx", shape)
    ranges = {**RANGES, "coil": Range(1, 8, 32)}
    error = tensorrt_builder._build_failed(network, ranges, BuildSettings(89, workspace))
    with pytest.raises(InputError, match=says):
        raise error


def test_a_workspace_that_tensorrt_does_not_take_is_refused():
    class Config:
        def set_memory_pool_limit(self, pool, pool_size):
            """Take none, as TensorRT does with more than the GPU has."""

        def get_memory_pool_limit(self, pool):
            return 1024**3

    trt = SimpleNamespace(MemoryPoolType=SimpleNamespace(WORKSPACE=0))
    tensorrt_builder._limit_workspace(trt, Config(), 1)
    with pytest.raises(InputError, match="--workspace is 1000 GiB, which TensorRT does not take"):
        tensorrt_builder._limit_workspace(trt, Config(), 1000)


@pytest.mark.parametrize("refused", ["", "when it is read", "when it is set"])
def test_a_timing_cache_that_is_refused_does_not_lose_the_plan(monkeypatch, tmp_path, refused):
    class Cache:
        def serialize(self):
            return b"measured"

    class Config:
        cache = None

        def add_optimization_profile(self, profile):
            return 0

        def create_timing_cache(self, serialized_timing_cache):
            assert serialized_timing_cache == b"earlier"
            return None if refused == "when it is read" else Cache()

        def set_timing_cache(self, cache, ignore_mismatch):
            self.cache = None if refused else cache
            return not refused

        def get_timing_cache(self):
            return self.cache

    monkeypatch.setattr(tensorrt_builder, "_configured", lambda network, settings: Config())
    monkeypatch.setattr(tensorrt_builder, "_profile", lambda network, ranges: None)
    monkeypatch.setattr(
        tensorrt_builder, "_make_monitor", lambda trt, on_progress: SimpleNamespace(stopped_by=None)
    )
    builder = SimpleNamespace(build_serialized_network=lambda definition, config: b"plan")
    network = tensorrt_builder.Network(SimpleNamespace(), builder, None, None, tmp_path, {})
    built = build_engine(network, {}, BuildSettings(), lambda _: None, b"earlier")
    assert built == (b"plan", b"" if refused else b"measured")


def test_the_fraction_done_goes_down_the_nested_phases():
    assert _fraction([]) == 0
    assert _fraction([(4, 1)]) == 0.25
    assert _fraction([(4, 1), (2, 1), (5, 0)]) == 0.375
    assert _fraction([(4, 4), (2, 2)]) == 1


def test_the_bar_never_goes_back(trt):
    seen = []
    monitor = _make_monitor(trt, seen.append)
    monitor.phase_start("all", None, 2)
    for part in range(2):
        monitor.phase_start("part", "all", 2)
        monitor.step_complete("part", 0)
        monitor.step_complete("part", 1)
        monitor.phase_finish("part")
        assert monitor.step_complete("all", part)
    assert seen == [0.25, 0.5, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize("ends", [(0, 1, 2), (2, 1, 3), (1, 4, 3)])
def test_ranges_rise_from_one(ends):
    with pytest.raises(InputError, match="expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX"):
        Range(*ends)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workspace_gib": 0}, "workspace is 0 GiB"),
        ({"workspace_gib": float("nan")}, "workspace is nan"),
        ({"opt_level": 6}, "opt-level is 6, expected 0 to 5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        BuildSettings(**settings)

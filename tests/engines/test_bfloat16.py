"""Convolutions in bfloat16 in OpenVINO: which they are, how they are rounded, and what is said of it."""

import numpy as np
import pytest

pytest.importorskip(
    "openvino", reason="OpenVINO is not installed: its convolutions in bfloat16 are not tested"
)

import openvino
from openvino import opset13 as ov

from bfloat16_processor import needs_bfloat16
from sbim_deploy.engines.bfloat16 import has_bfloat16, round_convolutions
from sbim_deploy.engines.openvino import OpenVinoEngine
from sbim_deploy.errors import EngineIncompatibleError
from sbim_deploy.models.backends import tensor_specs
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.recon.channels import to_channels
from sbim_deploy.recon.parity import noisy_phantom

SCORE = DEMO_FOLDER / "score.onnx"
INPUTS, _ = tensor_specs(load_model("demo").manifest, "score")
F32, BF16 = openvino.Type.f32, openvino.Type.bf16


def convolutions(model):
    """A model's convolutions in order, those of loops too."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Loop":
            yield from convolutions(node.get_function())
        elif node.get_type_name() == "Convolution":
            yield node


def three_layers(weights):
    x = ov.parameter([1, 4, 8, 8], np.float32)
    y = x
    for _ in range(3):
        y = ov.elu(ov.convolution(y, ov.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1]), 1.0)
    return openvino.Model([y], [x])


@pytest.mark.parametrize("graph", ["score", "step-proximal", "reconstruct-guided-2d"])
def test_all_convolutions_but_the_first_and_the_last_are_rounded_in_loops_too(graph):
    model = openvino.Core().read_model(DEMO_FOLDER / f"{graph}.onnx")
    assert not has_bfloat16(model)
    assert round_convolutions(model) == 111
    assert has_bfloat16(model)
    kinds = [node.get_input_element_type(0) for node in convolutions(model)]
    assert kinds == [F32, *[BF16] * 111, F32]


def test_nothing_but_convolutions_takes_bfloat16():
    model = openvino.Core().read_model(DEMO_FOLDER / "step-proximal.onnx")
    round_convolutions(model)
    takers = {
        node.get_type_name()
        for node in model.get_ordered_ops()
        for i in range(node.get_input_size())
        if node.get_input_element_type(i) == BF16
    }
    assert takers == {"Convolution", "Convert"}


def test_weights_go_to_the_nearest_number_and_not_towards_zero():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
    weights[0, 0, 0] = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8]  # ties, which go to the even one
    model = three_layers(weights)
    round_convolutions(model)
    _, middle, _ = convolutions(model)
    constant = middle.input_value(1).get_node().input_value(0).get_node().get_data()
    np.testing.assert_array_equal(constant[0, 0, 0], np.float32([1, 1 + 2**-6, -1]))
    assert not np.any(np.ascontiguousarray(constant).view(np.uint32) & 0xFFFF)  # bfloat16 has them
    error = (constant - weights) / np.abs(weights)
    assert np.abs(error).max() <= 2**-8
    assert abs(np.mean(error * np.sign(weights))) < 3e-4  # they do not shrink


@needs_bfloat16
def test_a_convolution_is_that_of_rounded_numbers():
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6
    image = rng.standard_normal((1, 4, 8, 8)).astype(np.float32)
    model = three_layers(weights)
    round_convolutions(model)

    def nearest(x):
        unit = np.exp2(np.floor(np.log2(np.abs(x, where=x != 0, out=np.ones_like(x)))) - 7)
        return (np.round(x / unit) * unit).astype(np.float32)

    def convolved(x, w):
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]).astype(float)
        parts = (
            np.einsum("kc,ncij->nkij", w[:, :, i, j].astype(float), padded[:, :, i : i + 8, j : j + 8])
            for i in range(3)
            for j in range(3)
        )
        return sum(parts).astype(np.float32)

    def elu(x):
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    first = elu(convolved(image, weights))
    middle = elu(nearest(convolved(nearest(first), nearest(weights))))
    expected = elu(convolved(middle, weights))
    settings = {openvino.properties.hint.inference_precision: "f32"}
    got = openvino.Core().compile_model(model, "CPU", settings)(image)[0]
    # Sums in FP32 of another order may fall to the other side of a half.
    assert np.linalg.norm(got - expected) < 2e-4 * np.linalg.norm(expected)
    exact = elu(convolved(elu(convolved(first, weights)), weights))
    assert np.linalg.norm(got - exact) > 1e-3 * np.linalg.norm(exact)


@needs_bfloat16
@pytest.mark.parametrize("sigma", [50, 0.7, 0.01])
def test_the_score_costs_what_the_manifest_says(sigma):
    x = to_channels(noisy_phantom((64, 48), sigma, 0))[None]
    inputs = {"x": x, "sigma": np.full(1, sigma, np.float32)}
    exact, rounded = (
        OpenVinoEngine(SCORE, INPUTS, backend=backend).run(inputs)["score"]
        for backend in ("openvino", "openvino-bf16")
    )
    costs = load_model("demo").manifest.bfloat16_cost
    name = min(
        (name for name in costs if name.startswith("score")),
        key=lambda name: abs(float(name.split()[-1]) - sigma),
    )
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert error == pytest.approx(costs[name], rel=0.25)


@needs_bfloat16
def test_the_description_says_what_the_plugin_computes_convolutions_with():
    engine = OpenVinoEngine(SCORE, INPUTS, backend="openvino-bf16")
    inputs = {"x": np.zeros((1, 2, 64, 64), np.float32), "sigma": np.ones(1, np.float32)}
    runtime = engine._compiled_for(inputs).model.get_runtime_model().get_ordered_ops()
    kinds = [
        kind["primitiveType"].astype(str)
        for kind in (node.get_rt_info() for node in runtime)
        if kind["layerType"].astype(str) == "Convolution"
    ]
    assert sum(kind.endswith("bf16") for kind in kinds) == 111
    assert engine.description["backend"] == "openvino-bf16"
    assert engine.description["convolutions"] in kinds
    assert "convolutions" not in OpenVinoEngine(SCORE, INPUTS).description


@pytest.fixture
def old_processor(monkeypatch):
    """Let OpenVINO say that the processor has no bfloat16."""
    told = openvino.Core.get_property

    def property_of(core, device, name):
        return ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else told(core, device, name)

    monkeypatch.setattr(openvino.Core, "get_property", property_of)


@pytest.mark.usefixtures("old_processor")
def test_a_processor_without_bfloat16_is_refused_with_the_way_out():
    with pytest.raises(EngineIncompatibleError, match=r"no instructions for bfloat16 .*: take openvino$"):
        OpenVinoEngine(SCORE, INPUTS, backend="openvino-bf16")


@pytest.fixture
def exported_in_bfloat16(tmp_path):
    """A graph whose middle convolution is in bfloat16, as an export in that precision is."""
    model = three_layers(np.ones((4, 4, 3, 3), np.float32))
    round_convolutions(model)
    model.inputs[0].set_names({"x"})
    openvino.save_model(model, tmp_path / "score.xml", compress_to_fp16=False)
    return OpenVinoEngine(tmp_path / "score.xml", {})


@needs_bfloat16
def test_a_model_exported_in_bfloat16_says_that_it_is_computed_so(exported_in_bfloat16):
    assert exported_in_bfloat16.description["convolutions"].endswith("bf16")


@pytest.mark.usefixtures("old_processor")
def test_a_model_exported_in_bfloat16_says_what_a_processor_without_it_does(exported_in_bfloat16):
    assert "this processor does not have" in exported_in_bfloat16.description["convolutions"]

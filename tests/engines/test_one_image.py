import numpy as np
import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed: its graphs of one image are not tested")

import openvino
from openvino import opset13 as ov

from sbim_deploy.engines.one_image import drop_sums_over_one
from sbim_deploy.models.folder import DEMO_FOLDER

SIZE, COILS, LINES, ROWS = 16, 3, 8, 4


def model_of(graph, n):
    """A graph of the demo model for n images of two dimensions, three coils and eight lines."""
    image = [n, 2, SIZE, SIZE]
    shapes = {
        "x": image,
        "z": image,
        "backprojection": image,
        "maps": [n, COILS, 2, SIZE, SIZE],
        "encoding": [n, 2, SIZE, LINES],
        "row_encoding": [n, 2, SIZE, SIZE],
        "mask": [n, SIZE, LINES],
        "z_of_rows": [ROWS, *image],
    }
    model = openvino.Core().read_model(DEMO_FOLDER / f"{graph}.onnx")
    names = [port.any_name for port in model.inputs]
    model.reshape({name: shapes.get(name, [ROWS, n] if "_of_rows" in name else [n]) for name in names})
    return model


def inputs_of(model, map_set):
    random = np.random.default_rng(0)
    inputs = {port.any_name: random.random(tuple(port.shape), dtype=np.float32) for port in model.inputs}
    return inputs | {"map_set": np.asarray(map_set, dtype=np.float32)}


def result(model, inputs):
    settings = {openvino.properties.hint.inference_precision: "f32"}
    return openvino.Core().compile_model(model, "CPU", settings)(inputs)[0]


def products(model):
    nodes = model.get_ordered_ops()
    inside = [products(node.get_function()) for node in nodes if node.get_type_name() == "Loop"]
    return sum(node.get_type_name() == "MatMul" for node in nodes) + sum(inside)


@pytest.mark.parametrize("graph", ["step-guided", "step-proximal", "step-proximal-2d", "reconstruct-guided"])
@pytest.mark.parametrize("map_set", [0, 1])
def test_the_image_of_a_batch_of_one_stays_and_the_sums_are_gone(graph, map_set):
    model = model_of(graph, 1)
    shorter = model.clone()
    before = products(model)
    n_dropped = drop_sums_over_one(shorter)
    # One in each application of A^H A and one in each inner product, of which a plan has at least one each.
    assert n_dropped >= 2
    assert products(shorter) == before - n_dropped
    inputs = inputs_of(model, [map_set])
    expected = result(model, inputs)
    assert np.isfinite(expected).all()
    assert np.linalg.norm(result(shorter, inputs) - expected) <= 1e-5 * np.linalg.norm(expected)


def test_sums_over_two_images_stay():
    model = model_of("step-proximal", 2)
    before = products(model)
    assert drop_sums_over_one(model) == 0
    assert products(model) == before


def test_a_product_with_another_number_and_one_that_comes_from_outside_stay():
    x, factor = ov.parameter([1, 4], np.float32), ov.parameter([1, 1], np.float32)
    half = ov.matmul(ov.constant(np.full((1, 1), 0.5, np.float32)), x, False, False)
    model = openvino.Model([ov.matmul(factor, half, False, False)], [x, factor])
    assert drop_sums_over_one(model) == 0
    values = np.arange(4, dtype=np.float32)[None]
    assert np.array_equal(result(model, [values, np.full((1, 1), 3, np.float32)]), 1.5 * values)


def test_a_comparison_of_two_inputs_is_not_taken_for_one_of_an_array_with_itself():
    a, b, x = ov.parameter([1], np.float32), ov.parameter([1], np.float32), ov.parameter([1, 4], np.float32)
    axis = ov.constant(np.array([1]))
    same = ov.convert(ov.equal(ov.unsqueeze(a, axis), ov.unsqueeze(b, axis)), "f32")
    model = openvino.Model([ov.matmul(same, x, False, False)], [a, b, x])
    assert drop_sums_over_one(model) == 0

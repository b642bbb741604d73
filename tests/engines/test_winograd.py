import numpy as np
import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed: its shorter convolutions are not tested")

import openvino
from openvino import opset13 as ov

from sbim_deploy.engines import winograd
from sbim_deploy.engines.comparison import compare
from sbim_deploy.engines.onnxruntime import OnnxRuntimeEngine
from sbim_deploy.engines.openvino import OpenVinoEngine
from sbim_deploy.engines.winograd import shorten_convolutions
from sbim_deploy.models.backends import tensor_specs
from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.recon.channels import to_channels
from sbim_deploy.recon.parity import noisy_phantom, tolerance


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 2)
    monkeypatch.setattr(winograd, "MIN_MULTIPLICATIONS", 0)


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def convolution(image, weights, dilation=1, strides=1, pad=None):
    pad = dilation if pad is None else pad
    return ov.convolution(image, ov.constant(weights), [strides] * 2, [pad] * 2, [pad] * 2, [dilation] * 2)


def result(model, *inputs):
    settings = {openvino.properties.hint.inference_precision: "f32"}
    return openvino.Core().compile_model(model, "CPU", settings)(list(inputs))[0]


def kinds(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def exact_convolution(image, weights, dilation):
    """In double precision, a product of the weights at a time."""
    rows, columns = image.shape[2:]
    padded = np.pad(image.astype(float), [(0, 0), (0, 0), (dilation, dilation), (dilation, dilation)])
    total = np.zeros((image.shape[0], weights.shape[0], rows, columns))
    for i in range(3):
        for j in range(3):
            part = padded[:, :, i * dilation : i * dilation + rows, j * dilation : j * dilation + columns]
            total += np.einsum("kc,ncij->nkij", weights[:, :, i, j].astype(float), part)
    return total


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize(
    ("batch", "n_in", "n_out", "rows", "columns"),
    [(1, 16, 16, 16, 16), (2, 5, 7, 32, 9), (1, 8, 4, 31, 20), (3, 3, 16, 64, 5), (1, 16, 16, 13, 17)],
)
def test_the_result_is_the_convolution_to_rounding(monkeypatch, dilation, batch, n_in, n_out, rows, columns):
    monkeypatch.setattr(winograd, "MAX_PADDED", 10)
    image, weights = normal(batch, n_in, rows, columns), normal(n_out, n_in, 3, 3)
    parameter = ov.parameter(image.shape, np.float32)
    model = openvino.Model([convolution(parameter, weights, dilation)], [parameter])
    assert shorten_convolutions(model) == 1
    expected = exact_convolution(image, weights, dilation)
    assert np.linalg.norm(result(model, image) - expected) < 5e-6 * np.linalg.norm(expected)


def test_what_follows_element_by_element_keeps_its_meaning():
    x = ov.parameter([1, 4, 16, 12], np.float32)
    per_channel, scalar = ov.constant(normal(1, 4, 1, 1)), ov.constant(np.float32(0.5))
    y = ov.add(convolution(x, normal(4, 4, 3, 3)), per_channel)
    pooled = ov.max_pool(ov.multiply(y, scalar), [1, 1], [1, 1], [2, 2], [2, 2], [5, 5]).output(0)
    z = ov.add(ov.subtract(x, convolution(ov.elu(y, 1.0), normal(4, 4, 3, 3), 2)), pooled)
    last = ov.reduce_mean(ov.relu(z), ov.constant(np.array([2, 3])), keep_dims=True)
    model = openvino.Model([ov.add(z, last)], [x])
    plain, image = model.clone(), normal(1, 4, 16, 12)
    assert shorten_convolutions(model) == 2
    np.testing.assert_allclose(result(model, image), result(plain, image), rtol=0, atol=1e-4)


def test_a_row_of_layers_changes_the_order_of_axes_at_its_ends_only():
    x = ov.parameter([1, 4, 16, 16], np.float32)
    y = x
    for _ in range(3):
        y = ov.elu(ov.add(convolution(y, normal(4, 4, 3, 3)), ov.constant(normal(1, 4, 1, 1))), 1.0)
    model = openvino.Model([y], [x])
    assert shorten_convolutions(model) == 3
    # To last and to first, and of each convolution six inputs, four outputs, a bias.
    assert kinds(model).count("Transpose") == 2 + 3 * (6 + 4 + 1)


def test_an_image_that_was_never_a_list_of_pixels_is_left_as_it_is():
    x = ov.parameter([16 * 12 * 4], np.float32)
    rows_first = ov.reshape(x, ov.constant(np.array([1, 16, 12, 4])), False)
    y = ov.elu(ov.transpose(rows_first, ov.constant(np.array([0, 3, 1, 2]))), 1.0)
    model = openvino.Model([convolution(y, normal(4, 4, 3, 3))], [x])
    plain, values = model.clone(), normal(16 * 12 * 4)
    assert shorten_convolutions(model) == 1
    np.testing.assert_allclose(result(model, values), result(plain, values), rtol=0, atol=1e-4)


def test_convolutions_in_a_loop_are_shortened_too():
    state = ov.parameter([1, 4, 16, 16], np.float32)
    body = openvino.Model(
        [ov.constant(np.array(True)), ov.elu(convolution(state, normal(4, 4, 3, 3) / 6), 1.0)], [state]
    )
    x = ov.parameter([1, 4, 16, 16], np.float32)
    loop = ov.loop(ov.constant(np.int64(3)), ov.constant(np.array(True)))
    loop.set_function(body)
    loop.set_special_body_ports([-1, 0])
    loop.set_merged_input(state, x.output(0), body.get_results()[1].input_value(0))
    model = openvino.Model([loop.get_iter_value(body.get_results()[1].output(0), -1)], [x])
    image = normal(1, 4, 16, 16)
    expected = result(model.clone(), image)
    assert shorten_convolutions(model) == 1
    np.testing.assert_allclose(result(model, image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 4, 1, 1), {"pad": 0}),
        ((4, 4, 5, 5), {"pad": 2}),
        ((4, 4, 3, 3), {"pad": 0}),
        ((4, 4, 3, 3), {"strides": 2}),
        ((4, 4, 3, 3), {"dilation": 8}),
    ],
    ids=["1 x 1", "5 x 5", "smaller result", "strides", "a tile of twice the rows"],
)
def test_others_are_left_alone(shape, options):
    x = ov.parameter([1, 4, 16, 16], np.float32)
    model = openvino.Model([convolution(x, normal(*shape), **options)], [x])
    assert shorten_convolutions(model) == 0
    assert kinds(model).count("Convolution") == 1


def test_what_is_not_single_precision_is_left_alone():
    x = ov.parameter([1, 4, 16, 16], np.float16)
    model = openvino.Model([convolution(x, normal(4, 4, 3, 3).astype(np.float16))], [x])
    assert shorten_convolutions(model) == 0


@pytest.mark.parametrize(("channels", "rows"), [(64, 384), (128, 16)], ids=["narrow", "short"])
def test_what_would_not_gain_is_left_alone(monkeypatch, channels, rows):
    monkeypatch.undo()
    x = ov.parameter([1, channels, rows, rows], np.float32)
    model = openvino.Model([convolution(x, normal(channels, channels, 3, 3))], [x])
    assert shorten_convolutions(model) == 0


@pytest.mark.slow
def test_a_whole_network_computes_what_onnxruntime_computes():
    sigmas = (50.0, 0.01)
    images = [to_channels(noisy_phantom((32, 48), sigma, seed)) for seed, sigma in enumerate(sigmas)]
    inputs = {"x": np.stack(images), "sigma": np.array(sigmas, np.float32)}
    path = DEMO_FOLDER / "score.onnx"
    engine = OpenVinoEngine(path, tensor_specs(load_model("demo").manifest, "score")[0])
    score, expected = engine.run(inputs)["score"], OnnxRuntimeEngine(path).run(inputs)["score"]
    compiled = engine._compiled_for(inputs).model.get_runtime_model()
    layers = [node.get_rt_info()["layerType"].value for node in compiled.get_ordered_ops()]
    n_given = kinds(openvino.Core().read_model(path)).count("Convolution")
    assert layers.count("Convolution") > 3 * n_given
    for index, sigma in enumerate(sigmas):
        parity = compare("score", score[index], expected[index], tolerance(sigma))
        assert parity.passed, parity

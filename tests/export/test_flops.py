import pytest
import torch
from onnx import TensorProto, helper

from sbim_deploy.errors import InputError
from sbim_deploy.export.eager import count_flops
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.export.precision import fold_mean_pools
from sbim_deploy.models.folder import DEMO_FOLDER, load_model


def graph(path, sizes=("n", 2, "h", "w")):
    """A convolution of 2 to 6 channels that halves the grid, pooled, and a product of 6 by 5 numbers."""
    nodes = [
        helper.make_node(
            "Conv", ["x", "taps"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]
        ),
        helper.make_node("Elu", ["c"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "matrix"], ["m"]),
        helper.make_node("Gemm", ["m", "other", "bias"], ["y"]),
    ]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, dims, [0.0] * n)
        for name, dims, n in (
            ("taps", (6, 2, 3, 3), 108),
            ("matrix", (6, 5), 30),
            ("other", (5, 4), 20),
            ("bias", (4,), 4),
        )
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    made = helper.make_graph(nodes, "small", [x], [y], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 8, 8), (3, 16, 8)])
def test_products_are_counted_as_by_hand(tmp_path, n, rows, columns):
    convolution = n * 6 * (rows // 2) * (columns // 2) * (2 * 3 * 3)
    by_hand = 2 * (convolution + n * 5 * 6 + n * 4 * 5)
    assert count_flops(graph(tmp_path / "small.onnx"), {"x": (n, 2, rows, columns)}) == by_hand


def flops_of_convolutions(shape):
    """Two for each product of each convolution of the network as it is exported, as PyTorch runs them."""
    manifest = load_model("demo").manifest
    architecture = ARCHITECTURES[manifest.architecture]
    network = fold_mean_pools(ScoreNetwork(architecture, manifest.ngf, manifest.channels))
    counted = []

    def count(conv, inputs, output):
        counted.append(2 * output.numel() * conv.weight[0].numel())

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(shape), torch.ones(1))
    assert len(counted) == 113
    return sum(counted)


def test_a_network_is_counted_through_its_resizes():
    score = DEMO_FOLDER / "score.onnx"
    small, large = (count_flops(score, {"x": (1, 2, n, n), "sigma": (1,)}) for n in (64, 128))
    assert large == 4 * small
    assert large == pytest.approx(flops_of_convolutions((1, 2, 128, 128)), rel=0.001)


def test_what_cannot_be_counted_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot count its arithmetic"):
        count_flops(tmp_path / "nowhere.onnx", {})
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"hello")
    with pytest.raises(InputError, match="cannot count its arithmetic"):
        count_flops(damaged, {})

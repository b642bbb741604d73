import numpy as np
import onnx
import pytest
import torch
from random_checkpoints import random_weights
from torch import nn
from torch.nn import functional as F

from bfloat16_processor import needs_bfloat16
from sbim_deploy.export.model import export_model
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.export.precision import DTYPES, RoundedConvolutions, in_precision
from sbim_deploy.models.folder import load_model


@pytest.fixture(scope="module")
def network():
    made = ScoreNetwork(ARCHITECTURES["NCSNv2"], ngf=4, channels=2).eval()
    made.load_state_dict(random_weights("NCSNv2", 0))
    return made


@pytest.fixture(scope="module")
def half_model(once, checkpoint_path, config_path):
    def export(folder):
        export_model(checkpoint_path, config_path, folder, dtype="fp16")

    return load_model(once("half-model", export))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_convolutions_are_half_and_what_divides_or_normalises_is_not(network, dtype):
    half = in_precision(network, DTYPES[dtype])
    dtypes = {name: parameter.dtype for name, parameter in half.named_parameters() if name.endswith("weight")}
    outer = {"begin_conv.weight", "end_conv.weight"}
    assert {dtypes.pop(name) for name in outer} == {torch.float32}
    assert set(dtypes.values()) == {DTYPES[dtype]}
    norms = [parameter for name, parameter in half.named_parameters() if "alpha" in name]
    assert {parameter.dtype for parameter in norms} == {torch.float32}
    seen = []
    for module in half.modules():
        if type(module).__name__ == "InstanceNormPlus":
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    half(torch.randn(1, 2, 16, 16), torch.ones(1))
    assert set(seen) == {torch.float32}


def test_half_precision_costs_what_its_rounding_says(network):
    x, sigma = (
        torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.tensor([10.0, 0.1]),
    )
    with torch.inference_mode():
        exact = network.double()(x.double(), sigma.double())
        network.float()
        errors = {
            name: float((in_precision(network, dtype)(x, sigma) - exact).norm() / exact.norm())
            for name, dtype in DTYPES.items()
        }
    assert errors["fp32"] < 1e-5
    assert 1e-5 < errors["fp16"] < 1e-2
    assert 2 < errors["bf16"] / errors["fp16"] < 20  # three bits less: a factor of 8


def test_fp32_is_the_network_itself_and_half_leaves_it_alone(network):
    assert in_precision(network, torch.float32) is network
    in_precision(network, torch.float16)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert not any(type(module).__name__ == "_HalfConv2d" for module in network.modules())
    assert any(isinstance(module, nn.Conv2d) for module in network.modules())


@pytest.mark.slow
def test_a_half_model_says_what_it_is_and_what_it_costs(half_model):
    manifest = half_model.manifest
    assert manifest.dtype == "float16"
    costs = dict(manifest.precision_cost)
    assert 0.9999 < costs.pop("image SSIM") <= 1
    assert 1e-5 < costs.pop("image NRMSE") < 2e-3
    assert set(costs) == {"score at sigma 232", "score at sigma 1.23742", "score at sigma 0.0066"}
    assert all(1e-4 < cost < 2e-2 for cost in costs.values())


@pytest.mark.slow
def test_a_half_models_graphs_have_fp32_inputs_and_outputs_and_half_convolutions(half_model):
    for path in half_model.folder.glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        ends = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        assert ends == {onnx.TensorProto.FLOAT}
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        nodes = [*graph.node, *(n for loop in graph.node for a in loop.attribute for n in a.g.node)]
        weights = [kinds[node.input[1]] for node in nodes if node.op_type == "Conv"]
        assert weights.count(onnx.TensorProto.FLOAT) == 2
        assert weights.count(onnx.TensorProto.FLOAT16) == len(weights) - 2 > 20


@pytest.mark.slow
def test_a_half_model_is_built_in_half_precision(cli, half_model, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: no engine is built")
    for graph in ("score", "step-guided", "step-proximal"):
        arguments = (
            "--backend",
            "rtx",
            "--sm",
            89,
            "--graph",
            graph,
            "-o",
            tmp_path / "engines",
        )
        done = cli("build", half_model.folder, *arguments)
        assert done.code == 0, done.err
        assert done.err.count(": float16, compute capability") == 1
    assert len(list((tmp_path / "engines").glob("*-fp16-sm*.engine"))) == 3


@pytest.mark.slow
def test_the_command_validates_a_half_model_and_tells_its_cost(cli, half_model):
    done = cli("validate", half_model.folder, "--backend", "onnxruntime")
    # Its weights are random: it is no prior, and nothing else is wrong.
    assert "the network leaves the noise" in done.error_line
    assert "float16 costs, in PyTorch at export: score at sigma 232 " in done.out


def test_bf16_takes_an_opset_that_has_it(cli, checkpoint_path, config_path, tmp_path):
    arguments = ("export", checkpoint_path, "--config", config_path, "-o", tmp_path / "model")
    done = cli(*arguments, "--dtype", "bf16", "--opset", 20)
    assert done.code == 2
    assert "opset is 20: expected 22 to 23 for bf16" in done.error_line
    done = cli(*arguments, "--dtype", "int8")
    assert done.code == 2
    assert "dtype is 'int8': expected one of fp32, fp16, bf16" in done.error_line


def test_elu_is_written_out_as_it_is_defined():
    from sbim_deploy.export.tracing import trace

    x = torch.linspace(-20, 20, 101)[None, None, None]
    made = trace(nn.ELU(), [{"x": (x, {})}], "y", 20)
    assert {node.op_type for node in made.graph.node} == {"Min", "Exp", "Sub", "Max"}
    (got,) = onnx.reference.ReferenceEvaluator(made).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(got, nn.functional.elu(x).numpy(), atol=1e-7)


class _Layers(nn.Module):
    """Convolutions by a call and by modules, one of them by groups, which is none that is rounded."""

    def __init__(self, n):
        super().__init__()
        torch.manual_seed(n)
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(n)])
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x, _sigma):
        for i, conv in enumerate(self.convs):
            x = self.grouped(conv(x) if i % 2 else F.conv2d(x, conv.weight, conv.bias, padding=1))
        return x


def test_convolutions_are_rounded_but_the_first_and_the_last():
    x, sigma = torch.randn(1, 4, 9, 7, generator=torch.Generator().manual_seed(0)), torch.ones(1)
    with torch.inference_mode():
        for n in (1, 2):
            layers = _Layers(n)
            assert torch.equal(RoundedConvolutions(layers)(x, sigma), layers(x, sigma))
        layers = _Layers(3)
        first, middle, last = layers.convs
        seen = layers.grouped(first(x)).bfloat16().double()
        sums = F.conv2d(seen, middle.weight.bfloat16().double(), padding=1).float().bfloat16().float()
        expected = layers.grouped(last(layers.grouped(sums + middle.bias.view(-1, 1, 1))))
        rounded = RoundedConvolutions(layers)
        for _ in range(2):
            torch.testing.assert_close(rounded(x, sigma), expected, rtol=1e-6, atol=1e-6)
        assert (rounded(x, sigma) - layers(x, sigma)).norm() > 1e-4 * expected.norm()


def test_the_emulation_of_bfloat16_costs_what_convolutions_in_bfloat16_do(network):
    x = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    sigma = torch.ones(1)
    with torch.inference_mode():
        exact = network(x, sigma)
        emulated, half = (
            (made(x, sigma) - exact).norm()
            for made in (RoundedConvolutions(network), in_precision(network, torch.bfloat16))
        )
    assert 0.5 < emulated / half < 2  # the export rounds biases and sums below the finest stage too


@pytest.mark.slow
@needs_bfloat16
def test_an_fp32_model_of_the_published_architecture_validates_in_bfloat16(
    cli, once, checkpoint_path, config_path
):
    folder = once("fp32-model", lambda folder: export_model(checkpoint_path, config_path, folder))
    done = cli("validate", folder, "--precision", "bf16")
    # Its weights are random: it is no prior, and nothing else is wrong.
    assert "the network leaves the noise" in done.error_line
    assert "engine: openvino-bf16" in done.out
    assert "convolutions in bf16 cost" in done.out
    costs = load_model(folder).manifest.bfloat16_cost
    assert costs.keys() > load_model(folder).manifest.precision_cost.keys()
    assert 1e-4 < costs["image NRMSE"] < 0.5

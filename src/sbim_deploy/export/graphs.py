"""The graphs of a model folder: score.onnx and step.onnx, which share weights.bin."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from sbim_deploy.export.network import ScoreNetwork

WEIGHTS_NAME = "weights.bin"
DEFAULT_OPSET = 20
MIN_EXTERNAL_BYTES = 1024
ALIGNMENT = 64
SIGNATURES = {
    "score": (("x", "sigma"), "score"),
    "step": (
        ("x", "sigma", "step_size", "noise_scale", "data_weight", "z", "maps", "circulant", "backprojection"),
        "x_next",
    ),
}


class GuidedStep(nn.Module):
    """A guided row as one graph: the score, the data consistency and the update.

    x + step_size (s - data_weight g |s| / |g|) + noise_scale z, with g = A^H A x - A^H y and norms per
    slice; for masks along phase encoding, whose A^H A is a circulant matrix along the columns.
    """

    def __init__(self, network: ScoreNetwork):
        super().__init__()
        self.network = network

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        step_size: Tensor,
        noise_scale: Tensor,
        data_weight: Tensor,
        z: Tensor,
        maps: Tensor,
        circulant: Tensor,
        backprojection: Tensor,
    ) -> Tensor:
        """Return the next x (n, 2, H, W).

        Channels of 2 are real and imaginary: z and backprojection are like x, maps (n, coil, 2, H, W),
        circulant (n, 2, W, W), applied to rows from the right; the other inputs are (n,).
        """
        s = self.network(x, sigma)
        g = _normal(x, maps, circulant) - backprojection
        s_norm, g_norm = (v.square().sum(dim=(1, 2, 3)).sqrt() for v in (s, g))
        pull = torch.where(g_norm > 0, data_weight * s_norm / g_norm.clamp_min(1e-30), 0.0)
        guided = s - pull[:, None, None, None] * g
        update: Tensor = x + step_size[:, None, None, None] * guided + noise_scale[:, None, None, None] * z
        return update


def _normal(x: Tensor, maps: Tensor, circulant: Tensor) -> Tensor:
    real, imag = maps[:, :, 0], maps[:, :, 1]
    coil_real = real * x[:, None, 0] - imag * x[:, None, 1]
    coil_imag = real * x[:, None, 1] + imag * x[:, None, 0]
    p_real, p_imag = circulant[:, None, 0], circulant[:, None, 1]
    out_real = coil_real @ p_real - coil_imag @ p_imag
    out_imag = coil_real @ p_imag + coil_imag @ p_real
    combined_real = (real * out_real + imag * out_imag).sum(dim=1)
    combined_imag = (real * out_imag - imag * out_real).sum(dim=1)
    return torch.stack([combined_real, combined_imag], dim=1)


def export_graphs(
    network: ScoreNetwork, folder: Path, channels: int, size_multiple: int, opset: int = DEFAULT_OPSET
) -> list[str]:
    """Write the graphs and their weights into ``folder`` and return the files' names.

    Batch, coils, height and width are free; height and width are multiples of ``size_multiple``.
    step.onnx is written for networks of 2 channels.
    """
    size = 8 * size_multiple
    n, coils = 2, 3
    x, per_slice = torch.zeros(n, channels, size, size + size_multiple), torch.ones(n)
    width = x.shape[-1]
    batch, height, columns = (torch.export.Dim(name, min=1) for name in ("batch", "h", "w"))
    grid = {2: size_multiple * height, 3: size_multiple * columns}
    image = {0: batch, **grid}
    models = {"score": _export(network, (x, per_slice), (image, {0: batch}), "score", opset)}
    if channels == 2:
        maps, circulant = torch.zeros(n, coils, 2, *x.shape[2:]), torch.zeros(n, 2, width, width)
        # Copies: one tensor given twice is traced as one input.
        numbers = (per_slice.clone() for _ in range(4))
        inputs = (x, *numbers, x.clone(), maps, circulant, x.clone())
        maps_shape = {0: batch, 1: torch.export.Dim("coil", min=1), 3: grid[2], 4: grid[3]}
        circulant_shape = {0: batch, 2: grid[3], 3: grid[3]}
        shapes = (image, *[{0: batch}] * 4, image, maps_shape, circulant_shape, image)
        models["step"] = _export(GuidedStep(network), inputs, shapes, "step", opset)
    _share_weights(list(models.values()), folder / WEIGHTS_NAME)
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    return [WEIGHTS_NAME, *(f"{name}.onnx" for name in models)]


def _export(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, name: str, opset: int
) -> onnx.ModelProto:
    input_names, output_name = SIGNATURES[name]
    with warnings.catch_warnings():
        # torch.export's own use of what it deprecates; nothing of it is ours to mend.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(input_names),
            output_names=[output_name],
            opset_version=opset,
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _strip_origins(model)
    onnx.checker.check_model(model)
    return model


def _strip_origins(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they hold the paths of the machine that exported."""
    graph = model.graph
    records: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info]
    for record in [*records, *graph.initializer]:
        del record.metadata_props[:]
        record.doc_string = ""


def _share_weights(models: Sequence[onnx.ModelProto], path: Path) -> None:
    """Move the models' initializers to one file, where equal ones stand once."""
    offsets: dict[bytes, int] = {}
    with path.open("wb") as file:
        for model in models:
            for tensor in model.graph.initializer:
                data = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(data) < MIN_EXTERNAL_BYTES:
                    continue
                digest = hashlib.sha256(data).digest()
                if digest not in offsets:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offsets[digest] = file.tell()
                    file.write(data)
                tensor.raw_data = data
                set_external_data(tensor, path.name, offset=offsets[digest], length=len(data))
                tensor.ClearField("raw_data")

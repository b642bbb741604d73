"""The updates as graphs, which ship with the package: they hold no weights, and take a minute to trace.

``python -m sbim_deploy.export.update_graphs`` writes them again; that is needed where
:mod:`sbim_deploy.export.updates` or the number of conjugate-gradient steps has changed. The demo model's
graphs are then joined again: ``python -m sbim_deploy.export.graphs src/sbim_deploy/assets/demo``.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import onnx

from sbim_deploy.export.tracing import Sample, trace
from sbim_deploy.export.updates import make_updates
from sbim_deploy.samplers.choice import DDS_N_CG

ASSETS = "assets/updates"
# The lowest operator set of an export. Later sets give these operators more types and change nothing else.
OPSET = 18


def read_update(kind: str, size_multiple: int) -> onnx.ModelProto:
    """Return the graph of an update, such as ``proximal``, for images of multiples of ``size_multiple``."""
    asset = files("sbim_deploy").joinpath(ASSETS, f"{kind}.onnx")
    model = onnx.load_model_from_string(asset.read_bytes())
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in ("h", "w") and size_multiple > 1:
                size.dim_param = f"{size_multiple}*{size.dim_param}"
    return model


def trace_update(kind: str, n_cg: int = DDS_N_CG) -> onnx.ModelProto:
    """Return the graph of an update, traced by PyTorch for images of any size."""
    update, sample = make_updates(n_cg)[kind], Sample(size_multiple=1)
    inputs = [sample.of(["score", *update.inputs]), sample.of(update.operator.inputs)]
    model = trace(update, inputs, "x_next", OPSET)
    # Shapes in between, which the exporter notes and nothing reads.
    del model.graph.value_info[:]
    return model


def main() -> None:
    """Trace every update and write it where the package has it."""
    folder = Path(__file__).parents[1] / ASSETS
    folder.mkdir(exist_ok=True)
    for kind in make_updates(DDS_N_CG):
        onnx.save(trace_update(kind), folder / f"{kind}.onnx")


if __name__ == "__main__":
    main()

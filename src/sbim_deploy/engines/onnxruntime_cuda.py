"""ONNX Runtime's CUDA provider: its options, and the nodes that it leaves to the CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from sbim_deploy.errors import EngineIncompatibleError

PROVIDER = "CUDAExecutionProvider"
RECORD_ASSIGNMENT = ("session.record_ep_graph_assignment_info", "1")
# Operators that only images go through. Others compute shapes too, which belongs on the CPU.
# fmt: off
OF_IMAGES = frozenset({
    "AveragePool", "Conv", "ConvTranspose", "Elu", "Erf", "Exp", "FusedConv", "Gemm", "InstanceNormalization",
    "LayerNormalization", "MatMul", "MaxPool", "ReduceMean", "Resize", "Sigmoid", "Softmax", "Sqrt",
})
# fmt: on
TF32_COST = (
    "on: factors of products are rounded to 10 bits, which costs the score a relative L2 error of 1.1e-3 "
    "to 5.4e-3, greatest at the least noise level (emulated)"
)


def provider_options(tf32: bool) -> dict[str, str]:
    """Return the provider's options. TF32, its own default, is on only where it is asked for."""
    return {"use_tf32": "1" if tf32 else "0"}


def check_options(session: Any, options: dict[str, str], path: Path) -> None:
    """Raise EngineIncompatibleError where a session does not run with the options that it was given."""
    got = session.get_provider_options().get(PROVIDER, {})
    wrong = {name: got[name] for name, value in options.items() if got.get(name, value) != value}
    if wrong:
        raise EngineIncompatibleError(
            f"{path}: ONNX Runtime runs with {wrong}, expected {options}: not run; choose another backend, "
            "or another version of onnxruntime-gpu"
        )


def nodes_on_cpu(session: Any, path: Path) -> str:
    """Return in words which of a session's nodes the provider left to the CPU.

    Those that compute shapes belong there. Each that an image goes through costs two copies of it a call.

    Raises:
        EngineIncompatibleError: an image would go through the CPU.
    """
    tell = getattr(session, "get_provider_graph_assignment_info", list)
    nodes = [(each.ep_name, node.op_type) for each in tell() for node in each.get_nodes()]
    if not nodes:
        return "not told by this version of ONNX Runtime"
    left = Counter(operator for provider, operator in nodes if provider != PROVIDER)
    if split := OF_IMAGES & left.keys():
        raise EngineIncompatibleError(
            f"{path}: ONNX Runtime's CUDA has no kernel for {_counted(left, sorted(split))} of the network, "
            "which would run on the CPU with copies around it: not run; choose another backend, or export the "
            "model with another --dtype"
        )
    return f"{left.total()} of {len(nodes)}: {_counted(left, sorted(left)) or 'none'}"


def _counted(counts: Counter[str], operators: list[str]) -> str:
    return ", ".join(f"{counts[each]} {each}" for each in operators)

"""ONNX Runtime's CUDA provider: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sbim_deploy.errors import EngineIncompatibleError

PROVIDER = "CUDAExecutionProvider"
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

"""From a PyTorch checkpoint to a model folder: the network, the checkpoint, the graphs, their parity."""

from __future__ import annotations

from typing import Any

__all__ = ["export_module"]


def __getattr__(name: str) -> Any:
    """Return ``export_module``, whose imports a user of the networks alone need not have."""
    if name != "export_module":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sbim_deploy.export.module import export_module

    return export_module

"""Score-based MRI reconstruction without PyTorch: export, validate, reconstruct.

Research use only: the images are not for diagnosis.

``load_model`` and ``SamplerChoice`` are what a program that embeds this needs: docs/embedding.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbim_deploy.recon.api import LoadedModel, load_model
    from sbim_deploy.recon.reconstruct import Reconstruction
    from sbim_deploy.samplers.choice import SamplerChoice

__all__ = ["LoadedModel", "Reconstruction", "SamplerChoice", "__version__", "load_model"]
__version__ = "0.1.0"

_HOMES = {
    "LoadedModel": "sbim_deploy.recon.api",
    "load_model": "sbim_deploy.recon.api",
    "Reconstruction": "sbim_deploy.recon.reconstruct",
    "SamplerChoice": "sbim_deploy.samplers.choice",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the package alone stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""Score-based MRI reconstruction without PyTorch: export, validate, reconstruct.

    from sbim_deploy import load_model

    model = load_model("demo", preset="fast")
    result = model.reconstruct(kspace)  # one slice, complex (coil, rows, columns)
    volume = model.reconstruct_volume("scan.h5")  # a file, or (slice, coil, rows, columns)

Research use only: the images are not for diagnosis. docs/embedding.md is the page of this API.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbim_deploy.errors import CancelledError, InputError, SbimDeployError
    from sbim_deploy.experiment.peers import Peer, register_method
    from sbim_deploy.recon.reconstruction import Reconstruction, Volume
    from sbim_deploy.runs.api import LoadedModel, load_model
    from sbim_deploy.samplers.choice import Prior, Sampler, SamplerChoice, register_sampler
    from sbim_deploy.samplers.plan import GuidedStep, Plan, ProximalStep

__all__ = [
    "CancelledError",
    "GuidedStep",
    "InputError",
    "LoadedModel",
    "Peer",
    "Plan",
    "Prior",
    "ProximalStep",
    "Reconstruction",
    "Sampler",
    "SamplerChoice",
    "SbimDeployError",
    "Volume",
    "__version__",
    "load_model",
    "register_method",
    "register_sampler",
]
__version__ = "0.1.0"

_HOMES = {
    "CancelledError": "sbim_deploy.errors",
    "GuidedStep": "sbim_deploy.samplers.plan",
    "InputError": "sbim_deploy.errors",
    "LoadedModel": "sbim_deploy.runs.api",
    "Peer": "sbim_deploy.experiment.peers",
    "Plan": "sbim_deploy.samplers.plan",
    "Prior": "sbim_deploy.samplers.choice",
    "ProximalStep": "sbim_deploy.samplers.plan",
    "Reconstruction": "sbim_deploy.recon.reconstruction",
    "Sampler": "sbim_deploy.samplers.choice",
    "SamplerChoice": "sbim_deploy.samplers.choice",
    "SbimDeployError": "sbim_deploy.errors",
    "Volume": "sbim_deploy.recon.reconstruction",
    "load_model": "sbim_deploy.runs.api",
    "register_method": "sbim_deploy.experiment.peers",
    "register_sampler": "sbim_deploy.samplers.choice",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the package alone stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names alone, those not imported yet too, for ``dir``, ``help`` and completion."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

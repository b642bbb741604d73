"""A model folder, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sbim_deploy.io.model_folder import (
    ModelManifest,
    NoiseLevels,
    SamplingDefaults,
    model_digest,
    read_manifest,
    verify_files,
)
from sbim_deploy.samplers.choice import Prior

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "assets" / "demo"


@dataclass(frozen=True)
class Model:
    """A model folder whose files are the ones that its manifest names."""

    folder: Path
    manifest: ModelManifest
    digest: str


def model_folder(name: str | Path) -> Path:
    """Return the folder that a name means: the word ``demo`` is the one that ships with the package."""
    return DEMO_FOLDER if str(name) == DEMO else Path(name)


def load_model(name: str | Path) -> Model:
    """Read and check a model folder.

    Raises:
        InputError: it is no model folder.
        ChecksumError: a file of it was changed.
    """
    folder = model_folder(name)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return Model(folder, manifest, model_digest(manifest))


def sampling_prior(manifest: ModelManifest) -> Prior:
    """Return what the samplers need to know of a model."""
    return prior_of(manifest.noise_levels, manifest.sampling)


def prior_of(levels: NoiseLevels, sampling: SamplingDefaults) -> Prior:
    """Return what the samplers need to know of a model's levels and its authors' settings."""
    return Prior(
        sigma_begin=levels.sigma_begin,
        sigma_end=levels.sigma_end,
        n_levels=levels.n_levels,
        step_lr=sampling.step_lr,
        n_steps_each=sampling.n_steps_each,
        data_weight=sampling.data_weight,
        start_level=sampling.start_level,
        vp_sigmas=levels.vp_sigmas,
    )

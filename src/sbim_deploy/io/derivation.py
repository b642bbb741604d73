"""How images came about, in the words that image formats have room for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sbim_deploy.errors import InputError
from sbim_deploy.io.json_object import format_object
from sbim_deploy.io.result_file import ResultFile

NOTICE = "research use only"


@dataclass(frozen=True)
class Derivation:
    """What made the images of a series.

    ``run_key`` is a hash of all that decides the images, ``input_key`` the k-space file's SHA-256.
    """

    software_version: str
    sampler: str
    n_calls: int
    samples: int
    model_name: str
    model_digest: str
    acceleration: float
    run_key: str
    input_key: str


def derivation_of(result: ResultFile) -> Derivation:
    """Read from a result's provenance how its images came about.

    Raises:
        InputError: the provenance lacks it.
    """
    provenance = result.provenance
    identity = format_object(dict(sorted(result.identity.items())))
    try:
        return Derivation(
            software_version=str(provenance["software"]["sbim-deploy"]),
            sampler=str(provenance["plan"]["sampler"]),
            n_calls=len(provenance["plan"]["rows"]),
            samples=result.samples,
            model_name=str(provenance["model"]["name"]),
            model_digest=str(provenance["model"]["digest"]),
            acceleration=float(provenance["measured"]["acceleration"]),
            run_key=hashlib.sha256(identity.encode()).hexdigest(),
            input_key=str(provenance["input"]["sha256"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{result.path}: attribute 'provenance' has no valid {error}, expected a result of recon; "
            "reconstruct again"
        ) from error


def derivation_steps(derivation: Derivation) -> list[str]:
    """Return what was done, step by step, each in a few words."""
    drawn = "" if derivation.samples == 1 else f", mean of {derivation.samples} samples"
    return [
        f"sbim-deploy {derivation.software_version}",
        f"score-based reconstruction: {derivation.sampler}, {derivation.n_calls} network calls{drawn}",
        f"model {derivation.model_name} {derivation.model_digest[:16]}",
        f"effective acceleration {derivation.acceleration:.2f}",
    ]

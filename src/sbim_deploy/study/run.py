"""A study from its files to its report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client

from sbim_deploy.errors import InputError
from sbim_deploy.recon.backends import is_served
from sbim_deploy.recon.model import load_model, sampling_prior
from sbim_deploy.recon.settings import ReconSettings
from sbim_deploy.samplers.choice import make_plan
from sbim_deploy.study.cluster import connected_cluster, embedded_cluster
from sbim_deploy.study.conduct import Conductor, Progress
from sbim_deploy.study.files import make_folder, study_files
from sbim_deploy.study.model_transport import refer_to
from sbim_deploy.study.report import StudyReport, write_report
from sbim_deploy.study.steps import Job

DEFAULT_THREADS = 1


@dataclass(frozen=True)
class StudySettings:
    """How to run a study.

    ``workers`` is the number of processes on this machine, None one for each core; ``scheduler`` the address
    of a Dask cluster that is used in their place. ``resources`` are what a worker of that cluster must offer
    to run the network, such as {"GPU": 1}.
    """

    recon: ReconSettings
    workers: int | None = None
    scheduler: str | None = None
    resources: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        """Check what goes together."""
        if self.recon.maps is not None:
            raise InputError(
                "--maps is of one file: reconstruct the files of a study without it, or one by one"
            )
        if self.workers is not None and self.scheduler is not None:
            raise InputError("--workers and --scheduler exclude each other: a cluster has its own workers")
        if self.resources and self.scheduler is None:
            raise InputError("--resources needs --scheduler: the workers of this machine all have the same")


def run_study(
    inputs: Sequence[Path], folder: Path, settings: StudySettings, progress: Progress
) -> StudyReport:
    """Reconstruct many files into a folder, and write ``study.json`` there, however it ends.

    A file that cannot be reconstructed is in the report, and does not stop the others.

    Raises:
        SbimDeployError: an input is named twice, the model or a setting is wrong, or the cluster cannot run.
    """
    started = time.perf_counter()
    files = study_files(inputs, folder)
    own_threads = None if is_served(settings.recon.backend) else DEFAULT_THREADS
    recon = replace(settings.recon, threads=settings.recon.threads or own_threads, resume=False)
    model = load_model(recon.model)
    make_plan(recon.choice, sampling_prior(model.manifest))  # what cannot be sampled is said before any work
    reference = refer_to(recon.model)
    job = Job(replace(recon, model=reference.path), reference)
    make_folder(folder)
    with _cluster(settings) as client:
        conductor = Conductor(client, job, model, settings.resources)
        try:
            conductor.run(files, settings.recon.resume, progress)
        finally:
            report = StudyReport(
                _described(settings, recon),
                {} if conductor.software is None else asdict(conductor.software),
                time.perf_counter() - started,
                conductor.records,
            )
            write_report(folder, report)
    return report


def _cluster(settings: StudySettings) -> AbstractContextManager[Client]:
    if settings.scheduler is not None:
        return connected_cluster(settings.scheduler)
    return embedded_cluster(settings.workers)


def _described(settings: StudySettings, recon: ReconSettings) -> dict[str, Any]:
    return {
        **asdict(replace(recon, model=str(recon.model))),
        "resume": settings.recon.resume,
        "workers": settings.workers,
        "scheduler": settings.scheduler,
        "resources": settings.resources and dict(settings.resources),
    }

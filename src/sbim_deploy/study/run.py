"""Runs a study from its files to its report: in this process, or on a cluster of its own or of others."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbim_deploy.errors import BackendMissingError, InputError, install_command
from sbim_deploy.io.locks import owning_folder
from sbim_deploy.models.backends import is_served
from sbim_deploy.models.folder import Model, load_model, sampling_prior
from sbim_deploy.runs.findings import model_warnings
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import make_plan
from sbim_deploy.study.alone import Alone
from sbim_deploy.study.files import (
    StudyReport,
    check_results_place,
    list_inputs,
    study_files,
    write_report,
)
from sbim_deploy.study.model_transport import refer_to
from sbim_deploy.study.steps import Job
from sbim_deploy.study.track import Progress

if TYPE_CHECKING:
    from sbim_deploy.study.conduct import Conductor

EXTRA = "cluster"
DEFAULT_THREADS = 1  # of each worker


@dataclass(frozen=True)
class StudySettings:
    """How to run a study.

    ``workers`` is the number of processes on this machine, None one for each core, or without Dask this
    process alone; ``scheduler`` the address of a Dask cluster that is used in their place. ``resources`` are
    what a worker of that cluster must offer to run the network, such as {"GPU": 1}.
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
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers is {self.workers}: expected at least 1")

    @property
    def runs_alone(self) -> bool:
        """Whether this process does all of it: Dask is not installed, and nothing asks for more processes."""
        one_process = self.scheduler is None and self.workers in (None, 1)
        return one_process and importlib.util.find_spec("distributed") is None


def run_study(
    inputs: Sequence[Path], folder: Path, settings: StudySettings, progress: Progress
) -> StudyReport:
    """Reconstruct many files into a folder, and write ``study.json`` there, however it ends.

    A file that cannot be reconstructed is in the report, and does not stop the others.

    Raises:
        SbimDeployError: an input is named twice, the model or a setting is wrong, or the cluster cannot run.
        BackendMissingError: several processes are asked for, and Dask is not installed.
    """
    started = time.perf_counter()
    found = list_inputs(inputs)
    for path, reason in found.left_out.items():
        progress.left_out(f"{path}: {reason}")
    files = study_files(found.paths, folder)
    own_threads = None if settings.runs_alone or is_served(settings.recon.backend) else DEFAULT_THREADS
    recon = replace(settings.recon, threads=settings.recon.threads or own_threads, resume=False)
    model = load_model(recon.model)
    make_plan(recon.choice, sampling_prior(model.manifest))  # refuses before any work what cannot be sampled
    reference = refer_to(recon.model)
    job = Job(replace(recon, model=reference.path), reference)
    with owning_folder(folder), _conductor(settings, job, model) as conductor:
        check_results_place(files, folder, settings.recon.resume, recon.force)
        try:
            conductor.run(files, settings.recon.resume, progress)
        finally:
            report = StudyReport(
                _described(settings, recon),
                {} if conductor.software is None else asdict(conductor.software),
                time.perf_counter() - started,
                conductor.records,
                model_warnings(model.manifest.training_data),
                found.left_out,
            )
            write_report(folder, report)
    return report


@contextmanager
def _conductor(settings: StudySettings, job: Job, model: Model) -> Iterator[Alone | Conductor]:
    """Yield what runs the files, with the processes that it needs."""
    if settings.runs_alone:
        yield Alone(job, model)
        return
    try:
        from sbim_deploy.study.cluster import connected_cluster, embedded_cluster
        from sbim_deploy.study.conduct import Conductor
    except ModuleNotFoundError as error:
        raise BackendMissingError(
            f"a study on several processes needs {error.name}, which is not installed: "
            f"{install_command(EXTRA)}; without --workers and --scheduler one process does it"
        ) from error
    address = settings.scheduler
    cluster = embedded_cluster(settings.workers) if address is None else connected_cluster(address)
    with cluster as client:
        yield Conductor(client, job, model, settings.resources)


def _described(settings: StudySettings, recon: ReconSettings) -> dict[str, Any]:
    return {
        **asdict(replace(recon, model=str(recon.model))),
        "resume": settings.recon.resume,
        "workers": settings.workers,
        "scheduler": settings.scheduler,
        "resources": settings.resources and dict(settings.resources),
    }

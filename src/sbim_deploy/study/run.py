"""Runs a study from its files to its report, on a cluster of its own or on one that is there already."""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, Security

from sbim_deploy.errors import InputError
from sbim_deploy.io.locks import owning_folder
from sbim_deploy.models.backends import is_served
from sbim_deploy.models.folder import load_model, sampling_prior
from sbim_deploy.runs.findings import model_warnings
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import make_plan
from sbim_deploy.study.conduct import Conductor, Progress
from sbim_deploy.study.files import (
    StudyReport,
    check_results_place,
    list_inputs,
    study_files,
    write_report,
)
from sbim_deploy.study.model_transport import refer_to
from sbim_deploy.study.steps import Job

LOOPBACK = "127.0.0.1"
CONNECT_TIMEOUT_S = 30
EMBEDDED = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.system-monitor.gil.enabled": False,
}

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
    found = list_inputs(inputs)
    for path, reason in found.left_out.items():
        progress.left_out(f"{path}: {reason}")
    files = study_files(found.paths, folder)
    own_threads = None if is_served(settings.recon.backend) else DEFAULT_THREADS
    recon = replace(settings.recon, threads=settings.recon.threads or own_threads, resume=False)
    model = load_model(recon.model)
    make_plan(recon.choice, sampling_prior(model.manifest))  # refuses before any work what cannot be sampled
    reference = refer_to(recon.model)
    job = Job(replace(recon, model=reference.path), reference)
    with owning_folder(folder), _cluster(settings) as client:
        check_results_place(files, folder, settings.recon.resume, recon.force)
        conductor = Conductor(client, job, model, settings.resources)
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
def embedded_cluster(n_workers: int | None = None) -> Iterator[Client]:
    """Start worker processes of one thread each on this machine; they end with this process, however it ends.

    They listen on the loopback interface alone, by TLS with a key made for this run: whoever can talk to a
    Dask scheduler can run code, and a machine may have other users. None for
    ``n_workers`` is one for each core.

    Raises:
        InputError: less than one worker.
    """
    if n_workers is None:
        n_workers = int(dask.system.CPU_COUNT)
    if n_workers < 1:
        raise InputError(f"workers is {n_workers}: expected at least 1")
    security = Security.temporary()
    with (
        tempfile.TemporaryDirectory(prefix="sbim-deploy-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(EMBEDDED),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            worker_dashboard_address=f"{LOOPBACK}:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,  # Dask would pause a worker for good whose engine fills its memory
            local_directory=scratch,
            security=security,
            preload=[__name__],
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, security=security) as client,
    ):
        yield client


@contextmanager
def connected_cluster(address: str) -> Iterator[Client]:
    """Connect to a Dask scheduler, by an address such as tcp://host:8786 or tls://host:8786.

    Raises:
        InputError: there is no scheduler that answers.
    """
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers ({reason}); check the address, and for tls:// "
            "Dask's certificates"
        ) from error
    with client:
        yield client


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the client, which stops its workers; Dask calls this in each when it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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

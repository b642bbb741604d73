"""The processes of a study: a Dask cluster of its own on this machine, or one that is there already."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster, Security

from sbim_deploy.errors import InputError

LOOPBACK = "127.0.0.1"
CONNECT_TIMEOUT_S = 30
EMBEDDED = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.admin.system-monitor.gil.enabled": False,
}


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

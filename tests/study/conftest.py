"""Small scans, what one process makes of them, and a cluster of two processes that the tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.simulate import SimulateSettings, simulate_file


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """A folder of three small scans; not to be changed."""
    folder = tmp_path_factory.mktemp("scans")
    for seed in range(3):
        simulate_file(folder / f"scan{seed}.h5", SimulateSettings(3, 4, 64, 2.0, seed=seed))
    return folder


@pytest.fixture(scope="session")
def alone(scans, tmp_path_factory) -> dict[str, np.ndarray]:
    """The images of the scans from one process."""
    from tiny_study import FAST, images

    folder = tmp_path_factory.mktemp("alone")
    made = {}
    for path in sorted(scans.iterdir()):
        reconstruct_file(path, folder / path.name, FAST)
        made[path.name] = images(folder / path.name)
    return made


@pytest.fixture(scope="session")
def client(tmp_path_factory) -> Iterator[object]:
    """A cluster of two processes, whose model cache is a folder of its own."""
    from sbim_deploy.study.cluster import embedded_cluster

    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    try:
        with embedded_cluster(2) as client:
            yield client
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before

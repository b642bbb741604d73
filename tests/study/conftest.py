"""Small studies and a cluster of two processes that the tests share."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.io.result_file import open_result
from sbim_deploy.recon.model import load_model
from sbim_deploy.recon.settings import ReconSettings
from sbim_deploy.recon.simulate import SimulateSettings, simulate_file
from sbim_deploy.recon.volume import reconstruct_file
from sbim_deploy.samplers.choice import SamplerChoice

pytest.importorskip("distributed", reason='needs "sbim-deploy[cluster]"')

from sbim_deploy.study.cluster import embedded_cluster
from sbim_deploy.study.conduct import Conductor
from sbim_deploy.study.model_transport import refer_to
from sbim_deploy.study.steps import Job

# Three slices in batches of two: the last batch is smaller, and a resumed one must not be.
FAST = ReconSettings(choice=SamplerChoice(steps=2), backend="onnxruntime", threads=1, batch=2)
JOB = Job(FAST, refer_to("demo"))


class Heard:
    """A progress that keeps what it hears."""

    def __init__(self):
        self.records, self.fractions, self.engine = [], [], None

    def waiting(self, what):
        raise AssertionError(what)

    def started(self, n_files, n_workers, engine):
        self.engine = dict(engine)

    def advanced(self, n_files):
        self.fractions.append(n_files)

    def ended(self, record):
        self.records.append(record)


def images(path: Path) -> np.ndarray:
    with open_result(path) as result:
        return np.stack([result.read_image(i) for i in range(result.n_slices)])


def conduct(client, files, resume=False, job=JOB, progress=None):
    conductor = Conductor(client, job, load_model("demo"))
    conductor.run(files, resume, progress or Heard())
    return conductor.records


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
    folder = tmp_path_factory.mktemp("alone")
    made = {}
    for path in sorted(scans.iterdir()):
        reconstruct_file(path, folder / path.name, replace(FAST))
        made[path.name] = images(folder / path.name)
    return made


@pytest.fixture(scope="session")
def client(tmp_path_factory) -> Iterator[object]:
    """A cluster of two processes, whose model cache is a folder of its own."""
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

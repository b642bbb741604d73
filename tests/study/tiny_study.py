"""What the tests of studies share: settings, a listener, and a conductor in one call."""

from pathlib import Path

import numpy as np

from sbim_deploy.models.folder import load_model
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.study.conduct import Conductor
from sbim_deploy.study.model_transport import refer_to
from sbim_deploy.study.steps import Job

# Three slices in batches of two: the last batch is smaller, and a resumed one must not be.
FAST = ReconSettings(choice=SamplerChoice(steps=2), backend="onnxruntime", threads=1, batch=2)
JOB = Job(FAST, refer_to("demo"))


class Heard:
    """A progress that keeps what it hears."""

    def __init__(self):
        self.records, self.fractions, self.engine, self.without = [], [], None, []

    def left_out(self, why):
        self.without.append(why)

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


def left_behind(folder):
    return [path.name for path in folder.rglob("*") if path.name.startswith(".")]

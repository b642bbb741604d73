"""A whole study on a cluster that somebody else has started."""

import json
from dataclasses import replace

import numpy as np
import pytest
from distributed import LocalCluster
from tiny_study import FAST, Heard, images

from sbim_deploy.errors import InputError
from sbim_deploy.study import conduct
from sbim_deploy.study.run import StudySettings, run_study


@pytest.fixture
def other_cluster():
    """A cluster with a worker that says it has a GPU, in this process."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        resources={"GPU": 1},
    ) as cluster:
        yield cluster.scheduler_address


def test_a_study_runs_on_the_workers_that_offer_a_resource(other_cluster, scans, alone, tmp_path):
    settings = StudySettings(FAST, scheduler=other_cluster, resources={"GPU": 1})
    report = run_study([scans], tmp_path / "new" / "out", settings, Heard())
    assert report.counts == {"done": 3, "kept": 0, "failed": 0, "pending": 0}
    for name, expected in alone.items():
        np.testing.assert_array_equal(images(tmp_path / "new" / "out" / name), expected)
    written = json.loads((tmp_path / "new" / "out" / "study.json").read_text())
    assert written["settings"]["resources"] == {"GPU": 1}
    assert written["counts"] == report.counts
    assert written["software"]["versions"]["numpy"] == np.__version__
    assert written["notice"] == "Research use only. Not for diagnosis."


def test_a_resource_that_nobody_offers_is_waited_for_and_that_is_said(
    other_cluster, scans, tmp_path, monkeypatch
):
    class Impatient(Heard):
        def waiting(self, what):
            assert what == "1 workers are connected, with TPU=4 wanted"
            raise KeyboardInterrupt

    monkeypatch.setattr(conduct, "WAIT_UNTIL_SAID_S", 0.3)
    settings = StudySettings(FAST, scheduler=other_cluster, resources={"TPU": 4})
    with pytest.raises(KeyboardInterrupt):
        run_study([scans], tmp_path, settings, Impatient())
    assert json.loads((tmp_path / "study.json").read_text())["counts"]["pending"] == 3


def test_a_folder_that_cannot_be_made_is_refused(scans, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        run_study([scans], tmp_path / "file" / "out", StudySettings(FAST), Heard())


def test_a_study_has_one_engine_thread_unless_it_is_told_otherwise(other_cluster, scans, tmp_path):
    settings = StudySettings(replace(FAST, threads=None), scheduler=other_cluster)
    report = run_study([scans / "scan0.h5"], tmp_path, settings, Heard())
    assert report.settings["threads"] == 1

"""A study in one process, without Dask: the same images, results and report."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_study import FAST, JOB, Heard, conduct, images, left_behind

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.models.folder import load_model
from sbim_deploy.results.result_file import open_result
from sbim_deploy.study import alone as alone_module
from sbim_deploy.study import steps
from sbim_deploy.study.alone import Alone
from sbim_deploy.study.files import study_files
from sbim_deploy.study.run import StudySettings, run_study


def run_alone(files, resume=False, progress=None):
    runner = Alone(JOB, load_model("demo"))
    runner.run(files, resume, progress or Heard())
    return runner.records


@pytest.fixture
def without_dask(monkeypatch):
    """Dask as if it were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "distributed" else found(name)
    )


def test_the_images_are_those_of_one_file_after_another(scans, alone, tmp_path):
    heard = Heard()
    records = run_alone(study_files([scans], tmp_path), progress=heard)
    assert [record.state for record in records] == ["done"] * 3
    for name, expected in alone.items():
        np.testing.assert_array_equal(images(tmp_path / name), expected)
    assert heard.records == records
    assert heard.fractions == sorted(heard.fractions)
    assert heard.fractions[-1] == 3
    assert len(heard.fractions) > 6  # batches count too
    assert left_behind(tmp_path) == []


def test_the_report_is_that_of_a_cluster_but_for_names_and_times(without_dask, scans, tmp_path):
    report = run_study([scans], tmp_path / "out", StudySettings(FAST), Heard())
    assert report.counts == {"done": 3, "kept": 0, "failed": 0, "pending": 0}
    written = json.loads((tmp_path / "out" / "study.json").read_text())
    assert written["software"]["engine"]["backend"] == "onnxruntime"
    (worker,) = {name for record in written["files"] for name in record["workers"]}
    assert worker == steps.worker_name()
    with open_result(tmp_path / "out" / "scan0.h5") as result:
        assert result.provenance.workers == (worker,)


def test_a_file_that_fails_does_not_stop_the_others(scans, tmp_path):
    shutil.copytree(scans, tmp_path / "in")
    (tmp_path / "in" / "scan1.h5").write_bytes((scans / "scan1.h5").read_bytes()[:20_000])
    records = run_alone(study_files([tmp_path / "in"], tmp_path / "out"))
    assert [record.state for record in records] == ["done", "failed", "done"]
    assert "truncated" in records[1].error


def test_an_error_that_nobody_has_foreseen_does_not_stop_the_others(scans, tmp_path, monkeypatch):
    surveyed = steps.survey

    def survey(job, model, file, resume):
        if file.name == "scan0.h5":
            raise MemoryError("no\nmore")
        return surveyed(job, model, file, resume)

    monkeypatch.setattr(alone_module.steps, "survey", survey)
    records = run_alone(study_files([scans], tmp_path))
    assert [record.state for record in records] == ["failed", "done", "done"]
    assert records[0].error == f"{scans / 'scan0.h5'}: MemoryError: no more"


def test_what_was_stopped_goes_on_alone_and_on_a_cluster(client, scans, alone, tmp_path):
    class Stopping(Heard):
        def advanced(self, n_files):
            raise KeyboardInterrupt

    files = study_files([scans], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_alone(files, progress=Stopping())
    assert left_behind(tmp_path)
    made = []
    reconstructed = steps.reconstruct_batch

    def reconstruct(job, file, run, indices, volume):
        made.append(indices)
        return reconstructed(job, file, run, indices, volume)

    with pytest.MonkeyPatch.context() as patch:  # which workers must not get
        patch.setattr(alone_module.steps, "reconstruct_batch", reconstruct)
        assert run_alone(files[:1], resume=True)[0].state == "done"
    assert made == [(2,)]
    states = [record.state for record in conduct(client, files, resume=True)]
    assert states == ["kept", "done", "done"]
    for name, expected in alone.items():
        np.testing.assert_array_equal(images(tmp_path / name), expected)


def test_several_processes_without_dask_are_refused_before_any_work(scans, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    for name in ("sbim_deploy.study.cluster", "sbim_deploy.study.conduct"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    settings = StudySettings(FAST, workers=2)
    assert not settings.runs_alone
    with pytest.raises(
        BackendMissingError, match=r"several processes needs distributed.*one process does it"
    ):
        run_study([scans], tmp_path / "out", settings, Heard())
    assert not list(tmp_path.glob("out/*.h5"))


@pytest.mark.parametrize(("workers", "is_alone"), [(None, True), (1, True), (2, False)])
def test_one_process_is_taken_where_no_more_are_asked_for(without_dask, workers, is_alone):
    assert StudySettings(FAST, workers=workers).runs_alone == is_alone


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs sbim-deploy[cluster]")
def test_with_dask_a_study_has_processes_of_its_own():
    assert not StudySettings(FAST).runs_alone


def test_no_engine_is_an_error_of_the_study(scans, tmp_path):
    job = replace(JOB, settings=replace(FAST, backend="triton://127.0.0.1:1"))
    with pytest.raises((InputError, BackendMissingError)):
        Alone(job, load_model("demo")).run(study_files([scans], tmp_path), False, Heard())

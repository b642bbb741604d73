"""The tasks of a study, in this process: they need no cluster."""

from dataclasses import replace

import numpy as np
from tiny_study import JOB, images, left_behind

from sbim_deploy.models.folder import load_model
from sbim_deploy.results.partial import (
    begin_run,
    count_finished,
    partial_folder,
    slice_path,
)
from sbim_deploy.study import steps
from sbim_deploy.study.files import study_files


def test_slices_of_a_lost_worker_do_not_get_into_another_run(scans, tmp_path):
    """Run in this process: the tasks need no cluster."""
    model = load_model("demo")
    job = replace(JOB, software=steps.tell_software(JOB))
    (file,) = study_files([scans / "scan0.h5"], tmp_path)
    surveyed = steps.survey(job, model, file, resume=False)
    assert surveyed.batches == ((0, 1), (2,))
    begin_run(file.output, {"another": "run"})
    late = steps.reconstruct_batch(job, file, surveyed.run, surveyed.batches[0])
    assert "belongs to another run" in late.message
    assert count_finished(file.output) == 0
    assert [path.name for path in partial_folder(file.output).iterdir()] == ["run.json"]


def test_every_task_may_be_done_twice(scans, alone, tmp_path):
    """A worker may die after a step and before its answer: Dask does the step again."""
    model = load_model("demo")
    job = replace(JOB, software=steps.tell_software(JOB))
    (file,) = study_files([scans / "scan0.h5"], tmp_path)
    first, again = (steps.survey(job, model, file, resume=False) for _ in range(2))
    assert first == again
    done = [steps.reconstruct_batch(job, file, first.run, batch) for batch in first.batches for _ in range(2)]
    assert [each.n_made for each in done] == [2, 0, 1, 0]
    written = slice_path(file.output, 0).stat().st_mtime_ns
    assert steps.survey(job, model, file, resume=False).batches == ()
    assert slice_path(file.output, 0).stat().st_mtime_ns == written
    answers = [steps.finish(job, model, file, first, {}, ()) for _ in range(2)]
    assert all(isinstance(answer, steps.Finished) for answer in answers)
    np.testing.assert_array_equal(images(file.output), alone["scan0.h5"])
    assert left_behind(tmp_path) == []


def test_a_worker_with_other_versions_is_refused(scans, tmp_path):
    software = steps.tell_software(JOB)
    other = replace(software, versions={**software.versions, "numpy": "1.0"})
    steps._KEPT.clear()
    (file,) = study_files([scans / "scan0.h5"], tmp_path)
    answer = steps.reconstruct_batch(replace(JOB, software=other), file, "run", (0,))
    assert f"has numpy {np.__version__}, expected 1.0" in answer.message

"""Studies on a cluster of two processes, against one process."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from distributed.scheduler import KilledWorker
from tiny_study import FAST, JOB, Heard, conduct, images, left_behind

from bfloat16_processor import needs_bfloat16
from sbim_deploy.errors import InputError
from sbim_deploy.io.locks import owning_file
from sbim_deploy.results.partial import (
    FinishedSlice,
    begin_run,
    count_finished,
    save_slice,
)
from sbim_deploy.results.result_file import open_result
from sbim_deploy.study import conduct as conductor
from sbim_deploy.study import steps
from sbim_deploy.study.conduct import Task
from sbim_deploy.study.files import StudyFile, study_files
from sbim_deploy.study.track import Track


def test_a_study_is_what_one_process_makes_of_its_files_to_the_bit(client, scans, alone, tmp_path):
    heard = Heard()
    records = conduct(client, study_files([scans], tmp_path), progress=heard)
    assert [(record.state, record.slices, record.slices_made) for record in records] == [("done", 3, 3)] * 3
    for name, expected in alone.items():
        np.testing.assert_array_equal(images(tmp_path / name), expected)
    assert left_behind(tmp_path) == []
    assert heard.engine["backend"] == "onnxruntime"
    assert heard.fractions == sorted(heard.fractions)
    assert heard.fractions[-1] == 3
    with open_result(tmp_path / "scan0.h5") as result:
        provenance = result.provenance
    assert provenance.timings_s.slices == 3
    assert provenance.timings_s.sampling > 0
    assert provenance.workers
    assert all(int(worker.rpartition(":")[2]) != os.getpid() for worker in provenance.workers)


@needs_bfloat16
@pytest.mark.parametrize(("precision", "backend"), [("bf16", "openvino-bf16"), ("fp32", "openvino")])
def test_a_study_computes_in_the_precision_that_was_asked_for(client, scans, tmp_path, precision, backend):
    job = replace(JOB, settings=replace(FAST, backend="openvino", precision=precision, slices=(0, 1)))
    heard = Heard()
    (record,) = conduct(client, study_files([scans / "scan0.h5"], tmp_path), job=job, progress=heard)
    assert (record.state, record.error) == ("done", None)
    assert heard.engine["backend"] == backend
    with open_result(tmp_path / "scan0.h5") as result:
        assert result.provenance.backend == backend
        assert result.provenance.engine["backend"] == backend


def test_bad_files_do_not_stop_the_others(client, scans, alone, tmp_path):
    bad, out = tmp_path / "bad", tmp_path / "out"
    bad.mkdir()
    whole = (scans / "scan0.h5").read_bytes()
    (bad / "truncated.h5").write_bytes(whole[:20_000])
    # In a folder it would be left out: it holds no k-space.
    empty = tmp_path / "empty.h5"
    for path in (empty, bad / "no_calibration.h5"):
        path.write_bytes(whole)
    with h5py.File(empty, "a") as file:
        del file["kspace"]
    with h5py.File(bad / "no_calibration.h5", "a") as file:
        file["mask"][:] = np.arange(64) % 4 == 1
    inputs = [empty, bad, bad / "missing.h5", scans / "scan1.h5"]
    heard = Heard()
    records = conduct(client, study_files(inputs, out), progress=heard)
    assert [(record.name, record.state) for record in records] == [
        ("empty.h5", "failed"),
        ("no_calibration.h5", "failed"),
        ("truncated.h5", "failed"),
        ("missing.h5", "failed"),
        ("scan1.h5", "done"),
    ]
    words = ("no dataset 'kspace'", "calibration lines", "truncated", "no such file")
    for record, word in zip(records, words, strict=False):
        assert word in record.error
        assert "\n" not in record.error
        assert record.error_kind == "InputError"
    assert len(heard.records) == 5
    np.testing.assert_array_equal(images(out / "scan1.h5"), alone["scan1.h5"])


def test_what_is_whole_is_kept_and_a_half_done_batch_is_completed_to_the_bit(client, scans, alone, tmp_path):
    files = study_files([scans], tmp_path)
    conduct(client, files)
    made = {file.name: file.output.stat().st_mtime_ns for file in files}
    # Take scan1 back to where a kill between the two slices of its first batch would have left it.
    stopped = files[1].output
    begin_again_without(stopped, {0, 2}, alone["scan1.h5"])
    assert count_finished(stopped) == 1
    records = conduct(client, files, resume=True)
    assert [(record.state, record.slices_made) for record in records] == [
        ("kept", 0),
        ("done", 2),
        ("kept", 0),
    ]
    np.testing.assert_array_equal(images(stopped), alone["scan1.h5"])
    assert files[0].output.stat().st_mtime_ns == made["scan0.h5"]
    assert left_behind(tmp_path) == []


def begin_again_without(output, missing, expected):
    """Put a result's slices back into the folder of a run that was stopped, but for the missing ones."""
    with open_result(output) as result:
        run = begin_run(output, result.identity)
        for place in set(range(3)) - missing:
            finished = FinishedSlice(
                expected[place], result.read_zero_filled(place), result.residual[place], None
            )
            save_slice(output, place, finished, run)
    output.unlink()


def test_a_forced_study_starts_over(client, scans, alone, tmp_path):
    files = study_files([scans / "scan0.h5"], tmp_path)
    conduct(client, files)
    before = files[0].output.stat().st_mtime_ns
    (record,) = conduct(client, files)
    assert record.state == "failed"
    assert "is there already" in record.error
    assert files[0].output.stat().st_mtime_ns == before
    forced = replace(JOB, settings=replace(FAST, force=True))
    assert [record.state for record in conduct(client, files, job=forced)] == ["done"]
    assert files[0].output.stat().st_mtime_ns != before


def test_a_file_that_another_run_writes_is_left_to_it(client, scans, tmp_path):
    files = study_files([scans / "scan0.h5", scans / "scan1.h5"], tmp_path)
    with owning_file(files[0].output):
        first, second = conduct(client, files)
    assert (first.state, second.state) == ("failed", "done")
    assert "is being written by another run" in first.error
    assert left_behind(tmp_path) == []


def test_a_run_with_other_settings_is_not_resumed(client, scans, tmp_path):
    files = study_files([scans / "scan0.h5"], tmp_path)
    conduct(client, files)
    other = replace(JOB, settings=replace(FAST, seed=1))
    (record,) = conduct(client, files, resume=True, job=other)
    assert record.state == "failed"
    assert "differs in seed (got 1, expected 0)" in record.error


def test_a_backend_that_no_worker_has_ends_the_study_before_its_files(client, scans, tmp_path):
    job = replace(JOB, settings=replace(FAST, backend="tpu"))
    with pytest.raises(InputError, match="unknown backend 'tpu'"):
        conduct(client, study_files([scans], tmp_path), job=job)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_kills_its_workers_is_one_line():
    died = KilledWorker("batch", SimpleNamespace(name="w7"), 3)
    track = Track(0, StudyFile("a.h5", Path("/in/a.h5"), Path("/out/a.h5")), 0.0)
    failure = conductor._failure(Task(track, steps.reconstruct_batch, ()), died)
    assert failure.message.startswith("/in/a.h5: worker w7 and others before it died at reconstruct_batch; ")
    assert failure.kind == "KilledWorker"

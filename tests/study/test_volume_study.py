"""Studies of 3-D scans, and of samples along a trajectory: what one process makes of each file alone."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from tiny_study import FAST, JOB, conduct, images, left_behind

from sbim_deploy.kspace.stack import StackKspace
from sbim_deploy.kspace.volume import VolumeKspace
from sbim_deploy.models.folder import load_model
from sbim_deploy.results.partial import begin_run, partial_folder, slice_path
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.simulate import SimulateSettings
from sbim_deploy.runs.simulate_mrd import simulate_mrd
from sbim_deploy.study import steps
from sbim_deploy.study.files import study_files
from simulated_mrd import write_mrd
from stack_scans import make_stack, stack_scan
from volume_scans import make_volume, plane_mask, write_h5_volume, write_mrd_volume

SHAPE = (16, 32, 24)
VOLUME = replace(FAST, dimensions=3, slices=(14, 19))  # in batches of two, as FAST says


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A folder of two 3-D scans, one with a calibration scan of its own; not to be changed."""
    folder = tmp_path_factory.mktemp("volumes")
    scan, mask = make_volume(SHAPE), plane_mask(SHAPE, block=8)
    write_h5_volume(folder / "plain.h5", scan.kspace * mask[:, None, :])
    block = np.zeros_like(mask)
    block[5:11, 8:16] = True
    write_mrd_volume(folder / "separate.h5", scan, plane_mask(SHAPE, block=0), calibration=block, n_noise=2)
    return folder


@pytest.fixture(scope="module")
def alone_volumes(volumes, tmp_path_factory):
    """The images of each from ``recon``, and the notes of their slices."""
    folder = tmp_path_factory.mktemp("alone")
    made = {}
    for path in sorted(volumes.iterdir()):
        reconstruct_file(path, folder / path.name, VOLUME)
        made[path.name] = images(folder / path.name), notes_of(folder / path.name)
    return made


def notes_of(path):
    with open_result(path) as result:
        return result.provenance.slice_notes


def in_one_process(settings):
    job = replace(JOB, settings=settings)
    return load_model("demo"), replace(job, software=steps.tell_software(job))


def test_a_cluster_makes_of_volumes_what_recon_makes_to_the_bit(client, volumes, alone_volumes, tmp_path):
    records = conduct(client, study_files([volumes], tmp_path), job=replace(JOB, settings=VOLUME))
    assert [(record.state, record.slices) for record in records] == [("done", 5)] * 2, records
    for name, (expected, notes) in alone_volumes.items():
        np.testing.assert_array_equal(images(tmp_path / name), expected)
        assert notes_of(tmp_path / name) == notes
    assert left_behind(tmp_path) == []


def test_a_volume_is_transformed_once_and_what_it_shares_is_found_once(
    volumes, alone_volumes, tmp_path, monkeypatch
):
    transformed, surveyed = [], []
    transform, survey = VolumeKspace._transformed, steps.survey_slices

    def counted(self, *args):
        transformed.append(self.path.name)
        return transform(self, *args)

    def once(scan, tally):
        surveyed.append(scan.kspace.path.name)
        return survey(scan, tally)

    monkeypatch.setattr(VolumeKspace, "_transformed", counted)
    monkeypatch.setattr(steps, "survey_slices", once)
    monkeypatch.setattr("sbim_deploy.runs.scan.survey_volume", _only(1, "sbim_deploy.runs.scan"))
    model, job = in_one_process(VOLUME)
    (file,) = study_files([volumes / "separate.h5"], tmp_path)
    found = steps.survey(job, model, file, resume=False)
    assert found.volume is not None
    stores = sorted(path.stat().st_size for path in partial_folder(file.output).glob("*.store"))
    assert stores == [32 * n * 4 * 24 * 8 for n in (6, 8)]  # slices, partitions, coils, lines, bytes
    shared = pickle.loads(pickle.dumps(found.volume))  # as it reaches other processes
    for batch in found.batches:
        answer = steps.reconstruct_batch(job, file, found.run, batch, shared)
        assert isinstance(answer, steps.BatchDone), answer
    assert transformed == ["separate.h5"] * 2
    assert surveyed == ["separate.h5"]
    finished = steps.finish(job, model, file, found, {}, ())
    assert isinstance(finished, steps.Finished), finished
    np.testing.assert_array_equal(images(file.output), alone_volumes["separate.h5"][0])
    assert left_behind(tmp_path) == []


def _only(times, module):
    """Return ``survey_volume``, to be called so often at most."""
    survey = __import__(module, fromlist=["survey_volume"]).survey_volume
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        assert len(calls) <= times
        return survey(*args, **kwargs)

    return counted


def test_a_store_that_is_lost_is_made_again(volumes, alone_volumes, tmp_path):
    model, job = in_one_process(VOLUME)
    (file,) = study_files([volumes / "plain.h5"], tmp_path)
    found = steps.survey(job, model, file, resume=False)
    for path in partial_folder(file.output).glob("*.store"):
        path.unlink()
    for batch in found.batches:
        assert isinstance(steps.reconstruct_batch(job, file, found.run, batch, found.volume), steps.BatchDone)
    steps.finish(job, model, file, found, {}, ())
    np.testing.assert_array_equal(images(file.output), alone_volumes["plain.h5"][0])


def test_a_lost_worker_puts_no_store_beside_another_run(volumes, tmp_path):
    model, job = in_one_process(VOLUME)
    (file,) = study_files([volumes / "plain.h5"], tmp_path)
    found = steps.survey(job, model, file, resume=False)
    begin_run(file.output, {"another": "run"})
    late = steps.reconstruct_batch(job, file, found.run, found.batches[0], found.volume)
    assert "belongs to another run" in late.message
    assert [path.name for path in partial_folder(file.output).iterdir()] == ["run.json"]


def test_a_scan_along_a_trajectory_runs_on_the_graph_that_takes_it_as_recon_does(tmp_path):
    pytest.importorskip("finufft")
    path = tmp_path / "golden.h5"
    simulate_mrd(path, SimulateSettings(1, 4, 32, 2.0, trajectory="golden"))
    reconstruct_file(path, tmp_path / "alone.h5", FAST)
    model, job = in_one_process(FAST)
    (file,) = study_files([path], tmp_path / "out")
    file.output.parent.mkdir()
    found = steps.survey(job, model, file, resume=False)
    assert isinstance(found, steps.Surveyed), found
    for batch in found.batches:
        answer = steps.reconstruct_batch(job, file, found.run, batch, found.volume)
        assert isinstance(answer, steps.BatchDone), answer
    assert isinstance(steps.finish(job, model, file, found, {}, ()), steps.Finished)
    np.testing.assert_array_equal(images(file.output), images(tmp_path / "alone.h5"))
    with open_result(file.output) as ours, open_result(tmp_path / "alone.h5") as alone:
        assert ours.identity == alone.identity


def test_slices_together_are_one_task_of_a_study_which_makes_what_recon_makes_to_the_bit(volumes, tmp_path):
    settings = replace(FAST, dimensions=3, through_plane=True)
    reconstruct_file(volumes / "plain.h5", tmp_path / "alone.h5", settings)
    model, job = in_one_process(settings)
    (file,) = study_files([volumes / "plain.h5"], tmp_path / "out")
    file.output.parent.mkdir()
    found = steps.survey(job, model, file, resume=False)
    assert found.batches == (tuple(range(32)),)
    made = steps.reconstruct_batch(job, file, found.run, found.batches[0], found.volume)
    assert isinstance(made, steps.BatchDone), made
    assert made.n_made == 32
    slice_path(file.output, 5).unlink()
    found = steps.survey(job, model, file, resume=True)
    assert found.n_done == 31
    made = steps.reconstruct_batch(job, file, found.run, found.batches[0], found.volume)
    assert made.n_made == 1
    finished = steps.finish(job, model, file, found, {}, ())
    assert isinstance(finished, steps.Finished), finished
    np.testing.assert_array_equal(images(file.output), images(tmp_path / "alone.h5"))
    assert left_behind(tmp_path / "out") == []


def test_a_stack_of_stars_is_transformed_once_for_all_workers(tmp_path, monkeypatch):
    pytest.importorskip("finufft")
    transformed, transform = [], StackKspace._transformed
    path = write_mrd(tmp_path / "stack.h5", stack_scan(make_stack((5, 32, 24), n_readouts=20)))
    settings = replace(FAST, dimensions=3)
    reconstruct_file(path, tmp_path / "alone.h5", settings)

    def counted(self, *args):
        transformed.append(self.path.name)
        return transform(self, *args)

    monkeypatch.setattr(StackKspace, "_transformed", counted)
    model, job = in_one_process(settings)
    (file,) = study_files([path], tmp_path / "out")
    file.output.parent.mkdir()
    found = steps.survey(job, model, file, resume=False)
    assert isinstance(found, steps.Surveyed), found
    for batch in found.batches:
        answer = steps.reconstruct_batch(job, file, found.run, batch, found.volume)
        assert isinstance(answer, steps.BatchDone), answer
    assert isinstance(steps.finish(job, model, file, found, {}, ()), steps.Finished)
    assert transformed == ["stack.h5"]
    np.testing.assert_array_equal(images(file.output), images(tmp_path / "alone.h5"))
    assert left_behind(tmp_path / "out") == []

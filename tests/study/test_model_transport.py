"""A model on its way to the workers of a study."""

import shutil
from dataclasses import replace

import numpy as np
from tiny_study import FAST, JOB, conduct, images

from sbim_deploy.models.folder import DEMO_FOLDER, load_model
from sbim_deploy.study.files import study_files
from sbim_deploy.study.model_transport import ModelReference, cache_folder


def test_a_model_that_the_workers_cannot_see_is_sent_and_kept_by_its_hash(client, scans, alone, tmp_path):
    nowhere = ModelReference("/nowhere", JOB.model.key)
    settings = replace(FAST, model="/nowhere")
    files = study_files([scans], tmp_path)
    records = conduct(client, files, job=replace(JOB, settings=settings, model=nowhere))
    assert [record.state for record in records] == ["done"] * 3
    np.testing.assert_array_equal(images(tmp_path / "scan2.h5"), alone["scan2.h5"])
    kept = list(cache_folder().iterdir())
    assert [path.name for path in kept] == [JOB.model.key]
    assert load_model(kept[0]).digest == load_model("demo").digest


def test_a_damaged_model_in_the_cache_is_fetched_again(client, scans, tmp_path):
    damaged = cache_folder() / JOB.model.key
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(DEMO_FOLDER, damaged)
    with (damaged / "weights.bin").open("r+b") as file:
        file.write(b"x")
    # Other settings, for which the workers keep no reconstructor yet.
    settings = replace(FAST, model="/nowhere", seed=7)
    files = study_files([scans / "scan0.h5"], tmp_path)
    job = replace(JOB, settings=settings, model=ModelReference("/nowhere", JOB.model.key))
    assert [record.state for record in conduct(client, files, job=job)] == ["done"]
    assert load_model(damaged).digest == load_model("demo").digest

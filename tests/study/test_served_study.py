"""A study whose workers ask a Triton server."""

import numpy as np
import pytest
from tiny_study import Heard, images

from sbim_deploy.models.folder import load_model
from sbim_deploy.models.triton_config import ServingSettings
from sbim_deploy.models.triton_repository import write_repository
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.study.run import StudySettings, run_study


def test_workers_ask_the_server_that_was_named(scans, tmp_path):
    pytest.importorskip("tritonclient.grpc")
    from kserve_server import KServeServer

    write_repository(
        load_model("demo"), tmp_path / "repository", ServingSettings("cpu", size=(64, 64), coils=4)
    )
    scan = scans / "scan0.h5"
    few = SamplerChoice(steps=2)
    server = KServeServer(tmp_path / "repository")
    try:
        asked = ReconSettings(choice=few, backend=f"triton://{server.url}")
        report = run_study([scan], tmp_path / "out", StudySettings(asked, workers=1), Heard())
    finally:
        server.stop()
    assert report.counts["done"] == 1, report.files
    alone = ReconSettings(choice=few, backend="onnxruntime", threads=1)
    reconstruct_file(scan, tmp_path / "alone.h5", alone)
    np.testing.assert_allclose(
        images(tmp_path / "out" / "scan0.h5"), images(tmp_path / "alone.h5"), atol=1e-5
    )

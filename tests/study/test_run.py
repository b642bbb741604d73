"""Studies on a cluster of their own, and on one that somebody else has started."""

import json
from dataclasses import replace

import numpy as np
import psutil
import pytest
from distributed import LocalCluster
from tiny_study import FAST, Heard, images

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import load_model
from sbim_deploy.models.triton_config import ServingSettings
from sbim_deploy.models.triton_repository import write_repository
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.study import conduct
from sbim_deploy.study.cluster import connected_cluster, embedded_cluster
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
            assert what == "1 worker connected, with TPU=4 wanted"
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


def test_the_cluster_of_this_machine_listens_on_the_loopback_interface_alone(client):
    process = psutil.Process()
    addresses = [
        connection.laddr
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(addresses) >= 3
    assert {address.ip for address in addresses} == {"127.0.0.1"}


def test_nobody_without_the_key_of_the_run_can_connect(client, monkeypatch):
    address = client.scheduler_info()["address"]
    assert address.startswith("tls://127.0.0.1:")
    monkeypatch.setattr("sbim_deploy.study.cluster.CONNECT_TIMEOUT_S", 1)
    for other in (address, address.replace("tls", "tcp")):
        with pytest.raises(InputError, match="no Dask scheduler answers"), connected_cluster(other):
            pass


def test_the_cluster_of_this_machine_serves_no_pages(client):
    from urllib.error import HTTPError
    from urllib.request import urlopen

    for page in ("status", "health", "info/main/workers.html", "json/counts.json"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{client.scheduler_info()['services']['dashboard']}/{page}", timeout=5)


def test_an_address_where_nobody_answers_is_one_line(monkeypatch):
    monkeypatch.setattr("sbim_deploy.study.cluster.CONNECT_TIMEOUT_S", 1)
    for address in ("tcp://127.0.0.1:1", "carrier-pigeon://there"):
        message = f"--scheduler {address}: no Dask scheduler answers"
        with pytest.raises(InputError, match=message), connected_cluster(address):
            pass


def test_a_cluster_of_no_workers_is_refused():
    with pytest.raises(InputError, match="workers is 0"), embedded_cluster(0):
        pass


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

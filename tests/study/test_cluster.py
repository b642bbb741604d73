import psutil
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.study.run import connected_cluster, embedded_cluster


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
    monkeypatch.setattr("sbim_deploy.study.run.CONNECT_TIMEOUT_S", 1)
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
    monkeypatch.setattr("sbim_deploy.study.run.CONNECT_TIMEOUT_S", 1)
    for address in ("tcp://127.0.0.1:1", "carrier-pigeon://there"):
        message = f"--scheduler {address}: no Dask scheduler answers"
        with pytest.raises(InputError, match=message), connected_cluster(address):
            pass


def test_a_cluster_of_no_workers_is_refused():
    with pytest.raises(InputError, match="workers is 0"), embedded_cluster(0):
        pass

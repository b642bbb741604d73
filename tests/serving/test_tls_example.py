"""The example of TLS: stunnel before the server and on the scanner's host, with its files as they are."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from mrd_client import CLOSE_BYTES, as_bytes, header_xml
from test_serve_command import SERVE

from sbim_deploy.mrd.messages import Close, ConfigFile, Header
from sbim_deploy.serving.settings import DEFAULT_PORT, is_loopback

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving" / "tls"
NAME = "recon.example"  # of the server, in its certificate and in the scanner's file
STUNNEL = shutil.which("stunnel4") or shutil.which("stunnel")
needs_stunnel = pytest.mark.skipif(
    STUNNEL is None, reason="stunnel is not installed: the TLS example is not run"
)


def read_conf(name):
    lines = (EXAMPLE / name).read_text().splitlines()
    return dict(line.split(" = ") for line in lines if " = " in line and not line.startswith(";"))


def test_the_server_behind_tls_is_on_the_loopback_and_asks_for_certificates():
    conf = read_conf("server.conf")
    host, port = conf["connect"].split(":")
    assert is_loopback(host)
    assert int(port) == DEFAULT_PORT
    assert conf["requireCert"] == conf["verifyChain"] == "yes"


def test_the_scanners_client_finds_stunnel_where_the_server_would_be_and_checks_who_it_is():
    conf = read_conf("scanner.conf")
    assert conf["accept"] == f"127.0.0.1:{DEFAULT_PORT}"
    assert conf["connect"].partition(":")[2] == read_conf("server.conf")["accept"].partition(":")[2]
    assert conf["checkHost"] == conf["connect"].partition(":")[0] == NAME
    assert conf["verifyChain"] == "yes"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


def make_certificates(folder, *clients):
    command = ["sh", EXAMPLE / "certificates.sh", folder, NAME, *clients]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@contextmanager
def stunnel(name, certificates, folder, accept, connect, **changes):
    """stunnel with a file of the example: its addresses, its folder and what else is given are replaced."""
    text = (EXAMPLE / name).read_text().replace("/etc/stunnel/sbim-deploy", str(certificates))
    # Who runs the tests may not be root, and then cannot become another user.
    text = re.sub(r"(?m)^set[ug]id = .*\n", "", text)
    for key, value in {"accept": f"127.0.0.1:{accept}", "connect": f"127.0.0.1:{connect}", **changes}.items():
        text, n_replaced = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert n_replaced == 1, key
    conf = folder / f"{accept}-{name}"
    conf.write_text(text)
    log = conf.with_suffix(".log")
    with (
        log.open("w") as written,
        subprocess.Popen([STUNNEL, conf], stdout=written, stderr=written) as running,
    ):
        try:
            wait_for(lambda: "Configuration successful" in log.read_text(), log)
            yield log
        finally:
            running.kill()


def wait_for(true, log):
    until = time.monotonic() + 15
    while not true():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)


@dataclass(frozen=True)
class Site:
    """A server behind stunnel, and a scanner's host."""

    folder: Path
    certificates: Path
    strangers: Path
    plain: int
    tls: int
    scanner: int
    server_log: Path
    tunnel_log: Path

    @property
    def n_sessions(self):
        """The sessions that the server has begun."""
        lines = [json.loads(line) for line in self.server_log.read_text().splitlines() if line[:1] == "{"]
        return sum(line["event"] == "session-begin" for line in lines)

    def say(self, certificate=None, authority=None):
        """Hold a session by TLS, with the certificate of that name or none; give its end and the answer."""
        context = ssl.create_default_context(cafile=self.certificates / "ca.pem")
        if certificate is not None:
            path = (authority or self.certificates) / certificate
            context.load_cert_chain(path.with_suffix(".pem"), path.with_suffix(".key"))
        got = b""
        try:
            with (
                socket.create_connection(("127.0.0.1", self.tls), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname=NAME) as sock,
            ):
                sock.sendall(SESSION)
                while part := sock.recv(65536):
                    got += part
        except (ssl.SSLError, ConnectionError) as error:
            return f"refused: {error}", got
        return "closed", got


SESSION = as_bytes(ConfigFile("zero-filled"), Header(header_xml()), Close())  # which the server answers


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificates = make_certificates(folder / "ours", "scanner")
    strangers = make_certificates(folder / "theirs", "scanner")
    log = folder / "serve.log"
    with ExitStack() as stack:
        written = stack.enter_context(log.open("w"))
        serve = stack.enter_context(
            subprocess.Popen(
                [*SERVE, "--backend", "onnxruntime", "--threads", "1", "--log-json"],
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
            )
        )
        stack.callback(serve.kill)
        plain = int(serve.stdout.readline().rpartition(":")[2])
        tls, scanner = free_port(), free_port()
        tunnel_log = stack.enter_context(
            stunnel("server.conf", certificates, folder, tls, plain, TIMEOUTbusy=1)
        )
        stack.enter_context(stunnel("scanner.conf", certificates, folder, scanner, tls))
        yield Site(folder, certificates, strangers, plain, tls, scanner, log, tunnel_log)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    options = ["--format", "mrd", "--slices", "2", "--size", "64", "--coils", "4", "--undersample", "2"]
    subprocess.run([*SERVE[:3], "simulate", "-o", path, *options], check=True, capture_output=True)
    return path


def replay(cli, scan, output, port):
    """The demo model's images of a scan, in few steps."""
    asked = ("--parameters", '{"version": "1", "parameters": {"steps": 4, "seed": 3}}')
    return cli("replay", scan, "-o", output, "--server", f"127.0.0.1:{port}", "--timeout", "20", *asked)


def images_in(path):
    with h5py.File(path) as file:
        (series,) = [file[f"dataset/{name}"] for name in file["dataset"] if name.startswith("image_")]
        return series["data"][()], series["header"][()], series["attributes"][()]


def assert_the_same_images(got, expected):
    assert len(expected[0]) == 2
    assert np.ptp(expected[0]) > 0
    for theirs, ours in zip(got, expected, strict=True):
        assert theirs.tobytes() == ours.tobytes() if theirs.dtype != object else (theirs == ours).all()


@needs_stunnel
@pytest.mark.slow
def test_a_client_that_knows_no_tls_gets_the_same_images_through_stunnel(cli, site, scan, tmp_path):
    assert (done := replay(cli, scan, tmp_path / "plain.h5", site.plain)).code == 0, done.err
    assert (done := replay(cli, scan, tmp_path / "tls.h5", site.scanner)).code == 0, done.err
    assert_the_same_images(images_in(tmp_path / "tls.h5"), images_in(tmp_path / "plain.h5"))
    assert "CN=scanner" in site.tunnel_log.read_text()


@needs_stunnel
@pytest.mark.slow
def test_a_client_with_a_certificate_has_a_session(site):
    before = site.n_sessions
    outcome, got = site.say("scanner")
    assert outcome == "closed"
    assert got.endswith(CLOSE_BYTES)
    assert site.n_sessions == before + 1


@needs_stunnel
@pytest.mark.slow
@pytest.mark.parametrize("who", ["nobody", "a client of another authority", "the server's own certificate"])
def test_a_client_without_a_certificate_of_ours_never_reaches_the_server(site, who):
    before = site.n_sessions
    shown = {
        "nobody": {},
        "a client of another authority": {"certificate": "scanner", "authority": site.strangers},
        "the server's own certificate": {"certificate": "server"},
    }[who]
    outcome, got = site.say(**shown)
    assert outcome.startswith("refused"), outcome
    assert got == b""
    assert site.n_sessions == before


@needs_stunnel
@pytest.mark.slow
def test_plain_tcp_at_the_tls_port_gets_nothing_and_disturbs_no_scan(cli, site, scan, tmp_path):
    assert replay(cli, scan, tmp_path / "plain.h5", site.plain).code == 0
    before = site.n_sessions
    with (
        socket.create_connection(("127.0.0.1", site.tls), timeout=20) as silent,
        socket.create_connection(("127.0.0.1", site.tls), timeout=20) as mrd,
    ):
        mrd.sendall(SESSION)
        assert (done := replay(cli, scan, tmp_path / "tls.h5", site.scanner)).code == 0, done.err
        assert read_to_the_end(mrd) == b""
        assert read_to_the_end(silent) == b""
    assert_the_same_images(images_in(tmp_path / "tls.h5"), images_in(tmp_path / "plain.h5"))
    assert site.n_sessions == before + 1
    failed = replay(cli, scan, tmp_path / "never.h5", site.tls)
    assert failed.code == 1
    assert failed.error_line
    assert not (tmp_path / "never.h5").exists()
    assert site.n_sessions == before + 1


def read_to_the_end(sock):
    """What came without the alert by which TLS says that it was not spoken to."""
    got = b""
    try:
        while part := sock.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got[7:] if got[:3] in (b"\x15\x03\x01", b"\x15\x03\x03") else got


@needs_stunnel
@pytest.mark.slow
@pytest.mark.parametrize("impostor", ["of another authority", "under another name"])
def test_a_scanner_sends_nothing_to_a_server_that_is_not_the_one_it_knows(
    cli, site, scan, tmp_path, impostor
):
    before, port = site.n_sessions, free_port()
    changes = {"checkHost": "other.example"}
    if impostor == "of another authority":
        changes = {"CAfile": site.strangers / "ca.pem"}
    with stunnel("scanner.conf", site.certificates, site.folder, port, site.tls, **changes):
        failed = replay(cli, scan, tmp_path / "never.h5", port)
    assert failed.code == 1
    assert failed.error_line
    assert site.n_sessions == before


def test_certificates_are_made_once_and_their_keys_are_their_owners_alone(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificates are made")
    make_certificates(tmp_path, "scanner")
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.[pk]e[my]")}
    assert set(made) == {f"{name}.{kind}" for name in ("ca", "server", "scanner") for kind in ("pem", "key")}
    make_certificates(tmp_path, "scanner", "second")
    assert all((tmp_path / name).read_bytes() == content for name, content in made.items())
    assert (tmp_path / "second.pem").exists()
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*.key"))
    asked = subprocess.run(["sh", EXAMPLE / "certificates.sh", tmp_path], capture_output=True, text=True)
    assert asked.returncode == 2
    assert "usage: " in asked.stderr

"""The scan believes an index of advisories only where it knows one that has long been there."""

import json
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from scripts import ROOT, load_script

audit = load_script("audit")


def advisory(package, fixed):
    events = [{"introduced": "0"}, {"fixed": fixed}]
    ranges = [{"type": "ECOSYSTEM", "events": events}]
    affected = [{"package": {"name": package, "ecosystem": "PyPI"}, "ranges": ranges}]
    return {"vulns": [{"id": f"TEST-{package}", "summary": "a hole", "affected": affected}]}


@contextmanager
def osv_server(known):
    """An OSV server on the loopback that knows advisories by pinned package; None is an error for it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = known.get(f"{asked['package']['name']}=={asked['version']}", {})
            answer = json.dumps(found).encode()
            self.send_response(500 if found is None else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        finally:
            server.shutdown()


OLD = {"pyyaml==5.3": advisory("pyyaml", "5.4")}


def run(tmp_path, url, requirements="numpy==2.4.6\nh5py==3.16.0\n"):
    import pip_audit  # noqa: F401  # skipped where it is not installed

    file = tmp_path / "pinned.txt"
    file.write_text(requirements)
    command = [sys.executable, ROOT / "release" / "audit.py", "--osv-url", url, file]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_vulnerable_package_fails_and_is_named_with_what_mends_it(tmp_path):
    with osv_server({**OLD, "h5py==3.16.0": advisory("h5py", "3.17.0")}) as url:
        done = run(tmp_path, url)
    assert done.returncode == 1
    assert "h5py 3.16.0 has TEST-h5py, mended in 3.17.0" in done.stdout
    assert f"2 packages looked up at {url}, 1 with findings" in done.stdout


def test_an_index_that_knows_nothing_is_not_believed(tmp_path):
    with osv_server({}) as url:
        done = run(tmp_path, url)
    assert done.returncode == 0
    assert "it answers, but knows no advisory for pyyaml==5.3" in done.stdout
    assert "known vulnerabilities were NOT looked for" in done.stdout


def test_no_index_is_said(tmp_path):
    done = run(tmp_path, "http://127.0.0.1:9/v1/query")
    assert done.returncode == 0, done.stderr
    assert "known vulnerabilities were NOT looked for" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_an_index_that_fails_after_it_was_believed_fails_the_scan(tmp_path):
    with osv_server({**OLD, "h5py==3.16.0": None}) as url:
        done = run(tmp_path, url)
    assert done.returncode == 1
    assert "then gave no result" in done.stderr


def test_a_package_that_was_not_looked_up_is_a_finding(monkeypatch, tmp_path, capsys):
    skipped = [{"name": "numpy", "skip_reason": "Dependency not found on PyPI"}]
    monkeypatch.setattr(audit, "ask", lambda *_: skipped)
    assert not audit.report_findings(audit.Index("PyPI", ()), tmp_path)
    assert "numpy was not looked up: Dependency not found" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["requirements.lock", "constraints.txt"])
def test_every_pinned_package_is_looked_up_and_passes_without_an_advisory(tmp_path, name):
    text = (ROOT / name).read_text()
    pinned = [line for line in text.splitlines() if "==" in line and not line.startswith((" ", "#"))]
    unconditional = [line for line in pinned if ";" not in line]
    with osv_server(OLD) as url:
        done = run(tmp_path, url, text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"looked up at {url}, 0 with findings" in done.stdout
    looked_up = int(done.stdout.split(" packages looked up")[0].rpartition(" ")[2])
    assert len(unconditional) <= looked_up <= len(pinned)

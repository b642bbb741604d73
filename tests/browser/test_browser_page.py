"""The page in Chromium, without a network: its images are Python's, and it sends nothing."""

import base64
import http.server
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from browser_scans import CASES, HEADER, distance, lines, scan, write_fastmri
from build_page import demo_kspace, page_server

from chromium import CHROMIUM, Chromium
from sbim_deploy import load_model
from simulated_mrd import make_scan, write_mrd

TOLERANCE = 1e-3
TIME_LIMIT_S = 600
IMAGE = """(() => { const bytes = new Uint8Array(found.image.data.buffer); let text = "";
for (const byte of bytes) text += String.fromCharCode(byte); return [found.image.shape, btoa(text)]; })()"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page is not opened"),
]


@contextmanager
def served(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Page:
    """The page in a tab."""

    def __init__(self, tab, origin):
        self.tab, self.origin = tab, origin
        tab.visit(f"{origin}/index.html")
        tab.evaluate(
            "document.addEventListener('reconstructed', ({ detail }) => { globalThis.found = detail; }); 0"
        )

    def waits_for(self, *states):
        until = time.monotonic() + TIME_LIMIT_S
        while (state := self.tab.evaluate("document.documentElement.dataset.state")) not in states:
            assert time.monotonic() < until, self.text("body")
            time.sleep(0.1)
        return state

    def press(self, name):
        self.tab.evaluate(f"document.querySelector('#{name}').click()")

    def text(self, selector):
        return self.tab.evaluate(f"document.querySelector('{selector}').innerText")

    def image(self, source=None, slice_index=0, seed=0):
        """Reconstruct a file, or the demo scan."""
        if source is None:
            self.press("demo")
        else:
            self.tab.choose_file("#file", source)
        assert self.waits_for("ready", "failed") == "ready", self.text("#error")
        for name, value in (("slice", slice_index), ("seed", seed)):
            self.tab.evaluate(f"document.querySelector('#{name}').value = {value}")
        self.press("start")
        assert self.waits_for("done", "failed") == "done", self.text("#error")
        shape, data = self.tab.evaluate(IMAGE)
        return np.frombuffer(base64.b64decode(data), np.complex64).reshape(shape)

    def requests(self):
        return [each["request"] for each in self.tab.heard("Network.requestWillBeSent")]


@pytest.fixture(scope="module")
def origin(built_page):
    with served(page_server(built_page, 0)) as address:
        yield address


@pytest.fixture
def page(origin, tmp_path):
    with Chromium(tmp_path / "profile") as tab:
        yield Page(tab, origin)


def pythons(kspace, seed=0, index=0, **told):
    return load_model("demo", seed=seed).reconstruct(kspace, index=index, **told).image


def test_demo_scan_is_pythons_image(page):
    assert distance(page.image(), pythons(demo_kspace())) < TOLERANCE
    assert "balanced: dds, 32 network calls" in page.text("#facts")
    labels = page.tab.evaluate("[...document.querySelectorAll('canvas')].map(each => each.ariaLabel)")
    assert [label.split(",")[0] for label in labels] == [
        "Zero-filled image of the input",
        "Reconstructed image",
        "Residual of the data as an image",
    ]
    requests = page.requests()
    assert all(each["method"] == "GET" and "postData" not in each for each in requests)
    assert all(each["url"].startswith((f"{page.origin}/", "blob:", "data:")) for each in requests)
    assert not page.tab.heard("Runtime.exceptionThrown")


def test_array_of_another_size_is_pythons_image(page, tmp_path):
    kspace = scan(**CASES["another size"])
    assert kspace.shape == (6, 96, 80)
    np.save(tmp_path / "kspace.npy", kspace)
    page.tab.evaluate("document.querySelector('#webgpu').checked = true")
    got = page.image(tmp_path / "kspace.npy", seed=5)
    assert distance(got, pythons(kspace, seed=5)) < TOLERANCE
    assert page.text("#faults").startswith("WebGPU is not used") or "WebGPU" in page.text("#facts")


def test_hdf5_files_are_pythons_images(page, tmp_path):
    kspace = np.stack([scan((128, 60), 4), scan((128, 60), 4, noise=0.02)])
    mask = lines(60, 2, 10)[0]
    header = HEADER.format(128, 60, 480, 225, 64, 60, 240, 225)
    path = write_fastmri(tmp_path / "scan.h5", kspace, mask=mask, ismrmrd_header=header)
    expected = pythons(kspace[1], index=1, mask=mask, image_shape=(64, 60))
    assert distance(page.image(path, 1), expected) < TOLERANCE
    made = make_scan(size=48, acceleration=2, calib_width=10, noise=0.01)
    mrd = write_mrd(tmp_path / "raw.h5", made)
    got = page.image(mrd)
    assert got.shape == (48, 48)
    assert np.linalg.norm(np.abs(got)) > 0


def test_cancelled_run_starts_again(page, tmp_path):
    np.save(tmp_path / "kspace.npy", scan(**CASES["another size"]))
    page.tab.choose_file("#file", tmp_path / "kspace.npy")
    page.waits_for("ready")
    page.press("start")
    page.waits_for("busy")
    page.press("cancel")
    page.waits_for("cancelled")
    assert page.text("#status") == "Cancelled."
    page.press("start")
    assert page.waits_for("done", "failed") == "done"


def test_wrong_file_is_named_in_one_sentence(page, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" + bytes(50))
    page.tab.choose_file("#file", tmp_path / "photo.jpg")
    assert page.waits_for("failed")
    assert page.text("#error").startswith("photo.jpg is none of them, expected fastMRI or ISMRMRD HDF5 (.h5)")
    assert page.tab.evaluate("document.querySelector('#start').disabled")


def test_neither_page_nor_worker_may_connect_elsewhere(page):
    heard = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)) as elsewhere:
        sends = f"fetch('{elsewhere}/', {{ method: 'POST', body: 'x' }}).then(() => 'sent', () => 'refused')"
        assert page.tab.evaluate(sends) == "refused"
        worker = f"""new Promise(tell => {{
            const script = new Blob(["{sends}.then(each => postMessage(each))"], {{type: "text/javascript"}});
            const worker = new Worker(URL.createObjectURL(script), {{ type: "module" }});
            worker.onmessage = ({{ data }}) => tell(data); }})"""
        assert page.tab.evaluate(worker) == "refused"
    assert heard == []


def test_page_fits_a_narrow_window(page):
    page.tab.show_as(500)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= 500

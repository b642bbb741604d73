"""Slices side by side in the worker, by events: a lone one gets all threads, a burst shares them."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from mrd_client import (
    attributes,
    begin,
    connected,
    kspace_of,
    pixels,
    readouts,
    receive_all,
    run_session,
    serving,
)

from sbim_deploy.errors import SamplingError
from sbim_deploy.models.folder import load_model
from sbim_deploy.mrd.messages import Close
from sbim_deploy.recon.classical import Classical
from sbim_deploy.serving import worker as serving_worker
from sbim_deploy.serving.memory import MemoryBudget
from sbim_deploy.serving.parameters import make_request
from sbim_deploy.serving.worker import SliceJob, Worker

WAIT_S = 20
REQUEST = make_request("fast")


class Slice(str):
    """A slice that is no more than its name, on a grid."""

    trajectory = None


class Lanes:
    """A worker whose slices are at work until they are let go; ``at_work`` says on which share each is."""

    def __init__(self, monkeypatch, backend="openvino", cores=2, memory=2**40):
        self.at_work, self.opened = {}, []
        self._changed, self._gone = threading.Condition(), set()
        lanes = self

        class Reconstructor:
            def __init__(self, _model, _method, _seed, open_graph, **_):
                self.engine = open_graph("step-proximal")

            def __call__(self, problems, on_step):
                return lanes._work(problems[0], self.engine.streams, on_step)

        def opened(_model, graph, backend_asked, threads, precision, streams):
            self.opened.append((backend_asked, threads, precision, streams))
            return SimpleNamespace(description={"backend": backend}, streams=streams)

        monkeypatch.setattr(serving_worker, "Reconstructor", Reconstructor)
        monkeypatch.setattr(serving_worker, "open_engine", opened)
        self.worker = Worker(
            load_model("demo"), "auto", cores, MemoryBudget(memory), Classical.ZERO_FILLED, "auto"
        )
        self.worker.start(REQUEST)

    def submit(self, name, work_bytes=0, deadline_s=WAIT_S, prepare=None):
        job = SliceJob(prepare or (lambda _check: Slice(name)), REQUEST, deadline_s, work_bytes)
        self.worker.submit(job)
        return job

    def end(self, name):
        """Let a slice be ready, or fail where ``name`` says so."""
        with self._changed:
            self._gone.add(name)
            self._changed.notify_all()

    def wait_for(self, **at_work):
        """Wait until just these slices are at work, each on so many shares."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.at_work == at_work, WAIT_S), self.at_work

    def _work(self, name, streams, on_step):
        with self._changed:
            self.at_work[name] = streams
            self._changed.notify_all()
        try:
            while True:
                on_step(1)
                with self._changed:
                    if self._changed.wait_for(lambda: name in self._gone, 0.01):
                        break
            if name.startswith("bad"):
                raise SamplingError("diverged")
            image = np.zeros((2, 2), np.complex64)
            return [SimpleNamespace(index=0, doubts=(), image=image, residual=0.1, prior_orientations=None)]
        finally:
            with self._changed:
                del self.at_work[name]
                self._changed.notify_all()


@pytest.fixture
def lanes(monkeypatch):
    made = []

    def make(**settings):
        made.append(Lanes(monkeypatch, **settings))
        return made[-1]

    yield make
    for each in made:
        each.worker.close(WAIT_S)
        assert not any(lane.is_alive() for lane in each.worker._lanes)


def test_a_slice_alone_gets_all_threads_and_nothing_begins_beside_it(lanes):
    two = lanes()
    two.submit("a")
    two.wait_for(a=1)
    waiting = [two.submit("b"), two.submit("c")]
    assert two.worker.queued == 2
    two.end("a")
    two.wait_for(b=2, c=2)
    assert two.worker.queued == 0
    for name, job in zip("bc", waiting, strict=True):
        two.end(name)
        assert job.wait()
        assert job.image is not None


def test_a_burst_runs_side_by_side_and_the_next_takes_the_place_of_the_first_that_is_ready(lanes):
    two = lanes()
    two.submit("a")
    two.wait_for(a=1)
    for name in "bcd":
        two.submit(name)
    two.end("a")
    two.wait_for(b=2, c=2)
    two.end("c")
    two.wait_for(b=2, d=2)
    two.end("d")
    two.wait_for(b=2)
    two.submit("e")
    two.wait_for(b=2, e=2)
    two.end("b")
    two.end("e")
    two.wait_for()
    two.submit("f")
    two.wait_for(f=1)
    two.end("f")


def test_streams_are_opened_of_the_backend_and_precision_that_were_found_for_all_threads(lanes):
    two = lanes(backend="openvino-bf16", cores=3)
    assert two.opened == [("auto", 3, "auto", 1), ("openvino-bf16", 3, None, 3)]


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-cuda", "TensorRT"])
def test_other_backends_work_on_one_slice_at_a_time(lanes, backend):
    one = lanes(backend=backend)
    assert [streams for *_, streams in one.opened] == [1]
    for name in "abc":
        one.submit(name)
    for name in "abc":
        one.wait_for(**{name: 1})
        one.end(name)


def test_an_error_in_one_stream_leaves_the_other_alone(lanes):
    two = lanes()
    two.submit("a")
    two.wait_for(a=1)
    bad, good = two.submit("bad"), two.submit("good")
    two.end("a")
    two.wait_for(bad=2, good=2)
    two.end("bad")
    assert bad.wait()
    assert isinstance(bad.error, SamplingError)
    two.wait_for(good=2)
    two.end("good")
    assert good.wait()
    assert good.error is None


def test_a_slice_that_is_given_up_leaves_the_other_alone(lanes):
    two = lanes()
    two.submit("a")
    two.wait_for(a=1)
    gone, _ = two.submit("b"), two.submit("c")
    two.end("a")
    two.wait_for(b=2, c=2)
    two.worker.cancel(gone)
    two.wait_for(c=2)
    assert gone.image is None
    two.end("c")


def test_slices_wait_where_the_memory_is_short_and_one_alone_then_has_all_threads(lanes):
    two = lanes(memory=100)
    two.submit("a", 60)
    two.wait_for(a=1)
    two.submit("b", 60)
    two.submit("c", 60)
    two.end("a")
    two.wait_for(b=1)
    two.end("b")
    two.wait_for(c=1)
    two.submit("d", 40)
    two.submit("e", 60)
    two.end("c")
    two.wait_for(d=2, e=2)
    two.end("d")
    two.end("e")


def test_slices_that_would_be_late_on_a_share_of_the_threads_get_all_of_them(lanes):
    two = lanes()
    two.submit("bad")
    two.wait_for(bad=1)
    two.worker._alone_s = 15  # of a slice before; one that fails early says nothing of the time
    for name in "bc":
        two.submit(name, deadline_s=20)
    two.end("bad")
    two.wait_for(b=1)
    for name in "de":
        two.submit(name, deadline_s=20)
    two.end("b")
    two.wait_for(c=2, d=2)  # the last one alone took less
    for name in "cde":
        two.end(name)
    two.wait_for()


def test_the_slice_that_began_first_tells_how_long_the_engine_is_busy(lanes):
    two = lanes()
    assert two.worker.busy_for == 0
    two.submit("a")
    two.wait_for(a=1)
    two.submit("b")
    two.submit("c")
    two.end("a")
    two.wait_for(b=2, c=2)
    begun = time.monotonic()
    two.end("c")
    two.wait_for(b=2)
    two.submit("d")
    two.wait_for(b=2, d=2)
    assert two.worker.busy_for >= time.monotonic() - begun - 1e-3
    two.end("b")
    two.end("d")
    two.wait_for()


def test_images_of_a_burst_in_openvino_are_those_of_slices_one_at_a_time_and_in_order():
    pytest.importorskip("openvino", reason="OpenVINO is not installed: its streams are not tested")
    burst = [readout for number in range(3) for readout in readouts(kspace_of(number), number)]
    with serving(backend="openvino", threads=2, deadline_s=900) as server:
        with connected(server, timeout=300) as stream:
            begin(stream)
            for message in (*burst, Close()):
                stream.send(message)
            images = receive_all(stream)
        engines = server._service.worker._engines.items()
        assert {streams for (_, streams), engine in engines if engine._compiled} == {1, 2}
    with serving(threads=1, deadline_s=900) as server:
        expected = run_session(server, burst)
    for got, one in zip(images, expected, strict=True):
        assert got.header["slice"] == one.header["slice"]
        assert "fallback" not in " ".join(attributes(got)["ImageProcessingHistory"])
        assert np.abs(pixels(got).astype(int) - pixels(one)).max() <= 1  # of the 12 bits, by rounding

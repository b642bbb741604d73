"""What a scanner gets when the model fails, is out of memory, is late or hangs: an image, marked as such."""

import threading
import time

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

from bfloat16_processor import needs_bfloat16
from sbim_deploy.errors import DeviceLostError, InputError
from sbim_deploy.mrd.messages import Close
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centred_ifft
from sbim_deploy.recon.classical import Classical, classical_image
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.serving import intake, worker


class Broken:
    """An engine whose recurrence does something else in every step."""

    def __init__(self, engine, fault):
        self._engine, self._fault = engine, fault
        self.description = engine.description

    def recur(self, *arguments):
        self._recurrence = self._engine.recur(*arguments)
        return self

    def advance(self, changed):
        self._recurrence.advance(changed)
        self._fault()

    def read(self):
        return self._recurrence.read() * self._spoil

    _spoil = np.float32(1)


@pytest.fixture
def break_engine(monkeypatch):
    """Make every engine that is opened do something in each step, and multiply what it reads."""
    opened = worker.open_engine

    def use(fault=lambda: None, spoil=1.0):
        def broken(*arguments):
            engine = Broken(opened(*arguments), fault)
            engine._spoil = np.float32(spoil)
            return engine

        monkeypatch.setattr(worker, "open_engine", broken)

    return use


def correlation(image, expected):
    got, expected = pixels(image).astype(float).ravel(), np.abs(expected).ravel()
    return np.vdot(got, expected) / np.linalg.norm(got) / np.linalg.norm(expected)


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("fault", "spoil", "reason", "method"),
    [
        (lambda: None, np.nan, "diverged", "l1-wavelet"),
        (lambda: raise_(RuntimeError("device lost")), 1, "engine", "l1-wavelet"),
        (lambda: raise_(MemoryError()), 1, "memory", "zero-filled"),
    ],
)
def test_an_image_without_the_network_takes_the_place_of_one_that_failed(
    break_engine, caplog, fault, spoil, reason, method
):
    break_engine(fault, spoil)
    with serving() as server:
        images = run_session(server, [*readouts(kspace_of(0)), *readouts(kspace_of(1), 1)])
    assert len(images) == 2
    for image in images:
        history = attributes(image)["ImageProcessingHistory"]
        assert method in history
        assert f"fallback: {reason}" in history
        assert f"FALLBACK {method} ({reason})" in attributes(image)["ImageComments"]
        assert correlation(image, prepare_slice(kspace_of(int(image.header["slice"]))).mvue) > 0.9
    logged = [record.fields for record in caplog.records if record.getMessage() == "fallback"]
    assert [(line["sent"], line["reason"]) for line in logged] == [(method, reason)] * 2


def test_the_method_that_was_chosen_takes_the_place_of_an_image_that_failed(break_engine):
    break_engine(lambda: raise_(RuntimeError("device lost")))
    with serving(fallback=Classical.CG_SENSE) as server:
        (image,) = run_session(server, readouts(kspace_of(0)))
    assert "FALLBACK cg-sense (engine)" in attributes(image)["ImageComments"]


def test_a_slow_engine_is_stopped_at_the_deadline_and_the_next_slice_runs(break_engine):
    is_slow = threading.Event()
    is_slow.set()
    break_engine(lambda: time.sleep(0.4) if is_slow.is_set() else None)
    with serving(deadline_s=3) as server:
        begun = time.monotonic()
        (late,) = run_session(server, readouts(kspace_of(0)), "thesis", parameters=None)
        assert time.monotonic() - begun < 12  # the sampler alone would take 39 s
        is_slow.clear()
        assert "fallback: deadline" in attributes(late)["ImageProcessingHistory"]
        assert "zero-filled" in attributes(late)["ImageProcessingHistory"]
        (good,) = run_session(server, readouts(kspace_of(0)))
        assert "fallback" not in " ".join(attributes(good)["ImageProcessingHistory"])


def test_a_gpu_that_failed_is_told_as_unhealthy_and_later_slices_fall_back_at_once(break_engine, caplog):
    steps = []

    def fail():
        steps.append(1)
        raise DeviceLostError("the GPU failed (cudaStreamSynchronize: cudaErrorIllegalAddress)")

    break_engine(fail)
    with serving() as server:
        assert server.healthy
        for _ in range(2):
            (image,) = run_session(server, readouts(kspace_of(0)))
            assert "FALLBACK l1-wavelet (engine)" in attributes(image)["ImageComments"]
        assert not server.healthy
    assert len(steps) == 1  # the dead engine was not asked again
    logged = [record.fields["words"] for record in caplog.records if record.getMessage() == "fallback"]
    assert len(logged) == 2
    assert all("cudaErrorIllegalAddress" in words for words in logged)


def test_an_engine_that_hangs_keeps_nobody_waiting_and_is_told_as_unhealthy(break_engine):
    hang = threading.Event()
    break_engine(hang.wait)
    try:
        with serving(deadline_s=0.3) as server:
            many = [line for number in range(12) for line in readouts(kspace_of(number), number)]
            begun = time.monotonic()
            images = run_session(server, many)
            assert time.monotonic() - begun < 8  # more slices than the queue holds
            assert [int(image.header["slice"]) for image in images] == list(range(12))
            assert all("fallback: deadline" in attributes(i)["ImageProcessingHistory"] for i in images)
            # Slices that never came to the front have no maps: the coils' root sum of squares.
            assert correlation(images[-1], root_sum_of_squares(centred_ifft(kspace_of(11)))) > 0.999
            while server.healthy:
                assert time.monotonic() - begun < 20
                time.sleep(0.05)
    finally:
        hang.set()


def test_a_slice_without_calibration_lines_becomes_the_coils_root_sum_of_squares():
    kspace = kspace_of(0)
    kspace[:, :, 22:27] = 0
    with serving() as server:
        (image,) = run_session(server, readouts(kspace))
    assert "fallback: data" in attributes(image)["ImageProcessingHistory"]
    assert correlation(image, root_sum_of_squares(centred_ifft(kspace))) > 0.999


def test_a_full_queue_holds_the_sockets_reading_and_loses_nothing(break_engine):
    break_engine(lambda: time.sleep(0.01))
    with serving() as server, connected(server) as stream:
        begin(stream)
        for number in range(14):
            for readout in readouts(kspace_of(number), number):
                stream.send(readout)
        assert server.queued_slices <= worker.QUEUE_LENGTH
        stream.send(Close())
        assert [int(image.header["slice"]) for image in receive_all(stream)] == list(range(14))


def test_the_deadline_reaches_into_preparation(monkeypatch):
    began, ended = threading.Event(), threading.Event()

    def slow(_data, check):
        began.set()
        try:
            while True:
                check()
                time.sleep(0.01)
        finally:
            ended.set()

    with serving(deadline_s=0.3) as server:
        with monkeypatch.context() as patched:
            patched.setattr(intake, "prepare", slow)
            (late,) = run_session(server, readouts(kspace_of(0)))
        assert "fallback: deadline" in attributes(late)["ImageProcessingHistory"]
        assert began.is_set()
        assert ended.wait(10)
        (good,) = run_session(server, readouts(kspace_of(0)), "zero-filled", None)
        assert "FALLBACK" not in attributes(good)["ImageComments"]


@pytest.mark.parametrize("method", [Classical.L1_WAVELET, Classical.CG_SENSE])
def test_images_without_the_network_can_be_ended_in_every_step(method):
    problem, calls = prepare_slice(kspace_of(0)), []
    classical_image(problem, method, lambda: calls.append(None))
    assert len(calls) >= 12
    with pytest.raises(TimeoutError):
        classical_image(problem, method, lambda: raise_(TimeoutError()))


@needs_bfloat16
def test_a_server_computes_in_the_precision_that_it_was_started_with():
    with serving(backend="openvino", precision="bf16") as server:
        assert server.engine["backend"] == "openvino-bf16"
        (image,) = run_session(server, readouts(kspace_of(0)))
    assert "fallback" not in " ".join(attributes(image)["ImageProcessingHistory"])


def test_a_server_is_not_started_in_a_precision_that_its_backend_does_not_have():
    with (
        pytest.raises(InputError, match="backend onnxruntime computes this model in float32"),
        serving(precision="bf16"),
    ):
        pass

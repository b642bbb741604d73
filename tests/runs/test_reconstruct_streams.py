"""A file whose slices are reconstructed side by side: the same images, and the same after a stop."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.recon import streams
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice

pytest.importorskip("openvino", reason="OpenVINO is not installed: its streams are not tested")

SIDE_BY_SIDE = ReconSettings(choice=SamplerChoice(steps=2), backend="openvino", threads=2)


def images(path):
    with open_result(path) as result:
        return np.stack([result.read_image(i) for i in range(result.n_slices)])


@pytest.fixture(scope="module")
def straight(simulated, tmp_path_factory):
    """The images of a run side by side, and what it says of itself."""
    out = tmp_path_factory.mktemp("streams") / "out.h5"
    provenance = reconstruct_file(simulated, out, SIDE_BY_SIDE)
    return images(out), provenance


def test_the_output_says_how_many_slices_were_at_work_and_on_how_many_threads(straight):
    _, provenance = straight
    assert (provenance.engine["streams"], provenance.engine["threads"]) == ("2", "2")
    assert list(provenance.slice_notes) == ["0", "1", "2", "3"]


def test_slices_side_by_side_are_those_of_one_thread_to_the_bit_and_of_two_to_rounding(
    simulated, tmp_path, straight
):
    side_by_side, _ = straight
    one, alone = tmp_path / "one.h5", tmp_path / "alone.h5"
    provenance = reconstruct_file(simulated, one, replace(SIDE_BY_SIDE, threads=1, slices=(0, 2)))
    assert provenance.engine["streams"] == "1"
    np.testing.assert_array_equal(side_by_side[:2], images(one))
    provenance = reconstruct_file(simulated, alone, replace(SIDE_BY_SIDE, slices=(1, 2)))
    assert (provenance.engine["streams"], provenance.engine["threads"]) == ("1", "2")
    distance = np.linalg.norm(side_by_side[1] - images(alone)[0]) / np.linalg.norm(side_by_side[1])
    assert distance < 1e-5


def test_a_run_side_by_side_that_was_stopped_goes_on_to_the_same_bits(
    simulated, tmp_path, monkeypatch, straight
):
    out, original, second_is_kept = tmp_path / "out.h5", Reconstructor.__call__, threading.Event()
    begun = []

    def stopped(self, problems, *hooks):
        begun.append(problems[0].index)
        if problems[0].index == 2 and not second_is_kept.is_set():
            second_is_kept.set()
            raise KeyboardInterrupt
        return original(self, problems, *hooks)

    monkeypatch.setattr(Reconstructor, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(simulated, out, SIDE_BY_SIDE)
    assert not out.exists()
    begun.clear()
    # One slice may be left, and still each has the threads that it would have had.
    provenance = reconstruct_file(simulated, out, replace(SIDE_BY_SIDE, resume=True))
    assert 2 in begun
    assert 0 not in begun
    assert provenance.engine["streams"] == "2"
    np.testing.assert_array_equal(images(out), straight[0])


def test_little_memory_lets_slices_be_reconstructed_one_after_another(simulated, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "memory_bytes", lambda: 2**20)
    provenance = reconstruct_file(simulated, tmp_path / "out.h5", replace(SIDE_BY_SIDE, slices=(0, 2)))
    assert provenance.engine["streams"] == "1"

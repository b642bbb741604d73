"""``recon --dimensions 3 --through-plane`` from the file to the volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.volume import VolumeKspace
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs import through_plane
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, simulate_volume
from sbim_deploy.samplers.choice import SamplerChoice
from sbim_deploy.samplers.presets import PRESETS

TOGETHER = ReconSettings(choice=PRESETS["fast"].choice, dimensions=3, through_plane=True, threads=1)
QUICK = replace(TOGETHER, choice=SamplerChoice(steps=2))


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("volume") / "scan.h5"
    simulate_volume(path, SimulateVolumeSettings(48, 40, 4, 4, "poisson"))
    return path


def magnitudes(path):
    with open_result(path) as result:
        return np.abs([result.read_image(place) for place in range(result.n_slices)])


class Told:
    def __init__(self, stop_after=None):
        self.n_calls, self.stop_after = 0, stop_after

    def started(self, n_slices, n_done, n_calls, _engine):
        self.expected = n_slices * n_calls - n_done

    def advanced(self, n_calls):
        self.n_calls += n_calls
        if self.stop_after is not None and self.n_calls > self.stop_after:
            raise KeyboardInterrupt

    def doubted(self, *_): ...

    def left_out(self, *_): ...


def test_a_volume_is_nearer_to_the_truth_and_flickers_less_than_slices_one_by_one(scan, tmp_path):
    import h5py

    with h5py.File(scan) as file:
        truth = np.abs(file["reference"][()]).swapaxes(0, 1)
    told = Told()
    reconstruct_file(scan, tmp_path / "together.h5", replace(TOGETHER, maps=scan), told)
    reconstruct_file(scan, tmp_path / "alone.h5", replace(TOGETHER, maps=scan, through_plane=False))
    together, alone = magnitudes(tmp_path / "together.h5"), magnitudes(tmp_path / "alone.h5")
    assert nrmse(together, truth) < 0.95 * nrmse(alone, truth)
    assert nrmse(np.diff(together, axis=0), np.diff(truth, axis=0)) < 0.97 * nrmse(
        np.diff(alone, axis=0), np.diff(truth, axis=0)
    )
    assert told.n_calls == told.expected
    with open_result(tmp_path / "together.h5") as result:
        assert result.provenance.through_plane is True
        assert result.provenance.prior_orientations == 4  # of 48 x 40
        assert result.provenance.graph == "score"


def test_a_run_that_was_stopped_begins_anew_and_gives_the_same_bits(scan, tmp_path):
    reconstruct_file(scan, tmp_path / "whole.h5", QUICK)
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(scan, tmp_path / "stopped.h5", QUICK, Told(stop_after=100))
    reconstruct_file(scan, tmp_path / "stopped.h5", replace(QUICK, resume=True))
    np.testing.assert_array_equal(magnitudes(tmp_path / "stopped.h5"), magnitudes(tmp_path / "whole.h5"))
    assert {each.suffix for each in tmp_path.iterdir()} <= {".h5", ".lock"}


def test_where_no_slice_that_is_wanted_can_be_read_nothing_is_reconstructed(scan, tmp_path, monkeypatch):
    # The network would run for nothing, and fail on a volume without a slice.
    def unreadable(indices, _scan, tally, _on_unread):
        tally.unread.update(dict.fromkeys(indices, "damaged"))
        return iter(())

    monkeypatch.setattr(through_plane, "readable_problems", unreadable)
    with pytest.raises(InputError, match="damaged"):
        reconstruct_file(scan, tmp_path / "out.h5", QUICK)


def test_slices_of_one_by_one_are_not_resumed_together(scan, tmp_path):
    alone = replace(QUICK, through_plane=False, graph="score")
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(scan, tmp_path / "out.h5", alone, Told(stop_after=4))
    with pytest.raises(InputError, match=r"differs in .*through_plane"):
        reconstruct_file(scan, tmp_path / "out.h5", replace(QUICK, resume=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dimensions": 2}, "through-plane is of a volume, and dimensions is 2"),
        ({"method": Classical.CG_SENSE, "choice": SamplerChoice()}, "method cg-sense takes no network"),
        ({"samples": 2}, "through-plane draws one image, and 2 samples are asked for"),
        ({"map_sets": 2}, "one set of maps: leave --map-sets out"),
        ({"graph": "reconstruct"}, "takes --graph score, and reconstruct is asked for"),
    ],
)
def test_what_does_not_go_together_is_refused(changed, message):
    with pytest.raises(InputError, match=message):
        replace(TOGETHER, **changed)


def test_a_few_slices_of_a_volume_are_refused_by_its_name_before_it_is_transformed(
    scan, tmp_path, monkeypatch
):
    monkeypatch.setattr(VolumeKspace, "transform", lambda *_: pytest.fail("the volume was transformed"))
    with pytest.raises(InputError, match=r"scan\.h5: 8 slices are .* together, expected at least 32"):
        reconstruct_file(scan, tmp_path / "out.h5", replace(QUICK, slices=(10, 18)))

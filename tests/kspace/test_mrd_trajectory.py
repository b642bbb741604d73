"""MRD files whose readouts carry a trajectory."""

import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.mrd_trajectory import MrdAlongTrajectory
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.runs.simulate import SimulateSettings, simulated_trajectory
from sbim_deploy.runs.simulate_mrd import simulate_mrd

pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
SETTINGS = SimulateSettings(2, 3, 32, 4.0, noise=0.0, trajectory="golden")


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.h5"
    simulate_mrd(path, SETTINGS)
    return path


def change_headers(path, **values):
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        for name, value in values.items():
            if name in table.dtype["head"]["idx"].names:
                table["head"]["idx"][name] = value
            else:
                table["head"][name] = value
        file["dataset/data"][:] = table


def test_the_samples_are_those_of_the_truth_along_the_trajectory(scan):
    places = simulated_trajectory(SETTINGS)
    with h5py.File(scan) as file, open_source(scan) as source:
        assert isinstance(source, MrdAlongTrajectory)
        assert (source.n_slices, source.n_coils, source.recon_shape) == (2, 3, (32, 32))
        np.testing.assert_allclose(source.read_trajectory(1), places, atol=1e-5)
        expected = to_samples(file["s_maps"][1] * file["reference"][1], places)
        np.testing.assert_allclose(source.read_slice(1), expected, atol=1e-4)
        assert source.voxel_mm == (220 / 32, 220 / 32, 5.0)
        assert source.geometry(0).field_of_view_mm == (220, 220, 5)


def test_noise_readouts_whiten_the_samples(tmp_path):
    path = tmp_path / "scan.h5"
    simulate_mrd(path, SimulateSettings(1, 3, 32, 4.0, noise=0.02, trajectory="spiral"))
    with open_source(path) as source:
        assert source.read_noise(0) == 1.0
        told = source.describe()
        assert told["whitened"]
        assert told["trajectory"] == "spiral"


def test_what_was_assumed_of_the_unit_is_said(scan):
    with open_source(scan) as source:
        assert "taken to be in cycles per pixel" in source.describe()["assumed"][0]


def test_siemens_sign_turns_the_samples(scan):
    with open_source(scan) as plain, open_source(scan, orientation=Orientation.TURNED) as turned:
        np.testing.assert_array_equal(turned.read_slice(0), plain.read_slice(0).conj())
        np.testing.assert_array_equal(turned.read_trajectory(0), plain.read_trajectory(0))


def test_a_stack_read_as_slices_is_refused_with_the_option_for_volumes(scan):
    with h5py.File(scan, "r+") as file:
        table = file["dataset/data"][:]
        table["head"]["idx"]["kspace_encode_step_2"][1] = 1
        file["dataset/data"][:] = table
    with pytest.raises(
        InputError, match=r"a stack with kspace_encode_step_2 of 0 and 1.*--dimensions 3 takes a file of them"
    ):
        open_source(scan)


def test_epi_is_refused_by_name_with_what_it_would_need(scan):
    with h5py.File(scan, "r+") as file:
        xml = file["dataset/xml"][0].replace(b"goldenangle", b"epi")
        file["dataset/xml"][0] = xml
    with pytest.raises(InputError, match="trajectory is 'epi', which is not read: that would take"):
        open_source(scan)


def test_samples_that_are_discarded_are_left_out(scan):
    change_headers(scan, discard_pre=3, discard_post=2)
    with open_source(scan) as source:
        assert source.read_slice(0).shape[-1] == source.read_trajectory(0).shape[-2] == 64 - 5


def test_an_image_that_would_take_gigabytes_is_refused(scan):
    with h5py.File(scan, "r+") as file:
        before, recon, after = file["dataset/xml"][0].decode().partition("<reconSpace>")
        for axis in "xy":
            assert f"<{axis}>32</{axis}>" in after
            after = after.replace(f"<{axis}>32</{axis}>", f"<{axis}>65536</{axis}>", 1)
        del file["dataset/xml"]
        file["dataset/xml"] = np.array([before + recon + after], object)
    with pytest.raises(InputError, match="3 coils on a grid of 65536 x 65536 take 103079215104 bytes"):
        open_source(scan)

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.mri.combine import mvue
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.runs.simulate import (
    SimulateSettings,
    brain_slice,
    simulate_file,
    simulate_slice,
    why_refused,
)

SETTINGS = SimulateSettings(n_slices=2, n_coils=3, size=32, acceleration=2.0)


def test_kspace_is_the_references_with_noise_of_the_level_asked_for():
    everything = np.ones(64, dtype=bool)
    simulated = simulate_slice(replace(SETTINGS, size=64, noise=0.05), everything, 0)
    noise = simulated.kspace - centred_fft(simulated.maps * simulated.reference)
    assert noise.real.std() == pytest.approx(0.05, rel=0.03)
    assert noise.imag.std() == pytest.approx(0.05, rel=0.03)
    quiet = simulate_slice(replace(SETTINGS, size=64, noise=0.0), everything, 0)
    np.testing.assert_allclose(mvue(quiet.kspace, quiet.maps), quiet.reference, atol=1e-5)
    assert np.percentile(np.abs(quiet.reference), 99) == pytest.approx(1, rel=1e-4)


def test_a_slice_depends_on_seed_and_index_alone():
    mask = line_mask(32, 2)
    first, again = (simulate_slice(SETTINGS, mask, 1) for _ in range(2))
    np.testing.assert_array_equal(first.kspace, again.kspace)
    assert (simulate_slice(replace(SETTINGS, seed=1), mask, 1).kspace != first.kspace).any()


@pytest.mark.parametrize("size", [64, 100, 256, 300])
def test_slices_come_in_any_size(size):
    image = brain_slice(3, size)
    assert image.shape == (size, size)
    assert image.min() >= 0
    assert np.percentile(image, 99) == pytest.approx(1, abs=0.1)


def test_the_file_holds_the_scan_its_truth_and_how_it_was_made(tmp_path):
    path = tmp_path / "k.h5"
    seen = []
    effective = simulate_file(path, replace(SETTINGS, phantom="shepp-logan"), seen.append)
    assert seen == [1, 2]
    with open_kspace(path) as kspace:
        assert (kspace.n_slices, kspace.n_coils, kspace.n_rows, kspace.n_columns) == (2, 3, 32, 32)
        assert kspace.has_maps
        assert kspace.reference_name == "reference"
        assert kspace.mask is not None
        assert kspace.mask.size / kspace.mask.sum() == effective
        assert not kspace.read_slice(0)[:, :, ~kspace.mask].any()


def test_a_scan_is_sampled_in_the_convention_that_is_asked_for(tmp_path):
    path = tmp_path / "k.h5"
    # 13 lines in the centre of 168: an odd number, where the two conventions differ.
    simulate_file(path, replace(SETTINGS, n_slices=1, size=168, mask_convention="published"))
    with open_kspace(path) as kspace:
        np.testing.assert_array_equal(kspace.mask, line_mask(168, 2, convention="published"))
    assert (line_mask(168, 2, convention="published") != line_mask(168, 2)).any()


@pytest.mark.parametrize("output_format", ["fastmri", "mrd"])
def test_simulate_says_what_recon_then_refuses(cli, tmp_path, output_format):
    reason = "1 calibration lines in the centre of k-space, expected at least 4"
    path = tmp_path / "k.h5"
    options = ["--size", SETTINGS.size, "--undersample", 8, "--phantom", SETTINGS.phantom]
    made = cli("simulate", "-o", path, "--slices", 1, "--coils", 4, "--format", output_format, *options)
    assert made.code == 0
    assert f"warning: recon will refuse {path}: {reason}" in made.err
    done = cli("recon", path, "-o", tmp_path / "out.h5", "--method", "zero-filled")
    assert done.code == 2
    assert reason in done.error_line


@pytest.mark.parametrize("output_format", ["fastmri", "mrd"])
def test_an_object_of_few_pixels_is_reconstructed(cli, tmp_path, output_format):
    path = tmp_path / "k.h5"
    options = ["--size", 16, "--undersample", 1, "--phantom", "shepp-logan", "--format", output_format]
    assert "warning" not in cli("simulate", "-o", path, "--slices", 1, "--coils", 4, *options).err
    assert cli("recon", path, "-o", tmp_path / "out.h5", "--method", "zero-filled").code == 0


def test_what_recon_takes_is_not_warned_of(cli, tmp_path):
    path = tmp_path / "k.h5"
    options = ("--slices", 1, "--coils", 1, "--size", 32, "--undersample", 8)
    assert "warning" not in cli("simulate", "-o", path, *options).err
    assert cli("recon", path, "-o", tmp_path / "out.h5", "--method", "zero-filled").code == 0
    assert why_refused(SimulateSettings()) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_slices": 0}, "slices is 0: expected 1 to"),
        ({"size": 8}, "size is 8: expected 16 to 1024"),
        ({"acceleration": 0.5}, "acceleration is 0.5: expected 1 to 32"),
        ({"noise": -1.0}, "noise is -1"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"pattern": "spiral"}, "unknown pattern 'spiral': expected one of equispaced, random"),
        ({"phantom": "knee"}, "unknown phantom 'knee'"),
        (
            {"mask_convention": "jalal"},
            "unknown mask convention 'jalal': expected one of centred, published",
        ),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **change)

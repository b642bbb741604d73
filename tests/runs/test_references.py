"""evaluate takes arrays: images, and fully sampled k-space."""

from __future__ import annotations

from dataclasses import asdict

import h5py
import numpy as np
import pytest

from array_samples import write_matlab_7, write_matlab_73, write_npy, write_npz
from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft, turned
from sbim_deploy.results.result_file import ResultWriter
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.references import open_reference


@pytest.fixture
def result(simulated, tmp_path):
    """A result of two slices that is the reference of the simulated scan, a little blurred."""
    path = tmp_path / "out.h5"
    with ResultWriter(path, {}, range(2), resume=False) as writer, open_kspace(simulated) as scan:
        for index in range(2):
            image = scan.read_reference(index)
            blurred = (image + np.roll(image, 1, axis=0)) / 2
            writer.write(index, blurred, blurred, 0.1, None)
        writer.finish({})
    return path


def references(simulated):
    with h5py.File(simulated) as file:
        return file["reference"][:2]


@pytest.mark.parametrize("write", [write_npy, write_npz, write_matlab_7, write_matlab_73])
@pytest.mark.parametrize("make", [np.abs, lambda images: images], ids=["magnitude", "complex"])
def test_images_in_an_array_score_as_the_reference_beside_k_space(simulated, result, tmp_path, write, make):
    images = make(references(simulated))
    expected = asdict(evaluate_file(result, simulated))
    for stored, layout in ((images, None), (images.transpose(1, 2, 0), "row,column,slice")):
        path = write(tmp_path, kspace=stored) if write is write_npy else write(tmp_path, truth=stored)
        got = asdict(evaluate_file(result, path, reading=Reading(layout)))
        np.testing.assert_allclose(
            got["mean_reconstruction"]["nrmse"], expected["mean_reconstruction"]["nrmse"], rtol=1e-5
        )
        assert [each["index"] for each in got["slices"]] == [0, 1]


@pytest.mark.parametrize("write", [write_npy, write_matlab_73])
def test_fully_sampled_k_space_is_a_reference_by_its_root_sum_of_squares(simulated, result, tmp_path, write):
    images = references(simulated)
    kspace = centred_fft(birdcage_maps(4, images.shape[1:]) * images[:, None]).astype(np.complex64)
    path = write(tmp_path, kspace=kspace)
    with open_reference(path) as reference:
        assert not reference.has_complex_reference
        np.testing.assert_allclose(reference.read_reference(1), np.abs(images[1]), atol=1e-4)
    undersampled = write(tmp_path, kspace=kspace * (np.arange(64) % 2))
    with pytest.raises(InputError, match="only 51% of its k-space was sampled in slice 0"):
        evaluate_file(result, undersampled)


def test_kspace_in_an_array_turns_with_the_result_and_images_are_compared_as_they_lie(simulated, tmp_path):
    images = references(simulated)
    kspace = centred_fft(birdcage_maps(4, images.shape[1:]) * images[:, None]).astype(np.complex64)
    result = tmp_path / "turned.h5"
    with ResultWriter(result, {}, range(2), resume=False) as writer:
        for index in range(2):
            writer.write(index, turned(images[index]), turned(images[index]), 0.1, None)
        writer.finish({"orientation": "turned"})
    for stored in ({"kspace": kspace}, {"truth": np.stack([turned(image) for image in images])}):
        assert evaluate_file(result, write_npz(tmp_path, **stored)).mean_reconstruction.nrmse < 1e-4
    as_it_lies = evaluate_file(result, write_npz(tmp_path, truth=images))
    assert as_it_lies.mean_reconstruction.nrmse > 0.1


def test_the_command_names_the_array_and_its_axes(cli, simulated, result, tmp_path):
    images = np.abs(references(simulated)).transpose(1, 2, 0)
    path = write_npz(tmp_path, a=images, b=0 * images)
    done = cli("evaluate", result, "--reference", path, "--variable", "a", "--layout", "row,column,slice")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].split()[:2] == ["slice", "NRMSE"]
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["a"] = images
    again = cli("evaluate", result, "--reference", tmp_path / "images.h5", "--variable", "a")
    assert again.out == done.out, again.err
    refused = cli("evaluate", result, "--reference", path)
    assert refused.code != 0
    assert "a (64, 64, 2)" in refused.error_line

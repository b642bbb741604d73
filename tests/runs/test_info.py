"""What info says of images of every format."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from oblique_scan import write_scan

from array_samples import write_matlab_73, write_npy, write_npz
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.cfl import write_cfl, write_cfl_images
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.results.nifti import write_nifti
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.simulate import brain_slice
from series_samples import SHAPE, oblique, stack


@pytest.fixture(scope="module")
def brains():
    return np.stack([brain_slice(index, 48) for index in range(3)])


def kinds(told):
    return tuple(told[name] for name in ("kind", "format", "slices", "values"))


def sides(told):
    """The sides of the images, whichever way round they are laid out."""
    return {told["rows"], told["columns"]}


def written_by_recon(cli, folder, name, kind):
    """The images of an oblique scan of two series of three slices, in a format of recon."""
    pytest.importorskip("ismrmrd")
    scan = write_scan(folder / "scan.h5")
    done = cli("recon", scan, "-o", folder / name, "--format", kind, "--method", "zero-filled")
    assert done.code == 0, done.err
    return folder / name


def test_dicom_is_described_as_a_folder_and_as_a_file(cli, tmp_path):
    pytest.importorskip("pydicom")
    folder = written_by_recon(cli, tmp_path, "out", "dicom")
    told = describe(folder)
    assert (kinds(told), sides(told)) == (("images", "DICOM folder", 6, "real"), {32})
    assert (sorted(told["voxel_mm"]), told["placed_in_the_patient"]) == ([5, 6, 7], True)
    assert (told["series"], told["manufacturer"]) == (2, "sbim-deploy")
    one = json.loads(cli("info", folder / "S2_IM00003.dcm", "--json").out)
    assert kinds(one) == ("images", "DICOM file", 1, "real")
    assert "repetition 1" in one["series_description"]
    assert "format: DICOM folder" in cli("info", folder).out


def test_mrd_images_are_described(cli, tmp_path):
    told = describe(written_by_recon(cli, tmp_path, "m.h5", "mrd"))
    assert (kinds(told), sides(told)) == (("images", "MRD images", 6, "real"), {32})
    assert list(told["series"]) == ["image_1", "image_2"]


def test_nifti_and_fastmri_results_are_described(tmp_path, brains):
    pytest.importorskip("nibabel")
    volume = stack().volume
    for name in ("a.nii", "a.nii.gz"):
        write_nifti(tmp_path / name, volume, None, [oblique(mm) for mm in (0, 5, 10, 15)])
        told = describe(tmp_path / name)
        assert (kinds(told), sides(told)) == (("images", "NIfTI", 4, "real"), set(SHAPE))
        assert told["voxel_mm"] == pytest.approx([2, 3, 5], abs=1e-4)
    write_nifti(tmp_path / "b.nii", brains, (2.0, 3.0, 4.0))
    told = describe(tmp_path / "b.nii")
    assert (told["placed_in_the_patient"], told["voxel_mm"]) == (False, [2.0, 3.0, 4.0])
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["reconstruction"] = brains
    told = describe(tmp_path / "f.h5")
    assert (kinds(told), sides(told)) == (("images", "fastMRI result", 3, "real"), {48})


@pytest.mark.parametrize("write", [write_npy, write_npz, write_matlab_73])
def test_arrays_are_images_where_they_are_real_or_have_their_energy_everywhere(tmp_path, brains, write):
    phase = np.exp(1j * np.linspace(0, 1, 48))
    for images, values in ((brains, "real"), (brains * phase, "complex")):
        path = write(tmp_path, kspace=images) if write is write_npy else write(tmp_path, images=images)
        told = describe(path)
        assert (told["kind"], told["slices"], told["rows"], told["values"]) == ("images", 3, 48, values)
    kspace = centred_fft((brains * phase)[:1].astype(np.complex64))
    assert describe(write(tmp_path, kspace=kspace[0]))["kind"] == "k-space"


def test_bart_s_arrays_are_images_or_kspace_by_their_energy(tmp_path, brains):
    images = brains.astype(np.complex64)
    write_cfl_images(tmp_path / "i.cfl", images)
    assert kinds(describe(tmp_path / "i.cfl")) == ("images", "BART .cfl", 3, "complex")
    write_cfl(tmp_path / "k.cfl", centred_fft(images[1])[:, :, None])
    assert describe(tmp_path / "k.cfl")["kind"] == "k-space"


def test_kspace_with_a_reference_beside_it_stays_kspace(tmp_path, brains):
    kspace = centred_fft(np.repeat(brains[:1], 4, axis=0).astype(np.complex64))
    told = describe(write_npz(tmp_path, kspace=kspace, reference=brains[0]))
    assert (told["kind"], told["coils"]) == ("k-space", 4)


def test_a_folder_of_nothing_and_damaged_files_are_refused_in_one_line(cli, tmp_path, brains):
    pytest.importorskip("pydicom")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty/manifest.json"):
        describe(tmp_path / "empty")
    whole = (written_by_recon(cli, tmp_path, "out", "dicom") / "S1_IM00001.dcm").read_bytes()
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged.dcm"
    for length in rng.integers(132, len(whole), 30):
        damaged.write_bytes(whole[:length])
        check_info(cli, damaged)
    for place in rng.integers(132, len(whole), 60):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        damaged.write_bytes(changed)
        check_info(cli, damaged)


def check_info(cli, path: Path):
    done = cli("info", path)
    assert done.code in (0, 2), done
    if done.code:
        assert str(path) in done.error_line


def test_a_flipped_byte_of_a_nifti_raises_nothing_but_an_input_error(cli, tmp_path, brains):
    pytest.importorskip("nibabel")
    write_nifti(tmp_path / "a.nii", brains[:, :16, :16], (2.0, 3.0, 4.0))
    whole = (tmp_path / "a.nii").read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 352, 60):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.nii").write_bytes(changed)
        check_info(cli, tmp_path / "b.nii")


def test_images_of_two_sizes_and_colours_are_refused(cli, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = written_by_recon(cli, tmp_path, "out", "dicom") / "S1_IM00002.dcm"
    dataset = pydicom.dcmread(path)
    dataset.Rows, dataset.Columns = 64, 16
    dataset.save_as(path)
    with pytest.raises(InputError, match=r"holds images of \(32, 32\) .* and of \(64, 16\) .*one series"):
        describe(tmp_path / "out")
    dataset.SamplesPerPixel = 3
    dataset.save_as(path)
    with pytest.raises(InputError, match="has 3 samples a pixel, expected grey values"):
        describe(path)

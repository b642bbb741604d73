"""Scores of images of every format, in the conventions that are named."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict, astuple

import h5py
import numpy as np
import pytest
from oblique_scan import write_scan
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from array_samples import write_npy
from sbim_deploy.errors import InputError
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.image_files import open_images
from sbim_deploy.results.result_file import ResultWriter
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.outputs import Output, write_output
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings


@pytest.fixture
def volumes():
    """Three slices of different brightness and their noisy images, float32 (slices, rows, columns)."""
    rng = np.random.default_rng(0)
    reference = rng.random((3, 40, 33)).cumsum(axis=1).astype(np.float32)
    reference *= np.array([1.0, 0.3, 2.0], np.float32)[:, None, None]
    return reference + rng.standard_normal(reference.shape).astype(np.float32), reference


def write_fastmri_result(path, images):
    with h5py.File(path, "w") as file:
        file["reconstruction"] = images
    return path


@pytest.fixture
def files(volumes, tmp_path):
    image, reference = volumes
    return write_fastmri_result(tmp_path / "image.h5", image), write_npy(tmp_path, kspace=reference)


def fastmri_scores(image, reference, peaks):
    """PSNR and SSIM of each slice by scikit-image, with these data ranges."""
    return [
        (
            peak_signal_noise_ratio(r, i, data_range=peak),
            structural_similarity(r, i, win_size=7, data_range=peak),
        )
        for i, r, peak in zip(image, reference, peaks, strict=True)
    ]


@pytest.mark.parametrize("data_range", ["slice", "volume"])
def test_each_slice_has_scikit_image_s_scores_at_the_data_range_that_is_named(volumes, files, data_range):
    image, reference = volumes
    image = np.abs(image)
    peaks = reference.max(axis=(1, 2)) if data_range == "slice" else [reference.max()] * 3
    got = evaluate_file(*files, data_range=data_range)
    expected = fastmri_scores(image, reference, [float(peak) for peak in peaks])
    for each, (psnr, ssim), i, r in zip(got.slices, expected, image, reference, strict=True):
        assert (each.reconstruction.psnr, each.reconstruction.ssim) == pytest.approx((psnr, ssim), abs=1e-4)
        assert each.reconstruction.nmse == pytest.approx(np.sum((i - r) ** 2) / np.sum(r**2), rel=1e-4)
        assert each.reconstruction.nrmse == pytest.approx(each.reconstruction.nmse**0.5)
        assert (each.zero_filled, each.residual) == (None, None)
    assert got.data_range == data_range
    assert f"maximum in {'each slice' if data_range == 'slice' else 'the whole volume'}" in got.convention
    assert (got.volume is None) == (data_range == "slice")


def test_the_volume_has_the_scores_of_fastmri_s_evaluation(volumes, files):
    image, reference = np.abs(volumes[0]), volumes[1]
    got = evaluate_file(*files, data_range="volume").volume
    peak = float(reference.max())
    assert got.nmse == pytest.approx(
        np.linalg.norm(reference - image) ** 2 / np.linalg.norm(reference) ** 2, rel=1e-4
    )
    assert got.psnr == pytest.approx(peak_signal_noise_ratio(reference, image, data_range=peak), abs=1e-4)
    ssims = [ssim for _, ssim in fastmri_scores(image, reference, [peak] * 3)]
    assert got.ssim == pytest.approx(np.mean(ssims), abs=1e-5)
    by_slice = evaluate_file(*files).mean_reconstruction
    assert got.psnr > by_slice.psnr + 3  # the darkest slice alone gains 16 dB


def test_the_command_names_the_convention_in_its_text_and_in_json(cli, files):
    image, reference = files
    for data_range, said in (("slice", "maximum in each slice"), ("volume", "maximum in the whole volume")):
        options = ("--reference", reference, "--data-range", data_range)
        lines = cli("evaluate", image, *options).out.splitlines()
        assert said in lines[-1]
        assert "uniform window of 7 x 7" in lines[-1]
        assert lines[0].split() == ["slice", "NRMSE", "NMSE", "PSNR", "SSIM"]
        assert [line.split()[0] for line in lines[4:-1]] == ["mean", "volume"][: len(lines) - 5]
        told = json.loads(cli("evaluate", image, *options, "--json").out)
        assert told["data_range"] == data_range
        assert said in told["convention"]
    refused = cli("evaluate", image, "--reference", reference, "--data-range", "image")
    assert (refused.code, "expected one of slice, volume" in refused.error_line) == (2, True)


def test_a_factor_between_images_and_reference_is_said_with_the_scores_without_it(cli, volumes, tmp_path):
    image, reference = volumes
    bright = write_fastmri_result(tmp_path / "bright.h5", 40 * np.abs(image))
    path = write_npy(tmp_path, kspace=reference)
    got = evaluate_file(bright, path)
    assert got.factor.value == pytest.approx(40, rel=0.05)
    scaled = np.abs(image) * np.float32(40 / got.factor.value)
    expected = evaluate_file(write_fastmri_result(tmp_path / "scaled.h5", scaled), path)
    assert expected.factor is None
    np.testing.assert_allclose(
        astuple(got.factor.mean_reconstruction), astuple(expected.mean_reconstruction), rtol=1e-5
    )
    done = cli("evaluate", bright, "--reference", path, "--json")
    assert f"the images are {got.factor.value:.4g} times as bright as the reference" in done.err
    assert json.loads(done.out)["factor"]["value"] == pytest.approx(got.factor.value)


def test_images_that_are_merely_wrong_have_no_factor(volumes, tmp_path):
    _, reference = volumes
    for wrong in (1.03 * reference, np.roll(reference, 5, axis=2), np.zeros_like(reference), reference):
        path = write_fastmri_result(tmp_path / "wrong.h5", wrong)
        assert evaluate_file(path, write_npy(tmp_path, kspace=reference)).factor is None


def test_a_reference_that_is_not_the_input_of_the_result_is_said(cli, simulated, tmp_path):
    result = tmp_path / "out.h5"
    with ResultWriter(result, {}, range(1), resume=False) as writer:
        with h5py.File(simulated) as file:
            image = file["reference"][0]
        writer.write(0, image, image, 0.1)
        writer.finish({"input": {"name": "kspace.h5", "sha256": file_sha256(simulated)}})
    assert evaluate_file(result, simulated).reference_is_input is True
    other = tmp_path / "other.h5"
    shutil.copy(simulated, other)
    with h5py.File(other, "a") as file:
        file.attrs["note"] = "repaired"
    done = cli("evaluate", result, "--reference", other, "--json")
    assert f"{other} is not the file that the images were made from (kspace.h5, by its hash)" in done.err
    assert json.loads(done.out)["reference_is_input"] is False
    with h5py.File(simulated) as file:
        truth = write_npy(tmp_path, kspace=np.abs(file["reference"][:1]))
    assert evaluate_file(result, truth).reference_is_input is None


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    pytest.importorskip("ismrmrd")
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture(scope="module")
def written(scan):
    """A result of a fully sampled oblique scan of two series, in every format that recon writes."""
    for module in ("pydicom", "nibabel"):
        pytest.importorskip(module)
    folder = scan.parent
    result = folder / "result.h5"
    reconstruct_file(scan, result, ReconSettings(method=Classical("zero-filled")))
    names = (
        ("dicom", "dicom"),
        ("a.nii", "nifti"),
        ("b.nii.gz", "nifti"),
        ("m.h5", "mrd"),
        ("c.cfl", "cfl"),
    )
    with open_source(scan) as source:
        for name, kind in names:
            write_output(Output(folder / name, kind), result, source)
    with h5py.File(result) as file:
        np.savez(folder / "d.npz", image=file["image"][:])
        write_fastmri_result(folder / "f.h5", file["reconstruction"][:])
    return folder


def means(evaluation):
    scores = evaluation.mean_reconstruction if evaluation.factor is None else evaluation.factor
    return scores if evaluation.factor is None else scores.mean_reconstruction


FORMATS = ["result.h5", "dicom", "a.nii", "b.nii.gz", "m.h5", "c.cfl", "d.npz", "f.h5"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_written_scores_as_the_result_against_full_kspace(scan, written, name):
    got = evaluate_file(written / name, scan)
    assert got.reference == "root sum of squares of k-space"
    assert [each.index for each in got.slices] == list(range(6))
    # Of whole numbers, up to 4095 in MRD, half a step is what is lost.
    assert means(got).nrmse < {"m.h5": 1e-3, "dicom": 1e-4}.get(name, 2e-5)
    assert got.factor is None or name in ("dicom", "m.h5")  # whose pixels are whole numbers


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_written_is_a_reference(written, name):
    # Files that say where they lie may lie otherwise than those that do not.
    images = "dicom" if name in ("dicom", "a.nii", "b.nii.gz", "m.h5") else "c.cfl"
    got = evaluate_file(written / images, written / name)
    assert means(got).nrmse < 1e-3


def test_pixels_of_dicom_and_mrd_are_taken_to_the_magnitudes_that_the_file_says(scan, written, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    bright = evaluate_file(written / "m.h5", scan).factor
    if bright is not None:
        shutil.copy(written / "m.h5", tmp_path / "m.h5")
        with h5py.File(tmp_path / "m.h5", "a") as file:
            for series in ("image_1", "image_2"):
                entry = f"<meta><name>RealWorldValueSlope</name><value>{1 / bright.value}</value></meta>"
                texts = file[f"dataset/{series}/attributes"]
                texts[:] = [
                    each.replace(b"</ismrmrdMeta>", f"{entry}</ismrmrdMeta>".encode()) for each in texts[:]
                ]
        assert evaluate_file(tmp_path / "m.h5", scan).factor is None
    path = next((written / "dicom").iterdir())
    dataset = pydicom.dcmread(path)
    dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "3"
    dataset.save_as(tmp_path / "rescaled.dcm")
    del dataset.RescaleSlope, dataset.RescaleIntercept
    mapping = pydicom.Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.5, 3.0
    dataset.RealWorldValueMappingSequence = [mapping]
    dataset.save_as(tmp_path / "mapped.dcm")
    for name in ("rescaled.dcm", "mapped.dcm"):
        with open_images(tmp_path / name) as images:
            np.testing.assert_array_equal(images.read_image(0), 0.5 * dataset.pixel_array + 3)


def test_a_result_that_is_compared_as_it_lies_with_placed_images_says_so(scan, written):
    (said,) = evaluate_file(written / "result.h5", written / "a.nii").remarks
    assert "does not say where in the patient it lies" in said
    assert evaluate_file(written / "result.h5", scan).remarks == ()


def test_another_converter_s_volume_is_turned_onto_the_images(scan, written, tmp_path):
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not on the PATH: apt-get install dcm2niix")
    options = ["-b", "n", "-z", "n", "-f", "s%s", "-o", str(tmp_path)]
    subprocess.run([program, *options, str(written / "dicom")], check=True, capture_output=True)
    got = evaluate_file(tmp_path / "s1.nii", scan)
    assert sorted(each.index for each in got.slices) == [0, 1, 2]
    assert means(got).nrmse < 1e-4
    assert any("flipped" in remark for remark in got.remarks)


def test_files_of_other_things_are_refused_in_one_line(cli, simulated, scan, written, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.nii").write_text("no volume")
    (tmp_path / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 40)
    damaged = bytearray((written / "b.nii.gz").read_bytes())
    damaged[len(damaged) // 2 :] = b""
    (tmp_path / "cut.nii.gz").write_bytes(damaged)
    np.save(tmp_path / "small.npy", np.ones((6, 16, 16), np.float32))
    np.save(tmp_path / "few.npy", np.ones((5, 32, 32), np.float32))
    for image, reference, said in (
        (simulated, simulated, "holds no images"),
        (scan, scan, "holds no images"),
        (tmp_path / "empty", scan, "is not a plain file"),
        (tmp_path / "text.nii", scan, "cannot be read as NIfTI"),
        (tmp_path / "cut.nii.gz", scan, "cannot be read as NIfTI"),
        (tmp_path / "cut.dcm", scan, "cut.dcm: "),
        (written / "f.h5", tmp_path / "small.npy", "smaller than the result's"),
        (written / "f.h5", tmp_path / "few.npy", "has 6 images and"),
        (written / "f.h5", tmp_path / "nowhere.nii", "no such file"),
    ):
        done = cli("evaluate", image, "--reference", reference)
        assert done.code == 2, done
        assert said in done.error_line


def test_undersampled_kspace_without_a_reference_is_none(simulated, tmp_path):
    with h5py.File(simulated) as source, h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"], file["mask"] = source["kspace"][:], source["mask"][:]
        image = np.abs(source["reference"][:])
    path = write_fastmri_result(tmp_path / "image.h5", image)
    with pytest.raises(InputError, match=r"has no reference image, and only 5\d% of its k-space was sampled"):
        evaluate_file(path, tmp_path / "k.h5")


def test_kspace_that_is_padded_to_finer_pixels_is_fully_sampled(tmp_path):
    from blob_scans import blob_image, blob_kspace, spaces_xml, write_fastmri

    square = (240.0, 240.0)
    for samples in (96, 95):
        path = write_fastmri(
            tmp_path / f"k{samples}.h5",
            spaces_xml(((samples, samples), square), ((160, 160), square)),
            blob_kspace((samples, samples), square) + np.complex64(1e-6),  # formulas fall to 0, scans do not
        )
        image = write_fastmri_result(tmp_path / "image.h5", blob_image((160, 160), (1.5, 1.5))[None])
        assert means(evaluate_file(image, path)).nrmse < 1e-3


def test_of_a_file_with_both_the_image_is_scored_and_the_reference_is_the_reference(volumes, tmp_path):
    image, reference = np.abs(volumes[0]), volumes[1]
    np.savez(tmp_path / "both.npz", reference=reference, image=image)
    with h5py.File(tmp_path / "both.h5", "w") as file:
        file["target"], file["recon"] = reference, image
    expected = evaluate_file(
        write_fastmri_result(tmp_path / "i.h5", image), write_npy(tmp_path, kspace=reference)
    )
    for name in ("both.npz", "both.h5"):
        path = tmp_path / name
        assert evaluate_file(path, path).mean_reconstruction == expected.mean_reconstruction


def test_json_says_what_was_compared(files):
    told = asdict(evaluate_file(*files))
    assert (told["images"], told["reference"]) == ("fastMRI result", "NumPy .npy")
    assert told["remarks"] == (
        "images are compared in their order and as they lie: not both files say where in the patient that is",
    )

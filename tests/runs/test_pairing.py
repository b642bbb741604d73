"""Which reference goes with which image, and on which pixels."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from array_samples import write_npy
from blob_scans import blob_image, blob_kspace, spaces_xml, write_fastmri
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.results.result_file import ResultWriter
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.pairing import reference_magnitude
from sbim_deploy.runs.simulate import brain_slice

SQUARE = ((96, 96), (240.0, 240.0))
# k-space, its field of view | the image that recon makes of it | the pixels of fastMRI's square reference
NARROW = {
    "of a narrower field of view": ((128, 60), (320.0, 150.0), (96, 60), (2.5, 2.5), (60, 60)),
    "of wider columns": ((128, 60), (320.0, 240.0), (96, 96), (2.5, 4.0), (60, 96)),
}


@pytest.mark.parametrize("case", NARROW)
def test_a_reference_that_fastmri_cropped_square_is_compared_over_the_middle(cli, tmp_path, case):
    samples, extent, image_shape, voxel, common = NARROW[case]
    path = write_fastmri(
        tmp_path / "k.h5",
        spaces_xml((samples, extent), SQUARE),
        blob_kspace(samples, extent) + np.complex64(1e-6),
        reconstruction_rss=np.sqrt(2.0) * blob_image((60, 60), voxel)[None].astype(np.float32),
    )
    out, png = tmp_path / "out.h5", tmp_path / "out.png"
    done = cli("recon", path, "-o", out, "--method", "zero-filled", "--png", png)
    assert done.code == 0, done.err
    assert png.exists()
    with h5py.File(out) as file:
        assert file["image"].shape[1:] == image_shape
    done = cli("evaluate", out, "--reference", path, "--json")
    assert done.code == 0, done.err
    said = f"compared over the middle {common[0]} x {common[1]} of {image_shape[0]} x {image_shape[1]} pixels"
    assert said in done.err
    told = json.loads(done.out)
    scores = told["factor"]["mean_reconstruction"] if told["factor"] else told["mean_reconstruction"]
    assert scores["nrmse"] < 0.02
    with open_kspace(path) as scan:
        assert reference_magnitude(scan, 0, image_shape).shape == common


def test_a_smaller_reference_that_is_not_the_narrower_side_is_refused(tmp_path):
    path = write_fastmri(
        tmp_path / "k.h5",
        spaces_xml(((128, 60), (320.0, 150.0)), SQUARE),
        blob_kspace((128, 60), (320.0, 150.0)),
        reconstruction_rss=np.ones((1, 50, 50), np.float32),
    )
    with open_kspace(path) as scan, pytest.raises(InputError, match="smaller than the result's"):
        reference_magnitude(scan, 0, (96, 60))


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda image: image.transpose(0, 2, 1), "transposed"),
        (lambda image: image[:, ::-1], "flipped along its rows axis"),
        (
            lambda image: 3 * image[:, ::-1, ::-1],
            "flipped along its rows axis and flipped along its columns axis",
        ),
    ],
)
def test_a_reference_that_lies_otherwise_is_told_apart_from_one_that_is_merely_far(tmp_path, turn, words):
    brains = np.stack([brain_slice(index, 64) for index in range(2)])
    rng = np.random.default_rng(0)
    noisy = (brains + 0.1 * rng.standard_normal(brains.shape)).astype(np.float32)
    result = write_result(tmp_path / "r.h5", noisy, (0, 1))
    said = evaluate_file(result, write_npy(tmp_path, kspace=np.ascontiguousarray(turn(brains)))).remarks
    assert any(f"the reference would fit much better {words}: " in each for each in said)
    for far in (brains, brains + 0.5 * rng.random(brains.shape), np.roll(brains, 8, axis=1)):
        path = write_npy(tmp_path, kspace=far.astype(np.float32))
        assert not any("fit much better" in each for each in evaluate_file(result, path).remarks)


def write_result(path, images, indices):
    with ResultWriter(path, {}, indices, resume=False) as writer:
        for index, image in zip(indices, images, strict=True):
            writer.write(index, image.astype(np.complex64), image.astype(np.complex64), 0.1)
        writer.finish({})
    return path


def test_part_of_a_scan_goes_by_its_numbers_or_in_order_where_the_reference_has_as_many(tmp_path):
    images = np.random.default_rng(0).random((6, 32, 32)).astype(np.float32)
    result = write_result(tmp_path / "r.h5", images[3:5], (3, 4))
    whole = evaluate_file(result, write_npy(tmp_path, kspace=images))
    assert [each.index for each in whole.slices] == [3, 4]
    assert (whole.mean_reconstruction.nrmse, whole.remarks) == (0, ())
    part = evaluate_file(result, write_npy(tmp_path, kspace=images[3:5]))
    assert [each.index for each in part.slices] == [0, 1]
    assert part.mean_reconstruction.nrmse == 0
    assert part.remarks == ("slices 3 to 4 are compared with all slices of the reference, in order",)
    with pytest.raises(InputError, match=r"has 2 images and .* 3: expected as many"):
        evaluate_file(result, write_npy(tmp_path, kspace=images[:3]))

"""Volumes against a reference volume, in whichever file either of them is."""

from __future__ import annotations

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.recon.classical import Classical
from sbim_deploy.results.nifti import write_nifti
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.outputs import Output, write_output
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from volume_scans import make_volume, plane_mask, write_h5_volume

SHAPE = (16, 32, 24)
SLICES_FIRST = Reading("slice,row,column")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scan with its reference, its result, and result and truth in other formats."""
    pytest.importorskip("nibabel")
    folder = tmp_path_factory.mktemp("volumes")
    scan = make_volume(SHAPE)
    kspace = scan.kspace * plane_mask(SHAPE)[:, None, :]
    beside = {"reference": scan.image, "s_maps": scan.maps.swapaxes(0, 1)}
    path = write_h5_volume(folder / "scan.h5", kspace, coils_first=False, **beside)
    settings = ReconSettings(method=Classical.CG_SENSE, dimensions=3, maps=path, noise=0.002)
    reconstruct_file(path, folder / "out.h5", settings)
    with open_volume(path, folder) as source:
        for name, kind in (("out.nii", "nifti"), ("out.cfl", "cfl")):
            write_output(Output(folder / name, kind), folder / "out.h5", source)
    truth = np.abs(scan.image).swapaxes(0, 1)
    write_nifti(folder / "truth.nii", truth, None)
    np.save(folder / "truth.npy", truth)
    write_cfl(folder / "truth.cfl", scan.image.transpose(1, 2, 0))  # readout, lines, partitions
    return folder


@pytest.mark.parametrize("images", ["out.h5", "out.nii", "out.cfl"])
@pytest.mark.parametrize("reference", ["scan.h5", "truth.nii", "truth.npy", "truth.cfl"])
def test_every_pair_of_files_gives_the_same_scores_without_the_empty_slices(folder, images, reference):
    expected = evaluate_file(folder / "out.h5", folder / "scan.h5")  # whose reference it knows to be a volume
    reading = SLICES_FIRST if reference.endswith(".npy") else Reading()
    found = evaluate_file(folder / images, folder / reference, reading=reading, dimensions=3)
    assert len(found.slices) == len(expected.slices) == 32 - found_empty(folder)
    assert found.mean_reconstruction.nrmse == pytest.approx(expected.mean_reconstruction.nrmse, rel=1e-4)
    assert found.mean_reconstruction.nrmse < 0.3
    assert [each.index for each in found.slices] == [each.index for each in expected.slices]
    assert any("beside the object, where the reference is zero" in remark for remark in found.remarks)


def found_empty(folder):
    return int((~np.load(folder / "truth.npy").any(axis=(1, 2))).sum())


def test_a_result_says_itself_that_it_is_a_volume_and_is_not_contradicted(folder):
    with pytest.raises(InputError, match="was reconstructed with --dimensions 3, not 2"):
        evaluate_file(folder / "out.h5", folder / "scan.h5", dimensions=2)


def test_a_reference_that_is_zero_everywhere_is_refused(folder, tmp_path):
    np.save(tmp_path / "zero.npy", np.zeros((32, 16, 24), np.float32))
    with pytest.raises(InputError, match="zero in every slice"):
        evaluate_file(folder / "out.h5", tmp_path / "zero.npy", reading=SLICES_FIRST)

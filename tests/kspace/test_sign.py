"""Siemens' raw data are the conjugate of what the header's directions say; every format comes out right."""

import numpy as np
import pytest

from blob_scans import (
    blob_image,
    blob_kspace,
    blob_readouts,
    distance,
    spaces_xml,
    write_fastmri,
    write_readouts,
)
from sbim_deploy.errors import InputError
from sbim_deploy.io.documents import find_named
from sbim_deploy.kspace.cfl import write_cfl
from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.orientation import Orientation, is_conjugated
from sbim_deploy.mri.fourier import centred_fft, centred_ifft, turned
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.scan import Tally, open_scan, read_problem
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice

N, MM = 48, 240.0
SPACE = ((N, N), (MM, MM))
VOXEL = (MM / N, MM / N)
AS_BLOBS = blob_kspace((N, N), (MM, MM))
AUTO, PLAIN, TURNED = Orientation
ONE_STEP = {"choice": SamplerChoice(steps=1), "backend": "onnxruntime", "threads": 1}


def scan_of(path, vendor, kspace):
    return write_readouts(path, spaces_xml(SPACE, SPACE, vendor), blob_readouts(kspace))


def read(path, orientation=AUTO):
    with open_source(path, orientation=orientation) as source:
        return centred_ifft(source.read_slice(0)[0])


@pytest.mark.parametrize(
    ("vendor", "conjugated"),
    [
        ("SIEMENS", True),
        ("Siemens Healthineers", True),
        (" siemens ", True),
        ("GE MEDICAL SYSTEMS", False),
        ("Philips", False),
        ("", False),
        (None, False),
    ],
)
def test_the_vendor_decides_and_an_option_comes_first(vendor, conjugated):
    assert is_conjugated(AUTO, vendor) == conjugated
    assert not is_conjugated(PLAIN, vendor)
    assert is_conjugated(TURNED, vendor)


def test_an_unknown_orientation_is_refused():
    with pytest.raises(InputError, match="unknown orientation 'up': expected one of auto, plain, turned"):
        find_named(Orientation, "up", "orientation")


@pytest.mark.parametrize("vendor", ["SIEMENS", "GE"])
def test_raw_data_of_each_vendor_give_the_object_where_it_is(vendor, tmp_path):
    kspace = AS_BLOBS.conj() if vendor == "SIEMENS" else AS_BLOBS
    path = scan_of(tmp_path / "scan.h5", vendor, kspace)
    assert distance(read(path), VOXEL) < 0.02
    assert distance(turned(read(path)), VOXEL) > 0.5
    said = describe(path)["assumed"] or []
    assert any("conjugated, as raw data of 'SIEMENS'" in each for each in said) == (vendor == "SIEMENS")


def test_a_stream_of_siemens_has_the_sign_that_the_file_has(tmp_path):
    xml, readouts = spaces_xml(SPACE, SPACE, "SIEMENS"), blob_readouts(AS_BLOBS.conj())
    path = write_readouts(tmp_path / "scan.h5", xml, readouts)
    for orientation in Orientation:
        assembler = SliceAssembler(parse_mrd_header(xml, "scan"), orientation=orientation)
        ((each,),) = [got for got in map(assembler.add, readouts) if got]
        with open_source(path, orientation=orientation) as source:
            np.testing.assert_array_equal(each.kspace, source.read_slice(0))
            assert list(each.remarks) == (source.describe()["assumed"] or [])


@pytest.mark.parametrize("file_format", ["MRD", "fastMRI", "BART", "array"])
def test_the_option_holds_for_every_format(file_format, tmp_path):
    conjugated = AS_BLOBS.conj()
    if file_format == "MRD":
        path = scan_of(tmp_path / "scan.h5", "SIEMENS", conjugated)
    elif file_format == "fastMRI":
        path = write_fastmri(tmp_path / "scan.h5", spaces_xml(SPACE, SPACE, "SIEMENS"), conjugated)
    elif file_format == "array":
        path = tmp_path / "scan.npy"
        np.save(path, conjugated)
    else:
        path = tmp_path / "scan.cfl"
        write_cfl(path, np.moveaxis(conjugated, 0, -1)[:, :, None, :])
    assert distance(read(path, TURNED), VOXEL) < 0.02
    assert distance(turned(read(path, PLAIN)), VOXEL) < 0.02
    # What does not say how the patient lay is left as it is, whoever made the scanner.
    assert distance(read(path) if file_format == "MRD" else turned(read(path)), VOXEL) < 0.02


def test_given_maps_and_a_reference_turn_with_kspace(tmp_path):
    maps = np.stack(
        [np.exp(-((np.arange(N) - c) ** 2)[:, None] / 800 + 0.02j * np.arange(N)) for c in (5, 20, 40)]
    )
    maps = (maps / np.sqrt((np.abs(maps) ** 2).sum(axis=0))).astype(np.complex64)
    image = blob_image((N, N), VOXEL).astype(np.complex64)
    path = write_fastmri(
        tmp_path / "scan.h5",
        spaces_xml(SPACE, SPACE),
        centred_fft(maps * image).astype(np.complex64),
        s_maps=maps[None],
        reference=image[None],
    )
    problems = {}
    for orientation in (PLAIN, TURNED):
        settings = ReconSettings(maps=path, orientation=orientation)
        with open_source(path, orientation=orientation) as source, open_scan(source, settings) as scan:
            problems[orientation] = read_problem(0, scan, Tally())
    np.testing.assert_allclose(
        problems[TURNED].zero_filled, turned(problems[PLAIN].zero_filled).conj(), atol=1e-5
    )
    with open_kspace(path) as kspace:
        kspace.conjugated = True
        np.testing.assert_array_equal(kspace.read_reference(0), turned(image).conj())
    out = tmp_path / "out.h5"
    made = reconstruct_file(path, out, ReconSettings(maps=path, orientation=TURNED, **ONE_STEP))
    assert made.orientation == "turned"
    assert evaluate_file(out, path).mean_zero_filled.nrmse < 0.01


def test_recon_of_siemens_raw_data_shows_the_object_the_right_way_round_and_says_so(tmp_path):
    path, out = scan_of(tmp_path / "scan.h5", "SIEMENS", AS_BLOBS.conj()), tmp_path / "out.h5"
    made = reconstruct_file(path, out, ReconSettings(**ONE_STEP))
    assert any("conjugated" in each for each in made.measured.scan["assumed"])
    with open_result(out) as result:
        assert distance(result.read_image(0), VOXEL) < 0.3
        assert distance(turned(result.read_image(0)), VOXEL) > 0.6

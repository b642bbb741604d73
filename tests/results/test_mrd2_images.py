"""Images in a stream of MRD version 2, as the mrd package and its tools read them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image as Picture

from mrd2_samples import acquisition_item, mrd, other_items, scan_header, stream_bytes
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.mrd.header import Encoding, Limit, MrdHeader, Space
from sbim_deploy.mrd.messages import ACQUISITION_HEADER
from sbim_deploy.mrd.version2 import Version2File
from sbim_deploy.results.intensity import series_intensity
from sbim_deploy.results.mrd2_images import write_mrd2_images
from sbim_deploy.results.mrd_images import MrdForm, write_mrd_images
from series_samples import BRIGHT, DERIVATION, PROTOCOL, SHAPE, VOXEL_MM, stack
from simulated_mrd import make_scan

SPACES = (Space((48, 21, 1), (96.0, 63.0, 4.0)), Space((24, 21, 1), (48.0, 63.0, 4.0)))
HEADER = MrdHeader((Encoding(*SPACES, step_1=Limit(0, 20, 10)),), PROTOCOL)


def form_of(series, **changes):
    return MrdForm(**{"derivation": DERIVATION, "intensity": series_intensity(series), **changes})


def write(path, series, header=HEADER, **changes):
    write_mrd2_images(path, series, form_of(series, **changes), header)
    return path


def read(path):
    """Return the header and the images of a stream."""
    with mrd.BinaryMrdReader(str(path)) as reader:
        header, items = reader.read_header(), list(reader.read_data())
    assert all(isinstance(item, mrd.StreamItem.ImageFloat) for item in items)
    return header, [item.value for item in items]


def texts(image, name):
    return [value.value for value in image.meta[name]]


def test_images_read_back_by_the_mrd_package(tmp_path):
    series = stack()
    _, images = read(write(tmp_path / "out.mrd2", [series], keep_grid=True))
    assert len(images) == 4
    for place, (image, geometry) in enumerate(zip(images, series.geometries, strict=True)):
        head = image.head
        _, row, column = BRIGHT[place]
        assert image.data.shape == (1, 1, *SHAPE[::-1])
        assert np.argwhere(image.data).tolist() == [[0, 0, column, row]]
        assert image.data.max() == 5 + place
        np.testing.assert_allclose(head.position, geometry.position, rtol=1e-6)
        np.testing.assert_allclose(head.col_dir, geometry.read_dir, rtol=1e-6)
        np.testing.assert_allclose(head.line_dir, geometry.phase_dir, rtol=1e-6)
        np.testing.assert_allclose(head.slice_dir, geometry.slice_dir, rtol=1e-6)
        np.testing.assert_allclose(head.field_of_view, geometry.field_of_view_mm)
        assert head.image_type == mrd.ImageType.MAGNITUDE
        assert (head.image_index, head.image_series_index, head.slice) == (place + 1, 1, series.slices[place])
        assert texts(image, "ImageComments") == ["residual 0.1000; research use only"]
        assert texts(image, "ImageProcessingHistory")[-1] == "research use only"
        white = series_intensity([series]).white
        assert float(texts(image, "WindowWidth")[0]) == pytest.approx(white, rel=1e-5)
        assert float(texts(image, "WindowCenter")[0]) == pytest.approx(white / 2, rel=1e-5)
        assert texts(image, "RealWorldValueSlope") == ["1"]  # the pixels are the magnitudes
        np.testing.assert_allclose(
            np.array(texts(image, "ImageColumnDir"), float), geometry.phase_dir, rtol=1e-6
        )
    assert [each.name for each in tmp_path.iterdir()] == ["out.mrd2"]


@pytest.mark.parametrize("keep_grid", [False, True])
def test_what_is_said_of_an_image_is_what_version_1_says(tmp_path, keep_grid):
    ismrmrd = pytest.importorskip("ismrmrd")
    readout = np.zeros((), ACQUISITION_HEADER)[()]
    readout["measurement_uid"], readout["acquisition_time_stamp"] = 77, 4321
    readout["physiology_time_stamp"], readout["user_int"][3] = (5, 6, 7), -9
    readout["idx"]["slice"], readout["idx"]["repetition"] = 9, 3
    doubts = ["", "DOUBTFUL: the receiver was overdriven", "", ""]
    series = [stack(), stack(number=2, acquisitions=[readout] * 4, label="repetition 3", doubts=doubts)]
    how = {"first_stamp": 4000, "keep_grid": keep_grid}
    _, images = read(write(tmp_path / "out.mrd2", series, **how))
    write_mrd_images(tmp_path / "out.h5", series, form_of(series, **how))
    assert "DOUBTFUL: the receiver was overdriven" in texts(images[5], "ImageComments")[0]
    assert (images[5].head.measurement_uid, images[5].head.acquisition_time_stamp) == (0, 321)
    in_pixels = dict.fromkeys(("WindowCenter", "WindowWidth", "RealWorldValueSlope"))
    with ismrmrd.Dataset(tmp_path / "out.h5", mode="r") as dataset:
        for place, image in enumerate(images):
            first = dataset.read_image(f"image_{1 + place // 4}", place % 4)
            head = first.getHead()
            for name in ("measurement_uid", "slice", "repetition", "image_index", "image_series_index"):
                assert getattr(image.head, name) == getattr(head, name), name
            assert image.head.acquisition_time_stamp == head.acquisition_time_stamp
            assert image.head.physiology_time_stamp == list(head.physiology_time_stamp)
            assert image.head.user_int == list(head.user_int)
            assert image.head.col_dir.tolist() == list(head.read_dir)
            assert image.head.line_dir.tolist() == list(head.phase_dir)
            assert image.head.position.tolist() == list(head.position)
            np.testing.assert_array_equal(image.data > 0, first.data > 0)
            said = {name: texts(image, name) for name in image.meta}
            theirs = {
                name: [each] if isinstance(each, str) else list(each) for name, each in first.meta.items()
            }
            assert {**said, **in_pixels} == {**theirs, **in_pixels}


def test_the_stream_s_header_has_the_scan_and_nothing_of_patient_and_study(tmp_path):
    header, _ = read(write(tmp_path / "out.mrd2", [stack()]))
    assert header.subject_information is None
    assert header.study_information is None
    assert header.measurement_information.patient_position == mrd.PatientPosition.H_FS
    assert header.measurement_information.frame_of_reference_uid is None
    assert header.measurement_information.protocol_name is None
    assert header.acquisition_system_information.system_vendor == "Vendor"
    assert header.sequence_parameters.t_e == [10, 20]
    with Version2File(tmp_path / "out.mrd2") as file:
        assert file.header.encodings[0].encoded == SPACES[0]
        assert file.header.encodings[0].recon == SPACES[1]
        assert file.header.encodings[0].step_1 == Limit(0, 20, 10)
        kept = {each.name: getattr(file.header.protocol, each.name) for each in fields(PROTOCOL)}
        wanted = {each.name: getattr(PROTOCOL, each.name) for each in fields(PROTOCOL)}
        assert {**kept, "resonance_frequency_hz": None} == wanted


def test_without_a_scan_s_header_there_is_none_and_the_size_comes_from_the_voxels(tmp_path):
    series = [stack(geometries=[None] * 4)]
    header, images = read(write(tmp_path / "out.mrd2", series, None, voxel_mm=VOXEL_MM))
    assert header is None
    assert images[0].head.field_of_view.tolist() == [48, 63, 4]
    assert not images[0].head.col_dir.any()


def test_the_package_s_own_tool_draws_the_images(tmp_path):
    write(tmp_path / "out.mrd2", [stack()], keep_grid=True)
    tool = [sys.executable, "-m", "mrd.tools.export_png_images", "-i", "out.mrd2", "-o", "picture_"]
    subprocess.run(tool, cwd=tmp_path, check=True, capture_output=True)
    drawn = sorted(tmp_path.glob("picture_*.png"))
    assert len(drawn) == 4
    with Picture.open(drawn[2]) as picture:
        pixels = np.asarray(picture)
    _, row, column = BRIGHT[2]
    assert np.argwhere(pixels).tolist() == [[column, row]]


def test_a_slice_number_beyond_the_header_leaves_no_file(tmp_path):
    with pytest.raises(InputError, match="slice 70000 does not fit"):
        write(tmp_path / "out.mrd2", [stack(slices=[70000] * 4)])
    assert not list(tmp_path.iterdir())


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mrd.binary", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[mrd2\]"'):
        write(tmp_path / "out.mrd2", [stack()])


def test_a_stream_of_images_is_replaced_by_force_alone(tmp_path):
    path = write(tmp_path / "out.mrd2", [stack()])
    with pytest.raises(InputError, match="is there already"):
        write(path, [stack()])
    write_mrd2_images(path, [stack()], form_of([stack()]), HEADER, force=True)
    assert len(read(path)[1]) == len(stack().volume)


@pytest.mark.parametrize(
    "kind", ["readouts", "readouts among images", "a header alone", "cut", "two", "text"]
)
def test_a_stream_that_may_hold_a_scan_is_never_replaced(tmp_path, kind):
    path = write(tmp_path / "out.mrd2", [stack()])
    images = path.read_bytes()
    scan = make_scan(size=8, n_coils=2)
    readout = acquisition_item(scan.readouts[0])
    image = next(item for item in other_items() if isinstance(item, mrd.StreamItem.ImageFloat))
    stored = {
        "readouts": stream_bytes(None, [readout]),
        "readouts among images": stream_bytes(None, [image, readout, image]),
        "a header alone": stream_bytes(scan_header(scan.settings), []),
        "cut": images[:-1],
        "two": images + images,
        "text": b'{"yardl":{"version":1}}',
    }[kind]
    path.write_bytes(stored)
    with pytest.raises(InputError, match="holds an MRD 2 stream, which nothing replaces"):
        write_mrd2_images(path, [stack()], form_of([stack()]), HEADER, force=True)
    assert path.read_bytes() == stored

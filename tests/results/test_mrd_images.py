from __future__ import annotations

import numpy as np
import pytest

from letter_f import UPRIGHT, VIEWS, WAYS, place_of, scanned
from sbim_deploy.errors import InputError
from sbim_deploy.mrd.identity import Identity
from sbim_deploy.mrd.messages import ACQUISITION_HEADER
from sbim_deploy.results.intensity import Intensity, series_intensity
from sbim_deploy.results.mrd_images import MrdForm, Owner, write_mrd_images
from series_samples import BRIGHT, DERIVATION, SHAPE, VOXEL_MM, stack


@pytest.fixture
def ismrmrd():
    return pytest.importorskip("ismrmrd")


def write(path, series, bits=12, **changes):
    """Write series, on the scale of their own brightest pixel unless it is given."""
    form = {"derivation": DERIVATION, "intensity": series_intensity(series), **changes}
    write_mrd_images(path, series, MrdForm(**form), bits)


def read_images(ismrmrd, path, series=1):
    with ismrmrd.Dataset(path, mode="r") as dataset:
        name = f"image_{series}"
        return [dataset.read_image(name, place) for place in range(dataset.number_of_images(name))]


def test_images_read_back_by_the_ismrmrd_package(tmp_path, ismrmrd):
    series = stack()
    write(tmp_path / "out.h5", [series], keep_grid=True)
    images = read_images(ismrmrd, tmp_path / "out.h5")
    for place, (image, geometry) in enumerate(zip(images, series.geometries, strict=True)):
        head = image.getHead()
        _, row, column = BRIGHT[place]
        assert np.argwhere(image.data).tolist() == [[0, 0, column, row]]
        assert image.data.max() == round(4095 * (5 + place) / 8)
        assert image.data.dtype == np.int16
        assert tuple(head.matrix_size) == (*SHAPE, 1)
        np.testing.assert_allclose(head.position, geometry.position, rtol=1e-6)
        np.testing.assert_allclose(head.read_dir, geometry.read_dir, rtol=1e-6)
        np.testing.assert_allclose(head.field_of_view, geometry.field_of_view_mm)
        assert (head.image_type, head.image_index, head.image_series_index) == (1, place + 1, 1)
        assert head.slice == series.slices[place]
        assert image.meta["ImageComments"] == "residual 0.1000; research use only"
        assert image.meta["ImageProcessingHistory"][-1] == "research use only"
        assert image.meta["InPlanePhaseEncodingDirection"] == "COL"
        column_dir = np.array(image.meta["ImageColumnDir"], float)
        np.testing.assert_allclose(column_dir, geometry.phase_dir, rtol=1e-6)
    assert [each.name for each in tmp_path.iterdir()] == ["out.h5"]


def test_without_geometry_the_size_comes_from_the_voxels(tmp_path, ismrmrd):
    write(tmp_path / "out.h5", [stack(geometries=[None] * 4)], voxel_mm=VOXEL_MM)
    head = read_images(ismrmrd, tmp_path / "out.h5")[0].getHead()
    assert list(head.field_of_view) == [48, 63, 4]
    assert list(head.read_dir) == [0, 0, 0]


def test_counters_and_stamps_come_from_the_readout(tmp_path, ismrmrd):
    readout = np.zeros((), ACQUISITION_HEADER)[()]
    readout["measurement_uid"], readout["acquisition_time_stamp"] = 77, 4321
    readout["idx"]["slice"], readout["idx"]["repetition"] = 9, 3
    readout["physiology_time_stamp"], readout["user_int"], readout["user_float"] = (4, 5, 6), 8, 9.0
    series = [stack(), stack(number=2, acquisitions=[readout] * 4, label="repetition 3")]
    write(tmp_path / "out.h5", series, 10, first_stamp=4000)
    images = read_images(ismrmrd, tmp_path / "out.h5", 2)
    head = images[3].getHead()
    # Nobody's images: what leads back to the measurement is left out, and time counts from its start.
    assert (head.measurement_uid, head.acquisition_time_stamp) == (0, 321)
    assert (list(head.physiology_time_stamp), list(head.user_int), list(head.user_float)) == (
        [4, 5, 6],
        [0] * 8,
        [0] * 8,
    )
    assert (head.slice, head.repetition, head.image_series_index) == (9, 3, 2)
    assert images[0].meta["ImageComments"] == "repetition 3 residual 0.1000; research use only"
    assert max(image.data.max() for image in images) == 1023
    with ismrmrd.Dataset(tmp_path / "out.h5", mode="r") as dataset:
        assert "xml" not in dataset.list()


def test_images_of_the_real_patient_carry_the_scan_s_header_numbers_and_names(tmp_path, ismrmrd):
    readout = np.zeros((), ACQUISITION_HEADER)[()]
    readout["measurement_uid"], readout["acquisition_time_stamp"], readout["user_int"] = 77, 4321, 8
    series = [stack(acquisitions=[readout] * 4)]
    owner = Owner(Identity("Doe^Jane", "4711", "1.2.3", sex="F"), b"<ismrmrdHeader/>")
    write(tmp_path / "out.h5", series, owner=owner, first_stamp=4000)
    image = read_images(ismrmrd, tmp_path / "out.h5")[0]
    head = image.getHead()
    assert (head.measurement_uid, head.acquisition_time_stamp, head.user_int[0]) == (77, 4321, 8)
    assert (image.meta["PatientName"], image.meta["PatientID"]) == ("Doe^Jane", "4711")
    assert (image.meta["PatientSex"], image.meta["StudyInstanceUID"]) == ("F", "1.2.3")
    assert "PatientBirthDate" not in image.meta
    with ismrmrd.Dataset(tmp_path / "out.h5", mode="r") as dataset:
        assert dataset.read_xml_header() == b"<ismrmrdHeader/>"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("way", WAYS)
def test_a_letter_is_upright_in_x_and_y(tmp_path, ismrmrd, view, way):
    volume, geometry = scanned(view, way)
    series = stack((0,), volume=volume[None], slices=(0,), geometries=[geometry])
    write(tmp_path / "out.h5", [series])
    (image,) = read_images(ismrmrd, tmp_path / "out.h5")
    head = image.getHead()
    np.testing.assert_array_equal(image.data[0, 0] > 0, UPRIGHT > 0)
    np.testing.assert_array_equal([head.read_dir, head.phase_dir], VIEWS[view])
    row, column = 1, 5  # the end of the letter's bar
    sizes, steps = np.array(head.matrix_size[:2]), np.divide(head.field_of_view[:2], head.matrix_size[:2])
    across = (np.array([column, row]) - sizes // 2) * steps
    place = np.array(head.position) + across @ np.array([head.read_dir, head.phase_dir])
    np.testing.assert_allclose(place, place_of(view, row, column), atol=1e-4)
    assert image.meta["ImageProcessingHistory"][-2:] == [f"{view} view", "research use only"]
    assert image.meta["InPlanePhaseEncodingDirection"] == ("COL" if way[0] else "ROW")


def test_pixels_times_the_slope_are_the_magnitudes_and_all_series_have_one_window(tmp_path, ismrmrd):
    first = stack()
    second = stack(number=2, volume=first.volume / 4)
    intensity = Intensity(full_scale=20.0, white=7.0)
    write(tmp_path / "out.h5", [first, second], intensity=intensity, keep_grid=True)
    windows = set()
    for number, series in enumerate((first, second), 1):
        for image, expected in zip(
            read_images(ismrmrd, tmp_path / "out.h5", number), series.volume, strict=True
        ):
            slope = float(image.meta["RealWorldValueSlope"])
            assert slope == pytest.approx(20 / 4095)
            np.testing.assert_allclose(image.data[0, 0].T * slope, expected, atol=0.51 * slope)
            windows.add((image.meta["WindowCenter"], image.meta["WindowWidth"]))
    assert windows == {("716", "1433")}


def test_a_doubtful_image_says_so_in_its_comment(tmp_path, ismrmrd):
    series = stack(doubts=["", "DOUBTFUL: the receiver was overdriven", "", ""])
    write(tmp_path / "out.h5", [series])
    comments = [image.meta["ImageComments"] for image in read_images(ismrmrd, tmp_path / "out.h5")]
    assert comments[0] == "residual 0.1000; research use only"
    assert comments[1] == "residual 0.1000 DOUBTFUL: the receiver was overdriven; research use only"


def test_a_slice_number_beyond_the_header_is_refused(tmp_path):
    with pytest.raises(InputError, match="slice 70000 does not fit"):
        write(tmp_path / "out.h5", [stack(slices=[70000] * 4)])
    assert not list(tmp_path.iterdir())

import ctypes

import h5py
import numpy as np
import pytest

from mrd_samples import sample_image
from sbim_deploy.errors import InputError
from sbim_deploy.mrd.images import (
    MrdImageFile,
    image_attributes,
    image_header,
    image_pixels,
    image_view,
    pixel_bits,
    scale_to_int16,
    series_scale,
)
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, PIXEL_TYPES
from sbim_deploy.records import SliceGeometry

SHAPE = (6, 5)
GEOMETRY = SliceGeometry((1, 2, 3), (0, 1, 0), (0, 0, 1), (1, 0, 0), (120, 100, 4))


@pytest.fixture
def ismrmrd():
    return pytest.importorskip("ismrmrd")


def readout_header():
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["measurement_uid"], header["acquisition_time_stamp"] = 7, 123
    header["position"], header["read_dir"] = (9, 9, 9), (1, 0, 0)
    header["patient_table_position"], header["physiology_time_stamp"] = (0, 0, -40), (4, 5, 6)
    header["user_int"], header["user_float"] = range(8), np.arange(8) / 2
    for number, name in enumerate(("average", "slice", "contrast", "phase", "repetition", "set")):
        header["idx"][name] = 10 + number
    return header


def test_header_is_what_the_ismrmrd_package_makes_of_the_same_readout(ismrmrd):
    acquisition = ismrmrd.Acquisition(readout_header().tobytes())
    theirs = ismrmrd.Image.from_array(
        np.zeros(SHAPE[::-1], np.int16),
        acquisition,
        image_index=2,
        image_series_index=3,
        image_type=ismrmrd.IMTYPE_MAGNITUDE,
        field_of_view=(120, 100, 4),
    ).getHead()
    ours = image_header(SHAPE, 2, 3, readout_header(), field_of_view_mm=(120, 100, 4))
    theirs.version = 1
    assert ours.tobytes() == bytes(theirs)
    assert ctypes.sizeof(theirs) == 198


def test_geometry_comes_before_the_readout_s():
    header = image_header(SHAPE, 1, 1, readout_header(), GEOMETRY)
    assert header["position"].tolist() == [1, 2, 3]
    assert header["read_dir"].tolist() == [0, 1, 0]
    assert header["field_of_view"].tolist() == [120, 100, 4]
    assert header["patient_table_position"].tolist() == [0, 0, -40]


def test_a_number_that_the_header_cannot_hold_is_refused():
    with pytest.raises(InputError, match="number is 65536, expected 0 to 65535"):
        image_header(SHAPE, 65536, 1)


def test_attributes_read_back_by_the_ismrmrd_package(ismrmrd):
    header = image_header(SHAPE, 1, 1, geometry=GEOMETRY)
    view = image_view(GEOMETRY, keep_grid=True)
    text = image_attributes(
        header, view, ["sbim-deploy", "dds <&>"], "residual 0.1", "sbim_dds", scale=8.0, white=1000.4
    )
    meta = ismrmrd.Meta.deserialize(text)
    assert meta["DataRole"] == "Image"
    assert meta["Keep_image_geometry"] == "1"
    assert meta["ImageProcessingHistory"] == ["sbim-deploy", "dds <&>", "research use only"]
    assert meta["ImageComments"] == "residual 0.1; research use only"
    assert meta["ImageRowDir"] == ["0.000000000000000000", "1.000000000000000000", "0.000000000000000000"]
    assert meta["ImageColumnDir"][2] == "1.000000000000000000"
    assert meta["InPlanePhaseEncodingDirection"] == "COL"
    assert (meta["WindowCenter"], meta["WindowWidth"]) == ("500", "1000")
    assert (meta["RealWorldValueSlope"], meta["RealWorldValueIntercept"]) == ("0.125", "0")
    assert "PatientID" not in meta
    assert "StudyInstanceUID" not in meta


def test_x_is_the_readout_and_lies_fastest(ismrmrd):
    image = np.zeros(SHAPE, np.int16)
    image[4, 1] = 1  # readout position 4, phase encode 1
    pixels = image_pixels(image)
    header = image_header(SHAPE, 1, 1)
    stream = header.tobytes() + (0).to_bytes(8, "little") + pixels.tobytes()
    theirs = ismrmrd.Image.from_bytes(stream)
    assert theirs.matrix_size == (*SHAPE, 1)
    assert theirs.data.shape == (1, 1, 5, 6)
    assert np.argwhere(theirs.data).tolist() == [[0, 0, 1, 4]]
    assert pixels.ravel()[4 + 1 * SHAPE[0]] == 1


def test_one_scale_fills_the_bits_and_clips():
    images = np.array([[1 + 0j, 2j], [-4, 0]], np.complex64)
    scale = series_scale(4.0)
    pixels = scale_to_int16(images, scale)
    assert pixels.dtype == np.int16
    assert pixels.tolist() == [[1024, 2048], [4095, 0]]
    assert scale_to_int16(images * 2, scale).max() == 4095
    assert scale_to_int16(images, series_scale(4.0, 15), 15).max() == 32767
    assert series_scale(0.0) == 1
    assert [pixel_bits(bits) for bits in (None, 12, 14, 16)] == [12, 12, 14, 15]


def write(path, *images):
    with h5py.File(path, "w") as file:
        writer = MrdImageFile(file, "<ismrmrdHeader>µ</ismrmrdHeader>".encode())
        for image in images:
            writer.append(image)


@pytest.mark.parametrize("data_type", PIXEL_TYPES)
def test_the_ismrmrd_package_reads_the_images(tmp_path, ismrmrd, data_type):
    attributes = ismrmrd.Meta({"Comment": "µ"}).serialize()
    images = [sample_image(data_type, (2, 3, 4, 5), attributes, seed) for seed in range(3)]
    for image in images:
        image.header["image_series_index"] = 7
    write(tmp_path / "out.h5", *images)
    with ismrmrd.Dataset(tmp_path / "out.h5", mode="r") as dataset:
        assert dataset.read_xml_header() == "<ismrmrdHeader>µ</ismrmrdHeader>".encode()
        assert dataset.number_of_images("image_7") == 3
        for index, image in enumerate(images):
            theirs = dataset.read_image("image_7", index)
            np.testing.assert_array_equal(theirs.data, image.data)
            assert bytes(theirs.getHead()) == image.header.tobytes()
            assert theirs.meta["Comment"] == "µ"


def test_texts_are_strings_of_the_kind_that_the_c_library_reads(tmp_path):
    # It cannot convert strings that are marked as UTF-8, and refused the header of such a file.
    image = sample_image(2, (1, 1, 4, 4))
    image.header["image_series_index"] = 0
    write(tmp_path / "out.h5", image)
    with h5py.File(tmp_path / "out.h5") as file:
        for dataset in (file["dataset/xml"], file["dataset/image_0/attributes"]):
            assert h5py.check_string_dtype(dataset.dtype).encoding == "ascii"


def test_images_of_a_series_that_differ_in_shape_or_type_lie_apart(tmp_path):
    images = [
        sample_image(2, (1, 1, 4, 4)),
        sample_image(2, (1, 1, 4, 5)),
        sample_image(5, (1, 1, 4, 5)),
        sample_image(2, (1, 1, 4, 5)),
    ]
    for image in images:
        image.header["image_series_index"] = 1
    other = sample_image(2, (1, 1, 4, 4))
    other.header["image_series_index"] = 2
    write(tmp_path / "out.h5", *images, other)
    with h5py.File(tmp_path / "out.h5") as file:
        counts = {name: len(group["data"]) for name, group in file["dataset"].items() if name != "xml"}
    assert counts == {"image_1": 1, "image_1_2": 2, "image_1_3": 1, "image_2": 1}

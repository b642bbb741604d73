from __future__ import annotations

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import ACQUISITION_HEADER
from sbim_deploy.results.mrd_images import write_mrd_images
from series_samples import BRIGHT, DERIVATION, SHAPE, VOXEL_MM, stack


@pytest.fixture
def ismrmrd():
    return pytest.importorskip("ismrmrd")


def read_images(ismrmrd, path, series=1):
    with ismrmrd.Dataset(path, mode="r") as dataset:
        name = f"image_{series}"
        return [dataset.read_image(name, place) for place in range(dataset.number_of_images(name))]


def test_images_read_back_by_the_ismrmrd_package(tmp_path, ismrmrd):
    series = stack()
    write_mrd_images(tmp_path / "out.h5", [series], DERIVATION)
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
        column_dir = np.array(image.meta["ImageColumnDir"], float)
        np.testing.assert_allclose(column_dir, geometry.phase_dir, rtol=1e-6)
    assert [each.name for each in tmp_path.iterdir()] == ["out.h5"]


def test_without_geometry_the_size_comes_from_the_voxels(tmp_path, ismrmrd):
    write_mrd_images(tmp_path / "out.h5", [stack(geometries=[None] * 4)], DERIVATION, VOXEL_MM)
    head = read_images(ismrmrd, tmp_path / "out.h5")[0].getHead()
    assert list(head.field_of_view) == [48, 63, 4]
    assert list(head.read_dir) == [0, 0, 0]


def test_counters_and_stamps_come_from_the_readout(tmp_path, ismrmrd):
    readout = np.zeros((), ACQUISITION_HEADER)[()]
    readout["measurement_uid"], readout["acquisition_time_stamp"] = 77, 4321
    readout["idx"]["slice"], readout["idx"]["repetition"] = 9, 3
    series = [stack(), stack(number=2, acquisitions=[readout] * 4, label="repetition 3")]
    write_mrd_images(tmp_path / "out.h5", series, DERIVATION, bits=10)
    images = read_images(ismrmrd, tmp_path / "out.h5", 2)
    head = images[3].getHead()
    assert (head.measurement_uid, head.acquisition_time_stamp) == (77, 4321)
    assert (head.slice, head.repetition, head.image_series_index) == (9, 3, 2)
    assert images[0].meta["ImageComments"] == "repetition 3 residual 0.1000; research use only"
    assert max(image.data.max() for image in images) == 1023


def test_a_doubtful_image_says_so_in_its_comment(tmp_path, ismrmrd):
    series = stack(doubts=["", "DOUBTFUL: the receiver was overdriven", "", ""])
    write_mrd_images(tmp_path / "out.h5", [series], DERIVATION)
    comments = [image.meta["ImageComments"] for image in read_images(ismrmrd, tmp_path / "out.h5")]
    assert comments[0] == "residual 0.1000; research use only"
    assert comments[1] == "residual 0.1000 DOUBTFUL: the receiver was overdriven; research use only"


def test_a_slice_number_beyond_the_header_is_refused(tmp_path):
    with pytest.raises(InputError, match="slice 70000 does not fit"):
        write_mrd_images(tmp_path / "out.h5", [stack(slices=[70000] * 4)], DERIVATION)
    assert not list(tmp_path.iterdir())

import h5py
import numpy as np
import pytest

from mrd_samples import sample_image
from sbim_deploy.mrd.images import MrdImageFile
from sbim_deploy.mrd.messages import PIXEL_TYPES

ismrmrd = pytest.importorskip("ismrmrd")

ATTRIBUTES = ismrmrd.Meta({"Comment": "µ"}).serialize()


def write(path, *images):
    with h5py.File(path, "w") as file:
        writer = MrdImageFile(file, "<ismrmrdHeader>µ</ismrmrdHeader>".encode())
        for image in images:
            writer.append(image)


@pytest.mark.parametrize("data_type", PIXEL_TYPES)
def test_the_ismrmrd_package_reads_the_images(tmp_path, data_type):
    images = [sample_image(data_type, (2, 3, 4, 5), ATTRIBUTES, seed) for seed in range(3)]
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

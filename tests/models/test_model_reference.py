"""PyTorch's stored outputs in a model folder, as whoever made the folder wrote them."""

import io
import shutil
import zipfile

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.models.folder import DEMO_FOLDER
from sbim_deploy.models.reference import NAMES, REFERENCE_NAME, read_reference


def member(shape, values=b""):
    """Return an array of .npy of float32 that claims a shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + values


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"x": member((10**13,))}, "has 128 bytes, which its shape"),
        ({"x": member((2**25,), bytes(2**27))}, "bytes unpacked, expected at most 67108864"),
        ({"x": b"no array"}, "cannot be read as a NumPy file"),
        ({"other": member((1,), bytes(4))}, "has no 'x'"),
    ],
)
def test_arrays_that_are_not_as_they_must_be_are_one_line(tmp_path, members, said):
    small = member((1,), bytes(4))
    with zipfile.ZipFile(tmp_path / REFERENCE_NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, stored in (dict.fromkeys(NAMES[1:], small) | members).items():
            archive.writestr(f"{name}.npy", stored)
    with pytest.raises(
        InputError, match=rf"{REFERENCE_NAME}: .*{said}.*: export the model again|{said}"
    ) as caught:
        read_reference(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_demo_s_are_read(tmp_path):
    shutil.copy(DEMO_FOLDER / REFERENCE_NAME, tmp_path)
    assert read_reference(tmp_path).score.dtype == np.float32

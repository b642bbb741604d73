"""Images laid over each other by their places in the patient."""

from pathlib import Path

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.records import SliceGeometry
from sbim_deploy.results.geometry import slice_affine
from sbim_deploy.results.overlay import matching_slices, overlay

READ, PHASE = np.array([2, 2, 1]) / 3, np.array([-2, 1, 2]) / 3
PATHS = (Path("images"), Path("references"))


def placed(shape, read=READ, phase=PHASE, position=(0.0, 0.0, 0.0), voxel=(2.0, 2.0), along=0.0):
    normal = np.cross(READ, PHASE)
    extent = (shape[0] * voxel[0], shape[1] * voxel[1], 5.0)
    centre = np.asarray(position) + along * normal
    return slice_affine(SliceGeometry(tuple(centre), tuple(read), tuple(phase), tuple(normal), extent), shape)


def turns(image):
    """The eight ways to lie of an image whose rows and columns are along READ and PHASE, by hand.

    Each is the pixels, their directions, and the place of pixel (0, 0) by the first image's (row, column).
    """
    rows, columns = image.shape
    for flip_rows in (False, True):
        for flip_columns in (False, True):
            for transpose in (False, True):
                turned = image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
                corner = ((rows - 1) * flip_rows, (columns - 1) * flip_columns)
                directions = [READ * (-1) ** flip_rows, PHASE * (-1) ** flip_columns]
                if transpose:
                    turned, directions = turned.T, directions[::-1]
                yield turned, directions, corner


@pytest.mark.parametrize("shape", [(24, 21), (16, 16)])
def test_every_flip_and_transpose_is_undone(shape):
    reference = np.random.default_rng(0).random(shape)
    affine = placed(shape)
    for pixels, directions, corner in turns(reference):
        of_turned = np.eye(4)
        of_turned[:3, 0], of_turned[:3, 1] = 2 * directions[0], 2 * directions[1]
        of_turned[:3, 2] = affine[:3, 2]
        of_turned[:3, 3] = (affine @ (*corner, 0, 1))[:3]
        laid = overlay(of_turned, pixels.shape, affine, shape, "images")
        np.testing.assert_array_equal(laid.on_grid(reference), pixels)
        assert laid.image_part == tuple(slice(0, n) for n in pixels.shape)
        back = overlay(affine, shape, of_turned, pixels.shape, "images")
        np.testing.assert_array_equal(back.on_grid(pixels), reference)


def test_what_both_have_is_compared_where_they_are_shifted_or_cropped():
    scene = np.random.default_rng(0).random((40, 40))
    affine = placed((40, 40))
    image = scene[5:25, 12:40]
    of_image = affine.copy()
    of_image[:3, 3] = (affine @ (5, 12, 0, 1))[:3]
    reference = scene[10:40, 0:30]
    of_reference = affine.copy()
    of_reference[:3, 3] = (affine @ (10, 0, 0, 1))[:3]
    laid = overlay(of_image, image.shape, of_reference, reference.shape, "images")
    np.testing.assert_array_equal(laid.on_grid(reference), image[laid.image_part])
    assert laid.on_grid(reference).shape == (15, 18)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxel": (1.9, 2.0)}, "pixels of 1.9 x 2 mm.* against pixels of 2 x 2 mm"),
        ({"read": (READ + 0.05 * PHASE) / np.hypot(1, 0.05), "phase": PHASE}, "another grid"),
        ({"position": tuple(100 * READ)}, "no part in common"),
        ({"read": np.cross(READ, PHASE), "phase": PHASE}, "another grid|not parallel"),
    ],
)
def test_other_grids_and_planes_are_refused(changes, message):
    shape = (24, 24)
    other = placed(shape)
    image = np.eye(4)
    image[:3, 0], image[:3, 1] = (
        np.asarray(changes.get("read", READ)) * changes.get("voxel", (2.0, 2.0))[0],
        np.asarray(changes.get("phase", PHASE)) * changes.get("voxel", (2.0, 2.0))[1],
    )
    image[:3, 2] = other[:3, 2]
    image[:3, 3] = other[:3, 3] + np.asarray(changes.get("position", (0, 0, 0)))
    with pytest.raises(InputError, match=message):
        overlay(image, shape, other, shape, "images")


def test_slices_go_by_their_places_and_repetitions_by_their_order():
    shape = (8, 8)
    references = [placed(shape, along=mm) for mm in (0, 6, 12, 0, 6, 12)]
    images = [placed(shape, along=mm) for mm in (12.4, 0, 6, 12, 0)]
    assert matching_slices(images, references, PATHS) == [2, 0, 1, 5, 3]
    # A single volume is the reference of every repetition.
    assert matching_slices(images, references[:3], PATHS) == [2, 0, 1, 2, 0]
    with pytest.raises(InputError, match=r"image 0 lies at 3.0 mm .* where references has none"):
        matching_slices([placed(shape, along=3)], references, PATHS)
    with pytest.raises(InputError, match=r"has more images at 0.0 mm than the 2 of references"):
        matching_slices([placed(shape)] * 3, references, PATHS)

import dataclasses

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.records import SliceGeometry
from sbim_deploy.results.geometry import slice_affine, slice_spacing, stack_slices

READ, PHASE = np.array([2, 2, 1]) / 3, np.array([-2, 1, 2]) / 3
NORMAL = np.cross(READ, PHASE)
SHAPE = (6, 5)


def oblique(place_mm: float) -> SliceGeometry:
    position = np.array([10.0, -20.0, 30.0]) + place_mm * NORMAL
    return SliceGeometry(tuple(position), tuple(READ), tuple(PHASE), tuple(NORMAL), (12.0, 15.0, 4.0))


def test_the_position_is_the_place_of_the_transform_s_centre():
    affine = slice_affine(oblique(0), SHAPE)
    np.testing.assert_allclose(affine @ (3, 2, 0, 1), [10, -20, 30, 1])
    np.testing.assert_allclose((affine @ (4, 2, 0, 1))[:3] - (10, -20, 30), 2 * READ)
    np.testing.assert_allclose((affine @ (3, 3, 0, 1))[:3] - (10, -20, 30), 3 * PHASE)


@pytest.mark.parametrize("places", [[0, 5, 10], [10, 5, 0]])
def test_a_stack_keeps_the_order_that_it_has_in_space(places):
    stack = stack_slices([oblique(place) for place in places], SHAPE)
    assert stack.order == (0, 1, 2)
    for index, place in enumerate(places):
        np.testing.assert_allclose((stack.affine @ (3, 2, index, 1))[:3], oblique(place).position)


def test_interleaved_slices_are_sorted():
    places = [0, 10, 5, 15]
    stack = stack_slices([oblique(place) for place in places], SHAPE)
    assert stack.order == (0, 2, 1, 3)
    np.testing.assert_allclose((stack.affine @ (3, 2, 3, 1))[:3], oblique(15).position)


@pytest.mark.parametrize(
    ("geometries", "reason"),
    [
        ([oblique(0), oblique(5), oblique(11)], "do not lie at equal distances"),
        ([oblique(0), oblique(0)], "do not lie at equal distances"),
        ([oblique(0), dataclasses.replace(oblique(5), position=(30, 0, 0))], "straight above each other"),
        (
            [oblique(0), dataclasses.replace(oblique(5), read_dir=tuple(PHASE), phase_dir=tuple(READ))],
            "are not parallel",
        ),
        ([oblique(0), dataclasses.replace(oblique(5), field_of_view_mm=(12, 16, 4))], "of one size"),
        ([dataclasses.replace(oblique(0), read_dir=(0, 0, 0))], "perpendicular unit vectors"),
        ([dataclasses.replace(oblique(0), position=(np.nan, 0, 0))], "finite numbers"),
        ([dataclasses.replace(oblique(0), field_of_view_mm=(0, 1, 1))], "positive lengths"),
    ],
)
def test_what_is_no_stack_is_refused(geometries, reason):
    with pytest.raises(InputError, match=reason):
        stack_slices(geometries, SHAPE)


def test_spacing_is_known_for_a_stack_alone():
    assert slice_spacing([oblique(0), oblique(5)], SHAPE) == pytest.approx(5)
    assert slice_spacing([oblique(0)], SHAPE) is None
    assert slice_spacing([oblique(0), oblique(5), oblique(11)], SHAPE) is None

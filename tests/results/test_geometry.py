import dataclasses

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.placement import slice_geometry
from sbim_deploy.mrd.messages import ACQUISITION_HEADER
from sbim_deploy.records import SliceGeometry
from sbim_deploy.results.geometry import slice_affine, slice_spacing, stack_slices

READ, PHASE = np.array([2, 2, 1]) / 3, np.array([-2, 1, 2]) / 3
NORMAL = np.cross(READ, PHASE)
SHAPE = (6, 5)
FIELD_OF_VIEW_MM = (12.0, 15.0, 4.0)


def oblique(place_mm: float) -> SliceGeometry:
    position = np.array([10.0, -20.0, 30.0]) + place_mm * NORMAL
    return SliceGeometry(tuple(position), tuple(READ), tuple(PHASE), tuple(NORMAL), FIELD_OF_VIEW_MM)


def test_the_position_is_the_place_of_the_transform_s_centre():
    affine = slice_affine(oblique(0), SHAPE)
    np.testing.assert_allclose(affine @ (3, 2, 0, 1), [10, -20, 30, 1])
    np.testing.assert_allclose((affine @ (4, 2, 0, 1))[:3] - (10, -20, 30), 2 * READ)
    np.testing.assert_allclose((affine @ (3, 3, 0, 1))[:3] - (10, -20, 30), 3 * PHASE)


def test_a_scan_that_is_a_little_off_square_is_read_and_written():
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["read_dir"], header["phase_dir"], header["slice_dir"] = (1, 0.005, 0), (0, 1, 0), (0, 0, -1)
    geometry = slice_geometry(header, FIELD_OF_VIEW_MM, "slice 0")
    axes = np.array([geometry.read_dir, geometry.phase_dir, geometry.slice_dir])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes, [(1, 0.0025, 0), (-0.0025, 1, 0), (0, 0, -1)], atol=1e-5)
    np.testing.assert_allclose(slice_affine(geometry, SHAPE)[:3, :3], axes.T * (2, 3, 4))
    header["read_dir"] = 1, 0.02, 0
    with pytest.raises(InputError, match="right angles"):
        slice_geometry(header, FIELD_OF_VIEW_MM, "slice 0")


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

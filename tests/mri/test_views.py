"""Images are laid out as people see patients, and no pixel moves in the patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from letter_f import UPRIGHT, VIEWS, WAYS, scanned
from sbim_deploy.mri.views import ON_GRID, upright_view
from sbim_deploy.records import SliceGeometry


def turned_geometry(rotation: np.ndarray, mirrored: bool = False) -> SliceGeometry:
    read, phase, normal = (tuple(each) for each in rotation.T)
    normal = tuple(-np.array(normal)) if mirrored else normal
    return SliceGeometry((10.0, -20.0, 30.0), read, phase, normal, (48.0, 42.0, 4.0))


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.diag(r))


def places(geometry: SliceGeometry, shape: tuple[int, int]) -> np.ndarray:
    """Where the pixels are, by the formula of docs/formats.md: (rows, columns, 3)."""
    rows, columns = np.indices(shape)
    steps = [extent / n for extent, n in zip(geometry.field_of_view_mm, shape, strict=False)]
    return (
        np.array(geometry.position)
        + ((rows - shape[0] // 2) * steps[0])[..., None] * np.array(geometry.read_dir)
        + ((columns - shape[1] // 2) * steps[1])[..., None] * np.array(geometry.phase_dir)
    )


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("way", WAYS)
def test_a_letter_is_upright_whichever_way_its_slice_was_scanned(view, way):
    image, geometry = scanned(view, way)
    layout = upright_view(geometry)
    assert layout.name == view
    np.testing.assert_array_equal(layout.pixels(image), UPRIGHT)
    shown = layout.geometry(geometry, image.shape)
    np.testing.assert_array_equal(shown.phase_dir, VIEWS[view][0])
    np.testing.assert_array_equal(shown.read_dir, VIEWS[view][1])


@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (4, 4), (7, 3), (1, 8)])
def test_every_pixel_stays_where_it_is_in_the_patient(shape):
    rng = np.random.default_rng(sum(shape))
    for mirrored in (False, True, False, True) * 8:
        geometry = turned_geometry(random_rotation(rng), mirrored)
        upright = upright_view(geometry)
        for layout in (upright, upright.exchanged, ON_GRID, ON_GRID.exchanged):
            before = places(geometry, shape)
            moved = np.stack([layout.pixels(before[..., axis]) for axis in range(3)], axis=-1)
            assert moved.shape[:2] == layout.shape(shape)
            after = places(layout.geometry(geometry, shape), layout.shape(shape))
            np.testing.assert_allclose(after, moved, atol=1e-9)


def test_an_oblique_slice_is_nearest_a_standard_view_and_never_mirrored():
    rng = np.random.default_rng(0)
    for _ in range(300):
        geometry = turned_geometry(random_rotation(rng))
        layout = upright_view(geometry)
        along_row, down_column = VIEWS[layout.name]
        normal = np.abs(np.cross(geometry.read_dir, geometry.phase_dir))
        standard = np.cross(along_row, down_column)
        assert abs(normal @ np.abs(standard)) >= normal.max() - 1e-3
        shown = layout.geometry(geometry, (8, 8))
        along, down = np.array(shown.phase_dir), np.array(shown.read_dir)
        assert along @ along_row >= max(abs(down @ along_row) - 1e-3, 0)
        assert np.cross(along, down) @ standard > 0
        assert shown.slice_dir == geometry.slice_dir


def test_at_45_degrees_the_last_bits_decide_nothing():
    half = np.sqrt(0.5)
    rng = np.random.default_rng(1)
    for axes in (
        np.array([(half, half, 0), (-half, half, 0), (0, 0, 1)]),  # the directions in the plane
        np.array([(1, 0, 0), (0, half, half), (0, -half, half)]),  # axial or coronal
        np.array([(0, 1, 0), (half, 0, half), (half, 0, -half)]),  # axial or sagittal
    ):
        noisy = [turned_geometry((axes + 1e-6 * rng.standard_normal((3, 3))).T) for _ in range(50)]
        assert len({upright_view(each) for each in noisy}) == 1


def test_without_directions_an_image_stays_on_its_grid():
    zero = replace(turned_geometry(np.eye(3)), read_dir=(0.0, 0.0, 0.0))
    image = np.arange(6).reshape(2, 3)
    for geometry in (None, zero):
        assert upright_view(geometry) is ON_GRID
    np.testing.assert_array_equal(ON_GRID.pixels(image), image)

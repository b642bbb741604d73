import numpy as np
import pytest

from sbim_deploy.training.contrast import INDEX, TISSUES
from sbim_deploy.training.fields import Grid
from sbim_deploy.training.shapes import AIR, Ellipsoid, Tube, cover_of, paint, section_at

GRID = Grid((120, 120), 2.0)


@pytest.fixture(scope="module")
def plane():
    """A grid in MNI space, axial through the origin."""
    down, across = np.meshgrid(GRID.rows, GRID.columns, indexing="ij")
    return section_at(np.stack([across, -down, np.zeros_like(down)]))


def test_paint_covers_and_air_leaves_nothing():
    fractions = np.zeros((len(TISSUES), 8, 8), np.float32)
    paint(fractions, "white", np.ones((8, 8), np.float32))
    half = np.zeros((8, 8), np.float32)
    half[:, 2:6] = 0.5
    paint(fractions, "lesion", half)
    np.testing.assert_allclose(fractions[INDEX["lesion"]], half)
    np.testing.assert_allclose(fractions.sum(axis=0), 1)
    paint(fractions, AIR, half)
    np.testing.assert_allclose(fractions.sum(axis=0), 1 - half)


@pytest.mark.parametrize(
    ("solid", "area"),
    [
        (Ellipsoid("fluid", (30.0, 10.0, 0.0), (16.0, 24.0, 9.0)), 2 * np.pi * 16 * 24),
        (Tube("blood", (30.0, -20.0, 0.0), (30.0, 40.0, 0.0), 8.0), 2 * (60 * 16 + np.pi * 64)),
    ],
)
def test_solids_cover_their_area_on_both_sides(plane, solid, area):
    cover = cover_of(solid, plane)
    assert cover.sum() * GRID.spacing**2 == pytest.approx(area, rel=0.03)
    np.testing.assert_allclose(cover[:, 1:], cover[:, :0:-1], atol=1e-6)


def test_solids_that_a_slice_does_not_meet_cost_nothing(plane):
    assert cover_of(Ellipsoid("fluid", (0.0, 0.0, 40.0), (9.0, 9.0, 9.0)), plane) is None
    assert cover_of(Tube("blood", (0.0, 0.0, -40.0), (0.0, 9.0, -12.0), 3.0), plane) is None

import numpy as np
import pytest

from sbim_deploy.training.fields import Grid
from sbim_deploy.training.placement import ORIENTATIONS, random_orientation, random_plane

GRID = Grid((120, 120), 2.0)


def test_axial_slices_are_the_most():
    drawn = [random_orientation(np.random.default_rng(seed)).name for seed in range(2000)]
    assert drawn.count("axial") / 2000 == pytest.approx(0.6, abs=0.03)
    assert drawn.count("sagittal") / 2000 == pytest.approx(0.2, abs=0.03)


def test_planes_face_as_their_orientation_says():
    for orientation in ORIENTATIONS:
        across = np.argmax(np.abs(np.cross(orientation.columns, orientation.rows)))
        points, normal = random_plane(np.random.default_rng(1), orientation, GRID)
        spans = np.ptp(points.reshape(3, -1), axis=1)
        assert np.argmin(spans) == np.argmax(np.abs(normal)) == across
        assert np.linalg.norm(normal) == pytest.approx(1)

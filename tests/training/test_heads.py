import numpy as np
import pytest

from label_heads import ball_head, write_labels
from sbim_deploy.training import heads
from sbim_deploy.training.contrast import INDEX, TISSUES
from sbim_deploy.training.fields import Grid
from sbim_deploy.training.heads import random_head_fractions
from sbim_deploy.training.label_maps import BRAIN_CENTRE, read_head

GRID = Grid((140, 140), 1.5)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return read_head(write_labels(tmp_path_factory.mktemp("head") / "head.nii.gz", ball_head()))


def axial_plane(height=0.0):
    points = np.empty((3, *GRID.shape), np.float32)
    points[0], points[1] = BRAIN_CENTRE[0] + GRID.columns, BRAIN_CENTRE[1] - GRID.rows[:, None]
    points[2] = BRAIN_CENTRE[2] + height
    return points, np.array([0, 0, 1], np.float32)


def fractions_of(head, seed=0, lesions=(), height=0.0, age=0.0):
    return random_head_fractions(np.random.default_rng(seed), head, lesions, axial_plane(height), GRID, age)


def radius():
    return np.hypot(GRID.rows[:, None], GRID.columns)


@pytest.mark.parametrize("height", [0.0, 40.0, 80.0, 300.0])
def test_fractions_fill_a_pixel_and_never_exceed_it(head, height):
    fractions = fractions_of(head, height=height)
    assert fractions.shape == (len(TISSUES), *GRID.shape)
    assert fractions.min() >= 0
    assert fractions.sum(axis=0).max() < 1 + 1e-4
    inside = radius() ** 2 + height**2 < 80**2
    assert fractions.sum(axis=0)[inside].min(initial=1) > 0.99


def test_tissues_lie_where_the_labels_are(head):
    fractions = sum(fractions_of(head, seed) for seed in range(4)) / 4
    rings = {"white": (0, 42), "gray": (50, 55), "fluid": (60, 63), "bone": (70, 73)}
    for tissue, (inner, outer) in rings.items():
        ring = (radius() >= inner) & (radius() < outer)
        assert fractions[INDEX[tissue]][ring].mean() > 0.6, tissue
    muscle, fat, skin = (fractions[INDEX[name]] for name in ("muscle", "fat", "skin"))
    assert (muscle + fat)[(radius() > 78) & (radius() < 82)].mean() > 0.7
    assert (
        skin[(radius() > 88.5) & (radius() < 89.5)].mean() > fat[(radius() > 88.5) & (radius() < 89.5)].mean()
    )
    assert fractions.sum(axis=0)[radius() > 96].max() < 1e-3


def test_a_border_between_labels_is_smooth_and_sharp(head):
    points, _ = axial_plane()
    white = heads._zones_at(head, points)[heads.ZONE["white"]][GRID.shape[0] // 2]
    beside = white[np.abs(np.abs(GRID.columns) - 46) < 8]
    assert np.abs(np.diff(beside)).max() < 0.7
    assert np.count_nonzero((white > 0.1) & (white < 0.9)) <= 8
    half = np.interp(0.5, white[GRID.columns > 0][::-1], GRID.columns[GRID.columns > 0][::-1])
    assert half == pytest.approx(46, abs=1.5)


def test_thick_slices_mix_what_thin_ones_part(head):
    points, normal = axial_plane(44.0)
    white = [
        heads._thick_zones(head, points, normal, thickness)[heads.ZONE["white"]] for thickness in (1.0, 5.0)
    ]
    mixed = [np.count_nonzero((share > 0.05) & (share < 0.95)) for share in white]
    assert mixed[1] > 1.3 * mixed[0]


def test_a_lesion_is_laid_over_the_brain_at_its_place(head, tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "LESION_SHARE", 1.0)
    mask = np.zeros((157, 189, 136), np.float32)
    x, y, z = heads.LESION_CENTRE.astype(int)
    mask[x + 10 : x + 30, y - 8 : y + 8, z - 20 : z + 20] = 1
    path = write_labels(tmp_path / "lesion.nii.gz", mask, 1.0)
    added = np.mean(
        [fractions_of(head, seed, (path,))[INDEX["lesion"]] > 0.4 for seed in range(6)],
        axis=0,
    )
    rows, columns = np.nonzero(added > 0.1)
    assert 8 < np.abs(GRID.columns[columns]).mean() < 30
    assert np.abs(GRID.rows[rows].mean()) < 8
    assert added[radius() > 60].max() == 0


def test_the_neck_goes_on_below_the_map_mirrored(head):
    points, _ = axial_plane()
    planes = []
    for millimetres in (-21.0, 21.0):
        points[2] = head.origin[2] + millimetres
        planes.append(heads._zones_at(head, points))
    np.testing.assert_allclose(*planes, atol=1e-5)
    assert planes[0][0].min() < 0.01

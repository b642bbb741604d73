import numpy as np
import pytest

from sbim_deploy.training.anatomy import random_fractions
from sbim_deploy.training.contrast import INDEX, TISSUES
from sbim_deploy.training.fields import Grid, smooth_field, soft_step
from sbim_deploy.training.placement import ORIENTATIONS, random_orientation, random_points
from sbim_deploy.training.shapes import AIR, Ellipsoid, Tube, cover_of, paint, section_at
from sbim_deploy.training.structures import CYST_SHARE, TUMOUR_SHARE, paint_lesions

AXIAL = ORIENTATIONS[0]
GRID = Grid((120, 120), 2.0)


def fractions_of(tissues, seed, orientation=AXIAL, age=0.3):
    rng = np.random.default_rng(seed)
    points = random_points(rng, orientation, GRID)
    return random_fractions(rng, tissues, section_at(points), GRID, age)


@pytest.fixture(scope="module")
def plane():
    """A grid in MNI space, axial through the origin."""
    down, across = np.meshgrid(GRID.rows, GRID.columns, indexing="ij")
    return section_at(np.stack([across, -down, np.zeros_like(down)]))


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda orientation: orientation.name)
def test_fractions_never_exceed_a_pixel(tissues, orientation):
    fractions = fractions_of(tissues, 3, orientation)
    assert fractions.shape == (len(TISSUES), *GRID.shape)
    assert fractions.min() >= 0
    assert fractions.sum(axis=0).max() < 1 + 1e-4


def test_a_brain_is_made_of_what_brains_are_made_of(tissues):
    total = sum(fractions_of(tissues, seed).sum(axis=(1, 2)) for seed in range(12))
    area = {tissue.name: total[INDEX[tissue.name]] for tissue in TISSUES}
    gray = area["gray"] + area["deep_gray"]
    brain = gray + area["white"] + area["fluid"]
    assert 0.35 < gray / brain < 0.65
    assert 0.2 < area["white"] / brain < 0.5
    assert 0.05 < area["fluid"] / brain < 0.3
    assert 0.002 < area["blood"] / brain < 0.04
    for layer in ("skin", "fat", "bone", "marrow"):
        assert 0.02 < area[layer] / brain < 0.6


def test_the_layers_of_the_head_lie_in_order(tissues):
    middles = []
    for seed in range(8):
        fractions = fractions_of(tissues, seed)
        away = np.hypot(GRID.rows[:, None], GRID.columns)
        middles.append(
            [np.average(away, weights=fractions[INDEX[name]]) for name in ("white", "gray", "bone", "skin")]
        )
    assert np.all(np.diff(np.mean(middles, axis=0)) > 0)


def test_old_brains_have_more_fluid(tissues):
    young, old = (
        sum(fractions_of(tissues, seed, age=age)[INDEX["fluid"]].sum() for seed in range(6))
        for age in (0.0, 1.0)
    )
    assert old > 1.4 * young


def test_axial_slices_are_the_most():
    drawn = [random_orientation(np.random.default_rng(seed)).name for seed in range(2000)]
    assert drawn.count("axial") / 2000 == pytest.approx(0.6, abs=0.03)
    assert drawn.count("sagittal") / 2000 == pytest.approx(0.2, abs=0.03)


def test_planes_face_as_their_orientation_says():
    for orientation in ORIENTATIONS:
        normal = np.argmax(np.abs(np.cross(orientation.columns, orientation.rows)))
        points = random_points(np.random.default_rng(1), orientation, GRID)
        spans = np.ptp(points.reshape(3, -1), axis=1)
        assert np.argmin(spans) == normal


@pytest.mark.parametrize("age", [0.0, 0.8])
def test_lesions_come_as_often_as_said(age):
    n = 600
    counts = {"lesion": 0, "tumour": 0}
    grid = Grid((48, 48), 4.0)
    for seed in range(n):
        fractions = np.zeros((len(TISSUES), *grid.shape), np.float32)
        fractions[INDEX["white"]] = 1
        paint_lesions(np.random.default_rng(seed), fractions, grid, age)
        for name in counts:
            counts[name] += fractions[INDEX[name]].max() > 0.2
    hyperintense = 0.12 + 0.6 * age
    assert counts["lesion"] / n == pytest.approx(hyperintense + (1 - hyperintense) * TUMOUR_SHARE, abs=0.06)
    assert counts["tumour"] / n == pytest.approx(TUMOUR_SHARE, abs=0.025)
    assert CYST_SHARE < 0.1


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


@pytest.mark.parametrize("scale", [3.0, 20.0, 70.0])
def test_fields_have_unit_variance_and_their_scale(scale):
    fields = np.stack([smooth_field(np.random.default_rng(seed), GRID, scale) for seed in range(60)])
    assert fields.std() == pytest.approx(1, abs=0.1)
    steps = np.diff(fields, axis=2)
    assert steps.std() == pytest.approx(GRID.spacing / scale, rel=0.35)


def test_a_step_is_soft_over_its_width():
    values = soft_step(np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32), 1.0)
    np.testing.assert_allclose(values, [0, 0, 0.5, 1, 1])

import numpy as np
import pytest

from sbim_deploy.training.anatomy import random_fractions
from sbim_deploy.training.contrast import INDEX, TISSUES
from sbim_deploy.training.fields import Grid
from sbim_deploy.training.placement import ORIENTATIONS, random_plane
from sbim_deploy.training.shapes import section_at

AXIAL = ORIENTATIONS[0]
GRID = Grid((120, 120), 2.0)


def fractions_of(tissues, seed, orientation=AXIAL, age=0.3):
    rng = np.random.default_rng(seed)
    points, _normal = random_plane(rng, orientation, GRID)
    return random_fractions(rng, tissues, section_at(points), GRID, age)


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

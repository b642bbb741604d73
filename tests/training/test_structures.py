import numpy as np
import pytest

from sbim_deploy.training.contrast import INDEX, TISSUES
from sbim_deploy.training.fields import Grid
from sbim_deploy.training.structures import CYST_SHARE, TUMOUR_SHARE, paint_lesions


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

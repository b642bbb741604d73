import numpy as np
import pytest

from sbim_deploy.training.fields import Grid, smooth_field, soft_step

GRID = Grid((120, 120), 2.0)


@pytest.mark.parametrize("scale", [3.0, 20.0, 70.0])
def test_fields_have_unit_variance_and_their_scale(scale):
    fields = np.stack([smooth_field(np.random.default_rng(seed), GRID, scale) for seed in range(60)])
    assert fields.std() == pytest.approx(1, abs=0.1)
    steps = np.diff(fields, axis=2)
    assert steps.std() == pytest.approx(GRID.spacing / scale, rel=0.35)


def test_a_step_is_soft_over_its_width():
    values = soft_step(np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32), 1.0)
    np.testing.assert_allclose(values, [0, 0, 0.5, 1, 1])

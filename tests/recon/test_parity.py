"""The inputs that graphs are compared on fit any network's multiple of rows and columns."""

import pytest

from sbim_deploy.recon.parity import STEP_GRID, fitting, step_problem


@pytest.mark.parametrize(
    ("multiple", "expected"), [(1, (48, 64)), (16, (48, 64)), (32, (64, 64)), (40, (80, 80))]
)
def test_a_grid_grows_to_the_next_multiples(multiple, expected):
    assert fitting(STEP_GRID, multiple) == expected
    for kind in ("guided", "proximal-2d"):
        assert step_problem(kind, 0.1, size_multiple=multiple).grid == expected

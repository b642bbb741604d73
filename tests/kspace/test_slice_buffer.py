"""What is repeated is averaged, however often."""

import numpy as np

from sbim_deploy.kspace.image_grid import ImageGrid
from sbim_deploy.kspace.placement import Grid
from sbim_deploy.kspace.slice_buffer import SliceBuffer
from sbim_deploy.mrd.header import Limit
from sbim_deploy.mrd.messages import ACQUISITION_HEADER


def test_a_line_that_is_measured_more_than_65535_times_is_averaged_over_all_of_them():
    grid = Grid((2, 3), 1, Limit(0, 2, 1), ImageGrid((2, 3), (2, 3), (2, 3), (1.0, 1.0, 1.0)))
    buffer = SliceBuffer(grid, 1)
    header = np.zeros((), ACQUISITION_HEADER)[()]
    n = 2**16 + 1
    for _ in range(n):
        buffer.add(slice(0, 2), 1, np.full((1, 2), 2, np.complex64), header)
    kspace = buffer.averaged(None)
    np.testing.assert_allclose(kspace[0, :, 1], 2, rtol=1e-3)
    np.testing.assert_allclose(buffer.averaged_noise(), n**-0.5)

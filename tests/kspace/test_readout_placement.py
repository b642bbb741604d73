import numpy as np

from sbim_deploy.kspace.image_grid import ImageGrid
from sbim_deploy.kspace.placement import Grid, place
from sbim_deploy.mrd.header import Limit
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout

IMAGE = ImageGrid((8, 8), (8, 8), (8, 8), (1.0, 1.0, 5.0))
GRID = Grid((8, 8), 4, Limit(0, 7, 4), IMAGE)


def reversed_readout(n_samples, center_sample):
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["number_of_samples"], header["active_channels"] = n_samples, 1
    header["center_sample"], header["flags"] = center_sample, 1 << (Flag.IS_REVERSE - 1)
    header["idx"]["kspace_encode_step_1"] = 4
    return Readout(header, np.arange(n_samples, dtype=np.complex64)[None])


def placed(n_samples, center_sample):
    """The row of each sample of a reversed readout, by the sample's number."""
    rows, column, kept = place(reversed_readout(n_samples, center_sample), GRID, "readout 0")
    assert column == 4
    numbers = kept[0].real.astype(int).tolist()
    return dict(zip(numbers, range(rows.start, rows.stop), strict=True))


def test_the_first_sample_of_a_whole_reversed_readout_wraps_to_the_other_end():
    assert placed(8, 4) == {0: 0, 1: 7, 2: 6, 3: 5, 4: 4, 5: 3, 6: 2, 7: 1}


def test_an_asymmetric_reversed_readout_loses_the_sample_that_lies_beyond_the_grid():
    assert placed(7, 4) == {1: 7, 2: 6, 3: 5, 4: 4, 5: 3, 6: 2}


def test_an_asymmetric_reversed_readout_that_ends_on_the_grid_is_kept_whole():
    assert placed(5, 3) == {0: 7, 1: 6, 2: 5, 3: 4, 4: 3}

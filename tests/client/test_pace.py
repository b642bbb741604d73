import numpy as np
import pytest

from sbim_deploy.client.replay import Clock, Pace, parse_pace
from sbim_deploy.errors import InputError
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Readout


def header_with(stamp):
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["acquisition_time_stamp"] = stamp
    return header


def readouts(*stamps):
    for stamp in stamps:
        header = header_with(stamp)
        yield Readout(header, np.zeros((1, 1), np.complex64))


def test_an_interval_counts_from_the_first_readout():
    clock = Clock(Pace(0.005))
    assert [clock.due(each) for each in readouts(0, 0, 0)] == pytest.approx([0, 0.005, 0.01])


def test_stamps_are_ticks_and_long_pauses_and_jumps_back_are_cut():
    clock = Clock(Pace(by_stamps=True))
    dues = [clock.due(each) for each in readouts(100, 104, 104, 10**6, 50, 52)]
    assert dues == pytest.approx([0, 0.01, 0.01, 10.01, 10.01, 10.015])


@pytest.mark.parametrize("text", ["fast", "nan", "-1", "inf", "20000", ""])
def test_other_paces_are_refused(text):
    with pytest.raises(InputError, match="the pace is"):
        parse_pace(text)

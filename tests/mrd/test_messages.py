import ctypes

import numpy as np
import pytest

from sbim_deploy.mrd.messages import (
    ACQUISITION_HEADER,
    COUNTERS,
    IMAGE_HEADER,
    WAVEFORM_HEADER,
    Flag,
    Readout,
)

ismrmrd = pytest.importorskip("ismrmrd")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ACQUISITION_HEADER, ismrmrd.AcquisitionHeader),
        (COUNTERS, ismrmrd.EncodingCounters),
        (IMAGE_HEADER, ismrmrd.ImageHeader),
        (WAVEFORM_HEADER, ismrmrd.WaveformHeader),
    ],
)
def test_headers_lie_in_memory_as_the_ismrmrd_package_has_them(ours, theirs):
    assert ours.itemsize == ctypes.sizeof(theirs)
    assert [(name, ours.fields[name][1]) for name in ours.names] == [
        (name, getattr(theirs, name).offset) for name, _ in theirs._fields_
    ]


@pytest.mark.parametrize("flag", Flag)
def test_flags_have_the_ismrmrd_package_s_numbers(flag):
    assert getattr(ismrmrd, f"ACQ_{flag.name}") == flag
    header = np.zeros((), ACQUISITION_HEADER)[()]
    header["flags"] = 1 << (flag - 1)
    readout = Readout(header, np.zeros((1, 1), np.complex64))
    assert [other for other in Flag if readout.has(other)] == [flag]

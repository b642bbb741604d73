"""Scans in 3-D: refused in one line with the way out, and kept whole where raw data are."""

from __future__ import annotations

import numpy as np
import pytest
from mrd_client import begin, connected, receive_all, serving, words

from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.mrd.messages import Close, Image
from sbim_deploy.mrd.recording import open_scan
from volume_scans import make_volume, plane_mask, write_mrd_volume

SHAPE = (16, 32, 24)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of a server that keeps raw data."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def saving(kept):
    with serving(save_raw=kept) as running:
        yield running


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A 3-D scan as MRD, its header and its readouts."""
    path = write_mrd_volume(
        tmp_path_factory.mktemp("scan") / "scan.h5", make_volume(SHAPE), plane_mask(SHAPE)
    )
    with open_scan(path) as file:
        return path, file.xml.decode(), list(file.read_readouts(range(file.n_readouts)))


def sent(server, xml, messages):
    """Send until the server has had enough, and return what it says."""
    with connected(server) as stream:
        begin(stream, xml=xml)
        for message in messages:
            stream.send(message)
        stream.send(Close())
        return receive_all(stream)


def test_a_3d_scan_is_refused_by_its_header_with_the_way_out(server, volume):
    _, xml, messages = volume
    (told,) = words(sent(server, xml, messages[:1]))
    assert told == (
        "sbim-deploy: error: encoding space 0: is 3D, of 16 partitions, expected 2D slices: recon "
        "--dimensions 3 takes a file of them; serve --save-raw keeps what is sent in a file"
    )


def test_a_3d_scan_is_kept_whole_where_raw_data_are_and_recon_reads_it(saving, kept, volume, tmp_path):
    path, xml, messages = volume
    before = set(kept.iterdir())
    (told,) = words(sent(saving, xml, messages))
    (made,) = set(kept.iterdir()) - before
    assert made.suffix == ".mrd"
    assert told.endswith(f"; what was sent is kept as {made.name}")
    with open_volume(made, tmp_path) as ours, open_volume(path, tmp_path) as theirs:
        for index in (0, 16, 31):
            np.testing.assert_array_equal(ours.read_slice(index), theirs.read_slice(index))


def test_partitions_that_the_header_does_not_count_are_refused_at_the_second(saving, kept, volume):
    _, xml, messages = volume
    start, end = xml.index("<kspace_encoding_step_2><minimum>"), xml.index("</encodingLimits>")
    before = set(kept.iterdir())
    got = sent(saving, xml[:start] + xml[end:], messages)
    assert not any(isinstance(message, Image) for message in got)
    (told,) = words(got)
    assert "is 3D, with kspace_encode_step_2 of 0 and" in told
    (made,) = set(kept.iterdir()) - before
    with open_scan(made) as file:
        assert file.n_readouts == len(messages)

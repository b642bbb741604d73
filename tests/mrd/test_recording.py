"""Streams that were kept in a file: whole, cut off anywhere, damaged, and as the ismrmrd package writes."""

import numpy as np
import pytest

from mrd_samples import assert_same, sample_readout, sample_waveform
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.messages import Close, ConfigFile, Header
from sbim_deploy.mrd.recording import MrdRecording, RecordingWriter, is_recording, open_scan
from sbim_deploy.mrd.stream import write_message
from sbim_deploy.runs.info import describe
from simulated_mrd import make_scan, write_mrd


def as_bytes(*messages):
    return b"".join(bytes(buffer) for message in messages for buffer in write_message(message))


@pytest.fixture(scope="module")
def scan():
    return make_scan(n_slices=2, size=8, n_coils=2)


@pytest.fixture
def path(scan, tmp_path):
    """A recording of the scan with a waveform in it."""
    path = tmp_path / "scan.mrd"
    writer = RecordingWriter(path, Header(scan.xml))
    for message in (sample_waveform(), *scan.readouts, Close()):
        writer.append(message)
    writer.close()
    return path


def test_the_readouts_that_were_written_are_read(scan, path):
    with open_scan(path) as recording:
        assert recording.xml.decode() == scan.xml
        assert recording.remarks == ()
        for sent, kept in zip(scan.readouts, recording.readouts(), strict=True):
            assert_same(kept, sent)
        headers = recording.read_headers(3, 6)
        assert [each.tobytes() for each in headers] == [each.header.tobytes() for each in scan.readouts[3:6]]
        (third,) = recording.read_readouts([3])
        assert_same(third, scan.readouts[3])


def test_readouts_with_a_trajectory_keep_it(scan, tmp_path):
    sent = sample_readout(3, 16, 2)
    sent.header["flags"] = 0
    (tmp_path / "scan.mrd").write_bytes(as_bytes(ConfigFile("default"), Header(scan.xml), sent, Close()))
    with MrdRecording(tmp_path / "scan.mrd") as recording:
        (kept,) = recording.readouts()
    assert_same(kept, sent)


def test_a_stream_that_the_ismrmrd_package_wrote_is_read(scan, tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    path, data = tmp_path / "scan.mrd", np.arange(12).reshape(2, 6).astype(np.complex64)
    with path.open("wb") as file:
        serializer = ismrmrd.ProtocolSerializer(file)
        serializer.serialize(ismrmrd.xsd.CreateFromDocument(scan.xml))
        serializer.serialize(ismrmrd.Acquisition.from_array(data))
        serializer.close()
    with MrdRecording(path) as recording:
        (readout,) = recording.readouts()
        assert recording.remarks == ()
    np.testing.assert_array_equal(readout.data, data)


def test_kspace_of_a_recording_is_that_of_the_same_scan_in_hdf5(scan, path, tmp_path):
    with open_source(path) as kept, open_source(write_mrd(tmp_path / "scan.h5", scan)) as stored:
        assert kept.n_slices == stored.n_slices == 2
        for index in range(2):
            np.testing.assert_array_equal(kept.read_slice(index), stored.read_slice(index))
    assert describe(path)["format"] == "MRD (ISMRMRD stream)"


def test_a_recording_that_was_cut_off_anywhere_is_read_up_to_there(scan, tmp_path):
    path, opening = tmp_path / "cut.mrd", as_bytes(Header(scan.xml))
    whole = opening + as_bytes(*scan.readouts[:3], Close())
    ends = [len(opening) + len(as_bytes(*scan.readouts[:n])) for n in range(1, 4)]
    for length in range(2, len(whole), 37):
        path.write_bytes(whole[:length])
        expected = sum(end <= length for end in ends)
        if not expected:
            with pytest.raises(InputError, match=str(path)):
                MrdRecording(path)
            continue
        with MrdRecording(path) as recording:
            assert len(list(recording.readouts())) == recording.n_readouts == expected
            assert "cut off (" in recording.remarks[0]
            assert f"{expected} readouts came whole" in recording.remarks[0]


@pytest.mark.parametrize("rest", [bytes(4096), b"\xff" * 100, as_bytes(Header("<x/>"))])
def test_what_follows_the_last_whole_message_and_is_none_is_left_out_and_told(scan, tmp_path, rest):
    path = tmp_path / "scan.mrd"
    path.write_bytes(as_bytes(Header(scan.xml), *scan.readouts[:16]) + rest)
    with MrdRecording(path) as recording:
        assert recording.n_readouts == 16
        assert f"the last {len(rest)} bytes are left out" in recording.remarks[0]
    with open_source(path) as source:
        assert any("cut off" in each for each in source.describe()["assumed"])


def test_a_length_that_is_declared_takes_no_memory(scan, tmp_path):
    path, huge = tmp_path / "scan.mrd", sample_readout(1, 1)
    huge.header["active_channels"] = huge.header["number_of_samples"] = 1000
    path.write_bytes(as_bytes(Header(scan.xml), scan.readouts[0]) + b"\xf0\x03" + huge.header.tobytes())
    with MrdRecording(path) as recording:
        assert recording.n_readouts == 1


def test_what_is_no_stream_is_told_from_one_by_its_bytes(path, scan, tmp_path):
    hdf5 = write_mrd(tmp_path / "hdf5.mrd", scan)
    assert is_recording(path)
    assert is_recording(path.rename(tmp_path / "scan.partial"))
    assert not is_recording(hdf5)
    assert not is_recording(tmp_path / "nowhere")
    with open_scan(hdf5) as stored:
        assert stored.n_readouts == len(scan.readouts)


def test_a_file_that_is_there_is_not_written_over(path, scan):
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        RecordingWriter(path, Header(scan.xml))
    assert path.read_bytes() == before

"""Streams of MRD version 2 from every release, and what is no such stream."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from mrd2_samples import acquisition_item, mrd, other_items, scan_header, stream_bytes, write_mrd2
from sbim_deploy.errors import InputError
from sbim_deploy.io.yardl import MAGIC
from sbim_deploy.mrd.file import open_mrd
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.identity import parse_identity
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Readout
from sbim_deploy.mrd.version2 import Version2File
from simulated_mrd import make_scan, write_mrd


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.bin"


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def refused(path) -> str:
    with pytest.raises(InputError) as error, Version2File(path):
        pass
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def with_schema(data: bytes, change) -> bytes:
    """Return a stream whose schema says something else of the same bytes."""
    length = len(mrd.BinaryMrdWriter.schema.encode())
    start = len(MAGIC) + 4 + len(varint(length))
    schema = json.loads(data[start : start + length])
    change(schema)
    written = json.dumps(schema).encode()
    return data[: len(MAGIC) + 4] + varint(len(written)) + written + data[start + length :]


def type_of(schema, name):
    return next(each for each in schema["types"] if each["name"] == name)


def random_readouts(n_dimensions=0):
    """Readouts whose header's fields are all distinct."""
    rng = np.random.default_rng(3)
    readouts = []
    for _ in range(3):
        header = np.frombuffer(
            rng.integers(1, 120, ACQUISITION_HEADER.itemsize, np.uint8), ACQUISITION_HEADER
        )
        header = header[0].copy()
        header["version"], header["channel_mask"], header["flags"] = 1, 0, 1 << 21
        header["idx"]["user"] = 0  # which nobody asks for
        header["encoding_space_ref"], header["number_of_samples"] = 0, 7
        header["available_channels"] = header["active_channels"] = 3
        header["trajectory_dimensions"] = n_dimensions
        data = (rng.normal(size=(3, 7)) + 1j * rng.normal(size=(3, 7))).astype(np.complex64)
        along = rng.normal(size=(7, n_dimensions)).astype(np.float32) if n_dimensions else None
        readouts.append(Readout(header, data, along))
    return readouts


@pytest.mark.parametrize("n_dimensions", [0, 2])
def test_readouts_have_every_field_that_they_have_in_version_1(path, n_dimensions):
    readouts = random_readouts(n_dimensions)
    write(path, stream_bytes(scan_header(make_scan().settings), map(acquisition_item, readouts)))
    with Version2File(path) as file:
        assert file.n_readouts == 3
        assert file.read_headers(1, 3).tobytes() == b"".join(each.header.tobytes() for each in readouts[1:])
        for place, read in zip([2, 0, 1], file.read_readouts([2, 0, 1]), strict=True):
            made = readouts[place]
            assert read.header.tobytes() == made.header.tobytes()
            np.testing.assert_array_equal(read.data, made.data)
            assert (read.trajectory is None) == (made.trajectory is None)
            if made.trajectory is not None:
                np.testing.assert_array_equal(read.trajectory, made.trajectory)


def test_the_header_is_that_of_version_1(path):
    scan = make_scan(acceleration=2, calib_width=8, calibration_mode="separate", bits_stored=14)
    header = scan_header(scan.settings)
    header.acquisition_system_information.system_model = "One <2D> & more\0"
    header.encoding[0].encoded_space.field_of_view_mm.y = 220.3
    with Version2File(write(path, stream_bytes(header, []))) as file:
        assert file.header.protocol.model == "One <2D> & more"
        assert file.header.bits_stored == 14
        assert file.header.encodings[0].encoded.field_of_view_mm[1] == 220.3
        assert file.header.encodings[0].calibration_mode == "separate"
        assert "JANE" not in repr(file.header)
    with Version2File(write(path, stream_bytes(scan_header(scan.settings), []))) as file:
        assert file.header == parse_mrd_header(scan.xml, "scan")


def test_who_was_scanned_stands_in_the_xml_alone(path):
    header = scan_header(make_scan().settings)
    header.subject_information.patient_gender = mrd.PatientGender.F
    header.subject_information.patient_birthdate = np.datetime64("1980-02-29")
    header.study_information.study_instance_uid = "1.2.3"
    header.study_information.study_date = np.datetime64("2026-11-30")
    header.study_information.study_time = np.timedelta64(43_200_500_000_000, "ns")
    header.study_information.accession_number = 815
    header.measurement_information.frame_of_reference_uid = "1.2.4"
    with Version2File(write(path, stream_bytes(header, []))) as file:
        who = parse_identity(file.xml, "scan")
    assert (who.patient_name, who.patient_id, who.sex, who.birth_date) == (
        "DOE^JANE",
        "4711",
        "F",
        "19800229",
    )
    assert (who.study_instance_uid, who.frame_of_reference_uid) == ("1.2.3", "1.2.4")
    assert (who.study_date, who.accession_number, who.protocol_name) == ("20261130", "815", "brain")
    assert who.study_time.startswith("120000")


def test_no_acceleration_is_a_calibration_mode_of_version_2_alone(path):
    scan = make_scan(acceleration=2, calib_width=8, calibration_mode="embedded")
    header = scan_header(scan.settings)
    header.encoding[0].parallel_imaging.calibration_mode = mrd.CalibrationMode.NOACCELERATION
    with Version2File(write(path, stream_bytes(header, []))) as file:
        assert file.header.encodings[0].calibration_mode is None


def test_release_2_0_whose_readouts_have_no_head_apart_is_read(path):
    def flatten(schema):
        for readout in [each for each in schema["types"] if each["name"] == "Acquisition"]:
            readout["fields"] = type_of(schema, "AcquisitionHeader")["fields"] + readout["fields"][1:]

    readouts = random_readouts()
    data = stream_bytes(scan_header(make_scan().settings), map(acquisition_item, readouts))
    with Version2File(write(path, with_schema(data, flatten))) as file:
        assert file.read_headers(0, 3).tobytes() == b"".join(each.header.tobytes() for each in readouts)


def test_release_2_2_with_times_in_nanoseconds_and_new_fields_and_items_is_read(path):
    def renew(schema):
        head = type_of(schema, "AcquisitionHeader")
        fields = {each["name"]: each for each in head["fields"]}
        fields["acquisitionTimeStamp"].update(name="acquisitionTimeStampNs", type=[None, "uint64"])
        fields["physiologyTimeStamp"].update(
            name="physiologyTimeStampNs", type={"vector": {"items": "uint64"}}
        )
        fields["sampleTimeUs"].update(name="sampleTimeNs", type=[None, "uint64"])
        place = head["fields"].index(fields["acquisitionTimeStamp"])
        head["fields"].insert(place, {"name": "acquisitionCenterFrequency", "type": [None, "uint64"]})
        phase = {"array": {"items": "float32", "dimensions": [{"name": "samples"}]}}
        for each in schema["types"]:
            if each["name"] == "Acquisition":
                each["fields"].insert(2, {"name": "phase", "type": phase})
        union = type_of(schema, "StreamItem")["type"]
        union.insert(1, {"tag": "AcquisitionPrototype", "type": "Mrd.AcquisitionHeader"})

    empty = stream_bytes(scan_header(make_scan(size=4, n_coils=1, oversampling=1).settings), [])
    assert empty[-1] == 0  # no more items
    samples = np.arange(4, dtype="<c8")
    places = np.arange(15, dtype="<f4").tobytes()
    head = (
        varint(1 << 7)  # flags
        + b"\x01\x03" + b"\x00" * 8 + varint(0)  # kspaceEncodeStep1 of 3, no other counters
        + varint(77)  # measurementUid
        + b"\x00" + b"\x01" + varint(123_200_000)  # scanCounter, acquisitionCenterFrequency
        + b"\x01" + varint(5_000_000) + varint(2) + varint(7_000_000) + varint(9_000_000)  # time stamps
        + varint(1) + varint(0)  # channelOrder
        + b"\x00" + b"\x00" + b"\x01\x02" + b"\x00"  # discards, centerSample, encodingSpaceRef
        + b"\x01" + varint(2500)  # sampleTimeNs
        + places + varint(0) + varint(0)  # five vectors, user's numbers
    )  # fmt: skip
    phase = varint(4) + np.zeros(4, "<f4").tobytes()
    readout = b"\x00" + head + varint(1) + varint(4) + samples.tobytes() + phase + varint(0) + varint(0)
    data = with_schema(empty[:-1] + b"\x02" + readout + b"\x01" + head + b"\x00", renew)
    with Version2File(write(path, data)) as file:
        (header,) = file.read_headers(0, 1)
        assert (header["measurement_uid"], header["acquisition_time_stamp"]) == (77, 5)
        assert header["physiology_time_stamp"].tolist() == [7, 9, 0]
        assert header["sample_time_us"] == 2.5
        assert header["idx"]["kspace_encode_step_1"] == 3
        assert header["position"].tolist() == [0, 1, 2]
        assert header["patient_table_position"].tolist() == [12, 13, 14]
        (read,) = file.read_readouts([0])
        np.testing.assert_array_equal(read.data, samples[None])
        assert file.remarks == (
            "items of the stream that are no readouts are left out: 1 AcquisitionPrototype",
            "readouts that carry a phase of each sample (1): taken as applied already",
        )


@pytest.fixture
def whole():
    """A whole stream of a few readouts and one of everything else."""
    scan = make_scan(size=8, n_coils=2, oversampling=1)
    items = [acquisition_item(each) for each in scan.readouts]
    return stream_bytes(scan_header(scan.settings), [*items[:4], *other_items()[:1], *items[4:]])


def test_a_stream_that_is_cut_short_anywhere_is_refused(path, whole):
    ends = [*range(0, 40), *range(40, len(whole), 499), *range(len(whole) - 40, len(whole))]
    for end in ends:
        assert refused(write(path, whole[:end]))
    assert "cut short: send or fetch it again" in refused(write(path, whole[:-1]))
    assert "within item 8" in refused(write(path, whole[:-30])) or "item 8, byte" in refused(path)


def test_a_stream_without_a_header_is_refused(path):
    data = stream_bytes(None, map(acquisition_item, random_readouts()))
    assert "its header is missing, and with it the size of the image; write one" in refused(write(path, data))


def test_a_second_stream_in_the_file_is_refused_and_other_bytes_are_said(path, whole):
    assert f"another stream begins at byte {len(whole)}" in refused(write(path, whole + whole))
    with Version2File(write(path, whole + b"\0\0\0")) as file:
        assert "what follows the end of the stream is left out (3 bytes)" in file.remarks


def test_other_protocols_texts_and_versions_are_named(path, whole, tmp_path):
    covariance = mrd.NoiseCovariance(
        coil_labels=[], receiver_noise_bandwidth=1.0, noise_dwell_time_us=1.0, sample_count=1,
        matrix=np.eye(2, dtype=np.complex64),
    )  # fmt: skip
    with mrd.BinaryMrdNoiseCovarianceWriter(str(path)) as writer:
        writer.write_noise_covariance(covariance)
    assert "the protocol 'MrdNoiseCovariance'" in refused(path)
    assert "expected 'Mrd' of ['header', 'data'], a scan" in refused(path)
    with mrd.NDJsonMrdWriter(str(path)) as text:
        text.write_header(None)
        text.write_data([])
    assert "as text (NDJSON), expected a binary one" in refused(path)
    first = write_mrd(tmp_path / "scan.h5", make_scan())
    assert "expected b'yardl'" in refused(first)
    second = write_mrd2(tmp_path / "scan.mrd2", make_scan())
    with pytest.raises(InputError, match="is an MRD version 2 stream, expected an HDF5 file; recon and info"):
        open_mrd(second)
    assert "no such file" in refused(tmp_path / "absent.bin").lower()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"center_sample": 70_000}, "readout 1: center_sample is 70000, expected at most 65535"),
        ({"encoding_space_ref": 2**32 - 1}, "readout 1: encoding_space_ref is 4294967295"),
        ({"discard_pre": 2**16}, "readout 1: discard_pre is 65536"),
    ],
)
def test_numbers_that_no_scan_has_are_refused(path, change, words):
    items = [acquisition_item(each) for each in random_readouts()]
    for name, value in change.items():
        setattr(items[1].value.head, name, value)
    assert words in refused(write(path, stream_bytes(scan_header(make_scan().settings), items)))
    items = [acquisition_item(each) for each in random_readouts()]
    items[1].value.head.idx.kspace_encode_step_1 = 2**20
    data = stream_bytes(scan_header(make_scan().settings), items)
    assert "readout 1: kspace_encode_step_1 is 1048576, expected at most 65535" in refused(write(path, data))


def test_samples_and_trajectories_that_contradict_each_other_are_refused(path):
    header = scan_header(make_scan().settings)
    item = acquisition_item(random_readouts()[0])
    item.value.trajectory = np.zeros((2, 6), np.float32)
    assert "trajectory is (2, 6), expected (dimensions, 7)" in refused(
        write(path, stream_bytes(header, [item]))
    )
    item.value.trajectory = np.zeros((0, 0), np.float32)
    item.value.data = np.zeros((1, 70_000), np.complex64)
    assert "number_of_samples is 70000" in refused(write(path, stream_bytes(header, [item])))
    item.value.data = np.zeros((0, 0), np.complex64)
    empty = write(path, stream_bytes(header, [item]))
    with Version2File(empty) as file, pytest.raises(InputError, match="0 channels of 0 samples"):
        next(file.read_readouts([0]))


def test_a_file_that_shrinks_while_it_is_open_is_refused(path, whole):
    with Version2File(write(path, whole)) as file:
        with path.open("r+b") as shrunk:
            shrunk.truncate(len(whole) // 2)
        with pytest.raises(InputError, match="readout 4: its samples are no longer there"):
            list(file.read_readouts(range(8)))


def test_a_schema_with_other_types_than_those_of_mrd_is_refused(path, whole):
    def change(name, **fields):
        def changed(schema):
            type_of(schema, name).update(fields)

        return changed

    flags = change("AcquisitionFlags", base="string")
    counters = change("EncodingCounters", fields=[{"name": "line", "type": [None, "uint32"]}])
    for each in (flags, counters, change("StreamItem", type="Mrd.Acquisition"), change("Header", fields=[])):
        assert refused(write(path, with_schema(whole, each)))
    odd = change("StreamItem", type=[{"tag": "a\nb " * 99, "type": "int32"}])
    assert "no Acquisition" in refused(write(path, with_schema(whole, odd)))
    data = change("AcquisitionData", type={"array": {"items": "float64", "dimensions": [{}, {}]}})
    assert "not as MRD version 2 has it" in refused(write(path, with_schema(whole, data)))


def test_names_from_a_schema_stay_in_one_line(path):
    def rename(schema):
        for each in type_of(schema, "StreamItem")["type"]:
            if each["tag"] == "WaveformUint32":
                each["tag"] = "a\nb " * 99

    data = stream_bytes(scan_header(make_scan().settings), other_items()[:1])
    with Version2File(write(path, with_schema(data, rename))) as file:
        (remark,) = file.remarks
    assert "\n" not in remark
    assert len(remark) < 200


def test_a_count_that_the_file_cannot_hold_is_refused_before_anything_is_read(path):
    empty = stream_bytes(scan_header(make_scan().settings), [])
    data = empty[:-1] + varint(2**40) + struct.pack("<B", 0)
    assert "1099511627776 items need 1099511627776 bytes and 1 are left" in refused(write(path, data))

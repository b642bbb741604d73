import re
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mrd import stored_rows
from sbim_deploy.mrd.file import is_mrd, open_mrd
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag
from simulated_mrd import make_scan, write_mrd


@pytest.fixture(scope="module")
def scan():
    return make_scan(size=8, n_coils=2)


@pytest.fixture
def path(scan, tmp_path):
    return write_mrd(tmp_path / "scan.h5", scan)


def refused(path):
    with pytest.raises(InputError) as caught, open_mrd(path) as file:
        list(file.readouts())
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_readouts_are_those_that_the_ismrmrd_package_wrote(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd")
    rng = np.random.default_rng(0)
    path = tmp_path / "scan.h5"
    written = []
    with ismrmrd.Dataset(str(path), "dataset") as dataset:
        dataset.write_xml_header(make_scan(size=8).xml)
        for line in range(5):
            data = (rng.standard_normal((3, 16)) + 1j * rng.standard_normal((3, 16))).astype(np.complex64)
            trajectory = rng.standard_normal((16, 2)).astype(np.float32)
            acquisition = ismrmrd.Acquisition.from_array(data, trajectory)
            acquisition.idx.kspace_encode_step_1 = line
            acquisition.center_sample = 8
            acquisition.position[:] = (1.0, -2.0, 3.5)
            acquisition.setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
            dataset.append_acquisition(acquisition)
            written.append((acquisition, data, trajectory))
    with open_mrd(path) as file:
        read = list(file.readouts())
        again = list(file.read_readouts([3, 1]))
        assert file.n_readouts == 5
    for readout, (acquisition, data, trajectory) in zip(read, written, strict=True):
        assert readout.header.tobytes() == bytes(acquisition.getHead())
        np.testing.assert_array_equal(readout.data, data)
        np.testing.assert_array_equal(readout.trajectory, trajectory)
        assert readout.has(Flag.LAST_IN_SLICE)
    assert [int(readout.header["idx"]["kspace_encode_step_1"]) for readout in again] == [3, 1]


def test_the_only_group_of_a_file_may_have_any_name(scan, tmp_path):
    path = write_mrd(tmp_path / "scan.h5", scan, "measurement_2")
    with open_mrd(path) as file:
        assert file.n_readouts == len(scan.readouts)
        assert file.xml.decode() == scan.xml


def test_of_several_groups_the_one_named_dataset_is_taken(scan, path):
    with h5py.File(path, "a") as file:
        file.copy("dataset", "adjustment")
    with open_mrd(path) as file:
        assert file.n_readouts == len(scan.readouts)
    with h5py.File(path, "a") as file:
        file.move("dataset", "image")
    assert "'adjustment', 'image'" in refused(path)


def test_content_tells_mrd_from_fastmri(path, simulated):
    with h5py.File(path) as mrd, h5py.File(simulated) as fastmri:
        assert is_mrd(mrd, path)
        assert not is_mrd(fastmri, simulated)
    assert "expected an MRD file" in refused(simulated)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("number_of_samples", 12, "readout 3: holds 64 numbers, expected 48"),
        ("active_channels", 0, "at least one"),
        ("trajectory_dimensions", 2, "trajectory holds 0 numbers, expected 32"),
        ("flags", 1 << (Flag.COMPRESSION2 - 1), "compressed"),
        ("active_channels", 1024, "expected 32768"),
        ("active_channels", 65535, "expected 1 to 1024"),
    ],
)
def test_a_readout_that_is_not_as_its_header_says_is_refused(path, field, value, words):
    with h5py.File(path, "a") as file:
        records = file["dataset/data"][:]
        records["head"][field][3] = value
        file["dataset/data"][:] = records
    assert words in refused(path)


def test_a_readout_too_large_is_refused_before_it_is_read(path):
    with h5py.File(path, "a") as file:
        records = file["dataset/data"][:]
        records["head"]["number_of_samples"][0], records["head"]["active_channels"][0] = 65535, 1024
        file["dataset/data"][:] = records
    assert "at most 268435456" in refused(path)


def replace(path: Path, name: str, **dataset: object) -> None:
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if dataset:
            file.create_dataset(name, **dataset)


@pytest.mark.parametrize(
    ("name", "dataset", "words"),
    [
        ("dataset/xml", {}, "expected an MRD file"),
        ("dataset/xml", {"data": 3.0}, "not one short string"),
        ("dataset/xml", {"data": ["a", "b"], "dtype": h5py.string_dtype()}, "not one short string"),
        ("dataset/xml", {"data": "<no>", "dtype": h5py.string_dtype()}, "not well-formed"),
        ("dataset/data", {"data": np.zeros(3)}, "expected an MRD file"),
        ("dataset/data", {"data": np.zeros(3, [("head", ACQUISITION_HEADER)])}, "not a table"),
        ("dataset/data", {"data": np.zeros(3, [("head", "<u2"), ("data", "<f4")])}, "not a table"),
        ("dataset/data", {"data": np.zeros((2, 2), [("head", "<u2")])}, "expected 1 to"),
        ("dataset/data", {"data": np.zeros(0, [("head", "<u2")])}, "expected 1 to"),
    ],
)
def test_a_file_of_another_make_is_refused(path, name, dataset, words):
    replace(path, name, **dataset)
    assert words in refused(path)


def test_readouts_that_were_never_stored_are_refused(path):
    with h5py.File(path, "a") as file:
        file["dataset/data"].resize((10**7,))
    assert "bytes for 10000000 readouts" in refused(path)


def test_a_compressed_table_is_read(scan, path):
    with h5py.File(path, "a") as file:
        records = file["dataset/data"][:]
        del file["dataset/data"]
        file.create_dataset("dataset/data", data=records, chunks=(len(records),), compression="gzip")
    with open_mrd(path) as file:
        for readout, made in zip(file.readouts(), scan.readouts, strict=True):
            np.testing.assert_array_equal(readout.data, made.data)


def test_no_link_leads_out_of_the_file(path, tmp_path):
    outside = tmp_path / "outside.h5"
    path.rename(outside)
    with h5py.File(path, "w") as file:
        file["dataset"] = h5py.ExternalLink(str(outside), "dataset")
    assert "expected an MRD file" in refused(path)
    with h5py.File(path, "w") as file:
        file["dataset/data"] = h5py.ExternalLink(str(outside), "dataset/data")
        file["dataset/xml"] = h5py.ExternalLink(str(outside), "dataset/xml")
    assert "expected an MRD file" in refused(path)


@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused(path, part):
    stored = path.read_bytes()
    path.write_bytes(stored[: int(part * len(stored))])
    refused(path)


@pytest.mark.parametrize("part", ["data", "traj"])
@pytest.mark.parametrize("filters", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}])
def test_a_length_of_four_gigabytes_is_refused_before_it_is_allocated(path, tmp_path, part, filters):
    row = 5
    with h5py.File(path) as file:
        table = file["dataset/data"][()]
        xml = file["dataset/xml"][()]
        kind = file["dataset/data"].dtype
    damaged = tmp_path / "damaged.h5"
    with h5py.File(damaged, "w") as file:
        file["dataset/xml"] = xml
        data = file.create_dataset("dataset/data", data=table, dtype=kind, chunks=(len(table),), **filters)
        place = kind.fields[part][1] + row * kind.itemsize
        mask, stored = data.id.read_direct_chunk((0,))
        if filters:  # stored plain, which the chunk's mask says
            width = kind.itemsize
            inflated = np.frombuffer(zlib.decompress(stored[:-4]), np.uint8)
            stored, mask = inflated.reshape(width, -1).T.tobytes(), 0b111
        changed = bytearray(stored)
        changed[place : place + 4] = b"\xff" * 4
        data.id.write_direct_chunk((0,), bytes(changed), mask)
    with open_mrd(damaged) as file:
        assert len(list(file.read_readouts(range(row)))) == row
        assert len(file.read_headers(0, file.n_readouts)) == file.n_readouts
    assert "holds 4294967295 numbers" in refused(damaged)


@pytest.mark.parametrize("filters", [{"compression": "lzf"}, {"compression": "lzf", "shuffle": True}])
def test_a_table_compressed_by_lzf_is_read(path, tmp_path, scan, filters):
    packed = repack(path, tmp_path / "packed.h5", **filters)
    with open_mrd(packed) as file, open_mrd(path) as plain:
        for ours, theirs in zip(file.readouts(), plain.readouts(), strict=True):
            assert ours.header == theirs.header
            np.testing.assert_array_equal(ours.data, theirs.data)


def test_a_table_compressed_by_a_filter_that_is_not_here_says_the_way_out(path, tmp_path):
    packed = repack(path, tmp_path / "packed.h5", compression="lzf", chunks=(4,))
    stored = packed.read_bytes()
    lzf, unknown = (32000).to_bytes(2, "little"), (32099).to_bytes(2, "little")
    place = stored.rindex(lzf, 0, stored.index(b"lzf\0"))
    packed.write_bytes(stored[:place] + unknown + stored[place + 2 :])
    said = refused(packed)
    assert "compressed by 'lzf'" in said
    assert "h5repack -f GZIP=4" in said


def repack(path, packed, chunks=(5,), **filters):
    """Copy an MRD file with its table in chunks, the last not full, and compressed."""
    with h5py.File(path) as file, h5py.File(packed, "w") as copy:
        copy["dataset/xml"] = file["dataset/xml"][()]
        table = file["dataset/data"]
        copy.create_dataset("dataset/data", data=table[()], dtype=table.dtype, chunks=chunks, **filters)
    return packed


def test_a_table_whose_type_crashes_hdf5_is_refused(path):
    stored = bytearray(path.read_bytes())
    kind = stored.rindex(b"traj\0\0\0\0", 0, len(stored) // 2) + 12
    assert stored[kind : kind + 2] == b"\x19\0"  # of variable length, a sequence
    stored[kind + 1] = 9  # no kind there is: HDF5 2.0 ends the process that reads it
    path.write_bytes(stored)
    assert re.search("'dataset/data' makes HDF5 crash|cannot be read", refused(path))


@pytest.mark.parametrize("kind", [np.float32, "S4", (np.uint16, 2)])
def test_a_header_of_other_kinds_of_numbers_is_refused(path, tmp_path, kind):
    with h5py.File(path) as file:
        table, xml = file["dataset/data"][()], file["dataset/xml"][()]
    head = [(name, table.dtype["head"][name]) for name in table.dtype["head"].names]
    head[head.index(("flags", np.dtype(np.uint64)))] = ("flags", kind)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["dataset/xml"] = xml
        columns = [("head", head), *((part, table.dtype[part]) for part in ("traj", "data"))]
        row = np.zeros(1, columns)
        row["traj"], row["data"] = table["traj"][:1], table["data"][:1]
        file.create_dataset("dataset/data", data=row, chunks=(1,))
    assert "is not a table of ISMRMRD 1 acquisitions" in refused(other)


def test_large_chunks_of_a_filter_that_hdf5_undoes_are_refused(path, tmp_path, monkeypatch):
    packed = repack(path, tmp_path / "packed.h5", compression="lzf")
    monkeypatch.setattr(stored_rows, "_MAX_FOREIGN_BYTES", 1000)
    said = refused(packed)
    assert "compressed by a filter that is not gzip" in said
    assert "h5repack -f GZIP=4" in said


def test_more_channels_than_a_header_has_bits_for_are_refused(path):
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        table["head"]["active_channels"][0], table["head"]["number_of_samples"][0] = 2**16 - 1, 1
        file["dataset/data"][:] = table
    assert "65535 channels of 1 samples, expected 1 to 1024 of at least one" in refused(path)


@pytest.mark.parametrize("n_more", [8192, 2**30])
def test_a_chunk_that_says_it_is_larger_than_its_rows_is_refused(path, n_more):
    with h5py.File(path) as file:
        size = file["dataset/data"].id.get_chunk_info_by_coord((1,)).size
    content = path.read_bytes()
    # A node of the chunks' tree: the bytes that the chunk takes, its filters, its row.
    node = struct.pack("<IIQQ", size, 0, 1, 0)
    assert content.count(node) == 1
    path.write_bytes(content.replace(node, struct.pack("<IIQQ", size + n_more, 0, 1, 0)))
    assert "a chunk takes" in refused(path)

from dataclasses import replace

import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.hdf5 import open_as
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace import partitions, volume
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.kspace.volume_sources import open_volume
from sbim_deploy.mrd.file import MrdFile
from sbim_deploy.mrd.orientation import Orientation
from simulated_mrd import MrdScan, ScanSettings, write_mrd
from volume_scans import (
    hybrid,
    make_volume,
    plane_mask,
    write_cfl_volume,
    write_h5_volume,
    write_mrd_volume,
)


@pytest.fixture(scope="module")
def scan():
    return make_volume()


def all_slices(source):
    return np.stack([source.read_slice(index) for index in range(source.n_slices)])


def near(one, other):
    return np.abs(one - other).max() < 2e-6 * np.abs(other).max()


@pytest.mark.parametrize("kind", ["cfl", "coils first", "slices first", "layout", "mrd"])
def test_slices_are_the_positions_along_the_readout_of_any_file(tmp_path, scan, kind):
    mask = plane_mask()
    kspace = scan.kspace * mask[:, None, :]
    reading = Reading()
    if kind == "cfl":
        path = write_cfl_volume(tmp_path / "v.cfl", kspace)
    elif kind == "mrd":
        path = write_mrd_volume(tmp_path / "v.h5", scan, mask)
    elif kind == "layout":
        path = tmp_path / "v.npy"
        np.save(path, kspace.transpose(3, 0, 1, 2))
        reading = Reading("column,coil,slice,row")
    else:
        path = write_h5_volume(tmp_path / "v.h5", kspace, kind == "coils first")
    with open_volume(path, tmp_path, reading) as source:
        assert source.n_slices == 32
        assert (source.n_coils, source.n_rows, source.n_columns) == (4, 20, 24)
        assert near(all_slices(source), hybrid(scan) * mask)
        assert source.describe()["dimensions"] == 3


def test_the_mask_beside_partitions_is_applied(tmp_path, scan):
    mask = plane_mask()
    path = write_h5_volume(tmp_path / "v.h5", scan.kspace, mask=mask[:, None, :])
    with open_volume(path, tmp_path) as source:
        assert near(all_slices(source), hybrid(scan) * mask)


def test_a_mask_with_gaps_along_the_readout_is_refused(tmp_path, scan):
    mask = np.zeros((32, 24))
    mask[::2] = 1
    path = write_h5_volume(tmp_path / "v.h5", scan.kspace, mask=mask)
    with pytest.raises(InputError, match="along the rows, the readout"):
        open_volume(path, tmp_path)


def test_blocks_of_partitions_give_what_all_of_them_at_once_give(tmp_path, scan, monkeypatch):
    monkeypatch.setattr(volume, "BLOCK_BYTES", 3 * scan.kspace[:, 0].nbytes)
    path = write_cfl_volume(tmp_path / "v.cfl", scan.kspace)
    heard = []
    with open_volume(path, tmp_path) as source:
        source.transform(heard.append)
        assert near(all_slices(source), hybrid(scan))
    assert heard == list(range(1, 21))


def test_the_store_has_no_name_and_takes_the_bytes_that_it_says(tmp_path, scan):
    path = write_cfl_volume(tmp_path / "v.cfl", scan.kspace)
    with open_volume(path, tmp_path) as source:
        source.transform()
        assert sorted(each.name for each in tmp_path.iterdir()) == ["v.cfl", "v.hdr"]
        assert source.store_bytes == scan.kspace.nbytes


def test_a_turned_volume_is_flipped_along_all_three_axes(tmp_path, scan):
    path = write_cfl_volume(tmp_path / "v.cfl", scan.kspace)
    with open_volume(path, tmp_path, orientation=Orientation.TURNED) as source:
        turned = all_slices(source)
    # conj(k) is the k-space of the conjugate of the image at -r.
    plain = hybrid(scan)
    mirrored = np.roll(plain[::-1], 1, axis=0).conj()
    assert near(turned, mirrored)


def test_partitions_have_their_place_where_only_some_were_measured(tmp_path, scan):
    mask = plane_mask()
    mask[:10] = False  # partial Fourier along the partitions
    path = write_mrd_volume(tmp_path / "v.h5", scan, mask)
    with open_volume(path, tmp_path) as source:
        assert source.n_rows == 20
        assert near(all_slices(source), hybrid(scan) * mask)
        told = source.describe()
    assert (told["partitions"], told["partitions_measured"]) == (20, 7)


def test_a_partition_with_one_line_is_read(tmp_path, scan):
    mask = plane_mask()
    mask[0] = mask[19] = False
    mask[19, 12] = True
    path = write_mrd_volume(tmp_path / "v.h5", scan, mask)
    with open_volume(path, tmp_path) as source:
        assert near(all_slices(source), hybrid(scan) * mask)


def test_a_separate_calibration_scan_is_read_apart(tmp_path, scan):
    lattice, block = plane_mask(block=0), np.zeros((20, 24), np.bool_)
    block[6:14, 8:16] = True
    path = write_mrd_volume(tmp_path / "v.h5", scan, lattice, calibration=block)
    with open_volume(path, tmp_path) as source:
        assert near(all_slices(source), hybrid(scan) * lattice)
        assert near(source.read_calibration(16), hybrid(scan)[16] * block)


def test_noise_readouts_tell_one_level_for_all_slices(tmp_path, scan):
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask(), n_noise=64)
    with open_volume(path, tmp_path) as source:
        levels = {source.read_noise(index) for index in range(source.n_slices)}
        assert len(levels) == 1
        assert levels == {1.0}  # whitened


def copies(path, weights, **counters):
    """Write the readouts of a file several times, each time weighted and with the counters of its turn."""
    with open_as(path, MrdFile) as file:
        stored, xml = list(file.readouts()), file.xml.decode()
    readouts = []
    for turn, weight in enumerate(weights):
        for each in stored:
            header = each.header.copy()
            for name, values in counters.items():
                header["idx"][name] = values[turn]
            readouts.append(replace(each, header=header, data=np.complex64(weight) * each.data))
    return write_mrd(path.with_name("copies.h5"), MrdScan(ScanSettings(), xml, readouts, None, None, None))


def test_several_volumes_in_a_file_are_listed_and_taken_by_their_number(tmp_path, scan):
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask())
    several = copies(path, (1, 2, 3), repetition=(0, 0, 4), contrast=(0, 1, 0))
    listed = r"0 \(contrast 0, repetition 0\), 1 \(contrast 0, repetition 4\), 2 \(contrast 1, repetition 0\)"
    with pytest.raises(
        InputError, match=rf"holds 3 volumes, expected one, or --volume to say which: {listed}"
    ):
        open_volume(several, tmp_path)
    with pytest.raises(InputError, match="has no volume 3, expected one of 0"):
        open_volume(several, tmp_path, number=3)
    for number, weight in ((0, 1), (1, 3), (2, 2)):
        with open_volume(several, tmp_path, number=number) as source:
            assert near(source.read_slice(16), weight * (hybrid(scan) * plane_mask())[16])
            told = source.describe()
            assert (told["volumes"], source.series(0).contrast) == (3, int(weight == 2))
    assert told["volume"] == "contrast 1, repetition 0"


def test_slabs_are_volumes_of_their_own(tmp_path, scan):
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask())
    slabs = copies(path, (1, 2), slice=(0, 1))
    with pytest.raises(InputError, match=r"0 \(slab 0\), 1 \(slab 1\)"):
        open_volume(slabs, tmp_path)
    with open_volume(slabs, tmp_path, number=1) as source:
        assert near(source.read_slice(16), 2 * (hybrid(scan) * plane_mask())[16])


def test_averages_are_one_volume_their_mean(tmp_path, scan):
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask())
    with open_volume(copies(path, (1, 2), average=(0, 1)), tmp_path) as source:
        assert near(source.read_slice(16), 1.5 * (hybrid(scan) * plane_mask())[16])


def test_each_volume_is_calibrated_by_its_own_scan_or_another_of_its_slab(tmp_path, scan):
    block = np.zeros(plane_mask().shape, np.bool_)
    block[6:14, 8:16] = True
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask(block=0), calibration=block)
    several = copies(path, (1, 2), repetition=(0, 1))
    for number, weight in ((0, 1), (1, 2)):
        with open_volume(several, tmp_path, number=number) as source:
            assert near(source.read_calibration(16), weight * hybrid(scan)[16] * block)


def test_an_array_holds_one_volume(tmp_path, scan):
    with pytest.raises(InputError, match="leave --volume out"):
        open_volume(write_cfl_volume(tmp_path / "v.cfl", scan.kspace), tmp_path, number=0)


def test_the_partitions_of_a_calibration_scan_are_counted_with_the_others(tmp_path, scan):
    block = np.zeros(plane_mask().shape, np.bool_)
    block[6:14, 8:16] = True
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask(block=0), calibration=block)
    heard = []
    with open_volume(path, tmp_path) as source:
        source.transform(heard.append)
        assert source.n_partitions == 10 + 8
    assert heard == list(range(1, 19))


def test_what_is_read_as_slices_names_the_option_for_volumes(tmp_path, scan):
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask())
    with pytest.raises(InputError, match="--dimensions 3"):
        open_source(path)
    path = write_cfl_volume(tmp_path / "v.cfl", scan.kspace)
    with pytest.raises(InputError, match="--dimensions 3"):
        open_source(path)


def test_one_partition_is_no_volume(tmp_path, scan):
    path = write_cfl_volume(tmp_path / "v.cfl", scan.kspace[:, :1])
    with pytest.raises(InputError, match="leave --dimensions 3 out"):
        open_volume(path, tmp_path)


def test_oversampling_is_cut_from_the_readout_and_left_to_the_image_along_the_partitions(tmp_path, scan):
    mask = plane_mask()
    directions = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    path = write_mrd_volume(
        tmp_path / "v.h5", scan, mask, directions=directions, voxel_mm=(1.5, 1.0, 2.0), recon=(16, 24, 14)
    )
    with open_volume(path, tmp_path) as source:
        assert source.n_slices == 16
        assert (source.n_rows, source.recon_shape) == (20, (14, 24))
        assert near(all_slices(source), (hybrid(scan) * mask)[8:24])
        assert source.voxel_mm == (2.0, 1.0, 1.5)
        middle, next_one = (source.geometry(index) for index in (8, 9))
        assert source.store_bytes == scan.kspace.nbytes * (16 * 14) // (32 * 20)
    assert middle.position == (0.0, 0.0, 0.0)
    assert middle.field_of_view_mm == (28.0, 24.0, 1.5)
    assert next_one.position == (1.5, 0.0, 0.0)
    assert (middle.read_dir, middle.slice_dir) == ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0))


def test_voxels_that_are_finer_than_what_was_encoded_are_padded_along_the_partitions(tmp_path, scan):
    mask = plane_mask()
    path = write_mrd_volume(tmp_path / "v.h5", scan, mask)
    with h5py.File(path, "a") as file:
        xml = file["dataset/xml"][0].decode()
        place = xml.index("<reconSpace>")
        file["dataset/xml"][0] = xml[:place] + xml[place:].replace("<z>20</z>", "<z>30</z>", 1)
    with open_volume(path, tmp_path) as source:
        assert (source.n_rows, source.recon_shape) == (30, (30, 24))
        assert near(all_slices(source)[:, :, 5:25], hybrid(scan) * mask)
        assert not source.read_slice(3)[:, :5].any()


def test_a_header_whose_grid_of_all_coils_takes_gigabytes_is_refused(tmp_path, scan):
    path = write_mrd_volume(tmp_path / "v.h5", scan, np.ones((20, 24), np.bool_))
    with h5py.File(path, "r+") as file:
        xml = file["dataset/xml"][0].decode()
        for before, after in ((">24<", ">700<"), (">20<", ">600<")):
            assert xml.count(before) == 2
            xml = xml.replace(before, after)
        del file["dataset/xml"]
        file["dataset/xml"] = np.array([xml], object)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sbim_deploy.kspace.image_grid.MAX_SLICE_BYTES", 10**7)
        with pytest.raises(InputError, match=r"4 coils on a grid of 600 x 700 take 13440000 bytes"):
            open_volume(path, tmp_path)


@pytest.mark.parametrize(
    ("axis", "before", "after", "said"),
    [
        ("z", 20, 60000, "20 of 60000 partitions were measured, expected at least one in 32"),
        ("y", 24, 30000, "24 of 30000 lines were measured, expected at least one in 32"),
        ("x", 32, 100000, "a readout has 32 samples where the grid has 100000"),
    ],
)
def test_a_header_that_the_readouts_cannot_fill_is_refused(tmp_path, scan, axis, before, after, said):
    path = write_mrd_volume(tmp_path / "v.h5", scan, np.ones((20, 24), np.bool_))
    with h5py.File(path, "r+") as file:
        xml = (
            file["dataset/xml"][0].decode().replace(f"<{axis}>{before}</{axis}>", f"<{axis}>{after}</{axis}>")
        )
        del file["dataset/xml"]
        file["dataset/xml"] = np.array([xml], object)

    def read():
        with open_volume(path, tmp_path) as source:
            source.read_slice(0)

    with pytest.raises(InputError, match=said):
        read()


def test_a_partition_whose_grid_of_all_coils_takes_gigabytes_is_refused(tmp_path, scan):
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask())
    with open_volume(path, tmp_path) as source, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sbim_deploy.kspace.image_grid.MAX_SLICE_BYTES", 4 * 32 * 24 * 8 - 1)
        with pytest.raises(InputError, match=r"4 coils on a grid of 32 x 24 take 24576 bytes"):
            source.read_slice(0)


def test_of_very_many_volumes_a_few_are_named(tmp_path, scan, monkeypatch):
    named = []
    name = partitions._name
    monkeypatch.setattr(partitions, "_name", lambda *told: named.append(told) or name(*told))
    path = write_mrd_volume(tmp_path / "v.h5", scan, plane_mask())
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        table["head"]["idx"]["repetition"] = np.arange(len(table))
        file["dataset/data"][:] = table
    with pytest.raises(InputError, match=rf"holds {len(table)} volumes.*7 \(repetition 7\), \.\.\.$"):
        open_volume(path, tmp_path)
    assert len(named) == 8

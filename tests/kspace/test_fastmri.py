from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hdf5_samples import N_COILS, N_COLUMNS, N_ROWS, N_SLICES, complex_noise
from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.fastmri import KspaceSlice, open_kspace, open_maps, write_kspace
from sbim_deploy.mrd.header import Encoding, Space, format_header

SHAPE = (N_SLICES, N_COILS, N_ROWS, N_COLUMNS)


def refuse(path: Path, *fragments: str) -> None:
    with pytest.raises(InputError) as caught, open_kspace(path) as scan:
        scan.read_slice(0)
    message = str(caught.value)
    assert "\n" not in message
    for fragment in (str(path), *fragments):
        assert fragment in message


def header(recon: tuple[int, int, int], encoded: tuple[int, int, int] = (16, 12, 1)) -> str:
    return format_header(Encoding(Space(encoded, (32.0, 24.0, 5.0)), Space(recon, (16.0, 12.0, 5.0))))


def test_slices_come_back_as_written(make_file: Any) -> None:
    path = make_file()
    with open_kspace(path) as scan:
        assert (scan.n_slices, scan.n_coils, scan.n_rows, scan.n_columns) == SHAPE
        assert scan.mask is None
        assert scan.recon_shape is None
        assert scan.voxel_mm is None
        assert not scan.has_maps
        assert scan.reference_name is None
        for index in range(N_SLICES):
            np.testing.assert_array_equal(scan.read_slice(index), complex_noise(SHAPE)[index])


def test_file_is_closed_after_the_with_statement(make_file: Any) -> None:
    path = make_file()
    with open_kspace(path), pytest.raises(OSError, match="already open"):
        h5py.File(path, "r+")
    h5py.File(path, "r+").close()


def test_file_is_closed_after_a_refusal(make_file: Any) -> None:
    path = make_file(mask=np.zeros(N_COLUMNS))
    refuse(path, "all zero")
    h5py.File(path, "r+").close()


def test_single_coil_file_has_one_coil(make_file: Any) -> None:
    kspace = complex_noise((N_SLICES, N_ROWS, N_COLUMNS))
    image = np.zeros((N_SLICES, 4, 4), np.float32)
    with open_kspace(make_file(kspace=kspace, reconstruction_esc=image)) as scan:
        assert scan.n_coils == 1
        np.testing.assert_array_equal(scan.read_slice(1), kspace[1][None])


def test_double_precision_is_read_as_complex64(make_file: Any) -> None:
    with open_kspace(make_file(kspace=complex_noise(SHAPE).astype(np.complex128))) as scan:
        assert scan.read_slice(0).dtype == np.complex64


def test_missing_file_folder_and_text_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "none.h5", "no such file")
    refuse(tmp_path, "not a plain file")
    text = tmp_path / "text.h5"
    text.write_text("hello")
    refuse(text, "expected an HDF5 file")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused(make_file: Any, kept: float) -> None:
    path = make_file()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refuse(path, "truncated")


def test_damaged_chunk_is_refused_with_its_slice(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=complex_noise(SHAPE), chunks=(1, *SHAPE[1:]), compression="gzip")
        offset = file["kspace"].id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    with open_kspace(path) as scan:
        scan.read_slice(1)
        with pytest.raises(InputError, match=r"'kspace' at \[2\] cannot be read"):
            scan.read_slice(2)


def test_missing_kspace_lists_what_is_there(make_file: Any) -> None:
    refuse(make_file(kspace=None, image=np.zeros(3), mask=np.ones(6)), "'kspace'", "'image', 'mask'")
    refuse(make_file(kspace=None), "nothing")


@pytest.mark.parametrize(
    ("kspace", "fragments"),
    [
        (np.zeros(SHAPE, np.float32), ("float32", "complex")),
        (np.zeros((4, 4), np.complex64), ("(4, 4)", "slices, coils, rows, columns")),
        (np.zeros((0, 2, 4, 4), np.complex64), ("(0, 2, 4, 4)", "empty")),
        (np.zeros((1, 1025, 1, 1), np.complex64), ("1025 coils", "1024")),
        (h5py.Empty("c8"), ("shape None",)),
        ("text", ("shape ()",)),
    ],
)
def test_kspace_of_another_kind_is_refused(make_file: Any, kspace: Any, fragments: tuple[str, ...]) -> None:
    refuse(make_file(kspace=kspace), *fragments)


def test_slice_too_large_for_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (1, 1024, 2**14, 2**14), np.complex64, chunks=(1, 1, 64, 64))
    refuse(path, "2147483648")


def test_data_kept_in_other_files_are_refused(tmp_path: Path, make_file: Any) -> None:
    other = make_file()
    linked, external, grouped = (tmp_path / f"{name}.h5" for name in ("linked", "external", "grouped"))
    with h5py.File(linked, "w") as file:
        file["kspace"] = h5py.ExternalLink(str(other), "kspace")
    with h5py.File(external, "w") as file:
        file.create_dataset("kspace", (1, 1, 4, 4), "c8", external=[(str(other), 0, 128)])
    with h5py.File(grouped, "w") as file:
        file.create_group("kspace")
    refuse(linked, "link")
    refuse(external, "other files")
    refuse(grouped, "not a dataset")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j * np.inf])
def test_values_that_are_not_finite_are_counted(make_file: Any, bad: complex) -> None:
    kspace = complex_noise(SHAPE)
    kspace[1, 0, 2, 3:5] = bad
    with open_kspace(make_file(kspace=kspace)) as scan:
        scan.read_slice(0)
        with pytest.raises(InputError, match=r"slice 1 of 'kspace' has 2 of 96 values"):
            scan.read_slice(1)


def test_values_too_large_for_complex64_are_refused(make_file: Any) -> None:
    refuse(make_file(kspace=np.full(SHAPE, 1e300, np.complex128)), "not finite in complex64")


@pytest.mark.parametrize("index", [-1, N_SLICES])
def test_slice_out_of_range_is_refused(make_file: Any, index: int) -> None:
    with open_kspace(make_file()) as scan, pytest.raises(InputError, match="expected 0 to 2"):
        scan.read_slice(index)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("stored_shape", [(6,), (1, 1, 6, 1)])
def test_column_mask_is_read_as_bool(make_file: Any, dtype: type, stored_shape: tuple[int, ...]) -> None:
    columns = np.array([1, 0, 0, 1, 1, 0])
    with open_kspace(make_file(mask=columns.astype(dtype).reshape(stored_shape))) as scan:
        assert scan.mask is not None
        assert scan.mask.dtype == np.bool_
        np.testing.assert_array_equal(scan.mask, columns == 1)


def test_mask_of_rows_and_columns_keeps_both_axes(make_file: Any) -> None:
    mask = np.zeros((N_ROWS, N_COLUMNS), bool)
    mask[::2, 1:4] = True
    with open_kspace(make_file(mask=mask[None])) as scan:
        np.testing.assert_array_equal(scan.mask, mask)


@pytest.mark.parametrize(
    ("mask", "fragments"),
    [
        (np.ones(7), ("(7,)", "(6,)")),
        (np.ones((6, 8)), ("(6, 8)", "(8, 6)")),
        (np.zeros(6), ("all zero",)),
        (np.array([1, 0, np.nan, 0, 0, 0]), ("not finite",)),
        (np.ones(6, np.complex64), ("complex64",)),
        (h5py.Empty("f4"), ("shape ()",)),
    ],
)
def test_mask_of_another_kind_is_refused(make_file: Any, mask: Any, fragments: tuple[str, ...]) -> None:
    refuse(make_file(mask=mask), "'mask'", *fragments)


def test_header_gives_shapes_and_voxel_size(make_file: Any) -> None:
    with open_kspace(make_file(ismrmrd_header=header((4, 5, 1)))) as scan:
        assert scan.encoded_shape == (16, 12)
        assert scan.recon_shape == (4, 5)
        assert scan.field_of_view_mm == (16.0, 12.0, 5.0)
        assert scan.voxel_mm == (4.0, 2.4, 5.0)


@pytest.mark.parametrize("stored", ["<a", np.zeros(3), np.bytes_(b"x" * 2_000_000)])
def test_damaged_header_is_refused(tmp_path: Path, make_file: Any, stored: Any) -> None:
    path = make_file()
    with h5py.File(path, "w", libver="v108") as file:
        file["kspace"] = complex_noise(SHAPE)
        file["ismrmrd_header"] = stored
    refuse(path, "'ismrmrd_header'")


def test_maps_and_reference_of_the_same_file_are_read(make_file: Any) -> None:
    maps, reference = complex_noise(SHAPE, 1), complex_noise((N_SLICES, 4, 4), 2)
    decoy = np.ones((N_SLICES, 4, 4), np.float32)
    with open_kspace(make_file(s_maps=maps, reference=reference, reconstruction_rss=decoy)) as scan:
        assert scan.has_maps
        assert scan.reference_name == "reference"
        np.testing.assert_array_equal(scan.read_maps(2), maps[2])
        np.testing.assert_array_equal(scan.read_reference(2), reference[2])


@pytest.mark.parametrize("name", ["reconstruction_rss", "reconstruction_esc"])
def test_fastmri_reconstruction_is_the_reference_where_there_is_no_other(make_file: Any, name: str) -> None:
    image = np.arange(48, dtype=np.float64).reshape(N_SLICES, 4, 4)
    with open_kspace(make_file(**{name: image})) as scan:
        assert scan.reference_name == name
        assert scan.read_reference(1).dtype == np.float32
        np.testing.assert_array_equal(scan.read_reference(1), image[1])


def test_reference_of_another_kind_is_refused(make_file: Any) -> None:
    refuse(make_file(reference=np.zeros((2, 4, 4), np.complex64)), "'reference'", "2 slices")
    refuse(make_file(reconstruction_rss=np.zeros((3, 4, 4), np.int32)), "'reconstruction_rss'", "int32")


def test_absent_maps_and_reference_are_refused_when_read(make_file: Any) -> None:
    with open_kspace(make_file()) as scan:
        with pytest.raises(InputError, match="'s_maps'"):
            scan.read_maps(0)
        with pytest.raises(InputError, match="reconstruction_rss"):
            scan.read_reference(0)


def test_maps_of_a_second_file_are_read(make_file: Any) -> None:
    maps = complex_noise(SHAPE, 1)
    with open_maps(make_file(s_maps=maps), N_SLICES, N_COILS, [(N_ROWS, N_COLUMNS)]) as opened:
        np.testing.assert_array_equal(opened.read_maps(1), maps[1])


def test_two_sets_of_maps_are_read(make_file: Any) -> None:
    maps = complex_noise((N_SLICES, 2, *SHAPE[1:]), 1)
    path = make_file(s_maps=maps)
    with open_maps(path, N_SLICES, N_COILS, [(N_ROWS, N_COLUMNS)]) as opened, open_kspace(path) as scan:
        np.testing.assert_array_equal(opened.read_maps(1), maps[1])
        np.testing.assert_array_equal(scan.read_maps(2), maps[2])
    expected = f"expected {(N_SLICES, 2, N_COILS, N_ROWS, N_COLUMNS)}"
    refuse(make_file(s_maps=complex_noise((N_SLICES, 3, *SHAPE[1:]))), expected)


def test_maps_that_do_not_fit_are_refused(make_file: Any) -> None:
    path = make_file(s_maps=complex_noise(SHAPE))
    with pytest.raises(InputError, match=r"\(3, 2, 8, 6\), expected \(3, 4, 8, 6\)"):
        open_maps(path, N_SLICES, 4, [(N_ROWS, N_COLUMNS)])
    with pytest.raises(InputError, match="no dataset 's_maps'"):
        open_maps(make_file(), N_SLICES, N_COILS, [(N_ROWS, N_COLUMNS)])
    refuse(make_file(s_maps=complex_noise((N_SLICES, 4, N_ROWS, N_COLUMNS))), "'s_maps'")


def test_zero_and_non_finite_maps_are_refused(make_file: Any) -> None:
    maps = complex_noise(SHAPE)
    maps[0] = 0
    maps[1, 0, 0, 0] = np.nan
    with open_maps(make_file(s_maps=maps), N_SLICES, N_COILS, [(N_ROWS, N_COLUMNS)]) as opened:
        with pytest.raises(InputError, match="slice 0 of 's_maps' is all zero"):
            opened.read_maps(0)
        with pytest.raises(InputError, match="slice 1 of 's_maps' has 1 of 96"):
            opened.read_maps(1)


def test_no_flipped_byte_raises_anything_but_an_input_error(make_file: Any) -> None:
    # No header: over a damaged heap of strings HDF5 2.0 can loop for ever.
    path = make_file(mask=np.ones(N_COLUMNS))
    content = path.read_bytes()
    generator = np.random.default_rng(5)
    for position in generator.integers(0, 3000, 200):
        damaged = bytearray(content)
        damaged[position] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            with open_kspace(path) as scan:
                scan.read_slice(0)
        except InputError:
            pass


COILS, ROWS, COLUMNS = 3, 8, 6
VOXEL = (1.5, 2.0, 4.0)


def slices(number: int, fail_at: int | None = None) -> Iterator[KspaceSlice]:
    for index in range(number):
        if index == fail_at:
            raise RuntimeError("interrupted")
        kspace, maps = complex_noise((COILS, ROWS, COLUMNS), index), complex_noise((COILS, ROWS, COLUMNS), 99)
        yield KspaceSlice(kspace, reference=kspace[0], maps=maps)


@pytest.mark.parametrize("mask_shape", [(COLUMNS,), (ROWS, COLUMNS)])
def test_what_is_written_reads_back(tmp_path: Path, mask_shape: tuple[int, ...]) -> None:
    path = tmp_path / "scan.h5"
    mask = np.zeros(mask_shape, bool)
    mask[..., ::2] = True
    write_kspace(path, slices(4), mask, VOXEL, {"seed": 7})
    with open_kspace(path) as scan:
        assert (scan.n_slices, scan.n_coils, scan.n_rows, scan.n_columns) == (4, COILS, ROWS, COLUMNS)
        assert scan.encoded_shape == scan.recon_shape == (ROWS, COLUMNS)
        assert scan.voxel_mm == VOXEL
        np.testing.assert_array_equal(scan.mask, mask)
        for index, each in enumerate(slices(4)):
            np.testing.assert_array_equal(scan.read_slice(index), each.kspace)
            np.testing.assert_array_equal(scan.read_maps(index), each.maps)
            np.testing.assert_array_equal(scan.read_reference(index), each.reference)
    with h5py.File(path) as file:
        assert json.loads(file.attrs["provenance"]) == {"seed": 7}
        for name in ("kspace", "s_maps", "reference"):
            assert file[name].dtype == np.complex64


def test_interrupted_writing_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    path.write_text("older")
    with pytest.raises(RuntimeError, match="interrupted"):
        write_kspace(path, slices(4, fail_at=2), np.ones(COLUMNS, bool), VOXEL, {}, force=True)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_no_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no slice"):
        write_kspace(tmp_path / "scan.h5", slices(0), np.ones(COLUMNS, bool), VOXEL, {})
    assert not list(tmp_path.iterdir())


def test_slices_and_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    kspace = complex_noise((COILS, ROWS, COLUMNS))
    with pytest.raises(ValueError, match="maps"):
        KspaceSlice(kspace, kspace[0], kspace[:1])
    with pytest.raises(ValueError, match="reference"):
        KspaceSlice(kspace, kspace[0, 1:], kspace)
    with pytest.raises(ValueError, match="mask"):
        write_kspace(tmp_path / "scan.h5", slices(1), np.ones(COLUMNS + 1, bool), VOXEL, {})
    smaller = kspace[:, 1:]
    mixed = [KspaceSlice(each, each[0], each) for each in (kspace, smaller)]
    with pytest.raises(ValueError, match="slice 1"):
        write_kspace(tmp_path / "scan.h5", mixed, np.ones(COLUMNS, bool), VOXEL, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("beside", [{}, {"mask": np.ones(N_COLUMNS)}])
def test_three_axes_that_nothing_tells_apart_are_refused_with_the_two_readings(
    make_file: Any, beside: dict[str, Any]
) -> None:
    kspace = complex_noise((6, N_ROWS, N_COLUMNS))
    path = make_file(kspace=kspace, **beside)
    refuse(
        path, "6 coils of one slice or 6 slices of one coil", "--layout coil,row,column", "slice,row,column"
    )
    with open_kspace(path, Reading("coil,row,column")) as scan:
        assert (scan.n_slices, scan.n_coils) == (1, 6)
        np.testing.assert_array_equal(scan.read_slice(0), kspace)
    with open_kspace(path, Reading("slice,row,column")) as scan:
        assert (scan.n_slices, scan.n_coils) == (6, 1)
        np.testing.assert_array_equal(scan.read_slice(5), kspace[5:])


def test_what_stands_beside_three_axes_tells_slices_from_coils(make_file: Any) -> None:
    kspace = complex_noise((6, N_ROWS, N_COLUMNS))
    images = np.ones((6, 4, 4), np.float32)
    for slices in (
        {"reconstruction_esc": images},
        {"ismrmrd_header": header((4, 5, 1))},
        {"s_maps": kspace[:, None]},
    ):
        with open_kspace(make_file(kspace=kspace, **slices)) as scan:
            assert (scan.n_slices, scan.n_coils) == (6, 1)
            assert scan.describe()["layout"] == "slice,row,column"
    for coils in ({"reference": images[:1]}, {"s_maps": kspace[None]}):
        with open_kspace(make_file(kspace=kspace, **coils)) as scan:
            assert (scan.n_slices, scan.n_coils) == (1, 6)
            np.testing.assert_array_equal(scan.read_slice(0), kspace)


@pytest.mark.parametrize(
    "stored_shape", [(N_SLICES, N_COLUMNS), (N_SLICES, 1, N_COLUMNS), (N_SLICES, 1, 1, N_COLUMNS)]
)
def test_a_mask_of_slices_and_columns_is_applied_to_its_slice(
    make_file: Any, stored_shape: tuple[int, ...]
) -> None:
    mask = np.array([[1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 1]])
    with open_kspace(make_file(mask=mask.reshape(stored_shape))) as scan:
        assert scan.mask is None
        assert scan.mask_kind == "in the file, one for each slice"
        for index in range(N_SLICES):
            expected = complex_noise(SHAPE)[index] * mask[index]
            np.testing.assert_array_equal(scan.read_slice(index), expected)


def test_a_mask_of_slices_that_is_as_large_as_one_of_rows_is_refused_with_the_way_out(make_file: Any) -> None:
    kspace = complex_noise((N_ROWS, 2, N_ROWS, N_COLUMNS))
    mask = np.eye(N_ROWS, N_COLUMNS) + 1
    refuse(make_file(kspace=kspace, mask=mask), "(1, 8, 6)", "(8, 1, 6)")
    with open_kspace(make_file(kspace=kspace, mask=mask[None])) as scan:
        assert scan.mask is not None
    with open_kspace(make_file(kspace=kspace, mask=mask[:, None])) as scan:
        assert scan.mask is None


def test_a_slice_whose_own_mask_is_empty_is_named(make_file: Any) -> None:
    mask = np.ones((N_SLICES, N_COLUMNS))
    mask[1] = 0
    with open_kspace(make_file(mask=mask)) as scan:
        scan.read_slice(0)
        with pytest.raises(InputError, match="'mask' of slice 1 is all zero"):
            scan.read_slice(1)


def test_a_header_that_pads_all_coils_to_gigabytes_is_refused(tmp_path):
    extent = (200.0, 200.0, 5.0)
    header = format_header(Encoding(Space((4096, 4096, 1), extent), Space((8192, 8192, 1), extent)))
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("kspace", (1, 8, 4096, 4096), "c8", chunks=(1, 1, 64, 64))
        file["ismrmrd_header"] = header
    with pytest.raises(InputError, match="8 coils on a grid of 8192 x 8192 take 4294967296 bytes"):
        open_kspace(tmp_path / "scan.h5")

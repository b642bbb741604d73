from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bart_tool import bart
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.cfl import (
    CflFile,
    CflKspace,
    new_cfl,
    open_cfl_maps,
    read_cfl,
    write_cfl,
    write_cfl_images,
)
from sbim_deploy.mri.fourier import centred_fft, centred_ifft


def noise(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def write_pair(folder: Path, sizes: str, n_bytes: int | None = None) -> Path:
    path = folder / "a.cfl"
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{sizes}\n# Command\nphantom\n")
    if n_bytes is None:
        n_bytes = 8 * int(np.prod([int(word) for word in sizes.split()]))
    path.write_bytes(bytes(n_bytes))
    return path


@pytest.mark.parametrize("shape", [(8, 6), (7, 10), (9, 5)])
def test_bart_s_unitary_transform_is_the_one_used_here(tmp_path, shape):
    image = noise(*shape)
    write_cfl(tmp_path / "image.cfl", image)
    bart(tmp_path, "fft", "-u", 3, "image", "kspace")
    bart(tmp_path, "fft", "-u", "-i", 3, "kspace", "back")
    with CflKspace(tmp_path / "kspace.cfl") as kspace, CflFile(tmp_path / "back.cfl") as back:
        np.testing.assert_allclose(kspace.read_slice(0)[0], centred_fft(image), atol=1e-5)
        np.testing.assert_allclose(back.read_coils(0)[0], image, atol=1e-5)


def test_coil_images_of_bart_s_phantom_combine_as_bart_combines_them(tmp_path):
    bart(tmp_path, "phantom", "-k", "-s", 4, "-x", 32, "kspace")
    bart(tmp_path, "fft", "-u", "-i", 3, "kspace", "coils")
    bart(tmp_path, "rss", 8, "coils", "rss")
    with CflKspace(tmp_path / "kspace.cfl") as kspace, CflFile(tmp_path / "rss.cfl") as rss:
        assert (kspace.n_slices, kspace.n_coils, kspace.n_rows, kspace.n_columns) == (1, 4, 32, 32)
        assert kspace.geometry(0) is None
        ours = np.linalg.norm(centred_ifft(kspace.read_slice(0)), axis=0)
        np.testing.assert_allclose(ours, rss.read_coils(0)[0].real, rtol=1e-4, atol=1e-4 * ours.max())


def test_slices_are_bart_s_axis_13(tmp_path):
    images = noise(3, 8, 6)
    write_cfl_images(tmp_path / "images.cfl", images)
    bart(tmp_path, "slice", 13, 1, "images", "second")
    with CflFile(tmp_path / "second.cfl") as second, CflFile(tmp_path / "images.cfl") as all_three:
        np.testing.assert_array_equal(second.read_coils(0)[0], images[1])
        assert (all_three.n_slices, all_three.n_coils) == (3, 1)
        np.testing.assert_array_equal(all_three.read_coils(2)[0], images[2])
    header = (tmp_path / "images.hdr").read_text().splitlines()
    assert header == ["# Dimensions", "8 6 1 1 1 1 1 1 1 1 1 1 1 3 1 1", "# Creator", "sbim-deploy"]


def test_two_sets_of_maps_are_read_as_bart_writes_them(tmp_path):
    bart(tmp_path, "phantom", "-k", "-s", 4, "-x", 32, "kspace")
    bart(tmp_path, "ecalib", "-m", 2, "kspace", "maps")
    with open_cfl_maps(tmp_path / "maps.cfl", 1, 4, [(32, 32)]) as maps:
        sets = maps.read_maps(0)
    assert sets.shape == (2, 4, 32, 32)
    for i in range(2):
        bart(tmp_path, "slice", 4, i, "maps", "one")
        with open_cfl_maps(tmp_path / "one.cfl", 1, 4, [(32, 32)]) as one:
            np.testing.assert_array_equal(one.read_coils(0), sets[i])


def test_a_set_axis_is_for_maps_alone_and_holds_two_at_most(tmp_path):
    write_cfl(tmp_path / "sets.cfl", noise(8, 6, 1, 4, 3))
    with pytest.raises(InputError, match="axis 4 has size 3, expected 2; take fewer sets of maps"):
        open_cfl_maps(tmp_path / "sets.cfl", 1, 4, [(8, 6)])
    write_cfl(tmp_path / "sets.cfl", noise(8, 6, 1, 4, 2), force=True)
    with pytest.raises(InputError, match="axis 4 has size 2, expected 1"):
        CflKspace(tmp_path / "sets.cfl")


def test_maps_are_compared_with_their_kspace(tmp_path):
    write_cfl(tmp_path / "maps.cfl", noise(8, 6, 1, 4))
    with open_cfl_maps(tmp_path / "maps.cfl", 1, 4, [(16, 6), (8, 6)]) as maps:
        assert maps.read_maps(0).shape == (4, 8, 6)
    with pytest.raises(InputError, match=r"maps are \(1, 4, 8, 6\).*expected \(1, 5, 8, 6\)"):
        open_cfl_maps(tmp_path / "maps.cfl", 1, 5, [(8, 6)])
    with (
        open_cfl_maps(write_pair(tmp_path, "8 6 1 4"), 1, 4, [(8, 6)]) as zero,
        pytest.raises(InputError, match="all zero"),
    ):
        zero.read_maps(0)


@pytest.mark.parametrize(
    ("sizes", "n_bytes", "reason"),
    [
        ("4 4 3 2", None, r"axis 2 has size 3, expected 1; .*bart transpose 2 13"),
        ("4 4 1 2 2", None, r"axis 4 has size 2.*ecalib -m 1"),
        ("4 4 1 2 1 1 1 1 1 1 5", None, r"axis 10 has size 5.*bart slice 10 0"),
        ("4 4 1 2", 8 * 31, "has 248 bytes, its header expects 256"),
        ("4 4 1 2000", None, "has 2000 coils, expected at most 1024"),
        ("999999 999999 1 999", 16, "its header expects"),
        ("4 -4 1 2", 0, "expected 1 to 16 of at least 1"),
        ("4 0 1 2", 0, "expected 1 to 16 of at least 1"),
        ("4 4 " + "1 " * 20, None, "expected 1 to 16 of at least 1"),
        ("4 four", 0, "no sizes after"),
        ("", 0, "expected 1 to 16"),
    ],
)
def test_bad_headers_are_refused_before_anything_is_read(tmp_path, sizes, n_bytes, reason):
    path = write_pair(tmp_path, sizes, n_bytes)
    with pytest.raises(InputError, match=reason) as caught:
        CflKspace(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_what_is_not_there_are_named(tmp_path):
    path = write_pair(tmp_path, "4 4 1 2")
    with CflKspace(path) as kspace:
        assert kspace.read_calibration(0) is None
        with pytest.raises(InputError, match="no slice 1, expected 0 to 0"):
            kspace.read_slice(1)
        path.write_bytes(bytes(8))
        with pytest.raises(InputError, match="is cut short"):
            kspace.read_slice(0)
    path.with_suffix(".hdr").unlink()
    with pytest.raises(InputError, match=r"a\.hdr: no such file"):
        CflKspace(path)


def test_values_that_are_not_finite_are_refused(tmp_path):
    kspace = noise(4, 4, 1, 2)
    kspace[1, 2, 0, 1] = np.nan
    write_cfl(tmp_path / "k.cfl", kspace)
    with pytest.raises(InputError, match="slice 0 has 1 of 32 values that are not finite"):
        CflKspace(tmp_path / "k.cfl").read_slice(0)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_cfl(tmp_path / "k.cfl", noise(4, 4))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_cfl(tmp_path / "k.cfl", np.array([[object()]]), force=True)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
    with pytest.raises(InputError, match=r"must end in \.cfl"):
        write_cfl(tmp_path / "k.bin", noise(4, 4))


def test_an_array_that_is_written_part_by_part_is_the_one_written_whole(tmp_path):
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(np.complex64)
    write_cfl(tmp_path / "whole.cfl", values)
    array = new_cfl(tmp_path / "parts.cfl", values.shape)
    assert not array.any()
    for place in range(4):
        array[:, :, place] = values[:, :, place]
    for suffix in (".cfl", ".hdr"):
        parts, whole = ((tmp_path / name).with_suffix(suffix).read_bytes() for name in ("parts", "whole"))
        assert parts == whole
    np.testing.assert_array_equal(read_cfl(tmp_path / "parts.cfl").squeeze(), values)
    with pytest.raises(InputError, match=r"parts\.cfl"):
        new_cfl(tmp_path / "parts.cfl", values.shape)

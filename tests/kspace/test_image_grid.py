"""The image's pixels lie where the header says, in every format, for every way in which its spaces differ."""

import h5py
import numpy as np
import pytest

from blob_scans import (
    blob_image,
    blob_kspace,
    blob_readouts,
    distance,
    spaces_xml,
    write_fastmri,
    write_readouts,
)
from sbim_deploy.errors import InputError
from sbim_deploy.io.layouts import Reading
from sbim_deploy.kspace.fastmri import open_kspace
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import Flag
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.pairing import reference_magnitude

SQUARE = (240.0, 240.0)
BASE = ((96, 96), SQUARE)

# samples, true extent | encodedSpace | reconSpace | image, its voxels, whether something is assumed
SPACES = {
    "finer": ((96, 96), SQUARE, BASE, ((160, 160), SQUARE), (160, 160), (1.5, 1.5), False),
    "narrower": ((96, 64), SQUARE, ((96, 64), SQUARE), BASE, (96, 96), (2.5, 2.5), False),
    "oversampled and finer": (
        (128, 48), (480, 240), ((128, 48), (480, 240)), BASE, (96, 96), (2.5, 2.5), False,
    ),
    "coarser": ((96, 96), SQUARE, BASE, ((96, 70), SQUARE), (96, 96), (2.5, 2.5), True),
    "wider than encoded": (
        (96, 64), (240, 160), ((96, 64), (240, 160)), BASE, (96, 64), (2.5, 2.5), True,
    ),
    "a header that rounds": (
        (96, 95), (240, 237.5), ((96, 95), (240, 238.1)), ((96, 80), (240, 200)), (96, 80), (2.5, 2.5), False,
    ),
    "oversampling that is not in the header": ((192, 96), (480, 240), BASE, BASE, (96, 96), (2.5, 2.5), True),
    "oversampling in the matrix alone": (
        (192, 96), (480, 240), ((192, 96), SQUARE), BASE, (96, 96), (2.5, 2.5), True,
    ),
    "oversampling that was removed": (
        (96, 96), SQUARE, ((192, 96), (480, 240)), BASE, (96, 96), (2.5, 2.5), True,
    ),
}  # fmt: skip


def written(tmp_path, file_format, samples, extent, encoded, recon):
    kspace, xml = blob_kspace(samples, extent), spaces_xml(encoded, recon)
    if file_format == "fastMRI":
        return write_fastmri(tmp_path / "scan.h5", xml, kspace)
    return write_readouts(tmp_path / "scan.h5", xml, blob_readouts(kspace))


@pytest.mark.parametrize("file_format", ["fastMRI", "MRD"])
@pytest.mark.parametrize("case", SPACES)
def test_the_image_has_the_field_of_view_of_the_header(case, file_format, tmp_path):
    samples, extent, encoded, recon, shape, voxel, assumed = SPACES[case]
    path = written(tmp_path, file_format, samples, extent, encoded, recon)
    with open_source(path) as source:
        kspace = source.read_slice(0)
        assert kspace.shape[1:] == (source.n_rows, source.n_columns)
        assert source.recon_shape == shape
        assert source.voxel_mm == pytest.approx((*voxel, 5))
        image = centre_crop(centred_ifft(kspace[0]), shape)
        assert distance(image, source.voxel_mm) < 0.02
        if file_format == "MRD":
            assert source.geometry(0).field_of_view_mm == pytest.approx(
                (shape[0] * voxel[0], shape[1] * voxel[1], 5)
            )
        assert bool(source.describe()["assumed"]) == assumed
    assert bool(describe(path)["assumed"]) == assumed


def test_a_low_resolution_array_has_the_encoded_field_of_view(tmp_path):
    full = ((160, 160), SQUARE)
    path = write_fastmri(tmp_path / "scan.h5", spaces_xml(full, full), blob_kspace((96, 96), SQUARE))
    with open_source(path) as source:
        assert (source.recon_shape, source.voxel_mm) == ((160, 160), (1.5, 1.5, 5))
        image = centre_crop(centred_ifft(source.read_slice(0)[0]), source.recon_shape)
        assert distance(image, source.voxel_mm) < 0.02


@pytest.mark.parametrize("shape", [(96, 64), (160, 160)], ids=["of k-space", "of reconSpace"])
def test_a_file_s_own_reference_fits_the_image_of_its_padded_kspace(shape, tmp_path):
    reference = blob_image(shape, (240 / shape[0], 240 / shape[1])).astype(np.float32)
    path = write_fastmri(
        tmp_path / "scan.h5",
        spaces_xml(((96, 64), SQUARE), ((160, 160), SQUARE)),
        blob_kspace((96, 64), SQUARE),
        reconstruction_rss=reference[None],
    )
    with open_kspace(path) as source:
        fitting = reference_magnitude(source, 0, source.recon_shape)
        assert distance(fitting, source.voxel_mm) < 0.01
        problem = prepare_slice(source.read_slice(0), 0, source.mask, image_shape=source.recon_shape)
        assert distance(centre_crop(problem.zero_filled, source.recon_shape), source.voxel_mm) < 0.05


def test_mask_and_maps_are_those_of_the_padded_grid(tmp_path):
    mask = np.zeros(64, np.bool_)
    mask[20:44] = True
    maps = np.broadcast_to(np.exp(1j * np.linspace(0, 1, 64)), (1, 3, 96, 64)).astype(np.complex64)
    path = write_fastmri(
        tmp_path / "scan.h5",
        spaces_xml(((96, 64), SQUARE), ((96, 128), SQUARE)),
        blob_kspace((96, 64), SQUARE) * mask,
        mask=mask,
        s_maps=maps,
    )
    with open_kspace(path) as source:
        np.testing.assert_array_equal(np.flatnonzero(source.mask), np.arange(52, 76))
        kspace = source.read_slice(0)
        np.testing.assert_array_equal(kspace.any(axis=(0, 1)), source.mask)
        finer = source.read_maps(0)
        assert finer.shape == kspace.shape
        # The pixel at the centre is the same, and every second one is one of the file's.
        np.testing.assert_allclose(finer[:, :, ::2], maps[0], atol=1e-6)
        np.testing.assert_allclose(
            finer[:, :, 1:-1:2], (maps[0, :, :, 1:] + maps[0, :, :, :-1]) / 2, atol=1e-6
        )


def test_two_dimensional_masks_are_padded_in_both_directions(tmp_path):
    mask = np.ones((96, 64), np.bool_)
    xml = spaces_xml(((96, 64), SQUARE), ((192, 128), SQUARE))
    path = write_fastmri(tmp_path / "scan.h5", xml, blob_kspace((96, 64), SQUARE), mask=mask)
    with open_kspace(path) as source:
        assert source.mask.shape == (192, 128)
        assert source.mask.sum() == 96 * 64


def test_a_slice_s_own_mask_is_of_kspace_as_it_is_stored_in_any_layout(tmp_path):
    kspace = np.stack([blob_kspace((96, 64), SQUARE)] * 2)
    masks = np.zeros((2, 64), np.bool_)
    masks[0, 20:44] = masks[1, 30:50] = True
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.transpose(2, 1, 3, 0)
        file["mask"] = masks
        file["ismrmrd_header"] = spaces_xml(((96, 64), SQUARE), ((96, 128), SQUARE))
    with open_source(path, Reading("row,coil,column,slice"), Orientation.TURNED) as source:
        assert source.mask is None
        assert source.stored_shape == (96, 64)
        for index, mask in enumerate(masks):
            got = source.read_slice(index)
            np.testing.assert_array_equal(got[..., 32:96], (kspace[index] * mask).conj())
            np.testing.assert_array_equal(np.flatnonzero(got.any(axis=(0, 1))), np.flatnonzero(mask) + 32)
        told = source.describe()
        assert told["layout"] == "row,coil,column,slice"
        assert any("conjugated" in each for each in told["assumed"])


def assembled(xml, readouts):
    assembler = SliceAssembler(parse_mrd_header(xml, "scan"))
    return [each for readout in readouts for each in assembler.add(readout)] + assembler.finish()


@pytest.mark.parametrize("case", SPACES)
def test_a_stream_gives_what_the_file_gives(case, tmp_path):
    samples, extent, encoded, recon, shape, voxel, assumed = SPACES[case]
    xml, readouts = spaces_xml(encoded, recon), blob_readouts(blob_kspace(samples, extent))
    (streamed,) = assembled(xml, readouts)
    with open_source(write_readouts(tmp_path / "scan.h5", xml, readouts)) as source:
        np.testing.assert_array_equal(streamed.kspace, source.read_slice(0))
        assert streamed.image_shape == source.recon_shape
        assert streamed.geometry == source.geometry(0)
    assert streamed.field_of_view_mm == pytest.approx((shape[0] * voxel[0], shape[1] * voxel[1], 5))
    assert bool(streamed.remarks) == assumed


def asymmetric(readouts, skipped):
    for readout in readouts:
        readout.header["number_of_samples"] -= skipped
        readout.header["center_sample"] -= skipped
    return [type(each)(each.header, each.data[:, skipped:]) for each in readouts]


def backwards(readouts):
    for readout in readouts[::2]:
        readout.header["flags"] = int(readout.header["flags"]) | 1 << (Flag.IS_REVERSE - 1)
        samples = int(readout.header["number_of_samples"])
        readout.header["center_sample"] = samples - 1 - int(readout.header["center_sample"])
        readout.data[:] = readout.data[:, ::-1].copy()
    return readouts


@pytest.mark.parametrize(
    "change", [lambda each: asymmetric(each, 17), backwards], ids=["asymmetric", "reversed"]
)
@pytest.mark.parametrize("case", ["oversampling that is not in the header", "oversampling that was removed"])
def test_oversampling_is_told_by_the_longer_side_of_the_centre(case, change):
    samples, extent, encoded, recon, shape, _, _ = SPACES[case]
    xml = spaces_xml(encoded, recon)
    (plain,) = assembled(xml, blob_readouts(blob_kspace(samples, extent)))
    (changed,) = assembled(xml, change(blob_readouts(blob_kspace(samples, extent))))
    assert changed.image_shape == shape
    assert changed.field_of_view_mm == plain.field_of_view_mm
    measured = changed.kspace != 0
    np.testing.assert_allclose(changed.kspace, plain.kspace * measured, atol=1e-6)
    assert measured.sum() > 0.8 * np.count_nonzero(plain.kspace)


def test_a_readout_longer_than_those_before_it_tells_the_oversampling_of_the_whole_slice():
    long, short = blob_readouts(blob_kspace((192, 96), (480, 240))), []
    for readout in long[:5]:
        readout.header["number_of_samples"] = 80
        readout.header["center_sample"] = 40
        short.append(type(readout)(readout.header, readout.data[:, 56:136]))
    (each,) = assembled(spaces_xml(BASE, BASE), [*short, *long[5:]])
    assert each.image_shape == (96, 96)
    np.testing.assert_allclose(each.kspace[:, 56:136], blob_kspace((192, 96), (480, 240))[:, 56:136])
    assert not each.kspace[:, :56, :5].any()


@pytest.mark.parametrize(
    ("samples", "encoded", "recon", "words"),
    [
        (120, BASE, BASE, ["60 samples", "96 samples over 240 mm"]),
        (192, BASE, ((192, 96), SQUARE), ["192 samples", "2 times oversampled or", "240 mm"]),
        (70, ((192, 96), (480, 240)), BASE, ["either of 192", "of 96", "480 mm"]),
    ],
    ids=["no integer", "two readings", "oversampled or not"],
)
def test_readouts_that_could_mean_two_things_are_refused_with_the_numbers(
    samples, encoded, recon, words, tmp_path
):
    xml, kspace = spaces_xml(encoded, recon), blob_kspace((samples, 96), SQUARE)
    readouts = blob_readouts(kspace)
    for name, wrong in (
        ("stream", lambda: assembled(xml, readouts)),
        ("MRD", lambda: open_source(write_readouts(tmp_path / "scan.h5", xml, readouts))),
        ("fastMRI", lambda: open_source(write_fastmri(tmp_path / "fast.h5", xml, kspace))),
    ):
        with pytest.raises(InputError) as caught:
            wrong()
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value), name


def test_slices_of_a_stream_that_contradict_one_another_are_refused():
    xml = spaces_xml(((192, 96), (480, 240)), BASE)
    short, long = (
        blob_readouts(blob_kspace((96, 96), SQUARE)),
        blob_readouts(blob_kspace((192, 96), (480, 240)), number=1),
    )
    with pytest.raises(InputError, match=r"reaches 96 samples from its centre, those of slices .* 96 in all"):
        assembled(xml, [*short, *long])


def test_more_columns_than_were_encoded_are_refused_with_the_numbers(tmp_path):
    path = write_fastmri(tmp_path / "scan.h5", spaces_xml(BASE, BASE), blob_kspace((96, 120), SQUARE))
    with pytest.raises(InputError, match="120 columns where encodedSpace has 96 over 240 mm"):
        open_source(path)

import shutil
import subprocess
from dataclasses import replace

import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.noise_scan import NoiseScan
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.slice_buffer import Series
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.file import open_mrd
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import Flag
from sbim_deploy.mri.fourier import centre_pad, centred_fft
from sbim_deploy.mri.metrics import nrmse
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.choice import SamplerChoice
from simulated_mrd import make_scan, write_mrd

FAST = ReconSettings(choice=SamplerChoice(steps=6))
ONE_STEP = ReconSettings(choice=SamplerChoice(steps=1))
GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
needs_generator = pytest.mark.skipif(
    shutil.which(GENERATOR) is None, reason=f"{GENERATOR} (ismrmrd-tools) is not on PATH"
)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_slices": 3, "n_repetitions": 2, "interleaved": True, "noise": 0.01, "n_noise_readouts": 4},
        {"acceleration": 3, "calib_width": 10, "calibration_mode": "separate", "n_repetitions": 2},
        {"acceleration": 3, "calib_width": 10, "calibration_mode": "embedded", "n_averages": 2},
    ],
    ids=["interleaved", "separate", "embedded"],
)
def test_a_file_has_the_slices_that_its_stream_has(settings, tmp_path):
    scan = make_scan(**settings)
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"))
    streamed = [each for readout in scan.readouts for each in assembler.add(readout)]
    streamed.sort(key=lambda each: (each.series, each.slice))
    with open_source(write_mrd(tmp_path / "scan.h5", scan)) as kspace:
        assert kspace.n_slices == len(streamed)
        assert (kspace.n_coils, kspace.n_rows, kspace.n_columns) == streamed[0].kspace.shape
        # Backwards and twice: what was read before must not matter.
        for index in [*reversed(range(kspace.n_slices)), 0]:
            each = streamed[index]
            assert (kspace.series(index), kspace.slice_number(index)) == (each.series, each.slice)
            np.testing.assert_array_equal(kspace.read_slice(index), each.kspace)
            assert kspace.geometry(index) == each.geometry
            assert kspace.slice_header(index).tobytes() == each.header.tobytes()
            calibration = kspace.read_calibration(index)
            assert (calibration is None) == (each.calibration is None)
            if calibration is not None:
                np.testing.assert_array_equal(calibration, each.calibration)
        assert kspace.recon_shape == (32, 32)
        assert kspace.voxel_mm == (8.0, 8.0, 5.0)
        with pytest.raises(InputError, match=f"no slice {len(streamed)}"):
            kspace.read_slice(len(streamed))


def test_a_repetition_without_calibration_lines_takes_those_of_a_later_one(tmp_path):
    settings = {"acceleration": 4, "n_repetitions": 2, "size": 48}
    bare, whole = make_scan(**settings), make_scan(calib_width=12, **settings)
    whole.readouts[:] = [
        *bare.readouts[: len(bare.readouts) // 2],
        *whole.readouts[len(whole.readouts) // 2 :],
    ]
    path = write_mrd(tmp_path / "scan.h5", whole)
    with open_source(path) as kspace:
        borrowed = kspace.read_calibration(0)
        assert kspace.read_calibration(1) is None
        centre = slice(24 - 6, 24 + 6)
        np.testing.assert_array_equal(borrowed[:, :, centre], kspace.read_slice(1)[:, :, centre])
        without, own = (
            prepare_slice(kspace.read_slice(index), image_shape=(48, 48), calibration=borrowed).maps
            for index in range(2)
        )
    np.testing.assert_array_equal(without, own)
    measured = reconstruct_file(path, tmp_path / "out.h5", ONE_STEP).measured
    assert measured.scan["calibration_of_slices"] == {"another series": 1, "its own lines": 1}
    assert measured.calibration_lines == 12


def test_the_description_counts_what_the_file_holds(tmp_path):
    scan = make_scan(
        n_slices=2, n_repetitions=3, n_noise_readouts=2, noise=0.01, acceleration=2, calib_width=8,
        calibration_mode="separate",
    )  # fmt: skip
    header = scan.readouts[-1].header.copy()
    header["flags"] = 1 << (Flag.IS_NAVIGATION_DATA - 1)
    scan.readouts.append(replace(scan.readouts[-1], header=header))
    found = describe(write_mrd(tmp_path / "scan.h5", scan))
    assert found["kind"] == "k-space"
    assert found["format"].startswith("MRD")
    assert (found["slices"], found["coils"], found["rows"], found["columns"]) == (6, 4, 64, 32)
    assert (found["series"], found["slices_of_series"]) == (3, 2)
    assert found["readouts"] == len(scan.readouts)
    assert (found["noise_readouts"], found["whitened"], found["dwell_us"]) == (2, True, 5.0)
    assert (found["calibration_mode"], found["calibration_readouts"]) == ("separate", 16)
    assert found["dropped_readouts"] == {"navigation": 1}
    assert found["acceleration"] == 2
    assert found["placed_in_the_patient"]


def write_changed(path, change, **settings):
    scan = make_scan(**settings)
    scan.readouts[:] = change(scan.readouts)
    return write_mrd(path, scan)


def with_counter(readout, name, value):
    header = readout.header.copy()
    header["idx"][name] = value
    return replace(readout, header=header)


def as_noise(readout):
    header = readout.header.copy()
    header["flags"] = 1 << (Flag.IS_NOISE_MEASUREMENT - 1)
    return replace(readout, header=header)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda readouts: [as_noise(each) for each in readouts], "none of its 32 readouts is of an image"),
        (
            lambda readouts: [with_counter(readouts[0], "kspace_encode_step_1", 99), *readouts],
            "kspace_encode_step_1 is 99",
        ),
        (lambda readouts: [replace(readouts[0], data=readouts[0].data * np.nan), *readouts], "not finite"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_name(change, words, tmp_path):
    path = write_changed(tmp_path / "scan.h5", change)
    with pytest.raises(InputError, match=words) as caught, open_source(path) as kspace:
        kspace.read_slice(0)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1


def test_a_slice_that_failed_leaves_the_others_as_they_are(tmp_path):
    scan = make_scan(n_slices=2)
    scan.readouts[3] = replace(scan.readouts[3], data=scan.readouts[3].data * np.nan)
    with open_source(write_mrd(tmp_path / "scan.h5", scan)) as kspace:
        for _ in range(2):
            with pytest.raises(InputError, match="not finite"):
                kspace.read_slice(0)
            expected = centred_fft(centre_pad(scan.maps * scan.images[0, 1], (64, 32)))
            np.testing.assert_allclose(kspace.read_slice(1), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"skipped_lines": 9, "reversed_lines": True}, {"skipped_samples": 12}],
    ids=["partial Fourier", "asymmetric echo"],
)
def test_recon_with_the_true_maps_gives_the_complex_image(settings, tmp_path):
    scan = make_scan(size=48, acceleration=2, calib_width=12, **settings)
    maps, out = tmp_path / "maps.h5", tmp_path / "out.h5"
    with h5py.File(maps, "w") as file:
        file["s_maps"] = centre_pad(scan.maps, (96, 48))[None]
    reconstruct_file(write_mrd(tmp_path / "scan.h5", scan), out, replace(FAST, maps=maps))
    truth = scan.images[0, 0]
    with open_result(out) as result:
        image, zero_filled = result.read_image(0), result.read_zero_filled(0)
    assert np.linalg.norm(image - truth) < 0.2 * np.linalg.norm(truth)
    assert nrmse(np.abs(image), np.abs(truth)) < 0.6 * nrmse(zero_filled, np.abs(truth))


def test_recon_of_separate_calibration_and_noise_readouts_gives_the_image(tmp_path):
    scan = make_scan(
        n_slices=2, size=48, acceleration=2, calib_width=12, calibration_mode="separate", interleaved=True,
        reversed_lines=True, n_noise_readouts=4, noise=0.002,
    )  # fmt: skip
    out = tmp_path / "out.h5"
    measured = reconstruct_file(write_mrd(tmp_path / "scan.h5", scan), out, FAST).measured
    assert measured.scan["calibration_of_slices"] == {"separate readouts": 2}
    assert (measured.acceleration, measured.calibration_lines) == (2, 12)
    with open_result(out) as result:
        for index in range(2):
            truth, image = np.abs(scan.images[0, index]), np.abs(result.read_image(index))
            # Whitening gives the image another scale.
            assert nrmse(image * np.linalg.norm(truth) / np.linalg.norm(image), truth) < 0.25


def generate(path, options):
    subprocess.run([GENERATOR, *options.split(), "-o", path], check=True, capture_output=True)
    return path


def stored(path, name):
    """Read an array of the generator's as (coil, rows, columns): it has the readout last."""
    with h5py.File(path) as file:
        array = file["dataset"][name][0]
    return (array["real"] + 1j * array["imag"]).swapaxes(-1, -2)


@needs_generator
def test_the_generator_s_readouts_are_its_coil_images(tmp_path):
    path = generate(tmp_path / "scan.h5", "-m 64 -c 4 -O 2 -a 2 -w 16 -r 2 -n 0")
    coil_images = stored(path, "coil_images")
    kspace_of_all = centred_fft(coil_images)
    with open_source(path) as kspace:
        assert kspace.recon_shape == (64, 64)
        for index in range(kspace.n_slices):
            assert kspace.series(index) == Series(0, 0, 0, index, 0)
            measured = kspace.read_slice(index)
            acquired = measured.any(axis=(0, 1))
            assert acquired.sum() == 40
            assert acquired[index % 2 :: 2].all()
            expected = kspace_of_all * acquired
            np.testing.assert_allclose(measured, expected, atol=1e-6 * np.abs(expected).max())


@needs_generator
def test_recon_of_the_generator_s_file_is_twice_as_near_as_zero_filling(cli, tmp_path):
    path = generate(tmp_path / "scan.h5", "-m 128 -c 4 -O 2 -a 4 -w 24 -n 0.01 -C")
    out, picture, volume = (tmp_path / name for name in ("out.h5", "out.png", "out.nii"))
    done = cli("recon", path, "-o", out, "--slices", "0:1", "--steps", 6, "--png", picture, "--nifti", volume)
    assert done.code == 0
    assert picture.stat().st_size
    assert volume.stat().st_size
    with open_mrd(path) as file, open_result(out) as result:
        noise = NoiseScan(0.793)
        noise.add(next(file.readouts()))
        whitening = noise.whitening(4, 5.0)
        truth = np.einsum("dc,crk->drk", whitening, stored(path, "csm") * stored(path, "phantom"))
        truth = np.sqrt((np.abs(truth) ** 2).sum(axis=0))
        ours = nrmse(np.abs(result.read_image(0)), truth)
        assert ours < 0.5 * nrmse(result.read_zero_filled(0), truth)
    shown = cli("info", path)
    assert "format: MRD" in shown.out
    assert "noise_readouts: 1" in shown.out

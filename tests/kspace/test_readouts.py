from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace import channels
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.slice_buffer import Series
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import Flag
from sbim_deploy.mri.fourier import centre_crop, centre_pad, centred_fft, centred_ifft
from simulated_mrd import NO_DIRECTIONS, make_scan


def assembled(scan, max_bytes=None, xml=None):
    assembler = SliceAssembler(parse_mrd_header(xml or scan.xml, "scan"), max_bytes)
    complete = [each for readout in scan.readouts for each in assembler.add(readout)]
    return complete + assembler.finish()


def expected_kspace(scan, repetition=0, number=0):
    """The truth's k-space by the fast transform; the scan's is by the Fourier sum."""
    settings = scan.settings
    image = scan.maps * scan.images[repetition, number]
    padded = centre_pad(image, (settings.oversampling * settings.size, settings.size))
    kspace = centred_fft(padded) * scan.mask[repetition]
    kspace[:, : settings.skipped_samples] = 0
    return kspace


def with_header(readout, **fields):
    header = readout.header.copy()
    for name, value in fields.items():
        (header["idx"] if name in header["idx"].dtype.names else header)[name] = value
    return replace(readout, header=header)


def flagged(readout, *flags):
    return with_header(readout, flags=sum(1 << (flag - 1) for flag in flags))


def refused(scan, readout, words, max_bytes=None, xml=None):
    assembler = SliceAssembler(parse_mrd_header(xml or scan.xml, "scan"), max_bytes)
    with pytest.raises(InputError, match=words) as caught:
        assembler.add(readout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 33, "oversampling": 1},
        {"acceleration": 3, "calib_width": 6, "calibration_mode": "embedded"},
        {"acceleration": 3, "calib_width": 6, "calibration_mode": "interleaved", "shifted": True},
        {"n_slices": 3, "interleaved": True, "n_repetitions": 2},
        {"skipped_lines": 9},
        {"skipped_samples": 13},
        {"discarded": 5},
        {"reversed_lines": True},
        {"reversed_lines": True, "skipped_samples": 7, "discarded": 2, "skipped_lines": 3},
        {"n_averages": 3, "interleaved": True},
        {"last_in_slice": False},
        {"last_in_slice": False, "last_in_measurement": False},
    ],
    ids=lambda settings: ", ".join(settings) or "plain",
)
def test_kspace_is_the_known_object_s(settings):
    scan = make_scan(**settings)
    slices = assembled(scan)
    n_repetitions, n_slices = scan.images.shape[:2]
    assert [(each.series.repetition, each.slice) for each in slices] == [
        (repetition, number) for repetition in range(n_repetitions) for number in range(n_slices)
    ]
    for each in slices:
        expected = expected_kspace(scan, each.series.repetition, each.slice)
        assert each.kspace.dtype == np.complex64
        np.testing.assert_allclose(each.kspace, expected, atol=1e-6 * np.abs(expected).max())
        assert each.image_shape == scan.images.shape[2:]
        assert each.calibration is None


@pytest.mark.parametrize("settings", [{"skipped_lines": 6}, {"skipped_samples": 12}])
def test_partial_kspace_keeps_the_phase_of_the_image(settings):
    scan = make_scan(**settings)
    (each,) = assembled(scan)
    truth = scan.maps * scan.images[0, 0]

    def error(kspace):
        image = centre_crop(centred_ifft(kspace), truth.shape[-2:])
        return np.linalg.norm(image - truth) / np.linalg.norm(truth)

    # What was left out costs a little; a shift by what was left out ruins the phase.
    shift = (-settings.get("skipped_samples", 0), -settings.get("skipped_lines", 0))
    assert error(each.kspace) < 0.35
    assert error(np.roll(each.kspace, shift, axis=(1, 2))) > 1


def test_a_slice_is_given_out_at_its_last_readout_and_the_rest_at_the_measurement_s():
    scan = make_scan(n_slices=2, n_repetitions=2, n_averages=2, interleaved=True)
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"))
    for readout in scan.readouts:
        complete = [(each.series, each.slice) for each in assembler.add(readout)]
        key = (
            Series(0, 0, 0, int(readout.header["idx"]["repetition"]), 0),
            int(readout.header["idx"]["slice"]),
        )
        assert complete == ([key] if readout.has(Flag.LAST_IN_SLICE) else [])
    assert assembler.finish() == []

    scan = make_scan(n_slices=2, last_in_slice=False)
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"))
    counts = [len(assembler.add(readout)) for readout in scan.readouts]
    assert counts == [0] * (len(counts) - 1) + [2]


def test_last_in_slice_of_an_earlier_average_does_not_end_the_slice():
    scan = make_scan(n_averages=2)
    half = len(scan.readouts) // 2
    scan.readouts[half - 1] = flagged(scan.readouts[half - 1], Flag.LAST_IN_SLICE)
    assert len(assembled(scan)) == 1


@pytest.mark.parametrize("counter", ["contrast", "phase", "set"])
def test_every_counter_of_a_series_parts_its_slices(counter):
    scan = make_scan()
    other = [
        replace(with_header(readout, **{counter: 2}), data=2 * readout.data) for readout in scan.readouts
    ]
    mixed = [each for pair in zip(scan.readouts, other, strict=True) for each in pair]
    scan.readouts[:] = [with_header(readout, flags=0) for readout in mixed]
    first, second = assembled(scan)
    assert (getattr(first.series, counter), getattr(second.series, counter)) == (0, 2)
    np.testing.assert_allclose(second.kspace, 2 * first.kspace)


def test_averages_are_averaged_line_by_line():
    scan = make_scan(size=16, n_averages=2, noise=1.0)
    first, second = scan.readouts[3], scan.readouts[16 + 3]
    (each,) = assembled(scan)
    np.testing.assert_allclose(each.kspace[:, :, 3], (first.data + second.data) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        (Flag.IS_NAVIGATION_DATA, "navigation"),
        (Flag.IS_PHASECORR_DATA, "phase correction"),
        (Flag.IS_HPFEEDBACK_DATA, "feedback"),
        (Flag.IS_RTFEEDBACK_DATA, "feedback"),
        (Flag.IS_DUMMYSCAN_DATA, "dummy"),
        (Flag.IS_SURFACECOILCORRECTIONSCAN_DATA, "surface coil correction"),
        (Flag.IS_PHASE_STABILIZATION_REFERENCE, "phase stabilisation"),
        (Flag.IS_PHASE_STABILIZATION, "phase stabilisation"),
    ],
)
def test_readouts_that_are_no_kspace_are_dropped_and_counted(flag, kind):
    scan = make_scan(size=16)
    stray = flagged(scan.readouts[0], flag, Flag.LAST_IN_SLICE)
    stray = replace(stray, data=1000 * stray.data[:2])
    scan.readouts.insert(5, stray)
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"))
    (each,) = [each for readout in scan.readouts for each in assembler.add(readout)]
    np.testing.assert_allclose(each.kspace, expected_kspace(scan), atol=1e-6)
    assert assembler.dropped == {kind: 1}


def noise_scan(**changes):
    """A scan of noise alone that is correlated between the coils."""
    rng = np.random.default_rng(1)
    mixing = np.eye(4) + 0.3 * (rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)))
    scan = make_scan(size=64, noise=0.05, noise_mixing=mixing, n_noise_readouts=16, **changes)
    object_alone = make_scan(size=64, n_noise_readouts=16, **changes)
    scan.readouts[:] = [
        replace(readout, data=readout.data - of_object.data)
        for readout, of_object in zip(scan.readouts, object_alone.readouts, strict=True)
    ]
    return scan


def covariance(kspace):
    noise = kspace.reshape(len(kspace), -1)
    return noise @ noise.conj().T / noise.shape[1]


@pytest.mark.parametrize("noise_dwell_us", [5.0, 10.0])
def test_noise_readouts_make_the_coils_noise_white_and_of_known_variance(noise_dwell_us):
    scan = noise_scan(noise_dwell_us=noise_dwell_us)
    off_diagonal = covariance(np.concatenate([r.data for r in scan.readouts], axis=1))
    assert np.abs(off_diagonal - np.diag(np.diag(off_diagonal))).max() > 0.2 * np.abs(off_diagonal).max()
    (each,) = assembled(scan)
    assert each.noise == 1
    # The bandwidth is 0.793: each of the two parts has that variance.
    np.testing.assert_allclose(covariance(each.kspace), 2 * 0.793 * np.eye(4), atol=0.15)


@pytest.mark.parametrize("unknown", ["image", "noise"])
def test_an_unknown_dwell_time_leaves_the_noise_at_unit_variance(unknown):
    scan = noise_scan()
    scan.readouts[:] = [
        with_header(readout, sample_time_us=0)
        if readout.has(Flag.IS_NOISE_MEASUREMENT) == (unknown == "noise")
        else readout
        for readout in scan.readouts
    ]
    (each,) = assembled(scan)
    np.testing.assert_allclose(covariance(each.kspace), np.eye(4), atol=0.1)
    assert each.noise is None
    assert any("dwell time" in remark and "is measured in the image" in remark for remark in each.remarks)


def test_averages_lower_the_noise_that_the_readouts_tell():
    (each,) = assembled(make_scan(n_averages=4, noise=0.01, n_noise_readouts=4, size=32))
    assert each.noise == 0.5


def test_separate_calibration_is_not_in_the_image_and_serves_every_repetition():
    scan = make_scan(
        acceleration=4,
        calib_width=12,
        calibration_mode="separate",
        n_slices=2,
        n_repetitions=2,
        interleaved=True,
    )
    for each in assembled(scan):
        expected = expected_kspace(scan, each.series.repetition, each.slice)
        np.testing.assert_allclose(each.kspace, expected, atol=1e-6)
        image = scan.maps * scan.images[0, each.slice]
        calibration = centred_fft(centre_pad(image, each.kspace.shape[1:]))
        calibration[:, :, :10] = calibration[:, :, 22:] = 0
        np.testing.assert_allclose(each.calibration, calibration, atol=1e-6)
        assert each.calibration_series == Series(0, 0, 0, 0, 0)


def test_a_repetition_without_calibration_lines_takes_those_of_the_one_before():
    settings = {"acceleration": 4, "n_repetitions": 2, "calibration_mode": "embedded"}
    scan = make_scan(calib_width=12, **settings)
    bare = make_scan(**settings)
    half = len(scan.readouts) // 2
    scan.readouts[half:] = bare.readouts[len(bare.readouts) // 2 :]
    first, second = assembled(scan)
    assert first.calibration is None
    assert second.calibration_series == first.series
    # The run around the centre goes on to the regular lines beside it.
    centre = slice(10, 22)
    np.testing.assert_array_equal(second.calibration[:, :, centre], first.kspace[:, :, centre])
    assert not second.calibration[:, :, :9].any()


def test_the_header_and_the_place_are_those_of_the_line_at_the_centre():
    tilt = np.deg2rad(20)
    directions = ((0.0, 1.0, 0.0), (-np.cos(tilt), 0.0, np.sin(tilt)), (np.sin(tilt), 0.0, np.cos(tilt)))
    scan = make_scan(n_slices=2, skipped_lines=4, directions=directions, position=(5.0, -7.0, 9.0))
    _, second = assembled(scan)
    assert int(second.header["idx"]["kspace_encode_step_1"]) == 16 - 4
    place = second.geometry
    np.testing.assert_allclose(place.position, np.array([5, -7, 9]) + 6 * np.array(directions[2]), atol=1e-5)
    np.testing.assert_allclose([place.read_dir, place.phase_dir, place.slice_dir], directions, atol=1e-6)
    assert place.field_of_view_mm == (256, 256, 5)


def test_a_scan_that_does_not_say_where_it_lies_has_no_place():
    assert assembled(make_scan(directions=NO_DIRECTIONS))[0].geometry is None


def test_an_image_finer_than_what_was_encoded_is_padded_in_kspace():
    scan = make_scan(size=32)
    recon = scan.xml[scan.xml.index("<reconSpace>") :]
    xml = scan.xml.replace(recon, recon.replace("<x>32</x><y>32</y>", "<x>64</x><y>48</y>"))
    (each,) = assembled(scan, xml=xml)
    assert each.kspace.shape == (4, 128, 48)
    assert each.image_shape == (64, 48)
    expected = centre_pad(expected_kspace(scan), (128, 48))
    np.testing.assert_allclose(each.kspace, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kspace_encode_step_1": 32}, "kspace_encode_step_1 is 32, expected 0 to 31"),
        ({"kspace_encode_step_2": 1}, "kspace_encode_step_2 is 1"),
        ({"encoding_space_ref": 1}, "encoding space 1, expected one of 1"),
        ({"center_sample": 31}, "do not fit 64 encoded samples"),
        ({"discard_pre": 64}, "discards all"),
        ({"number_of_samples": 63}, r"samples \(4, 64\), expected \(4, 63\)"),
        ({"active_channels": 5}, r"samples \(4, 64\), expected \(5, 64\)"),
        ({"sample_time_us": np.nan, "flags": 1 << (Flag.LAST_IN_SLICE - 1)}, "sample_time_us"),
        ({"read_dir": (1, 1, 0), "flags": 1 << (Flag.LAST_IN_SLICE - 1)}, "unit vectors"),
        ({"position": (np.inf, 0, 0), "flags": 1 << (Flag.LAST_IN_SLICE - 1)}, "unit vectors"),
        ({"flags": 1 << (Flag.COMPRESSION1 - 1)}, "compressed"),
    ],
)
def test_a_readout_that_does_not_fit_is_refused(changes, words):
    scan = make_scan()
    refused(scan, with_header(scan.readouts[0], **changes), words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<trajectory>cartesian", "<trajectory>radial", "'radial'"),
        ("<trajectory>cartesian", "<trajectory>epi", "'epi'"),
        ("<x>64</x><y>32</y>", "<x>65536</x><y>65536</y>", "too large"),
        ("<x>256.0</x>", "<x>1e-300</x>", "times as wide"),
    ],
)
def test_a_scan_that_is_not_2d_cartesian_is_refused(old, new, words):
    scan = make_scan()
    assert old in scan.xml
    refused(scan, scan.readouts[0], words, xml=scan.xml.replace(old, new))


def test_samples_too_large_to_compute_with_are_refused():
    scan = make_scan(n_averages=2, n_noise_readouts=4, noise=0.1)
    huge = np.full_like(scan.readouts[4].data, 3e38)
    scan.readouts[4:] = [replace(readout, data=huge) for readout in scan.readouts[4:]]
    with pytest.raises(InputError, match="too large"):
        assembled(scan)
    with pytest.raises(InputError, match="too large"):
        assembled(replace(scan, readouts=[replace(readout, data=huge) for readout in scan.readouts]))


def test_slices_in_progress_are_bounded_together():
    scan = make_scan(n_slices=3, interleaved=True)
    one = 4 * 64 * 32 * 8
    assert len(assembled(scan, max_bytes=4 * one)) == 3
    with pytest.raises(InputError, match="all slices in progress"):
        assembled(scan, max_bytes=2 * one)


def test_the_memory_in_use_is_counted_as_slices_come_and_go():
    settings = {"acceleration": 4, "calib_width": 12, "n_slices": 2, "n_repetitions": 2, "interleaved": True}
    scan = make_scan(calibration_mode="separate", **settings)
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "x"))
    held = (assembler._images, assembler._calibrations, assembler._kept)
    most = 0
    for readout in scan.readouts:
        assembler.add(readout)
        assert assembler.n_bytes == sum(each.n_bytes for part in held for each in part.values())
        most = max(most, assembler.n_bytes)
    assert most > assembler.n_bytes
    assembler.finish()
    assert assembler.n_bytes == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda readouts: [readouts[3], replace(with_header(readouts[4], active_channels=3),
                                                   data=readouts[4].data[:3])], "other channels, expected 4"),
        (lambda readouts: [*readouts[:-1], flagged(readouts[-1], Flag.LAST_IN_SLICE), readouts[0]],
         "after LAST_IN_SLICE"),
    ],
)  # fmt: skip
def test_readouts_that_contradict_one_another_are_refused(change, words):
    scan = make_scan()
    scan.readouts[:] = change(scan.readouts)
    with pytest.raises(InputError, match=words):
        assembled(scan)


def test_the_noise_s_memory_is_counted_among_the_slices():
    asked = []
    scan = make_scan(size=16, n_coils=4, n_noise_readouts=2)
    assembler = SliceAssembler(
        parse_mrd_header(scan.xml, "scan"), admit=lambda n_bytes, _shape, _n: asked.append(n_bytes)
    )
    for readout in scan.readouts[:3]:
        assembler.add(readout)
    samples = assembler.n_bytes * 8 // 9  # the others count what went into them
    assert assembler.noise.n_bytes == 16 * 4 * 4
    assert assembler.n_whole_bytes == assembler.n_bytes + 16 * 4 * 4
    assert asked[-1] == samples + 16 * 4 * 4


def test_readouts_of_other_channels_in_very_many_slices_end_the_scan(monkeypatch):
    monkeypatch.setattr(channels, "MAX_SLICES", 10)
    scan = make_scan(size=16, n_coils=2)
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"))
    first = flagged(scan.readouts[0])
    assembler.add(first)
    others = [
        replace(with_header(first, active_channels=1, slice=number), data=first.data[:1])
        for number in range(11)
    ]
    for each in others[:10]:
        assembler.add(each)
    with pytest.raises(InputError, match="the scan: 11 readouts have other channels, expected 2 channels"):
        assembler.add(others[10])


def test_a_slice_waits_once_for_its_calibration_lines():
    scan = make_scan(size=16, calibration_mode="separate", acceleration=2, calib_width=8)
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"))
    image = next(each for each in scan.readouts if not each.has(Flag.IS_PARALLEL_CALIBRATION))
    for _ in range(5):
        assert assembler.add(flagged(image, Flag.LAST_IN_SLICE)) == []
    assert len(assembler._waiting) == 1

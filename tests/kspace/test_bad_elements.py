"""One bad element never loses the scan, and readouts may come in any order that a file has."""

from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mrd.messages import Flag
from simulated_mrd import make_scan, write_mrd

NOISY = {"n_noise_readouts": 4, "noise": 0.01, "size": 16}


def stream(scan, max_bytes=2**30):
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"), max_bytes)
    return [each for readout in scan.readouts for each in assembler.add(readout)] + assembler.finish()


def flagged(readout, *flags):
    header = readout.header.copy()
    header["flags"] = sum(1 << (flag - 1) for flag in flags)
    return replace(readout, header=header)


def changed_noise(change):
    """A scan whose noise readouts are changed by their number."""
    scan = make_scan(**NOISY)
    scan.readouts[:4] = [change(number, readout) for number, readout in enumerate(scan.readouts[:4])]
    return scan


def with_channel(value):
    def change(_, readout):
        data = readout.data.copy()
        data[2] = value(data)
        return replace(readout, data=data)

    return change


def other_dwell(number, readout):
    if number != 3:
        return readout
    header = readout.header.copy()
    header["sample_time_us"] = 10
    return replace(readout, header=header, data=100 * readout.data)


def fewer_channels(number, readout):
    header = readout.header.copy()
    header["active_channels"] = 2
    return replace(readout, header=header, data=readout.data[:2])


def not_finite(number, readout):
    return replace(readout, data=readout.data * np.nan) if number == 1 else readout


NOISE = {
    "a dead channel": (with_channel(lambda data: 0), "coil 2 of 4 has no noise of its own", True, {2}),
    "a duplicate channel": (with_channel(lambda data: data[1]), "has no noise of its own", True, None),
    "two dwell times": (other_dwell, "dwell time of 10 us are left out, the first have 5 us", True, set()),
    "other channels": (fewer_channels, "2 channels and the image 4", False, set()),
    "values that are not finite": (not_finite, "not finite is left out", True, set()),
}


@pytest.mark.parametrize("case", NOISE)
def test_noise_readouts_that_cannot_be_used_are_left_out_and_said(case, tmp_path):
    change, words, whitened, dead = NOISE[case]
    scan = changed_noise(change)
    (each,) = stream(scan)
    assert any(words in remark for remark in each.remarks)
    assert each.noise == (1 if whitened else None)
    zero = {coil for coil in range(4) if not each.kspace[coil].any()}
    assert len(zero) == 1 if dead is None else zero == dead
    with open_source(write_mrd(tmp_path / "scan.h5", scan)) as source:
        np.testing.assert_array_equal(source.read_slice(0), each.kspace)
        assert any(words in remark for remark in source.describe()["assumed"])
        assert source.describe()["whitened"] == whitened


def test_coils_that_are_left_are_white_as_they_are_without_the_dead_one():
    whole, dead = make_scan(**NOISY), changed_noise(with_channel(lambda data: 0))
    without = replace(whole, readouts=[])
    for readout in whole.readouts:
        header = readout.header.copy()
        header["active_channels"] = 3
        without.readouts.append(replace(readout, header=header, data=readout.data[[0, 1, 3]]))
    ((expected,), (got,)) = (stream(scan) for scan in (without, dead))
    np.testing.assert_allclose(got.kspace[[0, 1, 3]], expected.kspace, rtol=1e-4, atol=1e-5)


def test_too_few_noise_samples_are_not_used_and_that_is_said():
    scan = make_scan(size=16)
    noise = flagged(replace(scan.readouts[0], data=scan.readouts[0].data[:, :3]), Flag.IS_NOISE_MEASUREMENT)
    scan.readouts.insert(0, noise)
    (each,) = stream(scan)
    assert each.noise is None
    assert any("3 samples for 4 channels are too few" in remark for remark in each.remarks)


def test_a_slice_with_values_that_are_not_finite_is_marked_and_the_others_come(tmp_path):
    scan = make_scan(n_slices=3, size=16)
    scan.readouts[20] = replace(scan.readouts[20], data=scan.readouts[20].data * np.nan)
    slices = stream(scan)
    assert [each.fault is None for each in slices] == [True, False, True]
    assert "slice 1 of repetition 0" in slices[1].fault
    assert "not finite" in slices[1].fault
    assert np.isfinite(slices[1].kspace).all()
    assert slices[1].kspace.any()
    with open_source(write_mrd(tmp_path / "scan.h5", scan)) as source:
        np.testing.assert_array_equal(source.read_slice(2), slices[2].kspace)
        with pytest.raises(InputError, match="not finite"):
            source.read_slice(1)


def test_a_slice_of_nothing_but_bad_values_is_marked_too():
    scan = make_scan(n_slices=2, size=16)
    scan.readouts[:16] = [replace(each, data=each.data * np.nan) for each in scan.readouts[:16]]
    first, second = stream(scan)
    assert "not finite" in first.fault
    assert not first.kspace.any()
    assert second.fault is None


def test_a_slice_with_many_readouts_of_another_coil_is_marked_and_the_others_come():
    scan = make_scan(n_slices=8, size=16, last_in_measurement=False)
    others = [replace(flagged(each), data=each.data[:2]) for each in scan.readouts[16:20]]
    for each in others:
        each.header["active_channels"] = 2
    slices = stream(replace(scan, readouts=[*scan.readouts[:17], *others, *scan.readouts[17:]]))
    assert [each.slice for each in slices if each.fault is not None] == [1]
    assert "4 readouts have other channels, expected 4 channels" in slices[1].fault


def without_average_limits(scan):
    start = scan.xml.index("<average>")
    end = scan.xml.index("</average>") + len("</average>")
    return replace(scan, xml=scan.xml[:start] + scan.xml[end:])


@pytest.mark.parametrize("interleaved", [False, True])
def test_last_in_slice_of_every_average_without_limits_gives_all_averages_in_the_end(interleaved, tmp_path):
    scan = without_average_limits(
        make_scan(n_slices=2, n_averages=3, noise=0.1, size=16, interleaved=interleaved)
    )
    scan.readouts[:] = [
        flagged(readout, Flag.LAST_IN_SLICE)
        if readout.header["idx"]["kspace_encode_step_1"] == 15
        else readout
        for readout in scan.readouts
    ]
    slices = stream(scan)
    last = {each.slice: each for each in slices}
    assert [each.slice for each in slices].count(0) == 3
    with open_source(write_mrd(tmp_path / "scan.h5", scan)) as source:
        for number in range(2):
            np.testing.assert_allclose(last[number].kspace, source.read_slice(number), atol=1e-6)


def test_finished_slices_are_kept_for_another_average_within_their_share_of_the_memory():
    scan = without_average_limits(make_scan(n_slices=6, n_averages=1, size=16))
    one = 4 * 32 * 16 * 8 + 32 * 16 * 4  # sums of four coils, and counts
    assembler = SliceAssembler(parse_mrd_header(scan.xml, "scan"), 8 * 3 * one)
    scan.readouts[-1] = flagged(scan.readouts[-1], Flag.LAST_IN_SLICE)
    for readout in scan.readouts:
        assembler.add(readout)
    kept_lines = sum(each.n_bytes for each in assembler._kept.values())
    assert assembler.n_bytes - kept_lines == 3 * one
    again = replace(scan.readouts[0], header=scan.readouts[0].header.copy())
    again.header["idx"]["average"] = 1
    with pytest.raises(InputError, match="after LAST_IN_SLICE"):
        assembler.add(again)


@pytest.mark.parametrize("flag", [True, False], ids=["with LAST_IN_SLICE", "at the end"])
def test_separate_calibration_may_come_after_the_image(flag, tmp_path):
    scan = make_scan(
        n_slices=2,
        acceleration=3,
        calib_width=10,
        calibration_mode="separate",
        size=32,
        last_in_measurement=False,
    )
    calibration, image = scan.readouts[:20], scan.readouts[20:]
    if flag:
        for place in (9, 19):
            calibration[place] = flagged(calibration[place], Flag.IS_PARALLEL_CALIBRATION, Flag.LAST_IN_SLICE)
    before, after = stream(scan), stream(replace(scan, readouts=[*image, *calibration]))
    assert [each.slice for each in after] == [0, 1]
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_array_equal(ours.kspace, theirs.kspace)
        np.testing.assert_array_equal(ours.calibration, theirs.calibration)
    with open_source(
        write_mrd(tmp_path / "scan.h5", replace(scan, readouts=[*image, *calibration]))
    ) as source:
        np.testing.assert_array_equal(source.read_calibration(1), after[1].calibration)


@pytest.mark.parametrize("seed", range(6))
def test_no_flipped_byte_of_a_readout_raises_anything_but_an_input_error(seed):
    rng = np.random.default_rng(seed)
    scan = without_average_limits(make_scan(n_slices=2, n_averages=2, size=8, n_noise_readouts=1, noise=0.01))
    header = parse_mrd_header(scan.xml, "scan")
    for _ in range(20):
        assembler = SliceAssembler(header, 2**22)
        try:
            for readout in scan.readouts:
                damaged = readout.header.copy()
                if rng.random() < 0.1:
                    damaged = np.frombuffer(bytearray(damaged.tobytes()), damaged.dtype)[0]
                    view = np.frombuffer(damaged.data, np.uint8).copy()
                    view[rng.integers(len(view))] ^= 1 << rng.integers(8)
                    damaged = view.view(damaged.dtype)[0]
                assembler.add(replace(readout, header=damaged))
            assembler.finish()
        except InputError:
            continue

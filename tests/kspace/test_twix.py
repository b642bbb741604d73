"""Siemens twix files: what is read is held against twixtools, and against MRD files of the same readouts."""

from dataclasses import replace

import numpy as np
import pytest

import sbim_deploy.kspace.twix_lines as twix_lines
from blob_scans import blob_kspace, distance, spaces_xml, write_readouts
from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.kspace.twix import TwixFile
from sbim_deploy.kspace.twix_lines import is_twix
from sbim_deploy.mrd.messages import ACQUISITION_HEADER, Flag, Readout
from sbim_deploy.mrd.orientation import Orientation
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centred_ifft
from sbim_deploy.runs.info import describe
from twix_samples import (
    AXIAL,
    MM,
    POSITION,
    THICKNESS,
    Line,
    N,
    Scan,
    image_lines,
    noise_lines,
    protocol_values,
    sync_line,
    twix_bytes,
    with_flags,
    write_twix,
)

pytest.importorskip("twixtools", reason="twixtools is not installed: no Siemens raw data are read")

VOXEL = (MM / N, MM / N)
OBLIQUE = (0.8, 0.2, -0.4, 0.4)
VERSIONS = pytest.mark.parametrize("vb", [False, True], ids=["VD", "VB"])


def by_twixtools(path):
    """Return twixtools' own array (slice, channel, sample, line) of the last measurement."""
    import twixtools

    found = twixtools.map_twix(str(path), verbose=False)[-1]["image"]
    values = np.asarray(found[:])
    names = list(found.dims)
    kept = [names.index(name) for name in ("Sli", "Cha", "Col", "Lin")]
    others = tuple(axis for axis in range(values.ndim) if axis not in kept)
    assert all(values.shape[axis] == 1 for axis in others)
    return np.moveaxis(values, kept, range(4)).reshape([values.shape[axis] for axis in kept])


def read(path, index=0, orientation=Orientation.AUTO):
    with open_source(path, orientation=orientation) as source:
        return source.read_slice(index)


def image_of(path, index=0):
    """Return the image of a slice, cropped to its voxels."""
    with open_source(path) as source:
        rows, columns = source.recon_shape
        image = root_sum_of_squares(centred_ifft(source.read_slice(index)))
    start = [(size - kept) // 2 for size, kept in zip(image.shape, (rows, columns), strict=True)]
    return image[start[0] : start[0] + rows, start[1] : start[1] + columns]


def assumed(path):
    return describe(path)["assumed"]


@VERSIONS
def test_the_samples_are_those_that_twixtools_reads(tmp_path, vb):
    positions = [(1.0, 2.0, 8.0 * place) for place in range(3)]
    lines = [
        line
        for number, position in enumerate(positions)
        for line in image_lines(number, weight=1 + number, position=position)
    ]
    np.random.default_rng(3).shuffle(lines)
    order = {"chronSliceIndices": "0 1 2 -1"}
    scan = Scan([sync_line(96), *lines[:20], sync_line(61), *lines[20:]], protocol_values(positions), order)
    path = write_twix(tmp_path / "scan.dat", scan, vb=vb)
    expected = by_twixtools(path)
    with open_source(path) as source:
        assert (source.n_slices, source.n_coils, source.n_rows, source.n_columns) == (3, 3, 2 * N, N)
        assert source.recon_shape == (N, N)
        assert source.voxel_mm == (*VOXEL, THICKNESS)
        for number in (2, 0, 1):
            np.testing.assert_array_equal(source.read_slice(number), expected[number].conj())
            assert source.geometry(number).position == positions[number]
            assert source.read_calibration(number) is None
    found = describe(path)
    assert found["format"] == f"Siemens twix ({'VB' if vb else 'VD or later'})"
    assert (found["readouts"], found["lines_without_samples"], found["dwell_us"]) == (3 * N, 2, 5.0)
    assert found["slices_as_measured"] is None


@VERSIONS
def test_the_image_lies_where_the_directions_say_and_the_sign_is_siemens(tmp_path, vb):
    import twixtools

    path = write_twix(tmp_path / "scan.dat", Scan(image_lines(quaternion=OBLIQUE)), vb=vb)
    assert distance(image_of(path), VOXEL) < 0.02
    assert assumed(path) == ["k-space is conjugated, as raw data of 'SIEMENS' need it (--orientation)"]
    plain = read(path, orientation=Orientation.PLAIN)
    np.testing.assert_array_equal(plain, read(path).conj())
    with open_source(path) as source:
        placed = source.geometry(0)
    # Phase, readout and slice are the columns of its matrix, which turns the first two for the same reason.
    phase, readout, normal = twixtools.read_twix(str(path), verbose=False)[-1]["geometry"][0].prs_to_pcs().T
    np.testing.assert_allclose(placed.phase_dir, -phase, atol=1e-6)
    np.testing.assert_allclose(placed.read_dir, -readout, atol=1e-6)
    np.testing.assert_allclose(placed.slice_dir, normal, atol=1e-6)
    assert placed.position == POSITION
    assert placed.field_of_view_mm == (MM, MM, THICKNESS)


def test_an_axial_slice_has_the_axes_of_the_patient(tmp_path):
    with open_source(write_twix(tmp_path / "scan.dat", Scan(image_lines(quaternion=AXIAL)))) as source:
        placed = source.geometry(0)
    assert (placed.phase_dir, placed.read_dir, placed.slice_dir) == ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def test_directions_that_are_not_given_are_unknown(tmp_path):
    path = write_twix(tmp_path / "scan.dat", Scan(image_lines(quaternion=(0, 0, 0, 0))))
    assert describe(path)["placed_in_the_patient"] is False


def as_readout(line, dwell):
    """Return a line as a readout of an MRD file, by the meaning of its flags and counters."""
    header = np.zeros((), ACQUISITION_HEADER)[()]
    names = {
        "NOISEADJSCAN": Flag.IS_NOISE_MEASUREMENT,
        "PATREFSCAN": Flag.IS_PARALLEL_CALIBRATION,
        "PATREFANDIMASCAN": Flag.IS_PARALLEL_CALIBRATION_AND_IMAGING,
        "REFLECT": Flag.IS_REVERSE,
    }
    for name in line.flags:
        header["flags"] |= np.uint64(1 << (names[name] - 1))
    header["active_channels"], header["number_of_samples"] = line.data.shape
    header["center_sample"], header["sample_time_us"] = line.center_sample, dwell
    header["discard_pre"], header["discard_post"] = line.cutoff
    header["idx"]["kspace_encode_step_1"] = line.counters.get("Lin", 0)
    for ours, theirs in (
        ("average", "Ave"),
        ("slice", "Sli"),
        ("contrast", "Eco"),
        ("repetition", "Rep"),
        ("set", "Set"),
    ):
        header["idx"][ours] = line.counters.get(theirs, 0)
    header["read_dir"], header["phase_dir"], header["slice_dir"] = (0, 1, 0), (1, 0, 0), (0, 0, 1)
    header["position"] = line.position
    return Readout(header, line.data.astype(np.complex64))


def with_counters(lines, **counters):
    return [replace(line, counters={**line.counters, **counters}) for line in lines]


def undersampled(lines, step=2, centre=0, flags=()):
    """Every second line, and those of the centre with other flags."""
    middle = range(N // 2 - centre // 2, N // 2 + (centre + 1) // 2)
    return [
        replace(line, flags=flags) if line.counters["Lin"] in middle and line.counters["Lin"] % step else line
        for line in lines
        if line.counters["Lin"] % step == 0 or line.counters["Lin"] in middle
    ]


ACS = range(N // 2 - 5, N // 2 + 5)
SCANS = {
    "noise": [*noise_lines(), *image_lines()],
    "averages": [*image_lines(), *with_counters(image_lines(weight=3), Ave=1)],
    "repetitions": [*image_lines(), *with_counters(image_lines(weight=2), Rep=1)],
    "contrasts and sets": [*image_lines(), *with_counters(image_lines(weight=2), Eco=1, Set=2)],
    "slices": [line for pair in zip(image_lines(0), image_lines(1, 2.0), strict=True) for line in pair],
    "partial fourier": image_lines()[N // 4 :],
    "missing lines": [line for line in image_lines() if line.counters["Lin"] not in (3, 17)],
    "asymmetric echo": [replace(line, data=line.data[:, 8:], center_sample=N - 8) for line in image_lines()],
    "cut off": [replace(line, cutoff=(4, 2)) for line in image_lines()],
    "embedded": undersampled(image_lines(), 2, 10, ("PATREFSCAN",)),
    "separate": [
        *with_flags([image_lines(weight=5)[place] for place in ACS], "PATREFSCAN"),
        *undersampled(image_lines()),
    ],
    "reflected": [
        replace(line, data=line.data[:, ::-1], center_sample=N - 1, flags=("REFLECT",))
        for line in image_lines()
    ],
}
MODES = {"embedded": ("embedded", "0x2"), "separate": ("separate", "0x4")}


@VERSIONS
@pytest.mark.parametrize("kind", SCANS)
def test_lines_become_the_slices_that_the_same_readouts_of_mrd_become(tmp_path, kind, vb):
    lines, (mode, number) = SCANS[kind], MODES.get(kind, ("other", "0x1"))
    path = write_twix(tmp_path / "scan.dat", Scan(lines, {"sPat.ucRefScanMode": number}), vb=vb)
    xml = spaces_xml(
        ((2 * N, N), (2 * MM, MM)),
        ((N, N), (MM, MM)),
        "SIEMENS",
        parallel="<parallelImaging><accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        f"<calibrationMode>{mode}</calibrationMode></parallelImaging>",
    )
    noise_dwell = 1e6 / 130 / (2 * N)
    readouts = [as_readout(line, noise_dwell if "NOISEADJSCAN" in line.flags else 5.0) for line in lines]
    with (
        open_source(path) as ours,
        open_source(write_readouts(tmp_path / "scan.h5", xml, readouts)) as theirs,
    ):
        assert ours.n_slices == theirs.n_slices
        for index in range(ours.n_slices):
            assert ours.series(index) == theirs.series(index)
            assert ours.geometry(index) == theirs.geometry(index)
            np.testing.assert_array_equal(ours.read_slice(index), theirs.read_slice(index))
            calibration, expected = ours.read_calibration(index), theirs.read_calibration(index)
            assert (calibration is None) == (expected is None)
            if expected is not None:
                np.testing.assert_array_equal(calibration, expected)
            assert ours.read_noise(index) == theirs.read_noise(index)
        ours, theirs = ours.describe(), theirs.describe()
        same = theirs.keys() - {"format", "assumed"}
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert ours["assumed"] == theirs["assumed"]


def test_separate_calibration_lines_that_count_from_a_centre_of_their_own(tmp_path):
    own = [
        replace(line, counters={"Lin": place}, center_line=len(ACS) // 2, flags=("PATREFSCAN",))
        for place, line in enumerate(image_lines()[place] for place in ACS)
    ]
    path = write_twix(
        tmp_path / "scan.dat", Scan([*own, *undersampled(image_lines())], {"sPat.ucRefScanMode": "0x4"})
    )
    whole = blob_kspace((2 * N, N), (2 * MM, MM))
    with open_source(path) as source:
        calibration = source.read_calibration(0)
    np.testing.assert_array_equal(calibration[:, :, list(ACS)], whole[:, :, list(ACS)])
    assert np.count_nonzero(calibration.any(axis=(0, 1))) == len(ACS)


def test_lines_that_are_calibration_and_image_are_in_both(tmp_path):
    lines = [replace(line, flags=("PATREFSCAN", "PATREFANDIMASCAN")) for line in image_lines()]
    path = write_twix(tmp_path / "scan.dat", Scan(lines))
    np.testing.assert_array_equal(read(path), by_twixtools(path)[0].conj())


def test_lines_of_no_image_are_left_out_and_counted(tmp_path):
    (other,) = image_lines(weight=100)[:1]
    flags = [
        ("PHASCOR",), ("RTFEEDBACK", "PHASCOR"), ("RTFEEDBACK",), ("HPFEEDBACK",), ("PHASESTABSCAN",),
        ("REFPHASESTABSCAN",), ("RETRO_DUMMYSCAN",), ("FIDNAV",), ("PATREFSCAN", "PHASCOR"),
    ]  # fmt: skip
    others = [replace(other, flags=each) for each in flags]
    path = write_twix(tmp_path / "scan.dat", Scan([*others, *image_lines()]))
    np.testing.assert_array_equal(read(path), read(write_twix(tmp_path / "bare.dat", Scan(image_lines()))))
    assert describe(path)["dropped_readouts"] == {
        "phase correction": 3,
        "feedback": 2,
        "phase stabilisation": 2,
        "dummy": 1,
        "navigation": 1,
    }


ADJUSTMENT = {"tProtocolName": '"AdjCoilSens"'}


def test_the_last_of_several_measurements_is_read_and_an_earlier_one_s_noise_whitens(tmp_path):
    first = Scan(noise_lines(16), ADJUSTMENT, name="AdjCoilSens")
    other = Scan(image_lines(weight=9), name="scout")
    path = write_twix(tmp_path / "scan.dat", first, other, Scan(image_lines()))
    found = describe(path)
    assert (found["noise_readouts"], found["whitened"]) == (16, True)
    assert found["noise_lines_of"] == "measurement 1 of 3 ('AdjCoilSens')"
    assert found["measurement"] == "measurement 3 of 3 ('gre')"
    said = "measurement 3 of 3 ('gre') is read: the last is the imaging scan, by Siemens' convention"
    assert said in found["assumed"]
    # By the definition: L^-1 of the samples' covariance, and the bandwidths' ratio, of one dwell time here.
    noise = np.concatenate([line.data for line in first.lines], axis=1)
    factor = np.linalg.cholesky(noise @ noise.conj().T / (noise.shape[1] - 1))
    expected = np.sqrt(2 * 0.793) * np.linalg.solve(factor, by_twixtools(path)[0].reshape(3, -1)).conj()
    np.testing.assert_allclose(read(path).reshape(3, -1), expected, rtol=1e-4, atol=1e-5)
    with open_source(path) as source:
        assert source.read_noise(0) == 1


def test_noise_lines_of_the_measurement_itself_come_first(tmp_path):
    own = Scan([*noise_lines(4), *image_lines()])
    path = write_twix(tmp_path / "scan.dat", Scan(noise_lines(16, seed=1), ADJUSTMENT), own)
    assert describe(path)["noise_readouts"] == 4
    np.testing.assert_array_equal(read(path), read(write_twix(tmp_path / "own.dat", own)))


def element(number, name):
    return {f"sCoilSelectMeas.aRxCoilSelectData[0].asList[{number}].sCoilElementID.tElement": name}


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (
            Scan(noise_lines(), element(1, '"N1"')),
            "measurement 1 of 2 ('gre') has noise lines of other coil elements",
        ),
        (
            Scan(noise_lines(channel_ids=(0, 2, 1))),
            "measurement 1 of 2 ('gre') has noise lines of other coil elements",
        ),
        (Scan(noise_lines(n_channels=2)), "noise readouts have 2 channels and the image 3"),
        (Scan(noise_lines(), {"sSliceArray.lSize": None}, ends=False), None),
    ],
    ids=["elements", "channels", "number", "no end"],
)
def test_noise_that_does_not_fit_never_loses_the_scan(tmp_path, first, said):
    path = write_twix(tmp_path / "scan.dat", first, Scan(image_lines()))
    found = describe(path)
    assert found["whitened"] == (said is None)
    assert said is None or any(each.startswith(said) for each in found["assumed"])
    if said is not None:
        np.testing.assert_array_equal(read(path), by_twixtools(path)[0].conj())


def test_an_earlier_measurement_that_is_damaged_never_loses_the_scan(tmp_path):
    data = bytearray(twix_bytes(Scan(noise_lines()), Scan(image_lines())))
    data[10240:10248] = b"\xff" * 8
    path = tmp_path / "scan.dat"
    path.write_bytes(data)
    assert any("header is damaged" in each and "noise lines are left out" in each for each in assumed(path))
    np.testing.assert_array_equal(read(path), blob_kspace((2 * N, N), (2 * MM, MM)))


def test_slices_that_were_measured_interleaved_are_numbered_by_their_place(tmp_path):
    import twixtools

    positions = [(0.0, 0.0, 10.0 * place) for place in range(5)]
    turns = [(np.cos(angle), 0, 0, np.sin(angle)) for angle in np.linspace(0, 1, 5)]  # in the plane
    measured = [1, 3, 0, 2, 4]  # the protocol's slices, by the counter of the lines
    lines = [
        line
        for counter, place in enumerate(measured)
        for line in image_lines(counter, 1 + place, position=positions[place], quaternion=turns[place])
    ]
    order = {"chronSliceIndices": "1 3 0 2 4 -1"}
    path = write_twix(tmp_path / "scan.dat", Scan(lines, protocol_values(positions), order))
    assert describe(path)["slices_as_measured"] == measured
    theirs = twixtools.read_twix(str(path), verbose=False)[-1]["geometry"]
    with open_source(path) as source:
        for place, position in enumerate(positions):
            assert source.geometry(place).position == position
            assert source.slice_number(place) == place
            np.testing.assert_allclose(
                source.geometry(place).phase_dir, -theirs[place].prs_to_pcs()[:, 0], atol=1e-6
            )
            expected = np.float32(1 + place) * blob_kspace((2 * N, N), (2 * MM, MM))
            np.testing.assert_allclose(source.read_slice(place), expected, rtol=1e-6)


def test_three_planes_through_one_point_are_told_apart_by_their_normals(tmp_path):
    half = np.sqrt(0.5)
    planes = [(half, 0, half, 0), AXIAL, (half, half, 0, 0)]  # normals along x, z and -y
    lines = [line for number, plane in enumerate(planes) for line in image_lines(number, quaternion=plane)]
    protocol = protocol_values([POSITION] * 3)
    for number, (axis, value) in enumerate((("dTra", 1.0), ("dCor", 1.0), ("dSag", 1.0))):
        protocol |= {
            f"sSliceArray.asSlice[{number}].sNormal.{other}": None for other in ("dTra", "dCor", "dSag")
        }
        protocol[f"sSliceArray.asSlice[{number}].sNormal.{axis}"] = value
    path = write_twix(tmp_path / "scan.dat", Scan(lines, protocol))
    assert describe(path)["slices_as_measured"] == [2, 0, 1]


@pytest.mark.parametrize(
    ("protocol", "lines", "shape", "field_of_view"),
    [
        # 2 x 16 lines stand for twice the width: half of them are cut away.
        (
            {"sKSpace.lPhaseEncodingLines": 48, "sKSpace.dPhaseOversamplingForDialog": 1.0},
            48,
            (N, N),
            (MM, MM),
        ),
        ({"sKSpace.lPhaseEncodingLines": 48}, 48, (N, N), (MM, MM)),
        # 75 % of the field of view, and of the resolution, along the phase encoding.
        (
            {"sKSpace.lPhaseEncodingLines": 18, "sSliceArray.asSlice[0].dPhaseFOV": 180.0},
            18,
            (N, 18),
            (MM, 180),
        ),
        ({"sKSpace.lPhaseEncodingLines": 18, "sKSpace.dPhaseResolution": 0.75}, 18, (N, N), (MM, MM)),
    ],
    ids=["oversampled", "oversampled, said by the lines", "rectangular", "coarse"],
)
def test_the_image_has_square_pixels_over_the_protocol_s_field_of_view(
    tmp_path, protocol, lines, shape, field_of_view
):
    width = lines * MM / N / protocol.get("sKSpace.dPhaseResolution", 1.0)
    kspace = blob_kspace((2 * N, lines), (2 * MM, width)).conj()
    made = [Line(kspace[:, :, line], counters={"Lin": line}, center_line=lines // 2) for line in range(lines)]
    path = write_twix(tmp_path / "scan.dat", Scan(made, protocol))
    with open_source(path) as source:
        assert source.recon_shape == shape
        assert source.geometry(0).field_of_view_mm == pytest.approx((*field_of_view, THICKNESS))
        kspace = source.read_slice(0)
    if "Resolution" not in str(protocol):
        assert distance(image_of(path), VOXEL) < 0.02
    else:
        assert kspace.shape == (3, 2 * N, N)  # padded with zeros to square pixels
        assert not kspace[:, :, :3].any()


def test_readouts_whose_oversampling_was_removed_are_told_by_their_samples(tmp_path):
    kspace = blob_kspace((N, N), (MM, MM)).conj()
    lines = [Line(kspace[:, :, line], counters={"Lin": line}, center_sample=N // 2) for line in range(N)]
    path = write_twix(tmp_path / "scan.dat", Scan(lines))
    assert distance(image_of(path), VOXEL) < 0.02
    assert any("oversampling is taken as removed" in each for each in assumed(path))


def test_lines_that_do_not_say_their_centre_have_it_in_the_middle(tmp_path):
    path = write_twix(tmp_path / "scan.dat", Scan([replace(line, center_line=0) for line in image_lines()]))
    np.testing.assert_array_equal(read(path), blob_kspace((2 * N, N), (2 * MM, MM)))
    assert any(each.endswith(f"taken as line {N // 2}") for each in assumed(path))


def test_a_measurement_that_was_stopped_is_read_and_said(tmp_path):
    path = write_twix(tmp_path / "scan.dat", Scan(image_lines()[:-4], ends=False))
    assert any("does not end with ACQEND" in each and "after 20 lines" in each for each in assumed(path))
    assert np.count_nonzero(read(path).any(axis=(0, 1))) == N - 4


def test_the_protocol_tells_what_the_images_writers_need(tmp_path):
    with TwixFile(write_twix(tmp_path / "scan.dat", Scan(image_lines(), {"lContrasts": 2}))) as file:
        protocol = file.header.protocol
    assert (protocol.vendor, protocol.model) == ("SIEMENS", "Skyra")
    assert protocol.patient_position == "HFS"
    assert (protocol.tr_ms, protocol.te_ms, protocol.flip_angle_deg) == ((8.6,), (4.0, 9.0), (15.0,))
    assert protocol.ti_ms == ()  # there is no inversion, whatever alTI holds
    assert (protocol.field_strength_t, protocol.resonance_frequency_hz) == (2.89362, 123200000)


def test_an_inversion_time_is_read_where_there_is_an_inversion(tmp_path):
    with TwixFile(
        write_twix(tmp_path / "scan.dat", Scan(image_lines(), {"sPrepPulses.ucInversion": 1}))
    ) as file:
        assert file.header.protocol.ti_ms == (300.0,)


READ_MM = "sSliceArray.asSlice[0].dReadoutFOV"


def reflected_in_part(lines):
    return [replace(line, flags=("REFLECT",)) if line.counters["Lin"] % 2 else line for line in lines]


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (Scan(image_lines(), {"sFastImaging.lEPIFactor": 128}), "is EPI (EPI factor 128), expected"),
        (Scan(reflected_in_part(image_lines())), "has lines of both directions in one image, as EPI has"),
        (Scan(image_lines(), xprotocol={"alRegridMode": "2 1"}), "is sampled on the ramps of its gradients"),
        (Scan(image_lines(), {"sKSpace.ucTrajectory": "0x2"}), "is radial, expected Cartesian"),
        (Scan(image_lines(), {"sKSpace.ucTrajectory": "0x4"}), "is spiral, expected Cartesian"),
        (Scan(image_lines(), {"sKSpace.ucTrajectory": 8}), "is PROPELLER (blade), expected Cartesian"),
        (Scan(image_lines(), {"sKSpace.ucTrajectory": 99}), "is of trajectory 99, expected Cartesian"),
        (
            Scan([*image_lines(), *image_lines(counters={"Par": 3})], {"sKSpace.ucDimension": "0x4"}),
            "is 3D, with kspace_encode_step_2 of 0 and 3, expected 2D slices: recon --dimensions 3",
        ),
        (
            Scan([*image_lines(), *image_lines(counters={"Par": 3})]),
            "its lines have partitions 0 to 3 and its protocol slices, expected the same",
        ),
        (Scan(image_lines(), {"sSliceAcceleration.lMultiBandFactor": 2}), "excites 2 slices at once"),
        (Scan(with_flags(image_lines(), "SLICE_ACCEL_REFSCAN")), "excites several slices at once"),
        (Scan(with_flags(image_lines(), "PHASCOR")), "none of its 24 readouts is of an image"),
        (Scan([]), "none of its 0 readouts is of an image"),
        (
            Scan(
                [*image_lines(0), *image_lines(1)],
                protocol_values([POSITION] * 2) | {"sSliceArray.asSlice[1].dReadoutFOV": 300.0},
            ),
            "expected one size",
        ),
        (Scan(image_lines(), {READ_MM: None}), "dReadoutFOV missing, expected a number"),
        (Scan(image_lines(), {READ_MM: "nan"}), "dReadoutFOV of 'nan', expected a number"),
        (Scan(image_lines(), {"sSliceArray.asSlice[0].dThickness": -5}), "expected positive lengths"),
        (Scan(image_lines(), {"sKSpace.lBaseResolution": 10**12}), "expected a whole number of 32 bits"),
        (Scan(image_lines(), {"sKSpace.lBaseResolution": 10**9}), "expected 1 to 1048576"),
        (Scan(image_lines(), {"sKSpace.lBaseResolution": 0}), "expected 1 to 1048576"),
        (Scan(image_lines(), {"sKSpace.lBaseResolution": "0x" + "f" * 400}), "expected a number"),
        (Scan(image_lines(), {"sKSpace.lPhaseEncodingLines": 17.5}), "expected a whole number of 32 bits"),
        (Scan(image_lines(), {"sSliceArray.lSize": 10**9}), "has 1000000000 slices, expected 1 to 4096"),
        (Scan(image_lines(), {"sKSpace.lPhaseEncodingLines": 10**6}), "times as wide as reconSpace"),
        (Scan([replace(image_lines()[0], counters={"Lin": 65000}), *image_lines()]), "line 65000"),
        (Scan([replace(image_lines()[0], center_line=65000), *image_lines()]), "outside the 24 "),
        (Scan([replace(image_lines()[0], center_sample=60000), *image_lines()]), "readouts reach"),
        (Scan(image_lines(quaternion=(1, 1, 0, 0))), "expected unit vectors at right angles"),
        (Scan([sync_line()]), "none of its 0"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_in_one_line_by_name(tmp_path, scan, words):
    path = write_twix(tmp_path / "scan.dat", scan)
    with pytest.raises(InputError) as caught:
        describe(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slice_with_values_that_are_not_finite_is_that_slice_alone(tmp_path):
    lines = [*image_lines(0), *image_lines(1)]
    lines[3] = replace(lines[3], data=lines[3].data * np.nan)
    with open_source(write_twix(tmp_path / "scan.dat", Scan(lines))) as source:
        with pytest.raises(InputError, match="not finite"):
            source.read_slice(0)
        np.testing.assert_array_equal(source.read_slice(1), blob_kspace((2 * N, N), (2 * MM, MM)))


def test_twix_is_told_by_its_first_bytes_or_its_name(tmp_path):
    for vb in (False, True):
        path = write_twix(tmp_path / f"{vb}.bin", Scan(image_lines()), vb=vb)
        assert is_twix(path)
        assert describe(path)["format"].startswith("Siemens twix")
    (tmp_path / "other.dat").write_bytes(b"no such thing" * 100)
    with pytest.raises(InputError, match=r"other\.dat: is no twix file: it begins with neither a directory"):
        describe(tmp_path / "other.dat")
    (tmp_path / "empty.dat").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.dat: is no twix file"):
        describe(tmp_path / "empty.dat")
    with pytest.raises(InputError, match=r"missing\.dat: no such file"):
        describe(tmp_path / "missing.dat")
    assert not is_twix(tmp_path)


def test_a_layout_is_refused(tmp_path):
    from sbim_deploy.io.layouts import Reading

    path = write_twix(tmp_path / "scan.dat", Scan(image_lines()))
    with pytest.raises(InputError, match="Siemens' raw data say how their axes lie"):
        open_source(path, Reading("coil,row,column"))


def test_without_twixtools_the_error_names_the_extra(tmp_path, monkeypatch):
    path = write_twix(tmp_path / "scan.dat", Scan(image_lines()))
    monkeypatch.setitem(__import__("sys").modules, "twixtools", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[twix\]"'):
        describe(path)


def test_records_of_another_size_are_refused(tmp_path, monkeypatch):
    path = write_twix(tmp_path / "scan.dat", Scan(image_lines()))
    monkeypatch.setattr(twix_lines, "_HEADER_SIZES", (192, 128, 36))
    with pytest.raises(BackendMissingError, match="twixtools has headers of"):
        describe(path)

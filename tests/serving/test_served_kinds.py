"""What recon makes of a scan's file, serve gives a client of the ismrmrd package: a scan of each odd kind."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from mrd_client import serving

from sbim_deploy.mrd.messages import Flag
from sbim_deploy.mri.fourier import centred_fft, centred_ifft, zero_filled_interpolation
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings
from sbim_deploy.samplers.presets import DEFAULT_PRESET, PRESETS
from simulated_mrd import MrdScan, make_scan, write_mrd

ismrmrd = pytest.importorskip("ismrmrd")
serialization = pytest.importorskip("ismrmrd.serialization")

SIZE, STEPS = 48, 2
NUMBERS = '{"version": "1", "parameters": {"steps": 2}}'
TEXTS = '{"version": "1", "parameters": {"steps": "2", "seed": "0"}}'
XML_PRESET = f'<configuration xmlns="http://gadgetron"><preset>{DEFAULT_PRESET}</preset></configuration>'
# Of the sampler's two steps on images of 48 pixels with 1 % of noise, at R = 2.
LARGEST_ERROR = 0.2


@dataclass
class Kind:
    """A scan, how a client asks for it, the true image of its slices, and slices that come as a fallback."""

    scan: MrdScan
    config: Any = None
    parameters: str = NUMBERS
    truth: Any = None
    bad_slices: tuple[int, ...] = ()


def base(**changes):
    settings = {"size": SIZE, "acceleration": 2, "calib_width": 16, "noise": 0.01, **changes}
    return make_scan(**settings)


def with_xml(scan, *pairs):
    xml = scan.xml
    for old, new in pairs:
        changed = re.sub(old, new, xml)
        assert changed != xml, old
        xml = changed
    return replace(scan, xml=xml)


def changed(readout, data=None, flags=None, **fields):
    header = readout.header.copy()
    for name, value in fields.items():
        (header["idx"] if name in header["idx"].dtype.names else header)[name] = value
    if flags is not None:
        header["flags"] = flags
    if data is not None:
        header["active_channels"], header["number_of_samples"] = data.shape
    return replace(readout, header=header, data=readout.data if data is None else data)


def siemens():
    scan = with_xml(base(), ("<systemVendor>none", "<systemVendor>SIEMENS"))
    scan.readouts[:] = [changed(each, each.data.conj()) for each in scan.readouts]
    return Kind(scan)


def base_resolution():
    return Kind(with_xml(base(), ("<x>96</x>", "<x>48</x>"), ("<x>512.0</x>", "<x>256.0</x>")))


def oversampling_removed():
    scan = base()
    for number, each in enumerate(scan.readouts):
        image = centred_ifft(each.data, axes=(-1,))[:, SIZE // 2 : SIZE // 2 + SIZE]
        data = centred_fft(image, axes=(-1,)).astype(np.complex64)
        scan.readouts[number] = changed(each, data, center_sample=SIZE // 2)
    return Kind(scan)


def finer_reconspace():
    scan = with_xml(base(), ("(<reconSpace><matrixSize>)<x>48</x><y>48</y>", r"\1<x>80</x><y>80</y>"))
    finer = zero_filled_interpolation(zero_filled_interpolation(scan.images[0], 1, 80), 2, 80)
    return Kind(scan, truth=finer[None])


def header_change(*pairs):
    return lambda: Kind(with_xml(base(), *pairs))


def limits_beyond():
    scan = with_xml(base(), ("<maximum>47</maximum>", "<maximum>48</maximum>"))
    scan.readouts.insert(5, changed(scan.readouts[3], kspace_encode_step_1=SIZE, flags=0))
    return Kind(scan)


def body_coil():
    scan = base()
    for place in (4, 12):
        scan.readouts.insert(place, changed(scan.readouts[place], 50 * scan.readouts[place].data[:2]))
    return Kind(scan)


def every_average():
    scan = with_xml(base(n_averages=2, n_slices=2), ("<average>.*</average>", ""))
    for place, each in enumerate(scan.readouts):
        if each.header["idx"]["kspace_encode_step_1"] == SIZE - 2:
            scan.readouts[place] = changed(each, flags=1 << (Flag.LAST_IN_SLICE - 1))
    return Kind(scan)


def calibration_after():
    scan = base(calibration_mode="separate", n_slices=2, last_in_measurement=False)
    scan.readouts[:] = scan.readouts[32:] + scan.readouts[:32]
    return Kind(scan)


def noise_kind(change):
    def kind():
        scan = base(n_noise_readouts=6)
        scan.readouts[:6] = [change(number, each) for number, each in enumerate(scan.readouts[:6])]
        return Kind(scan)

    return kind


def copied_channel(value):
    def change(_, readout):
        data = readout.data.copy()
        data[2] = value * data[1]
        return changed(readout, data)

    return change


def other_dwell(number, readout):
    return changed(readout, 100 * readout.data, sample_time_us=10) if number > 3 else readout


def not_finite():
    scan = base(n_slices=3)
    place = len(scan.readouts) // 2
    scan.readouts[place] = changed(scan.readouts[place], scan.readouts[place].data * np.nan)
    return Kind(scan, bad_slices=(1,))


SPACE = r"(<encodedSpace>.*<y>48</y>)<z>1</z>"
KINDS = {
    "Siemens' sign": siemens,
    "encodedSpace at base resolution": base_resolution,
    "oversampling removed": oversampling_removed,
    "reconSpace finer than k-space": finer_reconspace,
    "two partitions of which one is there": header_change((SPACE, r"\1<z>2</z>")),
    "a matrix of 0.9996": header_change(("<z>1</z>", "<z>0.9996</z>")),
    "no thickness": header_change((r"<z>5.0</z>", "<z>0</z>")),
    "absent thickness": header_change((r"<z>5.0</z>", "")),
    "no trajectory": header_change(("<trajectory>.*</trajectory>", "")),
    "Cartesian": header_change((">cartesian<", ">Cartesian<")),
    "limits that are 0": header_change(
        ("<maximum>47</maximum><center>24<", "<maximum>0</maximum><center>0<")
    ),
    "limits beyond the matrix": limits_beyond,
    "no reconSpace": lambda: Kind(with_xml(base(oversampling=1), ("<reconSpace>.*</reconSpace>", ""))),
    "readouts of a body coil": body_coil,
    "LAST_IN_SLICE in every average": every_average,
    "separate calibration after the image": calibration_after,
    "parameters as text": lambda: Kind(base(), parameters=TEXTS),
    "a preset in a default namespace": lambda: Kind(base(), config=XML_PRESET),
    "a dead noise channel": noise_kind(copied_channel(0)),
    "a duplicate noise channel": noise_kind(copied_channel(1)),
    "two dwell times of noise": noise_kind(other_dwell),
    "noise of other channels": noise_kind(lambda _, each: changed(each, each.data[:3])),
    "values that are not finite in one slice": not_finite,
    "asymmetric, reversed, partial": lambda: Kind(
        base(skipped_samples=12, reversed_lines=True, skipped_lines=8, discarded=2)
    ),
    "interleaved repetitions": lambda: Kind(base(n_slices=2, n_repetitions=2, interleaved=True)),
}


def served(server, kind):
    """The last image of each (repetition, slice) that a client of the ismrmrd package gets, and the texts."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        stream = sock.makefile("rwb")
        out = serialization.ProtocolSerializer(stream)
        config = serialization.ConfigFile("default")
        out.serialize(config if kind.config is None else serialization.ConfigText(kind.config))
        # The package's own header class takes no odd header, and a scanner sends what it has.
        xml = kind.scan.xml.encode()
        stream.write(struct.pack("<HI", serialization.ISMRMRDMessageID.HEADER, len(xml)) + xml)
        out.serialize(kind.parameters)
        for each in kind.scan.readouts:
            acquisition = ismrmrd.Acquisition(each.header.tobytes(), each.data)
            acquisition.data[:] = each.data
            out.serialize(acquisition)
        out.close()
        images, texts = {}, []
        for item in serialization.ProtocolDeserializer(stream).deserialize():
            if isinstance(item, ismrmrd.Image):
                images[item.repetition, item.slice] = item
            else:
                texts.append(str(item))
        return images, texts


def step_of(image):
    """What a step of an image's pixels is in the units of k-space."""
    return float(ismrmrd.Meta.deserialize(image.attribute_string)["RealWorldValueSlope"])


def magnitude(image):
    """The (rows, columns) of an image, in the units of k-space."""
    return image.data[0, 0].T * step_of(image)


def error_of(image, truth):
    """The NRMSE of magnitudes up to a factor, since whitening changes the unit."""
    image, truth = np.abs(image), np.abs(truth)
    factor = (image * truth).sum() / (image * image).sum()
    return float(np.linalg.norm(factor * image - truth) / np.linalg.norm(truth))


@pytest.fixture(scope="module")
def servers():
    """A server, and one that takes Gadgetron's XML."""
    with serving(keep_grid=True) as plain, serving(keep_grid=True, gadgetron=True) as gadgetron:
        yield plain, gadgetron


def compare(servers, kind, folder):
    """Return, for each (repetition, slice), recon's error, serve's, and their largest distance in steps."""
    images, texts = served(servers[kind.config is not None], kind)
    assert texts == []
    choice = replace(PRESETS[DEFAULT_PRESET].choice, steps=STEPS)
    path, out = write_mrd(folder / "scan.h5", kind.scan), folder / "out.h5"
    settings = ReconSettings(choice=choice, backend="onnxruntime")
    if kind.bad_slices:
        with pytest.raises(Exception, match="not finite"):
            reconstruct_file(path, out, settings)
        settings = replace(settings, resume=True)
    reconstruct_file(path, out, settings)
    truth = kind.scan.images if kind.truth is None else kind.truth
    n_slices = truth.shape[1]
    errors = {}
    with open_result(out) as result:
        for position, number in enumerate(result.slice_indices):
            place = divmod(int(number), n_slices)
            ours, theirs = np.abs(result.read_image(position)), magnitude(images[place])
            distance = np.abs(ours - theirs).max() / step_of(images[place])
            errors[place] = (*(error_of(each, truth[place]) for each in (ours, theirs)), float(distance))
    return images, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_client_of_the_ismrmrd_package_gets_the_images_that_recon_makes_of_the_file(
    name, servers, tmp_path
):
    kind = KINDS[name]()
    images, errors = compare(servers, kind, tmp_path)
    n_repetitions, n_slices = kind.scan.images.shape[:2]
    expected = {(r, s) for r in range(n_repetitions) for s in range(n_slices)}
    assert set(images) == expected
    assert set(errors) == expected - {(0, number) for number in kind.bad_slices}
    for (repetition, _), (ours, theirs, distance) in errors.items():
        assert ours < LARGEST_ERROR
        assert theirs == pytest.approx(ours, abs=1e-3)
        # Pixels are whole numbers, and the server draws noise by the slice, alike in every repetition.
        assert repetition or distance < 0.6
    for number in kind.bad_slices:
        assert "FALLBACK" in images[0, number].attribute_string

from __future__ import annotations

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.header import Encoding, Space, format_header, parse_geometry, parse_mrd_header
from simulated_mrd import ScanSettings, header_xml

XML = header_xml(ScanSettings(acceleration=4, calibration_mode="embedded", skipped_lines=6, bits_stored=14))


def refused(text):
    with pytest.raises(InputError) as caught:
        parse_mrd_header(text, "scan.h5")
    message = str(caught.value)
    assert message.startswith("scan.h5: ")
    assert "\n" not in message
    assert len(message) < 300
    return message


def changed(old, new):
    assert old in XML
    return XML.replace(old, new)


def test_the_header_says_what_the_ismrmrd_package_reads_in_it():
    xsd = pytest.importorskip("ismrmrd").xsd
    theirs, ours = xsd.CreateFromDocument(XML), parse_mrd_header(XML, "scan.h5")
    (encoding,), (expected,) = ours.encodings, theirs.encoding
    for space, wanted in (
        (encoding.encoded, expected.encodedSpace),
        (encoding.recon, expected.reconSpace),
    ):
        size, extent = wanted.matrixSize, wanted.fieldOfView_mm
        assert space.matrix_size == (size.x, size.y, size.z)
        assert space.field_of_view_mm == (extent.x, extent.y, extent.z)
    for limit, wanted in (
        (encoding.step_1, expected.encodingLimits.kspace_encoding_step_1),
        (encoding.average, expected.encodingLimits.average),
    ):
        assert (limit.minimum, limit.maximum, limit.center) == (wanted.minimum, wanted.maximum, wanted.center)
    assert encoding.step_2 is None
    assert expected.encodingLimits.kspace_encoding_step_2 is None
    parallel = expected.parallelImaging
    assert encoding.acceleration == (parallel.accelerationFactor.kspace_encoding_step_1, 1)
    assert encoding.calibration_mode == parallel.calibrationMode.value
    assert encoding.trajectory == expected.trajectory.value
    assert ours.bits_stored == theirs.userParameters.userParameterLong[0].value
    assert ours.protocol.patient_position == theirs.measurementInformation.patientPosition.value
    assert ours.protocol.field_strength_t == theirs.acquisitionSystemInformation.systemFieldStrength_T
    assert ours.protocol.resonance_frequency_hz == theirs.experimentalConditions.H1resonanceFrequency_Hz
    assert list(ours.protocol.tr_ms) == theirs.sequenceParameters.TR
    assert list(ours.protocol.te_ms) == theirs.sequenceParameters.TE
    assert list(ours.protocol.flip_angle_deg) == theirs.sequenceParameters.flipAngle_deg
    assert ours.noise_bandwidth == 0.793


@pytest.mark.parametrize("text", [XML, XML.encode(), XML + "\0", XML.encode() + b"\0\0"])
def test_a_nul_at_the_end_is_as_good_as_none(text):
    assert parse_mrd_header(text, "scan.h5") == parse_mrd_header(XML, "scan.h5")


def test_the_patient_s_identity_and_unknown_elements_are_passed_over():
    text = changed(
        "<studyInformation>",
        "<subjectInformation><patientName>Doe</patientName></subjectInformation><vendorsOwn><x>1</x></vendorsOwn>"
        "<studyInformation><accessionNumber>A-17</accessionNumber>",
    )
    header = parse_mrd_header(text, "scan.h5")
    assert header == parse_mrd_header(XML, "scan.h5")
    assert "Doe" not in repr(header)


def test_a_receiver_may_have_a_noise_bandwidth_of_its_own():
    own = "</systemVendor><relativeReceiverNoiseBandwidth>0.85</relativeReceiverNoiseBandwidth>"
    assert parse_mrd_header(changed("</systemVendor>", own), "scan.h5").noise_bandwidth == 0.85


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!DOCTYPE a>" + XML, "DOCTYPE"),
        (XML.replace("phantoms", "phan\0toms"), "null byte"),
        ("x" * (1024**2 + 1), "at most 1048576"),
        (XML[:-5], "not well-formed"),
        ("\ud800" + XML, "not well-formed"),
        ("<ismrmrdHeader/>", "no <encoding>"),
        (changed("<x>64</x>", "<x>0</x>"), "matrixSize"),
        (changed("<x>64</x>", "<x>many</x>"), "many"),
        (changed("<maximum>25</maximum>", "<maximum>70000</maximum>"), "0 to 65535"),
        (changed("<center>10</center>", ""), "kspace_encoding_step_1"),
        (changed("<trajectory>cartesian", "<trajectory>zigzag"), "zigzag"),
        (changed("embedded", "guessed"), "calibrationMode"),
        (changed("<value>14</value>", "<value>99</value>"), "BitsStored is 99"),
        (changed("<TR>500</TR>", "<TR>nan</TR>"), "TR"),
        (changed("<TR>500</TR>", f"<TR>{'9' * 5000}</TR>"), "TR"),
        (changed("</systemVendor>", "</systemVendor><relativeReceiverNoiseBandwidth>-1"
                 "</relativeReceiverNoiseBandwidth>"), "positive"),
    ],
)  # fmt: skip
def test_what_no_scan_can_say_is_refused(text, words):
    assert words in refused(text)


def test_the_encoding_that_is_wrong_is_named():
    second = XML[XML.index("<encoding>") : XML.index("</encoding>") + len("</encoding>")]
    text = changed("</encoding>", "</encoding>" + second.replace("<x>64</x>", "<x>-1</x>"))
    assert refused(text).startswith("scan.h5: encoding 1: ")


GEOMETRY = Encoding(
    encoded=Space((640, 368, 1), (440.0, 253.0, 5.0)), recon=Space((320, 320, 1), (220.0, 220.5, 5.0))
)
GOOD = format_header(GEOMETRY)


def refuse(text: str | bytes, fragment: str) -> None:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(InputError) as caught:
        parse_geometry(data, "scan.h5: 'ismrmrd_header'")
    assert str(caught.value).startswith("scan.h5: 'ismrmrd_header': ")
    assert "\n" not in str(caught.value)
    assert fragment in str(caught.value)


def test_written_header_reads_back() -> None:
    assert parse_geometry(GOOD.encode(), "here") == GEOMETRY


def test_fastmri_loaders_find_the_limits_they_ask_for() -> None:
    assert "<kspace_encoding_step_1><minimum>0</minimum><maximum>367</maximum><center>184</center>" in GOOD


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a [<!ENTITY b "cccccccc">]>',
        "<!doctype a>",
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
        '<! ENTITY b "c">',
    ],
)
def test_declarations_are_refused(declaration: str) -> None:
    refuse(GOOD.replace("?>", f"?>{declaration}", 1), "DOCTYPE")


def test_declarations_hidden_by_an_encoding_are_refused() -> None:
    text = GOOD.replace("utf-8", "utf-16").replace("?>", "?><!DOCTYPE a>", 1)
    refuse(text.encode("utf-16"), "null byte")


def test_long_header_is_refused_before_it_is_parsed() -> None:
    refuse(GOOD + " " * 1024**2, "1048576")


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ("</encoding>", "", "not well-formed"),
        ("utf-8", "no-such-encoding", "not well-formed"),
        ("http://www.ismrm.org/ISMRMRD", "http://example.org", "<encoding>"),
        ("<x>320</x>", "<x>many</x>", "'many'"),
        ("<x>320</x>", "<x>-1</x>", "matrixSize"),
        ("<x>320</x>", f"<x>{'9' * 5000}</x>", "<reconSpace>"),
        ("<y>220.5</y>", "<y>nan</y>", "fieldOfView_mm"),
        ("<y>220.5</y>", "", "<fieldOfView_mm/y>"),
    ],
)
def test_damaged_header_is_refused(old: str, new: str, fragment: str) -> None:
    assert old in GOOD
    refuse(GOOD.replace(old, new), fragment)


def test_deeply_nested_header_is_refused() -> None:
    refuse("<a>" * 100_000, "not well-formed")

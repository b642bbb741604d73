"""Headers that are odd and harmless are read, and a line says what was assumed; the unknown is refused."""

from dataclasses import replace

import numpy as np
import pytest

from blob_scans import blob_kspace, blob_readouts, distance, spaces_xml, write_fastmri, write_readouts
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.readouts import SliceAssembler
from sbim_deploy.kspace.sources import open_source
from sbim_deploy.mrd.header import parse_mrd_header
from sbim_deploy.mri.fourier import centre_crop, centred_ifft
from sbim_deploy.runs.info import describe

N = 32
SPACE = ((N, N), (240.0, 240.0))
XML = spaces_xml(SPACE, SPACE)


def changed(*pairs, xml=XML):
    for old, new in pairs:
        assert old in xml
        xml = xml.replace(old, new)
    return xml


def stream(xml, readouts):
    assembler = SliceAssembler(parse_mrd_header(xml, "scan"))
    return [each for readout in readouts for each in assembler.add(readout)] + assembler.finish()


def with_fields(readout, **fields):
    header = readout.header.copy()
    for name, value in fields.items():
        (header["idx"] if name in header["idx"].dtype.names else header)[name] = value
    return replace(readout, header=header)


def body_coil(readout):
    return replace(with_fields(readout, active_channels=2), data=100 * readout.data[:2])


def all_with(**fields):
    return lambda readouts: [with_fields(each, **fields) for each in readouts]


def among(*odd):
    """Put readouts of another coil after the first, at places in k-space that the scan has too."""
    return lambda readouts: [*readouts[:1], *(body_coil(readouts[place]) for place in odd), *readouts[1:]]


def beyond(readouts):
    return [*readouts[:-1], with_fields(readouts[3], kspace_encode_step_1=N, flags=0), readouts[-1]]


AS_IS = all_with()
Z2 = ("<z>1</z>", "<z>2</z>")
ENCODED_ONLY = XML[XML.index("<reconSpace>") : XML.index("</reconSpace>") + len("</reconSpace>")]
LIMITS = XML[XML.index("<encodingLimits>") : XML.index("</encodingLimits>") + len("</encodingLimits>")]

ODD = {
    "trivial 3D": (changed(("<y>32</y><z>1</z>", "<y>32</y><z>2</z>")), AS_IS, "2 partitions"),
    "trivial 3D, all of another partition": (
        changed(("<y>32</y><z>1</z>", "<y>32</y><z>2</z>")), all_with(kspace_encode_step_2=1), "2 partitions",
    ),
    "a matrix of 0.9996": (changed(("<z>1</z>", "<z>0.9996</z>")), AS_IS, "0.9996: taken as 1"),
    "a matrix of 31.9984": (changed(("<x>32</x>", "<x>31.9984</x>")), AS_IS, "31.9984: taken as 32"),
    "no thickness": (changed(("<z>5</z>", "<z>0</z>")), AS_IS, "how thick"),
    "an absent thickness": (changed(("<z>5</z>", "")), AS_IS, "how thick"),
    "no reconSpace": (changed((ENCODED_ONLY, "")), AS_IS, "no <reconSpace>"),
    "no trajectory": (changed(("<trajectory>cartesian</trajectory>", "")), AS_IS, "no <trajectory>"),
    "Cartesian": (changed((">cartesian<", ">Cartesian<")), AS_IS, None),
    "limits that are 0": (
        changed(("<maximum>31</maximum><center>16<", "<maximum>0</maximum><center>0<")), AS_IS,
        "all 0",
    ),
    "limits beyond the matrix": (
        changed(("<maximum>31</maximum>", "<maximum>32</maximum>")), beyond, "1 lines beyond",
    ),
    "a body coil": (XML, among(4, 9), "readouts"),
    "a body coil first": (XML, lambda readouts: [body_coil(readouts[7]), *readouts], "readouts"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_an_odd_header_is_read_and_said(case, tmp_path):
    xml, change, said = ODD[case]
    readouts = change(blob_readouts(blob_kspace((N, N), SPACE[1])))
    (streamed,) = stream(xml, readouts)
    path = write_readouts(tmp_path / "scan.h5", xml, readouts)
    with open_source(path) as source:
        np.testing.assert_array_equal(source.read_slice(0), streamed.kspace)
        assert source.n_coils == 3
        image = centre_crop(centred_ifft(source.read_slice(0)[0]), source.recon_shape)
        assert distance(image, source.voxel_mm) < 0.02
        assumed = source.describe()["assumed"]
    assert describe(path)["assumed"] == assumed
    for told in (assumed or [], streamed.remarks):
        assert all("\n" not in each for each in told)
        assert (said is None and not told) or any(said in each for each in told)


@pytest.mark.parametrize(
    "case", ["a matrix of 0.9996", "no thickness", "no reconSpace", "trivial 3D", "no trajectory"]
)
def test_the_header_of_a_fastmri_file_may_be_as_odd(case, tmp_path):
    xml, _, said = ODD[case]
    path = write_fastmri(tmp_path / "scan.h5", xml, blob_kspace((N, N), SPACE[1]))
    with open_source(path) as source:
        assert distance(centred_ifft(source.read_slice(0)[0]), source.voxel_mm) < 0.02
        if case not in ("trivial 3D", "no trajectory"):  # of which fastMRI's readers need nothing
            assert any(said in each for each in source.describe()["assumed"])


def test_an_unknown_thickness_is_that_of_the_other_space_where_it_is_known():
    encoding = parse_mrd_header(XML.replace("<z>5</z>", "<z>0</z>", 1), "scan").encodings[0]
    assert encoding.encoded.field_of_view_mm[2] == encoding.recon.field_of_view_mm[2] == 5
    assert encoding.remarks == ()


@pytest.mark.parametrize(
    ("xml", "change", "words"),
    [
        (
            changed(("<y>32</y><z>1</z>", "<y>32</y><z>8</z>")),
            lambda readouts: [with_fields(readouts[0], kspace_encode_step_2=1), *readouts[1:]],
            "3D, with kspace_encode_step_2 of 1 and 0",
        ),
        (changed(("<x>32</x>", "<x>31.4</x>")), AS_IS, "'31.4', expected a whole number"),
        (
            changed(("<trajectory>cartesian</trajectory>", "")),
            lambda readouts: [
                replace(with_fields(each, trajectory_dimensions=2), trajectory=np.zeros((N, 2), np.float32))
                for each in readouts
            ],
            "trajectory",
        ),
        (
            changed(("<maximum>31</maximum>", "<maximum>63</maximum>")),
            lambda readouts: [with_fields(readouts[0], kspace_encode_step_1=50), *readouts],
            "line 50 lies 34 from the centre",
        ),
        (XML, among(*range(8)), "8 readouts have other channels, expected 3"),
        (changed(("<z>5</z>", "<z>-1</z>")), AS_IS, "expected positive lengths"),
    ],
    ids=[
        "3D",
        "a matrix of 31.4",
        "a trajectory of its own",
        "lines far beyond",
        "two coils",
        "thickness below 0",
    ],
)
def test_what_cannot_be_known_stays_refused(xml, change, words, tmp_path):
    readouts = change(blob_readouts(blob_kspace((N, N), SPACE[1])))
    with pytest.raises(InputError, match=words):
        stream(xml, readouts)
    if readouts[0].trajectory is None:
        with (
            pytest.raises(InputError, match=words),
            open_source(write_readouts(tmp_path / "scan.h5", xml, readouts)) as source,
        ):
            source.read_slice(0)

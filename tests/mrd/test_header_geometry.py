from __future__ import annotations

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.header import Encoding, Space, format_header, parse_geometry

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
        ("reconSpace", "otherSpace", "<matrixSize/x>"),
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

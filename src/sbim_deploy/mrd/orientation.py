"""The sign of the Fourier transform between raw data and the directions that a header gives.

Where MRD's directions hold, an image is the inverse transform of k-space. Siemens' raw data are the conjugate
of that: their image comes out turned by 180 degrees about the pixel (rows // 2, columns // 2). MRpro
conjugates them by systemVendor, and the examples for Siemens' FIRE interface flip k-space to agree with the
scanner.
"""

from __future__ import annotations

from enum import StrEnum

from sbim_deploy.mrd.xml import MAX_SHOWN

CONJUGATING_VENDORS = ("siemens",)  # what systemVendor begins with, in any capitals


class Orientation(StrEnum):
    """Which way round k-space is: ``AUTO`` goes by systemVendor, ``TURNED`` conjugates it."""

    AUTO = "auto"
    PLAIN = "plain"
    TURNED = "turned"


def is_conjugated(orientation: Orientation, vendor: str | None = None) -> bool:
    """Tell whether k-space has to be conjugated; ``vendor`` is systemVendor, None where nothing is placed."""
    if orientation is not Orientation.AUTO:
        return orientation is Orientation.TURNED
    return (vendor or "").strip().lower().startswith(CONJUGATING_VENDORS)


def conjugation_remark(vendor: str | None = None) -> str:
    """Return what to say of k-space that is conjugated."""
    if is_conjugated(Orientation.AUTO, vendor):
        assert vendor is not None
        return f"k-space is conjugated, as raw data of {vendor[:MAX_SHOWN]!r} need it (--orientation)"
    return "k-space is conjugated (--orientation turned)"

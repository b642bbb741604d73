"""Skips tests of bfloat16 on processors that do not have it, and says so."""

import importlib.util

import pytest


def why_not() -> str:
    """Return what keeps OpenVINO from computing in bfloat16 here, or nothing."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed: bfloat16 is not tested"
    import openvino

    core = openvino.Core()
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return ""
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} has no bfloat16: it is not tested"


needs_bfloat16 = pytest.mark.skipif(bool(why_not()), reason=why_not())

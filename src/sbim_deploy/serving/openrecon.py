"""The label by which OpenRecon knows a container: JSON, base64 in an image's metadata.

The fields are those of the label's public schema, version 1.1.0.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from pydantic.fields import FieldInfo

from sbim_deploy import __version__
from sbim_deploy.io.json_object import format_object
from sbim_deploy.serving.parameters import AS_CONFIGURED, Parameters
from sbim_deploy.serving.presets import PRESETS

LABEL_KEY = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
PROTOCOL = {"protocol": "ISMRMRD", "version": "1.4.1"}
MEMORY_MB = 4096
NAME = "sbim-deploy"
_INT32 = 2**31 - 1


def openrecon_label(port: int) -> dict[str, Any]:
    """Return the label of a container whose server listens on ``port``."""
    (version,) = re.findall(r"^\d+\.\d+\.\d+", __version__)
    return {
        "general": {
            "name": {"en": NAME},
            "version": version,
            "vendor": NAME,
            "information": {"en": "Score-based reconstruction of Cartesian data. Research use only."},
            "id": NAME,
            "regulatory_information": {
                "device_trade_name": NAME,
                "production_identifier": version,
                "manufacturer_address": "",
                "made_in": "",
                "manufacture_date": "",
                "material_number": f"{NAME}_{version}",
                "gtin": "",
                "udi": "",
                "safety_advices": "Research use only. Not for diagnosis.",
                "special_operating_instructions": "",
                "additional_relevant_information": "",
            },
        },
        "reconstruction": {
            "transfer_protocol": PROTOCOL,
            "port": port,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": False,
            "can_use_gpu": True,
            "min_count_required_gpus": 0,
            "min_required_gpu_memory": 0,
            "min_required_memory": MEMORY_MB,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": [_parameter(name, field) for name, field in Parameters.model_fields.items()],
    }


def encode_label(label: dict[str, Any]) -> str:
    """Return the base64 of a label's JSON, as it stands in a container's metadata."""
    return base64.b64encode(format_object(label).encode()).decode("ascii")


def _parameter(name: str, field: FieldInfo) -> dict[str, Any]:
    said = {"id": name, "label": {"en": field.title}, "information": {"en": field.description}}
    if name == "config":
        names = {AS_CONFIGURED: AS_CONFIGURED, **{key: each.description for key, each in PRESETS.items()}}
        values = [{"id": choice, "name": {"en": words}} for choice, words in names.items()]
        return {"type": "choice", **said, "values": values, "default": field.default}
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    return {
        "type": "int",
        **said,
        "minimum": getattr(bounds.get("Ge"), "ge", -_INT32),
        "maximum": getattr(bounds.get("Le"), "le", _INT32),
        "default": field.default,
    }

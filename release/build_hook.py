"""Puts the bill of materials that ``make dist`` has written into the wheel, in .dist-info/sboms (PEP 770).

Without it, as in an editable installation, wheels are built as ever.
"""

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "SBIM_DEPLOY_SBOM"


class SbomHook(BuildHookInterface):
    """Takes the file that ``SBIM_DEPLOY_SBOM`` names; one that is not there ends the build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the file to the builder."""
        if path := os.environ.get(VARIABLE):
            build_data["sbom_files"].append(os.path.abspath(path))

"""What other packages add: samplers and methods, found by the entry points that they declare."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Container
from functools import cache

from sbim_deploy.errors import InputError

GROUP = "sbim_deploy.plugins"
"""The entry points of modules that call ``register_sampler`` or ``register_method`` as they are imported."""


@cache
def load_plugins() -> None:
    """Import every module that an installed package declares, once; unknown names are looked for there.

    Raises:
        InputError: one of them cannot be imported.
    """
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # whatever another package's module may raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"the plugin {point.name} ({point.value}) cannot be imported: {reason}; mend it, or "
                "uninstall it"
            ) from error


def check_new_name(name: str, taken: Container[str], what: str) -> None:
    """Raise InputError for a name that is taken, or that options and YAML could not take."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise InputError(
            f"{what} is called {name[:80]!r}: expected small letters, digits and hyphens, such as my-{what}"
        )
    if name in taken:
        raise InputError(f"there is a {what} {name!r} already: take another name")

"""Counts are told with the noun that they take, and by hand nowhere that a person reads often."""

import re
from pathlib import Path

import pytest

import sbim_deploy
from sbim_deploy.words import plural

PACKAGE = Path(sbim_deploy.__file__).parent


@pytest.mark.parametrize(("count", "told"), [(0, "0 slices"), (1, "1 slice"), (2, "2 slices")])
def test_a_count_has_its_noun(count, told):
    assert plural(count, "slice") == told


@pytest.mark.parametrize("room", ["cli", "pages", "study", "experiment"])
def test_no_message_tells_slices_files_or_calls_by_hand(room):
    told = re.compile(
        r"(\{[^{}]*\}) (slices|samples|images|files|readouts|results|workers|models|calls|network calls)\b"
    )
    found = [
        f"{path.name}: {match.group()}"
        for path in (PACKAGE / room).glob("*.py")
        for match in told.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found

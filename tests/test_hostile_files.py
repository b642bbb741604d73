"""Whatever is handed over is read or refused in one line; benchmarks/fuzz.py tries ten times as many."""

import time
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from hostile_files import N_IN_TESTS, kinds

MAX_SECONDS = 30  # of which HDF5 may compute five

repeatable = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=N_IN_TESTS,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_a_damaged_input_is_read_or_refused_in_one_line(kind, tmp_path):
    assert kind.outcome(kind.nothing, tmp_path / "good") == "read"

    @settings(repeatable)
    @given(kind.edits)
    def read(edits):
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy's, of values that no reader should have let through
            kind.outcome(edits, tmp_path / "damaged")
        assert time.perf_counter() - started < MAX_SECONDS

    read()

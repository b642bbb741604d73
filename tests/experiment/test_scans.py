"""Experiments on given k-space files, and files that will not do."""

import pytest
from tiny_experiment import Page, without_seconds

from sbim_deploy.runs.simulate import SimulateSettings, simulate_file


@pytest.fixture
def full_file(tmp_path):
    path = tmp_path / "scan.h5"
    simulate_file(path, SimulateSettings(n_slices=3, n_coils=3, size=64, acceleration=1))
    return path


FILES = {"simulate": None, "peers": ["zero-filled"], "tuning_slices": []}


@pytest.mark.slow
def test_files_give_what_the_simulated_scan_gives(cli, write_config, full_file, tmp_path):
    simulated, given = tmp_path / "simulated", tmp_path / "given"
    changes = {"peers": ["zero-filled"], "maps": True, "patterns": ["equispaced", "random"]}
    assert cli("experiment", write_config(**changes), "-o", simulated).code == 0
    done = cli("experiment", write_config(**{**FILES, **changes}, kspace=["scan.h5"]), "-o", given)
    assert done.code == 0, done.err
    rows = without_seconds(given)
    assert {row.pop("scan") for row in rows} == {"scan.h5"}
    assert rows == [
        {key: value for key, value in row.items() if key != "scan"} for row in without_seconds(simulated)
    ]
    page = Page((given / "index.html").read_text())
    for expected in ("scan.h5, slice 0", "Equispaced lines", "Random lines"):
        assert expected in page.words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kspace": ["scan.h5"], "slices": [0, 3]}, "scan.h5: has 3 slices, the experiment asks for slice 3"),
        ({"kspace": ["undersampled.h5"]}, "undersampled.h5: was undersampled already"),
        ({"kspace": ["nowhere.h5"]}, "nowhere.h5"),
        ({"kspace": ["scan.h5", "scan.h5"]}, "kspace has two files of the name scan.h5"),
        ({"kspace": ["scan.h5"], "accelerations": [100]}, "acceleration is 100"),
    ],
)
def test_files_that_will_not_do_are_named_before_the_work(
    cli, write_config, full_file, tmp_path, changes, message
):
    simulate_file(
        tmp_path / "undersampled.h5", SimulateSettings(n_slices=3, n_coils=3, size=64, acceleration=2)
    )
    done = cli("experiment", write_config(**{**FILES, **changes}), "-o", tmp_path / "out")
    assert done.code == 2
    assert message in done.error_line
    assert not (tmp_path / "out").exists()

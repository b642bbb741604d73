"""What a result says of itself comes back as it was, and a stranger's file is read as far as it goes."""

import json
from dataclasses import fields

import numpy as np
import pytest

from sbim_deploy.cli.app import main
from sbim_deploy.errors import InputError
from sbim_deploy.results.provenance import (
    Measured,
    ModelRecord,
    NamedFile,
    PlanRecord,
    Provenance,
    RemovedLines,
    RunIdentity,
    SliceNotes,
    Timings,
    read_record,
)
from sbim_deploy.results.result_file import ResultWriter, open_result
from sbim_deploy.results.series import derivation_of

WHOLE = Provenance(
    grid="of k-space",
    software={"sbim-deploy": "1"},
    input=NamedFile("k.h5", "ab" * 32),
    dimensions=3,
    through_plane=True,
    volume=1,
    layout="row,column,coil",
    variable="ksp",
    trajectory=NamedFile("trajectory.npy", "c" * 64),
    matrix=(128, 96),
    maps=NamedFile("maps.h5", "cd" * 32),
    method="dds",
    model=ModelRecord("demo", "ef" * 32, True, "synthetic", "research", {"sigma 0.1": 0.4}),
    backend="onnxruntime",
    graph="step",
    prior_orientations=8,
    seed=3,
    samples=2,
    slices=(0, 4),
    noise=0.02,
    map_method="nlinv",
    map_sets=1,
    orientation="turned",
    undersampling=RemovedLines("random", 3.0),
    plan=PlanRecord("dds", {"image": 1.0, "noise": 0.3}, ({"sigma": 0.3, "n_cg": 10},)),
    created="2025-01-01T00:00:00+00:00",
    engine={"backend": "onnxruntime"},
    batch=2,
    measured=Measured(3.9, 24, {"readouts": 7}),
    timings_s=Timings(2.0, 0.5, 1.5, 4),
    notice="research",
    slice_notes={
        "0": SliceNotes(0.01, "calibration lines", "ESPIRiT", {"residual": "it is wrong"}),
        "1": SliceNotes(),
    },
    left_out={"3": "damaged"},
    workers=("a:1",),
)


@pytest.fixture
def foreign(tmp_path):
    """A result of a stranger, which says nothing of how it was made."""
    path = tmp_path / "foreign.h5"
    with ResultWriter(path, {}, (0,), resume=False) as writer:
        writer.write(0, np.ones((8, 8), np.complex64), np.ones((8, 8), np.complex64), 0.1)
        writer.finish({})
    return path


def test_a_whole_record_comes_back_from_json():
    assert all(getattr(WHOLE, each.name) != getattr(Provenance(), each.name) for each in fields(Provenance))
    assert read_record(json.loads(json.dumps(WHOLE.as_dict())), Provenance) == WHOLE


def test_what_was_not_left_out_and_no_workers_are_not_in_the_file():
    kept = Provenance().as_dict()
    assert not {"left_out", "workers"} & kept.keys()
    assert kept["maps"] is None


def test_the_identity_is_the_part_of_the_file_that_decides_the_images():
    identity = read_record(json.loads(json.dumps(WHOLE.as_dict())), RunIdentity)
    assert (identity.seed, identity.plan, identity.slices) == (3, WHOLE.plan, (0, 4))
    assert "training_data" not in identity.as_dict()["model"]


@pytest.mark.parametrize(
    ("stored", "field"),
    [
        ({"seed": "3"}, "seed"),
        ({"maps": "m.h5"}, "maps"),
        ({"plan": {"sampler": 4, "rows": [4]}}, "plan"),
        ({"measured": []}, "measured"),
        ({"slices": [1, 2, 3]}, "slices"),
    ],
)
def test_what_is_no_such_value_is_as_if_it_were_lacking(stored, field):
    assert getattr(read_record(stored, Provenance), field) == getattr(Provenance(), field)


def test_a_part_that_lacks_something_keeps_the_rest():
    stored = {"measured": {"calibration_lines": 7, "acceleration": "four"}}
    assert read_record(stored, Provenance).measured == Measured(calibration_lines=7)


def test_info_tells_of_a_result_without_provenance_which_gives_no_series(foreign, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sbim-deploy", "info", str(foreign)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "kind: reconstruction" in capsys.readouterr().out
    with open_result(foreign) as result, pytest.raises(InputError, match="lacks software version, method"):
        derivation_of(result)

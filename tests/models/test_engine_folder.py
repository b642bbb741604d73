import json

import pytest

from sbim_deploy.errors import ChecksumError, InputError
from sbim_deploy.models.engine_folder import (
    EngineRecord,
    engine_file_name,
    read_engine,
    read_record,
    read_records,
    write_engine,
)


def make_record(**changes):
    values = {
        "format_version": 1,
        "graph": "step-guided",
        "onnx_sha256": "a" * 64,
        "weights_sha256": "b" * 64,
        "backend": "rtx",
        "backend_version": "1.7.1.116",
        "precision": "float32",
        "compute_capability": 89,
        "inputs": {"x": ["batch", 2, "8*h", "8*w"], "sigma": ["batch"]},
        "shapes": {"batch": [1, 1, 8], "8*h": [64, 320, 512], "8*w": [64, 320, 512]},
        "settings": {"workspace_gib": None, "opt_level": 3},
        "built_with": {"sbim-deploy": "0.1.0"},
    }
    return EngineRecord(**{**values, **changes})


def write(folder, engine=b"an engine", **changes):
    return write_engine(folder, make_record(**changes), lambda path: path.write_bytes(engine))


def test_an_engine_and_its_record_come_back(tmp_path):
    path = write(tmp_path)
    record = read_record(path.with_suffix(".json"))
    assert (record.engine_bytes, record.shapes["batch"]) == (9, [1, 1, 8])
    assert read_engine(path, record) == b"an engine"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, f"{path.stem}.json"}


def test_the_name_says_graph_hashes_precision_gpu_and_version():
    name = engine_file_name(make_record())
    start, digest, end = name[:12], name[12:20], name[20:]
    assert (start, end) == ("step-guided-", "-fp32-sm89-rtx1.7.1.engine")
    assert set(digest) <= set("0123456789abcdef")
    assert digest not in engine_file_name(make_record(weights_sha256="c" * 64))
    assert digest not in engine_file_name(make_record(onnx_sha256="c" * 64))
    other = make_record(
        precision="bfloat16", compute_capability=120, backend="trt", backend_version="11.4.0.1"
    )
    assert engine_file_name(other).endswith("-bf16-sm120-trt11.4.0.engine")


def test_records_are_those_of_the_graph_and_the_backend_and_of_no_other(tmp_path):
    names = {
        graph: [write(tmp_path, graph=graph, compute_capability=sm) for sm in (89, 120)]
        for graph in ("step", "step-guided", "step-guided-2d", "score")
    }
    write(tmp_path, graph="step", backend="trt")
    for graph, paths in names.items():
        assert list(read_records(tmp_path, graph, "rtx")) == sorted(paths)
    assert read_records(tmp_path / "nowhere", "step", "rtx") == {}


def test_another_byte_or_a_missing_file_is_a_checksum_error(tmp_path):
    path = write(tmp_path)
    record = read_record(path.with_suffix(".json"))
    path.write_bytes(b"An engine")
    with pytest.raises(ChecksumError, match=r"got SHA-256 .* expects .* build it again"):
        read_engine(path, record)
    path.unlink()
    with pytest.raises(ChecksumError, match="is missing"):
        read_engine(path, record)


def test_nothing_is_left_of_an_engine_that_could_not_be_written(tmp_path):
    def stop(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_engine(tmp_path, make_record(), stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version is 2, expected 1"),
        ({"graph": "../step"}, "graph is '../step'"),
        ({"graph": None}, "graph is None, expected a plain name"),
        ({"onnx_sha256": "abc"}, "onnx_sha256 is 'abc'"),
        ({"precision": "int8"}, "precision is 'int8', expected one of float32"),
        ({"compute_capability": True}, "compute_capability is True, expected a whole number"),
        ({"engine_bytes": 1e400}, "not JSON"),
        ({"shapes": {"batch": [1, 1, 8], "8*h": [64, 32, 512], "8*w": [64, 64, 64]}}, r"shapes\['8\*h'\] is"),
        ({"shapes": {"batch": [1, 1, True]}}, r"shapes\['batch'\]\[2\] is True, expected a whole"),
        ({"shapes": {"batch": "abc"}}, r"shapes\['batch'\] is 'abc', expected a list of \[least"),
        ({"shapes": []}, "shapes is \\[\\], expected a mapping"),
        ({"inputs": {"x": ["batch", 2, "8*h", "other"]}}, r"inputs have sizes \['other'\], expected some of"),
        ({"inputs": {"x": 3}}, r"inputs\['x'\] is 3, expected a list"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_damaged_record_is_an_input_error_that_names_the_file(tmp_path, changes, message):
    path = write(tmp_path).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=message) as error:
        read_record(path)
    assert str(path) in str(error.value)
    assert "delete it and build the engine again" in str(error.value) or "write it anew" in str(error.value)


def test_what_is_no_json_or_far_too_long_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff{")
    with pytest.raises(InputError, match="is not JSON"):
        read_record(path)
    path.write_bytes(b" " * (1024**2 + 1))
    with pytest.raises(InputError, match="expected a short JSON file"):
        read_record(path)

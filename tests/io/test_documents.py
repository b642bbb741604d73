from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypedDict

import pytest
from msgspec import Meta

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.io.documents import (
    MAX_BYTES,
    MAX_YAML_BYTES,
    Count,
    Number,
    Sha256,
    check_version,
    convert,
    format_object,
    parse_object,
    read_object,
    read_yaml,
    whole,
)


@dataclass(frozen=True)
class Range:
    least: Count
    most: Annotated[int, whole(1, 9)] = 9

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise InputError(f"least is {self.least}, expected at most {self.most}")


@dataclass(frozen=True)
class Record:
    name: str
    sizes: dict[Sha256, Range] = field(default_factory=dict)
    weights: Annotated[tuple[Number, ...], Meta(min_length=1, extra={"expected": "at least one"})] = (1.0,)
    kind: Literal["a", "b"] | None = None
    path: Path | None = None


class Options(TypedDict, total=False):
    width: Required[Count]
    bias: bool


NAME = "0123456789abcdef" * 4


def test_a_record_has_the_types_that_its_annotations_say() -> None:
    stored = {"name": "x", "sizes": {NAME: {"least": 2}}, "weights": [1, 0.5], "kind": "b", "path": "a/b"}
    expected = Record("x", {NAME: Range(2)}, (1.0, 0.5), "b", Path("a/b"))
    got = convert(stored, Record, "x.json", "try again")
    assert got == expected
    assert [type(weight) for weight in got.weights] == [float, float]
    assert convert({"name": "x"}, Record, "x.json", "try again") == Record("x")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": None}, "name is None, expected a text"),
        ({"kind": "c"}, "kind is 'c', expected 'a' or 'b'"),
        ({"path": 3}, "path is 3, expected a text"),
        ({"weights": []}, "weights is [], expected at least one"),
        ({"weights": "1"}, "weights is '1', expected at least one"),
        ({"weights": [1, math.nan]}, "weights[1] is nan, expected a finite number"),
        ({"weights": [-math.inf]}, "weights[0] is -inf, expected a finite number"),
        ({"weights": [True]}, "weights[0] is True, expected a finite number"),
        ({"weights": ["1"]}, "weights[0] is '1', expected a finite number"),
        ({"weights": [10**400]}, "expected a finite number"),
        ({"sizes": {"abc": {"least": 1}}}, "a name in sizes is 'abc', expected 64 lower-case hexadecimal"),
        ({"sizes": {NAME + "\n": {"least": 1}}}, "expected 64 lower-case hexadecimal"),
        ({"sizes": {NAME: {"least": 0}}}, "least is 0, expected a whole number of at least 1"),
        ({"sizes": {NAME: {"least": 1.0}}}, "least is 1.0, expected a whole number of at least 1"),
        ({"sizes": {NAME: {"least": 1, "most": 10}}}, "most is 10, expected a whole number from 1 to 9"),
        ({"sizes": {NAME: {"least": 3, "most": 2}}}, "least is 3, expected at most 2"),
        ({"sizes": {NAME: {}}}, "lacks least"),
        ({"sizes": {NAME: [1]}}, "is [1], expected a mapping"),
        ({"colour": 1}, "unknown key 'colour', expected some of name, sizes, weights, kind, path"),
    ],
)
def test_what_is_no_record_is_named_with_its_place_and_the_way_out(
    changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InputError) as refused:
        convert({"name": "x", **changes}, Record, "x.json", "try again")
    message = str(refused.value)
    assert message.startswith("x.json: ")
    assert message.endswith("; try again")
    assert fault in message


def test_several_faults_are_named_at_once_and_in_one_line() -> None:
    with pytest.raises(InputError) as refused:
        convert({"weights": ["\n" * 1000] * 1000, "kind": 1}, Record, "x.json", "try again")
    message = str(refused.value)
    assert message.count("expected a finite number") == 3
    assert "\n" not in message
    assert len(message) < 500
    with pytest.raises(InputError, match=r"^x.json: got \[1\], expected a mapping; try again$"):
        convert([1], Record, "x.json", "try again")


def test_other_keys_may_stand_beside_the_options_that_are_read() -> None:
    assert convert({"width": 3, "other": None}, Options, "x", "try again") == {"width": 3}
    with pytest.raises(InputError, match="x: bias is 1, expected true or false; lacks width; try again"):
        convert({"bias": 1}, Options, "x", "try again")


def test_another_version_is_refused_before_its_keys_are_looked_at() -> None:
    check_version({"format_version": 2, "other": 1}, 2, "x", "update")
    for document in ({}, {"format_version": "2"}, {"format_version": 3}):
        with pytest.raises(InputError, match=r"x: format_version is .*, expected 2; update"):
            check_version(document, 2, "x", "update")


def test_json_objects_come_back_and_nan_goes_neither_way() -> None:
    value = {"a": [1, 2.5, None, "ü"], "b": {"c": True}}
    assert parse_object(format_object(value), "x") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        format_object({"a": math.nan})
    for text in ('{"a": NaN}', '{"a": -Infinity}', "[1", b"\xff"):
        with pytest.raises(InputError, match="x: is not JSON"):
            parse_object(text, "x")
    with pytest.raises(InputError, match="got a JSON list, expected an object"):
        parse_object("[]", "x")


def test_files_that_are_too_long_or_missing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    readers = (
        (MAX_BYTES, lambda: read_object(path, "try again")),
        (MAX_YAML_BYTES, lambda: read_yaml(path, "export")),
    )
    for most, read in readers:
        path.unlink(missing_ok=True)
        with pytest.raises(InputError, match="x: cannot be read"):
            read()
        path.write_bytes(b" " * (most + 1))
        with pytest.raises(InputError, match=f"{most} bytes"):
            read()


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "+1E-4", "0.0001"])
def test_numbers_of_yaml_are_those_of_its_version_1_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"a: {text}\nb: '1e-4'\nc: 1e\nd: 12")
    assert read_yaml(path, "export") == {"a": 1e-4, "b": "1e-4", "c": "1e", "d": 12}


def test_yaml_runs_no_code_and_is_missing_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: !!python/object/apply:os.system [ls]")
    with pytest.raises(InputError, match="is not YAML"):
        read_yaml(path, "export")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[export\]"'):
        read_yaml(path, "export")


def test_records_of_argparse_and_devices_of_pytorch_in_yaml_are_plain_values(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(
        "!!python/object:argparse.Namespace\n"
        "device: !!python/object/apply:torch.device\n- cuda\n- 0\n"
        "model: !!python/object:argparse.Namespace {ngf: 64, ema: true}\n"
    )
    assert read_yaml(path, "export") == {"device": ["cuda", 0], "model": {"ngf": 64, "ema": True}}


LEVELS = range(1, 20)
BOMBS = {
    "lists": "a0: &a0 [1, 2]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in LEVELS),
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in LEVELS),
    "itself": "a: &a [*a]\n",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_aliases_that_stand_for_very_many_values_are_refused_before_they_are_read(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(BOMBS[kind])
    with pytest.raises(InputError, match="its aliases stand for more than 100000 values"):
        read_yaml(path, "export")


def test_a_few_aliases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {n: 1}\nb: {<<: *a, m: 2}\nc: [*a, *a]\n")
    assert read_yaml(path, "export") == {"a": {"n": 1}, "b": {"n": 1, "m": 2}, "c": [{"n": 1}, {"n": 1}]}


@pytest.mark.parametrize(
    "text",
    ['a: !!int ""', "a: !!float ''", "a: !!bool maybe", "a: !!timestamp x", f"a: {':'.join(['1'] * 400)}.5"],
)
def test_a_tag_that_its_value_does_not_fit_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^{path}: is not YAML: ") as caught:
        read_yaml(path, "export")
    assert "\n" not in str(caught.value)

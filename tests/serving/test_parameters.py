"""The allow-list, the schema, and the label that is made of it."""

import base64
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.mrd.identity import IdentityMode
from sbim_deploy.samplers.presets import DEFAULT_PRESET, PRESETS
from sbim_deploy.serving.parameters import (
    CONFIGURATIONS,
    DEFAULT_NAMES,
    Classical,
    Parameters,
    encode_label,
    make_request,
    openrecon_label,
    parse_parameters,
    session_identity,
)


def check_label(label):
    """The rules of OpenRecon's schema 1.1.0 that its installer applies."""
    assert set(label) == {"general", "reconstruction", "parameters"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", label["general"]["version"])
    assert {"name", "vendor", "information", "id", "regulatory_information"} <= set(label["general"])
    assert all(isinstance(text, str) for text in label["general"]["regulatory_information"].values())
    assert len(label["general"]["regulatory_information"]) == 11
    reconstruction = label["reconstruction"]
    assert reconstruction["transfer_protocol"] == {"protocol": "ISMRMRD", "version": "1.4.1"}
    assert (reconstruction["emitter"], reconstruction["injector"]) == ("raw", "image")
    assert reconstruction["content_qualification_type"] == "RESEARCH"
    assert isinstance(reconstruction["port"], int)
    assert 1 <= len(label["parameters"]) <= 14
    ids = [parameter["id"] for parameter in label["parameters"]]
    assert len(set(ids)) == len(ids)
    for parameter in label["parameters"]:
        assert re.fullmatch("[A-Za-z0-9]+", parameter["id"])
        assert parameter["label"]["en"]
        kind, default = parameter["type"], parameter["default"]
        if kind == "choice":
            assert default in [value["id"] for value in parameter["values"]]
            assert set(parameter) == {"type", "id", "label", "information", "default", "values"}
        else:
            assert kind == "int"
            assert -(2**31) <= parameter["minimum"] <= default <= parameter["maximum"] < 2**31
            assert set(parameter) == {
                *("type", "id", "label", "information", "default", "minimum", "maximum"),
            }


def test_the_label_keeps_openrecons_rules_and_has_a_parameter_for_each_field():
    label = openrecon_label(9002)
    check_label(label)
    assert [parameter["id"] for parameter in label["parameters"]] == [
        field.name for field in fields(Parameters)
    ]
    assert json.loads(base64.b64decode(encode_label(label))) == label


def test_the_labels_defaults_and_every_choice_are_taken():
    label = openrecon_label(9002)
    defaults = {parameter["id"]: parameter["default"] for parameter in label["parameters"]}
    parse = lambda values: parse_parameters(json.dumps({"version": "1.0", "parameters": values}))  # noqa: E731
    assert make_request("openrecon", parse(defaults)) == make_request("default")
    for value in label["parameters"][0]["values"]:
        make_request("default", parse({**defaults, "config": value["id"]}))


def test_names_mean_presets_and_the_default_ones_the_default():
    for name, preset in PRESETS.items():
        request = make_request(name)
        assert (request.method, request.samples) == (preset.choice, preset.samples)
    for name in DEFAULT_NAMES:
        assert make_request(name).configuration == DEFAULT_PRESET
    with pytest.raises(InputError, match="unknown configuration"):
        make_request("../dds")
    with pytest.raises(InputError, match="XML is taken by a server with --gadgetron"):
        make_request("<configuration><preset>fast</preset></configuration>")


def test_the_page_lists_every_name_and_every_field():
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", page, re.M)
    listed = {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}
    assert {*CONFIGURATIONS, *DEFAULT_NAMES, *(field.name for field in fields(Parameters))} <= listed


def test_parameters_change_the_request():
    parameters = parse_parameters('{"parameters": {"config": "thesis", "steps": 5, "samples": 2, "seed": 7}}')
    request = make_request("fast", parameters)
    assert request.configuration == "thesis"
    assert request.method == replace(PRESETS["thesis"].choice, steps=5)
    assert (request.samples, request.seed) == (2, 7)
    assert make_request("cg-sense", parse_parameters("{}")).method is Classical.CG_SENSE


@pytest.mark.parametrize(
    "text",
    [
        '{"parameters": {"steps": 4.5}}',
        '{"parameters": {"steps": true}}',
        '{"parameters": {"samples": -1}}',
        '{"parameters": {"seed": -1}}',
        '{"parameters": {"steps": 257}}',
        '{"parameters": {"config": null}}',
        '{"parameters": {"colour": "red"}}',
        '{"parameters": []}',
        '{"parameters": {"seed": NaN}}',
        '{"version": 1}',
        '{"version": "' + "1" * 33 + '"}',
        '{"command": "rm"}',
        "[" * 100_000,
    ],
)
def test_values_of_another_type_or_out_of_range_are_refused_in_one_line(text):
    with pytest.raises(InputError) as refused:
        parse_parameters(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("served", "asked", "mode"),
    [
        ("anonymous", "default", "anonymous"),
        ("anonymous", "anonymous", "anonymous"),
        ("keep", "default", "keep"),
        ("keep", "anonymous", "anonymous"),
        ("keep", "keep", "keep"),
    ],
)
def test_a_client_may_ask_for_less_of_the_patient(served, asked, mode):
    parameters = parse_parameters(json.dumps({"parameters": {"identity": asked}}))
    assert session_identity(IdentityMode(served), parameters) == mode


@pytest.mark.parametrize("asked", ["keep", "KEEP", "", "x" * 1000])
def test_a_client_cannot_ask_for_more_of_the_patient_than_is_served(asked):
    parameters = parse_parameters(json.dumps({"parameters": {"identity": asked}}))
    with pytest.raises(InputError, match="only who starts the server can keep identities") as refused:
        session_identity(IdentityMode.ANONYMOUS, parameters)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("sent", ["8", " 8 ", "8.0"])
def test_numbers_may_come_as_text(sent):
    parameters = parse_parameters(
        json.dumps({"version": "1.0.0", "parameters": {"steps": sent, "seed": "3"}})
    )
    assert (parameters.steps, parameters.seed) == (8, 3)


@pytest.mark.parametrize("sent", ["eight", "True", "8.5", "", "-1", "9" * 30, "1e3", "8 9"])
def test_text_that_is_no_number_in_range_is_refused(sent):
    with pytest.raises(InputError, match="steps"):
        parse_parameters(json.dumps({"parameters": {"steps": sent}}))

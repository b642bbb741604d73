"""The examples for those who deploy: parsed, and compared with what the server says of itself."""

import base64
import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_parameters import check_label

from sbim_deploy.serving.parameters import CONFIGURATIONS, LABEL_KEY, encode_label, openrecon_label
from sbim_deploy.serving.session import configuration_of_xml
from sbim_deploy.serving.settings import DEFAULT_PORT, is_loopback

EXAMPLES = Path(__file__).parents[2] / "examples" / "serving"
UNIT = EXAMPLES / "sbim-deploy.service"


def test_the_gadgetrons_chain_connects_to_the_servers_port_and_names_a_configuration():
    (external,) = ElementTree.parse(EXAMPLES / "gadgetron.xml").getroot().findall("stream/external")
    (connect,) = external.findall("connect")
    assert int(connect.get("port")) == DEFAULT_PORT
    assert is_loopback(connect.get("address"))
    sent = ElementTree.tostring(external.find("configuration"), encoding="unicode")
    assert configuration_of_xml(sent) in CONFIGURATIONS


def test_the_containers_label_is_what_the_server_prints_and_keeps_openrecons_rules(cli):
    lines = (EXAMPLES / "Dockerfile").read_text().splitlines()
    (label,) = [line for line in lines if line.startswith("LABEL ")]
    key, value = re.fullmatch(r'LABEL "([^"]+)"="([^"]+)"', label).groups()
    command = json.loads(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))
    port = int(command[command.index("--port") + 1])
    assert key == LABEL_KEY
    assert value == encode_label(openrecon_label(port)), "run sbim-deploy serve --openrecon-label again"
    assert value == json.loads(cli("serve", "--openrecon-label", "--port", port).out)[LABEL_KEY]
    decoded = json.loads(base64.b64decode(value))
    check_label(decoded)
    assert f"EXPOSE {decoded['reconstruction']['port']}" in lines
    assert "USER nobody" in lines


def read_unit():
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str
    unit.read_string(UNIT.read_text())
    return unit


def test_the_units_service_is_fenced_in_and_listens_on_this_machine_alone():
    service = read_unit()["Service"]
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictNamespaces"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    command = service["ExecStart"].split()
    assert is_loopback(command[command.index("--host") + 1])
    assert int(service["TimeoutStopSec"]) > 60  # a drain takes a minute at most


def test_the_units_command_is_one_that_the_program_takes(cli):
    arguments = read_unit()["Service"]["ExecStart"].split()[1:]
    done = cli(*arguments, "--openrecon-label")  # ends at once, after the options were read
    assert done.code == 0, done.err


def test_systemd_takes_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the unit is parsed alone")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/sbim-deploy/bin/sbim-deploy", shutil.which("true")))
    verified = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert UNIT.name not in verified.stderr

"""Messages in the words of who called."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import sbim_deploy
from sbim_deploy import LoadedModel, SamplerChoice, load_model
from sbim_deploy.errors import InputError
from sbim_deploy.runs.arguments import in_python

PACKAGE = Path(sbim_deploy.__file__).parent
# What a slice goes through from Python.
ROOMS = ("mri", "recon", "samplers")
NOT_IN_PYTHON = {
    "graph": "the graph is always the step's",
    "image_scale": "of sbim-deploy export",
    "json": "of sbim-deploy plan, in a docstring",
}


@pytest.mark.parametrize(
    ("option", "argument"),
    [
        ("give them with --maps", "give them with maps=..."),
        ("give it with --noise", "give it with noise=..."),
        ("reconstruct with --map-sets 2", "reconstruct with map_sets=2"),
        ("or let --map-method auto choose", 'or let map_method="auto" choose'),
        ("say the axes (--layout), or", "say the axes (layout=...), or"),
        ("say --layout coil,row,column or", 'say layout="coil,row,column" or'),
        ("a - b -- c", "a - b -- c"),
    ],
)
def test_options_become_arguments(option, argument):
    with pytest.raises(InputError) as caught, in_python():
        raise InputError(option)
    assert str(caught.value) == argument


def test_every_option_that_a_message_on_the_way_names_is_an_argument():
    known = {
        *inspect.signature(LoadedModel.reconstruct).parameters,
        *inspect.signature(LoadedModel.reconstruct_volume).parameters,
        *inspect.signature(load_model).parameters,
        *inspect.signature(SamplerChoice).parameters,
        *NOT_IN_PYTHON,
    }
    named = set()
    for room in ROOMS:
        for path in (PACKAGE / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    named |= set(re.findall(r"--([a-z]+(?:-[a-z0-9]+)*)", node.value))
    assert {"maps", "noise", "map-method"} <= named
    assert {name.replace("-", "_") for name in named} <= known

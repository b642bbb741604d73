from pathlib import Path

import pytest
import yaml

from sbim_deploy.errors import InputError
from sbim_deploy.export.ncsnv2 import read_config
from sbim_deploy.training.settings import TrainSettings, read_settings


def recipe(tmp_path, training):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": {}, "training": training}))
    return path


def test_a_recipe_holds_the_settings_and_the_command_line_comes_before_it(tmp_path):
    path = recipe(tmp_path, {"minutes": 30, "sizes": [96, 128], "learning_rate": "1e-4", "compile": False})
    expected = TrainSettings(minutes=30.0, sizes=(96, 128), learning_rate=1e-4, compile=False)
    assert read_settings(path, {}) == expected
    changed = read_settings(path, {"iterations": 10, "batch": 4, "seed": None})
    assert (changed.iterations, changed.minutes, changed.batch, changed.seed) == (10, None, 4, 0)


def test_without_a_recipe_the_options_are_the_settings(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {channels: 2}")
    assert read_settings(path, {"iterations": 5, "sizes": [64]}) == TrainSettings(iterations=5, sizes=(64,))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"iterations": 5, "colour": "blue"}, "unknown key 'colour', expected some of iterations"),
        ({"iterations": "many"}, "iterations is 'many', expected a whole number"),
        ({"iterations": 5, "sizes": 128}, "sizes is 128, expected a list"),
        ({"iterations": 5, "sizes": [64, 0]}, r"sizes\[1\] is 0, expected a whole number of at least 1"),
        ({"iterations": 5, "precision": "fp8"}, "precision is 'fp8', expected 'fp32' or 'fp16' or 'bf16'"),
        ({"iterations": 5, "levels": "linear"}, "levels is 'linear', expected 'detail' or 'uniform'"),
        ({"iterations": 5, "objective": "mle"}, "objective is 'mle', expected 'dsm' or 'ssm'"),
        ({"iterations": 5, "objective": "ssm", "precision": "fp16"}, "ssm and precision fp16: expected fp32"),
        ({"iterations": 5, "objective": "ssm", "compile": True}, "ssm and compile is true: expected false"),
        ({"iterations": 5, "lesions": "masks"}, "lesions is masks and anatomy is not given"),
        ({"iterations": 5, "schedule": "cosine"}, "schedule is 'cosine', expected 've' or 'vp'"),
        ({"minutes": float("inf")}, "minutes is inf, expected a finite number above 0"),
        ([1], "expected a mapping"),
        ({}, "expected one of them"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(tmp_path, training, message):
    with pytest.raises(InputError, match=message):
        read_settings(recipe(tmp_path, training), {})


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")), ids=lambda p: p.name
)
def test_the_recipes_of_the_project_can_be_read(path):
    assert read_settings(path, {}).sizes
    assert read_config(path).channels == 2

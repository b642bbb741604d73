import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.samplers.choice import PRESETS, Prior, SamplerChoice, find_preset, make_plan

PRIOR = Prior(50.0, 0.01, 500, step_lr=5e-5, n_steps_each=4, data_weight=5.0, start_level=0)


def calls(name):
    preset = find_preset(name)
    return len(make_plan(preset.choice, PRIOR).steps) * preset.samples


def test_presets_keep_to_their_budgets():
    assert {name: calls(name) for name in PRESETS} == {"fast": 8, "balanced": 32, "thesis": 97, "best": 96}


def test_what_is_done_by_default_is_balanced():
    assert make_plan(SamplerChoice(), PRIOR) == make_plan(PRESETS["balanced"].choice, PRIOR)
    assert PRESETS["balanced"].samples == 1


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(
        InputError, match="unknown preset 'slow': expected one of fast, balanced, thesis, best"
    ):
        find_preset("slow")

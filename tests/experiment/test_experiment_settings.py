"""An experiment's YAML: what it means, and that what is wrong in it is named."""

from pathlib import Path

import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.experiment.settings import Levels, read_settings
from sbim_deploy.experiment.simulation import Simulation
from sbim_deploy.samplers.choice import Prior, make_plan
from sbim_deploy.samplers.presets import PRESETS

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_the_shipped_experiments_are_read():
    thesis = read_settings(EXPERIMENTS / "thesis.yaml")
    assert thesis.accelerations == (2, 3, 6, 8, 12)
    assert len(thesis.slices) == 16
    assert thesis.mask_convention == "published"
    assert (thesis.maps, thesis.metrics_first) == ("true", "masked")
    prior = Prior(232, 0.0066, 2311, step_lr=5e-5, n_steps_each=3, data_weight=5.0, start_level=1155)
    assert thesis.levels == Levels(prior.sigma_begin, prior.sigma_end, prior.n_levels, prior.start_level)
    calls = {method.name: len(make_plan(method.choice, prior).steps) for method in thesis.methods}
    assert calls["sbim-32"] == calls["sbim-32-guided"] == 33
    assert [calls[f"ld-{n}x3-a1.148"] for n in (32, 64, 256)] == [129, 257, 1025]
    assert calls["langevin-a0.5"] == calls["langevin-a1.148"] == 3975
    beyond = read_settings(EXPERIMENTS / "out-of-distribution.yaml").simulate
    assert [each.name for each in beyond.objects] == ["brain", "shepp-logan", "macaque", "face"]
    assert beyond.n_slices() == 5
    presets = {method.name: method.choice for method in thesis.methods if method.name in PRESETS}
    assert presets == {name: PRESETS[name].choice for name in ("fast", "balanced", "best")}
    assert read_settings(EXPERIMENTS / "quick.yaml").simulate == Simulation(64, 4, 0.01)
    volumes = read_settings(EXPERIMENTS / "three-dimensional.yaml")
    assert (volumes.dimensions, volumes.scored, volumes.tuned_on, volumes.shown) == (3, (0, 1), (2,), (0,))
    assert [method.name for method in volumes.methods] == ["fast", "fast-through-plane"]
    assert volumes.methods[1].through_plane
    assert volumes.methods[0].choice == volumes.methods[1].choice
    radial = read_settings(EXPERIMENTS / "radial.yaml")
    assert (radial.patterns, radial.simulate) == (("golden",), Simulation(128, 8, 0.01))
    assert {name for name in radial.peers if radial.is_tuned(name)} == {"bart-l2", "bart-l1"}
    real = read_settings(EXPERIMENTS / "real.yaml")
    assert (real.accelerations, real.kspace) == ((2, 4, 6, 8), (EXPERIMENTS / "kspace.h5",))
    assert {method.name: method.choice for method in real.methods} == {
        name: preset.choice for name, preset in PRESETS.items()
    }
    assert sum(len(make_plan(each.choice, prior).steps) * each.samples for each in real.methods) == 393


VOLUME = {"name": "a", "volume": "a.nii", "volume_slices": [3, 5, 8]}


def objects(*given):
    return {"simulate": {"objects": list(given)}}


def test_paths_are_relative_to_the_file(write_config):
    volume = {**VOLUME, "volume_slices": [*range(6)]}
    path = write_config(**objects(volume))
    assert read_settings(path).simulate.objects[0].volume == path.parent / "a.nii"
    path = write_config(simulate=None, kspace=["scan.h5"], model="model", shown_slices=[2])
    settings = read_settings(path)
    assert settings.kspace == (path.parent / "scan.h5",)
    assert settings.model == path.parent / "model"
    assert settings.shown_slices == (2,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acceleration": 4}, "unknown key 'acceleration', expected some of title, accelerations"),
        ({"methods": [{"sampler": "dds", "step": 4}]}, "methods[0]: unknown key 'step'"),
        (objects({"name": "a"}), "simulate.objects[0]: phantom and volume are both given or both missing"),
        (
            objects({"name": "a", "phantom": "knee"}),
            "phantom is 'knee', expected 'brain' or 'shepp-logan'",
        ),
        (objects({"name": "a", "volume": "a.nii"}), "volume and volume_slices go together"),
        (objects(VOLUME, VOLUME), "objects has a twice; give each a name of its own"),
        (objects({**VOLUME, "plane": "oblique"}), "objects[0].plane is 'oblique', expected 'axial' or"),
        (objects(VOLUME), "tuning_slices has 5: expected 0 to 2"),
        (
            objects({"name": "../a", "phantom": "brain"}),
            "name is '../a', expected up to 40 letters",
        ),
        ({"simulate": {"sise": 64}}, "simulate: unknown key 'sise'"),
        ({"title": None, "baseline": None}, "lacks title, baseline"),
        ({"slices": None}, "lacks slices"),
        ({"methods": [{"preset": "quick"}]}, "methods[0]: unknown preset 'quick'"),
        ({"methods": [{"preset": "fast", "steps": 3}]}, "methods[0]: preset fast and steps"),
        (
            {"methods": [{"sampler": "dds", "samples": 0}]},
            "methods[0]: samples is 0, expected a whole number",
        ),
        ({"methods": [{"steps": 4}]}, "methods[0]: expected a sampler or a preset, and one of them"),
        ({"accelerations": 4}, "accelerations is 4, expected a list"),
        ({"accelerations": [2, "x"]}, "accelerations[1] is 'x', expected a number from 1 to 1024"),
        ({"accelerations": [float("nan")]}, "accelerations[0] is nan, expected a number from 1 to 1024"),
        ({"accelerations": [0.5]}, "accelerations[0] is 0.5, expected a number from 1 to 1024"),
        ({"accelerations": [2, 2]}, "accelerations has 2.0 twice"),
        ({"accelerations": []}, "accelerations is [], expected a list of at least one"),
        ({"slices": [True]}, "slices[0] is True, expected a whole number"),
        ({"slices": [0, 16]}, "slices has 16: expected 0 to 15"),
        ({"slices": [0, 5]}, "tuning_slices has [5], which slices has too"),
        ({"tuning_slices": []}, "tuning_slices is empty"),
        ({"shown_slices": [1]}, "shown_slices is [1]: expected some of slices"),
        (
            {"claims": [{"says": "x", "method": "dds", "against": "ours", "metric": "psnr"}]},
            "claims has 'ours': expected one of dds, sbim, zero-filled",
        ),
        (
            {"claims": [{"says": "x", "method": "dds", "against": "sbim", "metric": "psnr", "ahead": [5]}]},
            "claims has R = 5: expected some of accelerations, 2, 3",
        ),
        (
            {"claims": [{"says": "x", "method": "dds", "against": "sbim", "metric": "mse"}]},
            "claims[0].metric",
        ),
        ({"levels": {"sigma_begin": 1, "sigma_end": 2, "n_levels": 1}}, "levels.n_levels"),
        ({"mask_convention": "left"}, "mask_convention is 'left'"),
        ({"methods": [{"sampler": "ddx"}]}, "methods[0]: unknown sampler 'ddx'"),
        ({"methods": [{"sampler": "dds", "steps": 0}]}, "methods[0]: steps is 0"),
        ({"methods": [{"sampler": "dds"}, {"sampler": "dds", "steps": 4}]}, "methods has dds twice"),
        ({"methods": [{"sampler": "dds", "name": "../x"}]}, "methods[0]: name is '../x'"),
        ({"methods": [{"sampler": "dds", "name": "bart-l1"}]}, "which is a peer's"),
        ({"baseline": "sbm"}, "baseline has 'sbm': expected one of dds, sbim, zero-filled, bart-l1"),
        ({"patterns": ["lines"]}, "patterns has 'lines': expected one of equispaced, random, radial, golden"),
        ({"mask_convention": "jalal"}, "mask_convention is 'jalal', expected 'centred' or 'published'"),
        ({"peers": ["grappa"]}, "peers has 'grappa'"),
        ({"backend": "tpu"}, "unknown backend 'tpu': expected one of auto, trt"),
        ({"backend": "triton"}, "backend triton needs the server's address"),
        ({"maps": "guessed"}, "maps is 'guessed', expected 'estimated' or 'true'"),
        ({"seed": -1}, "seed is -1, expected a whole number"),
        ({"simulate": {"noise": -0.1}}, "simulate.noise is -0.1, expected a number from 0 to 1e+06"),
        ({"simulate": [64]}, "simulate is [64], expected a mapping"),
        ({"simulate": None}, "simulate and kspace are both given or both missing"),
        ({"kspace": ["a.h5"]}, "simulate and kspace are both given or both missing"),
    ],
)
def test_what_is_wrong_is_named(cli, write_config, tmp_path, changes, message):
    path = write_config(**changes)
    done = cli("experiment", path, "-o", tmp_path / "out")
    assert done.code == 2
    assert str(path) in done.error_line
    assert message in done.error_line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "got list, expected a mapping"),
        ("a: [1\n", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        ("1: 2\n", "expected a mapping of names to values"),
        ("x" * (1 << 20) + ": 1\n", "larger than"),
        ("[" * 1100, "is not YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_settings(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read"):
        read_settings(tmp_path / "nowhere.yaml")

"""What a configuration says is compared with what a checkpoint holds, and with a model's manifest."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from public_networks import CONFIGS, drawn_weights
from random_checkpoints import CONFIG, random_weights

from sbim_deploy.errors import InputError
from sbim_deploy.export.blueprint import differences
from sbim_deploy.export.edm import describe_edm
from sbim_deploy.export.guided_diffusion import describe_guided_diffusion
from sbim_deploy.export.load import load_network
from sbim_deploy.export.ncsnv2 import describe_ncsnv2, read_config
from sbim_deploy.models.folder import SamplingDefaults, load_model


def write_config(path, **model):
    path.write_text(yaml.safe_dump({**CONFIG, "model": {**CONFIG["model"], **model}}))
    return path


def write_levels(path, sigmas, name="module.sigmas"):
    raw = {f"module.{key}": each for key, each in random_weights("NCSNv2", 1).items()}
    torch.save([{**raw, name: sigmas}, {}, 1, 1, random_weights("NCSNv2", 2)], path)
    return path


TRAINED = torch.from_numpy(np.geomspace(232, 0.0066, 2311)).float()


@pytest.mark.parametrize("weights", ["--ema", "--raw"])
def test_levels_that_the_checkpoint_was_not_trained_on_are_refused_with_both(cli, tmp_path, weights):
    config = write_config(tmp_path / "c.yaml", sigma_begin=50, sigma_end=0.05, num_classes=2000)
    checkpoint = write_levels(tmp_path / "c.pth", TRAINED)
    done = cli("export", checkpoint, "--config", config, weights, "-o", tmp_path / "model")
    assert done.code == 2, done.err
    assert (
        "[0][module.sigmas] holds 2311 noise levels from 232 to 0.0066, and "
        f"{config} says 2000 noise levels from 50 to 0.05"
    ) in done.error_line
    assert (
        "name the configuration of its training, or write these levels into a copy of it" in done.error_line
    )


OTHERS = {
    "the largest": ({"sigma_begin": 50}, TRAINED, "says 2311 noise levels from 50 to 0.0066"),
    "the smallest": ({"sigma_end": 0.01}, TRAINED, "says 2311 noise levels from 232 to 0.01"),
    "their number": ({"num_classes": 2000}, TRAINED, "says 2000 noise levels"),
    "a percent": ({"sigma_begin": 234.5}, TRAINED, "says 2311 noise levels from 234.5"),
    "not geometric": ({}, torch.linspace(232, 0.0066, 2311), "of which number .* is .* and "),
    "none": ({}, torch.zeros(2311), "from 0 to 0"),
}


@pytest.mark.parametrize(("changes", "sigmas", "message"), OTHERS.values(), ids=OTHERS)
@pytest.mark.filterwarnings("error")
def test_every_level_is_compared(tmp_path, changes, sigmas, message):
    checkpoint = write_levels(tmp_path / "c.pth", sigmas)
    with pytest.raises(InputError, match=message):
        load_network(checkpoint, write_config(tmp_path / "c.yaml", **changes))


@pytest.mark.parametrize(
    "sigmas",
    [TRAINED.double(), TRAINED.half(), TRAINED.bfloat16(), TRAINED.flip(0), TRAINED * 1.0005],
    ids=["double", "half", "bfloat16", "rising", "rounded"],
)
@pytest.mark.parametrize("name", ["module.sigmas", "module._orig_mod.sigmas", "sigmas"])
def test_the_same_levels_are_so_to_their_rounding_and_in_any_order(tmp_path, sigmas, name):
    checkpoint = write_levels(tmp_path / "betas.pth", sigmas, name)
    assert load_network(checkpoint, write_config(tmp_path / "c.yaml")).levels.n_levels == 2311


def test_the_variances_of_a_preserving_process_are_compared_too(tmp_path):
    weights = {f"model.diffusion_model.{name}": each for name, each in drawn_weights("UNetModel").items()}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(CONFIGS["UNetModel"]))

    def load(end):
        betas = torch.linspace(1e-4, end, 1000)
        torch.save({"state_dict": {**weights, "betas": betas}}, tmp_path / "c.ckpt")
        return load_network(tmp_path / "c.ckpt", config)

    assert load(0.02).levels.n_levels == 1000
    with pytest.raises(
        InputError, match=r"betas\] holds 1000 noise levels from 44.* says 1000 .* from 157.4"
    ):
        load(0.015)


CHANGES = {
    "levels": (
        "model",
        {"sigma_begin": 50, "sigma_end": 0.05},
        "sigma_begin is 50, in the model 232; sigma_end",
    ),
    "their number": ("model", {"num_classes": 2000}, "number of levels is 2000, in the model 2311"),
    "width": ("model", {"ngf": 8}, "ngf is 8, in the model 4"),
    "what it sees": (
        "data",
        {"rescaled": True},
        "data.logit_transform or data.rescaled is true, in the model false",
    ),
    "channels": ("data", {"channels": 1}, "channels is 1, in the model 2"),
    "steps": ("sampling", {"step_lr": 1e-4}, "step_lr is 0.0001, in the model 5e-05"),
    "start": ("sampling", {"start_iter": 0}, "start_level is 0, in the model 1155"),
    "weight": ("sampling", {"mse": 1.0}, "data_weight is 1, in the model 5"),
    "data": ("data", {"dataset": "knees"}, "dataset is knees, in the model random weights"),
    "two": (
        "model",
        {"num_classes": 2000, "sigma_begin": 240},
        "sigma_begin is 240, in the model 232; number of levels is 2000, in the model 2311",
    ),
}


def manifest_of(blueprint, like):
    """The manifest of a model of this network, without its files."""
    config = blueprint.config
    return replace(
        like,
        architecture=blueprint.architecture,
        ngf=config.ngf,
        channels=config.channels,
        size_multiple=blueprint.size_multiple,
        noise_levels=blueprint.levels,
        sampling=SamplingDefaults(
            config.step_lr, config.n_steps_each, config.data_weight, config.start_level
        ),
        training_data=config.dataset,
        anatomy=config.anatomy,
        options=blueprint.options,
    )


@pytest.mark.parametrize(("section", "changes", "message"), CHANGES.values(), ids=CHANGES)
def test_what_of_a_yaml_is_not_the_models_is_named(tmp_path, section, changes, message):
    document = copy.deepcopy(CONFIG)
    weights = random_weights("NCSNv2", 1)

    def described():
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
        return describe_ncsnv2(read_config(tmp_path / "c.yaml"), weights, tmp_path)

    exported = described()
    manifest = manifest_of(exported, load_model("demo").manifest)
    assert differences(exported, manifest) == []
    document[section] |= changes
    assert message in "; ".join(differences(described(), manifest))


def test_a_model_that_does_not_tell_its_options_is_compared_by_what_it_tells(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    blueprint = describe_ncsnv2(read_config(tmp_path / "c.yaml"), random_weights("NCSNv2", 1), tmp_path)
    older = replace(manifest_of(blueprint, load_model("demo").manifest), options={})
    assert differences(blueprint, older) == []


OPTIONS = {
    "heads that no shape tells": (
        "UNetModel",
        ("model", "num_head_channels", 8),
        "num_head_channels is 8, in",
    ),
    "betas": ("UNetModel", ("diffusion", "beta_end", 0.03), "sigma_begin is"),
    "sigma_data": ("SongUNet", (None, "sigma_data", 0.25), "sigma_data is 0.25, in the model 0.5"),
    "attention": (
        "SongUNet",
        (None, "attn_resolutions", [32]),
        "attn_resolutions is [32], in the model [16]",
    ),
    "largest level": ("SongUNet", (None, "sigma_max", 40), "sigma_begin is 40, in the model 80"),
}


@pytest.mark.parametrize(("kind", "change", "message"), OPTIONS.values(), ids=OPTIONS)
def test_every_option_of_the_other_networks_is_compared(tmp_path, kind, change, message):
    describe = describe_guided_diffusion if kind == "UNetModel" else describe_edm
    section, name, value = change
    stored = copy.deepcopy(CONFIGS[kind])
    exported = describe(stored, tmp_path)
    manifest = manifest_of(exported, load_model("demo").manifest)
    assert differences(exported, manifest) == []
    (stored[section] if section else stored)[name] = value
    assert message in "; ".join(differences(describe(stored, tmp_path), manifest))


def test_levels_are_compared_in_the_units_of_training(tmp_path):
    blueprint = describe_edm(CONFIGS["SongUNet"], tmp_path)
    manifest = manifest_of(blueprint, load_model("demo").manifest)
    levels = replace(manifest.noise_levels, sigma_begin=80 / 0.3, sigma_end=0.002 / 0.3)
    sampling = replace(manifest.sampling, step_lr=blueprint.config.step_lr / 0.3**2)
    scaled = replace(manifest, noise_levels=levels, sampling=sampling, image_scale=0.3)
    assert differences(blueprint, scaled) == []

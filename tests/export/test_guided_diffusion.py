import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from public_networks import (
    CONFIGS,
    GRIDS,
    OUTPUTS,
    SIGMAS,
    draw,
    drawn_weights,
    inputs,
    loaded,
    score_name,
    write_checkpoint,
)

from sbim_deploy.export.guided_diffusion import GuidedDiffusionUNet
from sbim_deploy.export.load import load_network

KIND = "UNetModel"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("guided") / "knee_320_1m.pt", KIND)


def test_the_score_is_the_public_classs_at_every_level_and_size():
    network = loaded(KIND).network.double()
    with np.load(OUTPUTS) as outputs:
        for sigma in SIGMAS:
            for grid in GRIDS:
                with torch.inference_mode():
                    score = network(*inputs(sigma, grid)).numpy()
                expected = outputs[score_name(KIND, sigma, grid)]
                assert np.linalg.norm(score - expected) <= 1e-5 * np.linalg.norm(expected)


def test_the_noise_is_what_comes_first_and_the_learned_variance_is_left_out():
    network = loaded(KIND).network.network
    x, t = torch.ones(1, 2, 16, 16), torch.tensor([500.0])
    with torch.inference_mode():
        everything, epsilon = network.predict(x, t), network(x, t)
    assert everything.shape == (1, 4, 16, 16)
    assert torch.equal(epsilon, everything[:, :2])


def test_the_levels_are_those_of_the_schedule_and_a_step_is_heard_as_its_number():
    made = loaded(KIND)
    kept = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
    np.testing.assert_allclose(made.levels.vp_sigmas[::-1], np.sqrt(1 / kept - 1), rtol=1e-10)
    sigmas = torch.tensor([made.levels.vp_sigmas[999 - t] for t in (0, 10, 999)])
    torch.testing.assert_close(made.network.timestep(sigmas), torch.tensor([0.0, 10, 999]), rtol=0, atol=1e-3)


def test_a_bare_state_dict_with_its_options_in_yaml_as_dds_publishes_them_is_loaded(checkpoint, tmp_path):
    import yaml

    path = tmp_path / "fastmri_knee_320_complex.yml"
    others = {"data": {"image_size": 320}, "sampling": {"T_sampling": 100}}
    path.write_text(yaml.safe_dump({**CONFIGS[KIND], **others}))
    made = load_network(checkpoint, path)
    assert (made.architecture, made.ema, made.size_multiple) == (KIND, False, 2)
    name = "time_embed.0.weight"
    assert torch.equal(made.network.network.state_dict()[name], drawn_weights(KIND)[name])


def test_the_published_options_make_a_network_of_six_levels_that_attends_in_the_middle_alone():
    options = {**CONFIGS[KIND]["model"], "image_size": 320, "num_channels": 32, "channel_mult": ""}
    with torch.device("meta"):
        network = GuidedDiffusionUNet(options, [1, 1, 2, 2, 4, 4])
    attending = {name.split(".qkv")[0] for name in network.state_dict() if ".qkv" in name}
    # No level is 320 // 16 = 20 times coarser.
    assert attending == {"middle_block.1"}


def test_without_factors_the_size_says_them(tmp_path):
    config = deepcopy(CONFIGS[KIND])
    config["model"] |= {"image_size": 320, "channel_mult": "", "attention_resolutions": 16}
    with torch.device("meta"):
        shapes = GuidedDiffusionUNet(config["model"], [1, 1, 2, 2, 4, 4]).state_dict()
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config))
    torch.save({name: draw(name, *each.shape) for name, each in shapes.items()}, tmp_path / "w.pt")
    assert load_network(tmp_path / "w.pt", path).size_multiple == 32


BAD = {
    "plain resampling": ({"resblock_updown": False}, "model.resblock_updown is False, expected True"),
    "no scale and shift": ({"use_scale_shift_norm": False}, "use_scale_shift_norm is False, expected True"),
    "another order": ({"use_new_attention_order": True}, "use_new_attention_order is True, expected False"),
    "an unknown option": (
        {"use_spatial_transformer": True},
        "unknown options use_spatial_transformer of model",
    ),
    "other heads": ({"num_heads_upsample": 8}, "model.num_heads_upsample is 8, expected -1"),
    "another network": ({"type": "simple"}, "model.type is 'simple', expected 'openai'"),
    "a quoted truth": ({"learn_sigma": "true"}, "model.learn_sigma is 'true', expected true or false"),
    "a fraction of a factor": ({"channel_mult": "1,1.5"}, "channel_mult is '1,1.5', expected whole numbers"),
    "a fraction of a size": ({"attention_resolutions": "16.5"}, "attention_resolutions is '16.5', expected"),
    "classes": ({"class_cond": True}, "class_cond is True, expected False"),
    "no factors": ({"channel_mult": ""}, "image_size 32 stands for none"),
    "odd factors": ({"channel_mult": "1,x"}, "its options make no network ("),
    "no factor": ({"channel_mult": "1,0"}, "channel_mult is '1,0'"),
    "nowhere": ({"attention_resolutions": "0"}, "its options make no network ("),
    "no heads": ({"num_head_channels": 0}, "its options make no network ("),
    "groups": ({"num_channels": 33}, "its options make no network ("),
    "another width": ({"num_channels": 64}, "is it the right config?"),
    "no learned variance": ({"learn_sigma": False}, "is it the right config?"),
    "attention elsewhere": ({"attention_resolutions": "32"}, "parameters missing"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_one_line(cli, checkpoint, tmp_path, changes, message):
    config = deepcopy(CONFIGS[KIND])
    config["model"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = cli("export", checkpoint, "--config", tmp_path / "config.json", "-o", tmp_path / "model")
    assert done.code == 2
    assert message in done.error_line
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("changes", [{"predict_xstart": True}, {"rescale_timesteps": True}])
def test_another_prediction_is_refused(cli, checkpoint, tmp_path, changes):
    config = deepcopy(CONFIGS[KIND])
    config["diffusion"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = cli("export", checkpoint, "--config", tmp_path / "config.json", "-o", tmp_path / "model")
    assert done.code == 2
    assert f"diffusion.{next(iter(changes))} is True, expected False" in done.error_line

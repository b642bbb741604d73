import json

import numpy as np
import pytest
import torch
from public_networks import (
    CONFIGS,
    GRIDS,
    OUTPUTS,
    SIGMAS,
    drawn_weights,
    inputs,
    loaded,
    score_name,
    write_checkpoint,
)

from sbim_deploy.errors import InputError
from sbim_deploy.export.load import load_network

KINDS = ("DhariwalUNet", "SongUNet")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("edm") / "mri-brain.pt", "SongUNet")


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_the_public_classs_at_every_level_and_size(kind):
    network = loaded(kind).network.double()
    with np.load(OUTPUTS) as outputs:
        for sigma in SIGMAS:
            for grid in GRIDS:
                with torch.inference_mode():
                    score = network(*inputs(sigma, grid)).numpy()
                expected = outputs[score_name(kind, sigma, grid)]
                assert np.linalg.norm(score - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_costs_nothing_at_any_level(kind):
    network = loaded(kind).network
    for sigma in (0.002, 0.02, 0.7, 80.0):
        x, level = inputs(sigma, (16, 24))
        with torch.inference_mode():
            single, double = network(x.float(), level.float()), loaded(kind).network.double()(x, level)
        assert (single - double).norm() <= 1e-5 * double.norm()


def test_the_score_of_a_network_of_zeros_is_that_of_a_gaussian_of_the_preconditioning():
    # With F = 0 table 1 leaves D = c_skip x.
    weights = {name: torch.zeros_like(each) for name, each in drawn_weights("SongUNet").items()}
    weights |= {name: each for name, each in drawn_weights("SongUNet").items() if name.endswith("filter")}
    x, sigma = inputs(0.7, (16, 24))
    score = loaded("SongUNet", weights).network.double()(x, sigma)
    torch.testing.assert_close(score, -x / (0.5**2 + 0.7**2))


def test_the_ema_weights_of_an_inversebench_checkpoint_are_taken_and_raw_ones_where_asked(checkpoint):
    config = checkpoint.with_suffix(".json")
    by_default, raw = load_network(checkpoint, config), load_network(checkpoint, config, ema=False)
    assert (by_default.ema, raw.ema) == (True, False)
    name = "model.map_layer0.weight"
    expected = drawn_weights("SongUNet")[name]
    assert torch.equal(by_default.network.state_dict()[name], expected)
    assert torch.equal(raw.network.state_dict()[name], 0.5 * expected)
    assert (by_default.architecture, by_default.size_multiple) == ("SongUNet", 2)
    assert (by_default.levels.sigma_begin, by_default.levels.sigma_end) == (80.0, 0.002)


@pytest.mark.parametrize("key", ["model", "network_kwargs"])
def test_options_are_read_from_inversebenchs_yaml_and_from_edms_training_options(checkpoint, tmp_path, key):
    import yaml

    path = tmp_path / "config.yaml"
    options = {
        **CONFIGS["SongUNet"],
        "_target_": "models.precond.EDMPrecond",
        "dropout": 0.1,
        "use_fp16": True,
    }
    path.write_text(yaml.safe_dump({"data": {"image_size": [320, 320]}, key: options}))
    assert load_network(checkpoint, path).architecture == "SongUNet"


def test_weights_of_augmentations_which_sampling_has_none_of_are_left_out():
    weights = {**drawn_weights("SongUNet"), "model.map_augment.weight": torch.ones(64, 9)}
    assert loaded("SongUNet", weights).architecture == "SongUNet"


def test_another_filter_than_the_mean_is_refused():
    weights = drawn_weights("SongUNet")
    name = next(name for name in weights if name.endswith("filter"))
    weights[name] = torch.full((1, 1, 4, 4), 1 / 16)
    with pytest.raises(InputError, match="resample_filter is no 2 x 2 mean"):
        loaded("SongUNet", weights)


def test_levels_end_where_the_options_say_that_the_network_does(checkpoint, tmp_path):
    path = tmp_path / "config.json"

    def ends(**changes):
        path.write_text(json.dumps({**CONFIGS["SongUNet"], **changes}))
        levels = load_network(checkpoint, path).levels
        return levels.sigma_begin, levels.sigma_end

    assert ends(sigma_min=0.01, sigma_max=10) == (10, 0.01)
    assert ends(sigma_min=0, sigma_max=1e6) == (80, 0.002)


BAD = {
    "another preconditioning": (
        {"class_name": "training.networks.VPPrecond"},
        "class_name is 'training.networks.VPPrecond', expected a class EDMPrecond",
    ),
    "another of InverseBench's": ({"_target_": "models.precond.VEPrecond"}, "expected a class EDMPrecond"),
    "a fraction": ({"num_blocks": 1.5}, "num_blocks is 1.5, expected a whole number from 1 to 64"),
    "a width that no model has": (
        {"model_channels": 2048},
        "model_channels is 2048, expected a whole number",
    ),
    "levels in quotes": ({"sigma_max": "80"}, "sigma_max is '80', expected a number above 0"),
    "classes": ({"label_dim": 10}, "label_dim is 10, expected 0"),
    "Fourier": ({"embedding_type": "fourier"}, "embedding_type is 'fourier', expected 'positional'"),
    "NCSN++": ({"encoder_type": "residual"}, "encoder_type is 'residual', expected 'standard'"),
    "a wider filter": ({"resample_filter": [1, 3, 3, 1]}, "resample_filter[1] is 3, expected 1"),
    "a longer filter": ({"resample_filter": [1, 1, 1]}, "resample_filter is [1, 1, 1], expected [1, 1]"),
    "another network": ({"model_type": "DiT"}, "model_type is 'DiT', expected 'DhariwalUNet' or 'SongUNet'"),
    "no size": ({"img_resolution": None}, "lacks img_resolution"),
    "an unknown option": ({"moe_experts": 4}, "unknown options moe_experts"),
    "another width": ({"model_channels": 32}, "is it the right config?"),
    "odd groups": ({"model_channels": 19}, "its options make no network ("),
    "another depth": ({"channel_mult": [1, 2, 2]}, "parameters missing"),
    "attention elsewhere": ({"attn_resolutions": [32, 16]}, "parameters missing"),
    "huge": ({"model_channels": 10**30}, "model_channels is 1000"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_one_line(cli, checkpoint, tmp_path, changes, message):
    config = tmp_path / "config.json"
    options = {**CONFIGS["SongUNet"], **changes}
    config.write_text(json.dumps({name: value for name, value in options.items() if value is not None}))
    done = cli("export", checkpoint, "--config", config, "-o", tmp_path / "model")
    assert done.code == 2
    assert message in done.error_line
    assert not (tmp_path / "model").exists()

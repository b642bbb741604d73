"""The weights are found in every layout where it is certain which they are, and else the choice is told."""

import copy

import pytest
import torch
import yaml
from public_networks import CONFIGS, drawn_weights, write_checkpoint
from random_checkpoints import CONFIG, random_weights

from sbim_deploy.errors import InputError
from sbim_deploy.export.load import load_network

RAW, EMA = random_weights("NCSNv2", 1), random_weights("NCSNv2", 2)


def prefixed(weights, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def averaged_model(weights):
    from torch.optim.swa_utils import AveragedModel

    from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork

    network = ScoreNetwork(ARCHITECTURES["NCSNv2"], ngf=4, channels=2)
    network.load_state_dict(weights)
    return AveragedModel(network).state_dict()


def unnamed(weights):
    return {
        "decay": 0.999,
        "num_updates": 7,
        "shadow_params": list(weights.values()),
        "collected_params": None,
    }


LIGHTNING = {"epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.4.0", "loops": {}}

LAYOUTS = {
    "state_dict": ({"state_dict": RAW, "epoch": 3}, True, False),
    "model and ema": ({"model": RAW, "ema": EMA, "step": 7}, True, True),
    "params and params_ema": ({"params": RAW, "params_ema": EMA}, True, True),
    "model_state_dict": ({"model_state_dict": RAW, "optimizer_state_dict": {"state": {}}}, True, False),
    "nested": ({"states": {"model": {"weights": RAW}}}, True, False),
    "Lightning": ({"state_dict": prefixed(RAW, "model."), **LIGHTNING}, True, False),
    "Lightning, net": ({"state_dict": prefixed(RAW, "net.score."), **LIGHTNING}, True, False),
    "Lightning with EMA": (
        {"state_dict": {**prefixed(RAW, "model."), **prefixed(EMA, "ema_model.module.")}, **LIGHTNING},
        True,
        True,
    ),
    "Lightning with a loss": (
        {"state_dict": {**prefixed(RAW, "net."), "lpips.lin0.weight": torch.ones(3)}, **LIGHTNING},
        True,
        False,
    ),
    "one network under two names": (
        {"state_dict": {**prefixed(RAW, "model."), **prefixed(RAW, "net.")}, **LIGHTNING},
        True,
        False,
    ),
    "published": ([prefixed(RAW, "module."), {}, 12, 100, EMA], True, True),
    "a tuple": ((prefixed(RAW, "module."), {}, 12, 100, EMA), True, True),
    "of two": ([RAW, {"state": {}}], True, False),
    "module in _orig_mod": ([prefixed(RAW, "_orig_mod.module."), {}, 1, 1], True, False),
    "_orig_mod in module": ([prefixed(RAW, "module._orig_mod."), {}, 1, 1], True, False),
    "twice": (prefixed(RAW, "module._orig_mod.module."), True, False),
    "in EMA too": (
        [prefixed(RAW, "module._orig_mod."), {}, 1, 1, prefixed(EMA, "_orig_mod.module.")],
        True,
        True,
    ),
    "a part compiled": (
        {name.replace("res2.", "res2._orig_mod."): each for name, each in RAW.items()},
        True,
        False,
    ),
    "EMA alone": ({"ema": EMA}, False, True),
    "torch's average": ({"model": RAW, "swa": averaged_model(EMA)}, True, True),
    "torch's average alone": (averaged_model(EMA), False, True),
    "an average in order": ({"model": RAW, "ema": unnamed(EMA), "step": 3}, True, True),
}


@pytest.fixture
def config(tmp_path):
    document = copy.deepcopy(CONFIG)
    del document["model"]["ema"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "c.yaml"


@pytest.mark.parametrize(("content", "has_raw", "has_ema"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_weights_are_found_in_every_layout(tmp_path, config, content, has_raw, has_ema):
    torch.save(content, tmp_path / "c.pth")
    by_default = load_network(tmp_path / "c.pth", config)
    assert by_default.ema is has_ema
    torch.testing.assert_close(by_default.network.state_dict(), EMA if has_ema else RAW)
    if has_raw:
        raw = load_network(tmp_path / "c.pth", config, ema=False)
        torch.testing.assert_close(raw.network.state_dict(), RAW)


def test_those_of_edm_are_found_behind_any_prefix(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "c.pt", "SongUNet")
    weights = drawn_weights("SongUNet")
    wrapped = {f"net._orig_mod.{name}": each for name, each in weights.items()}
    torch.save({"state_dict": wrapped, **LIGHTNING}, checkpoint)
    found = load_network(checkpoint, checkpoint.with_suffix(".json")).network.state_dict()
    assert torch.equal(found["model.map_layer0.weight"], weights["model.map_layer0.weight"])


@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        ("SongUNet", "NCSNv2", "holds a network of EDM's, expected an NCSNv2; check that it is the config"),
        ("NCSNv2", "SongUNet", "holds an NCSNv2, and .* describes a network of EDM's; check"),
        ("UNetModel", "SongUNet", "holds guided-diffusion's UNet, and .* describes a network of EDM's"),
        ("SongUNet", "UNetModel", "holds a network of EDM's, and .* describes guided-diffusion's UNet"),
    ],
)
def test_the_configuration_of_another_network_is_told(tmp_path, kind, other, message):
    torch.save(RAW if kind == "NCSNv2" else drawn_weights(kind), tmp_path / "betas.pth")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG if other == "NCSNv2" else CONFIGS[other]))
    with pytest.raises(InputError, match=message):
        load_network(tmp_path / "betas.pth", tmp_path / "c.yaml", ema=False)


UNCERTAIN = {
    "two networks": (
        {"generator": RAW, "teacher": EMA},
        "holds 2 sets of weights ([generator], 70 tensors; [teacher], 70 tensors), and nothing tells which",
    ),
    "two of Lightning's": (
        {"state_dict": {**prefixed(RAW, "student."), **prefixed(EMA, "teacher.")}},
        "[state_dict] student.*, 70 tensors; [state_dict] teacher.*, 70 tensors",
    ),
    "a list of two": ([RAW, EMA], "holds 2 sets of weights ([0], 70 tensors; [1], 70 tensors)"),
    "two averages": ({"model": RAW, "ema_0.999": EMA, "ema_0.9999": RAW}, "holds 2 sets of EMA weights"),
    "a name twice": ({**RAW, "module.end_conv.bias": RAW["end_conv.bias"]}, "holds 'end_conv.bias' twice"),
    "an average of another size": (
        {"model": RAW, "ema": unnamed({"a": torch.ones(2)})},
        "[ema][shadow_params] may be EMA weights, and does not fit the others by its names: give --raw",
    ),
    "an average of other names": (
        {"state_dict": {**prefixed(RAW, "model."), "model_ema.begin_convweight": torch.ones(2)}},
        "[state_dict][model_ema] may be EMA weights",
    ),
    "a fifth of another": ([RAW, {}, 1, 1, {"a": torch.ones(2)}], "[4] may be EMA weights"),
}


@pytest.mark.parametrize(("content", "message"), UNCERTAIN.values(), ids=UNCERTAIN)
def test_where_it_is_uncertain_the_candidates_are_told(cli, tmp_path, config, content, message):
    torch.save(content, tmp_path / "c.pth")
    done = cli("export", tmp_path / "c.pth", "--config", config, "-o", tmp_path / "model")
    assert done.code == 2, done.err
    assert message.replace("70 tensors", f"{len(RAW)} tensors") in done.error_line


def test_what_may_be_an_average_is_left_out_where_raw_weights_are_asked_for(tmp_path, config):
    torch.save({"model": RAW, "ema": unnamed({"a": torch.ones(2)})}, tmp_path / "c.pth")
    loaded = load_network(tmp_path / "c.pth", config, ema=False)
    torch.testing.assert_close(loaded.network.state_dict(), RAW)

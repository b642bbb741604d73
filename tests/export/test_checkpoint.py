import argparse
import pickle

import pytest
import torch
import yaml
from random_checkpoints import CONFIG, random_weights, write_random_checkpoint

from sbim_deploy.errors import InputError
from sbim_deploy.export import ncsnv2
from sbim_deploy.export.checkpoint import read_checkpoint
from sbim_deploy.export.load import load_network
from sbim_deploy.export.ncsnv2 import architecture_of, build_network, read_config
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork


def write_yaml(path, document):
    path.write_text(yaml.safe_dump(document))
    return path


def changed(section, **changes):
    return {**CONFIG, section: {**CONFIG[section], **changes}}


def test_both_forms_of_the_yaml_say_the_same(config_path, tmp_path):
    flat = read_config(config_path)
    nested = read_config(write_yaml(tmp_path / "jalal.yaml", {"langevin_config": CONFIG, "other": 1}))
    assert flat == nested
    assert (flat.sigma_begin, flat.sigma_end, flat.n_levels, flat.ngf) == (232, 0.0066, 2311, 4)
    assert (flat.data_weight, flat.start_level, flat.centred_input) == (5.0, 1155, True)


@pytest.mark.parametrize("key", ["logit_transform", "rescaled"])
def test_rescaled_data_are_not_centred_again(tmp_path, key):
    assert not read_config(write_yaml(tmp_path / "c.yaml", changed("data", **{key: True}))).centred_input


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"data": {}, "model": {"ngf": 4}},
            "data: lacks channels; model: lacks sigma_begin, sigma_end, num_classes",
        ),
        (
            changed("model", normalization="BatchNorm"),
            "model.normalization is 'BatchNorm', expected 'InstanceNorm",
        ),
        (changed("model", spec_norm=True), "model.spec_norm is True"),
        (changed("model", sigma_begin=0.001), "sigma_begin and sigma_end are 0.001 and 0.0066"),
        (changed("model", ngf="wide"), "model.ngf is 'wide', expected a whole number from 1 to 1024"),
        (changed("model", ngf=10**6), "model.ngf is 1000000, expected a whole number from 1 to 1024"),
        (changed("model", ngf=64.5), "model.ngf is 64.5, expected a whole number from 1 to 1024"),
        (changed("model", num_classes=2311.5), "model.num_classes is 2311.5, expected a whole number"),
        (changed("model", ngf="64"), "model.ngf is '64', expected a whole number"),
        (changed("model", ngf=True), "model.ngf is True, expected a whole number"),
        (changed("model", sigma_begin="232"), "model.sigma_begin is '232', expected a finite number above 0"),
        (changed("model", ema="true"), "model.ema is 'true', expected true or false"),
        (changed("data", rescaled="false"), "data.rescaled is 'false', expected true or false"),
        (changed("data", channels=2.5), "data.channels is 2.5, expected a whole number"),
        (changed("sampling", n_steps_each=2.5), "sampling.n_steps_each is 2.5, expected a whole number"),
        (changed("model", nonlinearity="relu"), "nonlinearity is 'relu', expected 'elu' or 'ELU'"),
        (changed("sampling", start_iter=2311), "start_iter is 2311: expected less than the number of levels"),
        (changed("data", dataset="a\nb"), "data.dataset is .* expected one line of text"),
        ([1, 2], "expected a mapping"),
    ],
)
def test_a_config_that_cannot_be_used_says_what_is_wrong(tmp_path, document, message):
    with pytest.raises(InputError, match=message):
        read_config(write_yaml(tmp_path / "c.yaml", document))


@pytest.mark.parametrize("name", ["elu", "ELU"])
def test_the_activation_has_either_name(tmp_path, name):
    assert read_config(write_yaml(tmp_path / "c.yaml", changed("model", nonlinearity=name))).ngf == 4


def test_the_config_that_ncsnv2s_own_code_writes_is_the_same(config_path, tmp_path):
    """As its main writes what it was started with: records of argparse, and a device."""

    def recorded(each):
        return (
            argparse.Namespace(**{k: recorded(v) for k, v in each.items()})
            if isinstance(each, dict)
            else each
        )

    document = recorded({**CONFIG, "device": torch.device("cuda")})
    (tmp_path / "config.yml").write_text(yaml.dump(document, default_flow_style=False))
    written = (tmp_path / "config.yml").read_text()
    assert "!!python/object:argparse.Namespace" in written
    assert "!!python/object/apply:torch.device" in written
    assert read_config(tmp_path / "config.yml") == read_config(config_path)


@pytest.mark.parametrize(
    "tag",
    ["object/apply:os.system", "object:argparse.ArgumentParser", "object/new:torch.device", "name:os.system"],
)
def test_no_other_object_is_made_of_a_yaml(tmp_path, tag):
    (tmp_path / "c.yaml").write_text(f"data: !!python/{tag} ['true']\nmodel: {{}}")
    with pytest.raises(InputError, match=f"could not determine a constructor for the tag.*{tag}"):
        read_config(tmp_path / "c.yaml")


def test_a_missing_or_broken_yaml_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("a: [1, 2\n!!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="is not YAML"):
        read_config(tmp_path / "c.yaml")


def test_the_published_layout_is_read_without_its_prefixes(checkpoint_path):
    checkpoint = read_checkpoint(checkpoint_path)
    assert checkpoint.epoch == 12
    assert checkpoint.step == 100_000
    assert "begin_conv.weight" in checkpoint.raw
    assert checkpoint.raw["sigmas"].shape == (2311,)
    assert checkpoint.ema is not None
    assert checkpoint.optimizer["param_groups"][0]["lr"] == 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_family_member_is_known_by_its_stages(name, config_path, tmp_path):
    path = write_random_checkpoint(tmp_path / "c.pth", name)
    loaded = load_network(path, config_path)
    assert loaded.architecture == name
    torch.testing.assert_close(loaded.network.state_dict(), random_weights(name, 2))


def test_ema_is_taken_where_there_is_one_and_raw_when_asked_for(checkpoint_path, config_path, tmp_path):
    ema, raw = (load_network(checkpoint_path, config_path, wanted) for wanted in (None, False))
    assert ema.ema
    assert not raw.ema
    torch.testing.assert_close(ema.network.state_dict(), random_weights("NCSNv2Deepest", 2))
    torch.testing.assert_close(raw.network.state_dict(), random_weights("NCSNv2Deepest", 1))
    without = write_random_checkpoint(tmp_path / "c.pth", ema=False)
    with pytest.raises(InputError, match="it has no EMA weights"):
        load_network(without, config_path, ema=True)


def test_a_config_that_asks_for_weights_which_are_not_there_is_refused_until_others_are_asked_for(
    cli, config_path, tmp_path
):
    without = write_random_checkpoint(tmp_path / "c.pth", "NCSNv2", ema=False)
    done = cli("export", without, "--config", config_path, "-o", tmp_path / "model")
    assert done.code == 2
    assert f"{config_path}: ema is true, and {without} has no EMA weights that can be told: give --raw" in (
        done.error_line
    )
    assert not load_network(without, config_path, ema=False).ema


def test_a_config_that_knows_of_no_average_beside_a_checkpoint_with_one_asks_which(tmp_path):
    both = write_random_checkpoint(tmp_path / "c.pth", "NCSNv2")
    config = write_yaml(tmp_path / "c.yaml", changed("model", ema=False))
    with pytest.raises(
        InputError, match=r"ema is false, and .* has EMA weights beside the others: say which"
    ):
        load_network(both, config)
    assert [load_network(both, config, ema=wanted).ema for wanted in (True, False)] == [True, False]


def test_raw_weights_that_are_not_there_are_no_others(config_path, tmp_path):
    torch.save({"ema": random_weights("NCSNv2", 2)}, tmp_path / "c.pth")
    with pytest.raises(InputError, match="it has EMA weights alone: leave --raw out"):
        load_network(tmp_path / "c.pth", config_path, ema=False)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_real_numbers_are_refused(config_path, tmp_path, dtype):
    weights = random_weights("NCSNv2", 1)
    weights["end_conv.weight"] = weights["end_conv.weight"].to(dtype)
    torch.save(weights, tmp_path / "c.pth")
    message = f"end_conv.weight is of {str(dtype).removeprefix('torch.')}, expected floating-point weights"
    with pytest.raises(InputError, match=message):
        load_network(tmp_path / "c.pth", config_path, ema=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_those_numbers(config_path, tmp_path, dtype):
    weights = {name: each.to(dtype) for name, each in random_weights("NCSNv2", 1).items()}
    torch.save(weights, tmp_path / "c.pth")
    found = load_network(tmp_path / "c.pth", config_path, ema=False).network.state_dict()
    torch.testing.assert_close(found, {name: each.float() for name, each in weights.items()})


def test_a_number_beyond_single_precision_is_none(config_path, tmp_path):
    weights = {name: each.double() for name, each in random_weights("NCSNv2", 1).items()}
    weights["end_conv.bias"][0] = 1e300
    torch.save(weights, tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"end_conv\.bias holds NaN or infinite weights"):
        load_network(tmp_path / "c.pth", config_path, ema=False)


class Hostile:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, capsys):
    path = tmp_path / "c.pth"
    torch.save([Hostile(), {}, 0, 0], path)
    with pytest.raises(InputError, match="refused: not a checkpoint of tensors alone"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps({"ema": Hostile()}))
    with pytest.raises(
        InputError, match=r"refused: .* save its network\.state_dict\(\) in its own environment"
    ):
        read_checkpoint(path)
    assert "must not run" not in capsys.readouterr().out


def test_a_missing_truncated_or_foreign_checkpoint_is_an_input_error(checkpoint_path, tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "c.pth")
    (tmp_path / "c.pth").write_bytes(checkpoint_path.read_bytes()[:1000])
    with pytest.raises(InputError, match="truncated or not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "c.pth")
    torch.save({"model": 1}, tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"got a mapping with the keys \['model'\]"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("part", [0, 4])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("begin_conv.weight", None, "is a NoneType, expected a tensor"),
        (7, torch.ones(1), "a parameter is called 7, expected a"),
        ("begin_conv.weight", torch.ones(1, device="meta"), "meta"),
        ("begin_conv.weight", torch.eye(3).to_sparse(), "sparse"),
    ],
)
def test_an_entry_that_is_no_weight_is_one_line(cli, config_path, tmp_path, part, name, value, message):
    content = [{"a": torch.ones(1)}, {}, 0, 0, {"a": torch.ones(1)}]
    content[part] = {**random_weights("NCSNv2Deepest", 1), name: value}
    torch.save(content, tmp_path / "c.pth")
    done = cli("export", tmp_path / "c.pth", "--config", config_path, "-o", tmp_path / "model")
    assert done.code == 2
    assert message in done.error_line


def test_a_width_that_the_weights_do_not_have_takes_no_memory(checkpoint_path, tmp_path, monkeypatch):
    """A network of this width takes 24 GB."""
    config = read_config(write_yaml(tmp_path / "c.yaml", changed("model", ngf=1024)))
    made_on = []

    def make(*arguments):
        made_on.append(str(torch.empty(0).device))
        assert made_on == ["meta"]
        return ScoreNetwork(*arguments)

    monkeypatch.setattr(ncsnv2, "ScoreNetwork", make)
    with pytest.raises(InputError, match=r"begin_conv.weight has shape \(4, 2, 3, 3\).*\(1024, 2, 3, 3\)"):
        build_network(config, read_checkpoint(checkpoint_path).raw, checkpoint_path)
    assert made_on == ["meta"]


def test_weights_of_another_width_name_the_first_that_does_not_fit(checkpoint_path, tmp_path):
    config = read_config(write_yaml(tmp_path / "c.yaml", changed("model", ngf=8)))
    with pytest.raises(InputError, match=r"begin_conv.weight has shape \(4, 2, 3, 3\).*\(8, 2, 3, 3\)"):
        build_network(config, read_checkpoint(checkpoint_path).raw, checkpoint_path)


def test_missing_and_non_finite_weights_are_refused(config_path, tmp_path):
    config, weights = read_config(config_path), random_weights("NCSNv2", 1)
    weights["end_conv.bias"][0] = float("nan")
    with pytest.raises(InputError, match=r"end_conv.bias holds NaN"):
        build_network(config, weights, tmp_path)
    del weights["end_conv.bias"]
    with pytest.raises(InputError, match=r"1 parameters missing \['end_conv.bias'\]"):
        build_network(config, weights, tmp_path)
    with pytest.raises(InputError, match=r"residual stages \['res1'\] are none of"):
        architecture_of({"res1.0.conv1.weight": torch.zeros(1)}, tmp_path)
    with pytest.raises(InputError, match=r"holds a UNet2DModel, expected an NCSNv2; .* the folder pipeline"):
        architecture_of({"conv_in.weight": torch.zeros(1)}, tmp_path)

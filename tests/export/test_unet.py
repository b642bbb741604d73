import json
import shutil
import sys

import h5py
import numpy as np
import onnxruntime
import pytest
import torch
from unet_folders import SCHEDULES, write_unet_folder

from sbim_deploy.errors import InputError, install_command
from sbim_deploy.export.load import load_network
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model

pytest.importorskip("diffusers", reason="diffusers is not installed: no UNet is exported")


@pytest.fixture(scope="module")
def unet_folder(once):
    return once("pipeline", write_unet_folder)


@pytest.fixture(scope="module")
def model(once, unet_folder):
    from sbim_deploy.export.model import export_model

    return load_model(once("unet-model", lambda folder: export_model(unet_folder, None, folder)))


def noisy(sigmas, rows=24, columns=40):
    rng = np.random.default_rng(0)
    sigma = np.array(sigmas, np.float32)
    x = rng.standard_normal((len(sigma), 2, rows, columns)).astype(np.float32)
    return x * np.sqrt(1 + sigma[:, None, None, None] ** 2), sigma


def score_by_diffusers(folder, x, sigma):
    """The slides' bijection, with nothing of ours: the library's network and its scheduler's products."""
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel.from_pretrained(folder / "unet").eval()
    a = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod.double().numpy()
    a_of = 1 / (1 + sigma.astype(np.float64) ** 2)
    t = np.interp(-np.log(a_of / (1 - a_of)), -np.log(a / (1 - a)), np.arange(1000))
    x_vp = x * np.sqrt(a_of)[:, None, None, None]
    with torch.inference_mode():
        noise = unet(torch.from_numpy(x_vp).float(), torch.from_numpy(t).float()).sample.numpy()
    return -noise / sigma[:, None, None, None]


def assert_close_each(got, expected, limit):
    for one, other in zip(got, expected, strict=True):
        assert np.linalg.norm(one - other) <= limit * np.linalg.norm(other)


@pytest.mark.slow
def test_the_graph_with_attention_is_the_network_through_the_bijection(model, unet_folder):
    x, sigma = noisy([157.4, 20, 1.3, 0.15, 0.01001])
    got = open_engine(model, "score").run({"x": x, "sigma": sigma})["score"]
    assert_close_each(got, score_by_diffusers(unet_folder, x, sigma), 1e-4)


@pytest.mark.slow
def test_the_graph_without_attention_is_the_network_through_the_bijection(tmp_path):
    from sbim_deploy.export.tracing import Sample, trace

    folder = write_unet_folder(tmp_path, attention=False, schedule="squaredcos_cap_v2")
    loaded = load_network(folder)
    graph = trace(loaded.network, [Sample(2).of(["x", "sigma"])], "score", 20)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    x, sigma = noisy([1000, 20, 1.3, 0.15, 0.01], rows=16, columns=18)
    (got,) = session.run(None, {"x": x, "sigma": sigma})
    assert_close_each(got, score_by_diffusers(folder, x, sigma), 1e-4)


def test_the_network_hears_the_step(unet_folder):
    network = load_network(unet_folder).network
    x = torch.randn(1, 2, 16, 16)
    with torch.inference_mode():
        early, late = (
            -sigma * network(x * (1 + sigma**2) ** 0.5, torch.tensor([sigma])) for sigma in (0.1, 10.0)
        )
    assert (early - late).norm() > 1e-2 * early.norm()


@pytest.mark.parametrize(("width", "cosines_first", "shift"), [(8, True, 0), (64, False, 1), (9, True, 0)])
def test_the_embedding_of_the_step_is_the_librarys(width, cosines_first, shift):
    from diffusers.models.embeddings import Timesteps

    from sbim_deploy.export.scores import StepEmbedding

    t = torch.tensor([0.0, 0.5, 123.25, 999.0])
    expected = Timesteps(width, cosines_first, shift)(t)
    torch.testing.assert_close(StepEmbedding(width, cosines_first, shift)(t), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_levels_are_those_of_the_librarys_scheduler(tmp_path, schedule):
    from diffusers import DDPMScheduler

    folder = write_unet_folder(tmp_path, attention=False, schedule=schedule)
    a = DDPMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod.double().numpy()
    levels = load_network(folder).levels
    assert (levels.n_levels, levels.distribution) == (1000, "variance-preserving")
    # The library multiplies in single precision.
    np.testing.assert_allclose(1 / (1 + np.array(levels.vp_sigmas[::-1]) ** 2), a, rtol=3e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_denoised_image_is_the_one_of_the_librarys_scheduler(tmp_path, prediction):
    from diffusers import DDPMScheduler, UNet2DModel

    folder = write_unet_folder(tmp_path, attention=False, prediction_type=prediction, clip_sample=False)
    loaded = load_network(folder)
    unet = UNet2DModel.from_pretrained(folder / "unet").eval()
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    x_vp = torch.randn(1, 2, 16, 16)
    for t in (10, 500, 990):
        sigma = torch.tensor([loaded.levels.vp_sigmas[999 - t]])
        x = x_vp * (1 + sigma**2).sqrt()
        with torch.inference_mode():
            predicted = unet(x_vp, torch.tensor([t])).sample
            expected = scheduler.step(predicted, t, x_vp).pred_original_sample
            got = x + sigma**2 * loaded.network(x, sigma)
        assert (got - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.slow
def test_the_manifest_says_what_the_model_is(model):
    manifest = model.manifest
    assert (manifest.architecture, manifest.ngf, manifest.channels) == ("UNet2DModel", 8, 2)
    assert (manifest.size_multiple, manifest.dtype, manifest.ema) == (2, "float32", False)
    levels = manifest.noise_levels
    assert levels.sigma_begin == levels.vp_sigmas[0] == pytest.approx(157.407, rel=1e-4)
    assert levels.sigma_end == levels.vp_sigmas[-1] == pytest.approx(0.0100005, rel=1e-4)
    assert len(manifest.files) == 11


@pytest.mark.slow
def test_validate_compares_it_with_the_folder(cli, model, unet_folder):
    done = cli("validate", model.folder, "--checkpoint", unet_folder, "--backend", "onnxruntime")
    # Its weights are random: it is no prior, and nothing else is wrong.
    assert "the network leaves the noise" in done.error_line
    assert done.out.count(" ok") == 35


@pytest.mark.slow
def test_validate_knows_another_folder(cli, model, unet_folder, tmp_path):
    other = shutil.copytree(unet_folder, tmp_path / "other")
    path = other / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = cli("validate", model.folder, "--checkpoint", other, "--backend", "onnxruntime")
    assert done.code == 2
    assert "was exported from another checkpoint" in done.error_line


@pytest.mark.slow
def test_a_scan_is_reconstructed_with_it_and_doubted(cli, model, simulated, tmp_path):
    arguments = ("--model", model.folder, "--sampler", "dds", "--steps", 4, "--slices", "0:1")
    done = cli("recon", simulated, "-o", tmp_path / "out.h5", *arguments)
    assert done.code == 0, done.err
    # Its weights are random.
    assert "it is no prior for images" in done.err
    with h5py.File(tmp_path / "out.h5") as file:
        image = file["image"][:]
    assert image.shape == (1, 64, 64)
    assert np.isfinite(image).all()
    assert np.abs(image).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddim", "reverse-diffusion"])
def test_what_random_weights_draw_from_noise_is_an_error_and_leaves_nothing(
    cli, model, simulated, tmp_path, sampler
):
    arguments = ("--model", model.folder, "--sampler", sampler, "--steps", 4, "--slices", "0:1")
    done = cli("recon", simulated, "-o", tmp_path / "out.h5", *arguments)
    assert done.code == 1
    assert "the image does not explain its data at all" in done.error_line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_plan_has_the_models_own_steps(cli, model):
    done = cli("plan", "--sampler", "ddim", "--steps", 9, "--model", model.folder, "--json")
    plan = json.loads(done.out)
    levels = model.manifest.noise_levels.vp_sigmas
    assert [row["sigma"] for row in plan["rows"]] == list(levels[::111])
    assert plan["start"]["noise"] == pytest.approx((1 + levels[0] ** 2) ** 0.5)


def change_json(path, **changes):
    options = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in options.items() if value != "absent"}))


def unet(**changes):
    return lambda folder: change_json(folder / "unet" / "config.json", **changes)


def scheduler(**changes):
    return lambda folder: change_json(folder / "scheduler" / "scheduler_config.json", **changes)


def weights_of(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def truncate(folder):
    weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:5000])


def only_a_pickle(folder):
    weights_of(folder).unlink()
    torch.save({}, weights_of(folder).with_suffix(".bin"))


def nan_weights(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(weights_of(folder))
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, weights_of(folder))


def integers(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(weights_of(folder))
    save_file({**weights, "conv_in.bias": weights["conv_in.bias"].int()}, weights_of(folder))


def lfs_pointer(folder):
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 454741108\n"
    weights_of(folder).write_bytes(text)


BAD = {
    "integers": (integers, "conv_in.bias is of int32, expected floating-point weights"),
    "a git-lfs pointer": (lfs_pointer, "is a git-lfs pointer, which stands for a file of 454741108 bytes"),
    "quoted truth": (unet(center_input_sample="false"), "center_input_sample is 'false', expected true or"),
    "a fraction": (unet(layers_per_block=1.5), "layers_per_block is 1.5, expected a whole number"),
    "no scheduler": (
        lambda folder: shutil.rmtree(folder / "scheduler"),
        "neither scheduler/scheduler_config.json",
    ),
    "no config": (
        lambda folder: (folder / "unet" / "config.json").unlink(),
        "neither config.json nor unet/config",
    ),
    "config is no JSON": (lambda f: (f / "unet" / "config.json").write_text("{"), "config.json: is not JSON"),
    "another class": (
        unet(_class_name="UNet2DConditionModel"),
        "is 'UNet2DConditionModel', expected 'UNet2DModel'",
    ),
    "three channels": (unet(in_channels=3), "in_channels is 3, expected 2"),
    "no channels": (unet(in_channels="absent", out_channels="absent"), "lacks in_channels, out_channels"),
    "classes": (unet(num_class_embeds=10), "num_class_embeds is 10, expected null"),
    "Fourier": (
        unet(time_embedding_type="fourier"),
        "time_embedding_type is 'fourier', expected 'positional'",
    ),
    "other blocks": (
        unet(down_block_types=["os.system"] * 2),
        "down_block_types[0] is 'os.system', expected 'DownBlock2D' or",
    ),
    "true for a width": (
        unet(block_out_channels=[8, True]),
        "block_out_channels[1] is True, expected",
    ),
    "huge": (unet(block_out_channels=[8, 10**30]), "block_out_channels[1] is 1000"),
    "unknown option": (unet(moe_experts=4), "unknown options moe_experts"),
    "groups that do not divide": (unet(norm_num_groups=3), "its options make no network ("),
    "no heads": (unet(attention_head_dim=64), "its options make no network ("),
    "blocks that do not fit": (unet(block_out_channels=[8, 16, 32]), "its options make no network ("),
    "other widths": (unet(block_out_channels=[8, 32]), "is it the right config?"),
    "no attention in the weights": (unet(down_block_types=["AttnDownBlock2D"] * 2), "parameters missing"),
    "VE scheduler": (
        scheduler(beta_schedule="absent", beta_start="absent"),
        "lacks beta_schedule, beta_start",
    ),
    "other betas": (scheduler(beta_schedule="sigmoid"), "beta_schedule is 'sigmoid', expected 'linear' or"),
    "given betas": (scheduler(trained_betas=[0.1, 0.2]), "trained_betas is [0.1, 0.2], expected null"),
    "zero SNR": (scheduler(rescale_betas_zero_snr=True), "rescale_betas_zero_snr is True, expected False"),
    "prediction": (scheduler(prediction_type="flow"), "prediction_type is 'flow', expected 'epsilon' or"),
    "steps": (scheduler(num_train_timesteps=10**9), "num_train_timesteps is 1000000000, expected a whole"),
    "betas of 0": (scheduler(beta_start=0), "the betas are not all between 0 and 1"),
    "endless noise": (scheduler(beta_end=0.9), "the schedule ends at a sigma of"),
    "truncated weights": (truncate, "truncated or no safetensors"),
    "a pickle": (only_a_pickle, "a pickle, which may run code"),
    "no weights": (
        lambda folder: weights_of(folder).unlink(),
        "expected the weights in one file of safetensors",
    ),
    "NaN": (nan_weights, "conv_in.bias holds NaN or infinite weights"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_a_bad_folder_is_refused_in_one_line(cli, unet_folder, tmp_path, spoil, message):
    folder = shutil.copytree(unet_folder, tmp_path / "pipeline")
    spoil(folder)
    done = cli("export", folder, "-o", tmp_path / "model")
    assert done.code == 2, done.err
    assert message in done.error_line
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "c.yaml"), "has its own config.json: leave --config out"),
        (("--ema",), "holds one set of weights: leave --ema out"),
        (("--dtype", "fp16"), "dtype is torch.float16: expected fp32"),
    ],
)
def test_options_of_checkpoints_are_refused(cli, unet_folder, tmp_path, arguments, message):
    done = cli("export", unet_folder, "-o", tmp_path / "model", *arguments)
    assert done.code == 2
    assert message in done.error_line
    assert list(tmp_path.iterdir()) == []


def with_average(folder, target):
    """A folder as diffusers' training leaves it: unet_ema beside unet, with twice its weights."""
    from diffusers import UNet2DModel
    from diffusers.training_utils import EMAModel

    shutil.copytree(folder, target)
    unet = UNet2DModel.from_pretrained(folder / "unet")
    average = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
    average.shadow_params = [2 * each for each in average.shadow_params]
    average.save_pretrained(target / "unet_ema")
    return target


def bias_of(loaded):
    return loaded.network.network.unet.conv_in.bias


def test_the_average_beside_a_unet_is_taken_and_the_other_where_it_is_asked_for(unet_folder, tmp_path):
    both = with_average(unet_folder, tmp_path / "pipeline")
    raw = bias_of(load_network(unet_folder))
    by_default, asked, other = (load_network(both, ema=wanted) for wanted in (None, True, False))
    assert [each.ema for each in (by_default, asked, other)] == [True, True, False]
    for loaded, factor in ((by_default, 2), (asked, 2), (other, 1)):
        torch.testing.assert_close(bias_of(loaded), factor * raw)


def test_export_says_which_of_the_two_it_takes_and_keeps_the_hash_of_that_one(
    unet_folder, tmp_path, monkeypatch
):
    from sbim_deploy.export import model as exporting

    both, said = with_average(unet_folder, tmp_path / "pipeline"), []

    def write(loaded, _folder, weights_sha256, *_others):
        said.append((loaded.ema, weights_sha256))

    monkeypatch.setattr(exporting, "_write", write)
    for wanted in (None, False):
        exporting.export_model(both, None, tmp_path / "model", ema=wanted, announce=said.append, force=True)
        shutil.rmtree(tmp_path / "model")
    name = "diffusion_pytorch_model.safetensors"
    averaged, raw = both / "unet_ema" / name, both / "unet" / name
    assert said == [
        f"{averaged}: taking its EMA weights",
        (True, file_sha256(averaged)),
        f"{raw}: taking its raw weights",
        (False, file_sha256(raw)),
    ]


def test_a_folder_whose_config_is_an_emamodels_is_an_average(unet_folder, tmp_path):
    both = with_average(unet_folder, tmp_path / "pipeline")
    shutil.rmtree(both / "unet")
    assert load_network(both).ema
    flat = shutil.copytree(both / "unet_ema", tmp_path / "flat")
    shutil.copy(both / "scheduler" / "scheduler_config.json", flat)
    assert load_network(flat).ema
    for folder in (both, flat):
        with pytest.raises(InputError, match="holds EMA weights alone: leave --raw out"):
            load_network(folder, ema=False)


def test_a_variant_that_is_no_average_makes_the_other_one(unet_folder, tmp_path):
    folder = shutil.copytree(unet_folder, tmp_path / "pipeline")
    shutil.copy(
        weights_of(folder), weights_of(folder).with_name("diffusion_pytorch_model.non_ema.safetensors")
    )
    assert [load_network(folder, ema=wanted).ema for wanted in (None, True, False)] == [True, True, False]


def test_weights_of_a_compiled_unet_have_its_names(unet_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(unet_folder, tmp_path / "pipeline")
    weights = load_file(weights_of(folder))
    save_file({f"_orig_mod.{name}": each for name, each in weights.items()}, weights_of(folder))
    assert torch.equal(bias_of(load_network(folder)), bias_of(load_network(unet_folder)))


def test_every_option_of_a_unet_and_its_schedule_is_compared_with_a_models(unet_folder, tmp_path):
    from sbim_deploy.export.diffusers_folder import find_unet
    from sbim_deploy.export.unet import describe_unet

    folder = shutil.copytree(unet_folder, tmp_path / "pipeline")
    exported = describe_unet(find_unet(folder, None))
    change_json(folder / "unet" / "config.json", norm_eps=1e-6, attention_head_dim=4)
    change_json(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
    changed = describe_unet(find_unet(folder, None))
    assert {name for name in exported.options if exported.options[name] != changed.options[name]} == {
        "norm_eps",
        "attention_head_dim",
        "prediction_type",
    }


def test_a_checkpoint_still_needs_its_yaml(cli, tmp_path):
    done = cli("export", tmp_path / "c.pth", "-o", tmp_path / "model")
    assert done.code == 2
    assert "a checkpoint needs the YAML beside it: name it with --config" in done.error_line


def test_a_unets_own_folder_with_the_schedule_beside_its_config_is_the_same(unet_folder, tmp_path):
    flat = shutil.copytree(unet_folder / "unet", tmp_path / "flat")
    shutil.copy(unet_folder / "scheduler" / "scheduler_config.json", flat)
    assert load_network(flat).levels == load_network(unet_folder).levels


def test_without_diffusers_the_line_says_what_to_install(cli, monkeypatch, unet_folder, tmp_path):
    monkeypatch.delitem(sys.modules, "sbim_deploy.export.unet", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    done = cli("export", unet_folder, "-o", tmp_path / "model")
    assert done.code == 4
    assert install_command("export", "vp") in done.error_line

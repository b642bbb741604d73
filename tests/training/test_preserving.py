import json

import numpy as np
import pytest
import torch
import yaml
from tiny_training import TINY

from sbim_deploy.errors import InputError
from sbim_deploy.export.checkpoint import Checkpoint, NetworkConfig, read_checkpoint
from sbim_deploy.export.load import load_network
from sbim_deploy.training import trainer
from sbim_deploy.training.dsm import dsm_loss
from sbim_deploy.training.settings import TrainSettings
from sbim_deploy.training.trainer import train

pytest.importorskip("diffusers", reason="diffusers is not installed: no UNet is trained")

pytestmark = pytest.mark.usefixtures("few_slices")
CONFIG = NetworkConfig(ngf=4, channels=2, sigma_begin=157.4, sigma_end=0.01, n_levels=1000)
# The product of 1 - beta over DDPM's steps, Ho et al. 2020, section 4.
A = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def settings(**changes):
    return TrainSettings(**({**TINY, "schedule": "vp"} | changes))


@pytest.fixture
def kind():
    from sbim_deploy.training.preserving import Preserving

    return Preserving(ngf=4)


@pytest.fixture
def unet(kind):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind.new()


@pytest.fixture
def start(unet):
    return Checkpoint(unet.state_dict(), None, {}, 0, 0)


def test_the_levels_are_those_of_ddpms_steps(kind):
    np.testing.assert_allclose(1 / (1 + kind.sigmas[::-1] ** 2), A, rtol=1e-9)


@torch.no_grad()
def test_the_loss_is_half_the_error_of_the_predicted_noise(kind, unet):
    """Dimos 2022, p. 37, at x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) z (p. 28)."""
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(4, 2, 16, 16, generator=generator) for _ in range(2))
    t = torch.tensor([0, 250, 600, 999])
    a = torch.from_numpy(A).float()[t][:, None, None, None]
    predicted = unet(a.sqrt() * images + (1 - a).sqrt() * noise, t).sample
    expected = 0.5 * (noise - predicted).square().mean(dim=(1, 2, 3))
    sigmas = torch.from_numpy(kind.sigmas[::-1].astype(np.float32))[t]
    got = dsm_loss(kind.score(unet), images, sigmas, noise)
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=0)


def test_the_folder_that_is_written_is_the_averaged_network(tmp_path, kind, start):
    from diffusers import DDPMScheduler, UNet2DModel

    trained = read_checkpoint(train(CONFIG, settings(iterations=1), tmp_path, start))
    loaded = load_network(tmp_path / "pipeline")
    assert (loaded.size_multiple, loaded.config.ngf) == (8, 4)
    assert loaded.levels.vp_sigmas == tuple(kind.sigmas)
    x, sigma = torch.randn(3, 2, 24, 16), torch.tensor([100.0, 1.0, 0.02])
    with torch.no_grad():
        expected = kind.score(kind.load(trained.ema))(x, sigma)
        assert torch.equal(loaded.network(x, sigma), expected)
        assert not torch.equal(kind.score(kind.load(trained.raw))(x, sigma), expected)
    # The library reads it too, and predicts what the score says.
    unet = UNet2DModel.from_pretrained(tmp_path / "pipeline" / "unet")
    scheduler = DDPMScheduler.from_pretrained(tmp_path / "pipeline" / "scheduler")
    np.testing.assert_allclose(scheduler.alphas_cumprod, A, rtol=3e-4)
    sigma = torch.tensor([kind.sigmas[-301]]).float()
    with torch.no_grad():
        noise = unet(x / (1 + sigma**2).sqrt(), torch.tensor([300])).sample
        score = loaded.network(x, sigma.expand(3))
    torch.testing.assert_close(-noise / sigma, score, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path, start):
    def interrupt(step, loss, held_out):
        if step == 3:
            raise KeyboardInterrupt

    whole = read_checkpoint(train(CONFIG, settings(), tmp_path / "whole", start))
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, settings(), tmp_path / "parts", start, interrupt)
    part = read_checkpoint(tmp_path / "parts" / "checkpoint.pth")
    assert part.step == 2
    resumed = read_checkpoint(train(CONFIG, settings(), tmp_path / "parts", part))
    assert resumed.step == 4
    for name in whole.raw:
        assert torch.equal(resumed.raw[name], whole.raw[name]), name
        assert torch.equal(resumed.ema[name], whole.ema[name]), name


@pytest.mark.slow
def test_the_loss_falls(tmp_path):
    progress = []
    train(
        CONFIG,
        settings(iterations=60, batch=8, learning_rate=5e-3, ema_rate=0.8, held_out_interval=60),
        tmp_path,
        on_progress=lambda *values: progress.append(values),
    )
    first, last = (mean for _, _, mean in progress if mean is not None)
    assert last < 0.7 * first


@pytest.mark.parametrize("levels", [None, "uniform", "detail"])
def test_levels_are_the_schedules_unless_details_are_asked_for(tmp_path, kind, start, monkeypatch, levels):
    seen = []

    def loss(score, images, sigmas, noise):
        seen.extend(sigmas.tolist())
        return dsm_loss(score, images, sigmas, noise)

    monkeypatch.setattr(trainer, "dsm_loss", loss)
    train(CONFIG, settings(iterations=1, levels=levels), tmp_path, start)
    own = set(kind.sigmas.astype(np.float32).tolist())
    assert len(set(seen) & own) == (0 if levels == "detail" else 2)


@pytest.mark.parametrize(("ngf", "groups"), [(1, 1), (6, 1), (8, 2), (16, 4), (18, 1), (24, 2)])
def test_groups_of_a_norm_hold_several_channels_and_divide_every_width(ngf, groups):
    from sbim_deploy.training.preserving import Preserving

    unet = Preserving(ngf).new()
    assert unet.config.norm_num_groups == groups
    with torch.no_grad():
        assert unet(torch.zeros(1, 2, 8, 8), 0).sample.shape == (1, 2, 8, 8)


def test_a_config_needs_no_levels_and_those_it_has_are_not_looked_at(tmp_path):
    from sbim_deploy.training.preserving import read_unet_config

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": {"channels": 2}, "model": {"ngf": 12}}))
    plain = read_unet_config(path)
    assert (plain.ngf, plain.channels, plain.n_levels) == (12, 2, 1000)
    assert plain.sigma_begin == pytest.approx(157.407, rel=1e-4)
    path.write_text(json.dumps({"data": {"channels": 2}, "model": {"ngf": 12, "sigma_begin": 50}}))
    assert read_unet_config(path) == plain
    path.write_text(json.dumps({"data": {"channels": 2}, "model": {}}))
    with pytest.raises(InputError, match="ngf"):
        read_unet_config(path)


def test_weights_of_another_width_and_sizes_that_do_not_fit_are_refused(tmp_path, start):
    with pytest.raises(InputError, match=r"the config \(ngf 8\) makes it .*: is it the right config"):
        train(NetworkConfig(8, 2, 157.4, 0.01, 1000), settings(), tmp_path, start)
    with pytest.raises(InputError, match="size is 36: UNet2DModel needs a multiple of 8"):
        train(CONFIG, settings(sizes=(36,)), tmp_path)

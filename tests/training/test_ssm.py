import importlib.util

import pytest
import torch

from sbim_deploy.export.checkpoint import Checkpoint, NetworkConfig, read_checkpoint
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.training import trainer
from sbim_deploy.training.dsm import dsm_loss
from sbim_deploy.training.settings import TrainSettings
from sbim_deploy.training.ssm import ssm_loss
from sbim_deploy.training.trainer import train

pytestmark = pytest.mark.usefixtures("few_slices")
CONFIG = NetworkConfig(ngf=4, channels=2, sigma_begin=3.0, sigma_end=0.1, n_levels=10)
VARIANCE = 0.7


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("excess", [1.0, 1.6])
def test_the_loss_of_a_gaussian_is_known_and_that_of_denoising(sigma, excess):
    """x of variance v and s = -k x / (v + sigma^2) have 0.5 + sigma^2 (0.5 k^2 - k) / (v + sigma^2)."""
    images = VARIANCE**0.5 * normal(200, 2, 32, 32, seed=1)
    noise, directions = normal(*images.shape, seed=2), normal(*images.shape, seed=3).sign()
    total = VARIANCE + sigma**2
    # Four standard deviations of the mean of as many squares.
    limit = 4 * (2 / images.numel()) ** 0.5
    sigmas = torch.full((200,), sigma)

    def score(x, sigmas):
        return -excess * x / total

    losses = ssm_loss(score, images, sigmas, noise, directions)
    expected = 0.5 + sigma**2 * (0.5 * excess**2 - excess) / total
    assert losses.shape == (200,)
    assert losses.mean().item() == pytest.approx(expected, abs=limit * 0.5 * (excess * sigma) ** 2 / total)
    assert dsm_loss(score, images, sigmas, noise).mean().item() == pytest.approx(expected, rel=limit)


def test_the_trace_is_that_of_the_jacobian_and_each_image_has_its_own_level():
    """s = sin(x) has the Jacobian diag(cos(x)), whose trace directions of plus and minus one give exactly."""
    images, noise, directions = (normal(3, 2, 4, 4, seed=seed) for seed in range(3))
    sigmas = torch.tensor([0.5, 1.0, 2.0])
    x = images + sigmas[:, None, None, None] * noise
    expected = 0.5 + sigmas**2 * (0.5 * x.sin() ** 2 + x.cos()).mean(dim=(1, 2, 3))
    got = ssm_loss(lambda x, sigmas: x.sin(), images, sigmas, noise, directions.sign())
    torch.testing.assert_close(got, expected)


def ncsn():
    network = ScoreNetwork(ARCHITECTURES["NCSNv2Deepest"], 4, 2).double()
    return network, network


def unet():
    from sbim_deploy.training.preserving import Preserving

    kind = Preserving(ngf=4)
    network = kind.new().double()
    return network, kind.score(network).double()


@pytest.mark.parametrize("make", [ncsn, unet])
def test_the_gradient_of_a_network_is_the_difference_of_its_losses(make):
    if make is unet and importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, score = make()
    arrays = [normal(2, 2, 16, 16, seed=seed).double() for seed in range(3)]

    def loss():
        images, noise, directions = arrays
        return ssm_loss(score, images, torch.tensor([0.3, 2.0]).double(), noise, directions).mean()

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    steps = [normal(*each.shape, seed=9).double() for each in parameters]
    slope = sum((gradient * step).sum() for gradient, step in zip(gradients, steps, strict=True))

    def moved(length):
        with torch.no_grad():
            for each, step in zip(parameters, steps, strict=True):
                each += length * step
        return loss().item()

    # A step so short that no maximum of a pooling moves to another pixel, where the Jacobian jumps.
    ahead = moved(1e-8)
    behind = moved(-2e-8)
    assert (ahead - behind) / 2e-8 == pytest.approx(slope.item(), rel=1e-4)


@pytest.fixture
def start():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Checkpoint(ScoreNetwork(ARCHITECTURES["NCSNv2"], 4, 2).state_dict(), None, {}, 0, 0)


@pytest.mark.slow
def test_training_lowers_the_held_out_loss_of_denoising(tmp_path, start):
    progress = []
    settings = TrainSettings(
        iterations=40,
        objective="ssm",
        sizes=(32,),
        batch=4,
        pool_size=12,
        learning_rate=5e-3,
        ema_rate=0.8,
        held_out_interval=40,
    )
    train(CONFIG, settings, tmp_path, start, lambda *values: progress.append(values))
    first, last = (mean for _, _, mean in progress if mean is not None)
    assert last < 0.8 * first


@pytest.mark.slow
def test_a_run_draws_its_directions_by_step_and_continues_to_the_bit(tmp_path, start, monkeypatch):
    directions = []

    def loss(*arrays):
        directions.append(arrays[-1])
        return ssm_loss(*arrays)

    monkeypatch.setattr(trainer, "ssm_loss", loss)

    def run(name, iterations, begin):
        settings = TrainSettings(iterations=iterations, objective="ssm", sizes=(32,), batch=2, pool_size=12)
        path = train(CONFIG, settings, tmp_path / name, begin)
        return read_checkpoint(path)

    part, whole = run("part", 1, start), run("whole", 2, start)
    resumed = run("resumed", 2, part)
    assert torch.equal(directions[0], directions[1])
    assert torch.equal(directions[2], directions[3])
    assert not torch.equal(directions[1], directions[2])
    assert set(directions[0].unique().tolist()) == {-1.0, 1.0}
    assert all(torch.equal(resumed.raw[name], tensor) for name, tensor in whole.raw.items())

import pytest
import torch
from torch import nn
from torch.nn import functional

from sbim_deploy.export.network import ARCHITECTURES, InstanceNormPlus, ScoreNetwork


def test_the_published_network_has_94_million_parameters():
    with torch.device("meta"):
        network = ScoreNetwork(ARCHITECTURES["NCSNv2Deepest"], ngf=128, channels=2)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(94.13e6, rel=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("multiple", [3, 5])
def test_every_architecture_maps_images_of_its_multiples_to_the_same_shape(name, multiple):
    network = ScoreNetwork(ARCHITECTURES[name], ngf=4, channels=2).eval()
    size = ARCHITECTURES[name].size_multiple
    x = torch.randn(2, 2, 2 * multiple * size, multiple * size)
    with torch.inference_mode():
        assert network(x, torch.tensor([1.0, 0.1])).shape == x.shape


def test_the_score_is_divided_by_each_images_own_sigma_and_images_do_not_mix():
    network = ScoreNetwork(ARCHITECTURES["NCSNv2"], ngf=4, channels=2).eval()
    x = torch.randn(1, 2, 16, 16)
    other = torch.cat([x, torch.randn(1, 2, 16, 16)])
    with torch.inference_mode():
        unit, small = network(x, torch.ones(1)), network(x, torch.full((1,), 0.1))
        torch.testing.assert_close(small, 10 * unit)
        torch.testing.assert_close(network(other, torch.ones(2))[:1], unit)


def test_centred_input_is_twice_the_image_less_one():
    centred = ScoreNetwork(ARCHITECTURES["NCSNv2"], ngf=4, channels=2).eval()
    plain = ScoreNetwork(ARCHITECTURES["NCSNv2"], ngf=4, channels=2, centred_input=False).eval()
    plain.load_state_dict(centred.state_dict())
    x = torch.rand(1, 2, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(centred(x, torch.ones(1)), plain(2 * x - 1, torch.ones(1)))


def test_instance_norm_plus_is_its_formula():
    norm = InstanceNormPlus(6)
    with torch.no_grad():
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
    x = torch.randn(2, 6, 5, 7)
    means = x.mean(dim=(2, 3))
    standardised = (means - means.mean(1, keepdim=True)) / torch.sqrt(means.var(1, keepdim=True) + 1e-5)
    h = functional.instance_norm(x) + (norm.alpha * standardised)[..., None, None]
    expected = norm.gamma[:, None, None] * h + norm.beta[:, None, None]
    torch.testing.assert_close(norm(x), expected)

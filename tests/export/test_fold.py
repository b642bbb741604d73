import pytest
import torch
from random_checkpoints import random_weights

from sbim_deploy.export.network import ARCHITECTURES, ConvMeanPool, ScoreNetwork
from sbim_deploy.export.precision import fold_mean_pools


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folded_network_computes_the_same_without_a_pooled_convolution(architecture):
    network = ScoreNetwork(ARCHITECTURES[architecture], ngf=4, channels=2).double().eval()
    network.load_state_dict(random_weights(architecture, 0))
    folded = fold_mean_pools(network)
    x, sigma = torch.randn(2, 2, 24, 40, dtype=torch.float64), torch.tensor([5.0, 0.1], dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x, sigma), network(x, sigma), rtol=1e-10, atol=1e-10)
    assert any(isinstance(module, ConvMeanPool) for module in network.modules())
    assert not any(isinstance(module, ConvMeanPool) for module in folded.modules())


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_one_convolution_is_the_mean_of_its_blocks(kernel_size):
    pooled = ConvMeanPool(3, 5, kernel_size)
    holder = torch.nn.ModuleList([pooled])
    x = torch.randn(1, 3, 8, 12)
    with torch.inference_mode():
        torch.testing.assert_close(fold_mean_pools(holder)[0](x), pooled(x), rtol=1e-5, atol=1e-6)

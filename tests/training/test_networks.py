import sys

import pytest
import torch

from sbim_deploy.errors import BackendMissingError, InputError
from sbim_deploy.export.checkpoint import Checkpoint, NetworkConfig
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork
from sbim_deploy.training.networks import kind_of

CONFIG = NetworkConfig(ngf=4, channels=2, sigma_begin=3.0, sigma_end=0.1, n_levels=10)


def test_a_start_of_the_other_schedule_is_refused():
    ncsn = Checkpoint(ScoreNetwork(ARCHITECTURES["NCSNv2"], 4, 2).state_dict(), None, {}, 0, 0)
    unet = Checkpoint({"conv_in.weight": torch.zeros(4, 2, 3, 3)}, None, {}, 0, 0)
    assert kind_of(CONFIG, "ve", ncsn).name == "NCSNv2"
    with pytest.raises(InputError, match="holds an NCSNv2, the schedule is vp: expected ve"):
        kind_of(CONFIG, "vp", ncsn)
    with pytest.raises(InputError, match="holds a UNet2DModel, the schedule is ve: expected vp"):
        kind_of(CONFIG, "ve", unet)


def test_without_diffusers_the_way_to_install_it_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "sbim_deploy.training.preserving", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BackendMissingError, match=r'pip install .*\[train,vp\]"'):
        kind_of(CONFIG, "vp", None)

"""The configurations that docs/priors.md shows are read, and build networks of the size that it says."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
yaml = pytest.importorskip("yaml", reason="yaml is not installed")

from sbim_deploy.errors import InputError  # noqa: E402
from sbim_deploy.export.blueprint import fill  # noqa: E402
from sbim_deploy.export.edm import describe_edm  # noqa: E402
from sbim_deploy.export.guided_diffusion import describe_guided_diffusion  # noqa: E402
from sbim_deploy.export.ncsnv2 import read_config  # noqa: E402
from sbim_deploy.export.network import ARCHITECTURES, ScoreNetwork  # noqa: E402

PAGE = (Path(__file__).parents[1] / "docs" / "priors.md").read_text(encoding="utf-8")


def section(title):
    """The part of the page under a title: its configuration, and the parameters that it says."""
    (text,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (millions,) = re.findall(r"\((\d+) million parameters\)", text)
    return block, int(millions)


def millions_of(network):
    return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6)


def test_ncsnv2_of_csgm_mri_langevin(tmp_path):
    block, millions = section("NCSNv2 of csgm-mri-langevin")
    (tmp_path / "run_langevin.yaml").write_text(block)
    config = read_config(tmp_path / "run_langevin.yaml")
    assert (config.n_levels, config.sigma_begin, config.sigma_end, config.ema) == (2311, 232, 0.0066, True)
    with torch.device("meta"):
        network = ScoreNetwork(ARCHITECTURES["NCSNv2Deepest"], config.ngf, config.channels)
    assert millions_of(network) == millions


@pytest.mark.parametrize("title", ["EDM networks of InverseBench", "FastMRI-EDM"])
def test_edm_s_networks(title):
    block, millions = section(title)
    stored = yaml.safe_load(block)
    described = describe_edm(stored.get("model", stored), Path("c.yaml"))
    assert millions_of(described.held) == millions
    # The options are taken: what is missed is the weights.
    with pytest.raises(InputError, match=r"^w\.pt: \d+ parameters missing"):
        fill(described, {}, True, Path("w.pt"))


def test_the_unet_of_dds():
    block, millions = section("The UNet of DDS")
    stored = yaml.safe_load(block)
    described = describe_guided_diffusion(stored, Path("c.yaml"))
    assert millions_of(described.held) == millions
    with pytest.raises(InputError, match=r"^w\.pt: \d+ parameters missing"):
        fill(described, {}, False, Path("w.pt"))

import numpy as np
import pytest

from sbim_deploy.experiment.claims import judge
from sbim_deploy.experiment.settings import Claim
from sbim_deploy.experiment.store import Result

AHEAD = Claim("ours is better", "ours", "theirs", "psnr", ahead=(2.0, 4.0), behind=(8.0,))


def result(method, acceleration, index, **scores):
    numbers = dict.fromkeys(("nrmse", "psnr", "ssim", "masked_psnr", "masked_ssim"), 0.5)
    return Result(
        pattern="equispaced",
        acceleration=acceleration,
        effective_acceleration=acceleration,
        scan="simulated",
        slice=index,
        method=method,
        residual=0.1,
        seconds=1.0,
        seed=0,
        **{**numbers, **scores},
    )


def results(differences, metric="psnr"):
    rng = np.random.default_rng(0)
    return [
        result(method, acceleration, index, **{metric: base + (difference if method == "ours" else 0)})
        for acceleration, by_slice in differences.items()
        for index, difference in enumerate(by_slice)
        for base in [rng.uniform(20, 40)]
        for method in ("ours", "theirs")
    ]


def test_a_claim_appears_is_contradicted_or_undecided_by_its_interval():
    made = results({2.0: [1.0, 1.2, 0.8], 4.0: [-1.0, -1.2, -0.8], 8.0: [-1.0, 1.0, 0.1], 12.0: [9.0] * 3})
    verdicts = {each.acceleration: each for each in judge(AHEAD, made)}
    assert {r: each.word for r, each in verdicts.items()} == {
        2.0: "appears",
        4.0: "does not appear",
        8.0: "is undecided",
    }
    assert verdicts[2.0].difference.mean == pytest.approx(1.0)


def test_being_behind_can_be_claimed_too():
    (verdict,) = judge(AHEAD, results({8.0: [-1.0, -1.2, -0.8]}))
    assert (verdict.says, verdict.word) == ("behind", "appears")


def test_a_smaller_nrmse_is_ahead():
    claim = Claim("ours is better", "ours", "theirs", "nrmse", ahead=(2.0,))
    (verdict,) = judge(claim, results({2.0: [-0.1, -0.12, -0.09]}, "nrmse"))
    assert verdict.word == "appears"
    assert verdict.difference.mean == pytest.approx(0.31 / 3)


def test_a_single_slice_decides_nothing():
    (verdict,) = judge(AHEAD, results({2.0: [5.0]}))
    assert verdict.word == "is undecided"


def test_a_claim_against_a_peer_that_is_not_there_has_no_verdict():
    ours = [each for each in results({2.0: [1.0, 1.2]}) if each.method == "ours"]
    assert judge(AHEAD, ours) == []

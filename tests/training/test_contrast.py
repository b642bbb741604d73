import numpy as np
import pytest

from sbim_deploy.training.contrast import (
    INDEX,
    TISSUES,
    WEIGHTINGS,
    Protocol,
    inversion_recovery,
    nulling_inversion_time,
    random_magnitude,
    random_protocol,
    spin_echo,
    spoiled_gradient_echo,
)
from sbim_deploy.training.fields import Grid


def brightness(protocol, *names):
    """What a pixel of each tissue gives, without anyone's own deviations."""
    at_3_tesla = protocol.tesla > 2
    tissues = [TISSUES[INDEX[name]] for name in names]
    return [
        float(protocol.signal(tissue.t1[at_3_tesla], tissue.t2[at_3_tesla], tissue.density))
        for tissue in tissues
    ]


def protocols(*weightings, n=400):
    drawn = [random_protocol(np.random.default_rng(seed)) for seed in range(n)]
    return [protocol for protocol in drawn if protocol.weighting in weightings]


def test_a_long_tr_and_a_short_te_leave_the_density():
    assert spin_echo(900.0, 80.0, 0.7, tr=1e5, te=0.0) == pytest.approx(0.7)
    assert inversion_recovery(900.0, 80.0, 0.7, tr=1e5, te=0.0, ti=5e4) == pytest.approx(0.7)
    assert spoiled_gradient_echo(900.0, 80.0, 0.7, tr=1e5, te=0.0, flip=90) == pytest.approx(0.7)


def test_an_echo_of_one_t2_has_decayed_to_one_over_e():
    for signal in (
        spin_echo(900.0, 80.0, 1.0, tr=1e5, te=80.0),
        inversion_recovery(900.0, 80.0, 1.0, tr=1e5, te=80.0, ti=5e4),
        spoiled_gradient_echo(900.0, 80.0, 1.0, tr=1e5, te=80.0, flip=90),
    ):
        assert signal == pytest.approx(np.exp(-1))


def test_a_gradient_echo_is_brightest_at_the_ernst_angle():
    tr, t1 = 20.0, 900.0
    flips = np.arange(1.0, 90.0, 0.1)
    signals = [spoiled_gradient_echo(t1, 80.0, 1.0, tr, 0.0, flip) for flip in flips]
    assert flips[np.argmax(signals)] == pytest.approx(np.rad2deg(np.arccos(np.exp(-tr / t1))), abs=0.1)


@pytest.mark.parametrize("tr", [7500.0, 11000.0])
def test_an_inversion_nulls_what_it_is_timed_for(tr):
    ti = nulling_inversion_time(4200.0, tr)
    assert inversion_recovery(4200.0, 1700.0, 1.0, tr, 100.0, ti) == pytest.approx(0, abs=1e-12)
    assert inversion_recovery(850.0, 70.0, 0.7, tr, 100.0, ti) > 0.1
    assert nulling_inversion_time(4200.0, 1e9) == pytest.approx(4200 * np.log(2))


def test_t1_weighting_has_white_above_gray_above_fluid():
    for protocol in protocols("gradient_echo", "mprage", "t1_spin_echo"):
        white, gray, fluid, fat = brightness(protocol, "white", "gray", "fluid", "fat")
        assert fat > white > gray > fluid


def test_t2_weighting_has_fluid_above_gray_above_white():
    for protocol in protocols("t2"):
        fluid, lesion, gray, white, muscle = brightness(
            protocol, "fluid", "lesion", "gray", "white", "muscle"
        )
        assert fluid > lesion > gray > white > muscle


def test_flair_has_lesions_bright_and_fluid_dark():
    for protocol in protocols("flair"):
        lesion, gray, white, fluid = brightness(protocol, "lesion", "gray", "white", "fluid")
        assert lesion > gray > white > 3 * fluid


def test_proton_density_has_little_contrast_in_the_brain():
    for protocol in protocols("density"):
        gray, white = brightness(protocol, "gray", "white")
        assert 1.0 < gray / white < 1.6


def test_bone_is_dark_in_every_contrast():
    for protocol in protocols(*WEIGHTINGS, n=60):
        bone, white = brightness(protocol, "bone", "white")
        assert bone < 0.3 * white


def test_every_weighting_comes_as_often_as_said():
    drawn = [protocol.weighting for protocol in protocols(*WEIGHTINGS, n=3000)]
    for weighting, share in WEIGHTINGS.items():
        assert drawn.count(weighting) / len(drawn) == pytest.approx(share, abs=0.025)


def test_flowing_blood_is_dark_in_t2_weighting_and_not_in_gradient_echoes():
    assert all(protocol.flow < 0.4 for protocol in protocols("t2", "flair", "density"))
    for protocol in protocols("gradient_echo"):
        assert protocol.flow == 1
        assert protocol.blood_t1 < TISSUES[INDEX["blood"]].t1[0]


def test_fluid_is_even_and_tissue_is_not():
    grid = Grid((64, 64), 2.0)
    protocol = Protocol("density", 3.0, lambda t1, t2, density: density * t1)

    def deviation(name):
        fractions = np.zeros((len(TISSUES), 64, 64), np.float32)
        fractions[INDEX[name]] = 1
        magnitude = random_magnitude(np.random.default_rng(0), protocol, fractions, grid)
        return magnitude.std() / magnitude.mean()

    assert deviation("fluid") == pytest.approx(0, abs=1e-6)
    assert 0.01 < deviation("white") < 0.15

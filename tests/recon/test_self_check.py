from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.errors import SamplingError
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.kspace_faults import Fault
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.phantom import shepp_logan
from sbim_deploy.recon.parity import whole_problem
from sbim_deploy.recon.prepare import prepare_slice, relative_residual
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.recon.self_check import (
    check_converged,
    doubts_of_model,
    doubts_of_plan,
    explained_residual,
    find_doubts,
)
from sbim_deploy.samplers.choice import Prior, SamplerChoice, make_plan

SHAPE = (64, 60)
NOISE = 0.02
MAPS = birdcage_maps(4, SHAPE)
IMAGE = shepp_logan(SHAPE).astype(np.complex64)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    kspace = centred_fft(MAPS * IMAGE)
    kspace += NOISE * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    mask = line_mask(60, 2)
    return prepare_slice((kspace * mask).astype(np.complex64), 5, mask, MAPS, noise=NOISE)


def kinds(problem, image):
    return [doubt.kind for doubt in find_doubts(problem, relative_residual(problem, image))]


def test_the_right_image_leaves_what_the_noise_explains_and_no_doubt(problem):
    assert relative_residual(problem, IMAGE) == pytest.approx(explained_residual(problem), rel=0.05)
    assert kinds(problem, IMAGE) == []


def test_an_image_of_something_else_is_doubtful_with_both_figures(problem):
    wrong = np.roll(IMAGE, 4, axis=0)
    residual = relative_residual(problem, wrong)
    (doubt,) = find_doubts(problem, residual)
    assert doubt.kind == "residual"
    assert f"{residual:.1%}" in doubt.message
    assert f"{explained_residual(problem):.1%}" in doubt.message
    assert "--maps" in doubt.message


def test_much_noise_alone_is_no_doubt(problem):
    # The residual is 45 %, as much as the noise explains.
    loud = replace(problem, noise=0.45 / explained_residual(problem) * NOISE)
    assert find_doubts(loud, 0.45) == ()


def test_a_small_model_error_on_quiet_data_is_no_doubt(problem):
    quiet = replace(problem, noise=NOISE / 100)
    assert find_doubts(quiet, 0.02) == ()
    assert find_doubts(quiet, 0.05) != ()


def test_an_image_that_has_nothing_to_do_with_its_data_is_an_error_with_the_way_out(problem):
    for residual in (18.0, float("inf"), float("nan")):
        doubts = find_doubts(problem, residual)
        with pytest.raises(
            SamplingError, match=rf"slice 5: .* {residual:.2g} times the data.*another sampler"
        ):
            check_converged(5, doubts)
    check_converged(5, find_doubts(problem, 0.9))


def test_a_model_that_removes_no_noise_makes_every_image_doubtful():
    (doubt,) = doubts_of_model({"sigma 0.1": 1.2, "sigma 0.3": 0.4})
    assert (doubt.kind, doubt.fatal) == ("no prior", False)
    assert "(sigma 0.1: 120%)" in doubt.message
    assert doubts_of_model({"sigma 0.1": 0.4}) == doubts_of_model({}) == ()


def test_a_model_of_another_image_scale_makes_every_image_doubtful_with_the_way_out():
    demo = load_model("demo")
    wrong = replace(demo, manifest=replace(demo.manifest, better_image_scale=0.25))
    slices = [whole_problem()]
    for model, expected in ((demo, False), (wrong, True)):
        (done,) = Reconstructor(model, SamplerChoice("dds", steps=2), backend="onnxruntime")(slices)
        assert ("image scale" in [doubt.kind for doubt in done.doubts]) is expected
    for noise_left in ({"sigma 0.1": 0.8}, {"sigma 0.1": 1.2}):
        doubt, *others = doubts_of_model(noise_left, better_image_scale=0.25)
        assert len(others) == (noise_left["sigma 0.1"] > 1)
        assert (doubt.kind, doubt.fatal) == ("image scale", False)
        assert "export it again with --image-scale 0.25" in doubt.message


def test_the_faults_of_the_samples_come_first(problem):
    faulty = replace(problem, faults=(Fault("clipped samples", "they are clipped", False),))
    assert kinds(faulty, IMAGE) == ["clipped samples"]
    assert kinds(faulty, 0 * IMAGE) == ["clipped samples", "residual"]


def test_published_langevin_steps_that_diverge_are_doubted():
    prior = Prior(50.0, 0.01, 500, step_lr=5e-5, n_steps_each=4, data_weight=5.0, start_level=0)
    (doubt,) = doubts_of_plan(make_plan(SamplerChoice("sbim-ld", steps=8, published=True), prior))
    assert "Langevin steps of sbim-ld are 5.8 sigma^2, and above 2 sigma^2 they diverge" in doubt.message
    assert not doubt.fatal
    assert doubts_of_plan(make_plan(SamplerChoice("sbim-ld", steps=64, published=True), prior)) == ()

import threading

import numpy as np
import pytest

from sbim_deploy.errors import InputError, SamplingError
from sbim_deploy.models.folder import load_model, sampling_prior
from sbim_deploy.mri.coils import birdcage_maps
from sbim_deploy.mri.combine import root_sum_of_squares
from sbim_deploy.mri.fourier import centred_fft
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon import fused
from sbim_deploy.recon.channels import from_channels
from sbim_deploy.recon.fused import operator_inputs, plan_numbers
from sbim_deploy.recon.grid import GridProblem
from sbim_deploy.recon.parity import step_problem
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.reconstruct import GRAPHS, Reconstructor
from sbim_deploy.runs.simulate import brain_slice
from sbim_deploy.samplers import plan as plans
from sbim_deploy.samplers.choice import SamplerChoice, make_plan
from sbim_deploy.samplers.noise import NoiseStream

MASKS = {
    "columns": line_mask(56, 2)[None],
    "rows": line_mask(52, 2)[:, None],
    "both": line_mask(52, 1.5)[:, None] & line_mask(56, 1.5)[None],
}


def slice_problem(direction, index=0):
    shape = (52, 56)  # the network's grid is 56 x 56
    image = brain_slice(index, 64)[4:56, 4:60].astype(np.complex64)
    maps = birdcage_maps(4, shape)
    return prepare_slice(
        (centred_fft(maps * image) * MASKS[direction]).astype(np.complex64), index, maps=maps
    )


@pytest.mark.parametrize("direction", MASKS)
@pytest.mark.parametrize("name", ["dds", "daps", "sbim-ld"])
def test_the_fused_graphs_give_the_numpy_loops_image(name, direction):
    problems = [slice_problem(direction, index) for index in (0, 1)]
    score, step, whole = (
        Reconstructor(load_model("demo"), SamplerChoice(name, steps=5, start_sigma=0.1), graph=graph)(
            problems
        )
        for graph in ("score", "step", "reconstruct")
    )
    for other in (step, whole):
        for a, b in zip(other, score, strict=True):
            assert np.linalg.norm(a.image - b.image) <= 1e-4 * np.linalg.norm(b.image)
            assert a.residual == pytest.approx(b.residual, rel=1e-3)


def folded_problem(direction, index=0):
    """A slice whose two halves lie on top of each other, with the maps of both."""
    image = brain_slice(index, 64)[4:56, 4:60]
    halves = np.stack([image[:, :28], image[:, 28:]])
    maps = birdcage_maps(6, (52, 56))
    sets = np.stack([maps[..., :28], maps[..., 28:]])
    kspace = centred_fft((sets * halves[:, None]).sum(axis=0)).astype(np.complex64)
    mask = {
        "columns": line_mask(28, 1.5)[None],
        "both": line_mask(52, 1.5)[:, None] & line_mask(28, 1.5)[None],
    }
    return prepare_slice(kspace * mask[direction], index, maps=sets), halves


@pytest.mark.parametrize("direction", ["columns", "both"])
@pytest.mark.parametrize("name", ["dds", "daps", "sbim-ld"])
def test_the_fused_graphs_give_the_numpy_loops_image_of_two_sets(name, direction):
    problems = [folded_problem(direction, index)[0] for index in (0, 1)]
    choice = SamplerChoice(name, steps=4, start_sigma=0.1)
    score, *others = (Reconstructor(load_model("demo"), choice, graph=graph)(problems) for graph in GRAPHS)
    for other in others:
        for a, b in zip(other, score, strict=True):
            assert a.image.shape == (52, 28)
            assert np.linalg.norm(a.image - b.image) <= 1e-4 * np.linalg.norm(b.image)
            assert a.residual == pytest.approx(b.residual, rel=1e-3)


def test_two_sets_give_each_half_of_a_folded_slice_its_image():
    problem, halves = folded_problem("columns")
    (result,) = Reconstructor(load_model("demo"), samples=2, samples_at_once=2)([problem])
    magnitude = root_sum_of_squares(halves)
    assert np.linalg.norm(np.abs(result.image) - magnitude) < 0.06 * np.linalg.norm(magnitude)
    assert result.residual < 0.03
    assert result.standard_deviation.shape == (52, 28)
    assert 0 < np.median(result.standard_deviation[magnitude > 0.2]) < 0.1


def test_noise_of_the_data_that_the_whole_graph_has_no_input_for_is_not_left_out():
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice("daps", steps=3), graph="reconstruct")
    with pytest.raises(InputError, match="daps perturbs the data in each step"):
        reconstruct.graph_inputs([slice_problem("columns")])


def test_slices_with_different_lines_share_a_batch():
    shape = (48, 48)
    maps = birdcage_maps(4, shape)
    problems = []
    for index, acceleration in enumerate((2, 4)):
        kspace = centred_fft(maps * brain_slice(index, 48)) * line_mask(48, acceleration)
        problems.append(prepare_slice(kspace.astype(np.complex64), index, maps=maps))
    assert problems[0].mask.sum() != problems[1].mask.sum()
    reconstruct = Reconstructor(load_model("demo"), SamplerChoice(steps=4))
    together = reconstruct(problems)
    for problem, batched in zip(problems, together, strict=True):
        (alone,) = reconstruct([problem])
        assert np.linalg.norm(alone.image - batched.image) <= 1e-5 * np.linalg.norm(alone.image)


def test_a_plan_too_large_for_one_call_goes_on_where_the_last_call_ended(monkeypatch):
    problem = slice_problem("columns")
    choice = SamplerChoice("sbim-ld", steps=3, start_sigma=0.05)
    reconstruct = Reconstructor(load_model("demo"), choice, graph="reconstruct")
    (at_once,) = reconstruct([problem])
    monkeypatch.setattr(fused, "MAX_NOISE_BYTES", 4 * 2 * 56 * 56 * 4)  # four steps
    seen = []
    (in_parts,) = reconstruct([problem], seen.append)
    assert seen == [4, 8, 10]
    np.testing.assert_allclose(in_parts.image, at_once.image, rtol=0, atol=1e-6 * np.abs(at_once.image).max())


class Watched:
    """A recurrence that waits in each step, but for the last, until the next step's noise is being drawn."""

    def __init__(self, shape, n_steps, drawing):
        self.shape, self.n_steps, self.drawing = shape, n_steps, drawing
        self.given = []

    def recur(self, state, output, inputs):
        return self

    def advance(self, changed):
        self.given.append({name: array.copy() for name, array in changed.items()})
        if len(self.given) < self.n_steps:
            assert self.drawing.acquire(timeout=20)

    def read(self):
        return np.zeros(self.shape, np.float32)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_noise_of_a_step_is_drawn_while_the_one_before_it_runs_and_has_the_same_bits(monkeypatch, eta):
    plan = make_plan(SamplerChoice("dds", steps=5, eta=eta), sampling_prior(load_model("demo").manifest))

    def problem():
        return step_problem("proximal", 0.1)

    drawing = threading.Semaphore(0)
    n_drawn = []
    draw = fused._NoiseOfSteps.__call__

    def watched(self, step, z):
        n_drawn.append(step)
        if len(n_drawn) > 1:
            drawing.release()
        return draw(self, step, z)

    monkeypatch.setattr(fused._NoiseOfSteps, "__call__", watched)
    engine = Watched((1, 2, *problem().start.shape[-2:]), len(plan.steps), drawing)
    fused.run_steps(engine, plan, problem())
    monkeypatch.undo()
    in_turn = Watched(engine.shape, 0, drawing)
    fused.run_steps(in_turn, plan, problem(), on_state=lambda steps_done, x: None)
    assert len(engine.given) == len(plan.steps)
    for ahead, expected in zip(engine.given, in_turn.given, strict=True):
        assert ahead.keys() == expected.keys()
        for name in ahead:
            np.testing.assert_array_equal(ahead[name], expected[name])


def test_masks_of_nearly_as_many_lines_have_inputs_of_one_shape():
    shapes = set()
    for n_lines in (9, 13, 16):
        mask = np.zeros((1, 1, 24), bool)
        mask[..., 1 : 1 + n_lines] = True
        sense = Sense(birdcage_maps(2, (16, 24))[None], mask)
        image = np.zeros((1, 16, 24), np.complex64)
        noise = NoiseStream(0, [0], (16, 24))
        inputs = operator_inputs(GridProblem(sense, image, image, noise, np.ones(1, np.float32)))
        shapes.add(inputs["encoding"].shape)
        assert not inputs["encoding"][..., n_lines:].any()
        assert inputs["encoding"][..., :n_lines].any(axis=(0, 1, 2)).all()
    assert shapes == {(1, 2, 24, 16)}


def test_the_encoding_matrices_make_the_operator():
    rng = np.random.default_rng(0)
    grid, shape = (56, 64), (52, 56)
    maps = np.stack([birdcage_maps(3, shape)] * 2)
    x = (rng.standard_normal((2, *shape)) + 1j * rng.standard_normal((2, *shape))).astype(np.complex64)
    masks = np.stack([MASKS["both"], MASKS["both"] & line_mask(56, 3)])
    sense = Sense(maps, masks)
    zeros = np.zeros((2, *grid), np.complex64)
    problem = GridProblem(sense, zeros, zeros, NoiseStream(0, [0, 1], grid), np.zeros(2, np.float32))
    inputs = operator_inputs(problem)
    assert inputs["maps"].shape == (2, 3, 2, *grid)
    padded = zeros.copy()
    padded[:, 2:54, 4:60] = x
    got_maps, encoding, rows = (from_channels(inputs[name]) for name in ("maps", "encoding", "row_encoding"))
    kspace = rows.swapaxes(1, 2)[:, None] @ (got_maps * padded[:, None]) @ encoding[:, None]
    kspace *= inputs["mask"][:, None]
    back = rows.conj()[:, None] @ kspace @ encoding.conj().swapaxes(1, 2)[:, None]
    got = (got_maps.conj() * back).sum(axis=1)[:, 2:54, 4:60]
    np.testing.assert_allclose(got, sense.normal(x), atol=1e-5)


def test_the_weight_of_the_prior_follows_each_slices_noise():
    plan = plans.dds(np.array([0.2, 0.1]), gamma=0.01, noise_weight=0.5, n_cg=10, eta=1.0)
    numbers = plan_numbers(plan, np.array([0.0, 0.02], np.float32))
    np.testing.assert_allclose(numbers["gamma"][:, 0], 0.01)
    expected = [0.01 + step.noise_gamma * 0.02**2 for step in plan.steps]
    np.testing.assert_allclose(numbers["gamma"][:, 1], expected, rtol=1e-6)
    assert set(numbers) == {"sigma", "gamma", "renoise", "noise_scale"}


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_sampler_that_diverges_is_named_with_the_slice(graph):
    choice = SamplerChoice("sbim-ld", steps=10, data_weight=1e38)
    with pytest.raises(SamplingError, match="sbim-ld diverged: slice 0"):
        Reconstructor(load_model("demo"), choice, graph=graph)([slice_problem("columns")])


def test_an_unknown_graph_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match="unknown graph 'loop': expected one of step, score, reconstruct"):
        Reconstructor(load_model("demo"), graph="loop")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_data_that_conjugate_gradients_solve_at_once_upset_no_engine(backend):
    """Fully sampled, A^H A is the identity: the steps after the first find nothing left."""
    pytest.importorskip(backend)
    maps, image = birdcage_maps(4, (48, 48)), brain_slice(0, 48)
    problem = prepare_slice(centred_fft(maps * image).astype(np.complex64), maps=maps)
    score, step = (
        Reconstructor(load_model("demo"), SamplerChoice(steps=4), backend=backend, graph=graph)([problem])[0]
        for graph in ("score", "step")
    )
    assert np.linalg.norm(step.image - score.image) <= 1e-4 * np.linalg.norm(score.image)

import tracemalloc

import numpy as np
import pytest

from sbim_deploy.models.backends import open_engine
from sbim_deploy.models.folder import load_model
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.nonuniform import to_samples
from sbim_deploy.mri.trajectories import GOLDEN, make_trajectory
from sbim_deploy.recon import streams
from sbim_deploy.recon.classical import Classical, classical_image, coil_magnitude
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.recon.prepare_noncartesian import prepare_trajectory_slice
from sbim_deploy.recon.reconstruct import SCORE_GRAPH, Reconstructor
from sbim_deploy.recon.streams import BYTES_OF_SHAPE, count_streams, memory_bytes, work_bytes
from sbim_deploy.runs.simulate import SimulateSettings, object_magnitude, simulate_slice, simulate_truth
from sbim_deploy.samplers.choice import SamplerChoice

GIB = 1024**3


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores and so much memory."""

    def use(cores, memory):
        monkeypatch.setattr(streams, "available_cores", lambda: cores)
        monkeypatch.setattr(streams, "memory_bytes", lambda: memory)

    return use


@pytest.mark.parametrize(
    ("n_slices", "cores", "expected"),
    [
        (1, 8, 1),
        (2, 8, 2),
        (8, 8, 8),
        (9, 8, 5),
        (17, 8, 6),
        (100, 8, 8),
        (100, 1, 1),
        (3, 2, 2),
        (10**6, 8, 8),
    ],
)
def test_streams_are_the_fewest_that_take_no_more_rounds_than_one_a_core(machine, n_slices, cores, expected):
    machine(cores, 1024 * GIB)
    assert count_streams(n_slices, GIB) == expected
    assert -(-n_slices // expected) == -(-n_slices // cores)


def test_the_threads_that_the_user_gives_are_those_of_all_streams_together(machine):
    machine(8, 1024 * GIB)
    assert count_streams(100, GIB, threads=3) == 3
    assert count_streams(100, GIB, threads=1) == 1


@pytest.mark.parametrize(("memory", "expected"), [(16, 8), (8, 4), (3, 1), (1, 1), (None, 8)])
def test_the_work_of_all_streams_fits_into_half_of_the_memory(machine, memory, expected):
    machine(8, None if memory is None else memory * GIB)
    assert count_streams(100, GIB) == expected


def test_the_memory_is_that_of_the_machine_or_less_where_a_container_has_a_limit(monkeypatch, tmp_path):
    whole = memory_bytes()
    assert whole is None or whole > 2**20
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(streams, "LIMITS_OF_CONTAINERS", (tmp_path / "absent", limit))
    limit.write_text("max\n")
    machine = memory_bytes()
    limit.write_text("1048576\n")
    assert memory_bytes() == 2**20
    assert machine is None or machine >= whole


@pytest.mark.parametrize(("n_coils", "size"), [(1, 96), (8, 128), (48, 64)])
def test_the_work_on_a_slice_takes_no_more_memory_than_is_kept_free_for_it(n_coils, size):
    mask = line_mask(size, 2.0)
    kspace = simulate_slice(SimulateSettings(16, n_coils, size, 2.0), mask, 0).kspace.astype(np.complex64)
    model = load_model("demo")
    sampler = Reconstructor(
        model, SamplerChoice(steps=1), open_graph=lambda name: open_engine(model, name, "onnxruntime", 1)
    )
    tracemalloc.start()
    try:
        problem = prepare_slice(kspace)
        sampler([problem])
        classical_image(problem, Classical.CG_SENSE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    of_arrays = work_bytes((n_coils, size, size), model.manifest.ngf) - BYTES_OF_SHAPE
    assert peak <= of_arrays + 2**20


@pytest.mark.parametrize(("n_coils", "size", "n_spokes"), [(1, 64, 300), (8, 64, 20), (32, 32, 60)])
def test_the_work_along_a_trajectory_takes_no_more_memory_than_is_kept_free_for_it(n_coils, size, n_spokes):
    pytest.importorskip("finufft", reason="finufft is not installed: no trajectories are read")
    settings = SimulateSettings(16, n_coils, size, 2.0)
    truth = simulate_truth(object_magnitude(settings, 0), settings, 0)
    places = make_trajectory(GOLDEN, size, n_spokes)
    kspace = to_samples(truth.maps * truth.reference, places).astype(np.complex64)
    model = load_model("demo")
    sampler = Reconstructor(
        model,
        SamplerChoice(steps=1),
        graph=SCORE_GRAPH,
        open_graph=lambda name: open_engine(model, name, "onnxruntime", 1),
    )
    tracemalloc.start()
    try:
        problem = prepare_trajectory_slice(kspace, places, (size, size))
        sampler([problem])
        classical_image(problem, Classical.CG_SENSE)
        coil_magnitude(kspace, (size, size), places)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    n_samples = places[..., 0].size
    kept = work_bytes((n_coils, size, size), model.manifest.ngf, n_samples) - BYTES_OF_SHAPE
    assert peak <= kept + 2**20
    assert work_bytes((n_coils, size, size), model.manifest.ngf) < kept + BYTES_OF_SHAPE

"""The peers solve the problem that they are given, in its own units."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse.linalg

from bart_tool import needs_bart
from sbim_deploy.errors import BackendMissingError
from sbim_deploy.experiment.peers import PEERS, pics
from sbim_deploy.mri.masks import line_mask
from sbim_deploy.mri.sense import Sense
from sbim_deploy.recon.prepare import prepare_slice
from sbim_deploy.runs.simulate import SimulateSettings, simulate_slice


@pytest.fixture
def problem():
    mask = line_mask(64, 3)
    scan = simulate_slice(SimulateSettings(n_coils=6, size=64), mask, 0)
    # Scaled, so that a method that mixes up the units fails.
    return prepare_slice(7 * scan.kspace, 0, mask, scan.maps)


def regularised_least_squares(problem, weight: float) -> np.ndarray:
    """Return argmin |A x - y|^2 + weight |x|^2 by scipy's conjugate gradients."""
    sense = Sense(problem.maps, problem.mask)
    shape = sense.image_shape

    def normal(flat: np.ndarray) -> np.ndarray:
        image = flat.reshape(shape).astype(np.complex64)
        return (sense.normal(image) + weight * image).ravel()

    n = shape[0] * shape[1]
    operator = scipy.sparse.linalg.LinearOperator((n, n), normal, dtype=np.complex64)
    solution, failed = scipy.sparse.linalg.cg(
        operator, sense.adjoint(problem.kspace).ravel(), rtol=1e-5, maxiter=500
    )
    assert failed == 0
    return solution.reshape(shape)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("bart-l2", marks=needs_bart),
        pytest.param(
            "sigpy-sense", marks=pytest.mark.skipif(PEERS["sigpy-sense"].version() is None, reason="no sigpy")
        ),
    ],
)
def test_an_l2_peer_solves_regularised_least_squares(problem, name):
    expected = regularised_least_squares(problem, 0.1)
    image = PEERS[name].solve(problem, 0.1, 1)
    assert image.dtype == np.complex64
    assert np.linalg.norm(image - expected) < 2e-3 * np.linalg.norm(expected)


@needs_bart
def test_wavelets_come_back_in_the_units_of_k_space(problem):
    image = PEERS["bart-l1"].solve(problem, 0.003, 1)
    residual = Sense(problem.maps, problem.mask).forward(image) - problem.kspace
    assert np.linalg.norm(residual) < 0.1 * np.linalg.norm(problem.kspace)


@needs_bart
def test_wavelets_converge_with_maps_of_more_than_unit_norm(problem):
    """As the maps of coils that were whitened have: BART's step is for maps of unit norm."""
    expected = PEERS["bart-l1"].solve(problem, 0.003, 1)
    larger = replace(problem, maps=1.5 * problem.maps)
    image = PEERS["bart-l1"].solve(larger, 0.003, 1) * 1.5
    assert np.linalg.norm(image - expected) < 1e-3 * np.linalg.norm(expected)


def test_zero_filling_is_the_measured_image(problem):
    np.testing.assert_array_equal(PEERS["zero-filled"].solve(problem, 0.0, 1), problem.mvue)


def test_bart_that_is_missing_or_fails_is_an_error(problem, monkeypatch, tmp_path):
    fake = tmp_path / "bart"
    fake.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendMissingError, match="bart pics -l2 failed: no such option"):
        pics(problem, ("-l2",))
    fake.unlink()
    assert PEERS["bart-l2"].version() is None
    with pytest.raises(BackendMissingError, match="BART is not on the PATH"):
        pics(problem, ("-l2",))

"""Coverage against draws from a Gaussian whose posterior is known, and against a file's own arithmetic."""

import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.io.hashing import file_sha256
from sbim_deploy.recon.uncertainty import RunningMoments
from sbim_deploy.results.result_file import ResultWriter
from sbim_deploy.runs.coverage import expected_coverage, measure_coverage


def normals(rng, shape):
    return rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("samples", [2, 4, 30])
def test_samples_of_the_posterior_cover_what_is_expected(samples, is_complex):
    rng = np.random.default_rng(samples)
    shape = (200_000,)
    truth = normals(rng, shape)
    moments = RunningMoments(shape)
    for _ in range(samples):
        moments.add(normals(rng, shape))
    error = moments.mean - truth
    distance = np.abs(error if is_complex else error.real)
    for n in (1, 2):
        got = np.mean(distance <= n * np.sqrt(moments.variance()))
        assert got == pytest.approx(expected_coverage(n, samples, is_complex), abs=0.005)


def test_many_samples_come_to_the_gaussians_own_numbers():
    expected = [1 - np.exp(-1), 1 - np.exp(-4), 0.8427008, 0.9953223]  # the last two are erf(1) and erf(2)
    got = [expected_coverage(n, 10**6, is_complex) for is_complex in (True, False) for n in (1, 2)]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def write_pair(folder, error, deviation, with_maps=False):
    """Write a k-space file with a complex reference, and a result of four samples that is off by `error`."""
    kspace, result = folder / "k.h5", folder / "r.h5"
    reference = np.exp(1j * np.linspace(0, 3, 256)).reshape(16, 16).astype(np.complex64)
    reference[:4] = 0.01  # no object
    with h5py.File(kspace, "w") as file:
        file["kspace"] = np.ones((1, 2, 16, 16), np.complex64)
        file["reference"] = reference[None]
    image = reference + error.astype(np.complex64)
    maps = {"name": "k.h5", "sha256": file_sha256(kspace)} if with_maps else None
    with ResultWriter(result, {"samples": 4}, (0,), resume=False, force=True) as writer:
        writer.write(0, image, image, 0.0, deviation)
        writer.finish({"maps": maps})
    return result, kspace


def test_pixels_of_the_object_are_counted_and_the_others_are_not(tmp_path):
    deviation = np.full((16, 16), 0.01, np.float32)
    deviation[:, 8:] = 0.02
    error = np.full((16, 16), 0.015)
    error[:4] = 5
    error[4:7] = 0.5
    result, kspace = write_pair(tmp_path, 1j * error, deviation, with_maps=True)
    coverage = measure_coverage(result, kspace)
    assert (coverage.samples, coverage.error) == (4, "complex")
    (only,) = coverage.slices
    assert only.coverage.within_one == pytest.approx(0.75 * 0.5)
    assert only.coverage.within_two == pytest.approx(0.75)
    assert coverage.mean_coverage == only.coverage
    assert coverage.expected_coverage.within_one == pytest.approx(1 - 1.2**-3)
    # An eighth of the pixels is 50 standard deviations off: more than the 5 % that may be.
    assert only.factor == pytest.approx(50 / 2)
    inside = np.abs(error[4:]).ravel(), deviation[4:].ravel()
    assert only.correlation == pytest.approx(np.corrcoef(*inside)[0, 1], abs=1e-4)


def test_the_factor_makes_95_percent_of_errors_lie_within_two_standard_deviations(tmp_path):
    error = np.random.default_rng(0).rayleigh(0.02, (16, 16))
    deviation = np.full((16, 16), 0.01, np.float32)
    first = measure_coverage(*write_pair(tmp_path, 1j * error, deviation, with_maps=True))
    assert first.mean_coverage.within_two < 0.7
    factor = first.slices[0].factor
    assert factor == pytest.approx(0.02 * np.sqrt(2 * np.log(20)) / 0.02, rel=0.1)
    corrected = deviation * np.float32(factor)
    again = measure_coverage(*write_pair(tmp_path, 1j * error, corrected, with_maps=True))
    assert again.mean_coverage.within_two == pytest.approx(0.95, abs=0.01)
    assert again.slices[0].factor == pytest.approx(1, rel=0.01)


def test_a_phase_that_the_maps_leave_open_is_no_error(tmp_path):
    ones = np.full((16, 16), 0.01, np.float32)
    result, kspace = write_pair(tmp_path, np.zeros((16, 16)), ones)
    with h5py.File(result, "r+") as file:
        file["image"][...] *= np.exp(0.5j)
    coverage = measure_coverage(result, kspace)
    assert coverage.error == "magnitude"
    assert coverage.mean_coverage.within_one == 1
    assert np.isnan(coverage.mean_correlation)


def test_a_result_without_samples_has_no_calibration_and_another_object_is_refused(tmp_path):
    result, kspace = write_pair(tmp_path, np.zeros((16, 16)), None)
    assert measure_coverage(result, kspace) is None
    (tmp_path / "other").mkdir()
    result, _ = write_pair(tmp_path, np.zeros((16, 16)), np.zeros((16, 16), np.float32))
    with h5py.File(kspace, "r+") as file:
        reference = file["reference"][:, :8]
        del file["reference"]
        file["reference"] = reference
    with pytest.raises(InputError, match="smaller than the result's"):
        measure_coverage(result, kspace)


def test_evaluate_prints_the_coverage_beside_what_is_expected(cli, tmp_path):
    result, kspace = write_pair(tmp_path, np.full((16, 16), 0.015), np.full((16, 16), 0.01, np.float32))
    done = cli("evaluate", result, "--reference", kspace)
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert [
        "posterior",
        f"{expected_coverage(1, 4, False):.3f}",
        f"{expected_coverage(2, 4, False):.3f}",
    ] in lines
    assert "4 samples against the magnitude error" in done.err

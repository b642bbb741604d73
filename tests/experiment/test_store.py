"""The summary's numbers, by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from sbim_deploy.experiment.store import Result, Store, summarise, write_summary

PSNR = {"base": (20.0, 22.0, 27.0), "ours": (23.0, 24.0, 31.0)}


@pytest.fixture
def results():
    return [
        Result("equispaced", 4.0, 3.2, "simulated", index, method, 0.1, psnr, 0.8, 25.0, 0.9, 0.05, index, 0)
        for index in range(3)
        for method, psnr in ((name, values[index]) for name, values in PSNR.items())
    ]


def test_differences_are_taken_slice_by_slice(results):
    base, ours = summarise(results, "base")
    assert (base.method, ours.method) == ("base", "ours")
    assert base.scores["psnr"].difference is None
    assert ours.scores["psnr"].mean.mean == pytest.approx(26)
    assert ours.scores["psnr"].deviation == pytest.approx(np.std(PSNR["ours"], ddof=1))
    difference = ours.scores["psnr"].difference
    assert difference.mean == pytest.approx(3)
    # The differences are 3, 2 and 4: far surer than either mean.
    assert 2 <= difference.low < 3 < difference.high <= 4
    assert (ours.n_slices, ours.effective_acceleration, ours.seconds) == (3, pytest.approx(3.2), 1)


def test_one_scan_is_summarised_alone(results):
    others = [replace(result, scan="other", psnr=result.psnr + 9) for result in results]
    base, ours = summarise([*results, *others], "base", "other")
    assert (ours.scan, ours.n_slices) == ("other", 3)
    assert (base.scores["psnr"].mean.mean, ours.scores["psnr"].mean.mean) == (32, 35)
    assert summarise([*results, *others], "base")[1].scores["psnr"].mean.mean == pytest.approx(30.5)


def test_methods_on_other_slices_are_not_compared(results):
    with pytest.raises(ValueError, match="not scored on the same slices"):
        summarise(results[:-1], "base")


def test_the_summary_is_a_table(results, tmp_path):
    write_summary(tmp_path / "summary.csv", summarise(results, "base"))
    with (tmp_path / "summary.csv").open(newline="") as file:
        base, ours = csv.DictReader(file)
    assert (base["scan"], base["method"], base["psnr_difference"]) == ("", "base", "")
    assert float(ours["psnr_difference"]) == pytest.approx(3)
    assert float(ours["psnr_sd"]) == pytest.approx(np.std(PSNR["ours"], ddof=1), rel=1e-5)


def test_an_image_that_claims_a_size_without_end_counts_as_missing(tmp_path, results):
    key = results[0].key
    store = Store(tmp_path / "out", {}, [key], {key})
    image = np.ones((3, 4), np.float32)
    store.add(results[0], image)
    np.testing.assert_array_equal(store.read_image(key), image)
    (path,) = (tmp_path / "out" / "images").iterdir()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    assert store.read_image(key) is None
    assert Store(tmp_path / "out", {}, [key], {key}).pending == [key]

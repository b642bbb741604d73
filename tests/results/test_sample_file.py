import h5py
import numpy as np
import pytest

from sbim_deploy.errors import InputError
from sbim_deploy.results.provenance import PlanRecord, SamplesProvenance
from sbim_deploy.results.sample_file import open_samples, writing_samples

IMAGES = (np.arange(3 * 4 * 5) * (1 + 2j)).astype(np.complex64).reshape(3, 4, 5)
MADE = SamplesProvenance(seed=7, plan=PlanRecord("ddim", {"image": 0.0, "noise": 50.0}, ({"sigma": 50.0},)))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "samples.h5"
    with writing_samples(path, 3, (4, 5)) as writer:
        writer.write(0, IMAGES[:2])
        writer.write(2, IMAGES[2:])
        writer.finish(MADE.as_dict())
    return path


def test_samples_come_back_as_they_were_written(path):
    with open_samples(path) as samples:
        assert (samples.n_samples, samples.shape, samples.provenance) == (3, (4, 5), MADE)
        np.testing.assert_array_equal([samples.read_sample(i) for i in range(3)], IMAGES)
        with pytest.raises(InputError, match="no slice 3 in 'samples', expected 0 to 2"):
            samples.read_sample(3)


def test_samples_that_do_not_fit_on_the_disk_are_refused_before_the_first(tmp_path):
    with (
        pytest.raises(InputError, match="bytes are free, expected"),
        writing_samples(tmp_path / "s.h5", 100_000, (2**16, 2**16)),
    ):
        pytest.fail("the writer was given out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.__delitem__("samples"), "no dataset 'samples'"),
        (lambda file: file.attrs.__delitem__("provenance"), "no attribute 'provenance'"),
        (
            lambda file: file["samples"].__setitem__((1, 0, 0), np.nan),
            "slice 1 of 'samples' has 1 of 20 values",
        ),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(path, damage, message):
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(InputError, match=message), open_samples(path) as samples:
        samples.read_sample(1)

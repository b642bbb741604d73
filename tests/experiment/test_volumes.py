"""Experiments on simulated volumes: slices one by one and together, beside BART in 3-D."""

import csv
import json
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.sparse.linalg
from tiny_experiment import Page, rows_of, without_seconds

from bart_tool import needs_bart
from sbim_deploy.experiment import peers
from sbim_deploy.experiment.peers import PEERS, Peer, VolumePeer
from sbim_deploy.experiment.scans import Setting
from sbim_deploy.experiment.scores import image_scores, masked_scores
from sbim_deploy.experiment.settings import read_settings
from sbim_deploy.experiment.volumes import picture_of, undersample_volume
from sbim_deploy.mri.fourier import centred_fft, centred_ifft
from sbim_deploy.mri.metrics import nrmse, ssim
from sbim_deploy.results.result_file import open_result
from sbim_deploy.runs.simulate_volume import SimulateVolumeSettings, simulate_volume, volume_image

SMALL = {
    "dimensions": 3,
    "accelerations": [4],
    "patterns": ["caipirinha"],
    "simulate": {"size": 32, "partitions": 16, "coils": 2, "noise": 0.01},
    "slices": None,
    "tuning_slices": None,
    "volumes": [1],
    "methods": [
        {"sampler": "dds", "steps": 2},
        {"sampler": "dds", "steps": 2, "through_plane": True},
    ],
    "peers": ["zero-filled"],
    "maps": True,
}
GIVEN = SimulateVolumeSettings(32, 16, 2, 4, "caipirinha", seed=1)


@contextmanager
def undersampled(write_config, folder, **changes):
    settings = read_settings(write_config(**{**SMALL, **changes}))
    setting = Setting(settings.patterns[0], settings.accelerations[0])
    with undersample_volume(settings, setting, "simulated", settings.volumes[0], folder) as volume:
        yield volume


def test_rows_hold_what_recon_of_the_simulated_volume_gives(cli, write_config, tmp_path):
    out, scan = tmp_path / "out", tmp_path / "scan.h5"
    done = cli("experiment", write_config(**SMALL), "-o", out)
    assert done.code == 0, done.err
    rows = {row["method"]: row for row in rows_of(out)}
    assert list(rows) == ["zero-filled", "dds", "dds-through-plane"]
    effective = simulate_volume(scan, GIVEN)
    truth = np.abs(volume_image(GIVEN))
    for method, more in (("dds", ()), ("dds-through-plane", ("--through-plane",))):
        output = tmp_path / f"{method}.h5"
        words = ["--dimensions", 3, "--maps", scan, "--sampler", "dds", "--steps", 2, "--threads", 1]
        made = cli("recon", scan, "-o", output, *words, *more)
        assert made.code == 0, made.err
        with open_result(output) as result:
            image = np.stack([np.abs(result.read_image(place)) for place in range(result.n_slices)])
        row = rows[method]
        assert float(row["nrmse"]) == pytest.approx(nrmse(image, truth), rel=1e-3)
        through = nrmse(np.diff(image, axis=0), np.diff(truth, axis=0))
        assert float(row["through_plane_nrmse"]) == pytest.approx(through, rel=1e-3)
        assert float(row["effective_acceleration"]) == pytest.approx(effective, rel=1e-4)
    assert float(rows["dds-through-plane"]["nrmse"]) != float(rows["dds"]["nrmse"])
    assert not (out / "work").exists()
    with (out / "summary.csv").open(newline="") as file:
        summary = {row["method"]: row for row in csv.DictReader(file)}
    assert float(summary["dds"]["through_plane_nrmse_mean"]) == pytest.approx(through, rel=1)
    words = " ".join(Page((out / "index.html").read_text()).words.split())
    for expected in (
        "CAIPIRINHA lattices",
        "NRMSE through the plane",
        "1 simulated volume, each with a phase, noise and samples of its own (32 x 16 x 32, 2 coils",
        "simulated, volume 1",
        "1 volume",
        "seconds a volume",
    ):
        assert expected in words
    recorded = json.loads((out / "run.json").read_text())
    assert (recorded["dimensions"], recorded["method dds-through-plane"]["through_plane"]) == (3, True)
    image = np.load(next((out / "images").glob("*-dds.npy")))
    assert image.shape == (16 + 32, 32)


class VolumeStandIn:
    """A peer that darkens the measured volume the farther the weight is from 0.01; it counts and can stop."""

    def __init__(self):
        self.weights = []
        self.stop_after = None

    def as_peer(self):
        volume = VolumePeer("a stand-in in 3-D", self.solve, (0.001, 0.01))
        return Peer("a stand-in", None, (), lambda: "1.0", "nothing", None, volume)

    def solve(self, slices, weight, _threads):
        if self.stop_after is not None and len(self.weights) >= self.stop_after:
            raise KeyboardInterrupt
        self.weights.append(weight)
        images = np.stack([slices.read_kept(place).mvue for place in range(slices.n_slices)])
        return images / np.float32(1 + abs(np.log10(weight / 0.01)))


def test_a_stopped_experiment_of_volumes_goes_on(cli, write_config, monkeypatch, tmp_path):
    peer = VolumeStandIn()
    monkeypatch.setitem(peers.PEERS, "bart-l1", peer.as_peer())
    methods = [{"sampler": "dds", "steps": 1}]
    config = write_config(
        **{
            **SMALL,
            "simulate": {"size": 16, "coils": 2},
            "volumes": [0, 1],
            "tuning_volumes": [3],
            "peers": ["zero-filled", "bart-l1"],
            "methods": methods,
        }
    )
    out = tmp_path / "out"
    peer.stop_after = 3
    stopped = cli("experiment", config, "-o", out)
    assert stopped.code == 130
    assert "kept 4 results" in stopped.err
    assert not (out / "work").exists()
    (out / "work").mkdir()
    (out / "work" / "left").write_text("by a run that was killed")
    peer.stop_after = None
    done = cli("experiment", config, "-o", out)
    assert done.code == 0, done.err
    assert "going on: 4 of 6 results done" in done.err
    assert peer.weights == [0.001, 0.01, 0.01, 0.01]
    assert not (out / "work").exists()
    assert [(row["slice"], row["method"]) for row in rows_of(out)] == [
        (volume, method) for volume in "01" for method in ("zero-filled", "bart-l1", "dds")
    ]
    rows = without_seconds(out)
    assert rows[0]["psnr"] != rows[3]["psnr"]
    words = " ".join(Page((out / "index.html").read_text()).words.split())
    assert "by the least mean NRMSE on volumes 3, which are scored nowhere, from 0.001, 0.01." in words
    assert "a stand-in in 3-D, 1.0" in words
    other = cli("experiment", write_config(**{**SMALL, "elliptic": True}), "-o", out)
    assert other.code == 2
    assert "differs in elliptic (got True, expected False)" in other.error_line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimensions": 4}, "dimensions is 4, expected 2 or 3"),
        ({"slices": [0]}, "slices is of dimensions 2: expected volumes and tuning_volumes"),
        ({"volumes": None}, "lacks volumes"),
        ({"volumes": [0, 1], "tuning_volumes": [1]}, "tuning_volumes has [1], which volumes has too"),
        ({"shown_volumes": [4]}, "shown_volumes is [4]: expected some of volumes"),
        ({"patterns": ["golden"]}, "patterns has 'golden': expected one of equispaced, caipirinha, poisson"),
        ({"accelerations": [2.5]}, "accelerations has 2.5: expected whole numbers in dimensions 3"),
        ({"accelerations": [31]}, "accelerations has 31, simulate: acceleration 31 is (1, 31)"),
        ({"peers": ["sigpy-sense"]}, "peers has 'sigpy-sense', which takes no volumes: expected"),
        ({"peers": ["bart-l1"], "baseline": "dds"}, "tuning_volumes is empty: expected at least one"),
        ({"simulate": None, "kspace": ["a.h5"]}, "kspace is of dimensions 2"),
        ({"simulate": {"size": 512, "coils": 32}}, "simulate is 512 x 512 x 512 with 32 coils, 34.4 GB of k"),
        (
            {"simulate": {"size": 24, "coils": 2}},
            "methods has dds-through-plane, through_plane: simulate's size is 24, expected",
        ),
        ({"mask_convention": "published"}, "mask_convention is of lines"),
        (
            {"methods": [{"sampler": "dds", "samples": 2, "through_plane": True}]},
            "methods[0]: through_plane draws one image, and samples is 2",
        ),
        (
            {"simulate": {"objects": [{"name": "a", "phantom": "brain"}]}},
            "simulate.objects has a: phantom is 'brain', expected 'head' in dimensions 3",
        ),
        (
            {"simulate": {"objects": [{"name": "a", "volume": "a.nii", "volume_slices": [1]}]}},
            "simulate.objects has a: volume_slices and plane are of dimensions 2",
        ),
        ({"dimensions": None, "slices": [0]}, "patterns has 'caipirinha': expected one of equispaced"),
    ],
)
def test_what_does_not_go_with_volumes_is_named(cli, write_config, tmp_path, changes, message):
    path = write_config(**{**SMALL, **changes})
    done = cli("experiment", path, "-o", tmp_path / "out")
    assert done.code == 2
    assert str(path) in done.error_line
    assert message in done.error_line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elliptic": True}, "elliptic is of dimensions 3: leave it out, or give dimensions: 3"),
        ({"simulate": {"partitions": 32}}, "simulate.partitions is of dimensions 3"),
        ({"methods": [{"preset": "fast", "through_plane": True}]}, "methods has through_plane, which is of"),
        ({"volumes": [0]}, "volumes is of dimensions 3: expected slices and tuning_slices"),
        (
            {
                "claims": [
                    {"says": "x", "method": "dds", "against": "sbim", "metric": "through_plane_nrmse"},
                ]
            },
            "claims has the metric through_plane_nrmse, which is of dimensions 3",
        ),
        (
            {"simulate": {"objects": [{"name": "a", "phantom": "head"}]}},
            "simulate.objects has a: phantom is 'head', expected 'brain' or 'shepp-logan' in dimensions 2",
        ),
    ],
)
def test_what_is_of_volumes_is_refused_of_slices(cli, write_config, tmp_path, changes, message):
    path = write_config(**changes)
    done = cli("experiment", path, "-o", tmp_path / "out")
    assert done.code == 2
    assert str(path) in done.error_line
    assert message in done.error_line


def test_peers_and_patterns_of_volumes_are_those_that_take_them(write_config):
    path = write_config(**{**SMALL, "patterns": None, "peers": None, "tuning_volumes": [3]})
    settings = read_settings(path)
    assert settings.patterns == ("poisson",)
    assert settings.peers == ("zero-filled", "cg-sense", "l1-wavelet", "bart-l2", "bart-l1")
    assert settings.shown == (1,)


@needs_bart
def test_bart_solves_regularised_least_squares_in_three_dimensions(write_config, tmp_path):
    weight = 0.1
    simulation = {"size": 16, "partitions": 20, "coils": 3}
    with undersampled(write_config, tmp_path, simulate=simulation, methods=[{"preset": "fast"}]) as volume:
        problems = [volume.slices.read_kept(place) for place in range(16)]
        maps = np.stack([problem.maps for problem in problems], axis=1)
        kspace = centred_fft(np.stack([problem.kspace for problem in problems], axis=1), axes=(1,))
        mask = (kspace != 0).any(axis=(0, 1))

        def adjoint(samples):
            return np.sum(maps.conj() * centred_ifft(samples, axes=(1, 2, 3)), axis=0)

        def normal(flat):
            image = flat.reshape(maps.shape[1:]).astype(np.complex64)
            return (adjoint(mask * centred_fft(maps * image, axes=(1, 2, 3))) + weight * image).ravel()

        n = maps[0].size
        operator = scipy.sparse.linalg.LinearOperator((n, n), normal, dtype=np.complex64)
        expected, failed = scipy.sparse.linalg.cg(operator, adjoint(kspace).ravel(), rtol=1e-5, maxiter=500)
        assert failed == 0
        image = PEERS["bart-l2"].volume.solve(volume.slices, weight, 1)
    assert image.dtype == np.complex64
    expected = expected.reshape(image.shape)
    assert np.linalg.norm(image - expected) < 2e-3 * np.linalg.norm(expected)


@needs_bart
def test_bart_s_wavelets_in_three_dimensions_beat_the_measured_data(write_config, tmp_path):
    with undersampled(write_config, tmp_path, simulate={"size": 32, "partitions": 24, "coils": 3}) as volume:
        errors = {
            name: nrmse(np.abs(PEERS[name].volume.solve(volume.slices, 0.005, 1)), volume.reference)
            for name in ("zero-filled", "bart-l1")
        }
    assert errors["bart-l1"] < errors["zero-filled"] / 2


def test_a_volume_has_one_data_range_and_the_mean_of_its_slices_ssim():
    rng = np.random.default_rng(0)
    reference = rng.random((4, 16, 18), dtype=np.float32)
    reference[0] *= 0.1
    image = reference + np.float32(0.05) * rng.standard_normal(reference.shape, dtype=np.float32)
    scores = image_scores(image, reference)
    peak = reference.max()
    error = np.mean((image.astype(np.float64) - reference) ** 2)
    assert scores["psnr"] == pytest.approx(10 * np.log10(peak**2 / error), rel=1e-6)
    assert scores["ssim"] == pytest.approx(
        np.mean([ssim(*pair, float(peak)) for pair in zip(image, reference, strict=True)])
    )
    steps = [each[1:] - each[:-1] for each in (image, reference)]
    expected = np.linalg.norm(steps[0] - steps[1]) / np.linalg.norm(steps[1])
    assert scores["through_plane_nrmse"] == pytest.approx(expected, rel=1e-6)
    assert masked_scores(image[1:2], reference[1:2]) == pytest.approx(masked_scores(image[1], reference[1]))
    assert "through_plane_nrmse" not in image_scores(image[0], reference[0])


def test_a_volume_is_shown_by_its_middle_slice_above_the_cut_across_all():
    volume = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    shown = picture_of(volume)
    np.testing.assert_array_equal(shown[:3], volume[2])
    np.testing.assert_array_equal(shown[3:], volume[::-1, 1])

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from bfloat16_processor import needs_bfloat16
from sbim_deploy.errors import InputError
from sbim_deploy.kspace.fastmri import KspaceFile
from sbim_deploy.mrd.header import Encoding, Space, format_header
from sbim_deploy.mri.fourier import centre_pad, centred_fft, centred_ifft
from sbim_deploy.mri.map_choice import METHOD_NAMES
from sbim_deploy.recon.classical import Classical
from sbim_deploy.recon.reconstruct import Reconstructor
from sbim_deploy.results.result_file import ResultWriter, open_result
from sbim_deploy.results.series import derivation_of, derivation_steps
from sbim_deploy.runs.evaluate import evaluate_file
from sbim_deploy.runs.findings import how_it_was_made
from sbim_deploy.runs.info import describe
from sbim_deploy.runs.reconstruct_file import reconstruct_file
from sbim_deploy.runs.settings import ReconSettings, Undersampling
from sbim_deploy.samplers.choice import SamplerChoice

FAST = ReconSettings(choice=SamplerChoice(steps=2))


def images(path):
    with open_result(path) as result:
        return np.stack([result.read_image(i) for i in range(result.n_slices)])


def test_the_output_has_the_images_and_says_what_made_them(simulated, tmp_path):
    out = tmp_path / "out.h5"
    reconstruct_file(simulated, out, replace(FAST, slices=(1, 3)))
    with h5py.File(out) as file:
        assert file["reconstruction"].shape == (2, 64, 64)
        assert file["reconstruction"].dtype == np.float32
        assert file["image"].dtype == np.complex64
        np.testing.assert_allclose(file["reconstruction"][:], np.abs(file["image"][:]), rtol=1e-6)
        assert (file["residual"][:] < 0.3).all()
        np.testing.assert_array_equal(file["slice_index"][:], [1, 2])
        provenance = json.loads(file.attrs["provenance"])
    assert provenance["plan"]["sampler"] == "dds"
    assert len(provenance["plan"]["rows"]) == 2
    assert provenance["model"]["digest"] == describe(Path("demo"))["digest"]
    assert len(provenance["input"]["sha256"]) == 64
    assert provenance["engine"]["backend"] == provenance["backend"]
    assert provenance["engine"]["chosen"].startswith("auto")
    assert list(provenance["slice_notes"]) == ["1", "2"]
    notes = provenance["slice_notes"]["1"]
    assert notes["maps"] in METHOD_NAMES.values()
    assert 0 < notes["noise"] < 1
    assert notes["noise_source"] in ("calibration lines", "outermost samples")
    assert provenance["timings_s"]["slices"] == 2
    assert provenance["notice"] == "Research use only. Not for diagnosis."


def test_a_method_without_a_network_needs_no_model_and_says_that_it_made_the_images(
    simulated, tmp_path, monkeypatch
):
    monkeypatch.setattr("sbim_deploy.runs.reconstruct_file.load_model", None)
    out = tmp_path / "out.h5"
    provenance = reconstruct_file(simulated, out, ReconSettings(method=Classical.L1_WAVELET, slices=(1, 3)))
    with h5py.File(out) as file:
        stored = json.loads(file.attrs["provenance"])
        assert (file["residual"][:] < 0.1).all()
    assert (stored["method"], stored["backend"], stored["graph"]) == ("l1-wavelet", "numpy", None)
    assert stored["model"]["name"] is None
    assert stored["plan"]["rows"] == []
    assert provenance.maker == "l1-wavelet"
    with open_result(out) as result:
        derivation = derivation_of(result)
        assert how_it_was_made(result)["Method"] == [("Without a network", "l1-wavelet")]
    assert "l1-wavelet reconstruction, without a network" in derivation_steps(derivation)
    scores = evaluate_file(out, simulated)
    assert scores.mean_reconstruction.psnr > scores.mean_zero_filled.psnr + 3


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"samples": 2}, "samples"),
        ({"model": "mine", "threads": 2}, "model and threads"),
        ({"choice": SamplerChoice(steps=2)}, "sampler"),
        ({"backend": "openvino"}, "backend"),
        ({"graph": "score", "batch": 4}, "graph and batch"),
    ],
)
def test_what_a_method_without_a_network_would_ignore_is_refused(given, named):
    with pytest.raises(InputError, match=f"method cg-sense takes no network: leave {named} out"):
        ReconSettings(method=Classical.CG_SENSE, **given)


def test_a_slice_is_the_same_alone_in_a_batch_and_in_the_whole_volume(simulated, tmp_path):
    whole, batched, part = (tmp_path / name for name in ("a.h5", "b.h5", "c.h5"))
    reconstruct_file(simulated, whole, FAST)
    reconstruct_file(simulated, batched, replace(FAST, batch=4))
    reconstruct_file(simulated, part, replace(FAST, slices=(2, 4)))
    np.testing.assert_allclose(images(batched), images(whole), atol=3e-5)
    np.testing.assert_array_equal(images(part), images(whole)[2:])


def test_an_interrupted_run_continues_and_ends_with_the_same_file(simulated, tmp_path, monkeypatch):
    straight, resumed = tmp_path / "a.h5", tmp_path / "b.h5"
    reconstruct_file(simulated, straight, FAST)
    original = Reconstructor.__call__
    calls = []

    def interrupted(self, problems, *hooks):
        calls.append(problems[0].index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, problems, *hooks)

    monkeypatch.setattr(Reconstructor, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(simulated, resumed, FAST)
    assert not resumed.exists()
    reconstruct_file(simulated, resumed, replace(FAST, resume=True))
    assert calls == [0, 1, 2, 2, 3]
    np.testing.assert_array_equal(images(resumed), images(straight))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_samples_go_on_where_they_stopped_and_the_file_says_how_many(simulated, tmp_path, monkeypatch):
    sampled = replace(FAST, samples=3, slices=(0, 3))
    straight, resumed = tmp_path / "a.h5", tmp_path / "b.h5"
    reconstruct_file(simulated, straight, replace(sampled, batch=6))
    original = Reconstructor.__call__

    def stopped(self, problems, *hooks):
        if problems[0].index == 1:
            raise KeyboardInterrupt
        return original(self, problems, *hooks)

    with monkeypatch.context() as patch:
        patch.setattr(Reconstructor, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            reconstruct_file(simulated, resumed, sampled)
    with pytest.raises(InputError, match=r"samples \(got 2, expected 3\)"):
        reconstruct_file(simulated, resumed, replace(sampled, samples=2, resume=True))
    provenance = reconstruct_file(simulated, resumed, replace(sampled, resume=True))
    assert (provenance.samples, provenance.timings_s.slices) == (3, 2)
    np.testing.assert_allclose(images(resumed), images(straight), atol=1e-5)
    with open_result(straight) as a, open_result(resumed) as b:
        for position in range(3):
            deviation = a.read_standard_deviation(position)
            assert deviation.mean() > 0
            np.testing.assert_allclose(deviation, b.read_standard_deviation(position), atol=1e-5)
    description = describe(resumed)
    assert (description["samples"], description["standard_deviation"]) == (3, "in the file")


def test_a_run_that_was_killed_before_its_last_step_is_finished(simulated, tmp_path, monkeypatch):
    def killed(self, provenance):
        raise KeyboardInterrupt

    out = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(
            ResultWriter, "finish", lambda self, provenance: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            reconstruct_file(simulated, out, FAST)
    provenance = reconstruct_file(simulated, out, replace(FAST, resume=True))
    assert provenance.timings_s.slices == 0
    assert provenance.measured.acceleration == pytest.approx(64 / 35)
    assert images(out).shape == (4, 64, 64)


def test_maps_of_the_rows_that_are_kept_will_do(simulated, tmp_path):
    oversampled, maps_file = tmp_path / "k.h5", tmp_path / "maps.h5"
    with h5py.File(simulated) as source, h5py.File(oversampled, "w") as file:
        rows = centred_ifft(source["kspace"][:], axes=(-2,))
        file["kspace"] = centred_fft(centre_pad(rows, (128, 64)), axes=(-2,)).astype(np.complex64)
        space = Space((64, 64, 1), (220.0, 220.0, 5.0))
        file["ismrmrd_header"] = format_header(Encoding(Space((128, 64, 1), (440.0, 220.0, 5.0)), space))
        maps = source["s_maps"][:]
    with h5py.File(maps_file, "w") as file:
        file["s_maps"] = maps
    cropped, plain = tmp_path / "a.h5", tmp_path / "b.h5"
    # The noise is given, since that of a field of view half of which is empty is measured elsewhere.
    reconstruct_file(oversampled, cropped, replace(FAST, maps=maps_file, noise=0.01))
    reconstruct_file(simulated, plain, replace(FAST, maps=simulated, noise=0.01))
    np.testing.assert_allclose(images(cropped), images(plain), atol=1e-4)


def test_a_run_of_another_seed_is_not_continued(simulated, tmp_path):
    out = tmp_path / "out.h5"
    reconstruct_file(simulated, out, FAST)
    with pytest.raises(InputError, match=r"differs in seed \(got 1, expected 0\)"):
        reconstruct_file(simulated, out, replace(FAST, seed=1, resume=True))


@needs_bfloat16
def test_a_result_that_was_begun_in_fp32_is_not_continued_in_bfloat16(simulated, tmp_path):
    out = tmp_path / "out.h5"
    settings = replace(FAST, backend="openvino", slices=(0, 1))
    reconstruct_file(simulated, out, settings)
    expected = images(out)
    with pytest.raises(InputError, match=r"differs in backend \(got 'openvino-bf16', expected 'openvino'\)"):
        reconstruct_file(simulated, out, replace(settings, precision="bf16", resume=True))
    provenance = reconstruct_file(simulated, out, replace(settings, precision="bf16", force=True))
    assert provenance.backend == "openvino-bf16"
    assert provenance.engine["chosen"] == "precision bf16 was asked for"
    assert provenance.engine["convolutions"].endswith("bf16")
    error = np.linalg.norm(images(out) - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 1e-2


def test_a_precision_that_is_none_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="unknown precision 'half': expected one of fp32, bf16, auto"):
        ReconSettings(precision="half")
    with pytest.raises(InputError, match="method cg-sense takes no network: leave precision out"):
        ReconSettings(precision="bf16", method=Classical.CG_SENSE)


def test_progress_hears_of_every_row_of_every_slice(simulated, tmp_path):
    heard = []

    class Progress:
        def started(self, n_slices, n_done, n_calls, engine):
            heard.append((n_slices, n_done, n_calls))

        def advanced(self, n_slices):
            heard.append(n_slices)

        def left_out(self, reason):
            pytest.fail(reason)

    reconstruct_file(simulated, tmp_path / "out.h5", replace(FAST, batch=3), Progress())
    assert heard == [(4, 0, 2), 3, 3, 1, 1]
    heard.clear()
    settings = replace(FAST, batch=2, samples=3, slices=(0, 1), graph="reconstruct", force=True)
    reconstruct_file(simulated, tmp_path / "out.h5", settings, Progress())
    assert heard == [(1, 0, 8), 4, 2, 2]


@pytest.fixture
def damaged(simulated, tmp_path):
    """Four slices: values of the second are not finite."""
    path = tmp_path / "damaged.h5"
    shutil.copy(simulated, path)
    with h5py.File(path, "a") as file:
        file["kspace"][1, 0, 3, 3] = np.nan
    return path


def test_a_slice_that_cannot_be_read_does_not_stop_the_others_and_resume_writes_them(
    simulated, damaged, tmp_path
):
    out = tmp_path / "out.h5"
    heard = []

    class Progress:
        def started(self, *_):
            pass

        def advanced(self, n_calls):
            heard.append(n_calls)

        def left_out(self, reason):
            heard.append(reason)

    message = (
        r"1 of 4 slices cannot be read \(slice 1 of 'kspace' has 1 of .* the other 3 are finished and kept"
    )
    with pytest.raises(InputError, match=message):
        reconstruct_file(damaged, out, FAST, Progress())
    assert heard[:2] == [1, 1]
    assert "slice 1 of 'kspace'" in heard[2]  # at once, not at the end
    assert heard[3:] == [1, 1, 1, 1]
    assert not out.exists()
    provenance = reconstruct_file(damaged, out, replace(FAST, resume=True))
    assert list(provenance.left_out) == ["1"]
    assert provenance.timings_s.slices == 0
    with open_result(out) as result:
        assert result.slice_indices == (0, 2, 3)
        assert result.provenance.left_out == provenance.left_out
    whole = tmp_path / "whole.h5"
    reconstruct_file(simulated, whole, FAST)
    np.testing.assert_array_equal(images(out), images(whole)[[0, 2, 3]])


def test_what_is_complete_but_for_slices_left_out_is_not_begun_anew(damaged, tmp_path, monkeypatch):
    out = tmp_path / "out.h5"
    with pytest.raises(InputError, match="cannot be read"):
        reconstruct_file(damaged, out, FAST)
    reconstruct_file(damaged, out, replace(FAST, resume=True))
    before = out.read_bytes()
    monkeypatch.setattr(Reconstructor, "__call__", lambda *_: pytest.fail("a slice is made again"))
    reconstruct_file(damaged, out, replace(FAST, resume=True))
    assert out.read_bytes() == before


def test_a_run_of_which_no_slice_can_be_read_leaves_nothing(damaged, tmp_path):
    with pytest.raises(InputError, match="slice 1 of 'kspace'"):
        reconstruct_file(damaged, tmp_path / "out.h5", replace(FAST, slices=(1, 2)))
    assert list(tmp_path.iterdir()) == [damaged]


def test_the_input_is_opened_once_and_each_slice_is_read_once(simulated, tmp_path, monkeypatch):
    opened, read = [], []
    make, read_slice = KspaceFile.__init__, KspaceFile.read_slice
    monkeypatch.setattr(KspaceFile, "__init__", lambda *given: (opened.append(1), make(*given))[1])
    monkeypatch.setattr(
        KspaceFile, "read_slice", lambda self, index: (read.append(index), read_slice(self, index))[1]
    )
    reconstruct_file(simulated, tmp_path / "out.h5", replace(FAST, batch=2))
    assert (opened, read) == ([1], [0, 1, 2, 3])


def test_maps_can_come_from_a_file(simulated, tmp_path):
    provenance = reconstruct_file(
        simulated, tmp_path / "out.h5", replace(FAST, maps=simulated, slices=(0, 1))
    )
    assert provenance.sources("maps") == "given"
    assert provenance.maps.name == simulated.name


def test_undersampling_takes_lines_away(simulated, tmp_path):
    wanted = Undersampling("random", 3.0, "published")
    settings = replace(FAST, maps=simulated, undersampling=wanted, slices=(0, 1))
    provenance = reconstruct_file(simulated, tmp_path / "out.h5", settings)
    assert provenance.measured.acceleration > 3
    assert asdict(provenance.undersampling) == asdict(wanted)


@pytest.mark.parametrize("bounds", [(0, 5), (2, 2), (3, 1), (-1, 2)])
def test_slices_outside_the_file_are_refused(simulated, tmp_path, bounds):
    with pytest.raises(InputError, match="expected a range within 0:4"):
        reconstruct_file(simulated, tmp_path / "out.h5", replace(FAST, slices=bounds))
    assert list(tmp_path.iterdir()) == []


def test_evaluation_matches_slices_by_their_number_and_scores_zero_filling_beside(simulated, tmp_path):
    out = tmp_path / "out.h5"
    reconstruct_file(simulated, out, replace(FAST, choice=SamplerChoice(steps=16), slices=(2, 4)))
    evaluation = evaluate_file(out, simulated)
    assert [each.index for each in evaluation.slices] == [2, 3]
    mean = evaluation.mean_reconstruction
    assert mean.psnr > evaluation.mean_zero_filled.psnr + 3
    assert mean.psnr == pytest.approx(np.mean([each.reconstruction.psnr for each in evaluation.slices]))
    assert mean.nrmse < evaluation.mean_zero_filled.nrmse


def test_a_mask_leaves_out_what_the_reference_does_not_have(simulated, tmp_path):
    out = tmp_path / "out.h5"
    reconstruct_file(simulated, out, replace(FAST, slices=(0, 1)))
    plain, masked = (evaluate_file(out, simulated, fraction).mean_reconstruction for fraction in (0.0, 0.05))
    assert masked.psnr > plain.psnr
    assert masked.ssim > plain.ssim
    with pytest.raises(InputError, match="the mask's fraction is 1"):
        evaluate_file(out, simulated, 1.0)


def test_a_reference_of_another_object_is_refused(simulated, tmp_path):
    out, other = tmp_path / "out.h5", tmp_path / "other.h5"
    reconstruct_file(simulated, out, replace(FAST, slices=(0, 1)))
    with h5py.File(simulated) as source, h5py.File(other, "w") as file:
        file["kspace"] = source["kspace"][:]
        file["reference"] = source["reference"][:, :32, :32]
    with pytest.raises(InputError, match="smaller than the result's"):
        evaluate_file(out, other)


def test_whatever_it_is_info_says_so(simulated, tmp_path):
    out = tmp_path / "out.h5"
    reconstruct_file(simulated, out, replace(FAST, slices=(0, 1)))
    scan, result, model = (describe(path) for path in (simulated, out, Path("demo")))
    assert (scan["kind"], scan["coils"], scan["maps"], scan["reference"]) == (
        "k-space",
        4,
        "in the file",
        "reference",
    )
    assert scan["acceleration"] == pytest.approx(1.83, abs=0.01)
    assert (result["kind"], result["sampler"], result["network_calls"]) == ("reconstruction", "dds", 2)
    assert (model["kind"], model["weights"], model["checksums"]) == ("model", "EMA", "match")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["data"] = [1]
    with pytest.raises(InputError, match="neither k-space nor images: its datasets are data"):
        describe(other)

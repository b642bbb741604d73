from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hdf5_samples import complex_noise
from sbim_deploy.errors import InputError
from sbim_deploy.results.partial import begin_run, partial_folder, run_hash
from sbim_deploy.results.result_file import ResultWriter, open_result

IDENTITY = {"model": "abc", "seed": 3, "slices": (4, 2, 9), "plan": {"levels": [0, 1, 2]}}
SLICES = (4, 2, 9)


def image_of(index: int) -> np.ndarray[Any, np.dtype[np.complex64]]:
    return complex_noise((5, 7), index)


def write(writer: ResultWriter, indices: Iterable[int]) -> None:
    for index in indices:
        writer.write(index, image_of(index), 0.5 * image_of(index), residual=index / 100)


def finish(
    path: Path, resume: bool = False, identity: dict[str, Any] = IDENTITY, force: bool = False
) -> None:
    with ResultWriter(path, identity, SLICES, resume, force) as writer:
        write(writer, writer.pending)
        writer.finish({"backend": "test"})


def interrupt(path: Path, n_done: int = 2) -> None:
    with ResultWriter(path, IDENTITY, SLICES, resume=False) as writer:
        write(writer, SLICES[:n_done])
        raise KeyboardInterrupt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


@pytest.fixture
def partial(path: Path) -> Path:
    """An interrupted run: two of three slices are done."""
    with pytest.raises(KeyboardInterrupt):
        interrupt(path)
    return path.with_name(".out.h5.partial")


def assert_whole(path: Path) -> None:
    with open_result(path) as result:
        assert (result.n_slices, result.shape, result.slice_indices) == (3, (5, 7), SLICES)
        for position, index in enumerate(SLICES):
            np.testing.assert_array_equal(result.read_image(position), image_of(index))
            np.testing.assert_array_equal(result.read_zero_filled(position), np.abs(image_of(index) / 2))
        np.testing.assert_array_equal(result.residual, np.float32([0.04, 0.02, 0.09]))
    assert [each.name for each in path.parent.iterdir()] == ["out.h5"]


def test_finished_run_reads_back_in_the_order_given(path: Path) -> None:
    finish(path)
    assert_whole(path)
    with open_result(path) as result:
        assert result.provenance.backend == "test"
        assert result.identity == {**IDENTITY, "slices": [4, 2, 9]}


def test_output_holds_magnitudes_and_slice_indices(path: Path) -> None:
    finish(path)
    with h5py.File(path) as file:
        assert (file["reconstruction"].dtype, file["image"].dtype) == (np.float32, np.complex64)
        assert file["zero_filled"].dtype == np.float32
        assert (file["residual"].dtype, file["slice_index"].dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(file["reconstruction"][1], np.abs(image_of(2)))


def test_a_standard_deviation_is_kept_with_the_number_of_samples(path: Path) -> None:
    identity, deviation = {**IDENTITY, "samples": 4}, np.arange(35, dtype=np.float32).reshape(5, 7)
    with ResultWriter(path, identity, (0, 1), resume=False) as writer:
        writer.write(0, image_of(0), image_of(0), 0.0, deviation)
    with ResultWriter(path, identity, (0, 1), resume=True) as writer:
        assert writer.pending == (1,)
        with pytest.raises(ValueError, match="that others lack"):
            writer.write(1, image_of(1), image_of(1), 0.0)
        with pytest.raises(ValueError, match=r"not float32 \(5, 7\)"):
            writer.write(1, image_of(1), image_of(1), 0.0, deviation[:2])
        writer.write(1, image_of(1), image_of(1), 0.0, 2 * deviation)
        writer.finish({})
    with open_result(path) as result:
        assert (result.samples, result.has_standard_deviation) == (4, True)
        for position in (0, 1):
            np.testing.assert_array_equal(
                result.read_standard_deviation(position), (position + 1) * deviation
            )


def test_a_result_of_one_sample_has_no_standard_deviation(path: Path) -> None:
    finish(path)
    with open_result(path) as result:
        assert (result.samples, result.has_standard_deviation) == (1, False)
        with pytest.raises(InputError, match="--samples 2"):
            result.read_standard_deviation(0)


@pytest.mark.parametrize("samples", [1, "4", None])
def test_a_standard_deviation_of_no_number_of_samples_is_refused(path: Path, samples: Any) -> None:
    with ResultWriter(path, {"samples": samples}, (0,), resume=False) as writer:
        writer.write(0, image_of(0), image_of(0), 0.0, np.zeros((5, 7), np.float32))
        writer.finish({})
    with pytest.raises(InputError, match="'identity' has samples"):
        open_result(path)


def test_provenance_of_a_megabyte_is_kept(path: Path) -> None:
    steps = [{"level": level, "sigma": level / 7, "note": "x" * 200} for level in range(4000)]
    with ResultWriter(path, IDENTITY, (0,), resume=False) as writer:
        write(writer, (0,))
        writer.finish({"plan": {"rows": steps}})
    with open_result(path) as result:
        assert result.provenance.plan.rows == tuple(steps)


def test_interrupted_run_resumes_where_it_stopped(path: Path, partial: Path) -> None:
    assert partial.is_dir()
    assert not path.exists()
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == (9,)
        write(writer, writer.pending)
        assert writer.pending == ()
        writer.finish({})
    assert_whole(path)


def test_finished_slices_are_not_thrown_away_in_silence(path: Path, partial: Path) -> None:
    before = sorted(each.name for each in partial.iterdir())
    with pytest.raises(InputError, match="has 2 finished slices of a stopped run; --resume goes on"):
        ResultWriter(path, {"seed": 4}, SLICES, resume=False)
    assert sorted(each.name for each in partial.iterdir()) == before


def test_forced_run_starts_over(path: Path, partial: Path) -> None:
    with ResultWriter(path, {"seed": 4}, SLICES, resume=False, force=True) as writer:
        assert writer.pending == SLICES
        assert [each.name for each in partial.iterdir()] == ["run.json"]
        write(writer, SLICES)
        writer.finish({})
    assert_whole(path)


def test_resume_without_anything_starts_from_the_beginning(path: Path) -> None:
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == SLICES
    finish(path, resume=True)
    assert_whole(path)


def test_resume_of_a_finished_run_has_nothing_to_do(path: Path) -> None:
    finish(path)
    before = path.read_bytes()
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == ()
        writer.finish({"engine": "another"})
    assert path.read_bytes() == before
    assert_whole(path)


def test_a_run_that_was_killed_once_its_result_had_its_name_is_finished(path: Path) -> None:
    finish(path)
    before = path.read_bytes()
    begin_run(path, IDENTITY)
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == ()
        writer.finish({})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_that_is_there_is_replaced_only_by_force(path: Path, resume: bool) -> None:
    path.write_text("something else")
    with pytest.raises(InputError, match="is there already; give --force"):
        finish(path, resume)
    assert path.read_text() == "something else"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    finish(path, resume, force=True)
    assert_whole(path)
    with pytest.raises(InputError, match="--resume if it is of the same run"):
        finish(path)
    finish(path, force=True)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}, {"resume": True, "force": True}])
def test_a_scan_is_never_replaced_by_a_result(path: Path, options: dict[str, bool]) -> None:
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((1, 2, 4, 4), np.complex64)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"is there already|holds k-space"):
        finish(path, **options)
    assert path.read_bytes() == before


def test_a_scan_that_appears_meanwhile_is_left_alone(path: Path, partial: Path) -> None:
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        write(writer, writer.pending)
        path.write_text("a scan")
        with pytest.raises(InputError, match="is there already"):
            writer.finish({})
    assert path.read_text() == "a scan"
    assert partial.is_dir()


@pytest.mark.usefixtures("partial")
def test_resume_of_another_run_names_what_differs(path: Path) -> None:
    other = {**IDENTITY, "seed": 5, "plan": {"levels": list(range(1000))}, "extra": 1}
    with pytest.raises(InputError) as caught:
        ResultWriter(path, other, SLICES, resume=True)
    message = str(caught.value)
    assert "seed (got 5, expected 3)" in message
    assert "extra (got 1, expected None)" in message
    assert "plan" in message
    assert "model" not in message
    assert "start over with --force in place of --resume" in message
    assert len(message) < 600
    finish(path, resume=True)
    assert_whole(path)


def test_resume_over_the_output_of_another_run_is_refused(path: Path) -> None:
    finish(path)
    with pytest.raises(InputError, match=r"seed \(got 5, expected 3\)"):
        ResultWriter(path, {**IDENTITY, "seed": 5}, SLICES, resume=True)
    assert_whole(path)


@pytest.mark.parametrize("kept", [0, 50, 400])
def test_truncated_slice_is_done_again(path: Path, partial: Path, kept: int) -> None:
    damaged = partial / "slice_000002.npz"
    damaged.write_bytes(damaged.read_bytes()[:kept])
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == (2, 9)
        write(writer, writer.pending)
        writer.finish({})
    assert_whole(path)


def test_flipped_byte_in_a_slice_is_noticed(path: Path, partial: Path) -> None:
    damaged = partial / "slice_000002.npz"
    content = bytearray(damaged.read_bytes())
    content[250] ^= 1
    damaged.write_bytes(content)
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == (2, 9)


def test_slices_of_another_run_are_not_taken_for_this_one_s(path: Path, partial: Path) -> None:
    other = path.with_name("other.h5")
    with ResultWriter(other, {"seed": 4}, SLICES, resume=False) as writer:
        write(writer, SLICES)
        shutil.copy(partial_folder(other) / "slice_000002.npz", partial)
        with ResultWriter(path, IDENTITY, SLICES, resume=True) as ours:
            assert ours.pending == (2, 9)
            write(ours, ours.pending)
            shutil.copy(partial_folder(other) / "slice_000009.npz", partial)
            with pytest.raises(InputError, match=r"slice_000009\.npz: is damaged or another run's"):
                ours.finish({})
    assert not path.exists()


def test_a_run_whose_folder_another_has_taken_neither_adds_to_it_nor_ends_well(path: Path) -> None:
    with ResultWriter(path, IDENTITY, SLICES, resume=False) as first:
        write(first, SLICES[:2])
        with ResultWriter(path, {"seed": 4}, SLICES, resume=False, force=True) as second:
            with pytest.raises(InputError, match="belongs to another run by now, or is gone"):
                write(first, SLICES[2:])
            assert second.pending == SLICES
            write(second, SLICES)
            first._done = set(SLICES)
            with pytest.raises(InputError, match="belongs to another run by now, or is gone"):
                first.finish({})
            second.finish({})
    with open_result(path) as result:
        assert result.identity == {"seed": 4}


HUGE = {"descr": "<c8", "fortran_order": False, "shape": (10**6, 10**6)}


def test_a_slice_that_claims_a_terabyte_or_is_not_finite_is_done_again(path: Path, partial: Path) -> None:
    slices = [partial / f"slice_{index:06d}.npz" for index in SLICES[:2]]
    with np.load(slices[0]) as stored:
        arrays = dict(stored)
    with zipfile.ZipFile(slices[0], "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                if name == "image":
                    np.lib.format.write_array_header_1_0(member, HUGE)
                else:
                    np.lib.format.write_array(member, array)
    arrays["image"][0, 0] = np.nan
    arrays["run"] = np.array(run_hash(IDENTITY))
    np.savez(slices[1], **arrays)
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == SLICES


def test_slices_of_another_size_are_said_in_one_line(path: Path, partial: Path) -> None:
    small = {"image": np.ones((2, 2), np.complex64), "zero_filled": np.ones((2, 2), np.float32)}
    with np.load(partial / f"slice_{SLICES[0]:06d}.npz") as stored:
        arrays = {**stored, **small}
    np.savez(partial / f"slice_{SLICES[0]:06d}.npz", **arrays)
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == SLICES[1:]
        with pytest.raises(InputError, match=r"its slices are \(2, 2\), and this run's are .*--force"):
            write(writer, writer.pending)


def test_pickled_slice_is_not_loaded(path: Path, partial: Path) -> None:
    np.savez(partial / "slice_000002.npz", image=np.array([print], object), zero_filled=0, residual=0)
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == (2, 9)


def test_damaged_run_record_is_refused_and_missing_one_starts_over(path: Path, partial: Path) -> None:
    (partial / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: is not JSON"):
        ResultWriter(path, IDENTITY, SLICES, resume=True)
    (partial / "run.json").unlink()
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        assert writer.pending == SLICES


def test_slice_damaged_before_the_end_is_named(path: Path, partial: Path) -> None:
    with ResultWriter(path, IDENTITY, SLICES, resume=True) as writer:
        write(writer, writer.pending)
        (partial / "slice_000004.npz").write_bytes(b"")
        with pytest.raises(InputError, match="slice_000004"):
            writer.finish({})
    assert not path.exists()
    finish(path, resume=True)
    assert_whole(path)


def test_run_that_fails_before_its_first_slice_leaves_nothing(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(path, n_done=0)
    assert not list(path.parent.iterdir())


def test_wrong_slices_and_images_are_refused(path: Path) -> None:
    for indices in ((), (1, 1)):
        with pytest.raises(InputError, match="expected at least one, none twice"):
            ResultWriter(path, IDENTITY, indices, resume=False)
    with ResultWriter(path, IDENTITY, SLICES, resume=False) as writer:
        with pytest.raises(ValueError, match="slice 5"):
            writer.write(5, image_of(5), image_of(5), 0.0)
        with pytest.raises(ValueError, match="complex128"):
            writer.write(4, image_of(4).astype(np.complex128), image_of(4), 0.0)  # type: ignore[arg-type]
        write(writer, (4,))
        with pytest.raises(ValueError, match=r"expected complex64 \(5, 7\)"):
            writer.write(2, image_of(2)[1:], image_of(2), 0.0)
        with pytest.raises(ValueError, match=r"\(2, 9\) are not written"):
            writer.finish({})


def test_unwritable_output_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ResultWriter(tmp_path / "none" / "out.h5", IDENTITY, SLICES, resume=False)
    with pytest.raises(InputError, match="is a folder"):
        ResultWriter(tmp_path, IDENTITY, SLICES, resume=False)


def test_partial_folder_in_the_way_is_refused(path: Path) -> None:
    path.with_name(".out.h5.partial").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be removed"):
        ResultWriter(path, IDENTITY, SLICES, resume=False)


KILLED = """
import sys
from pathlib import Path
import numpy as np
from sbim_deploy.results.result_file import ResultWriter

with ResultWriter(Path(sys.argv[1]), {"seed": 1}, range(3000), resume=False) as writer:
    for index in range(3000):
        image = np.full((64, 64), index, np.complex64)
        writer.write(index, image, image, 0.0)
        print(index, flush=True)
"""


def test_killed_run_leaves_only_whole_slices(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert not path.exists()
    with ResultWriter(path, {"seed": 1}, range(3000), resume=True) as writer:
        first = writer.pending[0]
        assert first >= 20
        assert writer.pending == tuple(range(first, 3000))


@pytest.mark.parametrize(
    "missing", ["image", "zero_filled", "residual", "slice_index", "identity", "provenance"]
)
def test_result_that_lacks_a_part_is_refused(path: Path, missing: str) -> None:
    finish(path)
    with h5py.File(path, "r+") as file:
        del (file if missing in file else file.attrs)[missing]
    with pytest.raises(InputError, match=missing):
        open_result(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("image", np.zeros((3, 5, 7), np.float32)),
        ("image", np.zeros((5, 7), np.complex64)),
        ("zero_filled", np.zeros((3, 5, 7), np.complex64)),
        ("zero_filled", np.zeros((3, 5, 6), np.float32)),
        ("standard_deviation", np.zeros((3, 5, 6), np.float32)),
        ("standard_deviation", np.zeros((3, 5, 7), np.complex64)),
        ("residual", np.zeros(2, np.float32)),
        ("slice_index", np.zeros(3, np.float32)),
    ],
)
def test_result_with_a_part_of_another_kind_is_refused(path: Path, name: str, values: Any) -> None:
    finish(path)
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        file[name] = values
    with pytest.raises(InputError, match=name):
        open_result(path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}', "[" * 100_000, 3])
def test_result_with_damaged_provenance_is_refused(path: Path, text: Any) -> None:
    finish(path)
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = text
    with pytest.raises(InputError, match="'provenance'"):
        open_result(path)


def test_truncated_result_and_missing_position_are_refused(path: Path) -> None:
    finish(path)
    with open_result(path) as result, pytest.raises(InputError, match="expected 0 to 2"):
        result.read_image(3)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="truncated"):
        open_result(path)


def test_images_that_were_never_written_are_not_counted_for_ever(path: Path) -> None:
    n_slices = 2**32
    with h5py.File(path, "w") as file:
        for name, dtype in (("image", "c8"), ("zero_filled", "f4")):
            file.create_dataset(name, (n_slices, 5, 7), dtype, chunks=(1, 5, 7))
    with pytest.raises(InputError, match=rf"has {n_slices} images, expected at most 1048576"):
        open_result(path)
